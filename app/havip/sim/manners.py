"""What a daemon may not send, whatever it believes."""

from __future__ import annotations

from dataclasses import dataclass

from havip.sim.network import IPAddress
from havip.sim.verdict import BrokenPromiseError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is asked of a node's sends, seconds."""

    priority_zero_spacing_s: float
    """The longest skew in the lab: each priority 0 re-arms the Backups' timers."""
    freeze_s: float
    """A freeze of this length and more makes a Backup of a holder that comes back."""
    silent_s: float
    """So long after such a freeze there is no advert and no announcement."""


class Manners:
    """Watches what one node sends, by the clock of its host: a paused machine knows of no pause.

    Raises, in each method:
        BrokenPromiseError: a rule was broken.
    """

    def __init__(self, name: str, rules: Rules) -> None:
        self._name = name
        self._rules = rules
        self._frozen_at: float | None = None
        self._silent_until = 0.0
        self._zero_at: dict[tuple[int, IPAddress], float] = {}

    def freeze(self, now: float, *, is_holder: bool) -> None:
        # A Backup's sockets keep what was sent to it: it may judge when it has read them.
        self._frozen_at = now if is_holder else None

    def thaw(self, now: float) -> None:
        if self._frozen_at is not None and now - self._frozen_at >= self._rules.freeze_s:
            self._silent_until = now + self._rules.silent_s
        self._frozen_at = None

    def restart(self) -> None:
        self._frozen_at = None
        self._silent_until = 0.0
        self._zero_at.clear()

    def advert(self, now: float, vrid: int, priority: int, to: IPAddress) -> None:
        self._expect_silence_no_more(now, f"an advert of priority {priority}")
        if priority != 0:
            return
        spacing_s = now - self._zero_at.get((vrid, to), float("-inf"))
        self._zero_at[vrid, to] = now
        if spacing_s < self._rules.priority_zero_spacing_s:
            raise BrokenPromiseError(f"{self._name} repeated priority 0 after {spacing_s:.4f} s")

    def announcement(self, now: float, vip: IPAddress) -> None:
        self._expect_silence_no_more(now, f"an announcement of {vip}")

    def _expect_silence_no_more(self, now: float, what: str) -> None:
        if now < self._silent_until:
            early_s = self._silent_until - now
            raise BrokenPromiseError(
                f"{self._name} came back from a freeze and sent {what} {early_s:.3f} s early"
            )
