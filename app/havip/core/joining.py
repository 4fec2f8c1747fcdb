"""VIPs that a reload gives to a router that already holds: asked for before they are taken.

The other VIPs stay where they are meanwhile. An address that somebody answers for is not taken;
it is asked for again until it is free (RFC 5227 §2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from havip.core.config import Vip

PROBES: Final = 3
SPACING_S: Final = 0.1


class Joining:
    """When to probe for each new VIP, and when it may be taken."""

    def __init__(self) -> None:
        self._at: dict[Vip, float] = {}
        self._left: dict[Vip, int] = {}

    @property
    def wake_at(self) -> float:
        return min(self._at.values(), default=math.inf)

    def begin(self, now: float, vips: Iterable[Vip]) -> None:
        """These are wanted and not held; those that are being asked for go on."""
        wanted = set(vips)
        for vip in self._at.keys() - wanted:
            del self._at[vip], self._left[vip]
        for vip in wanted - self._at.keys():
            self._at[vip], self._left[vip] = now, PROBES

    def end(self) -> None:
        self._at.clear()
        self._left.clear()

    def claimed(self, now: float, vip: Vip, retry_s: float) -> bool:
        """Another host answered for this VIP; whether it was being asked for."""
        if vip not in self._at:
            return False
        self._at[vip], self._left[vip] = now + retry_s, PROBES
        return True

    def step(self, now: float) -> tuple[list[Vip], list[Vip]]:
        """What to probe for now, and what is free."""
        due = [vip for vip, at in self._at.items() if at <= now]
        probe = [vip for vip in due if self._left[vip] > 0]
        free = [vip for vip in due if self._left[vip] == 0]
        for vip in probe:
            self._left[vip] -= 1
            self._at[vip] = now + SPACING_S
        for vip in free:
            del self._at[vip], self._left[vip]
        return probe, free
