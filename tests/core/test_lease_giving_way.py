"""A holder by a Lease that Kubernetes has leave: it offers, is asked, and hands over, or stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from driver import V4, announcement, check
from test_lease_tenant import OTHER, SLOW, THEIRS, Fleet, fleet

from havip.core.actions import WriteLease
from havip.core.events import LeaseChanged, NodeSeen, ProbeResult
from havip.core.reasons import Reason, State
from havip.core.record import LeaseRecord
from havip.core.tenant import OFFER_AGAIN_S, SKEW_S

CORDONED = NodeSeen(is_unschedulable=True)
OFFERED = replace(THEIRS, is_offered=True)


def writes(d: Fleet) -> list[LeaseRecord]:
    return [action.record for _, action in d.asked if isinstance(action, WriteLease)]


def changed(d: Fleet) -> None:
    """Somebody else has written the Lease, and the watch says so."""
    assert d.stored is not None
    d.tell(LeaseChanged(namespace=SLOW.namespace, name=SLOW.name, version=d.stored.version))
    d.wake()


def is_asked(d: Fleet) -> None:
    """Another node asks for what is offered."""
    assert d.stored is not None
    d.stored = replace(d.stored, asked_by="b", version=str(int(d.stored.version) + 1))
    changed(d)


def holding(**changes: object) -> Fleet:
    d = fleet(node_weight=-30, **changes)
    d.hold()
    return d


def waiting(record: LeaseRecord, **changes: object) -> Fleet:
    d = fleet(node_weight=-30, stored=record, **changes)
    d.start()
    d.run_for(2.0)
    return d


# The holder.


def test_it_offers_at_once_and_goes_on_holding() -> None:
    d = holding()
    d.tell(CORDONED)
    d.wake()
    assert [record.is_offered for record in writes(d)] == [True]
    d.run_for(60.0)
    assert d.state is State.ACTIVE
    assert all(record.is_offered for record in writes(d))


def test_it_takes_the_offer_back() -> None:
    d = holding()
    d.tell(CORDONED)
    d.run_for(5.0)
    d.tell(NodeSeen())
    d.wake()
    assert not writes(d)[-1].is_offered
    is_asked(d)
    d.run_for(60.0)
    assert d.state is State.ACTIVE, "asked too late"


@pytest.mark.parametrize("is_watched", [True, False], ids=["told", "not told"])
def test_it_hands_over_to_who_asks(is_watched: bool) -> None:
    d = holding()
    d.tell(CORDONED)
    d.run_for(0.5)
    if is_watched:
        is_asked(d)
    else:
        assert d.stored is not None
        d.stored = replace(d.stored, asked_by="b", version=str(int(d.stored.version) + 1))
        d.run_for(SLOW.retry_period_s)
    assert [(state, reason) for _, state, reason in d.moves] == [
        (State.BACKUP, Reason.NODE_CORDONED)
    ]
    assert d.stored is not None and (d.stored.holder, d.stored.asked_by) == ("", "")
    assert d.on_interface, "until the successor announces it"
    d.stored = replace(THEIRS, version=str(int(d.stored.version) + 1))
    d.tell(announcement(OTHER, V4.vip.address))
    d.run_for(0.2)
    assert not d.on_interface


def test_who_asks_and_does_not_come_is_not_believed_again_soon() -> None:
    d = holding()
    d.tell(CORDONED)
    d.run_for(0.5)
    is_asked(d)
    d.run_for(30.0)
    assert d.state is State.ACTIVE, "nobody came"
    assert d.stored is not None and not d.stored.is_offered
    d.run_for(OFFER_AGAIN_S)
    assert d.stored.is_offered


def test_a_weight_of_0_offers_nothing() -> None:
    d = fleet(node_weight=0)
    d.hold()
    d.tell(CORDONED)
    d.run_for(10.0)
    assert not any(record.is_offered for record in writes(d))


# The others.


def test_a_node_that_stays_asks_after_its_skew_and_only_once() -> None:
    d = waiting(THEIRS)
    d.stored = replace(OFFERED, version="8")
    d.asked.clear()
    changed(d)
    at = d.now
    d.run_for(5.0)
    (asked,) = (each for each in d.asked if isinstance(each[1], WriteLease))
    assert 0 < asked[0] - at <= SKEW_S
    assert asked[1].record == replace(OFFERED, asked_by="a")
    assert d.state is State.BACKUP


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (THEIRS, "nothing is offered"),
        (replace(OFFERED, asked_by="c"), "somebody else has asked"),
        (replace(OFFERED, holder=""), "it is free, and claimed"),
    ],
)
def test_it_does_not_ask_because(record: LeaseRecord, why: str) -> None:
    d = waiting(record)
    assert not any(each.asked_by == "a" for each in writes(d)), why


def test_a_node_that_is_about_to_leave_too_does_not_ask() -> None:
    d = fleet(node_weight=-30, stored=OFFERED)
    d.tell(CORDONED)
    d.start()
    d.run_for(10.0)
    assert not writes(d)
    d.tell(NodeSeen())
    d.run_for(1.0)
    assert [record.asked_by for record in writes(d)] == ["a"], "until it stays"


def test_a_node_that_may_not_hold_does_not_ask() -> None:
    checks = (check(),)
    results: dict[str, ProbeResult | None] = {"service": ProbeResult.REFUSED}
    d = fleet(node_weight=-30, stored=OFFERED, checks=checks, results=results)
    d.start()
    d.run_for(10.0)
    assert not writes(d)


def test_to_have_asked_is_not_to_hold() -> None:
    d = waiting(OFFERED)
    assert [record.asked_by for record in writes(d)] == ["a"]
    d.run_for(SLOW.duration_s - 3.0)
    assert d.state is State.BACKUP and not d.on_interface
    d.run_for(5.0)
    assert d.state is State.ACTIVE, "the holder has died meanwhile"
    assert d.stored is not None and not d.stored.is_offered and not d.stored.asked_by
