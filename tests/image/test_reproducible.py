"""The same source and the same packages give the same bytes, wherever and whenever it is built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import NATIVE, ROOT, build


@pytest.mark.timeout(1800)
def test_another_base_and_another_checkout_give_the_same_bytes(
    archive: Path, tmp_path: Path
) -> None:
    # As Docker's Debian images are made: other packages than in ours, and /usr merged by perl.
    base = tmp_path / "base.tar"
    subprocess.run(
        ("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "bookworm", str(base)),
        stdin=subprocess.DEVNULL,
        check=True,
    )
    directory = tmp_path / "image"
    buildah = ("buildah", "--root", str(directory / "store"))
    buildah += ("--runroot", str(directory / "store.run"))
    container = output(*buildah, "from", "scratch")
    output(*buildah, "add", "--quiet", container, str(base), "/")
    # What a base must not be able to leave in the image.
    for path in ("/usr/lib/python3/dist-packages/other.pth", "/etc/ld.so.preload"):
        output(*buildah, "copy", "--quiet", container, "/dev/null", path)
    output(*buildah, "commit", "--quiet", "--rm", container, "localhost/other-base")

    source = tmp_path / "checkout"
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    subprocess.run(("chmod", "--recursive", "go=", str(source)), check=True)
    certificates = tmp_path / "ca.pem"
    certificates.write_text(
        Path("/etc/ssl/certs/ca-certificates.crt").read_text() + "# Another machine's.\n"
    )
    other = build(
        NATIVE,
        directory,
        source=source,
        BASE="localhost/other-base",
        CA_BUNDLE=str(certificates),
        TZ="Pacific/Auckland",
        LC_ALL="C",
    )
    assert other.read_bytes() == archive.read_bytes()


def ignored(directory: str, names: list[str]) -> set[str]:
    """What is no part of the source: at its top, what .gitignore names."""
    wanted = {".ci", ".dockerignore", ".git", ".gitignore"}
    if Path(directory) != ROOT:
        return {"__pycache__"}
    return {name for name in names if name == "build" or name[0] == "."} - wanted


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
