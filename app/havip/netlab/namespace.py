"""Network namespaces by name, and code that runs inside one of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

RUN_NETNS = Path("/run/netns")
PREFIX = "havip-"
_PRIORITY = 1
"""Below the daemons."""
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab cannot be built here; the message names the remedy."""


def check_host() -> None:
    """Refuse early, and in words, where namespaces cannot be made.

    Raises:
        LabError: not root, or `ip` or `nft` is missing.
    """
    if os.geteuid() != 0:
        raise LabError("hosts are network namespaces, and only root can make them: run as root")
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            raise LabError(f"`{tool}` was not found: install the package {package}")


def run(args: Sequence[str], text: str | None = None) -> str:
    """Run a tool to its end and return what it printed.

    Raises:
        LabError: it failed; the message has its standard error.
    """
    done = subprocess.run(args, input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise LabError(f"{' '.join(args)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def inside(name: str, function: Callable[[], T]) -> T:
    """Call `function` in the namespace; sockets that it opens stay there for good.

    A namespace belongs to a thread, so this is a thread of its own that ends with the call.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            descriptor = os.open(RUN_NETNS / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), name)
            finally:
                os.close(descriptor)
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name=f"in {name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def be_punctual() -> None:
    """Give the calling thread real time, if that is allowed: one that is late measures itself."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))


def batch(commands: str) -> None:
    """Run lines of `ip` commands in one process."""
    run(("ip", "-batch", "-"), commands)


def names(of_pid: int | None = None) -> list[str]:
    """Namespaces that a lab made: of one process, or of all."""
    start = PREFIX if of_pid is None else f"{PREFIX}{of_pid}-"
    if not RUN_NETNS.is_dir():
        return []
    return sorted(path.name for path in RUN_NETNS.iterdir() if path.name.startswith(start))


def kill_all(name: str) -> None:
    """Kill what runs in the namespace, whoever started it; fine if it is gone already."""
    listed = subprocess.run(  # noqa: S603
        ("ip", "netns", "pids", name),  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    for pid in listed.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            _kill(int(pid))


def remove(name: str) -> None:
    """Kill what still runs in the namespace and delete it; fine if it is gone already."""
    kill_all(name)
    subprocess.run(("ip", "netns", "delete", name), capture_output=True, check=False)  # noqa: S603, S607


def _kill(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], 5)
    finally:
        os.close(descriptor)


def sweep() -> list[str]:
    """Remove what labs left behind whose process was killed; returns the names."""
    swept = []
    for name in names():
        pid = name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            remove(name)
            swept.append(name)
            for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}{pid}-*"):
                shutil.rmtree(directory, ignore_errors=True)
    return swept
