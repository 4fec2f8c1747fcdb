"""The Internet checksum (RFC 1071) and the pseudo headers that go before it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address


def internet_checksum(data: bytes) -> int:
    """The value for a checksum field that is zero in `data`, which is not all zero."""
    # Words modulo 0xffff add up as one's complement does: 0x10000 is 1 there.
    return -_as_number(data) % 0xFFFF


def is_intact(data: bytes) -> bool:
    """Whether `data`, its checksum field included, sums up to a valid checksum."""
    return _as_number(data) % 0xFFFF == 0


def pseudo_header(
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    protocol: int,
    length: int,
) -> bytes:
    """The addresses and the length that a checksum covers beside the message.

    For IPv4 the form of TCP (RFC 9293 §3.1), for IPv6 that of RFC 8200 §8.1.
    """
    addresses = source.packed + destination.packed
    if source.version == 4:
        return addresses + bytes((0, protocol)) + length.to_bytes(2)
    return addresses + length.to_bytes(4) + bytes((0, 0, 0, protocol))


def _as_number(data: bytes) -> int:
    return int.from_bytes(data + b"\0" if len(data) % 2 else data)
