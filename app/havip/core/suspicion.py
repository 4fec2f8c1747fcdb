"""Active suspicion: is the silent holder's host gone, or only its daemon late?

A Backup that misses adverts asks the holder's kernel by ARP or neighbour solicitation, unicast
to the MAC it is known by. Silence from the holder while a control answers means that the host
or its link is gone, and the VIP can be claimed before Active_Down_Interval has passed. An
answer means that the host lives: the RFC's timer decides. Nobody's silence proves anything
about a host that has not answered lately, nor may this host's own deafness be taken for the
holder's death; so both, holder and control, must have answered a calibration question first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

LATE_FACTOR: Final = 1.25
"""Announced intervals without an advert before the holder's kernel is asked."""
REQUESTS: Final = 4
SPACING_S: Final = 0.010
WAIT_S: Final = 0.016
"""From the last request to the verdict."""
CALIBRATE_S: Final = 10.0
STALE_S: Final = 25.0
"""Two lost calibrations are forgiven, a third is not."""
CONTROLS: Final = 4
"""Several, since former holders that are gone may be among them."""


class Ask(Enum):
    """How an answered or unanswered burst ended."""

    HOLDER_GONE = "holder_gone"
    HOLDER_LIVES = "holder_lives"
    NOBODY_ANSWERS = "nobody_answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Ask this address, unicast when its MAC is known."""

    address: IPv4Address | IPv6Address
    mac: bytes | None


@dataclass(slots=True)
class _Target:
    mac: bytes | None = None
    answered_at: float = -math.inf


class Suspicion:
    """What one Backup knows of its holder's host, and the burst of questions to it."""

    def __init__(self) -> None:
        self._targets: dict[IPv4Address | IPv6Address, _Target] = {}
        self._holder: IPv4Address | IPv6Address | None = None
        self._controls: tuple[IPv4Address | IPv6Address, ...] = ()
        self._calibrate_at = math.inf
        self._ask_at = math.inf
        self._verdict_at = math.inf
        self._sent = 0
        self._began_at = math.inf

    @property
    def wake_at(self) -> float:
        return min(self._calibrate_at, self._ask_at, self._verdict_at)

    def stop(self) -> None:
        """Not a Backup any more."""
        self._holder = None
        self._calibrate_at = self._ask_at = self._verdict_at = math.inf

    def lacks(self, now: float) -> str:
        """What keeps a silent holder from being suspected; empty when armed."""
        if self._holder is None:
            return "no holder"
        if not self._is_fresh(self._holder, now):
            return "the holder's host has not answered lately"
        if not any(self._is_fresh(control, now) for control in self._controls):
            return "no gateway or other peer has answered lately"
        return ""

    def heard(
        self,
        now: float,
        holder: IPv4Address | IPv6Address,
        advert_interval_s: float,
        controls: tuple[IPv4Address | IPv6Address, ...],
    ) -> None:
        """An advert of the holder came: suspect it only once it is late again.

        Args:
            controls: hosts on the link to ask beside the holder, best first.
        """
        controls = tuple(control for control in controls if control != holder)[:CONTROLS]
        if holder != self._holder or controls != self._controls:
            self._holder = holder
            self._controls = controls
            kept = (holder, *controls)
            self._targets = {a: self._targets.get(a, _Target()) for a in kept}
            self._calibrate_at = now
        self._ask_at = now + LATE_FACTOR * advert_interval_s
        self._verdict_at = math.inf
        self._sent = 0

    def answered(self, now: float, address: IPv4Address | IPv6Address, mac: bytes) -> None:
        """A host on the link said that this address is its own."""
        target = self._targets.get(address)
        if target is None:
            return
        if target.mac is not None and target.mac != mac:
            # Two hosts say so, or one that lies: whoever is asked now may be the wrong one.
            target.mac = None
            target.answered_at = -math.inf
            self._ask_at = self._verdict_at = math.inf
            return
        target.mac = mac
        target.answered_at = now

    def questions(self, now: float) -> list[Question]:
        """What to ask now; the sockets have been read dry."""
        if self._ask_at <= now:
            return self._burst(now)
        if self._calibrate_at <= now:
            self._calibrate_at = now + CALIBRATE_S
            return [Question(address=a, mac=t.mac) for a, t in self._targets.items()]
        return []

    def verdict(self, now: float) -> Ask | None:
        """The end of a burst, once: None as long as there is nothing to say."""
        if now < self._verdict_at or self._holder is None:
            return None
        self._verdict_at = math.inf
        if self._targets[self._holder].answered_at >= self._began_at:
            return Ask.HOLDER_LIVES
        if any(self._targets[c].answered_at >= self._began_at for c in self._controls):
            return Ask.HOLDER_GONE
        return Ask.NOBODY_ANSWERS

    def _burst(self, now: float) -> list[Question]:
        if self._sent == 0:
            if self.lacks(now):
                self._ask_at = math.inf
                return []
            self._began_at = now
        self._sent += 1
        self._calibrate_at = now + CALIBRATE_S
        if self._sent < REQUESTS:
            self._ask_at = now + SPACING_S
        else:
            self._ask_at = math.inf
            # Counted from the moment of sending, not from the plan: a process that was late
            # itself must not cut the answer's time short.
            self._verdict_at = now + WAIT_S
        return [Question(address=a, mac=t.mac) for a, t in self._targets.items()]

    def _is_fresh(self, address: IPv4Address | IPv6Address, now: float) -> bool:
        target = self._targets.get(address)
        return target is not None and now - target.answered_at <= STALE_S
