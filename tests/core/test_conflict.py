"""Before a first claim: is the address in use, or the VRID another's (RFC 5227, design §3)?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from driver import V4, V6, Driver, check, mac_of, router, vip

from havip.core.actions import Counter, Topic
from havip.core.conflict import PROBES, REMEMBER_S, Conflicts
from havip.core.events import ProbeResult
from havip.core.reasons import Reason, State
from havip.core.receive import Foreign
from havip.core.timers import REFUSE_S
from havip.wire.vrrp import Advert

INTERVAL_S = 0.1
DOWN_S = 3 * INTERVAL_S + 156 / 256 * INTERVAL_S
NETS = [pytest.param(V4, id="IPv4"), pytest.param(V6, id="IPv6")]
FOREIGN = {V4: vip("192.0.2.200/32").address, V6: vip("2001:db8::200/128").address}


def driver(net=V4, **changes) -> Driver:
    return Driver((router(net, **changes),), net=net)


# The module --------------------------------------------------------------------------------------


def test_probes_end_before_the_claim_is_due():
    conflicts = Conflicts()
    conflicts.start(100.0, 0.4)
    sent = []
    while conflicts.wake_at < 200:
        sent.append(conflicts.wake_at)
        assert conflicts.is_due(conflicts.wake_at)
    assert sent == pytest.approx([100.0, 100.1, 100.2])
    assert len(sent) == PROBES
    assert not conflicts.is_due(200.0)


def test_stopped_probes_stay_stopped():
    conflicts = Conflicts()
    conflicts.start(100.0, 0.4)
    conflicts.stop()
    assert not conflicts.is_due(101.0)


def test_a_claimant_is_forgotten():
    conflicts = Conflicts()
    conflicts.claimed(100.0, V4.vip.address, mac_of(V4.higher))
    conflict = conflicts.found(100.0 + REMEMBER_S - 0.001, 1.0)
    assert conflict is not None
    assert conflict.reason is Reason.ADDRESS_IN_USE
    assert conflict.fields["mac"] == "02:00:00:00:00:0f"
    assert conflicts.found(100.0 + REMEMBER_S, 1.0) is None


def test_a_collision_is_forgotten_by_its_own_time():
    conflicts = Conflicts()
    advert = Advert(
        version=3,
        virtual_router_id=10,
        priority=100,
        advert_interval_s=INTERVAL_S,
        addresses=(FOREIGN[V4], V4.second.address),
    )
    conflicts.collided(100.0, Foreign(advert=advert, source=V4.higher))
    conflict = conflicts.found(100.9, 1.0)
    assert conflict is not None
    assert conflict.reason is Reason.VRID_COLLISION
    assert conflict.fields["peer"] == str(V4.higher)
    assert conflict.fields["addresses"] == "192.0.2.200,192.0.2.101"
    assert conflicts.found(101.0, 1.0) is None


# In the router -----------------------------------------------------------------------------------


@pytest.mark.parametrize("net", NETS)
def test_a_first_claim_asks_for_the_address_first(net):
    d = driver(net)
    began_at = d.now
    d.start()
    d.run_for(1)
    times = [at - began_at for at, address in d.probes]
    assert {address for _, address in d.probes} == {net.vip.address}
    assert times == pytest.approx([0, DOWN_S / 4, DOWN_S / 2])
    assert d.adverts[0][0] == pytest.approx(began_at + DOWN_S), "it costs no time"


def test_each_address_is_asked_for():
    d = Driver((replace(router(), legs=(V4.leg(vips=2), V6.leg())),))
    d.start()
    d.run_for(0.01)
    assert {address for _, address in d.probes} == {
        V4.vip.address,
        V4.second.address,
        V6.vip.address,
    }


def test_slow_adverts_do_not_stretch_the_probes():
    d = driver(version=2, advert_interval_s=10.0)
    began_at = d.now
    d.start()
    d.run_for(20)
    assert [at - began_at for at, _ in d.probes] == pytest.approx([0, 0.25, 0.5])


@pytest.mark.parametrize("net", NETS)
def test_an_address_in_use_is_refused_and_tried_again(net):
    d = driver(net)
    began_at = d.now
    d.start()
    d.run_for(0.05)
    for _ in range(70):
        # The host answers whenever it is asked; here, all the time.
        d.announce_from(net.lower)
        d.run_for(0.1)
    assert d.state is State.BACKUP
    assert not d.adverts
    refusals = d.reports(Topic.REFUSED)
    times = [at - began_at for at, _ in refusals]
    assert times == pytest.approx([DOWN_S, DOWN_S + REFUSE_S, DOWN_S + 2 * REFUSE_S])
    report = refusals[0][1]
    assert report.reason is Reason.ADDRESS_IN_USE
    assert report.fields["address"] == str(net.vip.address)
    assert report.fields["mac"] == mac_of(net.lower).hex(":")
    assert report.fields["remedy"]
    assert d.view.reason == "address_in_use"
    before_the_second = [at - began_at for at, _ in d.probes][3:6]
    due_s = DOWN_S + REFUSE_S
    assert before_the_second == pytest.approx(
        [due_s - DOWN_S, due_s - DOWN_S * 3 / 4, due_s - DOWN_S / 2]
    )
    d.run_for(4)
    assert d.state is State.ACTIVE, "once the other host has gone"


def test_a_check_that_takes_long_does_not_outlive_the_probes():
    """What was asked at the start says nothing about the moment of the claim."""
    d = Driver(checks=(check(),), results={"service": ProbeResult.REFUSED})
    d.start()
    d.run_for(1)
    assert len(d.probes) == PROBES
    d.run_for(9)
    d.done.clear()
    d.judge(ProbeResult.PASSED)
    d.run_for(0.05)
    assert d.probes
    d.announce_from()
    d.run_for(1)
    assert not d.adverts
    assert d.reports(Topic.REFUSED)


def test_a_peers_advert_proves_the_router():
    """Taking over from a dead peer must not wait for anybody's answer."""
    d = driver()
    d.start()
    d.run_for(0.1)
    d.hear(150)
    heard_at = d.now
    d.done.clear()
    d.announce_from()
    d.run_for(1)
    assert not d.probes
    assert d.adverts[0][0] == pytest.approx(heard_at + DOWN_S)
    assert not d.reports(Topic.REFUSED)


