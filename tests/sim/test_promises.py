"""The promises of havip, one scenario each, for several seeds.

The lab judges every step of every run (`havip.sim.verdict`): one holder within the bounds, no
stale address, no client cut off, no word after a freeze. What stands here is what a scenario
promises beyond that.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from havip.core.config import AllUnhealthy, CheckConfig, HmacConfig, ReplayMode, Secret
from havip.core.events import ProbeResult
from havip.sim import plan
from havip.sim.lab import Lab, promised
from havip.sim.machine import Machine

LOSSY = promised(3, 0.1, loss=0.05)
KUBE_API = CheckConfig(
    name="kube_api",
    url="https://127.0.0.1:6443/readyz",
    interval_s=1.0,
    timeout_s=0.5,
    fail_after=2,
    recover_after=2,
    weight=-40,
)
HMAC = HmacConfig(keys={1: Secret(b"k" * 32)}, active_key=1)
HMAC_TIME = replace(HMAC, replay=ReplayMode.TIME)
SEGMENTS = [
    pytest.param({}, id="multicast"),
    pytest.param({"is_unicast": True}, id="unicast"),
    pytest.param({"families": (6,)}, id="ipv6"),
    pytest.param({"families": (4, 6)}, id="dual-stack"),
    pytest.param({"priority": [100, 110, 120, 130, 140]}, id="priorities"),
    pytest.param({"priority": 1}, id="priority 1"),
]


def new_holders(lab: Lab, before: int) -> set[str]:
    """Who got a VIP after the first `before` takeovers."""
    return {name for _, name in lab.takeovers[before:]}


def split(lab: Lab) -> None:
    """Cut the segment at a random place, with a client on each side."""
    machines = list(lab.machines)
    lab.rng.shuffle(machines)
    at = lab.rng.randint(1, len(machines) - 1)
    lab.partition([*machines[:at], lab.clients[0]], [*machines[at:], lab.clients[1]])


# One holder, fast.


@pytest.mark.parametrize("segment", SEGMENTS)
def test_five_nodes_start_with_one_holder(seed: int, segment: Mapping[str, Any]) -> None:
    lab = Lab(nodes=5, seed=seed, **segment)
    lab.run_for(4.0)
    assert len(lab.holders) == 1, lab.story()
    assert new_holders(lab, 0) == {lab.holder.name}, lab.story()


@pytest.mark.parametrize("segment", SEGMENTS)
def test_five_nodes_replace_a_dead_holder_once(seed: int, segment: Mapping[str, Any]) -> None:
    lab = Lab(nodes=5, seed=seed, **segment)
    lab.settle()
    before, at = len(lab.takeovers), lab.now
    lab.holder.power_off()
    lab.run_for(1.5)
    assert new_holders(lab, before) == {lab.holder.name}, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 0.3, lab.story()


def test_the_median_outage_of_a_crash_is_two_intervals() -> None:
    outages = []
    for seed in range(31):
        lab = Lab(nodes=3, seed=seed)
        lab.settle()
        at = lab.now
        lab.holder.power_off()
        lab.run_for(1.0)
        outages.append(lab.clients[0].cut_off_s(at))
    assert sorted(outages)[15] <= 0.2
    assert max(outages) <= 0.3


def test_without_suspicion_the_rfcs_timer_replaces_a_dead_holder(seed: int) -> None:
    lab = Lab(nodes=5, seed=seed, router={"fast_detect": False})
    lab.settle()
    before, at = len(lab.takeovers), lab.now
    lab.holder.power_off()
    lab.run_for(1.5)
    assert new_holders(lab, before) == {lab.holder.name}, lab.story()
    assert 0.25 <= lab.clients[0].cut_off_s(at) <= 0.4, lab.story()


def test_version_2_replaces_a_dead_holder_once(seed: int) -> None:
    lab = Lab(nodes=5, seed=seed, router={"version": 2, "advert_interval_s": 1.0})
    lab.settle()
    before, at = len(lab.takeovers), lab.now
    lab.holder.power_off()
    lab.run_for(5.0)
    assert new_holders(lab, before) == {lab.holder.name}, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 2.0, lab.story()


def test_holders_that_die_one_after_the_other_are_replaced(seed: int) -> None:
    lab = Lab(nodes=5, seed=seed)
    lab.settle()
    for _ in range(3):
        lab.holder.power_off()
        assert lab.run_until(lambda: len(lab.holders) == 1, 0.5), lab.story()
    lab.run_for(1.0)
    assert len(lab.holders) == 1, lab.story()


def test_late_daemons_do_not_claim_twice(seed: int) -> None:
    bounds = replace(LOSSY, two_holders_s=0.2)
    lab = Lab(nodes=5, seed=seed, bounds=bounds)
    for machine in lab.machines:
        machine.lateness.share = 0.05
        machine.lateness.most_s = 0.05
    lab.settle()
    before = len(lab.takeovers)
    lab.run_for(10.0)
    assert len(lab.takeovers) == before, lab.story()
    lab.holder.power_off()
    lab.run_for(1.5)
    assert new_holders(lab, before) == {lab.holder.name}, lab.story()


# No false move.


def test_loss_moves_nothing(seed: int) -> None:
    lab = Lab(nodes=5, seed=seed, bounds=LOSSY)
    lab.network.quality.loss = 0.05
    lab.settle()
    before = len(lab.takeovers)
    lab.run_for(30.0)
    assert len(lab.takeovers) == before, lab.story()


def test_doubled_and_overtaken_packets_move_nothing(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.network.quality.duplication = 0.2
    lab.network.quality.reordering = 0.2
    lab.settle()
    before = len(lab.takeovers)
    lab.run_for(10.0)
    assert len(lab.takeovers) == before, lab.story()


def test_a_daemon_that_is_frozen_for_a_moment_stays_the_holder(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    holder = lab.holder
    before = len(lab.takeovers)
    holder.freeze()
    # Its last advert is up to 50 ms old already, and 361 ms are the RFC's patience.
    lab.run_for(lab.rng.uniform(0.05, 0.29))
    holder.thaw()
    lab.run_for(2.0)
    assert lab.holder is holder, lab.story()
    assert len(lab.takeovers) == before, lab.story()


def test_a_slow_kernel_moves_nothing(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed)
    lab.settle()
    before = len(lab.takeovers)
    lab.holder.host.netlink_s = 0.338
    lab.run_for(5.0)
    assert len(lab.takeovers) == before, lab.story()


def test_a_holder_that_hears_nobody_but_is_heard_keeps_the_vip(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed)
    lab.settle()
    holder = lab.holder
    for backup in lab.backups:
        lab.network.cut(backup.name, holder.name)
    before = len(lab.takeovers)
    lab.run_for(3.0)
    assert len(lab.takeovers) == before, lab.story()


def test_one_way_links_heal(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed)
    lab.settle()
    lab.network.cut(lab.holder.name, lab.backups[0].name)
    lab.run_for(2.0)
    lab.heal()
    lab.run_for(2.0)
    assert len(lab.holders) == 1, lab.story()


@pytest.mark.parametrize("segment", SEGMENTS[:4])
def test_a_holder_that_may_not_send_is_replaced_by_one_that_may(
    seed: int, segment: Mapping[str, Any]
) -> None:
    lab = Lab(nodes=3, seed=seed, **segment)
    lab.settle()
    mute = lab.holder
    assert mute.process is not None
    mute.process.refuses["SendVrrp"] = errno.EPERM
    lab.run_for(1.0)
    successor = lab.holder
    assert successor is not mute, lab.story()
    lab.run_for(10.0)
    assert lab.holder is successor, lab.story()
    mute.process.refuses.clear()
    successor.power_off()
    lab.run_for(5.0)
    assert len(lab.holders) == 1, lab.story()


# Planned moves.


@pytest.mark.parametrize("segment", [*SEGMENTS[:4], SEGMENTS[-1]])
def test_a_stop_loses_nothing(seed: int, segment: Mapping[str, Any]) -> None:
    lab = Lab(nodes=3, seed=seed, **segment)
    lab.settle()
    leaver, at = lab.holder, lab.now
    leaver.stop()
    lab.run_for(1.0)
    assert leaver.process is None, lab.story()
    assert lab.holder is not leaver
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()
    assert max(to - since for since, to in lab.verdict.overlaps) <= 0.06, lab.story()


def test_a_client_that_resolves_in_the_overlap_is_told_at_once(seed: int) -> None:
    lab = Lab(nodes=2, seed=seed, clients=0)
    lab.settle()
    leaver, successor = lab.holder, lab.backups[0]
    leaver.stop()
    assert lab.run_until(lambda: successor.has_vip(lab.vips[0]), 1.0), lab.story()
    assert leaver.has_vip(lab.vips[0]), lab.story()
    at = lab.now
    clients = [lab.add_client() for _ in range(5)]
    lab.run_for(1.0)
    # From the leaver's last answer to the announcement that follows its last word.
    assert max(client.cut_off_s(at) for client in clients) <= 0.001, lab.story()


def test_a_rollout_loses_nothing(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, families=(4, 6))
    lab.settle()
    at = lab.now
    for machine in lab.machines:
        machine.stop()
        lab.run_for(1.0)
        assert machine.process is None, lab.story()
        machine.start()
        lab.run_for(1.5)
    assert len(lab.holders) == 1, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


def test_the_last_daemon_ends_and_leaves_nothing(seed: int) -> None:
    lab = Lab(nodes=1, seed=seed)
    lab.settle()
    lab.machines[0].stop()
    lab.run_for(1.0)
    assert lab.machines[0].process is None, lab.story()
    assert not lab.machines[0].has_vip(lab.vips[0])


def test_a_stop_under_loss_ends_with_one_holder(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, bounds=LOSSY)
    lab.network.quality.loss = 0.05
    lab.settle()
    leaver = lab.holder
    leaver.stop()
    lab.run_for(2.0)
    assert leaver.process is None, lab.story()
    assert len(lab.holders) == 1, lab.story()


# No stale VIP.


def test_a_frozen_holder_is_replaced_and_comes_back_in_silence(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    frozen = lab.holder
    frozen.freeze()
    lab.run_for(5.0)
    successor = lab.holder
    assert successor is not frozen
    assert not frozen.has_vip(lab.vips[0]), lab.story()
    before = len(lab.takeovers)
    frozen.thaw()
    lab.run_for(2.0)
    assert lab.holder is successor, lab.story()
    assert len(lab.takeovers) == before, lab.story()


def test_a_freeze_of_any_length_ends_with_one_holder(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    for _ in range(3):
        frozen = lab.holder
        frozen.freeze()
        lab.run_for(lab.rng.uniform(0.05, 3.0))
        frozen.thaw()
        lab.run_for(1.5)
        assert len(lab.holders) == 1, lab.story()


def test_a_backup_that_was_frozen_changes_nothing(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    before = len(lab.takeovers)
    backup = lab.backups[0]
    backup.freeze()
    lab.run_for(lab.rng.uniform(0.1, 5.0))
    backup.thaw()
    lab.run_for(2.0)
    assert len(lab.takeovers) == before, lab.story()


@pytest.mark.parametrize("delay_s", [0.0, 1.0])
def test_the_best_node_does_not_preempt_on_what_it_slept_through(seed: int, delay_s: float) -> None:
    """Its sockets are full of adverts of a lower priority when it goes on."""
    lab = Lab(nodes=3, seed=seed, priority=[100, 110, 130], router={"preempt_delay_s": delay_s})
    lab.run_for(6.0)
    best = lab.machines[2]
    assert lab.holder is best, lab.story()
    best.freeze()
    lab.run_for(lab.rng.uniform(0.5, 6.0))
    best.thaw()
    at = lab.now
    lab.run_for(0.002)
    assert not lab.run_until(lambda: best.is_active, 0.34), lab.story()
    lab.run_for(3.0)
    assert lab.holder is best, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 0.1, lab.story()


def test_a_frozen_cluster_comes_back_with_one_holder(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    for machine in lab.machines:
        machine.freeze()
    lab.run_for(lab.rng.uniform(0.1, 5.0))
    for machine in lab.machines:
        machine.thaw()
        lab.run_for(lab.rng.uniform(0.0, 0.02))
    lab.run_for(4.0)
    assert len(lab.holders) == 1, lab.story()


@pytest.mark.parametrize("keeps_packets", [True, False], ids=["packets kept", "packets lost"])
def test_a_paused_machine_gives_way(seed: int, keeps_packets: bool) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    paused = lab.holder
    paused.pause()
    lab.run_for(lab.rng.uniform(0.6, 6.0))
    at = lab.now
    assert lab.holder is not paused, lab.story()
    paused.resume(keeps_packets=keeps_packets)
    lab.run_for(2.0)
    assert len(lab.holders) == 1, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 0.1, lab.story()


def test_a_killed_holder_is_replaced_and_its_address_goes(seed: int) -> None:
    lab = Lab(nodes=4, seed=seed)
    lab.settle()
    killed, at = lab.holder, lab.now
    killed.kill()
    lab.run_for(4.0)
    assert lab.holder is not killed, lab.story()
    assert not killed.has_vip(lab.vips[0]), lab.story()
    # The dead daemon's kernel served on until the successor announced the address.
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_daemon_that_is_killed_and_started_again_finds_its_place(seed: int, nodes: int) -> None:
    lab = Lab(nodes=nodes, seed=seed)
    lab.settle()
    killed = lab.holder
    killed.kill()
    lab.run_for(lab.rng.uniform(0.05, 4.0))
    killed.start()
    lab.run_for(5.0)
    assert len(lab.holders) == 1, lab.story()


# Partitions.


@pytest.mark.parametrize("segment", SEGMENTS)
def test_a_healed_partition_has_one_holder_and_every_client_knows(
    seed: int, segment: Mapping[str, Any]
) -> None:
    lab = Lab(nodes=5, seed=seed, clients=2, **segment)
    lab.settle()
    for _ in range(2):
        split(lab)
        lab.run_for(lab.rng.uniform(1.0, 2.0))
        assert len(lab.holders) == 2, lab.story()
        at = lab.now
        lab.heal()
        lab.run_for(1.5)
        assert len(lab.holders) == 1, lab.story()
        assert max(client.cut_off_s(at) for client in lab.clients) <= 0.1, lab.story()


def test_a_link_that_flaps_gives_the_address_back_or_away(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed)
    lab.settle()
    flapping = lab.holder
    flapping.set_link(is_up=False)
    lab.run_for(lab.rng.uniform(0.01, 3.0))
    flapping.set_link(is_up=True)
    lab.run_for(5.0)
    assert len(lab.holders) == 1, lab.story()


@pytest.mark.parametrize("deaf", [(1,), (1, 2, 3)], ids=["one node", "every node"])
@pytest.mark.parametrize("is_cut_first", [True, False], ids=["from the start", "while one holds"])
def test_equal_nodes_that_hear_each_other_by_ipv6_alone_have_one_holder(
    seed: int, deaf: tuple[int, ...], is_cut_first: bool
) -> None:
    # The leading leg gets three intervals to part them; then the other one does.
    bounds = replace(promised(3, 0.1), two_holders_s=0.3 + promised(3, 0.1).two_holders_s)
    lab = Lab(nodes=3, seed=seed, families=(4, 6), bounds=bounds)
    if not is_cut_first:
        lab.settle()
    lab.network.filtered = {(4, f"node{number}") for number in deaf}
    lab.settle()
    for _ in range(2):
        gone = lab.holder
        gone.power_off()
        lab.run_for(2.0)
        assert lab.holder is not gone, lab.story()
        gone.power_on()
        lab.run_for(4.0)
        assert len(lab.holders) == 1, lab.story()


# Addresses.


@pytest.mark.parametrize(
    "families", [(4,), (6,), (4, 6)], ids=["ipv4", "ipv6", "both at the same time"]
)
def test_deleted_vips_are_back_at_once_on_the_same_node(
    seed: int, families: tuple[int, ...]
) -> None:
    lab = Lab(nodes=3, seed=seed, families=families)
    lab.settle()
    holder, at = lab.holder, lab.now
    for vip in lab.vip_interfaces:
        holder.delete_address(vip)
    lab.run_for(1.0)
    assert lab.holder is holder, lab.story()
    assert 0.0 < lab.clients[0].cut_off_s(at) <= 0.01, lab.story()


def test_an_address_that_somebody_else_uses_is_not_taken(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, boots=False, bounds=replace(LOSSY, no_holder_s=99.0))
    stranger = lab.add_stranger()
    for machine in lab.machines:
        machine.start()
    lab.run_for(8.0)
    assert lab.takeovers == [], lab.story()
    assert "refused router=eth0/10 reason=address_in_use" in lab.story()
    stranger.power_off()
    lab.run_for(5.0)
    assert len(lab.holders) == 1, lab.story()


def test_legs_move_together(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, families=(4, 6))
    lab.settle()
    for _ in range(2):
        lab.holder.power_off()
        lab.run_for(1.0)
        assert [lab.holder.has_vip(vip) for vip in lab.vips] == [True, True], lab.story()
        for backup in lab.backups:
            assert [backup.has_vip(vip) for vip in lab.vips] == [False, False], lab.story()


# Health and preference.


def moves_away(lab: Lab, holder: Machine, limit_s: float) -> bool:
    return lab.run_until(lambda: len(lab.holders) == 1 and lab.holder is not holder, limit_s)


def test_a_crashed_service_moves_the_vip_without_loss(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, checks=(plan.SERVICE,))
    lab.settle()
    holder, at = lab.holder, lab.now
    holder.set_service(ProbeResult.REFUSED)
    assert moves_away(lab, holder, 0.5), lab.story()
    lab.run_for(1.0)
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()
    successor = lab.holder
    holder.set_service(ProbeResult.PASSED)
    lab.run_for(15.0)
    assert lab.holder is successor, lab.story()


def test_a_hanging_service_gets_the_patience_that_was_asked_for(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, checks=(plan.SERVICE,))
    lab.settle()
    holder, at = lab.holder, lab.now
    holder.set_service(ProbeResult.TIMED_OUT)
    assert moves_away(lab, holder, 10.0), lab.story()
    assert lab.now - at > plan.SERVICE.timeout_s + plan.SERVICE.interval_s / 2, lab.story()


@pytest.mark.parametrize("policy", list(AllUnhealthy))
def test_when_no_service_is_healthy_the_policy_says_who_holds(
    seed: int, policy: AllUnhealthy
) -> None:
    lab = Lab(nodes=3, seed=seed, checks=(plan.SERVICE,), node={"all_unhealthy": policy})
    lab.settle()
    for machine in lab.machines:
        machine.set_service(ProbeResult.REFUSED)
    lab.run_for(8.0)
    expected = 0 if policy is AllUnhealthy.DROP else 1
    assert len(lab.holders) == expected, lab.story()
    assert sum(machine.has_vip(lab.vips[0]) for machine in lab.machines) == expected, lab.story()
    healthy = lab.machines[seed % 3]
    healthy.set_service(ProbeResult.PASSED)
    lab.run_for(15.0)
    assert lab.holder is healthy, lab.story()


@pytest.mark.parametrize("no_preempt", [False, True], ids=["preempt", "noPreempt"])
@pytest.mark.parametrize("families", [(4,), (4, 6)], ids=["ipv4", "dual-stack"])
def test_a_degraded_holder_is_left(seed: int, no_preempt: bool, families: tuple[int, ...]) -> None:
    lab = Lab(
        nodes=3,
        seed=seed,
        checks=(KUBE_API,),
        families=families,
        router={"no_preempt": no_preempt},
    )
    lab.settle()
    holder, at = lab.holder, lab.now
    holder.set_service(ProbeResult.REFUSED, "kube_api")
    assert moves_away(lab, holder, 10.0), lab.story()
    lab.run_for(1.0)
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


@pytest.mark.parametrize("no_preempt", [False, True], ids=["preempt", "noPreempt"])
@pytest.mark.parametrize("result", [ProbeResult.REFUSED, ProbeResult.TIMED_OUT])
def test_what_ails_all_nodes_moves_nothing(
    seed: int, no_preempt: bool, result: ProbeResult
) -> None:
    """The API server goes and comes back; the nodes notice one after another."""
    lab = Lab(
        nodes=3,
        seed=seed,
        checks=(KUBE_API,),
        router={"no_preempt": no_preempt, "preempt_delay_s": 0.0},
        boots=False,
    )
    for machine in lab.machines:
        machine.start()
        lab.run_for(KUBE_API.interval_s * 0.31)
    lab.run_for(3.0)
    holder, at = lab.holder, lab.now
    for then, told in ((result, "before=healthy"), (ProbeResult.PASSED, "before=unhealthy")):
        for machine in lab.machines:
            machine.set_service(then, "kube_api")
        for _ in range(100):
            lab.run_for(0.1)
            assert lab.holder is holder, lab.story()
        assert lab.story().count(told) == 3, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


def test_a_better_node_takes_the_vip_back_after_the_delay_and_loses_nothing(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, priority=[100, 110, 120])
    lab.run_for(8.0)
    best = lab.holder
    assert best.name == "node3", lab.story()
    best.power_off()
    lab.run_for(1.0)
    second, at = lab.holder, lab.now
    best.power_on()
    lab.run_for(4.8)
    assert lab.holder is second, lab.story()
    lab.run_for(2.0)
    assert lab.holder is best, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()


def test_with_no_preempt_a_better_node_does_not_take_the_vip_back(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, priority=[100, 110, 120], router={"no_preempt": True})
    lab.settle()
    first = lab.holder
    first.power_off()
    lab.run_for(1.0)
    second = lab.holder
    first.power_on()
    lab.run_for(10.0)
    assert lab.holder is second, lab.story()


# Clocks.


def test_wrong_clocks_move_nothing_under_hmac(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, boots=False, router={"hmac": HMAC})
    for machine, wrong_s in zip(lab.machines, (3600.0, -3600.0, 0.0), strict=True):
        machine.utc_offset_s += wrong_s
        machine.start()
    lab.settle()
    holder = lab.holder
    before = len(lab.takeovers)
    for step_s in (-7200.0, 9000.0):
        holder.set_clock(step_s)
        lab.run_for(3.0)
    assert lab.holder is holder, lab.story()
    assert len(lab.takeovers) == before, lab.story()


def test_a_node_that_comes_back_with_an_old_clock_joins_under_hmac(seed: int) -> None:
    lab = Lab(nodes=3, seed=seed, router={"hmac": HMAC})
    lab.settle()
    for _ in range(2):
        leaver, at = lab.holder, lab.now
        leaver.stop()
        lab.run_for(1.0)
        assert lab.clients[0].cut_off_s(at) == 0.0, lab.story()
        leaver.utc_offset_s -= 3600.0
        leaver.start()
        lab.run_for(4.0)
        assert len(lab.holders) == 1, lab.story()


@pytest.mark.parametrize("ends", [Machine.kill, Machine.power_off])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_node_whose_clock_was_set_right_before_it_crashed_is_believed_again(
    seed: int, nodes: int, ends: Callable[[Machine], None]
) -> None:
    """It boots an hour ahead, NTP mends that, and it ends without a word and comes back."""
    priorities = [100] * (nodes - 1) + [120]
    lab = Lab(nodes=nodes, priority=priorities, seed=seed, boots=False, router={"hmac": HMAC})
    ahead = lab.machines[-1]
    for machine in lab.machines:
        machine.utc_offset_s = 1.7e9 - machine.host.local_now()
    ahead.utc_offset_s += 3600.0
    for machine in lab.machines:
        machine.start()
    lab.run_for(10.0)
    assert lab.holder is ahead, lab.story()
    ahead.set_clock(-3600.0)
    lab.run_for(2.0)
    ends(ahead)
    lab.run_for(3.5)
    successor = lab.holder
    assert successor is not ahead, lab.story()
    if ahead.host.is_powered:
        ahead.start()
    else:
        ahead.power_on()
    lab.run_for(10.0)
    assert lab.holder is ahead, lab.story()


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
@pytest.mark.parametrize("hmac", [HMAC, HMAC_TIME], ids=["monotonic", "time"])
@pytest.mark.parametrize("priority", [100, [100, 110, 120]], ids=["equal", "priorities"])
def test_a_partition_heals_under_hmac_whatever_the_clocks_say(
    seed: int, off_s: float, hmac: HmacConfig, priority: int | list[int]
) -> None:
    lab = Lab(nodes=3, seed=seed, clients=2, priority=priority, router={"hmac": hmac})
    for machine in lab.machines:
        machine.utc_offset_s = 1.7e9 - machine.host.local_now()
    lab.machines[seed % 3].utc_offset_s += off_s
    lab.settle()
    for _ in range(2):
        split(lab)
        lab.run_for(lab.rng.uniform(1.0, 3.0))
        assert len(lab.holders) == 2, lab.story()
        lab.heal()
        lab.run_for(8.0)
        assert len(lab.holders) == 1, lab.story()


@pytest.mark.parametrize("off_s", [3600.0, -3600.0, 3.0, -3.0])
def test_a_clock_that_is_set_right_moves_nothing_under_hmac_by_time(
    seed: int, off_s: float
) -> None:
    lab = Lab(nodes=3, seed=seed, router={"hmac": HMAC_TIME})
    for machine in lab.machines:
        machine.utc_offset_s = 1.7e9 - machine.host.local_now() + off_s
    lab.settle()
    before = len(lab.takeovers)
    for machine in lab.machines:
        machine.set_clock(-off_s)
        lab.run_for(2.0)
    assert len(lab.takeovers) == before, lab.story()
    lab.holder.kill()
    lab.run_for(1.0)
    assert len(lab.holders) == 1, lab.story()
