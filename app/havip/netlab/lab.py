"""Hosts as network namespaces on one switch: for the demo, the tests and the benchmark.

    with Lab(hosts=3) as lab:
        for host in lab.hosts:
            host.serve()
            host.havip(vip_address_cidr=lab.vip)
        lab.watch.wait_for_holder(lab.vip_address)

The switch is a namespace with a bridge, whose own address is the default gateway. Nothing
outside the namespaces is touched, and they are removed with everything in them at the end: also
after an exception, Ctrl-C, SIGTERM or SIGHUP. What a SIGKILL left behind, `sweep` removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import FrameType
from typing import Self, TypeVar

from havip.netlab import namespace
from havip.netlab.capture import Capture
from havip.netlab.host import Host, plain_address
from havip.netlab.namespace import inside
from havip.netlab.watch import Watch

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
Closing = TypeVar("Closing", bound=AbstractContextManager[object])
_serial = itertools.count(1)
_SYSCTLS = {
    # Addresses are usable at once; nobody asks for routers that are not there.
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/dad_transmits": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/all/disable_ipv6": "0",
    "net/ipv6/conf/default/disable_ipv6": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
}


class Lab:
    """Hosts `h1`…, clients `c1`…, and the switch between them.

    Args:
        hosts, clients: how many; all equal, on 10.77.0.0/24 and fd77::/64.
        second_link: each host also has `eth1` on a switch of its own, 10.78.0.0/24, fd78::/64.
        capture: record the wire.
    """

    vip = "10.77.0.100/24"
    vip6 = "fd77::100/64"
    other_vip = "10.77.0.101/24"
    routed_vip = "10.79.0.100/24"
    """In a subnet that only the gateway has: clients reach it through the gateway."""
    gateway = "10.77.0.1"
    gateway6 = "fd77::1"

    def __init__(
        self,
        hosts: int = 3,
        clients: int = 1,
        *,
        second_link: bool = False,
        capture: bool = True,
    ) -> None:
        self.prefix = f"{namespace.PREFIX}{os.getpid()}-{next(_serial)}"
        self.switch = f"{self.prefix}-switch"
        self.has_second_link = second_link
        self.hosts = [Host(self, f"h{n}", 10 + n) for n in range(1, hosts + 1)]
        self.clients = [Host(self, f"c{n}", 200 + n) for n in range(1, clients + 1)]
        self._wants_capture = capture
        self._stack = contextlib.ExitStack()
        self._blocked: set[tuple[str, str]] = set()
        self._loss_percent = 0.0

    @property
    def vip_address(self) -> IPv4Address | IPv6Address:
        return plain_address(self.vip)

    @property
    def vip6_address(self) -> IPv4Address | IPv6Address:
        return plain_address(self.vip6)

    @property
    def client(self) -> Host:
        return self.clients[0]

    def __getitem__(self, name: str) -> Host:
        for host in (*self.hosts, *self.clients):
            if host.name == name:
                return host
        raise KeyError(name)

    def __enter__(self) -> Self:
        """Build it.

        Raises:
            LabError: not root, or a tool is missing.
        """
        namespace.check_host()
        namespace.sweep()
        self._stack.enter_context(_signals_raise())
        # It goes last: a process that still runs could write into it while it is removed.
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.prefix}-"))
        )
        self._stack.callback(self._remove)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs and remove what was made; a Ctrl-C cannot stop it half-way."""
        with _signals_ignored():
            self._stack.close()

    def keep(self, thing: Closing) -> Closing:
        """Close `thing` with the lab."""
        self._stack.enter_context(thing)
        return thing

    def partition(self, *groups: Iterable[Host | str]) -> float:
        """Hosts of different groups no longer hear each other; carrier stays. Returns when.

        A name may be `gateway`. Who is in no group hears everyone.
        """
        sides = [[_port_name(member) for member in group] for group in groups]
        for side, other in itertools.permutations(sides, 2):
            self._blocked.update(itertools.product(side, other))
        return self._apply()

    def block(self, source: Host | str, destination: Host | str) -> float:
        """One-way link: `destination` no longer hears `source`."""
        self._blocked.add((_port_name(source), _port_name(destination)))
        return self._apply()

    def heal(self) -> float:
        """Everyone hears everyone again; loss stays. Returns the instant."""
        self._blocked.clear()
        return self._apply()

    def loss(self, percent: float) -> float:
        """Each frame is lost with this probability, for each receiver by itself."""
        self._loss_percent = percent
        return self._apply()

    def set_port(self, port: str, *, up: bool) -> None:
        """Switch a port of the switch on or off."""
        request = struct.pack("16sH14x", port.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(self._control, _SIOCGIFFLAGS, request), 16)[0]
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        request = struct.pack("16sH14x", port.encode(), flags)
        fcntl.ioctl(self._control, _SIOCSIFFLAGS, request)

    def configure(self, host: Host) -> None:
        """Give a host its own addresses and routes, and nothing else."""
        links = [("eth0", host.ipv4, host.ipv6)]
        if self.has_second_link:
            links.append(("eth1", host.second_ipv4, host.second_ipv6))
        lines = ["link set lo up"]
        for device, ipv4, ipv6 in links:
            lines += [
                f"link set {device} down",
                f"address flush dev {device}",
                f"address add {ipv4}/24 dev {device}",
                f"link set {device} up",
                f"address add {ipv6}/64 dev {device} nodad",
            ]
        lines += [
            f"route replace default via {self.gateway} dev eth0",
            f"route replace ::/0 via {self.gateway6} dev eth0",
        ]
        self._batch(host.namespace, lines)

    def logs(self) -> dict[str, str]:
        """What every process wrote, by process."""
        return {
            f"{process.name} (pid {process.pid})": process.log_text()
            for host in (*self.hosts, *self.clients)
            for process in host.processes
        }

    def _build(self) -> None:
        members = (*self.hosts, *self.clients)
        namespace.batch(
            "".join(f"netns add {n}\n" for n in (self.switch, *(m.namespace for m in members)))
        )
        self.watch = self.keep(Watch(self.switch, {m.name: m.namespace for m in members}))
        # Ports of the switch speak no IPv6 of their own; its bridges do.
        inside(self.switch, lambda: _set_sysctls({"net/ipv6/conf/default/disable_ipv6": "1"}))
        lines = ["link set lo up"]
        for bridge, subnet in (("br0", "77"), ("br1", "78"))[: 2 if self.has_second_link else 1]:
            lines += [
                f"link add {bridge} address 02:{subnet}:00:00:00:01 type bridge "
                "stp_state 0 mcast_snooping 0 forward_delay 0",
                f"address add 10.{subnet}.0.1/24 dev {bridge}",
                f"link set {bridge} up",
            ]
        self._batch(self.switch, lines)
        self._control = self.keep(
            inside(self.switch, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        )
        bridges = ("br0", "br1") if self.has_second_link else ("br0",)
        inside(self.switch, lambda: _set_sysctls(_switch_sysctls(bridges)))
        lines = ["address add 10.79.0.1/24 dev br0", "address add fd79::1/64 dev br0 nodad"]
        lines += [f"address add fd{77 + n}::1/64 dev {b} nodad" for n, b in enumerate(bridges)]
        for member in members:
            inside(member.namespace, lambda: _set_sysctls(_SYSCTLS))
            links = [(member.name, "eth0", member.mac, "br0")]
            if self.has_second_link:
                links.append((f"{member.name}-2", "eth1", member.second_mac, "br1"))
            for port, device, mac, bridge in links:
                lines += [
                    f"link add {port} type veth peer name {device} address {mac} "
                    f"netns {member.namespace}",
                    f"link set {port} master {bridge} up",
                ]
        self._batch(self.switch, lines)
        for member in members:
            self.configure(member)
        if self._wants_capture:
            self.capture = Capture(self.switch, bridges)
            self._stack.callback(self.capture.close)

    def _remove(self) -> None:
        for host in (*self.hosts, *self.clients):
            for process in host.processes:
                process.send(signal.SIGKILL)
            for process in host.processes:
                process.wait(10)
        for host in (*self.hosts, *self.clients):
            namespace.remove(host.namespace)
        namespace.remove(self.switch)

    def _apply(self) -> float:
        """Put the wanted filter in place in one step; returns the instant it was."""
        rules: dict[str, list[str]] = {"forward": [], "input": [], "output": []}
        for source, destination in sorted(self._blocked):
            if destination == "gateway":
                rules["input"].append(f"iifname {source} drop")
            elif source == "gateway":
                rules["output"].append(f"oifname {destination} drop")
            else:
                rules["forward"].append(f"iifname {source} oifname {destination} drop")
        if self._loss_percent:
            share = round(self._loss_percent * 100)
            for chain in rules.values():
                chain.append(f"numgen random mod 10000 < {share} drop")
        chains = "\n".join(
            "\n".join((f"chain {hook} {{", f"type filter hook {hook} priority 0", *told, "}"))
            for hook, told in rules.items()
        )
        text = f"table bridge lab\ndelete table bridge lab\ntable bridge lab {{\n{chains}\n}}\n"
        namespace.run(("ip", "netns", "exec", self.switch, "nft", "-f", "-"), text)
        return time.monotonic()

    @staticmethod
    def _batch(name: str, lines: Iterable[str]) -> None:
        namespace.run(("ip", "-netns", name, "-batch", "-"), "\n".join(lines) + "\n")


def _port_name(member: Host | str) -> str:
    return member if isinstance(member, str) else member.name


def _switch_sysctls(bridges: Iterable[str]) -> dict[str, str]:
    wanted = {
        "net/ipv4/ip_forward": "1",
        "net/ipv4/conf/all/send_redirects": "0",
        "net/ipv6/conf/all/forwarding": "1",
    }
    for bridge in bridges:
        wanted[f"net/ipv4/conf/{bridge}/send_redirects"] = "0"
        wanted[f"net/ipv6/conf/{bridge}/accept_dad"] = "0"
        wanted[f"net/ipv6/conf/{bridge}/disable_ipv6"] = "0"
    return wanted


def _set_sysctls(wanted: Mapping[str, str]) -> None:
    for name, value in wanted.items():
        Path("/proc/sys", name).write_text(value)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does: through every `finally`."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
