"""What happens on the node itself: freezes, addresses, links, live reconfiguration (design §3)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_interface

import pytest
from driver import (
    ETH,
    SETTLE_S,
    V4,
    V6,
    Driver,
    announcement,
    check,
    order,
    router,
    told,
    touches_the_world,
    vip,
)

from havip.core.actions import (
    InstallAddress,
    RemoveAddress,
    ResetConnections,
    ResetFormerConnections,
    SendFrame,
    SendVrrp,
    Topic,
)
from havip.core.config import Secret
from havip.core.events import (
    AddressAdded,
    LinkChanged,
    ProbeFinished,
    ProbeResult,
    Removal,
    StopRequested,
)
from havip.core.reasons import Reason, State
from havip.core.timers import PUT_BACK_SPACING_S, REFUSE_S

INTERVAL_S = 0.1
DOWN_S = 3 * INTERVAL_S + 156 / 256 * INTERVAL_S
NETS = [pytest.param(V4, id="IPv4"), pytest.param(V6, id="IPv6")]
OTHER = "eth1"


def driver(net=V4, **changes) -> Driver:
    return Driver((router(net, **changes),), net=net)


# Freezes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("wakes_by", ["time", "advert", "frame"])
def test_a_frozen_holder_becomes_backup_silently(interval_s, wakes_by):
    d = driver(advert_interval_s=interval_s).become_active()
    d.freeze_for(3.05 * interval_s)
    match wakes_by:
        case "time":
            actions = d.wake()
        case "advert":
            actions = d.hear(150)
        case "frame":
            actions = d.announce_from()
    assert d.moves[-1][1:] == (State.BACKUP, Reason.FROZEN)
    assert order(actions) == ["ResetConnections", "RemoveAddress"], "no advert, no ARP"
    resumed_at = d.now
    d.done.clear()
    d.run_for(20 * interval_s)
    down_s = 3 * interval_s + 156 / 256 * interval_s
    assert d.adverts[0][0] == pytest.approx(resumed_at + down_s), "it listens before it claims"


@pytest.mark.parametrize("interval_s", [0.01, 0.1, 1.0])
def test_a_short_stall_changes_nothing(interval_s):
    d = driver(advert_interval_s=interval_s).become_active()
    d.run_to_advert()
    d.freeze_for(2.9 * interval_s)
    d.wake()
    assert d.state is State.ACTIVE
    assert d.on_interface


def test_a_stalled_holder_gives_way_to_an_equal_claimant():
    """It was suspected meanwhile; both holding and then a fight would be worse."""
    d = driver().become_active()
    d.run_to_advert()
    d.freeze_for(2 * INTERVAL_S)
    d.hear(100, V4.lower)
    assert d.moves[-1][1:] == (State.BACKUP, Reason.HIGHER_ADDRESS)


def test_a_holder_that_was_not_late_gives_way_to_no_lower_address():
    d = driver().become_active()
    d.run_to_advert()
    d.freeze_for(INTERVAL_S)
    d.hear(100, V4.lower)
    assert d.state is State.ACTIVE


@pytest.mark.parametrize("interval_s", [0.01, 0.1])
def test_a_leaver_that_waits_for_its_successor_is_not_taken_for_frozen(interval_s):
    d = driver(advert_interval_s=interval_s).become_active()
    d.hear(150)
    d.run_for(0.03)
    d.hear(150)
    d.run_for(0.0201)
    assert [reason for _, _, reason in d.moves] == [Reason.HIGHER_PRIORITY]
    assert [advert.priority for _, advert in d.adverts] == [1], "its last word is said"


def test_a_frozen_leaver_ends_silently():
    d = driver().become_active()
    d.tell(StopRequested())
    d.run_for(0.01)
    d.done.clear()
    d.freeze_for(10)
    d.wake()
    assert not d.adverts
    assert d.is_finished
    assert not d.on_interface


@pytest.mark.parametrize("priority", [50, 100])
def test_a_claimant_that_was_frozen_does_not_steal(priority):
    """Its claim went out long ago; another one holds by now, and may be of lower rank."""
    d = driver(no_preempt=True)
    d.start()
    d.hear(150)
    d.run_for(DOWN_S + SETTLE_S / 4)
    d.done.clear()
    d.freeze_for(10)
    d.hear(priority, V4.lower)
    d.wake()
    assert not list(touches_the_world([a for _, a in d.done]))
    for _ in range(20):
        d.hear(priority, V4.lower)
        d.run_for(INTERVAL_S / 2)
    assert d.state is State.BACKUP
    assert not d.adverts


def test_a_backup_that_was_frozen_listens_before_it_claims():
    """A paused machine may have lost what arrived: an empty socket proves nothing."""
    d = driver()
    d.start()
    d.hear(50)
    d.freeze_for(60)
    resumed_at = d.now
    d.wake()
    d.run_for(1)
    assert d.adverts[0][0] == pytest.approx(resumed_at + DOWN_S)


def test_a_backup_that_was_late_claims_at_once():
    d = driver()
    d.start()
    d.hear(150)
    d.freeze_for(DOWN_S + 0.1)
    d.wake()
    assert d.adverts[0][0] == d.now


# Addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_an_expired_address_means_frozen(net):
    """RTM_DELADDR by the kernel itself: nobody renewed, whatever the clock says."""
    d = driver(net).become_active()
    d.run_for(0.01)
    d.done.clear()
    actions = d.lose_address(net.vip.interface, Removal.EXPIRED)
    assert d.moves[-1][1:] == (State.BACKUP, Reason.ADDRESS_EXPIRED)
    assert not told(actions, SendVrrp, SendFrame, InstallAddress)
    d.run_for(DOWN_S - 0.02)
    assert not d.adverts


@pytest.mark.parametrize("net", NETS)
def test_a_deleted_address_is_back_at_once(net):
    d = driver(net).become_active()
    d.done.clear()
    actions = d.lose_address(net.vip.interface)
    assert order(actions) == ["InstallAddress"]
    assert d.on_interface == {net.vip.interface}
    assert d.announcements[0] == (d.now, net.vip.address)
    assert len(d.reports(Topic.PUT_BACK)) == 1
    assert d.state is State.ACTIVE


def test_a_fight_over_the_address_does_not_spin():
    d = driver().become_active()
    began_at = d.now
    put_back = 0
    while d.now < began_at + 1:
        if d.on_interface:
            d.lose_address(V4.vip.interface)
            put_back += 1
        d.run_for(0.005)
    assert put_back == pytest.approx(1 / PUT_BACK_SPACING_S, abs=3)
    assert d.state is State.ACTIVE


def test_only_the_deleted_address_is_put_back():
    d = Driver((replace(router(), legs=(V4.leg(vips=2),)),)).become_active()
    actions = d.lose_address(V4.second.interface)
    assert [a.address for a in told(actions, InstallAddress)] == [V4.second.interface]


def test_an_address_with_another_prefix_is_another_address():
    d = driver().become_active()
    d.run_for(0.01)
    assert d.lose_address("192.0.2.100/24") == []


def test_a_removal_of_ours_that_was_not_meant_is_repaired():
    """Another router of this node, on its way out, removed what this one now holds."""
    d = driver().become_active()
    d.lose_address(V4.vip.interface, Removal.OURS)
    assert d.on_interface == {V4.vip.interface}


def test_the_nodes_own_address_coming_back_puts_the_vip_behind_it():
    """The first address is the one that the kernel speaks from (design §1.6)."""
    d = driver().become_active()
    d.lose_address("192.0.2.10/24")
    d.run_for(0.001)
    d.own_address()
    assert d.state is not State.ACTIVE, "it had no address to speak from: another may hold"

    second = "192.0.2.11/24"
    d = driver()
    d.start()
    d.own_address(address=second)
    d.run_for(1)
    d.lose_address(second)
    d.done.clear()
    actions = d.own_address(address=second)
    assert order(actions) == ["RemoveAddress", "InstallAddress"]
    assert not told(actions, ResetConnections)
    assert d.on_interface == {V4.vip.interface}
    assert d.state is State.ACTIVE
    assert d.announcements
    assert not d.reports(Topic.PUT_BACK)
    assert d.own_address(address=second) == [], "renewed by DHCP, it has not moved"


def test_an_address_that_is_there_twice_is_lost_only_twice():
    """As /24 and, put there by a network plugin, as /32."""
    d = driver().become_active()
    d.own_address(address="192.0.2.10/32")
    d.run_for(0.1)
    d.lose_address("192.0.2.10/32")
    assert d.state is State.ACTIVE
    d.lose_address("192.0.2.10/24")
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.NO_ADDRESS)


def test_a_changed_source_address_is_used_without_a_move():
    d = driver().become_active()
    d.own_address(address="192.0.2.12/24")
    d.lose_address("192.0.2.10/24")
    d.done.clear()
    d.run_for(INTERVAL_S)
    assert {packet.source for _, packet in d.timed(SendVrrp)} == {IPv4Address("192.0.2.12")}
    assert d.state is State.ACTIVE
    assert not d.moves


def test_without_an_address_of_its_own_a_node_takes_no_part():
    d = driver().become_active()
    actions = d.lose_address("192.0.2.10/24")
    assert order(actions) == ["ResetConnections", "RemoveAddress"]
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.NO_ADDRESS)
    d.done.clear()
    d.run_for(5)
    assert not d.adverts
    d.own_address()
    assert d.state is State.BACKUP
    d.run_for(1)
    assert d.state is State.ACTIVE


def occupy(d: Driver, address: str) -> list:
    interface = ip_interface(address)
    d.on_interface.add(interface)
    return d.tell(AddressAdded(interface=ETH, address=interface, is_ours=False, is_permanent=True))


def test_an_occupied_address_is_refused_with_the_remedy():
    d = driver()
    d.start()
    occupy(d, "192.0.2.100/24")
    occupy(d, "192.0.2.100/24")
    d.run_for(10)
    assert not d.adverts
    ((_, report),) = d.reports(Topic.REFUSED)
    assert report.reason is Reason.ADDRESS_OCCUPIED
    assert report.fields["address"] == "192.0.2.100/24"
    assert "vipTakeOver" in str(report.fields["remedy"])
    assert d.view.blocked_by == "address_occupied"
    d.lose_address("192.0.2.100/24")
    d.run_for(1)
    assert d.state is State.ACTIVE


def test_every_occupant_must_have_gone():
    d = driver()
    d.start()
    occupy(d, "192.0.2.100/24")
    occupy(d, "192.0.2.100/16")
    d.lose_address("192.0.2.100/24")
    d.run_for(5)
    assert d.state is State.BACKUP
    d.lose_address("192.0.2.100/16")
    d.run_for(1)
    assert d.state is State.ACTIVE


@pytest.mark.parametrize("prefix", [24, 32])
def test_vip_take_over_removes_the_occupant(prefix):
    d = driver(take_over_address=True)
    d.start()
    actions = occupy(d, f"192.0.2.100/{prefix}")
    assert [a.address for a in told(actions, RemoveAddress)] == [
        ip_interface(f"192.0.2.100/{prefix}")
    ]
    d.run_for(1)
    assert d.state is State.ACTIVE
    assert d.on_interface == {V4.vip.interface}


def test_vip_take_over_while_holding_keeps_the_vip():
    """An operator's `ip addr replace` made it permanent."""
    d = driver(take_over_address=True).become_active()
    occupy(d, "192.0.2.100/32")
    d.run_for(0.001)
    assert d.on_interface == {V4.vip.interface}
    assert d.state is State.ACTIVE


