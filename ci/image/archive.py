"""An image as `docker save` writes it, read without unpacking it."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any


class Image:
    """The one image in an archive.

    Attributes:
        reference: name and tag.
        id: digest of the configuration, which names each layer by its digest.
        config: what the configuration says.
        files: path without a leading slash → the last layer's entry for it.
        layer_sizes: bytes unpacked and bytes compressed of each layer.
    """

    def __init__(self, archive: Path) -> None:
        self._layers: list[tarfile.TarFile] = []
        self._layer_of: dict[str, tarfile.TarFile] = {}
        self.files: dict[str, tarfile.TarInfo] = {}
        self.layer_sizes: list[tuple[int, int]] = []
        with tarfile.open(archive) as outer:
            (entry,) = json.loads(_read(outer, "manifest.json"))
            (self.reference,) = entry["RepoTags"]
            self.id: str = "sha256:" + entry["Config"].removesuffix(".json")
            self.config: dict[str, Any] = json.loads(_read(outer, entry["Config"]))
            for name in entry["Layers"]:
                data = _read(outer, name)
                compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
                compressed = len(compressor.compress(data)) + len(compressor.flush())
                layer = tarfile.TarFile(fileobj=io.BytesIO(data))
                unpacked = 0
                for member in layer:
                    path = member.name.removeprefix("./").rstrip("/")
                    self.files[path] = member
                    self._layer_of[path] = layer
                    unpacked += member.size
                self.layer_sizes.append((unpacked, compressed))

    def read(self, path: str) -> bytes:
        """A file's content; hard links are followed, symbolic ones are not."""
        return _read(self._layer_of[path], self.files[path])

    def extract(self, directory: Path) -> None:
        """Unpack it, as root, with all that it says about owners and modes."""
        for layer in dict.fromkeys(self._layer_of.values()):
            layer.extractall(directory, filter="fully_trusted")


def _read(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, f"{member} is no file"
    return file.read()
