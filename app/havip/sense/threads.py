"""The real-time ranks of the loop and of the threads that compute beside it (sched(7))."""

from __future__ import annotations

import os
from typing import Final

LOOP_PRIORITY: Final = 50


def step_behind_the_loop() -> None:
    """Rank the calling thread right below the loop, if it is real-time at all.

    At the loop's own rank it would keep the only core of a small node for as long as it computes;
    far below, anything else could stop it with the interpreter's lock in its hand.
    """
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(LOOP_PRIORITY - 1))
