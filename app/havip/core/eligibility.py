"""What the checks of a node say about its right to hold a VIP, and with which priority.

Weights are keepalived's: a check of weight 0 forbids holding when it fails; a negative weight
counts while the check fails, a positive one while it does not. Under `allUnhealthy: hold` a
node that is forbidden still stands, in a band of priorities below every healthy node's, so
that the healthy win whenever there are any and the best of the rest keeps the VIP when there
are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from havip.core.check import Verdict
from havip.core.config import AllUnhealthy
from havip.core.reasons import Reason
from havip.core.timers import LAST_WORD_PRIORITY

LOWEST = LAST_WORD_PRIORITY + 1
"""A claim of that priority would be taken for a leaver's last word, and nobody would give way."""
HIGHEST = 254
"""255 is for the owner of an address, and a VIP that floats has none (RFC 9568 §5.2.4)."""
UNHEALTHY_HIGHEST = 15
"""Under `hold`: forbidden nodes have priorities 2–15, all others 16–254."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A node's standing in the election of one virtual router."""

    may_hold: bool
    effective_priority: int
    """2–254."""
    blocked_by: Reason | None
    """CHECK_FAILED or CHECK_PENDING; None when it may hold."""
    blocked_check: str
    """The check that blocks, empty when it may hold."""
    leaving: Reason | None = None
    """Why Kubernetes has this node leave; a holder by a Lease gives way for that."""


def standing(
    *,
    priority: int,
    checks: Iterable[tuple[str, int, Verdict]],
    all_unhealthy: AllUnhealthy,
) -> Standing:
    """Add up what the checks say.

    Args:
        priority: as configured, 1–254; 1 comes to 2.
        checks: name, weight (−253…253) and verdict of each.
        all_unhealthy: what a node does that no check lets hold.
    """
    assert 0 < priority <= HIGHEST
    failed = ""
    pending = ""
    total = priority
    for name, weight, verdict in checks:
        is_failed = verdict is Verdict.UNHEALTHY
        if weight == 0:
            if is_failed:
                failed = failed or name
            elif verdict is Verdict.PENDING:
                pending = pending or name
        elif (weight < 0) == is_failed:
            total += weight
    effective = min(max(total, LOWEST), HIGHEST)
    if all_unhealthy is AllUnhealthy.HOLD:
        if failed:
            effective = LOWEST + effective * (UNHEALTHY_HIGHEST - LOWEST) // HIGHEST
        else:
            effective = max(effective, UNHEALTHY_HIGHEST + 1)
    elif failed:
        return Standing(
            may_hold=False,
            effective_priority=effective,
            blocked_by=Reason.CHECK_FAILED,
            blocked_check=failed,
        )
    if pending:
        return Standing(
            may_hold=False,
            effective_priority=effective,
            blocked_by=Reason.CHECK_PENDING,
            blocked_check=pending,
        )
    return Standing(may_hold=True, effective_priority=effective, blocked_by=None, blocked_check="")
