"""Decisions and daemon messages as lines for people and for log collectors.

Writing never waits: a reader that stopped reading (a stuck log collector, a terminal after
Ctrl-S) must not stop the adverts. A line that cannot be written now is dropped and counted,
and the next line that gets through is preceded by how many are missing.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import stat
import time
from datetime import UTC, datetime
from typing import Literal, TextIO

from havip.core.actions import Report, Topic
from havip.core.reasons import WARNINGS

LogFormat = Literal["auto", "text", "json"]
Value = str | int | float

_LINE_LIMIT = 4096
"""Bytes. A pipe takes a line of up to PIPE_BUF whole or not at all (pipe(7))."""


class Journal:
    """Writes one line per decision to a stream, in text or as JSON objects.

    Args:
        log_format: `auto` is text on a terminal and JSON elsewhere.
        stream: usually standard error.
        debug: whether `debug` writes anything.
    """

    def __init__(self, log_format: LogFormat, stream: TextIO, *, debug: bool = False) -> None:
        is_text = stream.isatty() if log_format == "auto" else log_format == "text"
        self._render = _text if is_text else _json
        self._writer = _Writer(stream)
        self.is_debug = debug
        self._missing = 0
        self.dropped = 0
        """Lines that could not be written, since the start."""

    def write(self, report: Report, at_utc: float) -> None:
        """One decision of the core, made at `at_utc` (seconds since the epoch)."""
        is_warning = report.topic in {Topic.ALARM, Topic.REFUSED} or report.reason in WARNINGS
        values: dict[str, Value] = {}
        if report.router:
            values["router"] = report.router
        if report.state is not None:
            values["state"] = report.state.value
        if report.was is not None:
            values["was"] = report.was.value
        if report.reason is not None:
            values["reason"] = report.reason.value
        values |= {k: v for k, v in report.fields.items() if k not in values}
        self._line(at_utc, "warning" if is_warning else "info", report.topic.value, values)

    def debug(self, message: str, /, **fields: Value) -> None:
        """A detail that only someone who looks for it wants."""
        if self.is_debug:
            self._line(time.time(), "debug", message, fields)

    def info(self, message: str, **fields: Value) -> None:
        """Something the daemon did."""
        self._line(time.time(), "info", message, fields)

    def warning(self, message: str, **fields: Value) -> None:
        """Something a person should look at."""
        self._line(time.time(), "warning", message, fields)

    def error(self, message: str, **fields: Value) -> None:
        """Something that keeps the daemon from its work."""
        self._line(time.time(), "error", message, fields)

    def close(self) -> None:
        self._writer.close()

    def _line(self, at_utc: float, level: str, event: str, values: dict[str, Value]) -> None:
        if self._missing:
            lost = self._render(time.time(), "warning", "lines lost", {"lines": self._missing})
            if self._writer.write(lost):
                self._missing = 0
        if self._missing or not self._writer.write(self._render(at_utc, level, event, values)):
            self._missing += 1
            self.dropped += 1


def _json(at_utc: float, level: str, event: str, values: dict[str, Value]) -> bytes:
    fixed: dict[str, Value] = {"time": _instant(at_utc), "level": level, "event": event}
    line = _encode(fixed | {k: v for k, v in values.items() if k not in fixed})
    if len(line) > _LINE_LIMIT:
        line = _encode(fixed | {k: v for k, v in values.items() if len(str(v)) <= 200})
    if len(line) > _LINE_LIMIT:
        line = _encode(fixed | {"event": event[:200]})
    return line


def _encode(values: dict[str, Value]) -> bytes:
    # ASCII only, so that nothing from the network can move the cursor of whoever reads.
    return json.dumps({k: _finite(v) for k, v in values.items()}).encode() + b"\n"


def _finite(value: Value) -> Value:
    """JSON has no number for an infinite time."""
    if not isinstance(value, float):
        return value
    return round(value, 6) if math.isfinite(value) else str(value)


def _text(at_utc: float, level: str, event: str, values: dict[str, Value]) -> bytes:
    parts = [_instant(at_utc)]
    if level not in {"info", "debug"}:
        parts.append(f"{level}:")
    parts.append(json.dumps(event)[1:-1].replace('\\"', '"'))
    parts += [f"{key}={_quoted(value)}" for key, value in values.items()]
    line = " ".join(parts).encode("ascii", "backslashreplace")
    return line[: _LINE_LIMIT - 1] + b"\n"


def _quoted(value: Value) -> str:
    if isinstance(value, float):
        return f"{round(value, 4)}"
    text = str(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(' "=\\')
    return text if text and is_plain else json.dumps(text)


def _instant(at_utc: float) -> str:
    moment = datetime.fromtimestamp(at_utc, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class _Writer:
    """Writes bytes to a stream's file descriptor without ever waiting for a reader.

    O_NONBLOCK belongs to the open file, which is shared with whoever started the daemon: set
    on a terminal, it would make the shell's own writes fail. So a pipe or terminal is opened
    a second time, and a socket is told with each message not to wait. Where the second opening
    is not allowed, the descriptor is asked before each write whether it has room.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._rest = b""
        self._own_fd: int | None = None
        self._socket: socket.socket | None = None
        self._must_ask = False
        self._fd = stream.fileno()
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(self._fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            try:
                self._own_fd = self._fd = os.open(f"/proc/self/fd/{self._fd}", flags)
            except OSError:
                self._must_ask = True

    def write(self, line: bytes) -> bool:
        """Whether the line is written, or part of it is and the rest will be before the next."""
        try:
            if self._rest:
                self._rest = self._rest[self._some(self._rest) :]
                if self._rest:
                    return False
            self._rest = line[self._some(line) :]
        except OSError:
            # Full, or the reader is gone: either way nobody is waiting for this line.
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._own_fd is not None:
            os.close(self._own_fd)
            self._own_fd = None

    def _some(self, data: bytes) -> int:
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if self._must_ask and not self._has_room():
            raise BlockingIOError
        return os.write(self._fd, data)

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))
