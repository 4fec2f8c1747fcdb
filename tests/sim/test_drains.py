"""Planned moves by what Kubernetes says of the nodes: to a better one without a gap, or not at all.

The lab judges every step: never two holders for longer than a hand-over, no client cut off.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from havip.core.config import LeaseConfig
from havip.core.events import NodeSeen, NodeUnseen
from havip.sim.lab import Lab
from havip.sim.machine import Machine

CORDONED = NodeSeen(is_unschedulable=True)
WEIGHT = -30


def draining(seed: int, priority: int | tuple[int, ...] = 100, **router: object) -> Lab:
    lab = Lab(nodes=3, priority=priority, seed=seed, node={"node_weight": WEIGHT}, router=router)
    lab.settle()
    return lab


def tell(lab: Lab, machine: Machine, event: NodeSeen | NodeUnseen) -> None:
    assert machine.process is not None
    lab.note(machine.name, f"is told {event}")
    machine.process.post(event)


@pytest.mark.parametrize("no_preempt", [False, True], ids=["", "vrrpNoPreempt"])
@pytest.mark.parametrize(
    "event",
    [
        pytest.param(CORDONED, id="cordoned"),
        pytest.param(NodeSeen(is_stepping_down=True), id="annotated"),
        pytest.param(NodeSeen(not_ready_because="x: node is shutting down"), id="shutting down"),
        pytest.param(
            NodeSeen(taints=frozenset({"ToBeDeletedByClusterAutoscaler"})), id="to be deleted"
        ),
    ],
)
def test_the_vip_moves_from_a_node_that_is_about_to_leave(
    seed: int, event: NodeSeen, no_preempt: bool
) -> None:
    lab = draining(seed, no_preempt=no_preempt)
    former, at, before = lab.holder, lab.now, len(lab.takeovers)
    tell(lab, former, event)
    lab.run_for(2.0)
    assert lab.holder is not former, lab.story()
    assert len(lab.takeovers) == before + 1, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


def test_where_every_node_is_cordoned_nothing_moves(seed: int) -> None:
    lab = draining(seed)
    before = len(lab.takeovers)
    for machine in lab.backups:
        tell(lab, machine, CORDONED)
    lab.run_for(1.0)
    tell(lab, lab.holder, CORDONED)
    lab.run_for(10.0)
    assert len(lab.takeovers) == before, lab.story()


def test_nodes_that_are_drained_one_after_the_other_move_it_to_who_is_left(seed: int) -> None:
    lab = draining(seed)
    at = lab.now
    for _ in range(2):
        tell(lab, lab.holder, CORDONED)
        lab.run_for(3.0)
    last, before = lab.holder, len(lab.takeovers)
    tell(lab, last, CORDONED)
    lab.run_for(10.0)
    assert lab.holder is last, lab.story()
    assert len(lab.takeovers) == before, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


def test_a_node_that_is_uncordoned_does_not_take_it_back_from_its_equal(seed: int) -> None:
    lab = draining(seed)
    former = lab.holder
    tell(lab, former, CORDONED)
    lab.run_for(2.0)
    before = len(lab.takeovers)
    tell(lab, former, NodeSeen())
    lab.run_for(10.0)
    assert len(lab.takeovers) == before, lab.story()


def test_a_node_that_is_preferred_by_more_than_the_weight_keeps_it(seed: int) -> None:
    lab = draining(seed, (200, 100, 100))
    before = len(lab.takeovers)
    tell(lab, lab.holder, CORDONED)
    lab.run_for(10.0)
    assert len(lab.takeovers) == before, lab.story()


def test_a_cordoned_node_still_takes_over_from_the_dead(seed: int) -> None:
    lab = draining(seed)
    for machine in lab.machines:
        tell(lab, machine, CORDONED)
    lab.run_for(1.0)
    lab.holder.power_off()
    lab.run_for(1.0)
    assert len(lab.holders) == 1, lab.story()


def test_an_api_that_goes_away_moves_nothing(seed: int) -> None:
    lab = draining(seed)
    tell(lab, lab.holder, CORDONED)
    lab.run_for(2.0)
    before = len(lab.takeovers)
    for machine in lab.machines:
        tell(lab, machine, NodeUnseen(detail="nothing listens"))
    lab.run_for(30.0)
    assert len(lab.takeovers) == before, lab.story()


# Elected by a Lease -------------------------------------------------------------------------------

SLOW = LeaseConfig(namespace="kube-system", name="havip-10")
FAST = replace(SLOW, duration_s=5, renew_deadline_s=3.0, retry_period_s=1.0)
BY_LEASE = pytest.mark.parametrize(
    "lease", [pytest.param(SLOW, id="15/10/2"), pytest.param(FAST, id="5/3/1")]
)


@BY_LEASE
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "looked at"])
def test_a_lease_moves_from_a_node_that_is_about_to_leave(
    lease: LeaseConfig, seed: int, watched: bool
) -> None:
    lab = draining(seed, lease=lease)
    lab.api_server.weather.watched = watched
    former, at, before = lab.holder, lab.now, len(lab.takeovers)
    tell(lab, former, CORDONED)
    lab.run_for(15.0)
    assert lab.holder is not former, lab.story()
    assert len(lab.takeovers) == before + 1, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


@BY_LEASE
def test_a_lease_stays_where_every_node_is_cordoned(lease: LeaseConfig, seed: int) -> None:
    lab = draining(seed, lease=lease)
    before = len(lab.takeovers)
    for machine in [*lab.backups, lab.holder]:
        tell(lab, machine, CORDONED)
        lab.run_for(0.5)
    lab.run_for(60.0)
    assert len(lab.takeovers) == before, lab.story()


@BY_LEASE
def test_a_holder_that_dies_while_it_offers_is_replaced(lease: LeaseConfig, seed: int) -> None:
    lab = draining(seed, lease=lease)
    tell(lab, lab.holder, CORDONED)
    lab.run_for(0.3 * lab.rng.random())
    if len(lab.holders) == 1:
        lab.holder.power_off()
    lab.run_for(lease.duration_s + 10.0)
    assert len(lab.holders) == 1, lab.story()


@BY_LEASE
def test_nodes_that_are_cordoned_and_uncordoned_at_random(lease: LeaseConfig, seed: int) -> None:
    lab = draining(seed, lease=lease)
    for _ in range(20):
        event = CORDONED if lab.rng.random() < 0.6 else NodeSeen()
        tell(lab, lab.rng.choice(lab.machines), event)
        lab.run_for(5.0 * lab.rng.random())
    lab.run_for(30.0)
    assert len(lab.holders) == 1, lab.story()
