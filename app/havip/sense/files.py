"""Whether the files that the configuration was read from have changed since.

It is found by asking every two seconds what a name leads to, not by inotify. A volume of Kubernetes
swaps a symbolic link two levels above the file, an editor renames another file over it, and a
network file system tells nobody: for watches that is three cases, each with its gap, and for a look
at the file behind the name it is one. Nobody needs to know sooner.
"""

from __future__ import annotations

from havip.files import identity


class FileWatch:
    """Remembers files as they were when they were read."""

    def __init__(self) -> None:
        self._read: dict[str, object] = {}
        self._last_seen: dict[str, object] = {}

    def note(self, path: str) -> None:
        """To be called before the file is read, the first time: what changes then is news."""
        self._read.setdefault(path, identity(path))

    def joined(self, newer: FileWatch) -> FileWatch:
        """A watch of the files of both, which takes those of both as they were in `newer`."""
        both = FileWatch()
        both._read = self._read | newer._read
        return both

    def look(self) -> list[str]:
        """The files that have changed, once they have lain still from one look to the next.

        An editor that writes into the file, rather than over its name, is not read half-way. May
        block as long as a network file system does.
        """
        seen = {path: identity(path) for path in self._read}
        is_still = seen == self._last_seen
        self._last_seen = seen
        return [path for path in seen if is_still and seen[path] != self._read[path]]
