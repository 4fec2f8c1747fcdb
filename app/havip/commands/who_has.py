"""`havip who-has ADDRESS`: does exactly one host answer for it, and does it answer?

It asks as any neighbour does, by ARP or neighbour solicitation. This host is one of those that may
have the address: its kernel does not answer its own question, so the interfaces are looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from havip.commands.table import table
from havip.core.host import Host, Interface
from havip.sense.host import read_host
from havip.wire import arp, ethernet, ndp
from havip.wire.checksum import internet_checksum
from havip.wire.neighbour import Kind, decode

ONE, NOT_ONE, CANNOT_ASK = 0, 1, 2
ROUND_S: Final = 0.3
"""A neighbour answers within some milliseconds; in a planned move two answer for some more."""
ROUNDS: Final = 3
"""How many times in a row the same single host must have answered."""
CONNECT_S: Final = 2.0
MAC_BYTES: Final = 6
_ECHO: Final = {4: (8, 0), 6: (128, 129)}
"""ICMP's types of request and reply by address family."""
_EPILOG = """\
examples:
  havip who-has 192.0.2.10
  havip who-has --port 443 192.0.2.10 2001:db8::10

exit status:
  0  exactly one host answers for each address, and the address answers
  1  nobody does, or more than one, or the address does not answer; the output says which
  2  this host cannot ask
"""

Address = IPv4Address | IPv6Address


class CannotAskError(Exception):
    """This host has no way to ask for the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found out about one address."""

    address: Address
    interface: str
    hosts: tuple[str, ...]
    """Hardware addresses of those that answered at last."""
    is_here: bool
    """This host is one of them."""
    answer: str
    """What the address said to an echo or a connection; empty when it said nothing."""

    @property
    def problem(self) -> str:
        """What is wrong, or an empty text."""
        if not self.hosts:
            return "nobody has it"
        if len(self.hosts) > 1:
            return f"{len(self.hosts)} hosts have it"
        return "" if self.answer else "it does not answer"


def add_parser(subparsers: Any) -> None:
    """Add `who-has` and its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "who-has",
        help="ask the network who has a virtual IP, and whether it answers",
        description="Ask the network who has an address, as any neighbour does, and the address "
        "whether it answers. Changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+", type=_address)
    parser.add_argument(
        "--interface",
        metavar="IF",
        help="ask on this interface (default: the one whose subnet contains the address)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help="the address must accept a TCP connection here (default: answer an ICMP echo)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="seconds until the answers must be right [10]",
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and print what was found; the exit status says whether it is right."""
    until = time.monotonic() + arguments.timeout
    try:
        found = [_settle(address, arguments, until) for address in arguments.addresses]
    except CannotAskError as error:
        print(f"havip who-has: {error}", file=sys.stderr)
        return CANNOT_ASK
    if arguments.output == "json":
        print(json.dumps([_document(each) for each in found], indent=2))
    else:
        print(table([("ADDRESS", "INTERFACE", "HELD BY", "ANSWER", ""), *map(_row, found)]))
    return NOT_ONE if any(each.problem for each in found) else ONE


def _settle(address: Address, arguments: argparse.Namespace, until: float) -> Found:
    """What is found when it has been right for some rounds, or when time is up."""
    in_a_row = 0
    previous: tuple[str, ...] = ()
    while True:
        found = _ask(address, arguments.interface, arguments.addresses)
        in_a_row = in_a_row + 1 if found.hosts == previous else 1
        previous = found.hosts
        is_over = time.monotonic() >= until
        if len(found.hosts) == 1 and (in_a_row >= ROUNDS or is_over):
            port = arguments.port
            answer = _connection(address, port) if port else _echo(address, found.interface)
            found = replace(found, answer=answer)
        if is_over or not found.problem:
            return found


def _ask(address: Address, wanted: str | None, together: Sequence[Address]) -> Found:
    """One question and its answers.

    Raises:
        CannotAskError: there is no interface to ask on, or no right to.
    """
    host = read_host()
    interface = interface_for(host, address, wanted, together)
    source = _source(interface, address)
    hosts = {mac.hex(":") for mac in _answers(interface, source, address)}
    here = [
        each
        for each in host.interfaces
        if not each.is_loopback and any(own.interface.ip == address for own in each.addresses)
    ]
    hosts |= {each.mac.hex(":") for each in here}
    return Found(
        address=address,
        interface=interface.name,
        hosts=tuple(sorted(hosts)),
        is_here=bool(here),
        answer="",
    )


