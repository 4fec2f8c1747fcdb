"""Make before break: how a leaver keeps the VIP until its successor has it.

A leaver says so with priority 0 and goes on answering. The successor claims, installs and
announces; upon that, or upon its advert and a moment more, the leaver lets go. Without a
successor it lets go when none can be expected any more. Clients that resolve the VIP in the
overlap may cache the leaver's MAC, so a lower advert asks the successor to announce again, once
while the VIP is still here and once when it is gone (12 of 12 clients were cut off otherwise).
"""

from __future__ import annotations

import math
from collections.abc import Collection

from havip.core import timers
from havip.core.config import Vip


class Leave:
    """The schedule of one hand-over, and what is known of the successor."""

    def __init__(self) -> None:
        self._release_at = math.inf
        self._goodbye_at = math.inf
        self._announced: set[Vip] = set()
        """VIPs that the successor has announced."""
        self._removing: set[Vip] = set()
        """VIPs that the kernel has not yet said to be gone."""
        self.has_successor = False

    @property
    def wake_at(self) -> float:
        return min(self._release_at, self._goodbye_at)

    def begin(self, now: float, bound_s: float) -> None:
        """Wait for a successor.

        Args:
            bound_s: seconds after which none is to be expected any more.
        """
        self.has_successor = False
        self._announced.clear()
        self._release_at = now + bound_s

    def begin_after(self, now: float) -> None:
        """A better router has advertised: it is the successor, and nobody else is asked."""
        self.has_successor = True
        self._announced.clear()
        self._goodbye_at = math.inf
        self._release_at = now + timers.LEAVE_AFTER_ADVERT_S

    def end(self) -> None:
        self._release_at = self._goodbye_at = math.inf

    def said_goodbye(self, now: float, spacing_s: float) -> None:
        """Priority 0 was sent; again in `spacing_s` seconds, if nobody has answered."""
        self._goodbye_at = now + spacing_s

    def is_goodbye_due(self, now: float) -> bool:
        """Whether to send priority 0 again."""
        return now >= self._goodbye_at

    def hear_advert(self, now: float) -> None:
        """Somebody claims what this node is leaving."""
        self.has_successor = True
        self._goodbye_at = math.inf
        self._release_at = min(self._release_at, now + timers.LEAVE_AFTER_ADVERT_S)

    def hear_announcement(self, now: float, vip: Vip, held: Collection[Vip]) -> bool:
        """Somebody announces a VIP of this node.

        Also without its advert, which may have been lost.

        Returns:
            whether to say farewell now, by a lower advert: all that is held has been announced.
        """
        self.has_successor = True
        self._announced.add(vip)
        if not held or not self._announced.issuperset(held):
            return False
        if self._release_at - now <= timers.FAREWELL_S:
            return False
        self._goodbye_at = math.inf
        self._release_at = now + timers.FAREWELL_S
        return True

    def is_due(self, now: float) -> bool:
        """Whether to let go; and, when nothing is held any more, whether to stop waiting."""
        return now >= self._release_at

    def let_go(self, now: float, vips: Collection[Vip]) -> None:
        """These are being removed: the last word waits for the kernel's, but not for ever."""
        self._removing = set(vips)
        self._goodbye_at = math.inf
        self._release_at = now + timers.REMOVAL_BOUND_S

    def is_gone(self, vip: Vip) -> bool:
        """The kernel says that a VIP is gone; whether no other is left."""
        self._removing.discard(vip)
        return not self._removing
