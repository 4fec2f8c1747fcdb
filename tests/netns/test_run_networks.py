"""Families, unicast, several virtual routers, and a VRID that somebody else uses."""

from __future__ import annotations

import time
from ipaddress import ip_address

import pytest
from cluster import (
    HANG_S,
    adverts,
    announcements,
    decisions,
    holder,
    message,
    others,
    priorities,
    router,
    settled,
    start,
    wait_for_adverts,
    wait_for_announcement,
)
from patience import becomes, wait_until

from havip.netlab import Frame, Lab, keepalived_config


def destination(frame: Frame) -> str:
    data = frame.data
    return str(ip_address(data[30:34] if frame.ether_type == 0x0800 else data[38:54]))


def hop_limit(frame: Frame) -> int:
    return frame.data[22] if frame.ether_type == 0x0800 else frame.data[21]


@pytest.fixture
def pair(make_lab) -> Lab:
    """Two hosts that serve, and a client."""
    lab = make_lab(hosts=2)
    for host in lab.hosts:
        host.serve()
    return lab


def test_ipv6_only(pair: Lab) -> None:
    daemons = start(pair, vip_address_cidr=pair.vip6)
    first = settled(pair, pair.vip6_address)
    prober = pair.client.probe(str(pair.vip6_address))
    prober.wait_for_answer(first.name)
    assert {frame.ether_type for frame in adverts(pair, first)} == {0x86DD}
    assert {destination(frame) for frame in adverts(pair, first)} == {"ff02::12"}
    assert {hop_limit(frame) for frame in adverts(pair, first)} == {255}
    (vip,) = (a for a in first.addresses() if a["local"] == str(pair.vip6_address))
    assert vip["prefixlen"] == 128
    assert vip["deprecated"]
    assert not vip.get("tentative"), "no duplicate address detection may delay it"

    # Planned: nothing lost. Then a crash.
    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(pair, pair.vip6_address)
    answered_at = prober.wait_for_answer(second.name, since_at=stopped_at)
    assert prober.seen(stopped_at, answered_at + 0.3).lost == 0
    wait_for_announcement(pair, second, stopped_at, pair.vip6_address)
    start(pair, first, vip_address_cidr=pair.vip6)
    settled(pair, pair.vip6_address)
    off_at = second.power_off()
    pair.watch.wait_for_holder(pair.vip6_address, first.name)
    prober.wait_for_answer(first.name, since_at=off_at)


def test_the_legs_of_a_dual_stack_vip_move_together(pair: Lab) -> None:
    both = (pair.vip_address, pair.vip6_address)
    daemons = start(pair, vip_address_cidr=f"{pair.vip},{pair.vip6}")
    first = settled(pair)
    assert settled(pair, pair.vip6_address) is first
    probers = [pair.client.probe(str(vip)) for vip in both]
    for prober in probers:
        prober.wait_for_answer(first.name)
    assert {frame.ether_type for frame in adverts(pair, first)} == {0x0800, 0x86DD}

    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(pair)
    assert holder(pair, pair.vip6_address) is second
    for prober in probers:
        answered_at = prober.wait_for_answer(second.name, since_at=stopped_at)
        assert prober.seen(stopped_at, answered_at + 0.3).lost == 0

    start(pair, first, vip_address_cidr=f"{pair.vip},{pair.vip6}")
    settled(pair)
    off_at = second.power_off()
    for vip, prober in zip(both, probers, strict=True):
        pair.watch.wait_for_holder(vip, first.name)
        prober.wait_for_answer(first.name, since_at=off_at)


def test_one_family_lost_on_the_wire_splits_no_dual_stack_vip(pair: Lab) -> None:
    """The IPv4 leg leads; without IPv6 adverts nobody claims the IPv6 VIP alone."""
    start(pair, vip_address_cidr=f"{pair.vip},{pair.vip6}")
    first = settled(pair)
    (second,) = (pair[name] for name in others(pair, first))
    second.run(("nft", "add", "table", "ip6", "t"))
    second.run(("nft", "add chain ip6 t in { type filter hook input priority 0; policy drop; }"))
    since_at = time.monotonic()
    wait_for_adverts(pair, first, 30, since_at)
    assert pair.watch.holders(pair.vip6_address) == (first.name,)
    assert announcements(pair, second, since_at, pair.vip6_address) == []


