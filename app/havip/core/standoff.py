"""Two equal holders whom the adverts of the leading leg do not part.

Each node has an address of each family, and the order of the one says nothing of the order of
the other. So the leading leg decides among equals, while it can: it takes less than an interval.
Where a firewall drops that family, perhaps in one direction only, both hear each other by the
other leg alone, or only one does. After three intervals both take it that the leading leg will
not part them, and the addresses of the other leg decide: both know those.
"""

from __future__ import annotations

import math
from typing import Final

PATIENCE: Final = 3
"""Announced intervals."""


class Standoff:
    """How long an equal holder has been heard beside the leading leg."""

    def __init__(self) -> None:
        self._began_at = math.inf
        self._heard_at = -math.inf

    def lasts(self, now: float, advert_interval_s: float) -> bool:
        """An advert of an equal one was heard; whether such have come for long enough.

        Args:
            advert_interval_s: as that advert announces it.
        """
        patience_s = PATIENCE * advert_interval_s
        if now - self._heard_at > patience_s:
            self._began_at = now
        self._heard_at = now
        return now - self._began_at >= patience_s
