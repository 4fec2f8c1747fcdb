"""A fleet that migrates node by node: havip beside a plain VRRP router, each way round."""

from __future__ import annotations

from dataclasses import replace

import pytest
from plain_router import PlainRouter

from havip.sim.lab import Lab, promised
from havip.sim.machine import Machine

PLAIN = 3
# A plain loser of a healed partition withdraws without a word: its clients wait for the winner's
# next refresh, and nothing that havip hears could tell it so.
BOUNDS = replace(promised(3, 0.1), two_holders_s=0.16, cut_off_s=5.2)
RANKS = [
    pytest.param([100, 100, 150], id="the plain router leads"),
    pytest.param([150, 140, 100], id="havip leads"),
    pytest.param([100, 100, 100], id="equals"),
]


def mixed(seed: int, priority: list[int], clients: int = 1) -> tuple[Lab, Machine]:
    """Two nodes of havip and a plain router, and who the latter is."""
    lab = Lab(
        nodes=3,
        seed=seed,
        priority=priority,
        clients=clients,
        makes={PLAIN: PlainRouter},
        bounds=BOUNDS,
        router={"preempt_delay_s": 0.0},
    )
    lab.settle()
    return lab, lab.machines[PLAIN - 1]


@pytest.mark.parametrize("priority", RANKS)
def test_there_is_one_holder(seed: int, priority: list[int]) -> None:
    lab, plain = mixed(seed, priority)
    before = len(lab.takeovers)
    lab.run_for(10.0)
    assert len(lab.takeovers) == before, lab.story()
    if len(set(priority)) > 1:
        assert (lab.holder is plain) == (priority[2] == max(priority)), lab.story()


def test_a_dead_plain_router_is_suspected_too(seed: int) -> None:
    lab, plain = mixed(seed, [100, 100, 150])
    at = lab.now
    plain.power_off()
    lab.run_for(1.0)
    assert lab.holder is not plain
    assert "reason=active_unreachable" in lab.story()
    assert lab.clients[0].cut_off_s(at) <= 0.3, lab.story()


def test_a_plain_router_replaces_a_dead_havip(seed: int) -> None:
    lab, plain = mixed(seed, [150, 100, 120])
    lab.machines[1].power_off()
    at = lab.now
    lab.holder.power_off()
    lab.run_for(1.0)
    assert lab.holder is plain, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 0.4, lab.story()


def test_havip_hands_over_to_a_plain_router_without_loss(seed: int) -> None:
    lab, plain = mixed(seed, [150, 100, 120])
    at = lab.now
    lab.holder.stop()
    lab.run_for(1.0)
    assert lab.holder is plain, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


def test_a_plain_router_that_leaves_is_replaced_after_the_skew(seed: int) -> None:
    lab, plain = mixed(seed, [100, 100, 150])
    at = lab.now
    plain.stop()
    lab.run_for(1.0)
    assert lab.holder is not plain
    # Break before make, as the RFC has it: skew, and what a claim takes.
    assert lab.clients[0].cut_off_s(at) <= 0.1, lab.story()


@pytest.mark.parametrize("priority", RANKS)
def test_a_healed_partition_is_announced(seed: int, priority: list[int]) -> None:
    lab, plain = mixed(seed, priority, clients=2)
    for _ in range(3):
        lab.partition([plain, lab.clients[0]], [*lab.machines[:2], lab.clients[1]])
        lab.run_for(lab.rng.uniform(1.0, 2.0))
        assert len(lab.holders) == 2, lab.story()
        at = lab.now
        lab.heal()
        lab.run_for(6.0)
        assert len(lab.holders) == 1, lab.story()
        if lab.holder is plain:
            # havip's last word makes a winner of any make announce again.
            assert max(client.cut_off_s(at) for client in lab.clients) <= 0.1, lab.story()
