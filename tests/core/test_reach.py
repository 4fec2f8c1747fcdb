"""A node whose adverts the kernel refuses to send: nobody hears it, so it must not hold."""

from __future__ import annotations

from dataclasses import replace
from errno import EHOSTUNREACH, EPERM

import pytest
from driver import ETH, SETTLE_S, V4, V6, Driver, order, router

from havip.core.actions import InstallAddress, SendVrrp, Topic
from havip.core.events import ActionFailed
from havip.core.reasons import Reason, State
from havip.core.timers import REFUSE_S
from havip.wire import vrrp

INTERVAL_S = 0.1
DOWN_S = 3 * INTERVAL_S + 156 / 256 * INTERVAL_S
UNICAST = replace(router(), legs=(V4.leg(peers=(V4.lower, V4.higher)),))
DUAL = replace(router(), legs=(V4.leg(), V6.leg()))


def test_what_another_router_on_the_interface_may_not_send_is_not_ones_own():
    other = replace(router(), virtual_router_id=11, name="eth0/11")
    d = Driver((router(),)).become_active()
    refused = ActionFailed(
        action="SendVrrp",
        interface=ETH,
        subject=str(vrrp.MULTICAST_V4),
        errno=EPERM,
        message="Operation not permitted",
        virtual_router_id=other.virtual_router_id,
    )
    for _ in range(20):
        d.tell(refused)
        d.run_for(INTERVAL_S / 2)
    assert d.state is State.ACTIVE
    assert d.on_interface


@pytest.mark.parametrize("config", [router(), UNICAST, DUAL], ids=["multicast", "unicast", "dual"])
def test_a_holder_that_nobody_hears_lets_go_before_others_claim(config):
    d = Driver((config,)).become_active()
    d.run_to_advert()
    left_at = d.now
    d.done.clear()
    d.fail_sends(0.24)
    assert d.state is State.ACTIVE
    d.fail_sends(0.1)
    ((at, state, reason),) = d.moves
    assert (state, reason) == (State.BACKUP, Reason.SEND_FAILED)
    assert at - left_at == pytest.approx(3 * INTERVAL_S)
    assert not d.on_interface
    fields = d.reports(Topic.MOVED)[0][1].fields
    assert fields == {
        "errno": EPERM,
        "detail": "Operation not permitted",
        "silent_s": pytest.approx(0.3),
    }
    sent = order(d.since(at))
    assert sent[sent.index("ResetConnections") :].count("SendVrrp") == 0, "it has no voice"


def test_it_does_not_claim_while_nobody_hears_it_and_says_so():
    d = Driver().become_active()
    d.fail_sends(60)
    assert d.state is State.BACKUP
    assert not d.on_interface
    assert d.view.reason == "send_failed"
    assert [reason for _, _, reason in d.moves] == [Reason.SEND_FAILED]
    refused = [report for _, report in d.reports(Topic.REFUSED)]
    assert refused[0].reason is Reason.SEND_FAILED
    assert 1 < len(refused) < 10
    assert not d.timed(InstallAddress)
    d.run_for(REFUSE_S + DOWN_S + 0.1)
    assert d.state is State.ACTIVE, "it is heard again, and nobody else is there"


def test_some_lost_adverts_are_nothing():
    d = Driver().become_active()
    for _ in range(20):
        d.fail_sends(0.24)
        d.run_for(0.051)
    assert not d.moves


def test_a_destination_that_can_be_reached_is_enough():
    d = Driver((DUAL,)).become_active()
    d.fail_sends(5, to=(vrrp.MULTICAST_V4,))
    assert not d.moves


def test_dead_unicast_peers_are_no_reason_to_let_go():
    """Both others are off, and their addresses do not resolve."""
    d = Driver((UNICAST,)).become_active()
    d.fail_sends(5, errno=EHOSTUNREACH)
    assert not d.moves


def test_a_claim_that_is_lost_once_is_a_claim():
    d = Driver()
    d.start()
    d.run_until(d.now + DOWN_S - 0.001)
    d.fail_sends(0.002)
    assert len(d.timed(SendVrrp)) == 1
    d.run_for(SETTLE_S)
    assert d.state is State.ACTIVE
