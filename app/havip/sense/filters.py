"""Filters that the kernel runs on received packets, so that foreign ones wake nobody.

Classic BPF (Linux Documentation/networking/filter.rst). A program is a list of instructions,
run from the top with one accumulator and one index register, until it returns how many bytes
of the packet to keep. Reading behind the packet's end rejects it. Jumps count instructions to
skip and reach no further than 255, so every alternative here ends in its own ACCEPT.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_NEWROUTE

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true, if false, operand."""
Program = list[Instruction]

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_BYTE_AT_INDEX = 0x50
_INDEX_IPV4_HEADER_LENGTH = 0xB1
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06

_PACKET_TYPE, _INTERFACE_INDEX = 0xFFFFF004, 0xFFFFF008
"""Operands that load what the kernel knows of the packet: SKF_AD_PKTTYPE, SKF_AD_IFINDEX."""
_TO_THIS_HOST, _TO_OTHER_HOST = 0, 3
"""Packet types, by the destination MAC (packet(7))."""

_SO_ATTACH_FILTER: Final = 26
_ICMPV6, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 58, 135, 136

ACCEPT: Final[Instruction] = (_RETURN, 0, 0, 0xFFFF)
REJECT: Final[Instruction] = (_RETURN, 0, 0, 0)


def load_word(offset: int) -> Instruction:
    return _LOAD_WORD, 0, 0, offset


def load_half(offset: int) -> Instruction:
    return _LOAD_HALF, 0, 0, offset


def load_byte(offset: int) -> Instruction:
    return _LOAD_BYTE, 0, 0, offset


def load_byte_behind_ipv4_header(offset: int) -> Program:
    return [(_INDEX_IPV4_HEADER_LENGTH, 0, 0, 0), (_LOAD_BYTE_AT_INDEX, 0, 0, offset)]


def accept_any(values: Collection[int]) -> Program:
    """Accept if the accumulator is one of these values, else go on."""
    return [
        instruction for value in values for instruction in ((_JUMP_IF_EQUAL, 0, 1, value), ACCEPT)
    ]


def require(value: int) -> Program:
    """Go on if the accumulator is this value, else reject."""
    return [(_JUMP_IF_EQUAL, 1, 0, value), REJECT]


def vrrp_filter(family: int, virtual_router_ids: Collection[int]) -> Program:
    """VRRP packets with one of these VRIDs; everything else about them is for the core to judge.

    A raw IPv4 socket's packet begins with its IP header, a raw IPv6 socket's does not.
    """
    load_vrid = load_byte_behind_ipv4_header(1) if family == 4 else [load_byte(1)]
    return [*load_vrid, *accept_any(virtual_router_ids), REJECT]


def arp_filter(interface_index: int, vips: Collection[IPv4Address]) -> Program:
    """ARP that names one of the VIPs as sender or target, or that answers this host."""
    addresses = [int(vip) for vip in vips]
    return [
        *_frames_of(interface_index),
        load_word(28),
        *accept_any(addresses),
        load_word(38),
        *accept_any(addresses),
        load_half(20),
        *require(2),
        load_word(_PACKET_TYPE),
        *accept_any([_TO_THIS_HOST]),
        REJECT,
    ]


def neighbour_filter(interface_index: int, vips: Collection[IPv6Address]) -> Program:
    """Neighbour solicitations and advertisements for one of the VIPs, or that answer this host."""
    program = [
        *_frames_of(interface_index),
        load_byte(20),
        *require(_ICMPV6),
        load_byte(54),
        (_JUMP_IF_EQUAL, 2, 0, _NEIGHBOUR_SOLICITATION),
        *require(_NEIGHBOUR_ADVERTISEMENT),
    ]
    for vip in vips:
        words = struct.unpack("!4I", vip.packed)
        for position, word in enumerate(words):
            to_next_vip = 2 * (len(words) - position - 1) + 1
            program += [load_word(62 + 4 * position), (_JUMP_IF_EQUAL, 0, to_next_vip, word)]
        program.append(ACCEPT)
    return [
        *program,
        load_byte(54),
        *require(_NEIGHBOUR_ADVERTISEMENT),
        load_word(_PACKET_TYPE),
        *accept_any([_TO_THIS_HOST]),
        REJECT,
    ]


def any_arp_filter(interface_index: int) -> Program:
    """All ARP of the interface, for more VIPs than a program has room for."""
    return [*_frames_of(interface_index), ACCEPT]


def any_neighbour_filter(interface_index: int) -> Program:
    """All neighbour solicitations and advertisements of the interface, for the same."""
    return [
        *_frames_of(interface_index),
        load_byte(20),
        *require(_ICMPV6),
        load_byte(54),
        *accept_any([_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT]),
        REJECT,
    ]


def default_routes_only() -> Program:
    """Netlink notifications but those of routes that are no default route.

    A node that speaks BGP, or whose pods come and go, changes routes by the thousand.
    """
    return [
        load_half(4),
        (_JUMP_IF_EQUAL, 2, 0, _as_loaded(RTM_NEWROUTE)),
        (_JUMP_IF_EQUAL, 1, 0, _as_loaded(RTM_DELROUTE)),
        ACCEPT,
        load_byte(17),
        *accept_any([0]),
        REJECT,
    ]


def attach(sock: socket.socket, program: Program) -> None:
    """Replace the socket's filter.

    Raises:
        OSError: the kernel refuses the program.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _frames_of(interface_index: int) -> Program:
    """Go on with the interface's own frames.

    Those of a VLAN, macvlan or container on top of it come by too: with that device's index,
    or, if their VLAN has no device here, as somebody else's.
    """
    return [
        load_word(_INTERFACE_INDEX),
        *require(interface_index),
        load_word(_PACKET_TYPE),
        (_JUMP_IF_EQUAL, 0, 1, _TO_OTHER_HOST),
        REJECT,
    ]


def _as_loaded(message_type: int) -> int:
    """A load takes bytes in network order, netlink writes them in the host's."""
    return int.from_bytes(message_type.to_bytes(2, sys.byteorder), "big")
