"""The node: several routers, checks, reloads, stops, and what people see."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driver import (
    CHECK_S,
    ETH,
    V4,
    V6,
    Driver,
    advert_from,
    check,
    order,
    router,
    touches_the_world,
)

from havip.core.actions import (
    Counter,
    Finished,
    InstallAddress,
    RemoveAddress,
    SendVrrp,
    StartProbe,
    Topic,
)
from havip.core.check import ANSWER_MARGIN_S
from havip.core.config import AllUnhealthy
from havip.core.events import (
    FrameReceived,
    ProbeFinished,
    ProbeResult,
    Started,
    StopRequested,
    Woken,
)
from havip.core.node import TRANSITIONS
from havip.core.reasons import Reason, State

INTERVAL_S = 0.1
TEN = router()
TWENTY = replace(
    router(), name="eth0/20", virtual_router_id=20, legs=(replace(V4.leg(), vips=(V4.second,)),)
)


def states(d: Driver) -> list[str]:
    return [view.state for view in d.node.view(d.now).routers]


# Several routers ---------------------------------------------------------------------------------


def test_each_router_has_its_own_election():
    d = Driver((TEN, TWENTY)).become_active()
    assert states(d) == ["active", "active"]
    d.tell(advert_from(V4.higher, 150, TWENTY))
    assert states(d) == ["active", "backup"]
    d.run_for(0.2)
    assert d.on_interface == {V4.vip.interface}
    assert {report.router for _, report in d.reports(Topic.MOVED)} == {"eth0/20"}


def test_an_advert_is_for_the_router_of_its_vrid_alone():
    d = Driver((TEN, TWENTY)).become_active()
    d.tell(advert_from(V4.higher, 150, TWENTY))
    assert d.count(Counter.ADVERTS_RECEIVED) == 1
    assert not d.count(Counter.ADVERTS_DROPPED)


def test_routers_on_two_interfaces():
    second = replace(TWENTY, name="eth1/10", virtual_router_id=10, vrrp_interface="eth1")
    d = Driver((TEN, second)).become_active()
    assert states(d) == ["active", "initialize"]
    d.tell(advert_from(V4.higher, 150, second))
    assert states(d) == ["active", "initialize"], "the same VRID on another interface"


def test_a_failed_check_hands_every_vip_over():
    d = Driver((TEN, TWENTY), checks=(check(),)).become_active()
    d.judge(ProbeResult.REFUSED)
    assert states(d) == ["backup", "backup"]
    assert [advert.virtual_router_id for _, advert in d.adverts if advert.priority == 0] == [10, 20]
    d.run_for(1)
    assert not d.on_interface


def test_a_stop_waits_for_every_router():
    d = Driver((TEN, TWENTY)).become_active()
    d.tell(StopRequested())
    d.announce_from(of=V4.vip)
    d.run_for(0.03)
    assert not d.is_finished
    assert d.on_interface == {V4.second.interface}
    d.announce_from(of=V4.second)
    d.run_for(0.03)
    assert d.is_finished


# Checks ------------------------------------------------------------------------------------------


def test_a_node_with_a_check_waits_for_its_first_result():
    d = Driver(checks=(check(),), results={"service": None})
    d.start()
    d.run_for(0.9)
    assert d.view.blocked_by == "check_pending"
    assert not d.adverts
    assert not d.node.view(d.now).ready
    assert "service" in d.node.view(d.now).not_ready_because
    d.tell(ProbeFinished(check="service", result=ProbeResult.PASSED))
    assert d.node.view(d.now).ready
    passed_at = d.now
    d.run_for(1)
    assert d.adverts[0][0] == pytest.approx(passed_at + 0.3609375)


def test_a_weighted_check_of_a_crash_lowers_the_priority_at_once():
    quick = replace(check("service", weight=-40), fast_fail=True)
    d = Driver(checks=(quick,)).become_active()
    d.results["service"] = ProbeResult.TIMED_OUT
    d.run_for(CHECK_S)
    ((at, report),) = d.reports(Topic.PRIORITY)
    assert report.reason is Reason.CHECK_FAILED
    assert report.fields == {"priority": 60, "priority_was": 100}
    assert next(a.priority for when, a in d.adverts if when >= at) == 60
    assert (at, 60) in [(when, advert.priority) for when, advert in d.adverts], "at once"
    assert d.state is State.ACTIVE
    d.run_for(CHECK_S + ANSWER_MARGIN_S)
    d.judge(ProbeResult.PASSED, "service")
    assert d.reports(Topic.PRIORITY)[-1][1].reason is Reason.CHECK_RECOVERED
    assert d.view.effective_priority == 100


@pytest.mark.parametrize("holds", [False, True])
def test_a_holder_believes_a_soft_failure_last_and_its_end_first(holds: bool):
    soft = check("kube_api", weight=-40)
    d = Driver(checks=(soft,)).become_active()
    if not holds:
        d.link(is_up=False)
    others_notice_within_s = soft.interval_s + soft.timeout_s + ANSWER_MARGIN_S

    def waits_s(result: ProbeResult) -> float:
        d.judge(result, "kube_api")
        d.run_for(2 * others_notice_within_s)
        return d.reports(Topic.PRIORITY)[-1][0] - d.reports(Topic.CHECK)[-1][0]

    assert waits_s(ProbeResult.TIMED_OUT) == pytest.approx(others_notice_within_s if holds else 0.0)
    assert d.view.effective_priority == 60
    assert waits_s(ProbeResult.PASSED) == pytest.approx(0.0 if holds else others_notice_within_s)
    assert d.view.effective_priority == 100


@pytest.mark.parametrize("policy", list(AllUnhealthy))
def test_when_every_node_is_unhealthy(policy):
    d = Driver(checks=(check(),), all_unhealthy=policy, results={"service": ProbeResult.REFUSED})
    d.start()
    d.run_for(2)
    assert (d.state is State.ACTIVE) == (policy is AllUnhealthy.HOLD)
    if policy is AllUnhealthy.HOLD:
        assert d.view.effective_priority < 16


def test_a_result_that_nobody_asked_for_changes_nothing():
    d = Driver(checks=(check(),)).become_active()
    d.tell(ProbeFinished(check="unheard-of", result=ProbeResult.REFUSED))
    assert d.state is State.ACTIVE


# Reloads -----------------------------------------------------------------------------------------


def test_a_new_check_moves_nothing_until_it_has_failed():
    d = Driver().become_active()
    d.checks = (check(),)
    d.results["service"] = None
    d.reconfigure(*d.routers)
    d.run_for(0.5)
    assert not d.moves
    assert d.timed(StartProbe)
    d.tell(ProbeFinished(check="service", result=ProbeResult.REFUSED))
    assert d.moves[-1][1:] == (State.BACKUP, Reason.CHECK_FAILED)


def test_a_removed_check_counts_no_longer():
    d = Driver(checks=(check(),), results={"service": ProbeResult.REFUSED})
    d.start()
    d.run_for(1)
    assert d.view.blocked_by == "check_failed"
    d.checks = ()
    d.reconfigure(*d.routers)
    d.run_for(1)
    assert d.state is State.ACTIVE


def test_the_same_configuration_again_changes_nothing():
    d = Driver(checks=(check(),)).become_active()
    d.reconfigure(*d.routers)
    d.run_for(1)
    assert not d.moves
    assert not d.timed(RemoveAddress)


def test_a_router_is_added_beside_a_holder():
    d = Driver((TEN,)).become_active()
    d.reconfigure(TEN, TWENTY)
    d.run_for(2)
    assert states(d) == ["active", "active"], "it knows the links and addresses of before"
    assert {report.router for _, report in d.reports(Topic.MOVED)} == {"eth0/20"}


def test_a_removed_router_hands_its_vip_over():
    d = Driver((TEN, TWENTY)).become_active()
    d.reconfigure(TEN)
    assert d.on_interface == {V4.vip.interface, V4.second.interface}
    assert [advert.virtual_router_id for _, advert in d.adverts if advert.priority == 0] == [20]
    _at, report = d.reports(Topic.MOVED)[0]
    assert (report.router, report.state, report.reason) == (
        "eth0/20",
        State.INITIALIZE,
        Reason.RECONFIGURED,
    )
    d.announce_from(of=V4.second)
    d.run_for(0.03)
    assert d.on_interface == {V4.vip.interface}
    assert states(d) == ["active"]
    d.run_for(1)
    assert d.on_interface == {V4.vip.interface}
    assert not d.is_finished


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": 2, "advert_interval_s": 1.0}, id="another version"),
        pytest.param({"name": "eth0/30", "virtual_router_id": 30}, id="another VRID"),
        pytest.param({"legs": (V6.leg(),)}, id="another family"),
    ],
)
def test_what_cannot_change_in_place_is_handed_over_to_the_new_router(changes):
    d = Driver((TEN,)).become_active()
    d.own_address(V6)
    d.reconfigure(**changes)
    d.run_for(8)
    assert states(d) == ["active"]
    assert d.on_interface == {vip.interface for vip in d.routers[0].legs[0].vips}
    held = [a.address for _, a in d.timed(InstallAddress)][-1]
    assert held in d.on_interface


def test_a_leaving_router_does_not_take_the_new_ones_vip_along():
    """Both have the same VIP; the old one lets go after the new one has it."""
    d = Driver((TEN,)).become_active()
    d.reconfigure(name="eth0/30", virtual_router_id=30, priority=254)
    gone_s = 0.0
    for _ in range(5000):
        d.run_for(0.001)
        gone_s += 0.001 * (not d.on_interface)
    assert states(d) == ["active"]
    assert gone_s < 0.01


def test_reload_and_stop_at_once():
    d = Driver((TEN, TWENTY)).become_active()
    d.reconfigure(TEN)
    d.tell(StopRequested())
    d.run_for(2)
    assert d.is_finished
    assert not d.on_interface


# Stops -------------------------------------------------------------------------------------------


def test_a_reload_after_a_stop_is_too_late():
    d = Driver((TEN,)).become_active()
    d.tell(StopRequested())
    d.reconfigure(TEN, TWENTY)
    d.run_for(5)
    assert d.is_finished
    assert {advert.virtual_router_id for _, advert in d.adverts} == {10}
    assert not d.on_interface


def test_nothing_is_said_after_the_end():
    d = Driver((TEN,), checks=(check(),)).become_active()
    d.tell(StopRequested())
    d.run_for(2)
    assert d.is_finished
    d.done.clear()
    d.tell(Started(utc_offset_s=0.0))
    d.link(is_up=False)
    d.link()
    d.own_address()
    d.hear(50)
    d.hear(0)
    d.announce_from()
    d.reconfigure(TEN)
    d.tell(StopRequested())
    d.tell(Woken())
    d.run_for(10)
    assert not list(touches_the_world([a for _, a in d.done]))
    assert not d.timed(StartProbe)
    assert not d.timed(Finished), "once"


def test_a_stop_before_the_start():
    d = Driver((TEN,))
    assert order(d.tell(StopRequested())) == ["Finished"]
    d.start()
    d.run_for(5)
    assert not d.adverts


def test_a_stop_of_a_backup_is_immediate():
    d = Driver((TEN, TWENTY))
    d.start()
    d.hear(150)
    assert order(d.tell(StopRequested())) == ["Finished"]


def test_a_stop_while_leaving_ends_with_the_leave():
    d = Driver((TEN,)).become_active()
    d.hear(150)
    d.tell(StopRequested())
    assert d.on_interface
    d.run_for(0.2)
    assert d.is_finished
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.STOPPED)


# What people see ---------------------------------------------------------------------------------


def test_the_view_of_a_holder():
    d = Driver((TEN,)).become_active()
    view = d.view
    assert (view.name, view.virtual_router_id, view.version) == ("eth0/10", 10, 3)
    assert (view.state, view.reason) == ("active", "active_silent")
    assert view.vips == ("192.0.2.100/32",)
    assert view.is_holding
    assert view.may_hold
    assert view.blocked_by == ""
    assert (view.priority, view.effective_priority) == (100, 100)
    assert view.since_at < d.now


def test_the_view_shows_the_peers():
    d = Driver((TEN,))
    d.start()
    d.hear(150)
    d.hear(1, V4.lower)
    shown = {p.address: (p.priority, p.is_active) for p in d.view.peers}
    assert shown == {str(V4.higher): (150, True), str(V4.lower): (1, False)}


def test_the_last_transitions_are_kept():
    d = Driver((TEN,))
    d.start()
    for _ in range(TRANSITIONS):
        d.link(is_up=False)
        d.link()
    transitions = d.node.view(d.now).transitions
    assert len(transitions) == TRANSITIONS
    last = transitions[-1]
    assert (last.router, last.topic, last.state, last.was, last.reason) == (
        "eth0/10",
        "moved",
        "backup",
        "initialize",
        "link_up",
    )


def test_what_goes_on_for_ever_pushes_no_move_out_of_the_transitions():
    d = Driver((TEN,)).become_active()
    for _ in range(1_000):
        d.lose_address(V4.vip.interface)
        d.run_for(0.5)
    topics = [t.topic for t in d.node.view(d.now).transitions]
    assert topics.count("put_back") == 1
    assert topics[:2] == ["moved", "moved"]
    assert 5 < len(d.reports(Topic.PUT_BACK)) < 15


def test_what_is_refused_for_ever_is_told_with_restraint():
    d = Driver((TEN,))
    d.start()
    for _ in range(2_000):
        d.announce_from()
        d.run_for(0.5)
    transitions = d.node.view(d.now).transitions
    assert [(t.topic, t.reason) for t in transitions][-1] == ("refused", "address_in_use")
    assert transitions[0].topic == "moved"
    assert len(transitions) < 5
    assert 5 < len(d.reports(Topic.REFUSED)) < 15
    assert transitions[-1].fields["times"] > 50


def test_a_refused_claim_is_explained():
    d = Driver((TEN,))
    d.start()
    d.announce_from()
    d.run_for(0.5)
    assert d.node.view(d.now).transitions[-1].reason == "address_in_use"
    assert d.view.reason == "address_in_use"


def test_not_ready_before_the_start():
    d = Driver((TEN,))
    assert d.node.view(d.now).not_ready_because == "not started"
    d.start()
    assert d.node.view(d.now).ready


@pytest.mark.parametrize("all_unhealthy", list(AllUnhealthy))
def test_not_ready_while_a_check_that_forbids_holding_has_never_passed(all_unhealthy):
    """Somebody else's ingress controller: the node waits for ever, and says for what."""
    d = Driver((TEN,), checks=(check(),), results={"service": ProbeResult.REFUSED})
    d.all_unhealthy = all_unhealthy
    d.start()
    d.run_for(1)
    view = d.node.view(d.now)
    assert not view.ready
    assert view.not_ready_because.startswith("check service has never passed: http://127.0.0.1/: ")
    assert "checkServiceUrl" in view.not_ready_because
    (told,) = [r for _, r in d.reports(Topic.ALARM)]
    assert told.reason is Reason.CHECK_NEVER_PASSED
    d.judge(ProbeResult.PASSED)
    assert d.node.view(d.now).ready
    d.judge(ProbeResult.REFUSED)
    assert d.node.view(d.now).ready, "a service that is down is no mistake in the configuration"


