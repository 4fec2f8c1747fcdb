"""The VIP beside everything else on a node: what is taken away, left behind, or somebody else's."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from ipaddress import IPv4Interface, ip_address

import pytest
from cluster import (
    HANG_S,
    SERVICE_URL,
    adverts,
    announcements,
    decisions,
    holder,
    priorities,
    reasons,
    router,
    settled,
    start,
    wait_for_adverts,
    wait_for_announcement,
)
from patience import becomes

from havip.act.addresses import Addresses
from havip.core.actions import InstallAddress
from havip.netlab import Host, Lab, Process
from havip.netlab.namespace import inside, run
from havip.wire import arp

VIP = Lab.vip.partition("/")[0]


@pytest.fixture
def pair(make_lab) -> Lab:
    return make_lab(hosts=2)


def ipv4(host: Host) -> list[str]:
    """IPv4 addresses with prefix length, in the kernel's order."""
    return [f"{a['local']}/{a['prefixlen']}" for a in host.addresses() if a["family"] == "inet"]


def own(host: Host) -> list[dict[str, object]]:
    """The node's own addresses, with all that the kernel tells of them."""
    return [a for a in host.addresses() if a["local"] != VIP]


def test_the_vip_stands_on_the_interface_as_promised(pair: Lab) -> None:
    """Deprecated, finite, marked, without a route, behind the node's own address."""
    start(pair)
    first = settled(pair)
    assert ipv4(first) == [f"{first.ipv4}/24", f"{VIP}/32"]
    (vip,) = (a for a in first.addresses() if a["local"] == VIP)
    assert vip["deprecated"]
    assert vip["noprefixroute"]
    assert vip["preferred_life_time"] == 0
    assert vip["valid_life_time"] <= 3
    assert VIP not in first.ip("route show table main")
    assert f"src {first.ipv4}" in first.ip("route get 10.77.0.201")


def test_a_deleted_vip_is_back_on_the_same_holder(pair: Lab) -> None:
    for host in pair.hosts:
        host.serve()
    daemons = start(pair)
    first = settled(pair)
    prober = pair.client.probe(VIP)
    prober.wait_for_answer(first.name)
    for _ in range(5):
        deleted_at = time.monotonic()
        first.ip(f"address delete {VIP}/32 dev eth0")
        pair.watch.wait_for(
            lambda since=deleted_at: (
                [e.present for e in pair.watch.vip_events(pair.vip_address) if e.at > since]
                == [False, True]
            ),
            HANG_S,
            "lost and back",
        )
        prober.wait_for_answer(first.name, since_at=deleted_at)
        # Who resolved it meanwhile must learn it again.
        wait_for_announcement(pair, first, deleted_at)
    assert {e.host for e in pair.watch.vip_events(pair.vip_address)} == {first.name}
    # Told at once, and then with restraint.
    told = [d["event"] for d in decisions(daemons[first.name])].count("put_back")
    assert 1 <= told < 5


def test_an_address_flush_takes_the_vip_for_moments_only(make_lab) -> None:
    """`ip address flush` takes the node's own address too: then it must let go, and rejoin."""
    lab = make_lab(hosts=1)
    daemon = start(lab)["h1"]
    holder(lab)
    flushed_at = time.monotonic()
    lab["h1"].ip("-4 address flush dev eth0")
    daemon.wait_for_log("no_address")
    lab.watch.wait_until_gone(lab.vip_address)
    becomes(lambda: router(lab["h1"])["state"], "initialize")
    lab["h1"].ip("address add 10.77.0.11/24 dev eth0")
    lab.watch.wait_for_holder(lab.vip_address, "h1")
    assert ipv4(lab["h1"]) == ["10.77.0.11/24", f"{VIP}/32"]
    wait_for_announcement(lab, "h1", flushed_at)


