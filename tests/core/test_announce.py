"""When a holder announces, and how often it answers rivals."""

from __future__ import annotations

import math

import pytest

from havip.core.announce import Announcer, Restraint


def times(announcer: Announcer, until: float, late_s: float = 0.0) -> list[float]:
    """When the announcer announces, if it is served `late_s` after each wake-up."""
    at = []
    while announcer.wake_at + late_s <= until:
        now = announcer.wake_at + late_s
        if announcer.is_due(now):
            at.append(now)
        assert announcer.wake_at > now
    return at


def test_a_burst_then_a_refresh():
    announcer = Announcer()
    announcer.start(100.0)
    assert times(announcer, 120.0) == pytest.approx(
        [100.0, 100.02, 100.06, 100.15, 100.4, 103.0, 108.0, 113.0, 118.0]
    )


def test_a_late_process_does_not_send_what_it_missed():
    announcer = Announcer()
    announcer.start(100.0)
    assert announcer.is_due(100.0)
    assert announcer.is_due(100.2)
    assert announcer.wake_at == pytest.approx(100.4)


def test_lateness_does_not_shift_the_burst():
    announcer = Announcer()
    announcer.start(100.0)
    assert times(announcer, 101.0, late_s=0.005) == pytest.approx(
        [100.005, 100.025, 100.065, 100.155, 100.405]
    )


def test_a_new_start_begins_the_burst_again():
    announcer = Announcer()
    announcer.start(100.0)
    times(announcer, 110.0)
    announcer.start(110.5)
    assert times(announcer, 111.0) == pytest.approx([110.5, 110.52, 110.56, 110.65, 110.9])


def test_stopped_and_not_yet_started():
    announcer = Announcer()
    assert announcer.wake_at == math.inf
    assert not announcer.is_due(1e9)
    announcer.start(100.0)
    announcer.stop()
    assert not announcer.is_due(1e9)


def allowed(restraint: Restraint, asked: list[float]) -> list[float]:
    return [at for at in asked if restraint.allows(at)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param([0.0], [0.0], id="one"),
        pytest.param([0, 0.01, 0.02, 0.03, 0.04], [0, 0.01, 0.02], id="three at once"),
        pytest.param([0, 0, 0, 0.99, 1.0, 2.9, 3.0], [0, 0, 0, 1.0, 3.0], id="then a second, two"),
        pytest.param(
            [0, 0, 0, 1, 3, 7, 15, 25, 34.9, 35],
            [0, 0, 0, 1, 3, 7, 15, 25, 35],
            id="up to ten seconds",
        ),
        pytest.param([0, 0, 0, 29.9, 29.95], [0, 0, 0, 29.9], id="remembered"),
        pytest.param([0, 0, 0, 30, 30, 30, 30], [0, 0, 0, 30, 30, 30], id="forgotten"),
    ],
)
def test_restraint(asked, expected):
    assert allowed(Restraint(), asked) == expected


def test_restraint_under_a_flood():
    """RFC 5227 §2.4: a defender must not make a storm of one frame."""
    assert len(allowed(Restraint(), [n / 1000 for n in range(60_000)])) < 12


# Clients that ask while a leaver may answer, too --------------------------------------------------


def test_who_asks_in_the_overlap_is_told_soon():
    announcer = Announcer()
    announcer.start(100.0)
    assert announcer.is_due(100.0)
    announcer.hasten(100.0101)
    assert announcer.is_due(100.0101)
    announcer.hasten(100.0102)
    announcer.hasten(100.0103)
    assert not announcer.is_due(100.0103)
    assert announcer.wake_at == pytest.approx(100.0121), "those two together"
    assert announcer.is_due(100.0121)
    assert announcer.wake_at == pytest.approx(100.02), "the burst goes on"


def test_later_questions_are_the_kernels():
    announcer = Announcer()
    announcer.start(100.0)
    times(announcer, 100.25)
    announcer.hasten(100.25)
    assert announcer.wake_at == pytest.approx(100.4)


def test_what_is_not_there_is_not_announced_to_those_who_ask():
    announcer = Announcer()
    announcer.hasten(100.0)
    assert announcer.wake_at == math.inf
    announcer.start(100.0)
    announcer.stop()
    announcer.hasten(100.1)
    assert announcer.wake_at == math.inf


def test_a_rival_that_was_forgotten_is_answered_like_a_new_one():
    restraint = Restraint()
    assert allowed(restraint, [0, 0, 0, 1, 3, 7, 37, 37, 37, 37.9, 38])[-1] == 38
