"""Election by a Lease: one scenario each, for several seeds and both sets of times.

The lab judges every step (`havip.sim.verdict`), and by a stricter rule than for VRRP: there is
one holder for all nodes, whoever hears whom, and nobody has the address beside a stale one
either. What stands here is what a scenario promises beyond that.
"""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from typing import Any

import pytest

from havip.core.config import CheckConfig, LeaseConfig
from havip.core.events import ProbeResult
from havip.core.tenant import LOOK_S
from havip.core.timers import LEAVE_AFTER_ADVERT_S
from havip.sim import plan
from havip.sim.lab import Lab, promised_by_lease
from havip.sim.machine import Machine
from havip.sim.verdict import Bounds

SLOW = LeaseConfig(namespace="kube-system", name="havip-10")
FAST = replace(SLOW, duration_s=5, renew_deadline_s=3.0, retry_period_s=1.0)
TIMES = [pytest.param(SLOW, id="15/10/2"), pytest.param(FAST, id="5/3/1")]
KEY = ("kube-system", "havip-10")
KUBE_API = CheckConfig(
    name="kube_api",
    url="https://127.0.0.1:6443/readyz",
    interval_s=2.0,
    timeout_s=1.0,
    fail_after=2,
    recover_after=2,
)

pytestmark = pytest.mark.parametrize("lease", TIMES)


def make(lease: LeaseConfig, seed: int, *, nodes: int = 3, **fields: Any) -> Lab:
    return Lab(nodes=nodes, seed=seed, router={"lease": lease}, **fields)


def nobody_may(lease: LeaseConfig, **changes: float) -> Bounds:
    """The bounds of a run in which the API server does not answer everybody."""
    return replace(promised_by_lease(lease), no_holder_s=math.inf, **changes)


def takes_over_within_s(lease: LeaseConfig) -> tuple[float, float]:
    """How long a dead holder is missed: its last renewal is up to a retry period old."""
    latest_s = promised_by_lease(lease).no_holder_s
    return lease.duration_s - lease.retry_period_s - 0.1, latest_s


def settled(lab: Lab) -> Machine:
    lab.settle()
    lab.run_for(5 * lab.rng.random())
    return lab.holder


def new_holders(lab: Lab, before: int) -> set[str]:
    return {name for _, name in lab.takeovers[before:]}


# One holder.


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "looked at"])
def test_five_nodes_start_with_one_holder(lease: LeaseConfig, seed: int, watched: bool) -> None:
    lab = make(lease, seed, nodes=5)
    lab.api_server.weather.watched = watched
    lab.run_for(10.0)
    assert new_holders(lab, 0) == {lab.holder.name}, lab.story()
    assert lab.api_server.leases[KEY].holder == lab.holder.name


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "looked at"])
def test_a_dead_holder_is_replaced_once(lease: LeaseConfig, seed: int, watched: bool) -> None:
    lab = make(lease, seed, nodes=5)
    lab.api_server.weather.watched = watched
    holder = settled(lab)
    before, at = len(lab.takeovers), lab.now
    holder.power_off()
    earliest_s, latest_s = takes_over_within_s(lease)
    lab.run_for(latest_s)
    assert new_holders(lab, before) == {lab.holder.name}, lab.story()
    assert earliest_s <= lab.clients[0].cut_off_s(at) <= latest_s, lab.story()
    assert lab.api_server.leases[KEY].transitions == 1


def test_a_killed_daemon_that_is_restarted_resumes_its_lease(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed)
    holder = settled(lab)
    before, at = len(lab.takeovers), lab.now
    holder.kill()
    lab.run_for(0.5)
    holder.start()
    lab.run_for(lease.duration_s + 5.0)
    assert lab.holder is holder, lab.story()
    assert new_holders(lab, before) == {holder.name}, lab.story()
    assert lab.clients[0].cut_off_s(at) <= 2.0, lab.story()
    assert lab.api_server.leases[KEY].transitions == 0


def test_the_highest_priority_claims_first(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, nodes=4, priority=[10, 100, 200, 250])
    settled(lab)
    assert lab.holder.name == "node4", lab.story()
    lab.holder.power_off()
    lab.run_for(takes_over_within_s(lease)[1])
    assert lab.holder.name == "node3", lab.story()


