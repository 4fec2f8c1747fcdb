"""When a holder tells the segment where its VIP lives, and how often it may answer others.

A client that resolves the VIP in the overlap of a planned move may cache the leaver's MAC
(12 of 12 were cut off until the next announcement), so a new holder repeats itself soon, and
goes on repeating itself rarely for switches and hosts that missed it.
"""

from __future__ import annotations

import math
from typing import Final

BURST_S: Final = (0.0, 0.020, 0.060, 0.150, 0.400, 3.0)
REFRESH_S: Final = 5.0
OVERLAP_S: Final = 0.2
"""After a planned move the leaver answers for the VIP beside its successor for no longer."""
HASTE_SPACING_S: Final = 0.002
"""A thousand clients that ask at once are told together."""


class Announcer:
    """The schedule of one VIP's announcements while it is on the interface."""

    def __init__(self) -> None:
        self._started_at = math.inf
        self._step = 0
        self._last_at = -math.inf
        self.wake_at = math.inf

    def start(self, now: float) -> None:
        """Announce now and repeat; the address is on the interface."""
        self._started_at = now
        self._step = 0
        self.wake_at = now

    def hasten(self, now: float) -> None:
        """A client has just asked: if a leaver's kernel may answer it too, announce soon."""
        if 0 <= now - self._started_at < OVERLAP_S:
            self.wake_at = min(self.wake_at, max(now, self._last_at + HASTE_SPACING_S))

    def stop(self) -> None:
        self._started_at = self.wake_at = math.inf

    def is_due(self, now: float) -> bool:
        """Whether to announce now; the next time is then already set."""
        if now < self.wake_at:
            return False
        self._last_at = now
        while self._step < len(BURST_S) and self._started_at + BURST_S[self._step] <= now:
            self._step += 1
        if self._step < len(BURST_S):
            self.wake_at = self._started_at + BURST_S[self._step]
        else:
            self.wake_at = now + REFRESH_S
        return True


class Restraint:
    """Leave to answer a rival: a few times at once, then once a second, then rarer (RFC 5227 §2.4).

    Two holders that answer each other's announcements without a limit made 19,613 frames a
    second out of one.
    """

    FREE: Final = 3
    FIRST_S: Final = 1.0
    LONGEST_S: Final = 10.0
    FORGET_S: Final = 30.0

    def __init__(self, *, free: int = FREE, longest_s: float = LONGEST_S) -> None:
        """
        Args:
            free: how many answers may be given at once.
            longest_s: how rare they get while the rival goes on.
        """
        self._free = free
        self._longest_s = longest_s
        self._used = 0
        self._spacing_s = self.FIRST_S
        self._last_at = -math.inf
        self._asked_at = -math.inf

    def allows(self, now: float) -> bool:
        """Whether an answer may be given now; a given answer is counted."""
        asked_at, self._asked_at = self._asked_at, now
        if now - asked_at >= self.FORGET_S:
            self._used = 0
            self._spacing_s = self.FIRST_S
        if self._used < self._free:
            self._used += 1
        elif now - self._last_at < self._spacing_s:
            return False
        else:
            self._spacing_s = min(2 * self._spacing_s, self._longest_s)
        self._last_at = now
        return True


class Pace:
    """Leave to answer at once, but not at a stranger's pace.

    What is held back would repeat an answer of `SPACING_S` ago, whose announcements go on.
    """

    SPACING_S: Final = BURST_S[1]

    def __init__(self) -> None:
        self._last_at = -math.inf

    def allows(self, now: float) -> bool:
        """Whether an answer may be given now; a given answer is counted."""
        if now - self._last_at < self.SPACING_S:
            return False
        self._last_at = now
        return True
