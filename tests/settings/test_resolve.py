"""Where the VIP goes on this host, and from where VRRP is spoken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from havip.core.config import NodeConfig, PeerSource, RouterConfig, Vip
from havip.core.host import Host, HostAddress, Interface
from havip.settings import ConfigError, ConfigWarning, Loaded, resolve
from pem import CERTIFICATE

Load = Callable[..., Loaded]
Resolve = Callable[..., tuple[NodeConfig, list[ConfigWarning]]]


def with_address(host: Host, name: str, *added: HostAddress) -> Host:
    """The host with more addresses on an interface, before those it has."""
    return replace(
        host,
        interfaces=tuple(
            replace(each, addresses=(*added, *each.addresses)) if each.name == name else each
            for each in host.interfaces
        ),
    )


def only(result: tuple[NodeConfig, list[ConfigWarning]]) -> RouterConfig:
    """The only router of a configuration that warns of nothing."""
    config, warnings = result
    assert warnings == []
    (router,) = config.routers
    return router


@pytest.mark.parametrize(
    ("flags", "vrrp", "vip"),
    [
        pytest.param(["--vip-address-cidr=192.0.2.10/24"], "eth0", "eth0", id="subnet"),
        pytest.param(["--vip-address-cidr=198.51.100.10/32"], "eth1", "eth1", id="other subnet"),
        pytest.param(["--vip-address-cidr=2001:db8:6::10/64"], "six0", "six0", id="IPv6 subnet"),
        pytest.param(
            ["--vip-address-cidr=192.0.2.10/24", "--vrrp-interface-name=eth1"],
            "eth1",
            "eth1",
            id="VRRP interface named",
        ),
        pytest.param(
            ["--vip-address-cidr=192.0.2.10/24", "--vip-interface-name=eth1"],
            "eth0",
            "eth1",
            id="VIP interface named",
        ),
        pytest.param(["--vip-address-cidr=203.0.113.10/24"], "eth0", "eth0", id="default route"),
        pytest.param(["--vip-address-cidr=fe80::10/64"], "eth0", "eth0", id="link-local VIP"),
        pytest.param(
            ["--vip-address-cidr=2001:db8:99::10/64,198.51.100.10/24"],
            "eth1",
            "eth1",
            id="the subnet of one of two",
        ),
    ],
)
def test_interface(flags: list[str], vrrp: str, vip: str, load_from: Load, host: Host) -> None:
    config, _ = resolve(load_from(*flags), host)
    (router,) = config.routers
    assert (router.vrrp_interface, router.vip_interface) == (vrrp, vip)
    assert router.name == f"{vrrp}/10"


def test_the_narrowest_subnet_wins(load_from: Load, host: Host) -> None:
    wide = with_address(host, "eth1", HostAddress(interface=ip_interface("192.0.0.1/16")))
    router = only(resolve(load_from("--vip-address-cidr=192.0.2.10/24"), wide))
    assert router.vrrp_interface == "eth0"


def test_in_a_subnet_the_vip_brings_no_route(load_from: Load, host: Host) -> None:
    loaded = load_from("--vip-address-cidr=192.0.2.10/24,2001:db8::10/64")
    router = only(resolve(loaded, host))
    assert [leg.vips for leg in router.legs] == [
        (Vip(interface=ip_interface("192.0.2.10/32")),),
        (Vip(interface=ip_interface("2001:db8::10/128")),),
    ]


def test_outside_every_subnet_the_vip_keeps_its_prefix(load_from: Load, host: Host) -> None:
    config, warnings = resolve(load_from("--vip-address-cidr=203.0.113.10/24"), host)
    assert config.routers[0].legs[0].vips == (
        Vip(interface=ip_interface("203.0.113.10/24"), has_connected_route=True),
    )
    (warning,) = warnings
    assert "no subnet of this node" in warning.problem


def test_outside_every_subnet_a_bare_address_is_worth_a_warning(
    load_from: Load, host: Host
) -> None:
    config, (warning,) = resolve(load_from("--vip-address-cidr=203.0.113.10/32"), host)
    assert config.routers[0].legs[0].vips == (Vip(interface=ip_interface("203.0.113.10/32")),)
    assert "prefix length of its network" in warning.remedy


def test_on_the_wrong_interface_the_vip_brings_no_second_route(load_from: Load, host: Host) -> None:
    """eth0 has that network already; a second route to it would change the node's routing."""
    loaded = load_from("--vip-address-cidr=192.0.2.10/24", "--vrrp-interface-name=eth1")
    config, (warning,) = resolve(loaded, host)
    assert config.routers[0].legs[0].vips == (Vip(interface=ip_interface("192.0.2.10/32")),)
    assert "lies in the subnet of eth0, and is put on eth1" in warning.problem


def test_ipv4_leads_whatever_the_order(load_from: Load, host: Host) -> None:
    router = only(resolve(load_from("--vip-address-cidr=2001:db8::10/64,192.0.2.10/24"), host))
    assert [leg.family for leg in router.legs] == [4, 6]


