"""One virtual router spoken by havip and by keepalived: the same dialect in both configurations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from patience import HANG_S, becomes

from havip.netlab import Capture, Frame, Host, Lab, Process, keepalived_config, plain_address
from havip.wire import ethernet, neighbour, vrrp
from havip.wire.neighbour import Kind
from havip.wire.vrrp import Advert

PASSWORD = "s3cret"
PATIENCE_S = HANG_S


@dataclass(frozen=True)
class Dialect:
    """How a group of routers speaks: what must be the same on all of them."""

    name: str
    version: int = 3
    vips: tuple[str, ...] = (Lab.vip,)
    is_unicast: bool = False
    password: str | None = None

    @property
    def interval_s(self) -> float:
        return 0.1 if self.version == 3 else 1.0

    @property
    def vip(self) -> IPv4Address | IPv6Address:
        """The first VIP, which clients probe."""
        return plain_address(self.vips[0])

    def own_address(self, host: Host) -> str:
        return host.ipv4 if self.vip.version == 4 else host.ipv6

    def peers_of(self, host: Host) -> list[str]:
        others = [other for other in host.lab.hosts if other is not host]
        return [self.own_address(other) for other in others] if self.is_unicast else []

    def keepalived(self, host: Host, priority: int, **options: object) -> Process:
        """Start keepalived on a host.

        One instance of it has one family, so two families are two that move together.
        """
        families = [[v for v in self.vips if plain_address(v).version == n] for n in (4, 6)]
        texts = [
            keepalived_config(
                vips,
                name=f"VI_{number}",
                version=self.version,
                priority=priority,
                password=self.password,
                unicast_source=self.own_address(host) if self.is_unicast else None,
                unicast_peers=self.peers_of(host),
                **options,
            )
            for number, vips in enumerate(families)
            if vips
        ]
        if len(texts) > 1:
            texts.append("vrrp_sync_group both {\n  group {\n    VI_0\n    VI_1\n  }\n}\n")
        return host.keepalived("\n".join(texts))

    def havip(self, host: Host, priority: int, **settings: object) -> Process:
        """Start havip on a host, which takes the VIP from a worse holder without delay."""
        wanted = {
            "vip_address_cidr": ",".join(self.vips),
            "vrrp_version": self.version,
            "vrrp_priority": priority,
            "vrrp_preempt_delay": 0,
        }
        if self.password is not None:
            wanted["auth_password"] = self.password
        if self.is_unicast:
            wanted["vrrp_unicast_peers"] = ",".join(self.peers_of(host))
        return host.havip(**wanted | settings)

    def start(self, daemon: str, host: Host, priority: int) -> Process:
        """Start `havip` or `keepalived`."""
        return {"havip": self.havip, "keepalived": self.keepalived}[daemon](host, priority)


V3 = Dialect("v3 0.1 s, IPv4 multicast")
V3_UNICAST = Dialect("v3 0.1 s, IPv4 unicast", is_unicast=True)
V3_IPV6 = Dialect("v3 0.1 s, IPv6 multicast", vips=(Lab.vip6,))
V3_IPV6_UNICAST = Dialect("v3 0.1 s, IPv6 unicast", vips=(Lab.vip6,), is_unicast=True)
V3_SEVERAL = Dialect("v3 0.1 s, two VIPs", vips=(Lab.vip, Lab.other_vip))
V3_DUAL = Dialect("v3 0.1 s, dual stack", vips=(Lab.vip, Lab.vip6))
V2 = Dialect("v2 PASS 1 s, multicast", version=2, password=PASSWORD)
V2_UNICAST = Dialect("v2 without password 1 s, unicast", version=2, is_unicast=True)
BETTER, WORSE = 250, 200
"""Priorities; both high, because version 2 waits a second times what is missing from 256."""


def dialects(*chosen: Dialect) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("dialect", chosen, ids=[dialect.name for dialect in chosen])


def other(daemon: str) -> str:
    return "keepalived" if daemon == "havip" else "havip"


def advert(frame: Frame) -> Advert | None:
    """The advert in a frame, if it carries an intact one."""
    if not frame.is_vrrp:
        return None
    data = frame.data[14:]
    if frame.ether_type == 0x0800:
        length = int.from_bytes(data[2:4])
        source, destination = ip_address(data[12:16]), ip_address(data[16:20])
        payload = data[(data[0] & 15) * 4 : length]
    else:
        source, destination = ip_address(data[8:24]), ip_address(data[24:40])
        payload = data[40 : 40 + int.from_bytes(data[4:6])]
    told = vrrp.decode(payload, source=source, destination=destination)
    return told if isinstance(told, Advert) else None


def priorities(lab: Lab, host: str, since_at: float = 0.0) -> list[tuple[float, int]]:
    """When a host sent an advert, and of which priority."""
    told = [
        (frame.at, advert(frame)) for frame in lab.capture.frames(since_at) if frame.port == host
    ]
    return [(at, each.priority) for at, each in told if each is not None]


def announcements(
    lab: Lab, address: IPv4Address | IPv6Address, since_at: float = 0.0
) -> list[tuple[float, str]]:
    """When an address was announced, and by which host."""
    return [
        (frame.at, frame.port)
        for frame in lab.capture.frames(since_at)
        if is_announcement(frame, address)
    ]


def came_and_went(
    lab: Lab, address: IPv4Address | IPv6Address, since_at: float
) -> list[tuple[str, bool]]:
    """Each host that got the address or lost it, in the kernel's order."""
    events = lab.watch.vip_events(address)
    return [(event.host, event.present) for event in events if event.at >= since_at]


