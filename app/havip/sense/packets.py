"""VRRP, ARP and neighbour discovery from the wire.

Per VRRP interface a raw socket for each family of VRRP, and per interface of VRRP or a VIP a
packet socket for ARP and one for neighbour discovery, each behind a filter (`filters`). What
the filter lets through is not judged here.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core.config import RouterConfig
from havip.core.events import FrameReceived, VrrpReceived
from havip.sense import filters

PROTOCOL: Final = 112
GROUP_IPV4: Final = IPv4Address("224.0.0.18")
"""RFC 9568 §5.1.1.2."""
GROUP_IPV6: Final = IPv6Address("ff02::12")
"""RFC 9568 §5.1.2.2."""
PACKETS_PER_READ: Final = 10_000
"""Bound of one `read_all` per socket, so that a flood cannot keep the loop for itself."""

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20
_PACKET_BYTES = 2048

Received = VrrpReceived | FrameReceived


@dataclass(slots=True)
class _Ear:
    """One open socket and how to read it."""

    interface: str
    index: int
    sock: socket.socket
    read: Callable[[_Ear], Received | None]


class PacketSockets:
    """Everything the routers of this node must hear.

    An interface that does not exist yet has no sockets until `reopen` finds it.

    Raises:
        OSError: no permission for raw sockets (CAP_NET_RAW).
    """

    def __init__(self, routers: Sequence[RouterConfig]) -> None:
        self._routers = routers
        self._ears: dict[str, list[_Ear]] = {}
        for interface in self._interfaces():
            self.reopen(interface)

    def filenos(self) -> tuple[int, ...]:
        """To wait for; they change with each `reopen` that returned True."""
        return tuple(ear.sock.fileno() for ears in self._ears.values() for ear in ears)

    def reopen(self, interface: str) -> bool:
        """Open the interface's sockets anew if it was created anew; call it when its link is up.

        Returns:
            Whether anything changed: False while the sockets belong to the interface.
        """
        if interface not in self._interfaces():
            return False
        try:
            index = socket.if_nametoindex(interface)
        except OSError:
            index = 0
        ears = self._ears.pop(interface, [])
        if ears and ears[0].index == index:
            self._ears[interface] = ears
            return False
        opened: list[_Ear] = []
        if index:
            # It may vanish between the look-up and here; then its return is another link event.
            with _suppress_vanished():
                opened = self._open(interface, index)
        # Only now, so that no new socket gets the number of an old one: epoll has forgotten
        # the old one, but whoever waits for numbers would not notice the exchange.
        for ear in ears:
            ear.sock.close()
        if opened:
            self._ears[interface] = opened
        return bool(ears) or bool(opened)

    def read_all(self) -> list[Received]:
        """Read every socket dry, at most PACKETS_PER_READ of each; in order per socket."""
        return [event for ears in self._ears.values() for ear in ears for event in _read_dry(ear)]

    def close(self) -> None:
        for ears in self._ears.values():
            for ear in ears:
                ear.sock.close()
        self._ears.clear()

    def _interfaces(self) -> list[str]:
        names = [(router.vrrp_interface, router.vip_interface) for router in self._routers]
        return list(dict.fromkeys(name for pair in names for name in pair))

    def _open(self, interface: str, index: int) -> list[_Ear]:
        vrids: dict[int, set[int]] = {4: set(), 6: set()}
        vips4: set[IPv4Address] = set()
        vips6: set[IPv6Address] = set()
        families: set[int] = set()
        for router in self._routers:
            if interface not in router.interfaces:
                continue
            for leg in router.legs:
                families.add(leg.family)
                if interface == router.vrrp_interface:
                    vrids[leg.family].add(router.virtual_router_id)
                for vip in leg.vips:
                    if isinstance(vip.address, IPv4Address):
                        vips4.add(vip.address)
                    else:
                        vips6.add(vip.address)
        ears = []
        with contextlib.ExitStack() as undo:
            if vrids[4]:
                sock = undo.enter_context(_open_vrrp4(interface, index, vrids[4]))
                ears.append(_Ear(interface, index, sock, _read_vrrp4))
            if vrids[6]:
                sock = undo.enter_context(_open_vrrp6(interface, index, vrids[6]))
                ears.append(_Ear(interface, index, sock, _read_vrrp6))
            if 4 in families:
                wanted = filters.arp_filter(index, vips4), filters.any_arp_filter(index)
                sock = undo.enter_context(_open_frames(interface, _ETH_P_ARP, *wanted))
                ears.append(_Ear(interface, index, sock, _read_frame))
            if 6 in families:
                wanted = filters.neighbour_filter(index, vips6), filters.any_neighbour_filter(index)
                sock = undo.enter_context(_open_frames(interface, _ETH_P_IPV6, *wanted))
                ears.append(_Ear(interface, index, sock, _read_frame))
            undo.pop_all()
        return ears


@contextlib.contextmanager
def _suppress_vanished() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENXIO):
            raise


def _open_vrrp4(interface: str, index: int, vrids: set[int]) -> socket.socket:
    sock = _open_raw(socket.AF_INET, interface, filters.vrrp_filter(4, vrids))
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    membership = struct.pack("=4s4si", GROUP_IPV4.packed, bytes(4), index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return sock


def _open_vrrp6(interface: str, index: int, vrids: set[int]) -> socket.socket:
    sock = _open_raw(socket.AF_INET6, interface, filters.vrrp_filter(6, vrids))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    membership = GROUP_IPV6.packed + struct.pack("=I", index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    return sock


def _open_raw(family: int, interface: str, program: filters.Program) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL)
    try:
        filters.attach(sock, program)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        _enlarge_buffer(sock)
        # Until the two calls above, the socket heard every interface, unfiltered.
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(_PACKET_BYTES)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_frames(
    interface: str, protocol: int, program: filters.Program, coarser: filters.Program
) -> socket.socket:
    # Protocol 0 hears nothing before bind(). A socket of one protocol never hears frames that
    # this host sends, only one of ETH_P_ALL does.
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        try:
            filters.attach(sock, program)
        except OSError as error:
            # More than BPF_MAXINSNS, or than net.core.optmem_max has room for: some hundred VIPs.
            if error.errno not in (errno.EINVAL, errno.ENOMEM):
                raise
            filters.attach(sock, coarser)
        _enlarge_buffer(sock)
        sock.bind((interface, protocol))
    except BaseException:
        sock.close()
        raise
    return sock


def _enlarge_buffer(sock: socket.socket) -> None:
    """Room for a flood of the right VRID between two reads; without privilege, what is allowed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)


