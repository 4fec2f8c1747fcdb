"""Who has the VIP, and since when: netlink events of every host, on one clock.

The kernel tells each change of an address on a netlink socket, and one socket hears all hosts: the
order between hosts is the kernel's own, however late it is read. Whoever asks is told what the
kernel has told up to then, not what a thread has got round to reading. Only the instant of an event
is that of its reading, which a thread in real time does at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from havip.netlab.namespace import LabError, be_punctual, inside, run

_SO_RCVBUFFORCE = 33
_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID = 270, 8
_NSID = struct.Struct("=i")
_RTM_NEWADDR, _RTM_DELADDR = 20, 21
_RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x10, 0x100
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class VipEvent:
    """An address came or went; renewals of one that is there are not events."""

    at: float
    """Monotonic seconds."""
    host: str
    address: IPv4Address | IPv6Address
    present: bool
    port_id: int = 0
    """Netlink port of who did it; 0 on removal: the kernel, because the lifetime ended."""


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """The lab froze, killed or revived a host's daemon: from then on its VIP is stale, or not."""

    at: float
    host: str
    alive: bool


@dataclass(frozen=True, slots=True)
class Held:
    """How long the VIP had how many holders, seconds. Stale addresses are not holders."""

    one_s: float
    two_s: float
    none_s: float
    stale_s: float
    """Some dead or frozen daemon's address was still there."""
    holders: tuple[str, ...]
    """At the end."""


def parse(data: bytes) -> list[tuple[bool, IPv4Address | IPv6Address, int]]:
    """(present, address, port id) of each address message in a netlink datagram."""
    found = []
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, port_id = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            break
        if kind in (_RTM_NEWADDR, _RTM_DELADDR):
            attributes: dict[int, bytes] = {}
            at = offset + _HEADER.size + _IFADDRMSG.size
            while at + _ATTRIBUTE.size <= offset + length:
                size, name = _ATTRIBUTE.unpack_from(data, at)
                if size < _ATTRIBUTE.size:
                    break
                attributes[name] = data[at + _ATTRIBUTE.size : at + size]
                at += (size + 3) & ~3
            packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
            if packed is not None and len(packed) in (4, 16):
                found.append((kind == _RTM_NEWADDR, ip_address(packed), port_id))
        offset += (length + 3) & ~3
    return found


