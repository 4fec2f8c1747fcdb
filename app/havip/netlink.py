"""Netlink by pyroute2: links, addresses and default routes as values, and requests.

The kernel speaks it in messages of a fixed part and attributes (netlink(7), rtnetlink(7)).
pyroute2 knows them; the sockets here are plain ones, because of what its own do in 0.9: each
runs an asyncio loop, which cannot be asked from within another, waits for an answer without
end, and takes no more after one ENOBUFS. A VIP must come back after such a moment.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)
from typing import Any, Final, Self, TypeVar

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nlmsg,
)
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    rt_type,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP, ifinfbase
from pyroute2.netlink.rtnl.rtmsg import rtmsg

DATAGRAM_BYTES: Final = 64 << 10
"""Holds whatever the kernel puts into one datagram."""
FOREVER: Final = 0xFFFFFFFF
"""A lifetime without end."""
FAMILY: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

_VERSION = {family: version for version, family in FAMILY.items()}
_OPERSTATES_UP = (0, 6)
"""RFC 2863 `unknown`, which drivers without link detection report for ever, and `up`."""
_RT_TABLE_MAIN = 254
_ROUTE_CHANGES = (RTM_NEWROUTE, RTM_DELROUTE)
_REMOVALS = (RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE)
_PREFIX_LENGTH_OFFSET = 17
_SO_SNDBUFFORCE = 32
"""asm-generic/socket.h"""
_ANSWER_TIMEOUT_S = 5.0
_DUMP_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    index: int
    name: str
    mac: bytes
    is_up: bool
    """Administratively up, with carrier, and not held down by what it stands on."""
    is_admin_up: bool
    is_loopback: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    index: int
    interface: IPv4Interface | IPv6Interface
    flags: int
    """IFA_F_…"""
    preferred_s: int
    valid_s: int
    """Seconds that are left; FOREVER without end."""
    changed_cs: int
    """When it was last set, in 1/100 s of the kernel's clock."""
    mark: int
    """IFA_PROTO, 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRoute:
    """A unicast default route of the main table."""

    version: int
    """Of IP."""
    metric: int
    hops: tuple[tuple[int, IPv4Address | IPv6Address | None], ...]
    """Interface index and gateway of each."""


Subject = Link | Address | DefaultRoute
_Subject = TypeVar("_Subject", Link, Address, DefaultRoute)
_Parser = Callable[[bytes, int, int], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a notification tells."""

    subject: Subject
    is_removal: bool
    is_replacement: bool
    """It takes the place of what was there (NLM_F_REPLACE)."""
    port_id: int
    """Of who asked for the change; 0 is the kernel itself."""


class Requests:
    """A netlink socket on which one request after the other is made; each blocks.

    Args:
        protocol: NETLINK_…
        classes: pyroute2's message classes for the kinds of answers that are wanted.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, protocol: int, classes: Mapping[int, type] | None = None) -> None:
        self._marshal = _Marshal(classes or {})
        self._sequence = 0
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        try:
            self._sock.settimeout(_ANSWER_TIMEOUT_S)
            self._sock.bind((0, 0))
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port_id(self) -> int:
        """By which the kernel's notifications name who asked for a change."""
        port_id: int = self._sock.getsockname()[0]
        return port_id

    def close(self) -> None:
        self._sock.close()

    def ask(self, message: Any, kind: int, flags: int) -> None:
        """Send a request, with NLM_F_ACK among its flags, and wait until it is done.

        Raises:
            OSError: with the errno that the kernel answers; ETIMEDOUT without an answer.
        """
        self._exchange(message, kind, flags)

    def ask_at_once(self, requests: Iterable[tuple[Any, int, int]]) -> None:
        """Send requests in one datagram, as a transaction is, and wait until they are done.

        Args:
            requests: each with its kind and flags. Of those that succeed only they are told that
                have NLM_F_ACK: at least one of the last.

        Raises:
            OSError: as `ask`, of the first that fails.
        """
        first = self._sequence + 1
        datagram, awaited = b"", set()
        for message, kind, flags in requests:
            datagram += self._encode(message, kind, flags)
            if flags & NLM_F_ACK:
                awaited.add(self._sequence)
        # The kernel refuses what is larger than the buffer (EMSGSIZE), by default some 200 KiB.
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(datagram))
        self._sock.send(datagram)
        while awaited:
            for answer in self._receive():
                if answer["header"]["sequence_number"] >= first:
                    _raise_error(answer)
                    awaited.discard(answer["header"]["sequence_number"])

    def dump(self, message: Any, kind: int) -> list[Any]:
        """All messages that answer a request for everything.

        Raises:
            OSError: as `ask`.
        """
        for _ in range(_DUMP_ATTEMPTS):
            found = self._exchange(message, kind, NLM_F_DUMP)
            if not any(each["header"]["flags"] & NLM_F_DUMP_INTR for each in found):
                break
        # Still interrupted: what changed meanwhile is told by the notifications too.
        return [each for each in found if each["header"]["type"] != NLMSG_DONE]

    def _exchange(self, message: Any, kind: int, flags: int) -> list[Any]:
        self._sock.send(self._encode(message, kind, flags))
        found = []
        while True:
            for answer in self._receive():
                if answer["header"]["sequence_number"] != self._sequence:
                    continue
                found.append(answer)
                if answer["header"]["type"] in (NLMSG_ERROR, NLMSG_DONE):
                    _raise_error(answer)
                    return found

    def _encode(self, message: Any, kind: int, flags: int) -> bytes:
        """The request as bytes, with the next number."""
        self._sequence += 1
        message.reset()
        message["header"] = {
            "type": kind,
            "flags": flags | NLM_F_REQUEST,
            "sequence_number": self._sequence,
        }
        message.encode()
        return bytes(message.data)

    def _receive(self) -> list[Any]:
        try:
            datagram = self._sock.recv(DATAGRAM_BYTES)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error
        return [*_messages(self._marshal, datagram)]


