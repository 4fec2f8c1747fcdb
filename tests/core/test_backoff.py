"""Pauses between attempts."""

from __future__ import annotations

import pytest

from havip.core.backoff import Backoff


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.5), (0.5, 1.0), (0.999, 1.499)])
def test_each_pause_is_twice_the_last(random, factor):
    backoff = Backoff(lambda: random, longest_s=15.0)
    pauses = [backoff.pause_s() for _ in range(6)]
    assert pauses == pytest.approx([each * factor for each in (1, 2, 4, 8, 15, 15)])


def test_an_answer_begins_anew():
    backoff = Backoff(lambda: 0.5)
    for _ in range(20):
        assert backoff.pause_s() <= 60.0
    backoff.succeed()
    assert backoff.pause_s() == 1.0