def test_every_target_that_never_passed_is_named():
    d = Driver((TEN,), checks=(check(), check("kubelet")))
    d.results = {"service": ProbeResult.REFUSED, "kubelet": ProbeResult.TIMED_OUT}
    d.start()
    d.run_for(1)
    told = d.node.view(d.now).not_ready_because
    assert "check service has never passed" in told
    assert "check kubelet has never passed" in told


def test_ready_though_a_check_that_only_weighs_has_never_passed():
    """An API server that is not there yet lowers the priority, and the node may hold."""
    d = Driver((TEN,), checks=(check("kube_api", weight=-40),))
    d.results = {"kube_api": ProbeResult.FORBIDDEN}
    d.start()
    d.run_for(1)
    assert d.state is State.ACTIVE
    assert d.node.view(d.now).ready
    (told,) = [r for _, r in d.reports(Topic.ALARM)]
    assert told.fields["check"] == "kube_api"


def test_malformed_frames_are_counted():
    d = Driver((TEN,)).become_active()
    actions = d.tell(FrameReceived(interface=ETH, frame=b"\xff" * 14))
    assert len(actions) == 1
    assert d.count(Counter.FRAMES_MALFORMED) == 1


def test_each_move_has_a_reason_and_what_was():
    d = Driver((TEN,), checks=(check(),)).become_active()
    d.judge(ProbeResult.REFUSED)
    d.run_for(1)
    d.judge(ProbeResult.PASSED)
    d.run_for(1)
    d.link(is_up=False)
    told = [(r.was, r.state) for _, r in d.reports(Topic.MOVED)]
    assert told == [
        (State.ACTIVE, State.BACKUP),
        (State.BACKUP, State.ACTIVE),
        (State.ACTIVE, State.INITIALIZE),
    ]
    assert all(report.reason for _, report in d.reports(Topic.MOVED))


def test_counters_of_a_holder():
    d = Driver((TEN,)).become_active()
    d.run_for(10)
    assert d.count(Counter.ADVERTS_SENT) == len(d.timed(SendVrrp)) == pytest.approx(200, abs=2)
    assert d.count(Counter.ADDRESS_RENEWALS) == len(d.timed(InstallAddress))
    assert d.count(Counter.ANNOUNCEMENTS) == len(d.announcements) == 2