def test_a_better_node_does_not_preempt(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, priority=[100, 200, 250], boots=False)
    lab.machines[0].start()
    settled(lab)
    for machine in lab.machines[1:]:
        machine.start()
    lab.run_for(30.0)
    assert len(lab.takeovers) == 1, lab.story()


# A holder that stands still.


def test_a_frozen_holder_is_gone_before_the_next_one(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed)
    holder = settled(lab)
    holder.freeze()
    lab.run_for(takes_over_within_s(lease)[1])
    successor = lab.holder
    assert successor is not holder, lab.story()
    before = len(lab.takeovers)
    holder.thaw()
    lab.run_for(20.0)
    assert len(lab.takeovers) == before and lab.holder is successor, lab.story()


def test_a_short_freeze_moves_nothing(lease: LeaseConfig, seed: int) -> None:
    """Even if it outlasts the address: nobody else may claim yet."""
    lab = make(lease, seed)
    holder = settled(lab)
    before = len(lab.takeovers)
    holder.freeze()
    lab.run_for(lease.renew_deadline_s - lease.retry_period_s - 0.1)
    holder.thaw()
    lab.run_for(20.0)
    assert lab.holder is holder, lab.story()
    assert new_holders(lab, before) <= {holder.name}, lab.story()


@pytest.mark.parametrize("frozen_s", [2.9, 4.5, 9.0, 14.5, 17.0])
def test_no_length_of_a_freeze_makes_two_holders(
    lease: LeaseConfig, seed: int, frozen_s: float
) -> None:
    lab = make(lease, seed, nodes=5)
    holder = settled(lab)
    for _ in range(3):
        holder.freeze()
        lab.run_for(frozen_s + lab.rng.random())
        holder.thaw()
        lab.run_for(lab.rng.random() * 10)
    lab.run_for(takes_over_within_s(lease)[1])
    assert len(lab.holders) == 1, lab.story()


def test_a_machine_that_stood_still_notices_at_its_next_renewal(
    lease: LeaseConfig, seed: int
) -> None:
    """Its clock shows no gap: until it asks, nothing tells it."""
    overlap_s = lease.retry_period_s + 0.1
    bounds = nobody_may(lease, two_holders_s=overlap_s, beside_stale_s=overlap_s, cut_off_s=5.2)
    lab = make(lease, seed, bounds=bounds)
    holder = settled(lab)
    holder.pause()
    lab.run_for(60.0)
    successor = lab.holder
    holder.resume(keeps_packets=False)
    lab.run_for(20.0)
    assert lab.holder is successor is not holder, lab.story()


# Clocks.


def test_wrong_clocks_change_nothing(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, boots=False)
    for machine in lab.machines:
        machine.utc_offset_s += lab.rng.uniform(-86400, 86400)
        machine.start()
    holder = settled(lab)
    before = len(lab.takeovers)
    for _ in range(20):
        lab.rng.choice(lab.machines).set_clock(lab.rng.choice([-7200.0, -3.0, 3.0, 7200.0]))
        lab.run_for(lab.rng.random() * 3)
    assert len(lab.takeovers) == before, lab.story()
    holder.power_off()
    lab.run_for(takes_over_within_s(lease)[1])
    assert len(lab.holders) == 1, lab.story()


# Planned moves.


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "looked at"])
def test_a_planned_move_loses_nothing(lease: LeaseConfig, seed: int, watched: bool) -> None:
    lab = make(lease, seed, nodes=4)
    lab.api_server.weather.watched = watched
    for _ in range(2):
        holder, at = settled(lab), lab.now
        holder.stop()
        lab.run_for(1.0 if watched else lease.retry_period_s * 1.2 + 1.0)
        assert holder.process is None, lab.story()
        assert lab.clients[0].cut_off_s(at) == 0, lab.story()
        lab.run_for(5.0)


def test_a_holder_that_stops_just_after_it_began_loses_nothing(
    lease: LeaseConfig, seed: int
) -> None:
    """The others have only just heard of it."""
    lab = make(lease, seed)
    assert lab.run_until(lambda: bool(lab.holders and lab.clients[0].cache), 5.0)
    lab.run_for(lab.rng.random() / 5)
    holder, at = lab.holder, lab.now
    holder.stop()
    lab.run_for(2.0)
    assert lab.holder is not holder, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0, lab.story()


