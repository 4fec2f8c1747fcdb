"""The door to all commands."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from havip.__main__ import COMMANDS


def havip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "havip", *words], capture_output=True, text=True, check=False
    )


def test_help_lists_every_command() -> None:
    done = havip("--help")
    assert done.returncode == 0
    listed = re.findall(r"^    (\S+)", done.stdout, flags=re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_says_what_its_exit_status_means(command: str) -> None:
    done = havip(command, "--help")
    assert done.returncode == 0
    assert f"  havip {command}" in done.stdout
    assert "exit status" in done.stdout


@pytest.mark.parametrize("words", [[], ["fly"], ["status", "--fly"]])
def test_wrong_usage(words: list[str]) -> None:
    done = havip(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: havip")


def test_version() -> None:
    done = havip("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("havip ")


def test_status_does_not_load_the_daemon() -> None:
    """It has to answer on a node that is short of memory, beside a daemon that is not."""
    script = (
        "import sys; from havip.__main__ import main; main(['status', '--url=http://127.0.0.1:1']);"
        "print([m for m in ('pydantic', 'pyroute2', 'scapy', 'havip.daemon', 'havip.act',"
        " 'havip.settings') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_reader_that_stops_reading_is_no_error() -> None:
    script = f"{sys.executable} -m havip check-config --help | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["vip"], "'vip' is not an IP address"),
        (["--port=0", "192.0.2.10"], "'0' is not a port from 1 to 65535"),
        (["--timeout=0", "192.0.2.10"], "'0' is no number of seconds"),
        (["--timeout=nan", "192.0.2.10"], "'nan' is no number of seconds"),
    ],
)
def test_who_has_refuses(words: list[str], problem: str) -> None:
    done = havip("who-has", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
