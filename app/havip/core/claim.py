"""A Backup's way to the VIP: how long it waits for its holder, and how it claims.

When the wait is over, a Backup does not install at once. Equal nodes start apart, by rank or by
chance; each advertises, listens a moment more, and only then installs. Keepalived with equal
priorities had two claimants in 10 of 35 takeovers, and five of those cost clients 5 s more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core import timers
from havip.core.reasons import Reason

SILENCE: Final = (Reason.ACTIVE_SILENT, Reason.ACTIVE_UNREACHABLE)


class Step(Enum):
    """What a claim does next."""

    ADVERTISE = "advertise"
    INSTALL = "install"


class Claim:
    """The timers of one Backup, and of the claim that they end in."""

    def __init__(self) -> None:
        self.reason = Reason.ACTIVE_SILENT
        """Why there is a claim, or why there will be one if Active_Down_Interval runs out."""
        self._active_down_at = math.inf
        self._preempt_at = math.inf
        self._not_before = -math.inf
        self._advertise_at = math.inf
        self._install_at = math.inf

    # While waiting ------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """When the wait is over."""
        return max(min(self._active_down_at, self._preempt_at), self._not_before)

    def await_active_down(self, now: float, interval_s: float) -> None:
        """The holder, or whoever else claims first, has this long."""
        self._active_down_at = now + interval_s

    def await_skew(self, now: float, skew_s: float) -> None:
        """The holder has left.

        It repeats itself; a later advert must not push the claim away.
        """
        if now + skew_s < self._active_down_at:
            self._active_down_at = now + skew_s
            self.reason = Reason.ACTIVE_LEFT

    def prefer(self, now: float, delay_s: float) -> None:
        """The holder is less preferred: claim after the delay, counted once."""
        if self._preempt_at == math.inf:
            self._preempt_at = now + delay_s

    def forget_preference(self) -> None:
        self._preempt_at = math.inf

    def refuse(self, now: float) -> None:
        """Not before `REFUSE_S` from now."""
        self._hold_back(now + timers.REFUSE_S)

    def listen_afresh(self, now: float, interval_s: float) -> None:
        """This process was away, and what is still to be read may be as old: claim upon nothing
        before the holder of today had this long to speak.
        """
        self._preempt_at = math.inf
        self._active_down_at = now + interval_s
        self._hold_back(now + interval_s)

    def _hold_back(self, until: float) -> None:
        self._not_before = max(self._not_before, until)

    def is_held_back(self, now: float) -> bool:
        """Whether no claim may begin, whatever is heard."""
        return now < self._not_before

    def is_active_down(self, now: float) -> bool:
        """Whether Active_Down_Interval has run out (RFC 9568 §6.4.2)."""
        return now >= self._active_down_at

    def stop(self) -> None:
        """Neither wait nor claim; what holds claims back lasts."""
        self._active_down_at = self._preempt_at = math.inf
        self.end()

    # While claiming -----------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        return min(self._advertise_at, self._install_at)

    @property
    def has_advertised(self) -> bool:
        return self._install_at < math.inf

    def begin(self, reason: Reason, advertise_at: float) -> None:
        """
        Args:
            advertise_at: until then better and equal ones may speak first.
        """
        self.reason = reason
        self._preempt_at = math.inf
        self._advertise_at = advertise_at
        self._install_at = math.inf

    def step(self, now: float) -> Step | None:
        """What to do now, once for each time that it is due."""
        if now >= self._install_at:
            return Step.INSTALL
        if now < self._advertise_at:
            return None
        if self.has_advertised:
            self._advertise_at = math.inf
        else:
            # Said twice: a claim that is lost on the wire would let an equal one install too.
            self._advertise_at = now + timers.CLAIM_SETTLE_S / 2
            self._install_at = now + timers.CLAIM_SETTLE_S
        return Step.ADVERTISE

    def outbid(self, now: float) -> None:
        """A lesser one was drawn to speak first; it listens now, and only now."""
        if self._advertise_at < math.inf:
            self._advertise_at = now

    def end(self) -> None:
        self._advertise_at = self._install_at = math.inf

    def loses_to(
        self, theirs: tuple[int, int], mine: tuple[int, int], *, is_from_holder: bool
    ) -> bool:
        """Whether another one's advert ends this claim.

        Args:
            theirs, mine: priority and primary address.
            is_from_holder: whether it comes from the holder that this claim is to replace.
        """
        if is_from_holder and not self.has_advertised and self.reason in SILENCE:
            # It was late, not gone. What is to be thought of its priority is another question.
            return True
        if theirs[0] != mine[0]:
            return theirs[0] > mine[0]
        return not self.has_advertised or theirs[1] > mine[1]


def tie_delay_s(
    source: IPv4Address | IPv6Address,
    peers: Collection[IPv4Address | IPv6Address],
    holder: IPv4Address | IPv6Address | None,
    random: Callable[[], float],
) -> float:
    """What sets equal claimants apart: rank where the peers are known, else chance.

    Args:
        peers: the unicast peers; of multicast, none is known.
        holder: which of them is gone, and no rival.
        random: uniform in [0, 1).
    """
    if not peers:
        return random() * timers.CLAIM_SPREAD_S
    rivals = [peer for peer in peers if peer != holder]
    rank = sum(int(peer) > int(source) for peer in rivals)
    return rank * timers.CLAIM_SPREAD_S / max(len(rivals), 1)