SECONDARY = HostAddress(interface=ip_interface("192.0.2.7/24"), is_secondary=True)
DEPRECATED = HostAddress(interface=ip_interface("192.0.2.6/24"), is_deprecated=True)
LEASED = HostAddress(interface=ip_interface("192.0.2.8/24"), is_permanent=False)
LEFT_BY_HAVIP = HostAddress(interface=ip_interface("192.0.2.9/24"), is_ours=True)
VIP_BY_HAVIP = HostAddress(interface=ip_interface("192.0.2.10/24"), is_ours=True)


class TestSource:
    @pytest.mark.parametrize(
        "stranger",
        [
            pytest.param(SECONDARY, id="secondary"),
            pytest.param(DEPRECATED, id="deprecated"),
            pytest.param(LEASED, id="with a lifetime"),
            pytest.param(LEFT_BY_HAVIP, id="marked as havip's"),
            pytest.param(VIP_BY_HAVIP, id="the VIP"),
        ],
    )
    def test_ipv4_is_the_permanent_primary(
        self, stranger: HostAddress, load_from: Load, host: Host
    ) -> None:
        crowded = with_address(host, "eth0", stranger)
        router = only(resolve(load_from("--vip-address-cidr=192.0.2.10/24"), crowded))
        assert router.legs[0].source == ip_address("192.0.2.1")

    def test_ipv4_of_dhcp_is_better_than_none(self, load_from: Load) -> None:
        eth0 = Interface(name="eth0", index=1, mac=b"\2" * 6, is_up=True, addresses=(LEASED,))
        loaded = load_from("--vip-address-cidr=192.0.2.10/24")
        assert only(resolve(loaded, Host(interfaces=(eth0,)))).legs[0].source == ip_address(
            "192.0.2.8"
        )

    def test_ipv6_multicast_is_spoken_from_the_link_local_address(
        self, load_from: Load, host: Host
    ) -> None:
        router = only(resolve(load_from("--vip-address-cidr=2001:db8::10/64"), host))
        assert router.legs[0].source == ip_address("fe80::1")

    def test_ipv6_unicast_is_spoken_from_an_address_that_peers_reach(
        self, load_from: Load, host: Host
    ) -> None:
        loaded = load_from("--vip-address-cidr=2001:db8::10/64", "--vrrp-unicast-peers=2001:db8::2")
        assert only(resolve(loaded, host)).legs[0].source == ip_address("2001:db8::1")

    def test_unicast_prefers_the_peers_subnet(self, load_from: Load, host: Host) -> None:
        two = with_address(host, "eth0", HostAddress(interface=ip_interface("203.0.113.1/24")))
        flags = ("--vip-address-cidr=192.0.2.10/24", "--vrrp-unicast-peers=192.0.2.2")
        assert only(resolve(load_from(*flags), two)).legs[0].source == ip_address("192.0.2.1")


def test_a_list_for_all_nodes_names_this_one_too(load_from: Load, host: Host) -> None:
    """It is left out, and is where adverts come from, since the others know that address."""
    other = HostAddress(interface=ip_interface("192.0.2.9/24"))
    peers = "192.0.2.1,192.0.2.2,192.0.2.3"
    loaded = load_from("--vip-address-cidr=192.0.2.10/24", f"--vrrp-unicast-peers={peers}")
    (leg,) = only(resolve(loaded, with_address(host, "eth0", other))).legs
    assert (str(leg.source), list(map(str, leg.peers))) == ("192.0.2.1", ["192.0.2.2", "192.0.2.3"])


def test_the_own_address_of_another_interface_is_no_peer_either(
    load_from: Load, host: Host
) -> None:
    peers = "198.51.100.1,192.0.2.2"
    loaded = load_from("--vip-address-cidr=192.0.2.10/24", f"--vrrp-unicast-peers={peers}")
    (leg,) = only(resolve(loaded, host)).legs
    assert list(map(str, leg.peers)) == ["192.0.2.2"]


@pytest.fixture
def access(tmp_path: Path) -> list[str]:
    """Flags for an API server that is verified, and a credential for it."""
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    (tmp_path / "token").write_text("t0ken")
    return [
        "--kube-api-server=https://192.0.2.2:6443",
        f"--kube-ca-file={tmp_path / 'ca.pem'}",
        f"--kube-token-file={tmp_path / 'token'}",
    ]


