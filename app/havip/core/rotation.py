"""One secret after another, on nodes that are told of it at different times.

A changed Secret reaches the nodes of a cluster up to two minutes apart. If each used the new secret
as soon as it has it, the others would drop its adverts meanwhile, and elect a second holder. So a
daemon that is given a new secret while it runs

- accepts it at once, but sends with the former one for a delay in which everybody gets it;
- accepts a secret that is gone for three such delays: whoever is told last sends with it for one
  delay after that, and one more is for clocks and for patience.

Whoever starts with several secrets cannot know which is the newest, and sends with the one that it
was told to send with.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


class Rotation(Generic[S]):
    """What to send with and what to accept, of one kind of secret."""

    def __init__(self, *, sends: S, accepts: Iterable[S] = (), delay_s: float) -> None:
        """
        Args:
            sends: what is sent with, in the end; it is accepted too.
            accepts: what else is accepted.
            delay_s: within which every node is told of a change.
        """
        self._sends = self._sent_before = sends
        self._delay_s = delay_s
        self._known_since = dict.fromkeys((*accepts, sends), -math.inf)
        self._former_until: dict[S, float] = {}

    def succeed(self, now: float, older: Rotation[S]) -> None:
        """Come after `older`, whose secrets are those of a moment ago."""
        self._known_since = {
            secret: older._known_since.get(secret, now) for secret in self._known_since
        }
        self._sent_before = older.sends(now)
        until = now + 3 * self._delay_s
        former = {secret: min(end, until) for secret, end in older._former_until.items()}
        former |= dict.fromkeys((*older._known_since, self._sent_before), until)
        self._former_until = {
            secret: end
            for secret, end in former.items()
            if end > now and secret not in self._known_since
        }

    def sends(self, now: float) -> S:
        """What an advert is sent with now."""
        return self._sent_before if self.sends_new_in_s(now) > 0 else self._sends

    def sends_new_in_s(self, now: float) -> float:
        """How long something else is sent with than was asked for; 0 if it is not."""
        if self._sent_before == self._sends:
            return 0.0
        return max(0.0, self._known_since[self._sends] + self._delay_s - now)

    @property
    def known(self) -> Iterable[S]:
        """What is accepted as long as the configuration says so."""
        return self._known_since.keys()

    def former(self, now: float) -> Iterator[S]:
        """What is accepted beside it for a while."""
        return (secret for secret, end in self._former_until.items() if now < end)