@pytest.mark.parametrize("family", [4, 6])
def test_unicast_peers(make_lab, family: int) -> None:
    lab = make_lab(hosts=3)
    for host in lab.hosts:
        host.serve()
    vip = lab.vip if family == 4 else lab.vip6
    address = ip_address(vip.partition("/")[0])
    daemons = {}
    own = {host.name: host.ipv4 if family == 4 else host.ipv6 for host in lab.hosts}
    for host in lab.hosts:
        peers = ",".join(own[name] for name in others(lab, host))
        daemons[host.name] = host.havip(wait=False, vip_address_cidr=vip, vrrp_unicast_peers=peers)
    first = settled(lab, address)
    prober = lab.client.probe(str(address))
    prober.wait_for_answer(first.name)
    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(lab, address)
    answered_at = prober.wait_for_answer(second.name, since_at=stopped_at)
    assert prober.seen(stopped_at, answered_at + 0.3).lost == 0
    off_at = second.power_off()
    (third,) = set(others(lab, second)) - {first.name}
    lab.watch.wait_for_holder(address, third)
    prober.wait_for_answer(third, since_at=off_at)
    # Each advert went to each peer, and none to the group.
    for host in (first, second):
        told = {destination(frame) for frame in adverts(lab, host)}
        assert told == {own[name] for name in others(lab, host)}


def test_unicast_ignores_who_is_no_peer(make_lab) -> None:
    lab = make_lab(hosts=3)
    h1, h2, stranger = lab.hosts
    start(lab, h1, vrrp_unicast_peers=h2.ipv4)
    start(lab, h2, vrrp_unicast_peers=h1.ipv4)
    first = settled(lab)
    # It is better and tells h1 and h2 so; they do not know it.
    stranger.keepalived(
        keepalived_config(
            "10.77.0.100/32",
            priority=250,
            unicast_source=stranger.ipv4,
            unicast_peers=[h1.ipv4, h2.ipv4],
        )
    )
    since_at = time.monotonic()
    wait_for_adverts(lab, stranger, 5, since_at)
    wait_for_adverts(lab, first, 5, time.monotonic())
    assert first.has_vip(lab.vip_address)
    wait_until(lambda: 'reason="unknown_peer"' in first.metrics(), "is not counted")


VIRTUAL_ROUTERS = """\
virtualRouters:
  - vipAddressCidr: 10.77.0.100/24
    virtualRouterId: 10
    vrrpPriority: {first}
  - vipAddressCidr: 10.77.0.101/24
    virtualRouterId: 11
    vrrpPriority: {second}
vrrpPreemptDelay: 0.2
"""


def test_two_virtual_routers_in_a_process_are_spread_and_share_their_fate(pair: Lab) -> None:
    files = {}
    daemons = {}
    for host, first, second in ((pair["h1"], 150, 100), (pair["h2"], 100, 150)):
        files[host.name] = pair.directory / f"{host.name}.yaml"
        files[host.name].write_text(VIRTUAL_ROUTERS.format(first=first, second=second))
        daemons[host.name] = host.havip(wait=False, args=("--config", str(files[host.name])))
    vips = [ip_address("10.77.0.100"), ip_address("10.77.0.101")]
    pair.watch.wait_for_holder(vips[0], "h1")
    pair.watch.wait_for_holder(vips[1], "h2")
    for host in pair.hosts:
        daemons[host.name].wait_for(host.is_ready, HANG_S, "is not ready")
    becomes(lambda: router(pair["h1"], 10)["state"], "active")
    becomes(lambda: router(pair["h1"], 11)["state"], "backup")
    becomes(lambda: router(pair["h2"], 11)["state"], "active")
    probers = [pair.client.probe(str(vip)) for vip in vips]
    probers[0].wait_for_answer("h1")
    probers[1].wait_for_answer("h2")

    # A host stops: both are on the other one. It comes back: each on its own again.
    stopped_at = time.monotonic()
    assert daemons["h1"].stop() == 0
    for vip in vips:
        pair.watch.wait_for_holder(vip, "h2")
    for prober in probers:
        prober.wait_for_answer("h2", since_at=stopped_at)
    pair["h1"].havip(args=("--config", str(files["h1"])))
    pair.watch.wait_for_holder(vips[0], "h1")
    assert pair.watch.holders(vips[1]) == ("h2",)
    assert probers[1].seen(stopped_at, time.monotonic()).answered_by == ("h2",)


def test_several_vips_of_one_router_move_together(pair: Lab) -> None:
    cidrs = f"{pair.vip},{pair.other_vip}"
    daemons = start(pair, vip_address_cidr=cidrs)
    first = settled(pair)
    other = ip_address("10.77.0.101")
    assert holder(pair, other) is first
    assert {message(frame)[3] for frame in adverts(pair, first)} == {2}
    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(pair)
    assert holder(pair, other) is second
    for vip in (pair.vip_address, other):
        wait_for_announcement(pair, second, stopped_at, vip)


