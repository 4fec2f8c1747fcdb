"""Opening files that the configuration names, none of which may hold the daemon up."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str) -> BinaryIO:
    """The file, for reading; symbolic links are followed.

    Raises:
        OSError: as of `open`, or with EINVAL because it is no regular file. A FIFO waits for
            somebody to write, a terminal for somebody to type, a device is without end.
    """
    # Before it is opened too, since that alone makes some devices act (tapes, watchdogs).
    _require_regular(os.stat(path))  # noqa: PTH116
    file = open(  # noqa: SIM115
        path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
    )
    try:
        _require_regular(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return file


def identity(path: str) -> object:
    """Something that differs once the file was written, replaced, made or removed.

    Symbolic links are followed: a volume of Kubernetes changes one of them, and no file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def is_for_everyone(file: BinaryIO) -> bool:
    """Whether every user of the host may read the file."""
    return bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)


def _require_regular(status: os.stat_result) -> None:
    # A directory is refused by `open` itself, in better words.
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EINVAL, "it is no regular file")
