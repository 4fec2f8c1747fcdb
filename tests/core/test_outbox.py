"""What people are told, and how often."""

from __future__ import annotations

import itertools

import pytest

from havip.core.actions import Report, Topic
from havip.core.outbox import Outbox
from havip.core.reasons import Reason


def test_an_alarm_that_is_not_told_costs_no_words():
    """2,000 foreign adverts a second with their texts took the VIP from every node."""
    out = Outbox("eth0/10")
    made = []

    def story():
        made.append(len(made))
        return {"peer": "192.0.2.15"}

    for n in range(2000):
        out.alarm(100.0 + n / 2000, Reason.VRID_COLLISION, story)
    told = [action for action in out.take() if isinstance(action, Report)]
    assert len(made) == len(told) == 1
    assert told[0].fields == {"peer": "192.0.2.15"}


def test_what_goes_on_is_told_at_once_and_then_ever_more_rarely_with_a_count():
    out = Outbox("eth0/10")
    at = []
    times = []
    for n in range(36_000):
        now = 100.0 + n / 10
        out.repeat(now, Topic.PUT_BACK, None, {"address": "192.0.2.100/32"})
        for report in out.take():
            at.append(now)
            times.append(report.fields.get("times", 1))
    assert at[0] == 100.0
    gaps = [after - before for before, after in itertools.pairwise(at)]
    assert gaps == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *[600] * 4])
    assert times[:4] == [1, 10, 20, 40]
    assert sum(times) == round((at[-1] - at[0]) * 10) + 1


def test_one_story_does_not_silence_another():
    out = Outbox("eth0/10")
    for address in ("192.0.2.100/32", "192.0.2.101/32"):
        out.repeat(100.0, Topic.PUT_BACK, None, {"address": address})
    out.repeat(100.0, Topic.REFUSED, Reason.ADDRESS_IN_USE, {"address": "192.0.2.100"})
    out.repeat(100.0, Topic.REFUSED, Reason.VRID_COLLISION, {"peer": "192.0.2.15"})
    assert len(out.take()) == 4


def test_what_has_ended_is_told_at_once_when_it_begins_again():
    out = Outbox("eth0/10")
    for now in (100.0, 100.1, 130.2):
        out.repeat(now, Topic.PUT_BACK, None, {"address": "192.0.2.100/32"})
    first, second = out.take()
    assert "times" not in first.fields
    assert second.fields["times"] == 2
