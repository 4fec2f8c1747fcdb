"""Addresses and configurations of a lab: the same segment for every run."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Interface,
    IPv6Interface,
)
from typing import Any

from havip.core.config import CheckConfig, Leg, NodeConfig, RouterConfig, Vip
from havip.sim.host import INTERFACE, IPNetworkAddress
from havip.sim.network import IPAddress

GATEWAY = (IPv4Interface("10.0.0.1/24"), IPv6Interface("fe80::1/64"))
VIPS = (IPv4Interface("10.0.0.100/32"), IPv6Interface("fd00::100/128"))
SERVICE = CheckConfig(
    name="service",
    url="http://127.0.0.1:10254/healthz",
    interval_s=2.0,
    timeout_s=1.0,
    fail_after=2,
    recover_after=2,
    fast_fail=True,
)


def mac(number: int) -> bytes:
    return bytes((0x02, 0, 0, 0, number >> 8, number & 0xFF))


def node_addresses(number: int) -> tuple[IPNetworkAddress, ...]:
    """Of node `number`, counted from 1: IPv4, link-local, and a unique local one."""
    return (
        IPv4Interface(f"10.0.0.{10 + number}/24"),
        IPv6Interface(f"fe80::{10 + number:x}/64"),
        IPv6Interface(f"fd00::{10 + number:x}/64"),
    )


def client_addresses(number: int) -> tuple[IPNetworkAddress, ...]:
    return (
        IPv4Interface(f"10.0.0.{200 + number}/24"),
        IPv6Interface(f"fe80::{200 + number:x}/64"),
    )


def source(number: int, family: int) -> IPAddress:
    """The address from which node `number` speaks VRRP."""
    return node_addresses(number)[0 if family == 4 else 1].ip


def vips(families: Sequence[int]) -> tuple[IPNetworkAddress, ...]:
    return tuple(vip for vip in VIPS if vip.version in families)


def node_config(
    number: int,
    nodes: int,
    *,
    families: Sequence[int],
    is_unicast: bool,
    checks: Sequence[CheckConfig],
    node: dict[str, Any],
    router: dict[str, Any],
) -> NodeConfig:
    """Of node `number` among `nodes`; `node` and `router` are fields to set beside."""
    legs = tuple(
        Leg(
            source=source(number, family),
            vips=tuple(Vip(interface=vip) for vip in vips((family,))),
            peers=tuple(
                source(other, family)
                for other in range(1, nodes + 1)
                if is_unicast and other != number
            ),
        )
        for family in families
    )
    fields: dict[str, Any] = {
        "name": f"{INTERFACE}/10",
        "virtual_router_id": 10,
        "version": 3,
        "vrrp_interface": INTERFACE,
        "vip_interface": INTERFACE,
        "legs": legs,
    }
    return NodeConfig(
        node_name=f"node{number}",
        routers=(RouterConfig(**fields | router),),
        checks=tuple(checks),
        **node,
    )
