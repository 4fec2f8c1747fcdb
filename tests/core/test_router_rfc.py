"""The state machine of RFC 9568 §6.4 and RFC 3768 §6.4, transition by transition.

Where havip deviates on purpose (spare adverts, the claim before the address, make before break)
the other tests of this directory say so; here the timers and decisions of the RFCs are held.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from driver import SETTLE_S, V4, V6, Driver, Net, order, router, told, touches_the_world

from havip.core.actions import (
    Counter,
    Finished,
    InstallAddress,
    RemoveAddress,
    SendVrrp,
)
from havip.core.events import StopRequested
from havip.core.reasons import Reason, State
from havip.core.timers import active_down_interval_s, skew_time_s
from havip.wire.vrrp import AuthType

V2 = {"version": 2, "advert_interval_s": 1.0}
V3 = {"version": 3, "advert_interval_s": 0.1}
BOTH = [
    pytest.param(V4, V2, id="3768"),
    pytest.param(V4, V3, id="9568 IPv4"),
    pytest.param(V6, V3, id="9568 IPv6"),
]


def driver(net: Net = V4, **changes: object) -> Driver:
    return Driver((router(net, **changes),), net=net)


def claimed_at(d: Driver) -> float:
    """When the node first advertised itself as Active."""
    return next(at for at, advert in d.adverts if advert.priority > 0)


# Timers (§6.1) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "priority", "interval_s", "skew_s", "down_s"),
    [
        pytest.param(2, 100, 1, 156 / 256, 3 + 156 / 256, id="3768 §6.1 priority 100"),
        pytest.param(2, 254, 1, 2 / 256, 3 + 2 / 256, id="3768 §6.1 priority 254"),
        pytest.param(2, 1, 1, 255 / 256, 3 + 255 / 256, id="3768 §6.1 priority 1"),
        pytest.param(2, 100, 10, 156 / 256, 30 + 156 / 256, id="3768 §6.1 skew is not scaled"),
        pytest.param(3, 100, 0.1, 0.0609375, 0.3609375, id="9568 §6.1 priority 100"),
        pytest.param(3, 254, 0.1, 0.00078125, 0.30078125, id="9568 §6.1 priority 254"),
        pytest.param(3, 1, 40.95, 40.7900390625, 163.6400390625, id="9568 §6.1 longest interval"),
    ],
)
def test_timers(version, priority, interval_s, skew_s, down_s):
    assert skew_time_s(version, priority, interval_s) == pytest.approx(skew_s)
    assert active_down_interval_s(version, priority, interval_s) == pytest.approx(down_s)


# Initialize (§6.4.1) ---------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_startup_becomes_backup_and_says_nothing(net, version):
    d = driver(net, **version)
    d.start()
    assert [(state, reason) for _, state, reason in d.moves] == [(State.BACKUP, Reason.STARTED)]
    assert not d.adverts
    assert not told([a for _, a in d.done], InstallAddress)


@pytest.mark.parametrize(("net", "version"), BOTH)
@pytest.mark.parametrize("priority", [2, 100, 254])
def test_startup_sets_the_active_down_timer(net, version, priority):
    d = driver(net, **version, priority=priority)
    began_at = d.now
    d.start()
    d.run_for(10)
    down_s = active_down_interval_s(version["version"], priority, version["advert_interval_s"])
    assert claimed_at(d) == pytest.approx(began_at + down_s)


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_shutdown_in_initialize_ends(net, version):
    d = driver(net, **version)
    d.start(links=False)
    assert [type(a) for a in d.tell(StopRequested())] == [Finished]
    d.run_for(10)
    assert not list(touches_the_world([a for _, a in d.done]))


def test_an_advert_in_initialize_changes_nothing():
    d = driver()
    d.start(links=False)
    d.hear(200)
    d.run_for(10)
    assert d.state is State.INITIALIZE
    assert not d.adverts


# Backup (§6.4.2) -------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_active_down_timer_makes_active(net, version):
    d = driver(net, **version)
    d.start()
    d.run_for(2 * version["advert_interval_s"])
    d.hear(150)
    heard_at = d.now
    d.done.clear()
    d.run_for(10)
    down_s = active_down_interval_s(version["version"], 100, version["advert_interval_s"])
    at, advert = d.adverts[0]
    assert at == pytest.approx(heard_at + down_s)
    assert advert.priority == 100
    assert advert.addresses == (net.vip.address,)
    assert d.moves[0][1:] == (State.ACTIVE, Reason.ACTIVE_SILENT)
    assert d.moves[0][0] == pytest.approx(heard_at + down_s + SETTLE_S)
    assert d.announcements[0][1] == net.vip.address
    assert d.on_interface == {net.vip.interface}


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_shutdown_in_backup_ends_without_a_word(net, version):
    d = driver(net, **version)
    d.start()
    d.hear(150)
    actions = d.tell(StopRequested())
    assert order(actions) == ["Finished"]
    assert d.state is State.INITIALIZE
    d.run_for(10)
    assert not d.adverts


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_priority_zero_sets_the_timer_to_skew(net, version):
    d = driver(net, **version)
    d.start()
    d.hear(150)
    d.run_for(0.02)
    d.hear(0)
    left_at = d.now
    d.run_for(10)
    skew_s = skew_time_s(version["version"], 100, version["advert_interval_s"])
    assert claimed_at(d) == pytest.approx(left_at + skew_s)
    assert d.moves[-1][1:] == (State.ACTIVE, Reason.ACTIVE_LEFT)


@pytest.mark.parametrize(("net", "version"), BOTH)
@pytest.mark.parametrize(
    ("priority", "source", "preempts"),
    [
        pytest.param(150, "higher", True, id="§6.4.2 higher priority"),
        pytest.param(100, "higher", True, id="§6.4.2 equal priority, higher address"),
        pytest.param(100, "lower", True, id="§6.4.2 equal priority, lower address"),
        pytest.param(50, "higher", False, id="§6.4.2 lower priority, Preempt_Mode false"),
    ],
)
def test_an_advert_resets_the_timer(net, version, priority, source, preempts):
    d = driver(net, **version, no_preempt=not preempts)
    d.start()
    for _ in range(30):
        d.run_for(version["advert_interval_s"])
        d.hear(priority, getattr(net, source))
    assert d.state is State.BACKUP
    assert not d.adverts
    heard_at = d.now
    d.run_for(10)
    down_s = active_down_interval_s(version["version"], 100, version["advert_interval_s"])
    assert claimed_at(d) == pytest.approx(heard_at + down_s)


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_preempt_mode_takes_over_from_a_lower_priority(net, version):
    d = driver(net, **version)
    d.start()
    for _ in range(5):
        d.hear(50)
        d.run_for(version["advert_interval_s"])
    assert d.state is State.ACTIVE
    assert d.moves[-1][2] is Reason.PREEMPTED


def test_the_interval_is_learnt_from_the_active_router():
    d = driver(priority=100, advert_interval_s=0.1)
    d.start()
    d.hear(150, interval_s=2.0)
    heard_at = d.now
    d.run_for(20)
    assert claimed_at(d) == pytest.approx(heard_at + 3 * 2.0 + 156 / 256 * 2.0), "9568 §6.4.2"


def test_skew_follows_the_learnt_interval():
    d = driver()
    d.start()
    d.hear(150, interval_s=2.0)
    d.hear(0, interval_s=2.0)
    left_at = d.now
    d.run_for(20)
    assert claimed_at(d) == pytest.approx(left_at + 156 / 256 * 2.0), "9568 §6.1"


def test_own_adverts_keep_the_configured_interval():
    d = driver(advert_interval_s=0.1)
    d.start()
    d.hear(150, interval_s=2.0)
    d.run_for(20)
    assert {advert.advert_interval_s for _, advert in d.adverts} == {0.1}, "9568 §6.1"


def test_version_2_does_not_learn_the_interval():
    d = driver(**V2)
    d.start()
    began_at = d.now
    d.hear(150, interval_s=5.0)
    d.run_for(10)
    assert claimed_at(d) == pytest.approx(began_at + 3 + 156 / 256), "3768 §7.1: dropped"


# Active (§6.4.3) -------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_adver_timer_sends_adverts(net, version):
    d = driver(net, **version).become_active()
    d.run_for(4 * version["advert_interval_s"])
    times = [at for at, _ in d.adverts]
    assert len(times) == 8, "each half interval: the spare adverts of design §3"
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == pytest.approx([version["advert_interval_s"] / 2] * 7)
    for _, advert in d.adverts:
        assert advert.version == version["version"]
        assert advert.virtual_router_id == 10
        assert advert.priority == 100
        assert advert.advert_interval_s == version["advert_interval_s"]
        assert advert.addresses == (net.vip.address,)
        assert advert.auth_type == AuthType.NONE


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_shutdown_in_active_sends_priority_zero(net, version):
    d = driver(net, **version).become_active()
    actions = d.tell(StopRequested())
    (packet,) = told(actions, SendVrrp)
    assert isinstance(packet, SendVrrp)
    assert [advert.priority for _, advert in d.adverts] == [0]
    assert packet.destination == net.multicast
    assert packet.source == net.me
    assert d.moves[-1][1:] == (State.INITIALIZE, Reason.STOPPED)
    d.run_for(10)
    assert d.is_finished
    assert {advert.priority for _, advert in d.adverts} == {0}
    assert not d.on_interface


@pytest.mark.parametrize(("net", "version"), BOTH)
def test_priority_zero_is_answered_at_once(net, version):
    d = driver(net, **version).become_active()
    d.run_for(0.01)
    d.done.clear()
    actions = d.hear(0)
    assert order(actions) == ["SendVrrp"]
    assert d.adverts[0][1].priority == 100
    assert d.count(Counter.PRIORITY_ZERO_RECEIVED) == 1
    d.run_for(version["advert_interval_s"] / 2 + 0.001)
    assert d.adverts[1][0] - d.adverts[0][0] == pytest.approx(version["advert_interval_s"] / 2), (
        "the Adver_Timer was reset"
    )
    assert d.state is State.ACTIVE


@pytest.mark.parametrize(("net", "version"), BOTH)
@pytest.mark.parametrize(
    ("priority", "source", "reason"),
    [
        pytest.param(101, "lower", Reason.HIGHER_PRIORITY, id="§6.4.3 higher priority"),
        pytest.param(255, "lower", Reason.HIGHER_PRIORITY, id="§6.4.3 an address owner"),
        pytest.param(100, "higher", Reason.HIGHER_ADDRESS, id="§6.4.3 equal, higher address"),
    ],
)
def test_active_yields(net, version, priority, source, reason):
    d = driver(net, **version).become_active()
    d.hear(priority, getattr(net, source))
    yielded_at = d.now
    assert d.moves[-1][1:] == (State.BACKUP, reason)
    d.run_for(0.2)
    assert all(advert.priority <= 1 for _, advert in d.adverts), "the Adver_Timer was cancelled"
    assert not d.on_interface
    d.done.clear()
    d.run_for(10)
    down_s = active_down_interval_s(version["version"], 100, version["advert_interval_s"])
    assert claimed_at(d) == pytest.approx(yielded_at + down_s), "the Active_Down_Timer was set"


@pytest.mark.parametrize(("net", "version"), BOTH)
@pytest.mark.parametrize(
    ("priority", "source"),
    [
        pytest.param(99, "higher", id="§6.4.3 lower priority"),
        pytest.param(100, "lower", id="§6.4.3 equal, lower address"),
    ],
)
def test_active_asserts_itself(net, version, priority, source):
    d = driver(net, **version).become_active()
    d.run_for(0.01)
    d.done.clear()
    d.hear(priority, getattr(net, source))
    assert d.state is State.ACTIVE
    assert [advert.priority for _, advert in d.adverts] == [100], "9568 §6.4.3"
    assert d.announcements == [(d.now, net.vip.address)], "a learning switch is put right"
    d.run_for(3 * version["advert_interval_s"])
    assert d.on_interface == {net.vip.interface}


def test_yielding_learns_the_interval():
    d = driver().become_active()
    d.hear(150, interval_s=2.0)
    yielded_at = d.now
    d.run_for(0.2)
    d.done.clear()
    d.run_for(20)
    assert claimed_at(d) == pytest.approx(yielded_at + 6 + 156 / 256 * 2), "9568 §6.4.3"


def test_addresses_are_compared_as_unsigned_numbers():
    """192.0.2.200 is above 192.0.2.10: neither text nor signed bytes may decide (§6.4.3)."""
    d = driver().become_active()
    d.hear(100, type(V4.me)("192.0.2.200"))
    assert d.state is State.BACKUP


def test_every_vip_is_advertised_and_announced():
    config = replace(router(), legs=(V4.leg(vips=2),))
    d = Driver((config,))
    d.start()
    d.run_for(1)
    assert {advert.addresses for _, advert in d.adverts} == {(V4.vip.address, V4.second.address)}
    assert {address for _, address in d.announcements} == {V4.vip.address, V4.second.address}


def test_the_address_is_never_there_before_active():
    d = driver()
    d.start()
    d.run_for(5)
    installed_at = d.timed(InstallAddress)[0][0]
    assert installed_at == d.moves[-1][0]
    assert not d.timed(RemoveAddress)
