"""The lab replays, its judge sees what it has to see, and it tells what happened."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest

from havip.core.actions import Action, Finished, InstallAddress, Report, SendVrrp, Topic
from havip.core.config import NodeConfig
from havip.core.events import AddressRemoved, Event, Started, StopRequested, Woken
from havip.core.node import Node
from havip.core.reasons import Reason, State
from havip.sim import plan
from havip.sim.lab import Lab
from havip.sim.process import Brain
from havip.sim.verdict import Bounds, BrokenPromiseError, groups
from havip.wire.vrrp import MULTICAST_V4, Advert, encode

BUSY_RUN = """
from havip.sim.lab import Lab
lab = Lab(nodes=4, seed=11, families=(4, 6), clients=2)
lab.network.quality.loss = 0.01
lab.settle()
lab.holder.freeze()
lab.run_for(1.0)
lab.machines[0].stop()
lab.run_for(1.0)
print(lab.fingerprint)
"""


def fingerprint(hash_seed: str) -> str:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", BUSY_RUN],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_the_same_seed_replays_in_any_process() -> None:
    assert fingerprint("1") == fingerprint("2")


def test_the_same_seed_tells_the_same_story_and_another_one_does_not() -> None:
    def story(seed: int) -> str:
        lab = Lab(nodes=5, seed=seed)
        lab.settle()
        lab.holder.power_off()
        lab.run_for(1.0)
        return lab.story()

    assert story(3) == story(3)
    assert story(3) != story(4)


def test_a_recorded_life_replays_through_the_core() -> None:
    lab = Lab(nodes=3, seed=5, families=(4, 6), checks=(plan.SERVICE,), recording=True)
    lab.settle()
    lab.holder.freeze()
    lab.run_for(4.0)
    for machine in lab.machines:
        machine.thaw()
    lab.run_for(1.0)
    lab.holder.stop()
    lab.run_for(1.0)
    for machine in lab.machines:
        for life in machine.lives:
            node = Node(life.config, random=Random(life.seed).random)
            assert len(life.steps) > 100
            for step in life.steps:
                assert tuple(node.handle(step.at, step.event)) == step.actions


def test_the_story_tells_faults_moves_and_addresses_in_order() -> None:
    lab = Lab(nodes=2, seed=1)
    lab.settle()
    holder, backup = lab.holder, lab.backups[0]
    holder.power_off()
    lab.run_for(1.0)
    lines = [line.split(maxsplit=1)[1].split(maxsplit=1) for line in lab.story().splitlines()]
    told = [(who, what) for who, what in lines]
    lost = told.index((holder.name, "loses power"))
    has = told.index((backup.name, "has 10.0.0.100"))
    moved = next(
        index
        for index, (who, what) in enumerate(told)
        if who == backup.name and what.startswith("moved") and "state=active" in what
    )
    assert lost < moved < has
    assert "reason=active_unreachable" in told[moved][1]


# Routers that break a promise each, and the judge.


class Misfit(Brain):
    """Does nothing at all; what others are made of."""

    def __init__(self, config: NodeConfig, random: Callable[[], float]) -> None:
        self.router = config.routers[0]
        self.leg = self.router.legs[0]
        self.next_at = math.inf

    @property
    def wake_at(self) -> float:
        return self.next_at

    def handle(self, now: float, event: Event) -> list[Action]:
        return []

    def hold(self) -> list[Action]:
        vip = self.leg.vips[0].interface
        moved = Report(
            topic=Topic.MOVED,
            router=self.router.name,
            state=State.ACTIVE,
            was=State.BACKUP,
            reason=Reason.STARTED,
        )
        return [InstallAddress(interface="eth0", address=vip, valid_s=2), moved]

    def advert(self, priority: int) -> Action:
        advert = Advert(
            version=3,
            virtual_router_id=10,
            priority=priority,
            advert_interval_s=0.1,
            addresses=(self.leg.vips[0].address,),
        )
        payload = encode(advert, source=self.leg.source, destination=MULTICAST_V4)
        return SendVrrp(
            interface="eth0",
            source=self.leg.source,
            destination=MULTICAST_V4,
            payload=payload,
        )


class Mute(Misfit):
    """Holds from the start, tells nobody."""

    def handle(self, now: float, event: Event) -> list[Action]:
        if isinstance(event, Started | Woken):
            self.next_at = now + 0.5
            return self.hold()
        return []


class Undead(Mute):
    """Puts the VIP back for good when it goes on after a freeze."""

    def handle(self, now: float, event: Event) -> list[Action]:
        return [*super().handle(now, event), self.advert(100)]


class Hasty(Misfit):
    """Repeats priority 0 all the time."""

    def handle(self, now: float, event: Event) -> list[Action]:
        if isinstance(event, Started | Woken):
            self.next_at = now + 0.02
            return [self.advert(0)]
        return []


class Careless(Mute):
    """Ends and leaves the address."""

    def handle(self, now: float, event: Event) -> list[Action]:
        if isinstance(event, StopRequested):
            return [Finished()]
        return super().handle(now, event)


class Spinning(Misfit):
    def handle(self, now: float, event: Event) -> list[Action]:
        self.next_at = now
        return []


class Clinging(Mute):
    """Installs the address for an hour."""

    def hold(self) -> list[Action]:
        install, moved = super().hold()
        assert isinstance(install, InstallAddress)
        vip = install.address
        return [InstallAddress(interface="eth0", address=vip, valid_s=3600), moved]


def lab_of(make: Callable[..., Brain], monkeypatch: pytest.MonkeyPatch, nodes: int = 1) -> Lab:
    monkeypatch.setattr("havip.sim.lab.make_node", make)
    return Lab(nodes=nodes, seed=1)


def test_the_judge_sees_two_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Mute, monkeypatch, nodes=2)
    with pytest.raises(BrokenPromiseError, match=r"node1, node2 hold 10\.0\.0\.100"):
        lab.run_for(1.0)
    assert lab.now < 0.2


def test_the_judge_allows_two_holders_that_do_not_hear_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = lab_of(Mute, monkeypatch, nodes=2)
    lab.partition([lab.machines[0]], [lab.machines[1], lab.clients[0]])
    lab.run_for(5.0)
    lab.heal()
    with pytest.raises(BrokenPromiseError, match="hold"):
        lab.run_for(1.0)


def test_the_judge_sees_that_nobody_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Misfit, monkeypatch, nodes=2)
    with pytest.raises(BrokenPromiseError, match="nobody of node1 node2 holds"):
        lab.run_for(10.0)


def test_the_judge_sees_a_client_that_nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Mute, monkeypatch, nodes=2)
    lab.machines[1].host.set_link(is_up=False)
    lab.run_for(1.0)
    lab.machines[0].power_off()
    lab.machines[1].host.set_link(is_up=True)
    with pytest.raises(BrokenPromiseError, match=r"client1 misses 10\.0\.0\.100, held by node2"):
        lab.run_for(1.0)


@pytest.mark.parametrize("end", ["freeze", "kill"])
def test_the_judge_sees_a_stale_address(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    lab = lab_of(Clinging, monkeypatch)
    lab.run_for(1.0)
    getattr(lab.machines[0], end)()
    with pytest.raises(BrokenPromiseError, match="node1 still has"):
        lab.run_for(4.0)
    assert lab.now == pytest.approx(4.0, abs=0.01)


def test_the_judge_sees_who_speaks_after_a_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Undead, monkeypatch)
    lab.run_for(1.0)
    lab.machines[0].freeze()
    lab.run_for(1.0)
    lab.machines[0].thaw()
    with pytest.raises(BrokenPromiseError, match="came back from a freeze and sent an advert"):
        lab.run_for(1.0)


def test_the_judge_sees_priority_0_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Hasty, monkeypatch)
    with pytest.raises(BrokenPromiseError, match=r"repeated priority 0 after 0\.02"):
        lab.run_for(1.0)


def test_the_judge_sees_what_a_finished_daemon_left(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Careless, monkeypatch)
    lab.run_for(1.0)
    lab.machines[0].stop()
    with pytest.raises(BrokenPromiseError, match="node1 ended and left"):
        lab.run_for(1.0)


def test_a_core_that_never_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Spinning, monkeypatch)
    with pytest.raises(BrokenPromiseError, match="node1 spins"):
        lab.run_for(1.0)


def test_a_broken_promise_tells_seed_and_story(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(Mute, monkeypatch, nodes=2)
    with pytest.raises(BrokenPromiseError, match=r"(?s)seed 1\n.*node2 +has 10\.0\.0\.100"):
        lab.run_for(1.0)


def test_groups_are_those_who_all_hear_one_another() -> None:
    lab = Lab(nodes=4, seed=1)
    lab.run_for(0.1)
    one, two, three, four = lab.machines

    def present() -> list[list[str]]:
        return [[machine.name for machine in group] for group in groups(lab.machines)]

    assert present() == [["node1", "node2", "node3", "node4"]]
    lab.partition([one, two], [three, four])
    assert present() == [["node1", "node2"], ["node3", "node4"]]
    lab.heal()
    lab.network.cut("node1", "node2")
    assert present() == [], "who is heard by some only is judged with nobody"
    lab.heal()
    two.freeze()
    three.pause()
    assert present() == [["node1", "node4"]]


# What the lab does to a daemon.


def test_a_frozen_daemon_reads_everything_before_it_wakes(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, recording=True)
    lab.settle()
    holder = lab.holder
    assert holder.process is not None
    holder.freeze()
    before = len(holder.process.steps)
    lab.run_for(4.0)
    assert len(holder.process.steps) == before
    holder.thaw()
    lab.run_for(0.000_001)
    events = [step.event for step in holder.process.steps[before:]]
    woken = next(index for index, event in enumerate(events) if isinstance(event, Woken))
    assert any(isinstance(event, AddressRemoved) for event in events[:woken])
    assert sum(not isinstance(event, Woken) for event in events[:woken]) > 40


class Ticking(Misfit):
    """Wants to be woken each 10 ms."""

    def handle(self, now: float, event: Event) -> list[Action]:
        if isinstance(event, Started | Woken):
            self.next_at = now + 0.01
        return []


@pytest.mark.parametrize("most_s", [0.0, 0.05])
def test_late_turns_are_late(monkeypatch: pytest.MonkeyPatch, most_s: float) -> None:
    monkeypatch.setattr("havip.sim.lab.make_node", Ticking)
    lab = Lab(nodes=1, seed=1, recording=True)
    machine = lab.machines[0]
    machine.lateness.share = 1.0
    machine.lateness.most_s = most_s
    lab.run_for(3.0)
    assert machine.process is not None
    woken = [step.at for step in machine.process.steps if isinstance(step.event, Woken)]
    gap_s = max(after - before for before, after in pairwise(woken))
    assert 0.01 + 0.9 * most_s < gap_s + 1e-9 < 0.0101 + most_s


def test_the_kernel_can_refuse(seed: int) -> None:
    bounds = Bounds(two_holders_s=1, no_holder_s=9, cut_off_s=1)
    lab = Lab(nodes=2, seed=seed, bounds=bounds)
    lab.settle()
    holder, backup = lab.holder, lab.backups[0]
    assert backup.process is not None
    backup.process.refuses["InstallAddress"] = 1
    holder.power_off()
    lab.run_for(2.0)
    assert lab.holders == []
    assert "reason=install_failed" in lab.story()
    backup.process.refuses.clear()
    lab.run_for(6.0)
    assert lab.holders == [backup], lab.story()
