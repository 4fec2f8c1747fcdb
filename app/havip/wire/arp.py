"""ARP requests as complete frames: questions, probes and announcements (RFC 826, RFC 5227)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from havip.wire import ethernet

REQUEST = 1
REPLY = 2
MESSAGE = struct.Struct("!HHBBH6s4s6s4s")
ETHERNET_IPV4 = (1, 0x0800, 6, 4)
"""Hardware type, protocol type and their address lengths."""

_UNKNOWN = bytes(6)


def request(
    *, mac: bytes, source: IPv4Address, target: IPv4Address, target_mac: bytes | None = None
) -> bytes:
    """Who has `target`? Asked of everyone, or of `target_mac` alone (RFC 1122 §2.3.2.1)."""
    message = MESSAGE.pack(*ETHERNET_IPV4, REQUEST, mac, source.packed, _UNKNOWN, target.packed)
    return ethernet.frame(
        destination=target_mac or ethernet.BROADCAST,
        source=mac,
        ethertype=ethernet.ARP,
        payload=message,
    )


def probe(*, mac: bytes, target: IPv4Address) -> bytes:
    """Is `target` in use? Asked without claiming any address (RFC 5227 §2.1.1)."""
    return request(mac=mac, source=IPv4Address(0), target=target)


def announcement(*, mac: bytes, address: IPv4Address) -> bytes:
    """`address` is at `mac` from now on (RFC 5227 §2.3)."""
    # Request form: a reply whose target hardware address is not its sender's does not override
    # a neighbour entry that Linux learnt within the last second (`locktime`, arp(7)).
    return request(mac=mac, source=address, target=address)
