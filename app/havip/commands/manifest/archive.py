"""The chart, packed as `helm package` does, but into the same bytes by everybody."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

# What people read; each server would carry it for nothing.
_NOT_NEEDED = frozenset({"README.md", "app-readme.md", "questions.yaml", "icon.svg", ".helmignore"})


def files(chart: Path) -> dict[str, bytes]:
    """The files of a chart's directory that Helm needs, by their names in the archive.

    Raises:
        OSError: it cannot be read.
    """
    return {
        f"havip/{path.relative_to(chart).as_posix()}": path.read_bytes()
        for path in sorted(chart.rglob("*"))
        if path.is_file() and path.name not in _NOT_NEEDED
    }


def packed(content: Mapping[str, bytes]) -> bytes:
    """A gzipped tar archive that says nothing of when and by whom it was made."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def unpacked(content: bytes) -> dict[str, bytes]:
    """The files in an archive.

    Raises:
        tarfile.TarError, OSError, EOFError: it is none.
    """
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        found = {entry.name: archive.extractfile(entry) for entry in archive.getmembers()}
        return {name: file.read() for name, file in found.items() if file is not None}
