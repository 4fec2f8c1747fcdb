"""Facts have several tellers, each late by a while of its own: the log, `/status`, the wire.

Whoever has waited for one of them has not waited for the others. The kernel's addresses and the
wire are read up to now whenever they are asked (`Watch`, `Capture`); all else is waited for.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
HANG_S = 20.0
"""Protection against a hang; no promise."""


def wait_until(question: Callable[[], bool], what: str) -> None:
    """Ask again and again until the answer is yes.

    Raises:
        AssertionError: not in time.
    """
    _wait(question, bool, lambda _: what)


def becomes(read: Callable[[], T], wanted: T) -> None:
    """Read again and again until it is what is wanted.

    Raises:
        AssertionError: not in time; the message has what it is instead.
    """
    _wait(read, lambda told: told == wanted, lambda told: f"{told!r}, not {wanted!r}")


def _wait(
    read: Callable[[], T], is_enough: Callable[[T], bool], told_as: Callable[[object], str]
) -> None:
    until_at = time.monotonic() + HANG_S
    while True:
        told: object
        try:
            told = result = read()
        except (OSError, LookupError, http.client.HTTPException) as error:
            told = error  # it does not listen yet, or has nothing to tell
        else:
            if is_enough(result):
                return
        assert time.monotonic() < until_at, f"after {HANG_S:g} s: {told_as(told)}"
        time.sleep(0.01)
