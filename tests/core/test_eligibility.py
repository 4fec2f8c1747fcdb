"""What verdicts amount to, in the election."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havip.core.check import Verdict
from havip.core.config import AllUnhealthy
from havip.core.eligibility import UNHEALTHY_HIGHEST, Standing, standing
from havip.core.reasons import Reason

DROP, HOLD = AllUnhealthy.DROP, AllUnhealthy.HOLD
OK, BAD, NEW = Verdict.HEALTHY, Verdict.UNHEALTHY, Verdict.PENDING


def stands(priority: int, reason: Reason | None = None, check: str = "") -> Standing:
    return Standing(
        may_hold=reason is None,
        effective_priority=priority,
        blocked_by=reason,
        blocked_check=check,
    )


@pytest.mark.parametrize(
    ("priority", "checks", "policy", "expected"),
    [
        pytest.param(100, [], DROP, stands(100), id="no checks"),
        pytest.param(100, [("service", 0, OK)], DROP, stands(100), id="healthy"),
        pytest.param(
            100,
            [("service", 0, BAD)],
            DROP,
            stands(100, Reason.CHECK_FAILED, "service"),
            id="weight 0 forbids",
        ),
        pytest.param(
            100,
            [("service", 0, NEW)],
            DROP,
            stands(100, Reason.CHECK_PENDING, "service"),
            id="weight 0 without a result forbids",
        ),
        pytest.param(
            100,
            [("kubelet", 0, NEW), ("service", 0, BAD)],
            DROP,
            stands(100, Reason.CHECK_FAILED, "service"),
            id="a failure says more than a missing result",
        ),
        pytest.param(100, [("kube_api", -40, BAD)], DROP, stands(60), id="negative counts failed"),
        pytest.param(100, [("kube_api", -40, OK)], DROP, stands(100), id="negative, healthy"),
        pytest.param(100, [("kube_api", -40, NEW)], DROP, stands(100), id="negative, no result"),
        pytest.param(100, [("kube_api", 20, OK)], DROP, stands(120), id="positive counts healthy"),
        pytest.param(100, [("kube_api", 20, NEW)], DROP, stands(120), id="positive, no result"),
        pytest.param(100, [("kube_api", 20, BAD)], DROP, stands(100), id="positive, failed"),
        pytest.param(30, [("kube_api", -253, BAD)], DROP, stands(2), id="not below 2"),
        pytest.param(1, [], DROP, stands(2), id="1 is a leaver's last word"),
        pytest.param(200, [("kube_api", 253, OK)], DROP, stands(254), id="not above 254"),
        pytest.param(
            250,
            [("a", -100, BAD), ("b", 50, OK)],
            DROP,
            stands(200),
            id="clamped after adding up, not between",
        ),
        pytest.param(100, [("service", 0, OK)], HOLD, stands(100), id="hold, healthy"),
        pytest.param(10, [("service", 0, OK)], HOLD, stands(16), id="hold, healthy stays above"),
        pytest.param(254, [("service", 0, BAD)], HOLD, stands(15), id="hold, failed, best"),
        pytest.param(1, [("service", 0, BAD)], HOLD, stands(2), id="hold, failed, worst"),
        pytest.param(
            100,
            [("service", 0, NEW)],
            HOLD,
            stands(100, Reason.CHECK_PENDING, "service"),
            id="hold, no result yet",
        ),
        pytest.param(
            100,
            [("service", 0, BAD), ("kubelet", 0, NEW)],
            HOLD,
            stands(7, Reason.CHECK_PENDING, "kubelet"),
            id="hold, failed and one without result",
        ),
    ],
)
def test_standing(priority, checks, policy, expected):
    assert standing(priority=priority, checks=checks, all_unhealthy=policy) == expected


PRIORITIES = st.integers(1, 254)
WEIGHTS = st.integers(-253, 253)
CHECKS = st.lists(st.tuples(st.sampled_from("abc"), WEIGHTS, st.sampled_from(Verdict)), max_size=4)


@given(PRIORITIES, CHECKS, st.sampled_from(AllUnhealthy))
def test_the_priority_is_one_that_a_claim_can_carry(priority, checks, policy):
    found = standing(priority=priority, checks=checks, all_unhealthy=policy)
    assert 2 <= found.effective_priority <= 254
    assert found.may_hold == (found.blocked_by is None) == (not found.blocked_check)


@given(PRIORITIES, PRIORITIES, CHECKS, CHECKS)
def test_under_hold_every_healthy_node_beats_every_failed_one(first, second, ours, theirs):
    healthy = [(n, w, v) for n, w, v in ours if w != 0]
    good = standing(priority=first, checks=healthy, all_unhealthy=HOLD)
    bad = standing(priority=second, checks=[*theirs, ("z", 0, BAD)], all_unhealthy=HOLD)
    assert good.may_hold
    assert good.effective_priority > UNHEALTHY_HIGHEST >= bad.effective_priority


@given(PRIORITIES, PRIORITIES)
def test_under_hold_failed_nodes_keep_their_order(first, second):
    low, high = sorted((first, second))
    failed = [("service", 0, BAD)]
    lower = standing(priority=low, checks=failed, all_unhealthy=HOLD)
    higher = standing(priority=high, checks=failed, all_unhealthy=HOLD)
    assert lower.effective_priority <= higher.effective_priority
