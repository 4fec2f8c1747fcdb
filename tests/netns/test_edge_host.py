"""What HostWatch tells of a real kernel's links, addresses and routes, and who changed them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from pathlib import Path

import pytest
from edge_pair import (
    A4,
    A6,
    MAC_A,
    PATIENCE_S,
    VIP4,
    VIP6,
    Netns,
    is_readable,
    join,
    pair,
    read_until,
    set_sysctl,
)
from patience import wait_until

from havip import netlink
from havip.act.addresses import Addresses
from havip.core.actions import InstallAddress, RemoveAddress
from havip.core.events import AddressAdded, AddressRemoved, GatewaysChanged, LinkChanged, Removal
from havip.core.host import Gateway
from havip.sense import host as host_module
from havip.sense.host import HostEvent, HostWatch, read_host

MAC = bytes.fromhex(MAC_A.replace(":", ""))
VIP4_32, VIP6_128 = IPv4Interface(VIP4), IPv6Interface(VIP6)
GATEWAY4, GATEWAY6 = IPv4Address("10.9.0.254"), IPv6Address("fe80::254")
NOBODY = 0xFFFFFFFF


@pytest.fixture
def hosts() -> Iterator[tuple[Netns, Netns]]:
    with pair() as made:
        yield made


@contextmanager
def watching(
    host: Netns, *interfaces: str, addresses: Addresses | None = None
) -> Iterator[HostWatch]:
    """A watch that has told its initial state."""

    def make() -> HostWatch:
        names = interfaces or ("e0",)
        if addresses is None:
            return HostWatch(names, NOBODY)
        return HostWatch(names, addresses.port_id, addresses.take_removal)

    with closing(host.run(make)) as watch:
        host.run(watch.initial_events)
        yield watch


def tell(host: Netns, watch: HostWatch, *last: HostEvent) -> list[HostEvent]:
    """Events up to and with all of `last`."""

    class Inside:
        def read_all(self) -> list[HostEvent]:
            return host.run(watch.read_all)

    return read_until(Inside(), watch.filenos(), lambda events: set(last) <= {*events})


def added(address: str, *, interface: str = "e0") -> AddressAdded:
    return AddressAdded(interface=interface, address=ip_interface(address), is_ours=False)


def ours(address: IPv4Interface | IPv6Interface) -> AddressAdded:
    return AddressAdded(interface="e0", address=address, is_ours=True, is_permanent=False)


def removed(address: str | IPv4Interface | IPv6Interface, by: Removal) -> AddressRemoved:
    return AddressRemoved(interface="e0", address=ip_interface(address), by=by)


def link(is_up: bool, mac: bytes = MAC) -> LinkChanged:
    return LinkChanged(interface="e0", is_up=is_up, mac=mac)


def gateways(*addresses: IPv4Address | IPv6Address) -> GatewaysChanged:
    return GatewaysChanged(interface="e0", gateways=addresses)


def test_the_picture_of_a_host(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    a.ip("address add 10.9.0.50/24 dev e0")
    with addresses_of(a) as (addresses, watch):
        addresses.install(InstallAddress(interface="e0", address=VIP4_32, valid_s=60))
        tell(a, watch, ours(VIP4_32))
    a.ip(f"route add default via {GATEWAY4} metric 20")
    a.ip("route add default via 10.9.0.253 metric 10")
    a.ip(f"-6 route add default via {GATEWAY6} dev e0")
    host = a.run(read_host)
    assert {each.name for each in host.interfaces} >= {"lo", "e0"}
    e0 = host.interface("e0")
    assert e0 is not None
    assert (e0.mac, e0.is_up, e0.is_loopback) == (MAC, True, False)
    lo = host.interface("lo")
    assert lo is not None
    assert lo.is_loopback
    assert host.interface("e9") is None
    by_address = {each.interface: each for each in e0.addresses}
    assert {str(each) for each in by_address} == {
        "10.9.0.1/24",
        "10.9.0.50/24",
        f"{VIP4}/32",
        "fd09::1/64",
        f"{A6}/64",
    }
    own = by_address[IPv4Interface("10.9.0.1/24")]
    assert (own.is_permanent, own.is_ours, own.is_secondary) == (True, False, False)
    assert by_address[IPv4Interface("10.9.0.50/24")].is_secondary
    vip = by_address[VIP4_32]
    assert (vip.is_permanent, vip.is_ours, vip.is_deprecated) == (False, True, True)
    assert host.gateways[0] == Gateway(interface="e0", address=IPv4Address("10.9.0.253"))
    assert set(host.gateways[1:]) == {
        Gateway(interface="e0", address=GATEWAY4),
        Gateway(interface="e0", address=GATEWAY6),
    }
    assert host.default_route_interfaces == {4: "e0", 6: "e0"}


def test_the_first_events_are_the_state(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    a.ip(f"route add default via {GATEWAY4}")
    with closing(a.run(lambda: HostWatch(("e0", "e9"), NOBODY))) as watch:
        events = a.run(watch.initial_events)
    assert events.count(link(True)) == 1
    assert LinkChanged(interface="e9", is_up=False, mac=b"") in events
    assert [e for e in events if isinstance(e, GatewaysChanged) and e.interface == "e0"] == [
        gateways(GATEWAY4)
    ]
    assert {str(e.address) for e in events if isinstance(e, AddressAdded)} == {
        f"{A4}/24",
        f"{A6}/64",
        "fd09::1/64",
    }


def test_a_tentative_address_is_told_when_it_can_be_used(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    with watching(a) as watch:
        a.ip("address add fd09::5/64 dev e0")
        assert a.addresses()["fd09::5"].get("tentative")
        assert a.run(watch.read_all) == []
        assert tell(a, watch, added("fd09::5/64")) == [added("fd09::5/64")]
        assert not a.addresses()["fd09::5"].get("tentative")


def test_carrier_and_administrative_state(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with watching(a) as watch:
        b.ip("link set e0 down")
        tell(a, watch, link(False))
        b.ip("link set e0 up")
        tell(a, watch, link(True))
        a.ip("link set e0 down")
        tell(a, watch, link(False))
        a.ip("link set e0 up")
        tell(a, watch, link(True))
        a.ip("link set e0 address 02:00:00:00:0a:02")
        tell(a, watch, link(True, bytes.fromhex("020000000a02")))


def test_bridge_with_and_without_carrier(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    a.ip("link add br0 address 02:00:00:00:0a:09 type bridge")
    with watching(a, "br0") as watch:
        a.ip("link set br0 up")
        assert not any(e.is_up for e in a.run(watch.read_all) if isinstance(e, LinkChanged))
        a.ip("link set e0 master br0")
        up = LinkChanged(interface="br0", is_up=True, mac=bytes.fromhex("020000000a09"))
        tell(a, watch, up)
        # A port that leaves is told as RTM_DELLINK of the family AF_BRIDGE; e0 is not gone.
        a.ip("link set e0 nomaster")
        tell(a, watch, LinkChanged(interface="br0", is_up=False, mac=up.mac))


def test_leaving_a_bridge_is_not_vanishing(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    a.ip("link add br0 type bridge")
    a.ip("link set e0 master br0")
    with watching(a) as watch:
        a.ip("link set e0 nomaster")
        a.ip("address add 10.9.0.7/24 dev e0")
        events = tell(a, watch, added("10.9.0.7/24"))
        assert link(False) not in events
        assert link(False, b"") not in events


def test_an_interface_that_is_created_anew(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with watching(a) as watch:
        a.ip("link delete e0")
        events = tell(a, watch, link(False, b""))
        gone = [e for e in events if isinstance(e, AddressRemoved)]
        assert {str(e.address) for e in gone} == {f"{A4}/24", f"{A6}/64", "fd09::1/64"}
        assert {e.by for e in gone} == {Removal.FOREIGN}
        join(a, b)
        a.ip(f"address add {A4}/24 dev e0")
        events = tell(a, watch, added(f"{A4}/24"))
        assert link(True) in events


def test_an_interface_that_is_renamed_brings_its_addresses(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    with watching(a, "wan") as watch:
        for command in ("down", "name wan"):
            a.ip(f"link set e0 {command}")
        a.ip("link set wan up")
        events = tell(a, watch, LinkChanged(interface="wan", is_up=True, mac=MAC))
        if added(f"{A4}/24", interface="wan") not in events:
            events = tell(a, watch, added(f"{A4}/24", interface="wan"))
        a.ip("link set wan down")
        a.ip("link set wan name e0")
        tell(a, watch, LinkChanged(interface="wan", is_up=False, mac=b""))


@contextmanager
def addresses_of(host: Netns) -> Iterator[tuple[Addresses, HostWatch]]:
    with (
        closing(host.run(Addresses)) as addresses,
        watching(host, addresses=addresses) as watch,
    ):
        yield addresses, watch


@pytest.mark.parametrize("vip", [VIP4_32, VIP6_128], ids=["IPv4", "IPv6"])
def test_renewed_expired_removed_by_us_or_by_others(
    hosts: tuple[Netns, Netns], vip: IPv4Interface | IPv6Interface
) -> None:
    a, _ = hosts
    install = InstallAddress(interface="e0", address=vip, valid_s=60)
    with addresses_of(a) as (addresses, watch):
        for _ in range(2):
            assert addresses.install(install) is None
            assert tell(a, watch, ours(vip)) == [ours(vip)], "the second is a renewal"
        assert addresses.remove(RemoveAddress(interface="e0", address=vip)) is None
        assert tell(a, watch, removed(vip, Removal.OURS)) == [removed(vip, Removal.OURS)]

        addresses.install(install)
        tell(a, watch, ours(vip))
        a.ip(f"address delete {vip} dev e0")
        assert tell(a, watch, removed(vip, Removal.FOREIGN)) == [removed(vip, Removal.FOREIGN)]

        addresses.install(InstallAddress(interface="e0", address=vip, valid_s=1))
        tell(a, watch, ours(vip))
        assert tell(a, watch, removed(vip, Removal.EXPIRED)) == [removed(vip, Removal.EXPIRED)]
        assert addresses.read_all() == []


def test_an_ipv6_vip_that_goes_with_its_link_has_not_expired(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    with addresses_of(a) as (addresses, watch):
        addresses.install(InstallAddress(interface="e0", address=VIP6_128, valid_s=60))
        tell(a, watch, ours(VIP6_128))
        a.ip("link set e0 down")
        events = tell(a, watch, removed(VIP6_128, Removal.FOREIGN))
        assert events.index(link(False)) < events.index(removed(VIP6_128, Removal.FOREIGN))


def test_gateways_come_change_and_go(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    other = IPv4Address("10.9.0.253")
    with watching(a) as watch:
        a.ip(f"route add default via {GATEWAY4}")
        tell(a, watch, gateways(GATEWAY4))
        a.ip(f"-6 route add default via {GATEWAY6} dev e0")
        tell(a, watch, gateways(GATEWAY4, GATEWAY6))
        a.ip(f"route replace default via {other}")
        tell(a, watch, gateways(other, GATEWAY6))
        a.ip(f"-6 route delete default via {GATEWAY6} dev e0")
        tell(a, watch, gateways(other))
        a.ip(f"route replace default nexthop via {other} dev e0 nexthop via {GATEWAY4} dev e0")
        tell(a, watch, gateways(other, GATEWAY4))
        a.ip("route add default via 10.9.0.99 table 100")
        # The kernel drops IPv4 routes of a link that goes down without a word.
        a.ip("link set e0 down")
        tell(a, watch, gateways())


def test_other_routes_wake_nobody(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    with watching(a) as watch:
        for number in range(20):
            a.ip(f"route add 10.50.{number}.0/24 via {GATEWAY4}")
            a.ip(f"-6 route add fd50:{number}::/32 via {GATEWAY6} dev e0")
        assert not is_readable(*watch.filenos())
        a.ip(f"route add default via {GATEWAY4}")
        assert is_readable(*watch.filenos())


def drops(host: Netns) -> int:
    """Notifications that the kernel could not deliver, of this process's watch."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()
        rows = [dict(zip(lines[0].split(), line.split(), strict=False)) for line in lines[1:]]
        return sum(int(row["Drops"]) for row in rows if int(row["Groups"], 16))

    return host.run(read)