def test_two_links_are_two_segments(make_lab) -> None:
    """VRRP on eth1 and the VIP on eth0: an eth1 that is down forbids holding."""
    lab = make_lab(hosts=2, second_link=True)
    start(lab, vrrp_interface_name="eth1", vip_interface_name="eth0")
    first = settled(lab)
    # Equal claims may cross; once one has installed, the other is silent.
    told_at = wait_for_announcement(lab, first, 0).at
    wait_for_adverts(lab, f"{first.name}-2", 3, told_at)
    heard = [frame for frame in lab.capture.frames() if frame.is_vrrp]
    assert {frame.port for frame in heard} <= {f"{host.name}-2" for host in lab.hosts}
    assert {frame.port for frame in heard if frame.at > told_at} == {f"{first.name}-2"}
    first.cut(second=True)
    lab.watch.wait_for_holder(lab.vip_address, *others(lab, first))
    becomes(lambda: router(first)["blocked_by"], "link_down")


def test_a_vrid_that_another_cluster_uses_is_refused_and_named(make_lab) -> None:
    lab = make_lab(hosts=2)
    theirs, mine = lab.hosts
    process = theirs.keepalived(keepalived_config("10.77.0.50/24", priority=100))
    lab.watch.wait_for_holder(ip_address("10.77.0.50"), theirs.name)
    daemon = start(lab, mine)[mine.name]
    daemon.wait_for_log("vrid_collision")
    (refused, *_) = (d for d in decisions(daemon) if d["event"] == "refused")
    assert refused["peer"] == theirs.ipv4
    assert refused["addresses"] == "10.77.0.50"
    assert "virtualRouterId" in refused["remedy"]
    assert adverts(lab, mine) == []
    assert not mine.has_vip(lab.vip_address)
    # They leave: taken, by itself.
    process.stop()
    lab.watch.wait_for_holder(lab.vip_address, mine.name, timeout_s=HANG_S)


def test_the_remedy_for_a_vrid_collision_is_another_vrid(make_lab) -> None:
    lab = make_lab(hosts=2)
    theirs, mine = lab.hosts
    theirs.keepalived(keepalived_config("10.77.0.50/24", priority=100))
    lab.watch.wait_for_holder(ip_address("10.77.0.50"), theirs.name)
    start(lab, mine, virtual_router_id=11)
    lab.watch.wait_for_holder(lab.vip_address, mine.name)
    assert adverts(lab, mine, vrid=10) == []
    assert lab.watch.holders(ip_address("10.77.0.50")) == (theirs.name,)


def test_vrrp_version_2_with_a_password(make_lab) -> None:
    lab = make_lab(hosts=2)
    # With a high priority there is less to wait for before a claim.
    options = {"vrrp_version": 2, "auth_password": "s3cret", "vrrp_priority": 250}
    daemons = start(lab, **options)
    first = settled(lab)
    frames = adverts(lab, first)
    assert {message(frame)[0] for frame in frames} == {0x21}
    assert all(message(frame).endswith(b"s3cret\0\0") for frame in frames)
    assert daemons[first.name].stop() == 0
    second = holder(lab)
    assert second is not first
    for process in daemons.values():
        assert "s3cret" not in process.log_text()
    assert "s3cret" not in second.get("/status")[1] + second.metrics()


def test_a_wrong_password_is_counted_and_told_apart(make_lab) -> None:
    lab = make_lab(hosts=2)
    start(lab, lab["h1"], vrrp_version=2, auth_password="right", vrrp_priority=250)
    holder(lab)
    start(lab, lab["h2"], vrrp_version=2, auth_password="wrong", vrrp_priority=50)
    wait_for_adverts(lab, "h1", 3, time.monotonic())
    wait_until(lambda: 'reason="auth_password"' in lab["h2"].metrics(), "is not counted")


def test_spare_adverts_are_sent_at_half_the_announced_interval(make_lab) -> None:
    """Two for each of a keepalived that announces the same interval."""
    lab = make_lab(hosts=2)
    first, clock = lab.hosts
    start(lab, first, vrrp_advert_interval=0.2)
    holder(lab)
    clock.keepalived(keepalived_config(lab.other_vip, virtual_router_id=11, advert_interval_s=0.2))
    lab.watch.wait_for_holder(ip_address("10.77.0.101"), clock.name)
    began, *_, ended = wait_for_adverts(lab, clock, 6, time.monotonic())
    sent = [each for each in adverts(lab, first) if began.at < each.at < ended.at]
    # Ten; single ones of either are delayed on a crowded machine.
    assert 7 < len(sent) < 20
    assert {message(frame)[4:6] for frame in adverts(lab, first)} == {(20).to_bytes(2)}
    assert set(priorities(adverts(lab, first))) == {100}