def _raise_error(end: Any) -> None:
    if number := -end["error"]:
        raise OSError(number, os.strerror(number))


def changes(datagram: bytes) -> Iterator[Change]:
    """The links, addresses and default routes that a notification tells of.

    Ends where the bytes make no sense.
    """
    for message in _messages(_notifications, datagram):
        header = message["header"]
        if (subject := _subject(message)) is not None:
            yield Change(
                subject=subject,
                is_removal=header["type"] in _REMOVALS,
                is_replacement=bool(header["flags"] & NLM_F_REPLACE),
                port_id=header["pid"],
            )


def dump_links() -> list[Link]:
    """All links.

    Raises:
        OSError: no answer in time, or an error in its place.
    """
    return _dump(RTM_GETLINK, _LinkMessage(), _link)


def dump_addresses() -> list[Address]:
    """All IPv4 and IPv6 addresses, in the kernel's order; raises as `dump_links`."""
    return _dump(RTM_GETADDR, ifaddrmsg(), _address)


def dump_default_routes() -> list[DefaultRoute]:
    """All default routes; raises as `dump_links`."""
    request = rtmsg()
    request["family"] = socket.AF_UNSPEC
    return _dump(RTM_GETROUTE, request, _default_route)


def _dump(kind: int, message: Any, decode: Callable[[Any], _Subject | None]) -> list[_Subject]:
    with Requests(socket.NETLINK_ROUTE, _ROUTE_CLASSES) as requests:
        decoded = map(decode, requests.dump(message, kind))
        return [each for each in decoded if each is not None]


class _LinkMessage(ifinfbase, nlmsg):
    """A link's few attributes of interest; pyroute2's own class takes any MAC for 6 bytes."""

    nla_map = (
        (1, "IFLA_ADDRESS", "cdata"),
        (3, "IFLA_IFNAME", "cdata"),
        (16, "IFLA_OPERSTATE", "uint8"),
    )


class _EndMessage(nlmsg):
    """An answer's end; pyroute2's own class would raise the error that it may tell."""

    fields = (("error", "i"),)


_ROUTE_CLASSES: Final = {
    RTM_NEWLINK: _LinkMessage,
    RTM_DELLINK: _LinkMessage,
    RTM_NEWADDR: ifaddrmsg,
    RTM_DELADDR: ifaddrmsg,
    RTM_NEWROUTE: rtmsg,
    RTM_DELROUTE: rtmsg,
}


