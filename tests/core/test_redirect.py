"""Which other port of the VIPs leads to the balancer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface

from havip.core.config import BalancerConfig, Leg, NodeConfig, RouterConfig, Vip
from havip.core.redirect import Redirect, redirect_of

BALANCER = BalancerConfig(binds=(IPv4Address(0), IPv6Address(0)), redirect_port=6443)


def router(name: str, *vips: str) -> RouterConfig:
    interface, number = name.split("/")
    families: dict[int, list[Vip]] = {}
    for vip in vips:
        placed = Vip(interface=ip_interface(vip))
        families.setdefault(placed.address.version, []).append(placed)
    return RouterConfig(
        name=name,
        virtual_router_id=int(number),
        version=3,
        vrrp_interface=interface,
        vip_interface=interface,
        legs=tuple(Leg(source=each[0].address, vips=tuple(each)) for each in families.values()),
    )


NODE = NodeConfig(
    node_name="cp-1",
    routers=(router("eth0/10", "192.0.2.10", "2001:db8::10"), router("eth1/7", "198.51.100.10")),
    balancer=BALANCER,
)


def test_it_leads_there_from_every_vip() -> None:
    assert redirect_of(NODE) == Redirect(
        table="havip-eth0-10",
        vips=(IPv4Address("192.0.2.10"), IPv6Address("2001:db8::10"), IPv4Address("198.51.100.10")),
        port=6443,
        to_port=8443,
    )


def test_none_where_none_is_asked_for() -> None:
    assert redirect_of(replace(NODE, balancer=replace(BALANCER, redirect_port=None))) is None
    assert redirect_of(replace(NODE, balancer=None)) is None


def test_beside_a_former_one_each_vip_is_there_once() -> None:
    former = redirect_of(NODE)
    now = redirect_of(replace(NODE, routers=(router("eth1/7", "198.51.100.10", "192.0.2.11"),)))
    assert former is not None
    assert now is not None
    assert now.beside(former) == replace(
        now, vips=(*now.vips, IPv4Address("192.0.2.10"), IPv6Address("2001:db8::10"))
    )
