"""Ethernet II frames: what ARP and neighbour discovery are wrapped in."""

from __future__ import annotations

BROADCAST = b"\xff" * 6
ARP = 0x0806
IPV6 = 0x86DD
HEADER_LENGTH = 14


def frame(*, destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    """A frame without padding and checksum, which the sending kernel and card add."""
    return destination + source + ethertype.to_bytes(2) + payload


def is_group(mac: bytes) -> bool:
    """Whether a hardware address is broadcast or multicast."""
    return bool(mac[0] & 1)
