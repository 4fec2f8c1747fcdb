"""VRRP packets and Ethernet frames onto the wire.

The IP headers are written here, so that source, TTL and class are what was asked for, and so
that the sockets receive nothing (raw(7): IPPROTO_RAW can only send).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from havip.core.actions import SendFrame, SendVrrp
from havip.core.events import ActionFailed

_PROTOCOL = 112
_HOP_LIMIT = 255
_CLASS_CS6 = 0xC0
"""DSCP CS6, network control (RFC 4594 §3.1)."""
_PRIORITY_CONTROL = 6
"""TC_PRIO_CONTROL: the first band of the default queueing discipline (tc-prio(8))."""

_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_IP_PKTINFO = 8


class Transmitter:
    """Sends at once or fails; never waits, never raises for what the world refuses.

    Interfaces are looked up by name for each packet, so nothing goes stale when one is replaced.

    Raises:
        OSError: no permission for raw sockets (CAP_NET_RAW).
    """

    def __init__(self) -> None:
        opened: list[socket.socket] = []
        try:
            for family, protocol in (
                (socket.AF_INET, socket.IPPROTO_RAW),
                (socket.AF_INET6, socket.IPPROTO_RAW),
                (socket.AF_PACKET, 0),
            ):
                sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
                opened.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY_CONTROL)
            self._ipv4, self._ipv6, self._frames = opened
            self._ipv4.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            self._ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        except BaseException:
            for sock in opened:
                sock.close()
            raise

    def send_vrrp(self, action: SendVrrp) -> ActionFailed | None:
        try:
            index = socket.if_nametoindex(action.interface)
            if action.source.version == 4:
                self._send_ipv4(action, index)
            else:
                self._send_ipv6(action, index)
        except OSError as error:
            # The second byte of each version (RFC 9568 §5.1, RFC 3768 §5.1).
            return _failed(action, str(action.destination), error, action.payload[1])
        return None

    def send_frame(self, action: SendFrame) -> ActionFailed | None:
        (ethertype,) = struct.unpack_from("!H", action.frame, 12)
        try:
            self._frames.sendto(action.frame, (action.interface, ethertype))
        except OSError as error:
            return _failed(action, action.frame[:6].hex(":"), error)
        return None

    def close(self) -> None:
        for sock in (self._ipv4, self._ipv6, self._frames):
            sock.close()

    def _send_ipv4(self, action: SendVrrp, index: int) -> None:
        # The kernel fills in identification and checksum (raw(7), IP_HDRINCL).
        header = _IPV4_HEADER.pack(
            0x45,
            _CLASS_CS6,
            _IPV4_HEADER.size + len(action.payload),
            0,
            0,
            _HOP_LIMIT,
            _PROTOCOL,
            0,
            action.source.packed,
            action.destination.packed,
        )
        out_of = struct.pack("=I4s4s", index, bytes(4), bytes(4))
        self._ipv4.sendmsg(
            [header, action.payload],
            [(socket.IPPROTO_IP, _IP_PKTINFO, out_of)],
            0,
            (str(action.destination), 0),
        )

    def _send_ipv6(self, action: SendVrrp, index: int) -> None:
        header = _IPV6_HEADER.pack(
            6 << 28 | _CLASS_CS6 << 20,
            len(action.payload),
            _PROTOCOL,
            _HOP_LIMIT,
            action.source.packed,
            action.destination.packed,
        )
        out_of = bytes(16) + struct.pack("=I", index)
        self._ipv6.sendmsg(
            [header, action.payload],
            [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, out_of)],
            0,
            (str(action.destination), 0, 0, index),
        )


def _failed(
    action: SendVrrp | SendFrame,
    subject: str,
    error: OSError,
    virtual_router_id: int | None = None,
) -> ActionFailed:
    # CPython leaves errno empty where an interface has no index.
    number = error.errno or errno.ENODEV
    return ActionFailed(
        action=type(action).__name__,
        interface=action.interface,
        subject=subject,
        errno=number,
        message=os.strerror(number),
        virtual_router_id=virtual_router_id,
    )