def test_take_over_can_be_switched_on_live():
    d = driver()
    d.start()
    occupy(d, "192.0.2.100/24")
    actions = d.reconfigure(take_over_address=True)
    assert told(actions, RemoveAddress)
    d.run_for(1)
    assert d.state is State.ACTIVE


def test_an_occupied_vip_that_is_given_up_blocks_no_longer():
    d = Driver((replace(router(), legs=(V4.leg(vips=2),)),))
    d.start()
    occupy(d, "192.0.2.101/32")
    d.reconfigure(legs=(V4.leg(),))
    d.run_for(1)
    assert d.state is State.ACTIVE


def test_an_address_that_becomes_a_vip_is_occupied():
    d = driver()
    d.start()
    occupy(d, "192.0.2.101/32")
    d.reconfigure(legs=(V4.leg(vips=2),))
    d.run_for(5)
    assert d.view.blocked_by == "address_occupied"
    assert not d.adverts


def test_a_failed_install_is_told_and_another_node_is_let_in():
    d = driver()
    d.kernel_s = None
    d.start()
    d.run_for(DOWN_S + SETTLE_S)
    d.done.clear()
    actions = d.fail_install(V4.vip)
    assert d.moves[-1][1:] == (State.BACKUP, Reason.INSTALL_FAILED)
    fields = d.reports(Topic.MOVED)[-1][1].fields
    assert (fields["errno"], fields["detail"]) == (13, "Permission denied")
    assert order(actions)[-1] == "SendVrrp"
    assert d.adverts[-1][1].priority == 0
    failed_at = d.now
    d.done.clear()
    d.run_for(10)
    assert d.adverts[0][0] == pytest.approx(failed_at + REFUSE_S)


