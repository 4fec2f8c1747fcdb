"""Two network namespaces joined by a wire, and what the tests of the edge do inside them."""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Any, Protocol, TypeVar

from patience import HANG_S, wait_until

from havip.core.config import Leg, RouterConfig, Vip
from havip.netlab import namespace

T = TypeVar("T")

MAC_A, MAC_B = "02:00:00:00:0a:01", "02:00:00:00:0b:01"
A4, B4 = IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2")
A6, B6 = IPv6Address("fe80::a:1"), IPv6Address("fe80::b:1")
VIP4, VIP6 = IPv4Address("10.9.0.100"), IPv6Address("fd09::100")
VRID = 10
PATIENCE_S = HANG_S

_numbers = itertools.count()


@dataclass(frozen=True)
class Netns:
    """A namespace with one interface, `e0`."""

    name: str

    def run(self, function: Callable[[], T]) -> T:
        """Call it inside; the sockets and threads that it makes stay there."""
        return namespace.inside(self.name, function)

    def ip(self, command: str) -> str:
        return namespace.run(("ip", "-netns", self.name, *command.split()))

    def addresses(self, interface: str = "e0") -> dict[str, dict[str, Any]]:
        """What `ip` shows, by address."""
        shown = json.loads(self.ip(f"-json -details address show dev {interface}"))
        return {each["local"]: each for each in shown[0]["addr_info"]}


@contextmanager
def pair() -> Iterator[tuple[Netns, Netns]]:
    """A and B, each with IPv4, a global and a link-local IPv6 address that are ready for use."""
    with ExitStack() as stack:
        hosts = []
        for letter in "ab":
            host = Netns(f"havip-{os.getpid()}-edge{next(_numbers)}{letter}")
            stack.callback(namespace.remove, host.name)
            namespace.run(("ip", "netns", "add", host.name))
            hosts.append(host)
        a, b = hosts
        join(a, b)
        for host, ipv4, ipv6 in ((a, A4, A6), (b, B4, B6)):
            host.ip("link set lo up")
            host.ip(f"address add {ipv4}/24 dev e0")
            host.ip(f"address add {ipv6}/64 dev e0 nodad")
            host.ip(f"address add fd09::{int(ipv4) & 0xFF}/64 dev e0 nodad")
        yield a, b


def join(a: Netns, b: Netns) -> None:
    namespace.run(
        f"ip link add name e0 address {MAC_A} netns {a.name} type veth "
        f"peer name e0 address {MAC_B} netns {b.name}".split()
    )
    for host in (a, b):
        # Without it the kernel's own link-local address goes through DAD beside ours.
        host.ip("link set e0 addrgenmode none")
        host.ip("link set e0 up")
    for host in (a, b):
        wait_until(lambda host=host: '"UP"' in host.ip("-json link show e0"), "carrier")


def router(
    *,
    legs: Sequence[Leg] | None = None,
    vrid: int = VRID,
    interface: str = "e0",
    take_over_address: bool = False,
) -> RouterConfig:
    """Dual stack, as B would run it."""
    return RouterConfig(
        name=f"{interface}/{vrid}",
        virtual_router_id=vrid,
        version=3,
        vrrp_interface=interface,
        vip_interface=interface,
        legs=tuple(legs or (leg(B4, VIP4), leg(B6, VIP6))),
        take_over_address=take_over_address,
    )


def leg(source: IPv4Address | IPv6Address, *vips: IPv4Address | IPv6Address) -> Leg:
    return Leg(source=source, vips=tuple(Vip(interface=ip_interface(vip)) for vip in vips))


class Source(Protocol):
    """What has descriptors to wait for and tells events."""

    def read_all(self) -> list[Any]: ...


def is_readable(*filenos: int, timeout_s: float = 0) -> bool:
    return bool(select.select(filenos, [], [], timeout_s)[0])


def read_until(
    source: Source, filenos: Sequence[int], is_enough: Callable[[list[Any]], bool]
) -> list[Any]:
    """Events up to the first moment that they are enough; fails after PATIENCE_S."""
    events: list[Any] = []
    until_at = time.monotonic() + PATIENCE_S
    while not is_enough(events):
        left_s = until_at - time.monotonic()
        assert left_s > 0, f"only {events}"
        is_readable(*filenos, timeout_s=left_s)
        events += source.read_all()
    return events


@contextmanager
def witness(host: Netns) -> Iterator[Callable[[bytes], bytes]]:
    """Sees every frame that `host` receives: `seen(part)` waits for one that contains it.

    The kernel hands each frame to it before it hands the next one to anybody.
    """
    with host.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as sock:
        host.run(lambda: sock.bind(("e0", 3)))
        sock.settimeout(PATIENCE_S)

        def seen(part: bytes) -> bytes:
            while True:
                frame, (_, _, packet_type, _, _) = sock.recvfrom(2048)
                if packet_type != socket.PACKET_OUTGOING and part in frame:
                    return frame

        yield seen


def send_raw(
    host: Netns, source: IPv4Address | IPv6Address, destination: str, payload: bytes, hops: int
) -> None:
    """A protocol 112 packet by a plain socket, with any TTL."""

    def send() -> None:
        target = ip_address(destination)
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        index = socket.if_nametoindex("e0")
        with socket.socket(family, socket.SOCK_RAW, 112) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"e0")
            if target.version == 4:
                sock.bind((str(source), 0))
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
                sock.sendto(payload, (destination, 0))
                return
            for option in (socket.IPV6_UNICAST_HOPS, socket.IPV6_MULTICAST_HOPS):
                sock.setsockopt(socket.IPPROTO_IPV6, option, hops)
            sock.bind((str(source), 0, 0, index))
            sock.sendto(payload, (destination, 0, 0, index))

    host.run(send)


def send_frame(host: Netns, frame: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.sendto(frame, ("e0", struct.unpack_from("!H", frame, 12)[0]))

    host.run(send)


def set_sysctl(host: Netns, name: str, value: str) -> None:
    host.run(lambda: Path("/proc/sys", *name.split("/")).write_text(value))
