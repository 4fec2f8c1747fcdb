"""Lines for people while something runs: a live picture on a terminal, plain lines in a pipe."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Self, TextIO

REDRAW_S = 0.1
_HIDE_CURSOR, _SHOW_CURSOR, _CLEAR_BELOW = "\x1b[?25l", "\x1b[?25h", "\x1b[J"
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "bold": 1, "dim": 2}

Styled = Sequence[tuple[str, str]]
"""Pieces of a line: text, and a colour or nothing."""


class Screen:
    """Prints lines; on a terminal, keeps a picture below them that is drawn again and again.

    Args:
        picture: the picture now, as styled lines; called from a thread.
        tick: called as often in a pipe, too, to say what is new.
    """

    def __init__(
        self,
        out: TextIO,
        picture: Callable[[], list[Styled]],
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._out = out
        self._picture = picture
        self._tick = tick
        self.is_live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._has_colour = self.is_live and not os.environ.get("NO_COLOR")
        self._drawn = 0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def __enter__(self) -> Self:
        if self.is_live:
            self._out.write(_HIDE_CURSOR)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        try:
            self._thread.join()
            with self._lock:
                self._erase()
        finally:
            # Also when a second Ctrl-C comes right now.
            if self.is_live:
                self._out.write(_SHOW_CURSOR)
            self._out.flush()

    def say(self, *pieces: tuple[str, str] | str) -> None:
        """Print a line that stays."""
        line = [(piece, "") if isinstance(piece, str) else piece for piece in pieces]
        with self._lock:
            self._erase()
            self._out.write(self._paint(line, None) + "\n")
            self._draw()

    def _run(self) -> None:
        # The reader of a pipe may have gone; who says the next line finds out, and ends.
        with contextlib.suppress(BrokenPipeError):
            while not self._over.wait(REDRAW_S):
                with self._lock:
                    self._tick()
                    self._erase()
                    self._draw()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F{_CLEAR_BELOW}")
            self._drawn = 0

    def _draw(self) -> None:
        if self.is_live and not self._over.is_set():
            columns = shutil.get_terminal_size().columns
            lines = [self._paint(line, columns - 1) for line in self._picture()]
            self._out.write("".join(f"{line}\n" for line in lines))
            self._drawn = len(lines)
        self._out.flush()

    def _paint(self, line: Styled, columns: int | None) -> str:
        painted = ""
        for text, colour in line:
            if columns is not None:
                # A line that wraps would be erased only in part.
                text, columns = text[:columns], columns - len(text[:columns])  # noqa: PLW2901
            if self._has_colour and colour and text:
                text = f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"  # noqa: PLW2901
            painted += text
        return painted


def note(text: str) -> None:
    """For standard error."""
    print(text, file=sys.stderr)