@pytest.mark.parametrize("priority", [50, 150])
def test_a_refused_node_waits_whoever_holds(priority):
    """Preempting a lower holder at once would fail at once, again and again."""
    d = driver(preempt_delay_s=0.0)
    d.kernel_s = None
    d.start()
    d.run_for(DOWN_S + SETTLE_S)
    d.fail_install(V4.vip)
    d.done.clear()
    for _ in range(int(0.9 * REFUSE_S / INTERVAL_S)):
        d.hear(priority)
        d.run_for(INTERVAL_S)
    assert not d.adverts


def test_a_failed_renewal_is_no_verdict():
    d = driver().become_active()
    d.fail_install(V4.vip)
    assert d.state is State.ACTIVE


# Links -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_link_down_releases_and_link_up_claims_anew(net):
    d = driver(net).become_active()
    actions = d.link(is_up=False)
    assert order(actions) == ["ResetConnections", "RemoveAddress"]
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.LINK_DOWN)
    d.done.clear()
    d.run_for(10)
    assert not list(touches_the_world([a for _, a in d.done]))
    d.link()
    up_at = d.now
    assert d.moves[-1][1:] == (State.BACKUP, Reason.LINK_UP)
    d.run_for(1)
    assert d.adverts[0][0] == pytest.approx(up_at + DOWN_S)
    assert d.announcements