def test_the_last_node_stops_soon(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, nodes=1)
    holder = settled(lab)
    holder.stop()
    lab.run_for(lease.retry_period_s * 1.2 + 1.5)
    assert holder.process is None and not lab.holders, lab.story()
    assert lab.api_server.leases[KEY].holder == "", "released"


@pytest.mark.parametrize("check", [plan.SERVICE, KUBE_API], ids=["service", "kubeApi"])
def test_an_unfit_holder_hands_over(lease: LeaseConfig, seed: int, check: CheckConfig) -> None:
    lab = make(lease, seed, checks=(check,))
    holder, at = settled(lab), lab.now
    holder.set_service(ProbeResult.REFUSED, check.name)
    lab.run_for(8.0)
    assert lab.holder is not holder, lab.story()
    assert lab.clients[0].cut_off_s(at) == 0, lab.story()
    holder.set_service(ProbeResult.PASSED, check.name)
    lab.run_for(20.0)
    assert lab.holder is not holder, lab.story()


def test_nobody_holds_where_nobody_is_fit(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, checks=(plan.SERVICE,))
    settled(lab)
    for machine in lab.machines:
        machine.set_service(ProbeResult.REFUSED)
    lab.run_for(10.0)
    assert not any(machine.has_vip(lab.vips[0]) for machine in lab.machines), lab.story()
    assert lab.api_server.leases[KEY].holder == ""
    lab.machines[1].set_service(ProbeResult.PASSED)
    lab.run_for(10.0)
    assert lab.holder is lab.machines[1], lab.story()


def test_a_leaver_that_is_not_heard_looks(lease: LeaseConfig, seed: int) -> None:
    """The nodes do not hear one another, and all of them reach the API server."""
    overlap_s = LOOK_S + LEAVE_AFTER_ADVERT_S + 0.05
    bounds = nobody_may(
        lease, two_holders_s=overlap_s, beside_stale_s=overlap_s, cut_off_s=math.inf
    )
    lab = make(lease, seed, bounds=bounds)
    holder = settled(lab)
    lab.partition(*([machine] for machine in lab.machines))
    holder.stop()
    lab.run_for(3.0 * lease.retry_period_s)
    assert lab.holder is not holder, lab.story()


def test_a_refused_address_goes_to_another_node(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, bounds=nobody_may(lease), boots=False)
    lab.machines[0].start()
    lab.run_for(0.1)
    assert lab.machines[0].process is not None
    lab.machines[0].process.refuses["InstallAddress"] = errno.EACCES
    lab.machines[1].start()
    lab.run_for(20.0)
    assert lab.holder is lab.machines[1], lab.story()


def test_a_link_that_is_down_lets_go_at_once(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed)
    holder = settled(lab)
    holder.set_link(is_up=False)
    lab.run_for(0.1)
    assert not holder.has_vip(lab.vips[0]), lab.story()
    lab.run_for(takes_over_within_s(lease)[1])
    assert lab.holder is not holder, lab.story()
    holder.set_link(is_up=True)
    lab.run_for(20.0)
    assert lab.holder is not holder, lab.story()


# The API server.


def test_a_holder_that_is_cut_off_lets_go_before_the_next_one(
    lease: LeaseConfig, seed: int
) -> None:
    lab = make(lease, seed)
    holder, at = settled(lab), lab.now
    lab.api_server.cut_off.add(holder.name)
    assert lab.run_until(lambda: not holder.has_vip(lab.vips[0]), lease.renew_deadline_s + 0.1)
    assert lab.now - at >= lease.renew_deadline_s - lease.retry_period_s - 0.1, lab.story()
    lab.run_for(takes_over_within_s(lease)[1])
    assert lab.holder is not holder, lab.story()
    lab.api_server.cut_off.clear()
    lab.run_for(20.0)
    assert lab.holder is not holder, lab.story()


def test_nobody_holds_without_the_api_server(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, bounds=nobody_may(lease))
    holder = settled(lab)
    lab.api_server.is_up = False
    lab.run_for(lease.renew_deadline_s - lease.retry_period_s - 0.1)
    assert lab.holder is holder, lab.story()
    lab.run_for(lease.retry_period_s + 0.2)
    assert not any(machine.has_vip(lab.vips[0]) for machine in lab.machines), lab.story()
    lab.run_for(300.0)
    assert not lab.holders, lab.story()
    lab.api_server.is_up = True
    lab.run_for(3 * lease.retry_period_s)
    assert len(lab.holders) == 1, lab.story()


