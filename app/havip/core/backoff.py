"""Pauses before somebody who does not answer, or refuses, is asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0


class Backoff:
    """Each pause is twice the last one, and differs among nodes: all lose one server at once."""

    def __init__(self, random: Callable[[], float], *, longest_s: float = LONGEST_S) -> None:
        """
        Args:
            random: uniform in [0, 1).
        """
        self._random = random
        self._longest_s = longest_s
        self._next_s = FIRST_S

    def succeed(self) -> None:
        """It answered: the next pause is a short one."""
        self._next_s = FIRST_S

    def pause_s(self) -> float:
        """How long to wait now: half to one and a half times of a second, then of two …"""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause_s * (0.5 + self._random())
