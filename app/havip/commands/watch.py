"""`havip watch`: VRRP, ARP and neighbour discovery as they pass by, one line per packet.

Two readers look at each packet: scapy says what is in it, whatever its state, and havip's own
decoder says whether a daemon would use it. Watching sends nothing and changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import logging
import select
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from havip.wire import auth, neighbour, vrrp
from havip.wire.drop import Drop

OK = "ok"
MALFORMED = "malformed"

_EPILOG = """\
examples:
  havip watch                                 every interface, until Ctrl-C
  havip watch --interface eth0 --count 10     ten packets of one interface
  havip watch --output json | jq 'select(.verdict != "ok")'

The last column is havip's verdict: ok, or why a daemon would not use the packet. What depends
on a daemon's configuration (its peers, its keys, its addresses) is not judged here.

exit status: 0 done (also after Ctrl-C, or when the reader of a pipe has gone),
1 the interface is gone, 2 cannot watch here
"""

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_ALLMULTI = 263, 1, 2
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_TIMESPEC = struct.Struct("@ll")
_ARPHRD_ETHER = 1
_LARGEST_FRAME = 1 << 16
_LOOK_AFTER_INTERFACE_MS = 500

_LOAD_HALF, _LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48
# Classic BPF (operation, skip if true, skip if false, operand): ARP, VRRP, and of ICMPv6 the
# neighbour messages. A tagged frame is rejected: its VLAN's own interface shows it.
_FILTER = (
    (_LOAD_BYTE, 0, 0, _VLAN_TAG_PRESENT),
    (_JUMP_IF_EQUAL, 0, 13, 0),
    (_LOAD_HALF, 0, 0, 12),
    (_JUMP_IF_EQUAL, 10, 0, 0x0806),
    (_JUMP_IF_EQUAL, 0, 2, 0x0800),
    (_LOAD_BYTE, 0, 0, 23),
    (_JUMP_IF_EQUAL, 7, 8, vrrp.PROTOCOL),
    (_JUMP_IF_EQUAL, 0, 7, 0x86DD),
    (_LOAD_BYTE, 0, 0, 20),
    (_JUMP_IF_EQUAL, 4, 0, vrrp.PROTOCOL),
    (_JUMP_IF_EQUAL, 0, 4, 58),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_IF_EQUAL, 1, 0, 135),
    (_JUMP_IF_EQUAL, 0, 1, 136),
    (_RETURN, 0, 0, _LARGEST_FRAME),
    (_RETURN, 0, 0, 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One packet, read for people."""

    protocol: str
    """`vrrp`, `arp` or `nd`."""
    kind: str
    """Of VRRP the version; of the others what the message is for."""
    mac: str
    """The sender of the frame."""
    text: str
    """The details in words."""
    details: dict[str, object] = field(default_factory=dict)
    verdict: str
    """`ok`, `malformed`, or the name of a Drop."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `watch` to the command line."""
    parser = subparsers.add_parser(
        "watch",
        help="show VRRP, ARP and neighbour discovery on the wire, decoded",
        description="Show VRRP, ARP and neighbour discovery on the wire, one line per packet.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--interface",
        metavar="IF",
        help="watch this interface, all of its multicast included (default: every interface, "
        "as far as its hardware lets multicast through)",
    )
    parser.add_argument(
        "--count", type=_positive, metavar="N", help="stop after N packets (default: Ctrl-C)"
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print packets until told to stop; returns the exit status.

    Raises:
        BrokenPipeError: the reader of standard output has gone.
    """
    # Ctrl-C is how a watch ends, not how it is interrupted.
    with contextlib.suppress(KeyboardInterrupt):
        return _watch(arguments)
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    # What scapy has to say about this host's routes and libraries is of no use to the reader.
    logging.getLogger("scapy").setLevel(logging.ERROR)
    try:
        import scapy.layers.vrrp  # noqa: F401 - 0.4 s and optional
    except ImportError:
        return _cannot("it needs scapy: pip install 'havip[watch]'")
    try:
        packets = _open(arguments.interface)
    except PermissionError:
        return _cannot(
            "reading frames needs CAP_NET_RAW: run it as root, or in a container with "
            "securityContext.capabilities.add: [NET_RAW]"
        )
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        known = ", ".join(name for _, name in socket.if_nameindex())
        return _cannot(f"no interface {arguments.interface!r} here; there are: {known}")

    as_text = arguments.output == "text"
    place = arguments.interface or "every interface"
    print(f"havip watch: watching {place}, Ctrl-C ends", file=sys.stderr)
    with packets:
        try:
            for number, (at, interface, is_ours, frame) in enumerate(_frames(packets), 1):
                seen = dissect(frame)
                write = _line if as_text else _json
                print(write(at, interface, is_ours, seen), flush=True)
                if number == arguments.count:
                    break
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                raise
            print(f"havip watch: {arguments.interface} is gone", file=sys.stderr)
            return 1
    return 0


def dissect(frame: bytes) -> Seen:
    """Read an Ethernet frame that the filter let through. Never raises, whatever it holds."""
    # Without the VRRP layer's import, scapy leaves the payload of IP unread.
    import scapy.layers.vrrp  # noqa: F401 - 0.4 s and optional
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, Ether

    packet = Ether(frame)
    if ARP in packet:
        return _seen_arp(frame, packet)
    if IP in packet and packet[IP].proto == vrrp.PROTOCOL:
        begin, end = 14 + packet[IP].ihl * 4, 14 + packet[IP].len
        return _seen_vrrp(frame[begin:end], packet, packet[IP], packet[IP].ttl)
    if IPv6 in packet and packet[IPv6].nh == vrrp.PROTOCOL:
        end = 54 + packet[IPv6].plen
        return _seen_vrrp(frame[54:end], packet, packet[IPv6], packet[IPv6].hlim)
    return _seen_nd(frame, packet)


def _seen_vrrp(payload: bytes, packet: Any, ip: Any, hop_limit: int) -> Seen:
    from scapy.layers.vrrp import VRRP, VRRPv3

    read = vrrp.decode(
        payload,
        source=_address(ip.src),
        destination=_address(ip.dst),
    )
    verdict = read.value if isinstance(read, Drop) else OK
    if _address(ip.dst).is_multicast and hop_limit != 255:
        verdict = Drop.TTL.value
    details: dict[str, object] = {
        "source": ip.src,
        "destination": ip.dst,
        "hop_limit": hop_limit,
    }
    words = [f"{ip.src} > {ip.dst}"]
    message = packet.getlayer(VRRP) or packet.getlayer(VRRPv3)
    if message is None:
        words.append(f"{len(payload)} bytes")
    else:
        is_v3 = isinstance(message, VRRPv3)
        interval_s = message.adv / 100 if is_v3 else float(message.adv)
        addresses = list(message.addrlist)
        details |= {
            "version": message.version,
            "virtual_router_id": message.vrid,
            "priority": message.priority,
            "advert_interval_s": interval_s,
            "addresses": addresses,
        }
        leaves = " (leaves)" if message.priority == 0 else ""
        words += [
            f"vrid {message.vrid}",
            f"priority {message.priority}{leaves}",
            f"each {interval_s:g} s",
            ",".join(addresses) or "no address",
        ]
    if isinstance(read, vrrp.Advert):
        details |= _auth(read)
        words.append(f"auth {details['auth']}")
        if "key_id" in details:
            words.append(f"key {details['key_id']} at {details['signed_at']}")
    return Seen(
        protocol="vrrp",
        kind=f"v{payload[0] >> 4}" if payload else "empty",
        mac=packet.src,
        text="  ".join(words),
        details=details,
        verdict=verdict,
    )


def _auth(advert: vrrp.Advert) -> dict[str, object]:
    """How an advert is authenticated. The password of v2 is never shown."""
    if advert.trailer:
        trailer = auth.parse(advert.trailer)
        if isinstance(trailer, Drop):
            return {"auth": f"hmac ({trailer.value})"}
        signed_at = datetime.fromtimestamp(trailer.stamp.utc_s, UTC)
        return {
            "auth": "hmac",
            "key_id": trailer.key_id,
            "signed_at": signed_at.isoformat(timespec="milliseconds"),
        }
    match advert.auth_type:
        case vrrp.AuthType.NONE:
            return {"auth": "none"}
        case vrrp.AuthType.PASS:
            return {"auth": "pass"}
    return {"auth": f"type {advert.auth_type}"}


def _seen_arp(frame: bytes, packet: Any) -> Seen:
    from scapy.layers.l2 import ARP

    message = packet[ARP]
    sender, target, mac = str(message.psrc), str(message.pdst), str(message.hwsrc)
    match message.op:
        case 1 if sender == "0.0.0.0":  # noqa: S104
            kind, text = "probe", f"{mac} asks whether {target} is in use"
        case 1 | 2 if sender == target:
            kind, text = "announcement", f"{sender} is at {mac}"
        case 1:
            kind, text = "request", f"{sender} at {mac} asks for {target}"
        case 2:
            kind, text = "reply", f"{sender} is at {mac}, told to {target}"
        case operation:
            kind, text = f"operation {operation}", f"from {mac}"
    return _seen_neighbour(frame, "arp", kind, packet.src, text)


def _seen_nd(frame: bytes, packet: Any) -> Seen:
    from scapy.layers.inet6 import (
        ICMPv6ND_NA,
        ICMPv6ND_NS,
        ICMPv6NDOptDstLLAddr,
        ICMPv6NDOptSrcLLAddr,
        IPv6,
    )

    if ICMPv6ND_NS in packet:
        source, target = packet[IPv6].src, packet[ICMPv6ND_NS].tgt
        option = packet.getlayer(ICMPv6NDOptSrcLLAddr)
        mac = option.lladdr if option else packet.src
        if source == "::":
            kind, text = "probe", f"{mac} asks whether {target} is in use"
        else:
            kind, text = "solicitation", f"{source} at {mac} asks for {target}"
    elif ICMPv6ND_NA in packet:
        message = packet[ICMPv6ND_NA]
        option = packet.getlayer(ICMPv6NDOptDstLLAddr)
        mac = option.lladdr if option else packet.src
        kind = "advertisement" if message.S else "announcement"
        text = f"{message.tgt} is at {mac}{', override' if message.O else ''}"
    else:
        kind, text = "unreadable", f"{len(frame)} bytes"
    return _seen_neighbour(frame, "nd", kind, packet.src, text)


def _seen_neighbour(frame: bytes, protocol: str, kind: str, sender: str, text: str) -> Seen:
    read = neighbour.decode(frame)
    details: dict[str, object] = {}
    if read is not None:
        details = {
            "claims": str(read.claims) if read.claims else None,
            "asks": str(read.asks) if read.asks else None,
            "at": read.mac.hex(":"),
        }
    return Seen(
        protocol=protocol,
        kind=kind,
        mac=sender,
        text=text,
        details=details,
        verdict=OK if read is not None else MALFORMED,
    )


def _address(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


def _open(interface: str | None) -> socket.socket:
    """A socket that gets what passes by.

    Raises:
        PermissionError: CAP_NET_RAW is missing.
        OSError: ENODEV, there is no such interface.
    """
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    try:
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *i) for i in _FILTER))
        program = struct.pack("@HL", len(_FILTER), ctypes.addressof(code))
        packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        if interface is not None:
            packets.bind((interface, _ETH_P_ALL))
        # Forget what came before the filter, or from other interfaces.
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.recv(1, socket.MSG_DONTWAIT)
        if interface is not None:
            # A host that is no VRRP router has not joined the group; its card may filter it.
            request = struct.pack(
                "@iHH8s", socket.if_nametoindex(interface), _PACKET_MR_ALLMULTI, 0, b""
            )
            packets.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)
    except BaseException:
        packets.close()
        raise
    return packets


def _frames(packets: socket.socket) -> Iterator[tuple[float, str, bool, bytes]]:
    """UTC seconds, interface, whether this host sent it, and the frame, as they come.

    Raises:
        BrokenPipeError: nobody reads standard output any more.
        OSError: ENETDOWN, the interface was removed.
    """
    poll = select.poll()
    poll.register(packets, select.POLLIN)
    # A pipe without a reader is otherwise noticed with the next packet only, if ever.
    poll.register(sys.stdout.fileno(), 0)
    is_bound = bool(packets.getsockname()[0])
    while True:
        ready = poll.poll(_LOOK_AFTER_INTERFACE_MS)
        # The kernel says that an interface went down, which may be for a moment, and is silent
        # about its removal then: the socket's name alone tells.
        if is_bound and not packets.getsockname()[0]:
            raise OSError(errno.ENETDOWN, "the interface was removed")
        for descriptor, _ in ready:
            if descriptor != packets.fileno():
                raise BrokenPipeError
            try:
                frame, ancillary, _, sender = packets.recvmsg(_LARGEST_FRAME, 64)
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise
                continue
            interface, _, packet_type, hardware_type = sender[:4]
            if hardware_type == _ARPHRD_ETHER:
                at = _stamp(ancillary)
                yield at, interface, packet_type == socket.PACKET_OUTGOING, frame


def _stamp(ancillary: list[tuple[int, int, bytes]]) -> float:
    """When the kernel got the frame, seconds of UTC."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return float(seconds + nanoseconds / 1e9)
    raise AssertionError("SO_TIMESTAMPNS is set, so every frame has its time")


def _line(at: float, interface: str, is_ours: bool, seen: Seen) -> str:
    time = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
    direction = "out" if is_ours else "in"
    name = f"{seen.protocol.upper()} {seen.kind}"
    return f"{time}  {interface:<8} {direction:<3}  {name:<16} {seen.text}  [{seen.verdict}]"


def _json(at: float, interface: str, is_ours: bool, seen: Seen) -> str:
    return json.dumps(
        {
            "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds"),
            "interface": interface,
            "direction": "out" if is_ours else "in",
            "protocol": seen.protocol,
            "kind": seen.kind,
            "mac": seen.mac,
            **seen.details,
            "verdict": seen.verdict,
        }
    )


def _cannot(why: str) -> int:
    print(f"havip watch: {why}", file=sys.stderr)
    return 2


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return number
