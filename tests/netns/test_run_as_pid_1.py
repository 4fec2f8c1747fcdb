"""As PID 1 of a container, which no signal ends by default: a stop at any instant of a start.

A signal without a handler is lost there, and the container is killed a grace period later.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from cluster import HANG_S

from havip.netlab import Host, Lab, Process

# A PID namespace of its own: what `havip` is in a container with hostNetwork.
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")
BLOCKED = ("env", "--block-signal=TERM")
INSTANTS = 8


@pytest.fixture
def host(make_lab) -> Host:
    return make_lab(hosts=1)["h1"]


def start(host: Host, *launcher: str) -> Process:
    return host.popen(
        (*launcher, *CONTAINER, sys.executable, "-m", "havip", "run"),
        name="havip",
        env={"HAVIP_VIP_ADDRESS_CIDR": Lab.vip},
        is_daemon=True,
    )


def first_process(container: Process) -> int:
    """The PID, as seen from here, of the container's PID 1, once there is one."""
    children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
    container.wait_for(lambda: bool(children.read_text()), HANG_S, "has no child")
    return int(children.read_text())


def has_handler(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << signal.SIGTERM - 1)


def wait_for_handler(pid: int) -> None:
    """In a loop without a pause: the moment itself is what is wanted."""
    deadline = time.monotonic() + HANG_S
    while not has_handler(pid):
        assert time.monotonic() < deadline, "no handler"


def stopped_before_its_imports(host: Host) -> tuple[Process, int]:
    """Who looks too late finds them made, and looks at another one."""
    for _ in range(20):
        container = start(host)
        pid = first_process(container)
        wait_for_handler(pid)
        os.kill(pid, signal.SIGSTOP)
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "python" in mapped
        if "pydantic" not in mapped and "_socket" not in mapped:
            return container, pid
        container.kill()
    raise AssertionError("it has always imported something by then")


def start_up_s(host: Host) -> float:
    """How long it takes until the loop runs, here and now."""
    begun_at = time.monotonic()
    container = start(host)
    container.wait_for(host.is_ready, HANG_S, "is not ready")
    took_s = time.monotonic() - begun_at
    stop(first_process(container))
    assert container.wait(HANG_S) == 0
    return took_s


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def test_it_can_be_stopped_before_it_has_imported_anything(host: Host) -> None:
    container, pid = stopped_before_its_imports(host)
    stop(pid)
    os.kill(pid, signal.SIGCONT)
    assert container.wait(HANG_S) == 0
    assert container.log_text() == ""


@pytest.mark.parametrize("launcher", [(), BLOCKED], ids=["plain", "started with it blocked"])
def test_a_stop_at_any_instant_of_the_start(host: Host, launcher: tuple[str, ...]) -> None:
    """With SIGTERM blocked by the launcher from before Python, else from its first line on."""
    took_s = start_up_s(host)
    for step in range(INSTANTS):
        container = start(host, *launcher)
        begun_at = time.monotonic()
        pid = first_process(container)
        if not launcher:
            wait_for_handler(pid)
        # The instant is what this test goes through: there is no event to wait for.
        time.sleep(max(0.0, begun_at + took_s * step / (INSTANTS - 2) - time.monotonic()))
        stop(pid)
        assert container.wait(HANG_S) == 0, container.log_text()
        assert "Traceback" not in container.log_text()
        host.lab.watch.wait_until_gone(host.lab.vip_address)
