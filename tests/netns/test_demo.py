"""`havip demo`, as a stranger runs it: in a pipe, on a terminal, interrupted, without root."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

from havip.netlab.namespace import names

DEMO = (sys.executable, "-m", "havip", "demo")
SCENARIOS = [
    "cold start",
    "service killed",
    "holder powered off",
    "holder back",
    "graceful stop",
    "holder frozen",
]


def test_json_tells_what_was_measured_in_each_scenario() -> None:
    done = subprocess.run(
        (*DEMO, "--output", "json"), capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert told["ok"]
    results = {result["name"]: result for result in told["scenarios"]}
    assert list(results) == SCENARIOS
    for result in results.values():
        assert result["problems"] == []
        assert result["holder"] in ("h1", "h2", "h3")
        assert result["reason"]
        assert 0 <= result["probes_lost"] < result["probes_sent"]
    moved = [name for name, result in results.items() if result["was"] != result["holder"]]
    assert moved == [name for name in SCENARIOS if name != "holder back"]
    # Promise 2: planned, and kept by a host that comes back; what the client must not notice.
    assert results["graceful stop"]["probes_lost"] == 0
    assert results["holder back"]["probes_lost"] == 0
    # Promise 1: a holder that is dead has lost the VIP before the next one has it.
    assert results["holder powered off"]["two_holders_s"] == 0
    assert results["holder frozen"]["stale_s"] > 0


def start_on_terminal() -> tuple[int, int]:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(DEMO[0], DEMO)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    return pid, terminal


def read_until(terminal: int, text: str, timeout_s: float = 60) -> str:
    """What the terminal was sent, up to `text`, or to the end if that is empty."""
    deadline = time.monotonic() + timeout_s
    told = ""
    while not text or text not in told:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, told
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        told += data.decode(errors="replace")
    return told


def test_ctrl_c_on_a_terminal_leaves_nothing_and_gives_the_cursor_back() -> None:
    pid, terminal = start_on_terminal()
    try:
        told = read_until(terminal, "has the VIP")
        assert "\x1b[?25l" in told
        assert len(names(pid)) == 5
        os.write(terminal, b"\x03")
        told = read_until(terminal, "")
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert "\x1b[?25h" in told
    assert "nothing is left behind" in told
    assert names(pid) == []


def test_sigterm_in_a_pipe_leaves_nothing() -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            assert "\x1b" not in line
            if "has the VIP" in line:
                break
        assert len(names(process.pid)) == 5
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(20) == 128 + signal.SIGTERM
    assert names(process.pid) == []


def test_without_root_it_says_so() -> None:
    done = subprocess.run(
        (sys.executable, "-c", NOBODY), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "run as root" in done.stderr


# Imported before root is given up: nobody may be unable to read the interpreter's directory.
NOBODY = """
import os, sys
from havip.__main__ import main
import havip.commands.demo
os.setuid(65534)
sys.exit(main(["demo"]))
"""
