"""Links, addresses and default gateways of this host: a picture of them, and their changes.

The kernel tells changes by rtnetlink (rtnetlink(7)). Two things about it shape this module.
When the receiver was too slow the kernel says ENOBUFS and what it told meanwhile is lost, so
that the whole state has to be asked for again and compared. And a notification carries the
port id of who asked for the change, 0 for the kernel itself, but for IPv6 addresses that is
always 0 (net/ipv6/addrconf.c, inet6_ifa_notify): there the age of the address tells whether its
lifetime had ended, and whoever removes addresses in this process tells which ones.

To ask for the whole state takes long where there is much of it (a node has a link for each pod,
and maybe a full routing table): a thread does it while the notifications go on. What they tell
meanwhile is newer than the answer, or will be put right by a notification that is to come.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final

from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import (
    IFA_F_DADFAILED,
    IFA_F_NOPREFIXROUTE,
    IFA_F_OPTIMISTIC,
    IFA_F_SECONDARY,
    IFA_F_TENTATIVE,
)

from havip import netlink
from havip.core.events import AddressAdded, AddressRemoved, GatewaysChanged, LinkChanged, Removal
from havip.core.host import HAVIP_MARK, Gateway, Host, HostAddress, Interface
from havip.core.timers import VALID_LIFETIME_S
from havip.netlink import Address, Change, DefaultRoute, Link
from havip.sense import filters
from havip.sense.threads import step_behind_the_loop

HostEvent = LinkChanged | AddressAdded | AddressRemoved | GatewaysChanged

_GROUPS: Final = (
    RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
)
_BUFFER_BYTES = 4 << 20
_SO_RCVBUFFORCE = 33
_ASK_AGAIN_S = 1.0
"""After the kernel did not answer, or had no memory for it."""
_ROUNDING_S = 0.25
"""The kernel tells times in ticks, ends lifetimes some ticks early, and is read late."""


def read_host() -> Host:
    """A picture of this host's network, taken by asking the kernel three times.

    Raises:
        OSError: the kernel does not answer.
    """
    answer = _ask()
    routes = sorted(answer.routes, key=lambda route: route.metric)
    names = {link.index: link.name for link in answer.links}
    addresses: dict[int, list[HostAddress]] = {}
    for each in answer.addresses:
        addresses.setdefault(each.index, []).append(_describe(each))
    gateways: dict[Gateway, None] = {}
    default_route_interfaces: dict[int, str] = {}
    for route in routes:
        for index, gateway in route.hops:
            if (name := names.get(index)) is None:
                continue
            default_route_interfaces.setdefault(route.version, name)
            if gateway is not None:
                gateways[Gateway(interface=name, address=gateway)] = None
    return Host(
        interfaces=tuple(
            Interface(
                name=link.name,
                index=link.index,
                mac=link.mac,
                is_up=link.is_up,
                is_loopback=link.is_loopback,
                addresses=tuple(addresses.get(link.index, ())),
            )
            for link in answer.links
        ),
        gateways=tuple(gateways),
        default_route_interfaces=default_route_interfaces,
    )


class HostWatch:
    """Changes of some interfaces, by name, as events.

    An interface may vanish and come back as another one of the same name; that is told as link
    down and link up. IPv6 addresses exist for the watcher once they may be used (no longer
    tentative).

    Args:
        interfaces: names; they need not exist.
        own_port_id: of the netlink socket by which this process changes addresses.
        take_removal: whether this process has just removed that IPv6 address from that
            interface; asked once for each removal that the kernel tells.
    """

    def __init__(
        self,
        interfaces: Collection[str],
        own_port_id: int,
        take_removal: Callable[[str, IPv6Interface], bool] = lambda _name, _address: False,
    ) -> None:
        self._own_port_id = own_port_id
        self._take_removal = take_removal
        self._kernel_clock_s = 1.0
        """What is to be added to the kernel's time stamps to get monotonic instants. No
        notification is read before it is written, so the least difference is the nearest; it
        is some tenths of a second, since the ticks start a little late at boot."""
        self._states = {name: _InterfaceState(name=name) for name in interfaces}
        self._names: dict[int, str] = {}
        self._routes: dict[tuple[int, int], set[_Hop]] = {}
        self._is_incomplete = False
        self._asked: Future[_Answer] | None = None
        self._told_since = _Told()
        self._is_closed = threading.Event()
        self._asker = ThreadPoolExecutor(
            1, thread_name_prefix="havip-dump", initializer=step_behind_the_loop
        )
        self._answered = -1
        self._lock = threading.Lock()
        self._sock = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            self._answered = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            filters.attach(self._sock, filters.default_routes_only())
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            except PermissionError:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._sock.bind((0, _GROUPS))
        except BaseException:
            self.close()
            raise

    @property
    def interfaces(self) -> frozenset[str]:
        """The names that are watched."""
        return frozenset(self._states)

    def filenos(self) -> tuple[int, int]:
        """One of them is readable when `read_all` has something to tell."""
        return self._sock.fileno(), self._answered

    def close(self) -> None:
        """An answer that is still waited for is not told any more."""
        self._is_closed.set()
        self._asker.shutdown(wait=False)
        self._sock.close()
        with self._lock:
            if self._answered >= 0:
                os.close(self._answered)
            self._answered = -1

    def initial_events(self) -> list[HostEvent]:
        """The state of every watched interface, whether it exists or not.

        Blocks: for the start, or from a thread, before anything else is read.

        Raises:
            OSError: the kernel does not answer.
        """
        events = self._compare(_ask())
        self._is_incomplete = False
        told = {event.interface for event in events if isinstance(event, LinkChanged)}
        missing = [
            LinkChanged(interface=name, is_up=False, mac=b"")
            for name in self._states
            if name not in told
        ]
        return [*missing, *events]

    def read_all(self) -> list[HostEvent]:
        """Read until nothing is left. After a loss, the difference is told once it is known."""
        events: list[HostEvent] = []
        while True:
            try:
                datagram, (sender, _) = self._sock.recvfrom(netlink.DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # What is queued behind the loss still tells who did it, so it is read first.
                self._is_incomplete = True
                continue
            if sender == 0:
                for change in netlink.changes(datagram):
                    events.extend(self._handle(change))
        # Only now: what the notifications tell is newer than the answer.
        if (answer := self._take_answer()) is not None:
            events.extend(self._compare(answer))
        if self._is_incomplete and self._asked is None:
            self._is_incomplete = False
            self._told_since = _Told()
            self._asked = self._asker.submit(self._ask_until_answered)
            self._asked.add_done_callback(self._wake)
        return events

    def _take_answer(self) -> _Answer | None:
        try:
            os.eventfd_read(self._answered)
        except BlockingIOError:
            return None
        assert self._asked is not None
        answer = self._asked.result()
        self._asked = None
        return answer

    def _ask_until_answered(self) -> _Answer:
        while True:
            try:
                return _ask()
            except OSError:
                if self._is_closed.wait(_ASK_AGAIN_S):
                    raise

    def _wake(self, _: object) -> None:
        with self._lock:
            if self._answered >= 0:
                os.eventfd_write(self._answered, 1)

    def _handle(self, change: Change) -> Iterator[HostEvent]:
        if self._asked is not None:
            self._told_since.note(change.subject)
        match change.subject:
            case Link() as link if change.is_removal:
                yield from self._link_gone(link.index)
            case Link() as link:
                yield from self._link_seen(link)
            case Address() as address if change.is_removal:
                yield from self._address_removed(address, change.port_id)
            case Address() as address:
                offset_s = time.monotonic() - address.changed_cs / 100
                self._kernel_clock_s = min(self._kernel_clock_s, offset_s)
                yield from self._address_seen(address, address.valid_s)
            case DefaultRoute() as route:
                self._route_changed(route, change)
                yield from self._gateways_changed()

    def _link_seen(self, link: Link) -> Iterator[HostEvent]:
        if self._names.get(link.index, link.name) != link.name:
            yield from self._link_gone(link.index)
        state = self._states.get(link.name)
        if state is None:
            return
        if state.index != link.index:
            yield from self._link_gone(state.index)
            state.index = link.index
            self._names[link.index] = link.name
            # It may have been renamed, with addresses that nobody told about.
            self._is_incomplete = True
        state.is_admin_up = link.is_admin_up
        if not link.is_admin_up:
            self._told_since.are_routes_told = True
            # The kernel drops these routes without a notification.
            for hops in self._routes.values():
                hops -= {hop for hop in hops if hop[0] == link.index}
        event = LinkChanged(interface=link.name, is_up=link.is_up, mac=link.mac)
        if event != state.told:
            state.told = event
            yield event
        yield from self._gateways_changed()

    def _link_gone(self, index: int) -> Iterator[HostEvent]:
        name = self._names.pop(index, None)
        if name is None:
            return
        state = self._states[name]
        for interface in list(state.addresses):
            yield self._forget(state, interface, Removal.FOREIGN)
        state.index = 0
        state.told = LinkChanged(interface=name, is_up=False, mac=b"")
        yield state.told
        yield from self._gateways_changed()

    def _address_seen(self, address: Address, lifetime_s: float) -> Iterator[HostEvent]:
        state = self._state(address.index)
        described = _describe(address)
        if state is None or described.is_tentative:
            return
        known = state.addresses.get(address.interface)
        state.addresses[address.interface] = _Known(described, address.changed_cs, lifetime_s)
        if known is None or known.described != described or described.is_ours:
            yield AddressAdded(
                interface=state.name,
                address=address.interface,
                is_ours=described.is_ours,
                is_permanent=described.is_permanent,
            )

    def _address_removed(self, address: Address, port_id: int) -> Iterator[HostEvent]:
        state = self._state(address.index)
        if state is None or (known := state.addresses.get(address.interface)) is None:
            return
        by = Removal.FOREIGN
        if address.interface.version == 4:
            if port_id == self._own_port_id:
                by = Removal.OURS
            elif port_id == 0 and self._can_expire(state, known):
                by = Removal.EXPIRED
        elif self._take_removal(state.name, address.interface):
            by = Removal.OURS
        elif self._can_expire(state, known) and (address.valid_s == 0 or self._is_over(known)):
            by = Removal.EXPIRED
        yield self._forget(state, address.interface, by)

    def _can_expire(self, state: _InterfaceState, known: _Known) -> bool:
        # Of a link that goes down the kernel removes addresses too.
        return not known.described.is_permanent and state.is_admin_up

    def _is_over(self, known: _Known) -> bool:
        return self._age_s(known.changed_cs) > known.lifetime_s - _ROUNDING_S

    def _age_s(self, changed_cs: int) -> float:
        return time.monotonic() - changed_cs / 100 - self._kernel_clock_s

    def _forget(
        self, state: _InterfaceState, interface: IPv4Interface | IPv6Interface, by: Removal
    ) -> AddressRemoved:
        del state.addresses[interface]
        return AddressRemoved(interface=state.name, address=interface, by=by)

    def _route_changed(self, route: DefaultRoute, change: Change) -> None:
        hops = self._routes.setdefault((route.version, route.metric), set())
        if change.is_removal:
            hops.difference_update(route.hops)
            return
        if change.is_replacement:
            hops.clear()
        hops.update(route.hops)

    def _gateways_changed(self) -> Iterator[HostEvent]:
        for state in self._states.values():
            gateways = tuple(
                dict.fromkeys(
                    gateway
                    for _, hops in sorted(self._routes.items())
                    for index, gateway in sorted(hops, key=str)
                    if gateway is not None and index == state.index
                )
            )
            if gateways != state.gateways:
                state.gateways = gateways
                yield GatewaysChanged(interface=state.name, gateways=gateways)

    def _state(self, index: int) -> _InterfaceState | None:
        return self._states.get(self._names.get(index, ""))

    def _compare(self, answer: _Answer) -> list[HostEvent]:
        """What the kernel's answer tells beyond what was heard before it was asked, and since."""
        since, self._told_since = self._told_since, _Told()
        is_incomplete = self._is_incomplete or since.are_routes_told
        if not since.are_routes_told:
            self._routes.clear()
            for route in answer.routes:
                self._routes.setdefault((route.version, route.metric), set()).update(route.hops)
        events: list[HostEvent] = []
        for index in self._names.keys() - {link.index for link in answer.links} - since.links:
            events.extend(self._link_gone(index))
        for link in answer.links:
            if link.index not in since.links:
                events.extend(self._link_seen(link))
        present = {(address.index, address.interface) for address in answer.addresses}
        present |= since.addresses
        for state in self._states.values():
            for interface, known in list(state.addresses.items()):
                if (state.index, interface) not in present:
                    is_over = self._can_expire(state, known) and self._is_over(known)
                    by = Removal.EXPIRED if is_over else Removal.FOREIGN
                    events.append(self._forget(state, interface, by))
        for address in answer.addresses:
            if (address.index, address.interface) in since.addresses:
                continue
            state_of = self._state(address.index)
            known_of = state_of.addresses.get(address.interface) if state_of else None
            if known_of is None or known_of.changed_cs != address.changed_cs:
                # A dump tells what is left of the lifetime, not when the address was set.
                elapsed_s = max(0, int(self._age_s(address.changed_cs)))
                events.extend(self._address_seen(address, address.valid_s + elapsed_s))
        events.extend(self._gateways_changed())
        # A link that is new here has its addresses in the same answer.
        self._is_incomplete = is_incomplete
        return events


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The kernel's, when it was asked for everything."""

    links: list[Link]
    addresses: list[Address]
    routes: list[DefaultRoute]


