"""Virtual time: what is to happen next, in order, with nobody waiting."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """Something that will happen, unless it is cancelled."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Timeline:
    """A queue of timers; equal instants happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the beginning of the run."""
        self._queue: list[tuple[float, int, Timer]] = []
        self._asked = 0

    def at(self, when: float, call: Callable[[], None]) -> Timer:
        """Have `call` happen at `when`, at once if that has passed."""
        timer = Timer(max(when, self.now), call)
        heapq.heappush(self._queue, (timer.at, self._asked, timer))
        self._asked += 1
        return timer

    def after(self, delay_s: float, call: Callable[[], None]) -> Timer:
        return self.at(self.now + delay_s, call)

    def step(self, until: float) -> bool:
        """Let the next thing happen; false, at `until`, when none is due before it."""
        while self._queue and self._queue[0][0] <= until:
            at, _, timer = heapq.heappop(self._queue)
            if timer.call is None:
                continue
            self.now = at
            timer.call()
            return True
        self.now = max(self.now, until)
        return False