def test_having_held_proves_the_router():
    d = driver().become_active()
    d.link(is_up=False)
    d.link()
    d.done.clear()
    d.announce_from()
    d.run_for(1)
    assert not d.probes
    assert d.state is State.ACTIVE


@pytest.mark.parametrize(
    ("net", "changes"),
    [
        pytest.param(V4, {}, id="9568 §7.1 IPv4"),
        pytest.param(V6, {}, id="9568 §7.1 IPv6"),
        pytest.param(V4, {"version": 2, "advert_interval_s": 1.0}, id="3768 §7.1"),
    ],
)
def test_another_user_of_the_vrid_is_refused(net, changes):
    d = driver(net, **changes)
    d.start()
    interval_s = d.routers[0].advert_interval_s
    for _ in range(int(8 / interval_s)):
        d.hear(50, net.lower, addresses=(FOREIGN[net],))
        d.run_for(interval_s)
    assert d.state is State.BACKUP
    assert not d.adverts
    report = d.reports(Topic.REFUSED)[0][1]
    assert report.reason is Reason.VRID_COLLISION
    assert report.fields["peer"] == str(net.lower)
    assert report.fields["addresses"] == str(FOREIGN[net])
    assert "virtualRouterId" in str(report.fields["remedy"])
    assert d.count(Counter.ADVERTS_DROPPED, "address_list") == int(8 / interval_s)
    d.run_for(12)
    assert d.state is State.ACTIVE, "once the other one has gone"


def test_a_collision_with_a_proven_router_is_an_alarm_and_moves_nothing():
    d = driver().become_active()
    for _ in range(100):
        d.hear(200, addresses=(FOREIGN[V4],))
        d.run_for(INTERVAL_S / 2)
    assert d.state is State.ACTIVE
    alarms = [report for _, report in d.reports(Topic.ALARM)]
    assert alarms[0].reason is Reason.VRID_COLLISION
    assert alarms[0].fields == {"peer": str(V4.higher), "addresses": "192.0.2.200"}
    assert len(alarms) < 7, "told with restraint"