def test_a_frame_or_advert_while_the_link_is_down_changes_nothing():
    d = driver().become_active()
    d.link(is_up=False)
    d.done.clear()
    d.hear(50)
    d.announce_from()
    assert not list(touches_the_world([a for _, a in d.done]))


def test_a_lost_vip_interface_lets_the_successor_in_at_once():
    """VRRP can still be spoken, so the others need not wait for its silence."""
    d = Driver((router(vip_interface=OTHER),))
    d.start()
    d.link(interface=OTHER)
    d.run_for(1)
    assert d.state is State.ACTIVE
    d.done.clear()
    d.link(is_up=False, interface=OTHER)
    assert [advert.priority for _, advert in d.adverts] == [0]
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.LINK_DOWN)


def test_another_interface_is_no_concern():
    d = driver().become_active()
    d.run_for(0.001)
    assert d.link(is_up=False, interface=OTHER) == []


def test_a_new_mac_is_announced():
    """A bond fails over to its other port: the segment must learn it at once."""
    d = driver().become_active()
    d.done.clear()
    mac = bytes.fromhex("02000000000b")
    d.tell(LinkChanged(interface=ETH, is_up=True, mac=mac))
    assert [heard.mac for _, heard in d.frames] == [mac]


# Legs --------------------------------------------------------------------------------------------


def dual(**changes) -> Driver:
    return Driver((replace(router(), legs=(V4.leg(), V6.leg()), **changes),))


def test_two_legs_move_together():
    d = dual().become_active()
    assert d.on_interface == {V4.vip.interface, V6.vip.interface}
    d.run_for(INTERVAL_S / 2 + 0.001)
    assert {(p.source, p.destination) for _, p in d.timed(SendVrrp)} == {
        (V4.me, V4.multicast),
        (V6.me, V6.multicast),
    }
    d.done.clear()
    d.hear(150, V4.higher)
    d.run_for(0.1)
    assert not d.on_interface
    assert {(p.source, p.destination) for _, p in d.timed(SendVrrp)} == {
        (V4.me, V4.multicast),
        (V6.me, V6.multicast),
    }, "the last word goes to both"


def test_one_leg_without_an_address_takes_both_down():
    d = dual().become_active()
    d.lose_address("fe80::10/64")
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.NO_ADDRESS)
    assert not d.on_interface


def test_the_second_leg_dethrones_by_priority_alone():
    d = dual().become_active()
    d.hear(100, V6.higher)
    assert d.state is State.ACTIVE
    d.hear(150, V6.higher)
    assert d.moves[-1][1:] == (State.BACKUP, Reason.HIGHER_PRIORITY)


