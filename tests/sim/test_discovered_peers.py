"""Discovered peers: one holder, whatever the lists of the nodes say meanwhile.

The lab judges every step. The lists here are those that the API can give: at different times to
different nodes, unfinished, old. Of two nodes at least one knows the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from havip.core.config import HmacConfig, Secret
from havip.core.discovery import GRACE_S
from havip.core.events import PeersListed
from havip.sim import plan
from havip.sim.lab import Lab
from havip.sim.machine import Machine

FAMILIES = [pytest.param((4,), id="IPv4"), pytest.param((4, 6), id="dual-stack")]
HMAC = HmacConfig(keys={1: Secret(b"k" * 32)}, active_key=1)


def discovering(nodes: int, seed: int, families: tuple[int, ...] = (4,), **more: Any) -> Lab:
    """A lab whose nodes are not started, and are told of their peers."""

    def router(number: int) -> dict[str, Any]:
        config = plan.node_config(
            number, nodes, families=families, is_unicast=False, checks=(), node={}, router={}
        )
        (multicast,) = config.routers
        legs = tuple(replace(leg, discovers_peers=True) for leg in multicast.legs)
        return {"legs": legs, **more}

    return Lab(nodes=nodes, seed=seed, families=families, boots=False, router=router)


def tell(lab: Lab, machine: Machine, named: Iterable[int], *, is_kept: bool = False) -> None:
    """The machine is given a list of these nodes, by number."""
    assert machine.process is not None
    families = {leg.family for leg in machine.config.routers[0].legs}
    addresses = frozenset(plan.source(number, family) for number in named for family in families)
    lab.note(machine.name, f"is told of {sorted(map(str, addresses))}")
    machine.process.post(PeersListed(addresses=addresses, is_kept=is_kept))


def start(lab: Lab, number: int, named: Iterable[int], *, is_kept: bool = False) -> Machine:
    machine = lab.machines[number - 1]
    machine.start()
    tell(lab, machine, named, is_kept=is_kept)
    return machine


@pytest.mark.parametrize("families", FAMILIES)
def test_nodes_that_are_listed_one_after_the_other_start_with_one_holder(
    seed: int, families: tuple[int, ...]
) -> None:
    """Each sees those that were listed before it, and the API says no more to anybody."""
    lab = discovering(5, seed, families)
    order = lab.rng.sample(range(1, 6), 5)
    for place, number in enumerate(order, 1):
        start(lab, number, order[:place])
        lab.run_for(lab.rng.choice((0.0, 0.01, 0.3)))
    lab.run_for(4.0)
    assert len(lab.holders) == 1, lab.story()
    before, at = len(lab.takeovers), lab.now
    lab.holder.power_off()
    lab.run_for(1.5)
    assert {name for _, name in lab.takeovers[before:]} == {lab.holder.name}, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 0.4, lab.story()


def test_a_new_node_that_the_holder_is_not_told_of_moves_nothing(seed: int) -> None:
    lab = discovering(3, seed, hmac=HMAC)
    start(lab, 1, (1, 2))
    start(lab, 2, (1, 2))
    lab.settle()
    before = len(lab.takeovers)
    new = start(lab, 3, (1, 2, 3))
    lab.run_for(5.0)
    assert len(lab.takeovers) == before, lab.story()
    for machine in lab.machines:
        if machine is not new:
            machine.kill()
    lab.run_for(5.0)
    assert lab.holder is new, lab.story()


def test_a_node_that_was_removed_and_goes_on_is_no_second_holder(seed: int) -> None:
    """Everybody else forgets it; it claims, is heard, and gives way or is given way to."""
    lab = discovering(3, seed)
    for number in (1, 2, 3):
        start(lab, number, (1, 2, 3))
    lab.settle()
    removed = lab.backups[0]
    rest = [number for number, each in enumerate(lab.machines, 1) if each is not removed]
    for wait_s in (0.0, GRACE_S, GRACE_S + 1.0, 5.0):
        lab.run_for(wait_s)
        for number in rest:
            tell(lab, lab.machines[number - 1], rest)
    lab.run_for(5.0)
    assert len(lab.holders) == 1, lab.story()


def test_restarts_without_the_api_find_their_peers(seed: int) -> None:
    """From the lists that were kept, one of which is older than the third node."""
    lab = discovering(3, seed)
    for number in (1, 2, 3):
        start(lab, number, (1, 2, 3))
    lab.settle()
    for number in lab.rng.sample((1, 2, 3), 3):
        machine = lab.machines[number - 1]
        machine.kill()
        lab.run_for(lab.rng.choice((0.1, 1.0, 4.0)))
        start(lab, number, (1, 2) if number == 1 else (1, 2, 3), is_kept=True)
        lab.run_for(5.0)
        assert len(lab.holders) == 1, lab.story()


def test_two_that_do_not_know_each_other_ask_the_link_before_they_claim(seed: int) -> None:
    """What no list promises: the holder's kernel answers for the address, and that is heeded."""
    lab = discovering(2, seed)
    start(lab, 1, (1,))
    lab.settle()
    start(lab, 2, (2,))
    lab.run_for(10.0)
    assert lab.holder is lab.machines[0], lab.story()
    tell(lab, lab.machines[1], (1, 2))
    lab.run_for(5.0)
    assert lab.holder is lab.machines[0], lab.story()
