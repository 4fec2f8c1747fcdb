"""What Kubernetes plans for a node, in the election: less priority, and no more than that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driver import Driver, check, router

from havip.core.actions import Topic
from havip.core.config import AllUnhealthy
from havip.core.events import NodeSeen, NodeUnseen, ProbeResult
from havip.core.reasons import Reason, State

CORDONED = NodeSeen(is_unschedulable=True)


@pytest.mark.parametrize(
    ("seen", "reason", "detail"),
    [
        pytest.param(CORDONED, Reason.NODE_CORDONED, "", id="kubectl cordon"),
        pytest.param(
            NodeSeen(taints=frozenset({"node.kubernetes.io/out-of-service"})),
            Reason.NODE_TAINTED,
            "node.kubernetes.io/out-of-service",
            id="out of service",
        ),
        pytest.param(
            NodeSeen(is_unschedulable=True, taints=frozenset({"ToBeDeletedByClusterAutoscaler"})),
            Reason.NODE_TAINTED,
            "ToBeDeletedByClusterAutoscaler",
            id="to be deleted, which says more than the cordon",
        ),
        pytest.param(
            NodeSeen(taints=frozenset({"node.cloudprovider.kubernetes.io/shutdown"})),
            Reason.NODE_TAINTED,
            "node.cloudprovider.kubernetes.io/shutdown",
            id="shut down at the provider",
        ),
        pytest.param(
            NodeSeen(not_ready_because="KubeletNotReady: node is shutting down"),
            Reason.NODE_SHUTS_DOWN,
            "KubeletNotReady: node is shutting down",
            id="graceful node shutdown",
        ),
        pytest.param(NodeSeen(is_stepping_down=True), Reason.NODE_STEPS_DOWN, "", id="annotated"),
    ],
)
def test_a_node_that_is_about_to_leave_has_less_priority(seen, reason, detail):
    d = Driver(node_weight=-30).become_active()
    d.tell(seen)
    ((_, told),) = d.reports(Topic.NODE)
    assert told.reason is reason
    assert told.fields == ({"detail": detail} if detail else {})
    ((_, priority),) = d.reports(Topic.PRIORITY)
    assert priority.reason is reason
    assert priority.fields == {"priority": 70, "priority_was": 100}
    assert [advert.priority for _, advert in d.adverts] == [70], "at once"
    assert d.node.view(d.now).node_object.leaving == reason
    assert d.state is State.ACTIVE, "there is nobody better"
    d.run_for(5.0)
    assert d.state is State.ACTIVE

    d.done.clear()
    d.tell(NodeSeen())
    assert [report.reason for _, report in d.reports(Topic.NODE)] == [Reason.NODE_STAYS]
    assert d.reports(Topic.PRIORITY)[0][1].reason is Reason.NODE_STAYS
    assert d.view.effective_priority == 100


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(NodeSeen(), id="an ordinary node"),
        pytest.param(
            NodeSeen(taints=frozenset({"node-role.kubernetes.io/control-plane"})),
            id="a taint that is no shutdown",
        ),
        pytest.param(
            NodeSeen(not_ready_because="KubeletNotReady: container runtime is down"),
            id="not ready for another reason: that is the kubelet check's",
        ),
    ],
)
def test_a_node_that_stays_is_not_told_of(seen):
    d = Driver(node_weight=-30).become_active()
    d.tell(seen)
    assert not d.reports(Topic.NODE)
    assert not d.reports(Topic.PRIORITY)
    view = d.node.view(d.now).node_object
    assert (view.leaving, view.seen_at) == ("", d.now)


def test_what_is_seen_again_is_not_told_again():
    d = Driver(node_weight=-30).become_active()
    d.tell(CORDONED)
    d.tell(CORDONED)
    assert len(d.reports(Topic.NODE)) == 1


def test_an_api_that_is_away_changes_nothing():
    d = Driver(node_weight=-30).become_active()
    d.tell(CORDONED)
    d.tell(NodeUnseen(detail="nothing listens"))
    d.run_for(60.0)
    view = d.node.view(d.now).node_object
    assert (view.leaving, view.problem) == ("node_cordoned", "nothing listens")
    assert d.view.effective_priority == 70


def test_a_failure_that_goes_on_is_told_rarely():
    d = Driver(node_weight=-30).become_active()
    for _ in range(600):
        d.tell(NodeUnseen(detail="nothing listens"))
        d.run_for(1.0)
    alarms = d.reports(Topic.ALARM)
    assert {report.reason for _, report in alarms} == {Reason.NODE_UNKNOWN}
    assert 1 < len(alarms) < 15


@pytest.mark.parametrize(
    ("priority", "weight", "effective"),
    [
        pytest.param(100, -30, 70, id="as any weight"),
        pytest.param(20, -30, 2, id="not below 2"),
        pytest.param(100, 0, 100, id="0 forbids nothing"),
    ],
)
def test_the_weight(priority, weight, effective):
    d = Driver((router(priority=priority),), node_weight=weight)
    d.tell(CORDONED)
    d.become_active()
    assert d.view.effective_priority == effective
    assert d.view.may_hold


def test_it_adds_up_with_failed_checks():
    checks = (replace(check(weight=-40), fast_fail=True),)
    d = Driver(checks=checks, node_weight=-30).become_active()
    d.tell(CORDONED)
    d.judge(ProbeResult.TIMED_OUT)
    assert d.view.effective_priority == 30


def test_under_hold_a_leaving_node_that_is_healthy_beats_every_failed_one():
    d = Driver(
        (router(priority=20),), all_unhealthy=AllUnhealthy.HOLD, node_weight=-253
    ).become_active()
    d.tell(CORDONED)
    assert d.view.effective_priority == 16


def test_a_reload_that_does_not_watch_forgets():
    d = Driver(node_weight=-30).become_active()
    d.tell(CORDONED)
    d.node_weight = None
    d.reconfigure(*d.routers)
    assert d.view.effective_priority == 100
    assert d.node.view(d.now).node_object is None
    d.tell(CORDONED)
    assert d.view.effective_priority == 100, "one that was under way"
    d.node_weight = -30
    d.reconfigure(*d.routers)
    assert d.view.effective_priority == 100, "not seen since"
