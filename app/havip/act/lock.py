"""One daemon per network namespace, interface and VRID or VIP: two were two holders on one node.

Of one VIP each would also take the other's address for a leftover of its own, and remove it.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

Subject = int | IPv4Address | IPv6Address
"""A VRID or a VIP."""

_WAITING_CONNECTIONS = 4096
"""Each refused daemon leaves one behind, since nobody accepts. The system allows no more."""


class LockHeldError(Exception):
    """Another process serves this virtual router or VIP in this network namespace.

    `pid` is 0 where the holder cannot be seen from here (another PID namespace).
    """

    def __init__(self, pid: int, interface: str, subject: Subject) -> None:
        self.pid = pid
        self.interface = interface
        self.subject = subject
        who = f"process {pid}" if pid else "a process in another container"
        what, remedy = f"VIP {subject}", "choose another VIP"
        if isinstance(subject, int):
            what, remedy = f"VRID {subject}", "set another virtualRouterId"
        super().__init__(
            f"{who} already serves {what} on {interface} in this network namespace; stop it, or "
            f"{remedy}"
        )


class Lock:
    """Held from construction to `close`, or to the end of the process, however it ends.

    It is the name of a socket in the abstract namespace (unix(7)), which each network
    namespace has of its own and the kernel frees; there is no file to be left behind.

    Args:
        subject: a VRID, or a VIP.

    Raises:
        LockHeldError: another process has it.
        OSError: anything else that the kernel refuses.
    """

    def __init__(self, interface: str, subject: Subject) -> None:
        name = f"\0havip/{interface}/{subject}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._sock.bind(name)
            self._sock.listen(_WAITING_CONNECTIONS)
        except OSError as error:
            self._sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise LockHeldError(_holder_pid(name), interface, subject) from None

    def close(self) -> None:
        self._sock.close()


def _holder_pid(name: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(name)
        except OSError:
            return 0
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("=iII", credentials)[0]
    return pid