def test_link_down_releases_and_link_up_rejoins(pair: Lab) -> None:
    daemons = start(pair, vrrp_no_preempt=True)
    first = settled(pair)
    (second,) = (host for host in pair.hosts if host is not first)
    first.ip("link set eth0 down")
    down_at = time.monotonic()
    pair.watch.wait_for_holder(pair.vip_address, second.name)
    pair.watch.wait_until_gone(pair.vip_address, first.name)
    becomes(lambda: router(first)["state"], "initialize")
    assert router(first)["blocked_by"] == "link_down"
    first.ip("link set eth0 up")
    becomes(lambda: router(first)["state"], "backup")
    wait_for_adverts(pair, second, 20, time.monotonic())
    assert pair.watch.holders(pair.vip_address) == (second.name,)
    assert adverts(pair, first, down_at) == []
    becomes(lambda: reasons(daemons[first.name], "moved")[-2:], ["link_down", "link_up"])
    # And it takes part again: hears, and succeeds.
    settled(pair)
    second.power_off()
    pair.watch.wait_for_holder(pair.vip_address, first.name)


def test_a_pulled_cable_releases_the_vip(pair: Lab) -> None:
    """Carrier lost, the interface still up: the address must not wait for its lifetime's end."""
    daemons = start(pair)
    first = settled(pair)
    first.cut()
    daemons[first.name].wait_for_log("link_down")
    pair.watch.wait_until_gone(pair.vip_address, first.name)
    (gone,) = (e for e in pair.watch.vip_events(pair.vip_address) if not e.present)
    assert gone.port_id != 0, "deleted, not expired"
    second = holder(pair)
    plugged_at = first.plug()
    becomes(lambda: router(first)["state"], "backup")
    wait_for_adverts(pair, second, 20, plugged_at)
    assert pair.watch.holders(pair.vip_address) == (second.name,)
    assert not announcements(pair, first, plugged_at)


def make_interface_again(lab: Lab, host: Host, daemon: Process) -> None:
    daemon.wait_for_log("link_down")
    run(
        ("ip", "-netns", lab.switch, "-batch", "-"),
        f"link add {host.name} type veth peer name eth0 address {host.mac} "
        f"netns {host.namespace}\nlink set {host.name} master br0 up\n",
    )
    lab.configure(host)
    becomes(lambda: router(host)["state"], "backup")


def test_an_interface_made_again_wakes_the_daemon(pair: Lab) -> None:
    """Not only a timer reads the new sockets: a goodbye is acted upon when it arrives."""
    daemons = start(pair, vrrp_advert_interval=1, vrrp_fast_detect=False)
    first = settled(pair)
    (second,) = (host for host in pair.hosts if host is not first)
    second.ip("link delete eth0")
    make_interface_again(pair, second, daemons[second.name])
    settled(pair)
    daemons[first.name].stop()
    pair.watch.wait_for_holder(pair.vip_address, second.name)
    last = [(e.host, e.present) for e in pair.watch.vip_events(pair.vip_address)][-2:]
    assert last == [(second.name, True), (first.name, False)], "made before broken"


def test_an_interface_deleted_and_made_again_rejoins(pair: Lab) -> None:
    daemons = start(pair)
    first = settled(pair)
    (second,) = (host for host in pair.hosts if host is not first)
    first.ip("link delete eth0")
    pair.watch.wait_for_holder(pair.vip_address, second.name)
    make_interface_again(pair, first, daemons[first.name])
    settled(pair)
    assert pair.watch.holders(pair.vip_address) == (second.name,)
    off_at = second.power_off()
    pair.watch.wait_for_holder(pair.vip_address, first.name)
    wait_for_announcement(pair, first, off_at)


def test_a_stale_address_of_an_earlier_life_is_cleaned_up_at_start(pair: Lab) -> None:
    """Told by its mark, whatever the prefix, or by the three that only havip combines."""
    first, second = pair.hosts
    lifetime = "valid_lft 60 preferred_lft 0"
    first.ip(f"address add {VIP}/32 dev eth0 {lifetime} noprefixroute")
    install = InstallAddress(
        interface="eth0",
        address=IPv4Interface(f"{VIP}/24"),
        valid_s=60,
        has_connected_route=True,
    )
    with closing(inside(second.namespace, Addresses)) as addresses:
        assert addresses.install(install) is None
    started_at = time.monotonic()
    start(pair)
    winner = settled(pair)
    assert pair.watch.holders(pair.vip_address, with_stale=True) == (winner.name,)
    assert ipv4(winner) == [f"{winner.ipv4}/24", f"{VIP}/32"]
    gone = [e for e in pair.watch.vip_events(pair.vip_address) if not e.present]
    assert {e.host for e in gone} == {"h1", "h2"}
    assert all(e.at > started_at and e.port_id for e in gone)