def interface_for(
    host: Host, address: Address, wanted: str | None, together: Sequence[Address] = ()
) -> Interface:
    """Where to ask for an address.

    Args:
        wanted: name of the interface, if it is given.
        together: addresses that are asked for at once. Every interface has fe80::/64: a link-local
            one is where the others are, as the daemon has it.

    Raises:
        CannotAskError: nowhere.
    """
    usable = {
        each.name: each
        for each in host.interfaces
        if len(each.mac) == MAC_BYTES and not each.is_loopback
    }
    if wanted is not None:
        if wanted not in usable:
            known = ", ".join(usable) or "none"
            raise CannotAskError(f"no interface {wanted!r} to ask on; there are: {known}")
        return usable[wanted]
    is_everywhere = _is_everywhere(address)
    for other in together if is_everywhere else ():
        if not _is_everywhere(other):
            return interface_for(host, other, None)
    homes = [
        (own.interface.network.prefixlen, -number, interface)
        for number, interface in enumerate(usable.values())
        for own in interface.addresses
        if own.interface.ip != address and address in own.interface.network and not is_everywhere
    ]
    if homes:
        return max(homes, key=lambda home: home[:2])[2]
    by_route = host.default_route_interfaces.get(address.version)
    if by_route not in usable:
        raise CannotAskError(
            f"no interface has a subnet that contains {address}; name one with --interface"
        )
    return usable[by_route]


def _is_everywhere(address: Address) -> bool:
    return address.version == 6 and address.is_link_local


def _source(interface: Interface, address: Address) -> Address:
    own = [
        each.interface
        for each in interface.addresses
        if each.interface.version == address.version and each.interface.ip != address
    ]
    # Neighbours are asked from the link-local address, which every interface has.
    fitting = [each for each in own if address in each.network] if address.version == 4 else []
    fitting = fitting or [each for each in own if each.ip.is_link_local] or own
    if not fitting:
        raise CannotAskError(f"{interface.name} has no IPv{address.version} address to ask from")
    return fitting[0].ip


def _answers(interface: Interface, source: Address, address: Address) -> Iterator[bytes]:
    """Hardware addresses of those that answer one question, as they come."""
    if isinstance(address, IPv4Address):
        assert isinstance(source, IPv4Address)
        protocol = ethernet.ARP
        question = arp.request(mac=interface.mac, source=source, target=address)
    else:
        assert isinstance(source, IPv6Address)
        protocol = ethernet.IPV6
        question = ndp.solicit(mac=interface.mac, source=source, target=address)
    try:
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    except PermissionError:
        raise CannotAskError(
            "asking needs CAP_NET_RAW: run it as root, or in a container with "
            "securityContext.capabilities.add: [NET_RAW]"
        ) from None
    with link:
        try:
            link.bind((interface.name, protocol))
            link.send(question)
            until = time.monotonic() + ROUND_S
            while _is_readable(link, until):
                frame, sender = link.recvfrom(2048)
                answer = decode(frame) if sender[2] != socket.PACKET_OUTGOING else None
                if answer and answer.kind is Kind.ANSWER and answer.claims == address:
                    yield answer.mac
        except OSError as error:
            raise CannotAskError(f"{interface.name}: {error.strerror}") from None


def _is_readable(link: socket.socket, until: float) -> bool:
    return bool(select.select([link], [], [], max(0.0, until - time.monotonic()))[0])


def _echo(address: Address, interface: str) -> str:
    """What became of an ICMP echo."""
    request, reply = _ECHO[address.version]
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP)
        if address.version == 4
        else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    identity = os.getpid().to_bytes(4)[2:] + b"\0\1"
    message = bytes((request, 0, 0, 0)) + identity
    if address.version == 4:
        checksum = internet_checksum(message).to_bytes(2)
        message = bytes((request, 0)) + checksum + identity
    started = time.monotonic()
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_RAW, protocol) as link:
        # A link-local address means nothing without its interface.
        scope = socket.if_nametoindex(interface) if address.is_link_local else 0
        link.sendto(message, _endpoint(address, 0, scope))
        while _is_readable(link, started + CONNECT_S):
            packet, sender = link.recvfrom(2048)
            header = (packet[0] & 0x0F) * 4 if address.version == 4 else 0
            if (
                ip_address(sender[0].partition("%")[0]) == address
                and packet[header : header + 1] == bytes((reply,))
                and packet[header + 4 : header + 8] == identity
            ):
                return f"echo in {(time.monotonic() - started) * 1000:.1f} ms"
    return ""


def _connection(address: Address, port: int) -> str:
    """What became of a TCP connection."""
    try:
        with socket.create_connection((str(address), port), timeout=CONNECT_S):
            return f"port {port} accepts"
    except OSError:
        return ""


def _endpoint(address: Address, port: int, scope: int) -> tuple[Any, ...]:
    return (str(address), port) if address.version == 4 else (str(address), port, 0, scope)


def _row(found: Found) -> tuple[object, ...]:
    holders = ", ".join(found.hosts) + (" (here)" if found.is_here else "")
    return (found.address, found.interface, holders or "-", found.answer or "-", found.problem)


def _document(found: Found) -> dict[str, Any]:
    return {
        "address": str(found.address),
        "interface": found.interface,
        "hosts": list(found.hosts),
        "is_here": found.is_here,
        "answer": found.answer,
        "problem": found.problem,
    }


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an IP address; write it like 192.0.2.10"
        ) from None


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to 3600")
    return seconds
