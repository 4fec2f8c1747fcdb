"""A ConfigMap or a Secret as Kubernetes mounts it into a pod."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Volume:
    """A directory whose files are links to links, and change all at once.

    `directory/NAME` leads to `..data/NAME`, and `..data` to the directory of one version. A change
    makes another directory and renames another `..data` over the old one (kubelet's AtomicWriter),
    so that nobody reads one file of the old version and one of the new.
    """

    def __init__(self, directory: Path, files: Mapping[str, str]) -> None:
        """
        Args:
            files: content by name; the names stay the same for good.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._version = 0
        self.change(files)
        for name in files:
            self.path(name).symlink_to(f"..data/{name}")

    def path(self, name: str) -> Path:
        """Of a file, as a pod names it."""
        return self.directory / name

    def change(self, files: Mapping[str, str]) -> None:
        """Another version, complete."""
        self._version += 1
        version = self.directory / f"..{self._version}"
        version.mkdir()
        for name, text in files.items():
            file = version / name
            file.write_text(text, encoding="utf-8")
            file.chmod(0o400)
        link = self.directory / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.directory / "..data")