def test_the_address_of_a_former_keepalived_is_refused_with_the_remedy(make_lab) -> None:
    lab = make_lab(hosts=1)
    host = lab["h1"]
    host.ip(f"address add {VIP}/24 dev eth0")
    before = host.addresses()
    daemon = host.havip(wait=False, vip_address_cidr=lab.vip)
    assert daemon.wait(HANG_S) == 2
    told = daemon.log_text()
    assert "vipAddressCidr" in told
    assert f"{VIP}/24" in told
    assert "vipTakeOver" in told
    assert f"ip address delete {VIP}/24 dev eth0" in told
    assert host.addresses() == before
    assert adverts(lab, "h1") == []

    # The remedy, either of the two.
    taker = start(lab, vip_take_over=True)["h1"]
    lab.watch.wait_for(lambda: ipv4(host) == [f"{host.ipv4}/24", f"{VIP}/32"], HANG_S, "taken")
    assert taker.stop() == 0
    assert ipv4(host) == [f"{host.ipv4}/24"]


def test_a_permanent_address_that_appears_later_blocks_a_backup(pair: Lab) -> None:
    """Somebody starts keepalived beside a running havip: no second holder under one roof."""
    daemons = start(pair)
    first = settled(pair)
    (second,) = (host for host in pair.hosts if host is not first)
    second.ip(f"address add {VIP}/24 dev eth0")
    daemons[second.name].wait_for_log("address_occupied")
    becomes(lambda: router(second)["blocked_by"], "address_occupied")
    assert not router(second)["may_hold"]
    second.ip(f"address delete {VIP}/24 dev eth0")
    becomes(lambda: router(second)["may_hold"], True)


def test_a_foreign_host_that_owns_the_vip_is_respected_and_named(make_lab) -> None:
    lab = make_lab(hosts=1, clients=2)
    owner = lab.clients[1]
    owner.ip(f"address add {VIP}/24 dev eth0")
    daemon = start(lab)["h1"]
    daemon.wait_for_log("address_in_use")
    (refused, *_) = (d for d in decisions(daemon) if d["event"] == "refused")
    assert refused["mac"] == owner.mac
    assert refused["address"] == VIP
    assert refused["remedy"]
    # Asked again, refused again.
    daemon.wait_for(
        lambda: reasons(daemon, "refused").count("address_in_use") >= 2, HANG_S, "gave up"
    )
    assert not lab["h1"].has_vip(VIP)
    assert adverts(lab, "h1") == []
    assert announcements(lab, "h1") == []
    # Freed: taken, by itself.
    owner.ip(f"address delete {VIP}/24 dev eth0")
    lab.watch.wait_for_holder(lab.vip_address, "h1", timeout_s=HANG_S)


def test_a_holder_defends_the_vip_against_a_foreign_host(make_lab) -> None:
    lab = make_lab(hosts=1, clients=2)
    lab["h1"].serve()
    daemon = start(lab)["h1"]
    holder(lab)
    prober = lab.clients[0].probe(VIP)
    prober.wait_for_answer("h1")
    # After a move, the former holder's own words are no offence (OVERLAP_S).
    wait_for_adverts(lab, "h1", 65, time.monotonic())
    rival = lab.clients[1]
    rival.ip(f"address add {VIP}/24 dev eth0")
    since_at = time.monotonic()
    announce(lab, rival)
    daemon.wait_for_log("address_in_use")
    (alarm, *_) = (d for d in decisions(daemon) if d["event"] == "alarm")
    assert alarm["mac"] == rival.mac
    prober.wait_for_answer("h1", since_at=since_at)
    assert lab["h1"].has_vip(VIP)