def _read_dry(ear: _Ear) -> Iterator[Received]:
    for _ in range(PACKETS_PER_READ):
        try:
            event = ear.read(ear)
        except BlockingIOError:
            return
        except OSError:
            # A pending error (ENETDOWN when the link went down) stands before the packets, and
            # reading it clears it. What it means comes by netlink.
            continue
        if event is not None:
            yield event


def _read_vrrp4(ear: _Ear) -> VrrpReceived | None:
    packet = ear.sock.recv(_PACKET_BYTES)
    header_length = (packet[0] & 0x0F) * 4
    return VrrpReceived(
        interface=ear.interface,
        source=IPv4Address(packet[12:16]),
        destination=IPv4Address(packet[16:20]),
        hop_limit=packet[8],
        payload=packet[header_length:],
    )


def _read_vrrp6(ear: _Ear) -> VrrpReceived | None:
    payload, ancillary, _, sender = ear.sock.recvmsg(_PACKET_BYTES, 256)
    hop_limit = 0
    destination = None
    for level, kind, data in ancillary:
        if level != socket.IPPROTO_IPV6:
            continue
        if kind == socket.IPV6_HOPLIMIT:
            (hop_limit,) = struct.unpack("=i", data)
        elif kind == socket.IPV6_PKTINFO:
            destination = IPv6Address(data[:16])
    if destination is None:
        return None
    return VrrpReceived(
        interface=ear.interface,
        source=IPv6Address(sender[0].partition("%")[0]),
        destination=destination,
        hop_limit=hop_limit,
        payload=payload,
    )


def _read_frame(ear: _Ear) -> FrameReceived:
    return FrameReceived(interface=ear.interface, frame=ear.sock.recv(_PACKET_BYTES))