def test_the_second_leg_ends_a_claim_by_priority_alone():
    for priority, claims in ((100, True), (101, False)):
        d = dual()
        d.start()
        d.hear(150)
        d.run_for(DOWN_S + SETTLE_S / 4)
        d.hear(priority, V6.higher)
        d.run_for(0.05)
        assert (d.state is State.ACTIVE) == claims


def test_only_vips_of_the_family_go_behind_a_new_address():
    d = dual().become_active()
    actions = d.own_address(address="192.0.2.11/24")
    assert [a.address for a in told(actions, RemoveAddress)] == [V4.vip.interface]


def test_after_a_yield_by_the_second_leg_the_first_leg_counts():
    """Addresses of two families have no order: an IPv6 holder would outrank every IPv4 one."""
    d = dual().become_active()
    d.hear(150, V6.higher)
    d.run_for(0.1)
    for _ in range(4):
        d.run_for(INTERVAL_S)
        d.hear(150, V4.higher)
    assert d.state is State.BACKUP
    assert not [advert for _, advert in d.adverts if advert.priority == 100]


def test_the_second_leg_is_a_sign_of_life():
    """A firewall that drops VRRP over IPv4 alone must not make the VIP go to and fro."""
    d = dual()
    d.start()
    for _ in range(100):
        d.hear(150, V6.higher)
        d.run_for(INTERVAL_S / 2)
    assert d.state is State.BACKUP
    assert not d.adverts
    d.run_for(1)
    assert d.state is State.ACTIVE


def test_fast_detection_asks_in_the_first_legs_family():
    d = dual(fast_detect=True).become_active()
    d.hear(150, V6.higher)
    d.run_for(0.1)
    d.hear(150, V4.higher)
    d.run_for(1)
    assert {address.version for _, address in d.questions} == {4}


# Live reconfiguration ----------------------------------------------------------------------------


def test_a_new_priority_is_advertised_at_once_and_explained():
    d = driver().become_active()
    d.run_for(0.01)
    d.done.clear()
    d.reconfigure(priority=120)
    assert d.adverts[-1][1].priority == 120
    ((_, report),) = d.reports(Topic.PRIORITY)
    assert report.reason is Reason.RECONFIGURED
    assert report.fields == {"priority": 120, "priority_was": 100}
    d.run_for(1)
    assert d.state is State.ACTIVE
    assert not d.moves


def test_a_new_interval_is_announced_without_a_move():
    d = driver().become_active()
    d.done.clear()
    d.reconfigure(advert_interval_s=0.5)
    d.run_for(2)
    assert {advert.advert_interval_s for _, advert in d.adverts} == {0.5}
    times = [at for at, _ in d.adverts]
    assert times[-1] - times[-2] == pytest.approx(0.25)
    assert not d.moves


def test_a_vip_is_added_while_holding():
    d = driver().become_active()
    d.done.clear()
    d.reconfigure(legs=(V4.leg(vips=2),))
    assert d.on_interface == {V4.vip.interface}
    d.run_for(0.31)
    assert [address for _, address in d.probes] == [V4.second.address] * 3, "asked for first"
    assert d.on_interface == {V4.vip.interface, V4.second.interface}
    assert not d.timed(RemoveAddress)
    assert not d.timed(ResetConnections)
    assert V4.second.address in {address for _, address in d.announcements}
    assert [a for _, a in d.timed(ResetFormerConnections)] == [
        ResetFormerConnections(address=V4.second.address)
    ]
    assert d.adverts[-1][1].addresses == (V4.vip.address, V4.second.address)
    assert not d.moves
    ((_, report),) = d.reports(Topic.CONFIGURED)
    assert report.fields["vips"] == f"{V4.vip.interface},{V4.second.interface}"


def test_a_vip_that_is_added_is_not_taken_from_another_host():
    d = driver().become_active()
    d.reconfigure(legs=(V4.leg(vips=2),))
    d.tell(announcement(b"\x02other", V4.second.address))
    ((_, refused),) = d.reports(Topic.REFUSED)
    assert refused.reason is Reason.ADDRESS_IN_USE
    assert refused.fields["address"] == str(V4.second.address)
    d.run_for(2.9)
    assert d.on_interface == {V4.vip.interface}
    d.run_for(1)
    assert d.on_interface == {V4.vip.interface, V4.second.interface}, "it is free again"


