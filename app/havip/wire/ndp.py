"""Neighbour solicitations and advertisements as complete frames (RFC 4861, RFC 4862)."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from havip.wire import ethernet
from havip.wire.checksum import internet_checksum, pseudo_header

ICMPV6 = 58
HOP_LIMIT = 255
SOLICITATION = 135
ADVERTISEMENT = 136
SOURCE_LINK_LAYER_ADDRESS = 1
TARGET_LINK_LAYER_ADDRESS = 2
SOLICITED_FLAG = 0x40000000
OVERRIDE_FLAG = 0x20000000
IPV6_HEADER = struct.Struct("!IHBB16s16s")
MESSAGE = struct.Struct("!BBHI16s")
"""Type, code, checksum, flags, target."""

ALL_NODES = IPv6Address("ff02::1")
UNSPECIFIED = IPv6Address("::")

_IPV6_VERSION = 6 << 28
_SOLICITED_NODE_PREFIX = IPv6Address("ff02::1:ff00:0").packed[:13]


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The multicast group on which a node is asked for `address` (RFC 4291 §2.7.1)."""
    return IPv6Address(_SOLICITED_NODE_PREFIX + address.packed[13:])


def multicast_mac(group: IPv6Address) -> bytes:
    """The Ethernet address of an IPv6 multicast group (RFC 2464 §7)."""
    return b"\x33\x33" + group.packed[12:]


def solicit(
    *, mac: bytes, source: IPv6Address, target: IPv6Address, target_mac: bytes | None = None
) -> bytes:
    """Who has `target`? Asked on its solicited-node group, or of `target_mac` alone (§4.3)."""
    group = solicited_node(target)
    return _frame(
        mac=mac,
        source=source,
        destination=group if target_mac is None else target,
        destination_mac=target_mac or multicast_mac(group),
        kind=SOLICITATION,
        target=target,
        option=SOURCE_LINK_LAYER_ADDRESS,
    )


def probe(*, mac: bytes, target: IPv6Address) -> bytes:
    """Is `target` in use? Asked as duplicate address detection does (RFC 4862 §5.4.2)."""
    group = solicited_node(target)
    return _frame(
        mac=mac,
        source=UNSPECIFIED,
        destination=group,
        destination_mac=multicast_mac(group),
        kind=SOLICITATION,
        target=target,
    )


def announcement(*, mac: bytes, address: IPv6Address) -> bytes:
    """`address` is at `mac` from now on: an unsolicited advertisement to all (RFC 4861 §7.2.6)."""
    return _frame(
        mac=mac,
        source=address,
        destination=ALL_NODES,
        destination_mac=multicast_mac(ALL_NODES),
        kind=ADVERTISEMENT,
        flags=OVERRIDE_FLAG,
        target=address,
        option=TARGET_LINK_LAYER_ADDRESS,
    )


def _frame(
    *,
    mac: bytes,
    source: IPv6Address,
    destination: IPv6Address,
    destination_mac: bytes,
    kind: int,
    target: IPv6Address,
    flags: int = 0,
    option: int | None = None,
) -> bytes:
    message = bytearray(MESSAGE.pack(kind, 0, 0, flags, target.packed))
    if option is not None:
        message += bytes((option, 1)) + mac
    covered = pseudo_header(source, destination, ICMPV6, len(message)) + message
    message[2:4] = internet_checksum(covered).to_bytes(2)
    header = IPV6_HEADER.pack(
        _IPV6_VERSION, len(message), ICMPV6, HOP_LIMIT, source.packed, destination.packed
    )
    return ethernet.frame(
        destination=destination_mac,
        source=mac,
        ethertype=ethernet.IPV6,
        payload=header + message,
    )