def announce(lab: Lab, host: Host) -> None:
    """A gratuitous ARP of the VIP from a host that runs no havip."""
    frame = arp.announcement(mac=bytes.fromhex(host.mac.replace(":", "")), address=lab.vip_address)

    def put() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
            link.sendto(frame, ("eth0", 0))

    inside(host.namespace, put)


def test_a_nodes_own_addresses_survive_start_and_stop(pair: Lab) -> None:
    """10.77.0.10 begins like 10.77.0.100; secondary and IPv6 addresses stand there as well."""
    first = pair["h1"]
    for extra in ("10.77.0.10/24", "10.77.0.200/24", "10.77.0.9/32", "10.77.1.100/24"):
        first.ip(f"address add {extra} dev eth0")
    first.ip("address add fd77::10/64 dev eth0 nodad")
    first.ip("route add 192.0.2.0/24 via 10.77.0.1")
    before, routes = own(first), first.ip("route show")
    daemon = start(pair, first)["h1"]
    holder(pair)
    assert own(first) == before
    assert first.ip("route show") == routes
    assert daemon.stop() == 0
    assert own(first) == before
    assert first.ip("route show") == routes
    assert not first.has_vip(VIP)
    again = start(pair, first)["h1"]
    holder(pair)
    again.kill()
    pair.watch.wait_until_gone(pair.vip_address)
    assert own(first) == before
    assert first.ip("route show") == routes


def test_an_own_address_that_comes_back_stands_before_the_vip_again(pair: Lab) -> None:
    """systemd-networkd restarted: without a new seat the kernel would speak from the VIP."""
    first = pair["h1"]
    # A second address keeps the node speaking meanwhile.
    first.ip("address add 10.78.0.11/24 dev eth0")
    start(pair, first, vrrp_interface_name="eth0")
    holder(pair)
    first.ip(f"address delete {first.ipv4}/24 dev eth0")
    first.ip(f"address add {first.ipv4}/24 dev eth0")
    pair.watch.wait_for(
        lambda: ipv4(first)[-2:] == [f"{first.ipv4}/24", f"{VIP}/32"],
        HANG_S,
        "the VIP behind the node's own address",
    )
    assert f"src {first.ipv4}" in first.ip("route get 10.77.0.201")
    wait_for_adverts(pair, first, 5, time.monotonic())
    assert pair.watch.holders(pair.vip_address) == ("h1",)
    becomes(lambda: router(first)["state"], "active")


def test_a_promoted_address_stands_before_the_vip_too(pair: Lab) -> None:
    """Renumbered by DHCP: the kernel promotes the second address, to the end of the list."""
    first = pair["h1"]
    first.run(("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1"))
    start(pair, first)
    holder(pair)
    since_at = time.monotonic()
    first.ip("address add 10.77.0.77/24 dev eth0")
    first.ip(f"address delete {first.ipv4}/24 dev eth0")
    pair.watch.wait_for(
        lambda: ipv4(first) == ["10.77.0.77/24", f"{VIP}/32"],
        HANG_S,
        "the VIP behind the node's new address",
    )
    # It goes on, and speaks from the new address.
    wait_for_adverts(pair, first, 5, time.monotonic())
    assert adverts(pair, first, since_at)[-1].data[26:30] == bytes((10, 77, 0, 77))
    becomes(lambda: router(first)["state"], "active")


def test_a_vip_outside_every_subnet_keeps_its_prefix_and_is_reached_by_the_gateway(
    pair: Lab,
) -> None:
    for host in pair.hosts:
        host.serve()
    vip = ip_address(pair.routed_vip.partition("/")[0])
    daemons = start(pair, vip_address_cidr=pair.routed_vip, check_service_url=SERVICE_URL)
    first = settled(pair, vip)
    assert pair.routed_vip in ipv4(first)
    assert "10.79.0.0/24 dev eth0" in first.ip("route show")
    assert "lies in no subnet of this node" in daemons[first.name].log_text()
    prober = pair.client.probe(str(vip))
    prober.wait_for_answer(first.name)
    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(pair, vip)
    prober.wait_for_answer(second.name, since_at=stopped_at)
    assert "10.79.0.0/24" not in first.ip("route show")
    assert 0 in priorities(adverts(pair, first, stopped_at))