def test_a_holder_that_the_kernel_does_not_answer_steps_down():
    d = driver()
    d.start()
    d.kernel_s = None
    d.run_for(3)
    assert d.state is State.ACTIVE
    d.run_for(0.5)
    assert [reason for _, _, reason in d.moves][-1] is Reason.ADDRESS_EXPIRED
    assert d.state is State.BACKUP


def test_a_node_without_a_link_is_not_ready():
    d = driver().become_active()
    assert d.node.view(d.now).ready
    d.link(is_up=False)
    assert d.node.view(d.now).not_ready_because == "eth0/10: link_down"


def test_a_vip_is_removed_while_holding():
    d = Driver((replace(router(), legs=(V4.leg(vips=2),)),)).become_active()
    d.done.clear()
    d.reconfigure(legs=(V4.leg(),))
    assert d.on_interface == {V4.vip.interface}
    assert [a for _, a in d.timed(ResetConnections)] == [
        ResetConnections(address=V4.second.address)
    ]
    assert d.adverts[-1][1].addresses == (V4.vip.address,)
    assert not d.moves


def test_a_vip_with_another_prefix_ends_up_on_the_interface():
    d = driver().become_active()
    wider = replace(vip("192.0.2.100/24"), has_connected_route=True)
    d.reconfigure(legs=(replace(V4.leg(), vips=(wider,)),))
    d.run_for(0.01)
    assert d.on_interface == {wider.interface}
    assert d.state is State.ACTIVE


def test_a_backup_takes_a_new_configuration_without_a_word():
    d = driver()
    d.start()
    d.hear(150)
    d.done.clear()
    d.reconfigure(priority=120, advert_interval_s=0.2, password=None)
    assert not list(touches_the_world([a for _, a in d.done]))
    assert d.view.effective_priority == 120


def test_a_password_changes_without_a_move():
    changes = {"version": 2, "advert_interval_s": 1.0, "rotation_delay_s": 0.0}
    d = driver(**changes, password=Secret(b"old")).become_active()
    d.reconfigure(password=Secret(b"new"))
    d.run_for(1)
    assert d.adverts[-1][1].password == b"new"
    assert not d.moves


def test_a_leaver_takes_a_new_configuration():
    d = Driver((replace(router(), legs=(V4.leg(vips=2),)),)).become_active()
    d.hear(150)
    d.reconfigure(legs=(V4.leg(),))
    assert d.on_interface == {V4.vip.interface}
    d.run_for(0.2)
    assert not d.on_interface
    assert d.state is State.BACKUP


def test_a_source_that_is_not_there_takes_the_node_out():
    d = dual().become_active()
    d.reconfigure(legs=(V4.leg(), replace(V6.leg(), source=type(V6.me)("2001:db8::10"))))
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.NO_ADDRESS)
    assert not d.on_interface


# Claims that are withdrawn ------------------------------------------------------------------------


def test_a_claim_is_withdrawn_when_a_check_fails_in_the_middle():
    """Others have heard it: without a word they would wait for a holder that never was."""
    d = Driver(checks=(check(),))
    d.start()
    d.run_for(0.01)
    d.hear(150)
    d.results["service"] = None
    d.run_for(DOWN_S + SETTLE_S / 4)
    assert len(d.adverts) == 1
    d.done.clear()
    d.tell(ProbeFinished(check="service", result=ProbeResult.REFUSED))
    assert [advert.priority for _, advert in d.adverts] == [0]
    d.run_for(5)
    assert not d.timed(InstallAddress)


def test_a_claim_is_withdrawn_on_stop():
    d = driver()
    d.start()
    d.hear(150)
    d.run_for(DOWN_S + SETTLE_S / 4)
    d.done.clear()
    assert order(d.tell(StopRequested())) == ["SendVrrp", "Finished"]
    assert d.adverts[0][1].priority == 0


def test_a_claim_ends_when_the_link_goes_down():
    d = driver()
    d.start()
    d.hear(150)
    d.run_for(DOWN_S + SETTLE_S / 4)
    d.done.clear()
    d.link(is_up=False)
    d.run_for(5)
    assert not list(touches_the_world([a for _, a in d.done]))
