"""Log lines: what they say, and that writing one never waits."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havip.act.journal import Journal, LogFormat
from havip.core.actions import Report, Topic
from havip.core.reasons import Reason, State

AT_UTC = 1786190401.25  # 2026-08-08T12:00:01.25Z
MOVED = Report(
    topic=Topic.MOVED,
    router="eth0/10",
    state=State.ACTIVE,
    was=State.BACKUP,
    reason=Reason.ACTIVE_SILENT,
    fields={"peer": "10.0.0.12", "silent_s": 0.36123, "priority": 100},
)


@contextmanager
def pipe() -> Iterator[tuple[int, TextIO]]:
    read_fd, write_fd = os.pipe()
    stream = os.fdopen(write_fd, "w")
    try:
        yield read_fd, stream
    finally:
        stream.close()
        os.close(read_fd)


def written(log_format: LogFormat, *reports: Report) -> list[str]:
    with pipe() as (read_fd, stream):
        journal = Journal(log_format, stream)
        for report in reports:
            journal.write(report, AT_UTC)
        journal.close()
        return os.read(read_fd, 1 << 16).decode().splitlines()


def test_text():
    assert written("text", MOVED) == [
        "2026-08-08T12:00:01.250Z moved router=eth0/10 state=active was=backup "
        "reason=active_silent peer=10.0.0.12 silent_s=0.3612 priority=100"
    ]


def test_json():
    (line,) = written("json", MOVED)
    assert json.loads(line) == {
        "time": "2026-08-08T12:00:01.250Z",
        "level": "info",
        "event": "moved",
        "router": "eth0/10",
        "state": "active",
        "was": "backup",
        "reason": "active_silent",
        "peer": "10.0.0.12",
        "silent_s": 0.36123,
        "priority": 100,
    }


@pytest.mark.parametrize(
    ("report", "level"),
    [
        (MOVED, "info"),
        (Report(topic=Topic.ALARM), "warning"),
        (Report(topic=Topic.REFUSED, reason=Reason.ADDRESS_IN_USE), "warning"),
        (Report(topic=Topic.CHECK, reason=Reason.CHECK_FAILED), "warning"),
        (Report(topic=Topic.CHECK, reason=Reason.CHECK_RECOVERED), "info"),
    ],
)
def test_levels(report, level):
    assert json.loads(written("json", report)[0])["level"] == level
    assert (" warning: " in written("text", report)[0]) == (level == "warning")


def test_a_field_cannot_take_the_place_of_a_decision():
    report = Report(
        topic=Topic.MOVED,
        reason=Reason.STARTED,
        fields={"reason": "forged", "time": "never", "level": "none", "event": "x", "peer": "a"},
    )
    line = json.loads(written("json", report)[0])
    assert (line["reason"], line["level"], line["event"]) == ("started", "info", "moved")
    assert line["time"].startswith("2026-")
    assert line["peer"] == "a"


def test_auto_is_json_in_a_pipe_and_text_on_a_terminal():
    assert written("auto", MOVED)[0].startswith("{")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        journal = Journal("auto", stream)
        journal.write(MOVED, AT_UTC)
        assert os.read(leader, 4096).startswith(b"2026-08-08T12:00:01.250Z moved router=")
        journal.close()
    os.close(leader)


def test_messages_of_the_daemon():
    with pipe() as (read_fd, stream):
        quiet, chatty = Journal("text", stream), Journal("text", stream, debug=True)
        quiet.debug("unheard")
        chatty.debug("probed", check="service")
        quiet.info("listening on 127.0.0.1:9650")
        quiet.warning("SCHED_FIFO refused", remedy="give CAP_SYS_NICE")
        quiet.error("gone")
        quiet.close()
        chatty.close()
        lines = os.read(read_fd, 1 << 16).decode().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "probed check=service",
        "listening on 127.0.0.1:9650",
        'warning: SCHED_FIFO refused remedy="give CAP_SYS_NICE"',
        "error: gone",
    ]


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from(["text", "json"]))
def test_nothing_from_outside_breaks_a_line_or_moves_a_cursor(detail, message, log_format):
    with pipe() as (read_fd, stream):
        journal = Journal(log_format, stream)
        journal.write(Report(topic=Topic.CHECK, fields={"detail": detail, "end": 1}), AT_UTC)
        journal.info(message)
        journal.close()
        raw = os.read(read_fd, 1 << 16)
    assert raw.count(b"\n") == 2
    assert all(32 <= byte < 127 for byte in raw.replace(b"\n", b""))
    first = raw.splitlines()[0].decode()
    if log_format == "json":
        assert json.loads(first)["detail"] == detail
    else:
        found = re.fullmatch(r'\S+ check detail=("(?:[^"\\]|\\.)*"|\S+) end=1', first)
        assert found, first
        shown = found[1]
        assert (json.loads(shown) if shown.startswith('"') else shown) == detail


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_every_number_is_valid_json(value):
    def refuse(text: str) -> None:
        raise AssertionError(text)

    (line,) = written("json", Report(topic=Topic.ALARM, fields={"late_s": value}))
    assert json.loads(line, parse_constant=refuse)["late_s"] == str(value)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_long_line_is_cut_and_stays_a_line(log_format):
    report = Report(topic=Topic.ALARM, fields={"a": "x" * 9000, "b": 1})
    (line,) = written(log_format, report)
    assert len(line) < 4096
    if log_format == "json":
        assert json.loads(line)["b"] == 1


def is_nonblocking(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)


def drain(fd: int) -> list[str]:
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data.decode().splitlines()


def fill(journal: Journal) -> int:
    """Write until lines are dropped; the number of calls."""
    for count in range(1, 10000):
        journal.info("a line of some length, to fill what is behind it", number=count)
        if journal.dropped >= 3:
            return count
    raise AssertionError("nothing was ever dropped")


@pytest.mark.parametrize("can_reopen", [True, False])
def test_a_reader_that_stopped_reading_costs_lines_not_time(monkeypatch, can_reopen):
    if not can_reopen:

        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pipe() as (read_fd, stream):
        journal = Journal("json", stream)
        calls = fill(journal)
        assert not is_nonblocking(stream.fileno())
        before = drain(read_fd)
        assert len(before) == calls - 3
        journal.info("read again")
        lost, again = (json.loads(line) for line in drain(read_fd))
        assert (lost["event"], lost["lines"]) == ("lines lost", 3)
        assert again["event"] == "read again"
        assert journal.dropped == 3
        journal.close()


def test_a_stopped_terminal_costs_lines_not_time():
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        journal = Journal("text", stream)
        fill(journal)
        assert not is_nonblocking(stream.fileno())
        journal.close()
    os.close(leader)


def test_a_socket_whose_reader_stopped_costs_lines_not_time():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stream:
        journal = Journal("json", stream)
        fill(journal)
        assert not is_nonblocking(ours.fileno())
        lines = drain(theirs.fileno())
        journal.info("read again")
        lines += drain(theirs.fileno())
        # Also where a line was taken in part, each line is whole.
        assert [json.loads(line)["event"] for line in lines][-2:] == ["lines lost", "read again"]
        journal.close()


def test_a_reader_that_is_gone_is_no_error():
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "w") as stream:
        journal = Journal("json", stream)
        os.close(read_fd)
        journal.info("nobody reads this")
        assert journal.dropped == 1
        journal.close()


def test_a_file_is_appended_to(tmp_path):
    file = tmp_path / "log"
    with file.open("w") as stream:
        stream.write("first\n")
        journal = Journal("text", stream)
        journal.info("second")
        journal.close()
    first, second = file.read_text().splitlines()
    assert first == "first"
    assert second.endswith(" second")


def test_a_stream_without_a_descriptor_is_refused():
    with pytest.raises(io.UnsupportedOperation):
        Journal("text", io.StringIO())
