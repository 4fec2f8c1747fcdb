"""VIPs onto and off an interface.

The kernel handles a netlink request inside the sender's system call, and there one
RTM_NEWADDR was seen to wait 338 ms for the lock that all network configuration shares. So one
helper thread sends, in the order asked for, and the loop never waits. Two rules keep the
promise that only a live, deciding process renews: the thread invents nothing, and an
installation that has waited too long is dropped, since whoever asked for it may have been
stopped and resumed.

Connections are reset by a second thread: some thousand of them take a second, in which the
renewals of other VIPs would have waited too long. What is asked for a VIP that leaves waits
meanwhile, and only that: one that has come is renewed.
"""

from __future__ import annotations

import errno
import math
import os
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Any, Final

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_NEWADDR
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, IFA_F_NOPREFIXROUTE, ifaddrmsg

from havip.act import connections
from havip.core.actions import (
    InstallAddress,
    RemoveAddress,
    ResetConnections,
    ResetFormerConnections,
)
from havip.core.config import RouterConfig
from havip.core.events import ActionFailed
from havip.core.host import HAVIP_MARK, Host, HostAddress, Interface
from havip.netlink import FAMILY, Requests

MAX_WAIT_S: Final = 0.5
"""An installation older than this is not sent any more."""
MAX_QUEUED: Final = 1000
REMOVAL_TOLD_WITHIN_S: Final = 5.0
"""A removal whose notification was lost must not excuse somebody else's later on."""
NEVER_CLEANED: Final = frozenset({"lo", "kube-ipvs0"})
"""Service proxies and direct server return keep addresses there that look like ours."""

_GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO})

Request = InstallAddress | RemoveAddress | ResetConnections | ResetFormerConnections
_RESETS: Final = (ResetConnections, ResetFormerConnections)
_Queue = queue.SimpleQueue[tuple[Request, float] | None]
"""Each with the instant at which it was asked for; None is the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A VIP that is on the node already and must not be removed."""

    router: str
    interface: str
    address: IPv4Interface | IPv6Interface
    problem: str
    remedy: str