@pytest.mark.parametrize(
    ("flags", "source"),
    [
        pytest.param(
            ["--kube-peers-service=peers", "--kube-namespace=vip"],
            PeerSource(service="peers", namespace="vip", file="/var/lib/havip/peers-eth0-10.json"),
            id="a Service",
        ),
        pytest.param(
            ["--kube-peers-selector=a=b", "--state-directory=/srv", "--virtual-router-id=7"],
            PeerSource(selector="a=b", file="/srv/peers-eth0-7.json"),
            id="nodes",
        ),
    ],
)
def test_peers_that_are_to_be_discovered(
    load_from: Load, host: Host, access: list[str], flags: list[str], source: PeerSource
) -> None:
    """IPv6 adverts come from an address that the API can name, which a link-local one is not."""
    vips = "--vip-address-cidr=192.0.2.10/24,2001:db8::10/64"
    loaded = load_from(vips, "--vrrp-unicast-peers=auto", *access, *flags)
    config, warnings = resolve(loaded, host)
    assert (config.peer_source, warnings) == (source, [])
    (router,) = config.routers
    assert [(str(leg.source), leg.discovers_peers, leg.peers) for leg in router.legs] == [
        ("192.0.2.1", True, ()),
        ("2001:db8::1", True, ()),
    ]


def test_no_list_is_asked_for_where_peers_are_configured(
    load_from: Load, host: Host, access: list[str]
) -> None:
    """One file may serve nodes that discover their peers and nodes that do not."""
    flags = ("--vip-address-cidr=192.0.2.10/24", "--kube-peers-service=peers")
    config, _ = resolve(load_from(*flags, *access), host)
    assert config.peer_source is None


def test_peers_go_to_the_leg_of_their_family(load_from: Load, host: Host) -> None:
    loaded = load_from(
        "--vip-address-cidr=192.0.2.10/24,2001:db8::10/64",
        "--vrrp-unicast-peers=2001:db8::2,192.0.2.2,192.0.2.3",
    )
    legs = only(resolve(loaded, host)).legs
    assert [list(map(str, leg.peers)) for leg in legs] == [
        ["192.0.2.2", "192.0.2.3"],
        ["2001:db8::2"],
    ]


class TestLeftovers:
    """An address of an earlier life is not the node's own."""

    FLAG = "--vip-address-cidr=192.0.2.10/24"

    def test_start(self, load_from: Load, host: Host) -> None:
        only(resolve(load_from(self.FLAG), with_address(host, "eth0", VIP_BY_HAVIP)))

    @pytest.mark.parametrize(
        "found",
        [
            pytest.param({}, id="permanent"),
            pytest.param({"is_permanent": False}, id="by DHCP"),
            pytest.param({"is_permanent": False, "is_deprecated": True}, id="deprecated"),
        ],
    )
    def test_another_one_is_taken_over_only_when_told_to(
        self, found: dict[str, bool], load_from: Load, host: Host
    ) -> None:
        vip = HostAddress(interface=ip_interface("192.0.2.10/24"), **found)
        occupied = with_address(host, "eth0", vip)
        with pytest.raises(ConfigError, match="vipTakeOver: true"):
            resolve(load_from(self.FLAG), occupied)
        router = only(resolve(load_from(self.FLAG, "--vip-take-over"), occupied))
        assert router.take_over_address

    @pytest.mark.parametrize("name", ["lo", "kube-ipvs0"])
    def test_where_load_balancers_keep_addresses_they_do_no_harm(
        self, name: str, load_from: Load, host: Host
    ) -> None:
        address = HostAddress(interface=ip_interface("192.0.2.10/32"))
        parking = Interface(
            name=name, index=9, mac=b"", is_up=False, is_loopback=name == "lo", addresses=(address,)
        )
        others = tuple(each for each in host.interfaces if each.name != name)
        crowded = replace(host, interfaces=(*others, parking))
        assert only(resolve(load_from(self.FLAG), crowded)).vip_interface == "eth0"


def test_everything_a_router_is_told(load_from: Load, host: Host) -> None:
    loaded = load_from(
        "--vip-address-cidr=192.0.2.10/24",
        "--virtual-router-id=7",
        "--vrrp-version=2",
        "--vrrp-advert-interval=3",
        "--vrrp-priority=42",
        "--vrrp-no-preempt",
        "--vrrp-preempt-delay=9",
        "--vrrp-fast-detect=false",
        "--all-unhealthy=hold",
        "--node-name=n1",
        environ={"HAVIP_AUTH_PASSWORD": "s3cret"},
    )
    config, _ = resolve(loaded, host)
    (router,) = config.routers
    assert (config.node_name, config.all_unhealthy) == ("n1", "hold")
    assert (router.virtual_router_id, router.version, router.advert_interval_s) == (7, 2, 3.0)
    assert (router.priority, router.no_preempt, router.preempt_delay_s) == (42, True, 9.0)
    assert not router.fast_detect
    assert router.password is not None
    assert router.password.value == b"s3cret"


def test_hmac(load_from: Load, host: Host) -> None:
    file = f"authHmacKeys: {{3: {'ab' * 32}}}\nauthHmacMode: permissive\nauthHmacReplay: time\n"
    loaded = load_from("--vip-address-cidr=192.0.2.10/24", "--auth-hmac-time-window=7", file=file)
    hmac = only(resolve(loaded, host)).hmac
    assert hmac is not None
    assert (hmac.active_key, hmac.mode, hmac.replay, hmac.time_window_s) == (
        3,
        "permissive",
        "time",
        7.0,
    )
    assert hmac.keys[3].value == b"\xab" * 32
