"""Whether what a virtual router says leaves its node at all.

The kernel refuses to send where a local firewall drops VRRP, a queue is full or no route is left.
One refusal is nothing, since a receiver's timers forgive several adverts. But a holder whose
adverts are all refused is as silent as a dead one: the others replace it, and it must have let go
by then. So is a claim that nobody could hear no claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from errno import EHOSTUNREACH

from havip.core import timers
from havip.core.events import ActionFailed

LOST_ROUNDS = 2
"""A claim is said so often before it is believed that nobody objects."""


class Reach:
    """The rounds of adverts, one to each destination, and which of them left."""

    def __init__(self) -> None:
        self._left_at = -math.inf
        self._round_at = -math.inf
        self._destinations: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._lost_rounds = 0
        self.failure: ActionFailed | None = None
        """The last refusal that counted."""

    def begin_round(self, now: float, destinations: Iterable[object]) -> None:
        """An advert is being sent to each of these."""
        if not self._is_lost:
            self._left_at = self._round_at
            self._lost_rounds = 0
        self._round_at = now
        self._destinations = frozenset(str(destination) for destination in destinations)
        self._refused.clear()

    def refuse(self, failure: ActionFailed) -> None:
        """The kernel did not send one."""
        # A unicast peer that is dead says nothing of this node: to hold without it is right.
        if failure.errno == EHOSTUNREACH or self._is_lost:
            return
        self.failure = failure
        self._refused.add(failure.subject)
        self._lost_rounds += self._is_lost

    def silent_s(self, now: float) -> float:
        """How long nothing has left; 0 if something of the last round did."""
        return now - self._left_at if self._is_lost else 0.0

    def is_unheard(self, now: float, advert_interval_s: float) -> bool:
        """Whether nothing has left for as long as others wait for a holder, but for the skew."""
        # Judged once for each round: the one in which three intervals are over.
        rounding_s = timers.SPARE_FACTOR * advert_interval_s / 2
        return self.silent_s(now) > 3 * advert_interval_s - rounding_s

    @property
    def has_lost_claim(self) -> bool:
        """Whether nobody can have heard the claim that was just said."""
        return self._lost_rounds >= LOST_ROUNDS

    @property
    def _is_lost(self) -> bool:
        return bool(self._destinations) and self._refused >= self._destinations
