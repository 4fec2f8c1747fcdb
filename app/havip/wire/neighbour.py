"""What a neighbour says about addresses: ARP, neighbour solicitations and advertisements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from havip.wire import arp, ethernet, ndp
from havip.wire.checksum import is_intact, pseudo_header

_LINK_LAYER_OPTIONS = {
    ndp.SOLICITATION: ndp.SOURCE_LINK_LAYER_ADDRESS,
    ndp.ADVERTISEMENT: ndp.TARGET_LINK_LAYER_ADDRESS,
}


class Kind(StrEnum):
    ASK = "ask"
    """ARP request or neighbour solicitation."""
    ANSWER = "answer"
    """ARP reply or neighbour advertisement, asked for or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One such message, the same for both address families."""

    kind: Kind
    mac: bytes
    """The hardware address that the message speaks of: ARP's sender, the link-layer option of
    neighbour discovery, and where there is none, the frame's source."""
    claims: IPv4Address | IPv6Address | None
    """The address that the message binds to `mac`: ARP's sender, the target of an advertisement,
    the source of a solicitation. None for a probe."""
    asks: IPv4Address | IPv6Address | None
    """The address that a question is about; equal to `claims` in a gratuitous ARP request."""
    frame_source: bytes
    frame_destination: bytes


def decode(frame: bytes) -> Neighbour | None:
    """What an Ethernet frame says about addresses; None when it is malformed or something else.

    Never raises. Neighbour discovery is validated as RFC 4861 §7.1.1 and §7.1.2 say; VLAN tags,
    IPv6 extension headers and other hardware than Ethernet are something else.
    """
    if len(frame) < ethernet.HEADER_LENGTH:
        return None
    payload = frame[ethernet.HEADER_LENGTH :]
    match int.from_bytes(frame[12:14]):
        case ethernet.ARP:
            neighbour = _decode_arp(frame, payload)
        case ethernet.IPV6:
            neighbour = _decode_nd(frame, payload)
        case _:
            return None
    # A group address as a neighbour's own must not be believed (RFC 1812 §3.3.2).
    if neighbour is None or ethernet.is_group(neighbour.mac):
        return None
    return neighbour


def _decode_arp(frame: bytes, payload: bytes) -> Neighbour | None:
    if len(payload) < arp.MESSAGE.size:
        return None
    *form, operation, sender_mac, sender, _, target = arp.MESSAGE.unpack_from(payload)
    if tuple(form) != arp.ETHERNET_IPV4 or operation not in (arp.REQUEST, arp.REPLY):
        return None
    is_request = operation == arp.REQUEST
    return Neighbour(
        kind=Kind.ASK if is_request else Kind.ANSWER,
        mac=sender_mac,
        claims=IPv4Address(sender) if any(sender) else None,
        asks=IPv4Address(target) if is_request else None,
        frame_source=frame[6:12],
        frame_destination=frame[:6],
    )


def _decode_nd(frame: bytes, packet: bytes) -> Neighbour | None:
    if len(packet) < ndp.IPV6_HEADER.size + ndp.MESSAGE.size:
        return None
    first, length, next_header, hop_limit, *addresses = ndp.IPV6_HEADER.unpack_from(packet)
    # Frames may be padded: the IPv6 header says how long the message is.
    message = packet[ndp.IPV6_HEADER.size : ndp.IPV6_HEADER.size + length]
    if (
        first >> 28 != 6
        or next_header != ndp.ICMPV6
        or hop_limit != ndp.HOP_LIMIT
        or len(message) != length
        or length < ndp.MESSAGE.size
    ):
        return None
    kind, code, _, flags, raw_target = ndp.MESSAGE.unpack_from(message)
    if kind not in _LINK_LAYER_OPTIONS or code != 0:
        return None
    source, destination = (IPv6Address(address) for address in addresses)
    if not is_intact(pseudo_header(source, destination, ndp.ICMPV6, length) + message):
        return None

    target = IPv6Address(raw_target)
    options = _options(message[ndp.MESSAGE.size :])
    if target.is_multicast or options is None:
        return None
    option = options.get(_LINK_LAYER_OPTIONS[kind])
    if option is not None and len(option) != 6:
        return None

    is_solicitation = kind == ndp.SOLICITATION
    is_probe = is_solicitation and source == ndp.UNSPECIFIED
    if is_probe and (option is not None or destination != ndp.solicited_node(target)):
        return None
    if not is_solicitation and destination.is_multicast and flags & ndp.SOLICITED_FLAG:
        return None
    claims = None if is_probe else source if is_solicitation else target
    return Neighbour(
        kind=Kind.ASK if is_solicitation else Kind.ANSWER,
        mac=option or frame[6:12],
        claims=claims,
        asks=target if is_solicitation else None,
        frame_source=frame[6:12],
        frame_destination=frame[:6],
    )


def _options(data: bytes) -> dict[int, bytes] | None:
    """The first value of each option by its type, or None when a length is wrong (§4.6)."""
    options: dict[int, bytes] = {}
    while data:
        length = data[1] * 8 if len(data) >= 2 else 0
        if length == 0 or length > len(data):
            return None
        options.setdefault(data[0], data[2:length])
        data = data[length:]
    return options