def test_a_short_outage_of_the_api_server_moves_nothing(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed)
    settled(lab)
    before = len(lab.takeovers)
    lab.api_server.is_up = False
    # The last renewal is up to a period old, and who fails tries again each half period.
    lab.run_for(lease.renew_deadline_s - 1.5 * lease.retry_period_s - 0.1)
    lab.api_server.is_up = True
    lab.run_for(30.0)
    assert len(lab.takeovers) == before, lab.story()


def test_stopping_without_the_api_server_ends_with_the_lease(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, bounds=nobody_may(lease))
    holder = settled(lab)
    lab.api_server.is_up = False
    holder.stop()
    assert lab.run_until(lambda: holder.process is None, lease.renew_deadline_s + 0.2), lab.story()
    assert not holder.has_vip(lab.vips[0]), lab.story()


@pytest.mark.parametrize(
    "weather",
    [
        pytest.param({"loss": 0.3}, id="loses"),
        pytest.param({"conflicts": 0.3}, id="conflicts"),
        pytest.param({"latency_s": 0.35, "jitter_s": 0.2}, id="slow"),
        pytest.param({"stall": 0.3}, id="late writes"),
        pytest.param({"loss": 0.1, "stall": 0.2, "conflicts": 0.1, "watched": False}, id="all"),
    ],
)
def test_a_bad_api_server_makes_no_two_holders(
    lease: LeaseConfig, seed: int, weather: dict[str, Any]
) -> None:
    # Who is frozen between its release and its successor's announcement leaves a stale address.
    bounds = nobody_may(lease, cut_off_s=5.2, beside_stale_s=3.0)
    lab = make(lease, seed, nodes=5, bounds=bounds)
    for name, value in weather.items():
        setattr(lab.api_server.weather, name, value)
    lab.run_for(60.0)
    for _ in range(6):
        machine = lab.rng.choice(lab.machines)
        kind = lab.rng.choice(["freeze", "kill", "stop", "power"])
        match kind:
            case "freeze":
                machine.freeze()
                lab.run_for(lab.rng.random() * 25)
                machine.thaw()
            case "kill" | "stop":
                machine.kill() if kind == "kill" else machine.stop()
                lab.run_for(lab.rng.random() * 25)
                if machine.process is None:
                    machine.start()
            case "power":
                machine.power_off()
                lab.run_for(lab.rng.random() * 25)
                machine.power_on()
    lab.api_server.weather = type(lab.api_server.weather)()
    lab.run_for(60.0)
    assert len(lab.holders) == 1, lab.story()


def test_a_deleted_lease_is_made_again_by_its_holder(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed)
    settled(lab)
    before = len(lab.takeovers)
    lab.api_server.delete(KEY)
    lab.run_for(20.0)
    assert len(lab.takeovers) == before, lab.story()
    assert lab.api_server.leases[KEY].holder == lab.holder.name


def test_a_second_node_of_the_same_name_is_another_node(lease: LeaseConfig, seed: int) -> None:
    lab = make(lease, seed, bounds=nobody_may(lease), boots=False)
    first, second = lab.machines[:2]
    second.config = replace(second.config, node_name=first.config.node_name)
    first.start()
    settled(lab)
    second.start()
    lab.run_for(60.0)
    assert lab.holder is first and len(lab.takeovers) == 1, lab.story()
    first.kill()
    lab.run_for(takes_over_within_s(lease)[1])
    assert lab.holder is second, lab.story()


def test_a_stranger_with_the_address_is_found_before_a_first_claim(
    lease: LeaseConfig, seed: int
) -> None:
    lab = make(lease, seed, bounds=nobody_may(lease), boots=False)
    lab.add_stranger()
    for machine in lab.machines:
        machine.start()
    lab.run_for(20.0)
    assert not lab.takeovers and KEY not in lab.api_server.leases, lab.story()


def test_the_same_seed_gives_the_same_run(lease: LeaseConfig, seed: int) -> None:
    def run() -> str:
        lab = make(lease, seed)
        lab.api_server.weather.loss = 0.1
        lab.run_for(30.0)
        return lab.fingerprint

    assert run() == run()