def _ask() -> _Answer:
    return _Answer(
        links=netlink.dump_links(),
        addresses=netlink.dump_addresses(),
        routes=netlink.dump_default_routes(),
    )


@dataclass(slots=True)
class _Told:
    """What notifications told of since the kernel was asked, and the answer may not know."""

    links: set[int] = field(default_factory=set)
    addresses: set[tuple[int, IPv4Interface | IPv6Interface]] = field(default_factory=set)
    are_routes_told: bool = False

    def note(self, subject: Link | Address | DefaultRoute) -> None:
        match subject:
            case Link():
                self.links.add(subject.index)
            case Address():
                self.addresses.add((subject.index, subject.interface))
            case DefaultRoute():
                self.are_routes_told = True


_Hop = tuple[int, IPv4Address | IPv6Address | None]


@dataclass(frozen=True, slots=True)
class _Known:
    described: HostAddress
    changed_cs: int
    lifetime_s: float


@dataclass(slots=True)
class _InterfaceState:
    """What was last told of one watched interface."""

    name: str
    index: int = 0
    is_admin_up: bool = False
    told: LinkChanged | None = None
    addresses: dict[IPv4Interface | IPv6Interface, _Known] = field(default_factory=dict)
    gateways: tuple[IPv4Address | IPv6Address, ...] | None = None


def _describe(address: Address) -> HostAddress:
    is_permanent = address.valid_s == netlink.FOREVER
    # Kernels before 5.18 keep no mark. Nobody else combines the three that we set, or asks for
    # a lifetime this short.
    is_unmarked_ours = (
        address.mark == 0
        and not is_permanent
        and address.preferred_s == 0
        and (
            (
                bool(address.flags & IFA_F_NOPREFIXROUTE)
                and address.interface.network.prefixlen == address.interface.max_prefixlen
            )
            or address.valid_s <= VALID_LIFETIME_S
        )
    )
    is_tentative = bool(address.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
    return HostAddress(
        interface=address.interface,
        is_permanent=is_permanent,
        is_deprecated=address.preferred_s == 0,
        is_ours=address.mark == HAVIP_MARK or is_unmarked_ours,
        is_tentative=is_tentative and not address.flags & IFA_F_OPTIMISTIC,
        is_secondary=address.interface.version == 4 and bool(address.flags & IFA_F_SECONDARY),
    )