class Addresses:
    """The only one that changes addresses on this host.

    Raises:
        OSError: netlink cannot be opened.
    """

    def __init__(self, close_sessions: Callable[[], None] | None = None) -> None:
        """
        Args:
            close_sessions: ends the connections of clients where the kernel cannot; blocks shortly.
        """
        self._close_sessions = close_sessions
        self._route = Requests(socket.NETLINK_ROUTE)
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._requests: _Queue = queue.SimpleQueue()
        self._resets: _Queue = queue.SimpleQueue()
        self._waiting: dict[IPv4Address | IPv6Address, list[tuple[Request, float]]] = {}
        """For the end of an address's reset."""
        self._lock = threading.RLock()
        self._failures: deque[ActionFailed] = deque()
        self._removed_at: dict[tuple[str, IPv6Interface], float] = {}
        self._is_reset_unsupported = False
        self._defect: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(requests,), name=name, daemon=True)
            for name, requests in (
                ("havip-resets", self._resets),
                ("havip-netlink", self._requests),
            )
        ]
        for thread in self._threads:
            thread.start()

    @property
    def port_id(self) -> int:
        """By which the kernel's notifications name this process's changes."""
        return self._route.port_id

    def fileno(self) -> int:
        """Readable when `read_all` has something to tell."""
        return self._done

    def install(self, action: InstallAddress) -> ActionFailed | None:
        """Put the address there or renew it, soon; see `InstallAddress`.

        Returns:
            A failure if too much is waiting already; later failures come by `read_all`.
        """
        return self._enqueue(action)

    def remove(self, action: RemoveAddress) -> ActionFailed | None:
        """Remove the address, soon; that it was not there is no failure."""
        return self._enqueue(action)

    def reset_connections(self, action: ResetConnections) -> ActionFailed | None:
        """Destroy the address's TCP sockets, before whatever is asked for it next.

        Of this network namespace only: connections that are forwarded to pods end there.
        """
        return self._enqueue(action)

    def reset_former_connections(self, action: ResetFormerConnections) -> ActionFailed | None:
        """Destroy this node's own TCP sockets that lead to a former holder, soon.

        Nothing waits for that.
        """
        return self._enqueue(action)

    def read_all(self) -> list[ActionFailed]:
        """Failures since the last call. Success is told by `HostWatch`, as what it changed."""
        try:
            os.eventfd_read(self._done)
        except BlockingIOError:
            return []
        if self._defect is not None:
            raise RuntimeError("a netlink thread has ended") from self._defect
        return [self._failures.popleft() for _ in range(len(self._failures))]

    def take_removal(self, interface: str, address: IPv6Interface) -> bool:
        """Whether this process has just removed that address; each removal is told once.

        For `HostWatch`: of IPv6 addresses the kernel does not say who removed them.
        """
        removed_at = self._removed_at.pop((interface, address), -math.inf)
        return time.monotonic() - removed_at < REMOVAL_TOLD_WITHIN_S

    def clean_leftovers(self, host: Host, routers: Sequence[RouterConfig]) -> list[Conflict]:
        """Remove what an earlier life left of the VIPs, whatever its prefix length.

        Blocks; for the start, before the first `install` and before the watch is opened.

        Returns:
            VIPs that are somebody else's and were left alone.

        Raises:
            OSError: the kernel refuses to remove a leftover.
        """
        conflicts = []
        for router, interface, address in _vips_on(host, routers):
            if (problem := _why_not_remove(router, interface, address)) is not None:
                conflicts.append(problem)
                continue
            try:
                self._delete(interface.index, address.interface)
            except OSError as error:
                raise OSError(error.errno, error.strerror, f"{address.interface}") from error
        return conflicts

    def close(self, timeout_s: float = 1.0) -> None:
        """Carry out what was asked for, within `timeout_s`, and end."""
        until_at = time.monotonic() + timeout_s
        # In this order: what waits for a reset is asked for when that has ended.
        for thread, requests in zip(self._threads, (self._resets, self._requests), strict=True):
            requests.put(None)
            thread.join(max(0.0, until_at - time.monotonic()))
        # A thread that is stuck in the kernel still owns its descriptors; the process's end
        # closes them.
        if not any(thread.is_alive() for thread in self._threads):
            self._route.close()
            os.close(self._done)

    def _enqueue(self, action: Request) -> ActionFailed | None:
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
            if self._requests.qsize() + self._resets.qsize() + waiting >= MAX_QUEUED:
                return _failed(action, errno.ENOBUFS)
            self._line_up(action, time.monotonic())
        return None

    def _line_up(self, request: Request, asked_at: float) -> None:
        with self._lock:
            if (waiting := self._waiting.get(_subject(request))) is not None:
                waiting.append((request, asked_at))
            elif isinstance(request, ResetConnections):
                self._waiting[_subject(request)] = []
                self._resets.put((request, asked_at))
            elif isinstance(request, ResetFormerConnections):
                self._resets.put((request, asked_at))
            else:
                self._requests.put((request, asked_at))

    def _run(self, requests: _Queue) -> None:
        try:
            while (queued := requests.get()) is not None:
                request, asked_at = queued
                try:
                    self._carry_out(request, asked_at)
                except OSError as error:
                    self._failures.append(_failed(request, error.errno or errno.EIO))
                    os.eventfd_write(self._done, 1)
                if isinstance(request, ResetConnections):
                    self._let_go_on(request)
        except BaseException as defect:
            self._defect = defect
            os.eventfd_write(self._done, 1)

    def _let_go_on(self, request: ResetConnections) -> None:
        with self._lock:
            for waiting, asked_at in self._waiting.pop(_subject(request)):
                self._line_up(waiting, asked_at)

    def _carry_out(self, request: Request, asked_at: float) -> None:
        match request:
            case InstallAddress():
                if time.monotonic() - asked_at > MAX_WAIT_S:
                    raise OSError(errno.ETIME, os.strerror(errno.ETIME))
                self._install(request)
            case RemoveAddress():
                self._remove(request)
            case ResetConnections():
                self._reset(request)
            case ResetFormerConnections():
                self._reset_former(request)

    def _install(self, action: InstallAddress) -> None:
        """Add the address, or set the lifetime of one that is there; deprecated from the start."""
        flags = 0 if action.has_connected_route else IFA_F_NOPREFIXROUTE
        if action.address.version == 6:
            flags |= IFA_F_NODAD
        message = _message(_index(action.interface), action.address)
        message["attrs"] += [
            ("IFA_FLAGS", flags),
            ("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": action.valid_s}),
            ("IFA_PROTO", HAVIP_MARK),
        ]
        self._route.ask(message, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)

    def _remove(self, action: RemoveAddress) -> None:
        try:
            index = _index(action.interface)
        except OSError:
            return
        if isinstance(action.address, IPv6Interface):
            # Before it happens, since the notification may be read before the answer.
            self._removed_at[action.interface, action.address] = time.monotonic()
        is_removed = False
        try:
            is_removed = self._delete(index, action.address)
        finally:
            if not is_removed and isinstance(action.address, IPv6Interface):
                self._removed_at.pop((action.interface, action.address), None)

    def _delete(self, index: int, address: IPv4Interface | IPv6Interface) -> bool:
        """Returns whether the address was there."""
        try:
            self._route.ask(_message(index, address), RTM_DELADDR, NLM_F_ACK)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False
        return True

    def _reset(self, action: ResetConnections) -> None:
        try:
            self._where_supported(connections.reset, action.address)
        finally:
            if self._is_reset_unsupported and self._close_sessions is not None:
                self._close_sessions()

    def _reset_former(self, action: ResetFormerConnections) -> None:
        self._where_supported(connections.reset_former, action.address)

    def _where_supported(
        self, reset: Callable[[IPv4Address | IPv6Address], None], address: IPv4Address | IPv6Address
    ) -> None:
        """That the kernel cannot reset is told once."""
        if self._is_reset_unsupported:
            return
        try:
            reset(address)
        except OSError as error:
            self._is_reset_unsupported = error.errno == errno.EOPNOTSUPP
            raise