def assert_silenced(lab: Lab, dialect: Dialect, loser: str, winner: str, since_at: float) -> None:
    """Once the winner has announced itself, the loser says at most goodbye.

    Two adverts may have crossed the winner's: keepalived has no real time.
    """
    announced_at = announced_after(lab, dialect, winner, since_at)
    assert len([told for _, told in priorities(lab, loser, announced_at) if told > 1]) <= 2


def announced_after(lab: Lab, dialect: Dialect, host: str, at: float) -> float:
    """Wait for the host's next announcement; returns when it was sent."""
    capture: Capture = lab.capture
    frame = capture.wait_for(
        lambda f: f.at > at and f.port == host and is_announcement(f, dialect.vip), PATIENCE_S
    )
    assert frame is not None, f"{host} did not announce {dialect.vip}"
    return frame.at


def is_announcement(frame: Frame, address: IPv4Address | IPv6Address) -> bool:
    """Whether a frame tells everyone on the link where an address is."""
    told = neighbour.decode(frame.data)
    return (
        told is not None
        and told.claims == address
        and (told.kind is Kind.ANSWER or told.asks == address)
        and ethernet.is_group(told.frame_destination)
    )


def router(host: Host) -> dict[str, Any]:
    """What havip on this host says about its only virtual router."""
    (told,) = host.status()["routers"]
    assert isinstance(told, dict)
    return told


def reason(host: Host) -> str:
    """Why havip on this host is in the state that it is in."""
    return str(router(host)["reason"])


def becomes_because(host: Host, wanted: str) -> None:
    """Wait until havip on this host is in its state for this reason."""
    becomes(lambda: reason(host), wanted)


def moves(havip: Process) -> list[dict[str, Any]]:
    """The changes of state that havip has logged."""
    lines = (json.loads(line) for line in havip.log_text().splitlines())
    return [line for line in lines if line["event"] == "moved"]


def metric(host: Host, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = (line for line in host.metrics().splitlines() if line.startswith(name))
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(w in line for w in wanted))


def vips_on(host: Host, dialect: Dialect) -> list[dict[str, Any]]:
    """The dialect's first VIP as the kernel has it, with each prefix."""
    return [a for a in host.addresses() if a["local"] == str(dialect.vip)]
