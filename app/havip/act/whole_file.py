"""Files that are replaced as a whole: a power cut leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write the file, which everybody may read; its directory is made if it is missing.

    Raises:
        OSError: it cannot be written; the former one is there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    # One that a power cut left, or that others who may write to this directory have put there: a
    # FIFO that nobody reads, or another name of a file that is not theirs to write.
    new.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Whatever the umask is. By its descriptor: in a directory that others may write to,
            # the name could be somebody else's by then.
            os.fchmod(descriptor, 0o644)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
