"""What a service manager is told about this process (sd_notify(3), sd_watchdog_enabled(3)).

Without systemd nothing of it happens: the environment then names no socket. It never waits, and
what cannot be told is dropped: whether this node holds the VIP does not depend on a listener.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

_OFTEN: Final = 2
"""Signs of life within the time that the manager allows."""


class ServiceManager:
    """The one that started this process, if it wants to hear from it.

    Args:
        environ: where `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` stand.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A leading @ stands for the null byte of the abstract namespace (unix(7)).
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.alive_each_s = _alive_each_s(environ) if path else None
        """How often it wants to hear `tell_alive`; None if it does not watch."""

    def tell_ready(self) -> None:
        """The start, or a reload, is over."""
        self._tell("READY=1")

    def tell_reloading(self) -> None:
        """The configuration is read anew; `tell_ready` follows."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def tell_stopping(self) -> None:
        """This process ends as asked, after it has handed over."""
        self._tell("STOPPING=1")

    def tell_alive(self) -> None:
        """The loop runs."""
        self._tell("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, message: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(message.encode(), self._address)


def _alive_each_s(environ: Mapping[str, str]) -> float | None:
    limit_us = environ.get("WATCHDOG_USEC", "")
    pid = environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None  # meant for the process that started this one
    return int(limit_us) / 1e6 / _OFTEN if limit_us.isdecimal() and int(limit_us) else None
