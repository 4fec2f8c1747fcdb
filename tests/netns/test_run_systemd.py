"""What `havip run` tells the service manager, heard at the socket that systemd would listen at."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import HANG_S, holder

from havip.netlab import Host, Lab, Process

WATCHDOG_S = 0.4


class Manager:
    """systemd's end of the socket."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(HANG_S)

    def close(self) -> None:
        self._socket.close()

    def next(self) -> dict[str, str]:
        """The next message; a daemon that has nothing to say ends the wait with TimeoutError."""
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def is_silent(self, for_s: float) -> bool:
        """Whether nothing comes for so long, beside what has come already."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(4096):
                pass
        self._socket.settimeout(for_s)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(HANG_S)
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


@pytest.fixture
def host(make_lab) -> Host:
    return make_lab(hosts=1)["h1"]


def start(host: Host, listener: Path | str, **environ: str) -> Process:
    settings = {"HAVIP_VIP_ADDRESS_CIDR": Lab.vip, "NOTIFY_SOCKET": str(listener)}
    return host.popen(
        (sys.executable, "-m", "havip", "run"),
        name="havip",
        env=settings | environ,
        is_daemon=True,
    )


def test_it_is_ready_once_it_takes_part(host: Host, manager: Manager) -> None:
    """Not before its port is open, and no later because a service behind the VIP is down."""
    unused = "http://127.0.0.1:9/"
    start(host, manager.path, HAVIP_CHECK_SERVICE_URL=unused)
    assert manager.next() == {"READY": "1"}
    assert host.get("/healthz")[0] == 200
    status, why = host.get("/readyz")
    assert (status, unused in why) == (503, True)


def test_a_start_that_is_refused_is_never_ready(host: Host, manager: Manager) -> None:
    first = start(host, manager.path)
    assert manager.next() == {"READY": "1"}
    second = start(host, manager.path)
    assert second.wait(HANG_S) == 2
    first.send(signal.SIGTERM)
    assert manager.next() == {"STOPPING": "1"}, "the second one said nothing"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_tells_that_it_stops(host: Host, manager: Manager, number: signal.Signals) -> None:
    daemon = start(host, manager.path)
    assert manager.next() == {"READY": "1"}
    daemon.send(number)
    assert manager.next() == {"STOPPING": "1"}
    assert daemon.wait(HANG_S) == 0


def test_a_reload_begins_and_ends(host: Host, manager: Manager) -> None:
    """With the instant that Type=notify-reload compares with that of its signal."""
    daemon = start(host, manager.path)
    assert manager.next() == {"READY": "1"}
    before_us = time.monotonic_ns() // 1000
    daemon.send(signal.SIGHUP)
    reloading = manager.next()
    assert reloading.pop("RELOADING") == "1"
    begun_us = int(reloading.pop("MONOTONIC_USEC"))
    assert before_us <= begun_us <= time.monotonic_ns() // 1000
    assert reloading == {}
    assert manager.next() == {"READY": "1"}
    daemon.wait_for_log("configuration reloaded")


def test_a_reload_that_is_refused_ends_too(host: Host, manager: Manager, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("vrrpPriority: 120\n")
    daemon = start(host, manager.path, HAVIP_CONFIG=str(file))
    assert manager.next() == {"READY": "1"}
    file.write_text("vrrpPriority: 1000\n")
    daemon.send(signal.SIGHUP)
    assert "RELOADING" in manager.next()
    assert manager.next() == {"READY": "1"}
    daemon.wait_for_log("refused")


def test_signs_of_life_end_with_the_loop(host: Host, manager: Manager) -> None:
    daemon = start(host, manager.path, WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)))
    assert manager.next() == {"READY": "1"}
    for _ in range(3):
        assert manager.next() == {"WATCHDOG": "1"}
    holder(host.lab)
    daemon.freeze()
    host.lab.watch.wait_until_gone(host.lab.vip_address)
    assert manager.is_silent(2 * WATCHDOG_S)
    daemon.thaw()
    assert manager.next() == {"WATCHDOG": "1"}


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}, id="another process's"),
        pytest.param({"WATCHDOG_USEC": "0"}, id="no time"),
        pytest.param({"WATCHDOG_USEC": "soon"}, id="no number"),
        pytest.param({}, id="none"),
    ],
)
def test_no_signs_of_life_unasked(host: Host, manager: Manager, environ: dict[str, str]) -> None:
    daemon = start(host, manager.path, **environ)
    assert manager.next() == {"READY": "1"}
    holder(host.lab)
    daemon.send(signal.SIGTERM)
    assert manager.next() == {"STOPPING": "1"}


def test_a_socket_in_the_abstract_namespace(host: Host) -> None:
    """systemd's own is a path; others give a name with an @ (each network has names of its own)."""
    listener = """\
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind("\\0havip-test")
print(listener.recv(4096).decode(), flush=True)
"""
    told = host.popen((sys.executable, "-c", listener), name="listener")
    told.wait_for(
        lambda: "@havip-test" in host.run(("cat", "/proc/net/unix")).stdout, HANG_S, "not there"
    )
    start(host, "@havip-test")
    assert told.wait(HANG_S) == 0
    assert told.log_text() == "READY=1\n"


def test_a_manager_that_is_gone_is_no_reason_to_end(host: Host, manager: Manager) -> None:
    daemon = start(host, manager.path, WATCHDOG_USEC="100000")
    assert manager.next() == {"READY": "1"}
    manager.close()
    manager.path.unlink()
    daemon.send(signal.SIGHUP)
    daemon.wait_for_log("configuration reloaded", HANG_S)
    assert holder(host.lab) is host
    assert daemon.stop() == 0
