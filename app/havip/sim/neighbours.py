"""ARP and neighbour discovery as a kernel reads and answers them (RFC 826, RFC 4861).

Written from the RFCs and not with `wire`, so that somebody else reads what the core sends.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from havip.sim.network import IPAddress

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
_NO_MAC = bytes(6)
_ETHER_ARP = 0x0806
_ETHER_IPV6 = 0x86DD
_SOLICITATION = 135
_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_SOLICITED = 0x40000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one frame says about an address."""

    source_mac: bytes
    """Of the Ethernet header: whom an answer goes to."""
    is_question: bool
    """ARP request or neighbour solicitation."""
    sender: IPAddress
    """ARP sender address, or IPv6 source of the packet."""
    subject: IPAddress
    """The address that is asked for, or that is said to be at `subject_mac`."""
    subject_mac: bytes | None
    """None: the frame says nothing about where an address is."""
    is_gratuitous: bool
    """Told without having been asked, in a form by which Linux replaces an entry at once."""


def read(frame: bytes) -> Heard | None:
    """None: not ARP, no solicitation or advertisement, or damaged."""
    if len(frame) < 14:
        return None
    (ether_type,) = struct.unpack_from("!H", frame, 12)
    if ether_type == _ETHER_ARP:
        return _read_arp(frame)
    if ether_type == _ETHER_IPV6:
        return _read_icmp(frame)
    return None


def _read_arp(frame: bytes) -> Heard | None:
    if len(frame) < 42 or frame[14:20] != b"\x00\x01\x08\x00\x06\x04":
        return None
    operation, sender_mac, sender, target_mac, target = struct.unpack_from("!H6s4s6s4s", frame, 20)
    if operation not in (1, 2):
        return None
    # Linux takes a reply for gratuitous only if both hardware addresses are the sender's
    # (net/ipv4/arp.c, arp_is_garp); any other one is subject to locktime.
    is_gratuitous = sender == target and (operation == 1 or sender_mac == target_mac)
    is_question = operation == 1 and not is_gratuitous
    return Heard(
        source_mac=frame[6:12],
        is_question=is_question,
        sender=IPv4Address(sender),
        subject=IPv4Address(target if is_question else sender),
        subject_mac=None if is_question else sender_mac,
        is_gratuitous=is_gratuitous,
    )


def _read_icmp(frame: bytes) -> Heard | None:
    packet = frame[14:]
    if len(packet) < 64 or packet[6] != 58 or packet[7] != 255:
        return None
    (length,) = struct.unpack_from("!H", packet, 4)
    message = packet[40 : 40 + length]
    if len(message) < 24 or _checksum(packet[8:40], message) != 0:
        return None
    kind, code, _, flags = struct.unpack_from("!BBHI", message)
    if kind not in (_SOLICITATION, _ADVERTISEMENT) or code != 0:
        return None
    target_mac = message[26:32] if message[24:26] == b"\x02\x01" and len(message) >= 32 else None
    is_question = kind == _SOLICITATION
    return Heard(
        source_mac=frame[6:12],
        is_question=is_question,
        sender=IPv6Address(packet[8:24]),
        subject=IPv6Address(message[8:24]),
        subject_mac=None if is_question else target_mac,
        is_gratuitous=not is_question and not flags & _SOLICITED and bool(flags & _OVERRIDE),
    )


def question(mac: bytes, sender: IPAddress, subject: IPAddress) -> bytes:
    """Ask everybody where `subject` is."""
    if isinstance(sender, IPv4Address) and isinstance(subject, IPv4Address):
        return _arp(1, mac, sender, _NO_MAC, subject, to=BROADCAST)
    group = IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + subject.packed[13:])
    body = struct.pack("!I16s", 0, subject.packed) + b"\x01\x01" + mac
    return _icmp(_SOLICITATION, body, mac, sender, group, to=b"\x33\x33" + group.packed[12:])


def answer(mac: bytes, heard: Heard) -> bytes:
    """What the owner of `heard.subject` answers."""
    if isinstance(heard.subject, IPv4Address):
        return _arp(2, mac, heard.subject, heard.source_mac, heard.sender, to=heard.source_mac)
    if heard.sender.is_unspecified:
        # Whoever asks in duplicate address detection can be told on the group alone (§7.2.4).
        return claim(mac, heard.subject)
    flags = _SOLICITED | _OVERRIDE
    body = struct.pack("!I16s", flags, heard.subject.packed) + b"\x02\x01" + mac
    return _icmp(_ADVERTISEMENT, body, mac, heard.subject, heard.sender, to=heard.source_mac)


def claim(mac: bytes, subject: IPAddress) -> bytes:
    """Tell everybody, unasked, that `subject` is here."""
    if isinstance(subject, IPv4Address):
        return _arp(1, mac, subject, _NO_MAC, subject, to=BROADCAST)
    body = struct.pack("!I16s", _OVERRIDE, subject.packed) + b"\x02\x01" + mac
    to = b"\x33\x33" + ALL_NODES.packed[12:]
    return _icmp(_ADVERTISEMENT, body, mac, subject, ALL_NODES, to=to)


def _arp(
    operation: int,
    sender_mac: bytes,
    sender: IPAddress,
    target_mac: bytes,
    target: IPAddress,
    *,
    to: bytes,
) -> bytes:
    head = to + sender_mac + struct.pack("!HHHBBH", _ETHER_ARP, 1, 0x0800, 6, 4, operation)
    return head + sender_mac + sender.packed + target_mac + target.packed


def _icmp(
    kind: int, body: bytes, mac: bytes, source: IPAddress, destination: IPAddress, *, to: bytes
) -> bytes:
    addresses = source.packed + destination.packed
    message = struct.pack("!BBH", kind, 0, 0) + body
    message = message[:2] + struct.pack("!H", _checksum(addresses, message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + addresses
    return to + mac + struct.pack("!H", _ETHER_IPV6) + header + message


def _checksum(addresses: bytes, message: bytes) -> int:
    """Internet checksum with the IPv6 pseudo header; 0 over a message that carries its own."""
    data = addresses + struct.pack("!II", len(message), 58) + message
    data += b"\x00" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