class Watch:
    """Follows the addresses of hosts, from before they get their first one.

    Args:
        namespace: where the socket is; it must last as long as the watch.
        hosts: namespaces to follow, by the names of their hosts.
    """

    def __init__(self, namespace: str, hosts: Mapping[str, str]) -> None:
        self.events: list[VipEvent | LifeEvent] = []
        self._hosts = dict(enumerate(hosts))
        self._present: dict[str, set[IPv4Address | IPv6Address]] = {name: set() for name in hosts}
        self._dead: set[str] = set()
        self._changed = threading.Condition()
        # The kernel tells a socket of namespaces that have a number in its own.
        lines = [f"netns set {each} {number}\n" for number, each in enumerate(hosts.values())]
        run(("ip", "-netns", namespace, "-batch", "-"), "".join(lines))
        self._socket = inside(namespace, self._open)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._thread.start()

    @staticmethod
    def _open() -> socket.socket:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        netlink.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        netlink.bind((0, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        netlink.setblocking(False)
        return netlink

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        os.write(self._wake_write, b"q")
        self._thread.join()
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def mark(self, host: str, *, alive: bool) -> None:
        """Tell that the host's daemon was stopped from acting, or acts again."""
        with self._changed:
            self._read()
            if alive == (host not in self._dead):
                return
            (self._dead.discard if alive else self._dead.add)(host)
            self.events.append(LifeEvent(time.monotonic(), host, alive))
            self._changed.notify_all()

    def has(self, host: str, address: IPv4Address | IPv6Address) -> bool:
        with self._changed:
            self._read()
            return address in self._present.get(host, ())

    def holders(
        self, address: IPv4Address | IPv6Address, *, with_stale: bool = False
    ) -> tuple[str, ...]:
        """Hosts that have the address now; those of dead daemons only `with_stale`."""
        with self._changed:
            self._read()
            return tuple(
                host
                for host, present in self._present.items()
                if address in present and (with_stale or host not in self._dead)
            )

    def vip_events(self, address: IPv4Address | IPv6Address) -> list[VipEvent]:
        """Every coming and going of the address so far."""
        with self._changed:
            self._read()
            return [
                event
                for event in self.events
                if isinstance(event, VipEvent) and event.address == address
            ]

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float, what: str = "") -> float:
        """Block until `predicate` holds, asked again at every event.

        Returns:
            The monotonic instant of the event that made it true (now, if it held already).

        Raises:
            LabError: it did not become true in time.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            if predicate():
                return time.monotonic()
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    if predicate():
                        return time.monotonic()
                    told = what or "what was awaited"
                    raise LabError(f"{told}: not within {timeout_s:g} s\n{self.story()}")
                if predicate():
                    return self.events[-1].at

    def wait_for_holder(
        self,
        address: IPv4Address | IPv6Address,
        *hosts: str,
        timeout_s: float = 20,
    ) -> float:
        """Block until exactly one live holder is there, one of `hosts` if any are named."""

        def alone() -> bool:
            holders = self.holders(address)
            return len(holders) == 1 and (not hosts or holders[0] in hosts)

        wanted = " or ".join(hosts) or "one host"
        return self.wait_for(alone, timeout_s, f"{address} on {wanted} alone")

    def wait_until_gone(
        self, address: IPv4Address | IPv6Address, *hosts: str, timeout_s: float = 20
    ) -> float:
        """Block until none of `hosts` (default: all) has the address, stale ones included."""

        def gone() -> bool:
            holders = self.holders(address, with_stale=True)
            return not (set(holders) & set(hosts) if hosts else holders)

        where = " and ".join(hosts) or "every host"
        return self.wait_for(gone, timeout_s, f"{address} gone from {where}")

    def held(
        self, address: IPv4Address | IPv6Address, since_at: float, until_at: float | None = None
    ) -> Held:
        """Add up how long how many live hosts had the address."""
        with self._changed:
            self._read()
            events = list(self.events)
        until_at = time.monotonic() if until_at is None else until_at
        spent = {"one": 0.0, "two": 0.0, "none": 0.0, "stale": 0.0}
        having: set[str] = set()
        dead: set[str] = set()
        last_at = since_at
        for event in [*events, None]:
            now = until_at if event is None else event.at
            step_s = max(0.0, min(now, until_at) - last_at)
            live = having - dead
            spent["none" if not live else "one" if len(live) == 1 else "two"] += step_s
            if having & dead:
                spent["stale"] += step_s
            last_at = max(last_at, min(now, until_at))
            if event is None or event.at > until_at:
                break
            if isinstance(event, LifeEvent):
                (dead.discard if event.alive else dead.add)(event.host)
            elif event.address == address:
                (having.add if event.present else having.discard)(event.host)
        return Held(
            one_s=spent["one"],
            two_s=spent["two"],
            none_s=spent["none"],
            stale_s=spent["stale"],
            holders=tuple(sorted(having - dead)),
        )

    def story(self, since_at: float = 0.0) -> str:
        """The events as lines, for a person who asks what happened."""
        lines = []
        with self._changed:
            self._read()
            events = list(self.events)
        for event in events:
            if event.at < since_at:
                continue
            if isinstance(event, LifeEvent):
                told = "daemon acts again" if event.alive else "daemon stopped by the lab"
            else:
                verb = "has" if event.present else "lost"
                who = "" if event.port_id or event.present else " (lifetime ended)"
                told = f"{verb} {event.address}{who}"
            lines.append(f"{event.at:.6f} {event.host} {told}")
        return "\n".join(lines)

    def _follow(self) -> None:
        be_punctual()
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                return
            with self._changed:
                self._read()

    def _read(self) -> None:
        """Take in all that the kernel has told; with the lock held."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(1 << 16, 64)
                for level, kind, payload in ancillary:
                    if (level, kind) == (_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID):
                        host = self._hosts.get(_NSID.unpack(payload)[0])
                        if host is not None:
                            self._take(host, data)

    def _take(self, host: str, data: bytes) -> None:
        now = time.monotonic()
        present = self._present[host]
        for is_present, address, port_id in parse(data):
            if is_present == (address in present):
                continue
            (present.add if is_present else present.discard)(address)
            self.events.append(VipEvent(now, host, address, is_present, port_id))
        self._changed.notify_all()
