"""On which interface `havip who-has` asks for an address."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from havip.commands.who_has import CannotAskError, interface_for
from havip.core.host import Host, HostAddress, Interface


def interface(index: int, name: str, *addresses: str) -> Interface:
    return Interface(
        name=name,
        index=index,
        mac=bytes((2, 0, 0, 0, 0, index)),
        is_up=True,
        addresses=tuple(HostAddress(interface=ip_interface(each)) for each in addresses),
    )


HOST = Host(
    interfaces=(
        interface(1, "cni0", "10.42.0.1/24", "fe80::1/64"),
        interface(2, "eth0", "192.0.2.1/24", "2001:db8::1/64", "fe80::2/64"),
        interface(3, "eth1", "198.51.100.1/24", "fe80::3/64"),
    ),
    default_route_interfaces={4: "eth1", 6: "eth0"},
)


@pytest.mark.parametrize(
    ("addresses", "wanted", "name"),
    [
        pytest.param(["192.0.2.10"], None, "eth0", id="by its subnet"),
        pytest.param(["203.0.113.10"], None, "eth1", id="by the default route"),
        pytest.param(["192.0.2.10"], "cni0", "cni0", id="as it is told"),
        pytest.param(["fe80::10"], None, "eth0", id="link-local: by the default route"),
        pytest.param(["fe80::10"], "eth1", "eth1", id="link-local: as it is told"),
        pytest.param(["fe80::10", "198.51.100.10"], None, "eth1", id="link-local: with another"),
    ],
)
def test_where_to_ask(addresses: list[str], wanted: str | None, name: str) -> None:
    together = [ip_address(each) for each in addresses]
    assert interface_for(HOST, together[0], wanted, together).name == name


def test_without_a_route_a_link_local_address_needs_an_interface() -> None:
    with pytest.raises(CannotAskError, match="name one with --interface"):
        interface_for(Host(interfaces=HOST.interfaces), ip_address("fe80::10"), None)
