"""The screen: a picture below the lines on a terminal, nothing but lines in a pipe."""

from __future__ import annotations

import io
import threading

import pytest

from havip.commands.screen import Screen, Styled


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(out: io.StringIO, monkeypatch: pytest.MonkeyPatch, term: str = "xterm") -> str:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "20")
    ticked = threading.Event()

    def picture() -> list[Styled]:
        return [[("x" * 30, "green")], [("second", "")]]

    with Screen(out, picture, ticked.set) as screen:
        screen.say("hello ", ("world", "red"))
        assert ticked.wait(10)
    return out.getvalue()


def test_a_pipe_gets_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(io.StringIO(), monkeypatch) == "hello world\n"


def test_a_dumb_terminal_gets_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert show(Terminal(), monkeypatch, term="dumb") == "hello world\n"


def test_a_terminal_gets_a_picture_that_fits_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    told = show(Terminal(), monkeypatch)
    assert "hello \x1b[31mworld\x1b[0m\n" in told
    # One column stays free, so that no terminal wraps the line.
    assert f"\x1b[32m{'x' * 19}\x1b[0m\nsecond\n" in told
    assert told.endswith("\x1b[2F\x1b[J\x1b[?25h")


def test_no_color_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    told = show(Terminal(), monkeypatch)
    assert "hello world\n" in told
    assert "\x1b[31m" not in told