def _message(index: int, address: IPv4Interface | IPv6Interface) -> Any:
    message = ifaddrmsg()
    message["family"] = FAMILY[address.version]
    message["prefixlen"] = address.network.prefixlen
    message["index"] = index
    message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip))]
    return message


def _subject(request: Request) -> IPv4Address | IPv6Address:
    return request.address if isinstance(request, _RESETS) else request.address.ip


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        # CPython leaves errno empty here.
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), interface) from error


def _failed(request: Request, number: int) -> ActionFailed:
    return ActionFailed(
        action=type(request).__name__,
        interface="" if isinstance(request, _RESETS) else request.interface,
        subject=str(request.address),
        errno=number,
        message=os.strerror(number),
    )


def _vips_on(
    host: Host, routers: Sequence[RouterConfig]
) -> Iterator[tuple[RouterConfig, Interface, HostAddress]]:
    for router in routers:
        interface = host.interface(router.vip_interface)
        if interface is None or interface.is_loopback or interface.name in NEVER_CLEANED:
            continue
        vips = {vip.address for leg in router.legs for vip in leg.vips}
        for address in interface.addresses:
            if address.interface.ip in vips:
                yield router, interface, address


def _why_not_remove(
    router: RouterConfig, interface: Interface, address: HostAddress
) -> Conflict | None:
    problem = remedy = ""
    if not address.is_ours and not router.take_over_address:
        problem = "the VIP is on this node already, and havip did not put it there"
        remedy = (
            f"if another daemon's, stop that and run: ip address delete {address.interface} "
            f"dev {interface.name}; or set vipTakeOver: true"
        )
    elif siblings := _deleted_with(interface, address):
        problem = f"removing it would remove {', '.join(siblings)} too, which came later"
        remedy = f"sysctl -w net.ipv4.conf.{interface.name}.promote_secondaries=1"
    if not problem:
        return None
    return Conflict(
        router=router.name,
        interface=interface.name,
        address=address.interface,
        problem=problem,
        remedy=remedy,
    )


def _deleted_with(interface: Interface, address: HostAddress) -> list[str]:
    """IPv4 addresses of the same subnet, which the kernel deletes together with their first."""
    if address.is_secondary or _promotes_secondaries(interface.name):
        return []
    return [
        str(each.interface)
        for each in interface.addresses
        if each.is_secondary and each.interface.network == address.interface.network
    ]


def _promotes_secondaries(interface: str) -> bool:
    """ip-sysctl: promote_secondaries, true if set for the interface or for all."""
    folder = Path("/proc/sys/net/ipv4/conf")
    return any(
        (folder / name / "promote_secondaries").read_text().strip() != "0"
        for name in ("all", interface)
    )