def test_what_was_lost_is_asked_for_again(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    monkeypatch.setattr(host_module, "_BUFFER_BYTES", 1)
    with watching(a) as watch:
        a.ip(f"route add default via {GATEWAY4}")
        for number in range(60):
            a.ip(f"address add 10.9.2.{number}/32 dev e0")
            a.ip(f"address add 10.9.3.{number}/32 dev e0")
            a.ip(f"address delete 10.9.2.{number}/32 dev e0")
        a.ip(f"address delete {A6}/64 dev e0")
        a.ip("link set e0 address 02:00:00:00:0a:02")
        a.ip("route add default via 10.9.0.253 metric 5")
        assert drops(a) > 0, "the test did not provoke a loss"
        events = tell(a, watch, gateways(GATEWAY4, IPv4Address("10.9.0.253")))
        present = {ip_interface(f"{A4}/24"), ip_interface(f"{A6}/64"), ip_interface("fd09::1/64")}
        for event in events:
            match event:
                case AddressAdded():
                    present.add(event.address)
                case AddressRemoved():
                    present.remove(event.address)
        shown = {
            ip_interface(f"{each['local']}/{each['prefixlen']}") for each in a.addresses().values()
        }
        assert present == shown
        assert link(True, bytes.fromhex("020000000a02")) in events
        assert a.run(watch.read_all) == []


def test_an_expiry_that_was_lost_is_told_as_one(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = hosts
    monkeypatch.setattr(host_module, "_BUFFER_BYTES", 1)
    with watching(a) as watch:
        a.ip(f"address add {VIP4}/32 dev e0 valid_lft 1 preferred_lft 0")
        a.ip(f"address add {VIP6}/128 dev e0 valid_lft 60 preferred_lft 0 nodad")
        foreign = AddressAdded(interface="e0", address=VIP6_128, is_ours=False, is_permanent=False)
        tell(a, watch, ours(VIP4_32), foreign)
        for number in range(60):
            a.ip(f"address add 10.9.2.{number}/32 dev e0")
        wait_until(lambda: str(VIP4) not in a.addresses(), "the VIP expires")
        a.ip(f"address delete {VIP6}/128 dev e0")
        assert drops(a) > 0
        tell(a, watch, removed(VIP4_32, Removal.EXPIRED), removed(VIP6_128, Removal.FOREIGN))


def test_while_the_kernel_is_asked_the_notifications_go_on(
    hosts: tuple[Netns, Netns], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer takes as long as it takes, and does not know what was told meanwhile."""
    a, _ = hosts
    monkeypatch.setattr(host_module, "_BUFFER_BYTES", 1)
    monkeypatch.setattr(host_module, "_ASK_AGAIN_S", 0.01)
    is_answered, may_tell = threading.Event(), threading.Event()
    dump_addresses = netlink.dump_addresses
    refusals = [OSError(errno.ENOBUFS, "no memory")]

    def slowly() -> list[netlink.Address]:
        if refusals:
            raise refusals.pop()
        found = dump_addresses()
        is_answered.set()
        assert may_tell.wait(PATIENCE_S)
        return found

    with watching(a) as watch:
        monkeypatch.setattr(netlink, "dump_addresses", slowly)
        a.ip("address add 10.9.4.1/32 dev e0")
        tell(a, watch, added("10.9.4.1/32"))
        for number in range(60):
            a.ip(f"address add 10.9.2.{number}/32 dev e0")
        assert drops(a) > 0
        assert added("10.9.2.59/32") not in a.run(watch.read_all)
        assert is_answered.wait(PATIENCE_S)

        # One by one, since the socket has room for no more.
        a.ip("address delete 10.9.4.1/32 dev e0")
        tell(a, watch, removed("10.9.4.1/32", Removal.FOREIGN))
        a.ip("address add 10.9.4.2/32 dev e0")
        tell(a, watch, added("10.9.4.2/32"))
        a.ip(f"route add default via {GATEWAY4}")
        tell(a, watch, gateways(GATEWAY4))
        assert not may_tell.is_set()

        may_tell.set()
        events = tell(a, watch, added("10.9.2.59/32"))
        assert not {added("10.9.4.1/32"), removed("10.9.4.2/32", Removal.FOREIGN)} & {*events}
        assert not any(isinstance(event, GatewaysChanged) for event in events)


def test_a_kernel_that_keeps_no_mark(hosts: tuple[Netns, Netns]) -> None:
    """Before Linux 5.18: told by the combination that only havip sets, or the short lifetime."""
    a, _ = hosts
    options = "valid_lft 60 preferred_lft 0"
    a.ip(f"address add {VIP4}/32 dev e0 {options} noprefixroute")
    a.ip(f"address add 10.9.0.101/32 dev e0 {options}")
    a.ip(f"address add 10.9.1.1/24 dev e0 {options} noprefixroute")
    e0 = a.run(read_host).interface("e0")
    assert e0 is not None
    assert [str(each.interface) for each in e0.addresses if each.is_ours] == [f"{VIP4}/32"]
    a.ip("address add 10.9.1.2/24 dev e0 valid_lft 2 preferred_lft 0")
    e0 = a.run(read_host).interface("e0")
    assert e0 is not None
    assert [str(each.interface) for each in e0.addresses if each.is_ours] == [
        f"{VIP4}/32",
        "10.9.1.2/24",
    ]


def test_an_unwatched_interface_is_silent(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    a.ip("link add br0 type bridge")
    with watching(a) as watch:
        a.ip("address add 10.8.0.1/24 dev br0")
        a.ip("link set br0 up")
        a.ip("address add 10.9.0.7/24 dev e0")
        assert tell(a, watch, added("10.9.0.7/24")) == [added("10.9.0.7/24")]


def test_ipv6_switched_off_is_not_an_expiry_of_permanent_addresses(
    hosts: tuple[Netns, Netns],
) -> None:
    a, _ = hosts
    with watching(a) as watch:
        set_sysctl(a, "net/ipv6/conf/e0/disable_ipv6", "1")
        events = tell(a, watch, removed(f"{A6}/64", Removal.FOREIGN))
        assert all(e.by is Removal.FOREIGN for e in events if isinstance(e, AddressRemoved))


def test_descriptors_are_given_back(hosts: tuple[Netns, Netns]) -> None:
    a, _ = hosts
    before = len(list(Path("/proc/self/fd").iterdir()))
    with addresses_of(a):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