class _Marshal(Marshal):
    """pyroute2's reader of datagrams, for some kinds of messages."""

    error_type = None

    def __init__(self, classes: Mapping[int, type]) -> None:
        super().__init__()
        self.msg_map = {NLMSG_ERROR: _EndMessage, NLMSG_DONE: _EndMessage, **classes}

    def get_parser(self, key: int, flags: int, sequence_number: int) -> _Parser:
        parse: _Parser = super().get_parser(key, flags, sequence_number)

        def parse_default_route(data: bytes, offset: int, length: int) -> Any:
            at = offset + _PREFIX_LENGTH_OFFSET
            return parse(data, offset, length) if data[at : at + 1] == b"\0" else None

        # A node that speaks BGP has routes by the hundred thousand. Of those to a network only
        # one matters that says that the dump is inconsistent.
        if key in _ROUTE_CHANGES and not flags & NLM_F_DUMP_INTR:
            return parse_default_route
        return parse


_notifications = _Marshal(_ROUTE_CLASSES)


def _messages(marshal: Marshal, datagram: bytes) -> Iterator[Any]:
    # Attributes are read when they are asked for; one that makes no sense is its bytes then.
    with contextlib.suppress(struct.error):
        yield from marshal.parse(datagram)


def _subject(message: Any) -> Subject | None:
    match message:
        case _LinkMessage():
            return _link(message)
        case ifaddrmsg():
            return _address(message)
        case rtmsg():
            return _default_route(message)
    return None


def _link(message: Any) -> Link | None:
    """A link; None for what bridges tell of their ports under AF_BRIDGE."""
    name = message.get_attr("IFLA_IFNAME")
    if message["family"] != socket.AF_UNSPEC or name is None:
        return None
    flags = message["flags"]
    is_admin_up = bool(flags & IFF_UP)
    operstate = message.get_attr("IFLA_OPERSTATE", 0)
    return Link(
        index=message["index"],
        name=bytes(name).rstrip(b"\0").decode(errors="replace"),
        mac=bytes(message.get_attr("IFLA_ADDRESS", b"")),
        is_up=is_admin_up and bool(flags & IFF_LOWER_UP) and operstate in _OPERSTATES_UP,
        is_admin_up=is_admin_up,
        is_loopback=bool(flags & IFF_LOOPBACK),
    )


def _address(message: Any) -> Address | None:
    """An IPv4 or IPv6 address, None if the message holds no such."""
    # Where both are there, IFA_ADDRESS is the far end of a point-to-point link.
    address = _ip(message.get_attr("IFA_LOCAL")) or _ip(message.get_attr("IFA_ADDRESS"))
    if address is None or message["prefixlen"] > address.max_prefixlen:
        return None
    lifetimes = message.get_attr("IFA_CACHEINFO")
    if not isinstance(lifetimes, dict):
        lifetimes = {"ifa_preferred": FOREVER, "ifa_valid": FOREVER, "tstamp": 0}
    return Address(
        index=message["index"],
        interface=ip_interface((address, message["prefixlen"])),
        flags=_integer(message, "IFA_FLAGS", message["flags"]),
        preferred_s=lifetimes["ifa_preferred"],
        valid_s=lifetimes["ifa_valid"],
        changed_cs=lifetimes["tstamp"],
        mark=_integer(message, "IFA_PROTO", 0),
    )


def _default_route(message: Any) -> DefaultRoute | None:
    """A default route, None for every other route."""
    version = _VERSION.get(message["family"])
    if (
        version is None
        or message["dst_len"] != 0
        or _integer(message, "RTA_TABLE", message["table"]) != _RT_TABLE_MAIN
        or message["type"] != rt_type["unicast"]
    ):
        return None
    hops = []
    if index := _integer(message, "RTA_OIF", 0):
        hops.append((index, _gateway(message)))
    next_hops = message.get_attr("RTA_MULTIPATH")
    if isinstance(next_hops, list):
        hops.extend((each["oif"], _gateway(each)) for each in next_hops)
    return DefaultRoute(
        version=version, metric=_integer(message, "RTA_PRIORITY", 0), hops=tuple(hops)
    )


def _gateway(hop: Any) -> IPv4Address | IPv6Address | None:
    # RTA_VIA carries the gateway of an IPv4 route that is an IPv6 neighbour (RFC 5549).
    via = hop.get_attr("RTA_VIA")
    return _ip(hop.get_attr("RTA_GATEWAY")) or (_ip(via["addr"]) if isinstance(via, dict) else None)


def _integer(message: Any, name: str, default: int) -> int:
    value = message.get_attr(name)
    return value if isinstance(value, int) else default


def _ip(text: object) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None
