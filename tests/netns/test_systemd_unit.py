"""The unit that `havip manifest systemd` writes, started by a real systemd."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import holder
from service_manager import PROGRAM, ServiceManager

from havip.netlab import Host, Lab

KEYS = "/etc/havip/auth/hmac-keys"
AWKWARD = 'http://127.0.0.1/%20?a="$HOME"&b=\\c\'d'
"""Of a check that is off: systemd has a meaning for each of these characters."""


@pytest.fixture
def host(make_lab) -> Host:
    return make_lab(hosts=1)["h1"]


@pytest.fixture
def manager(host: Host, tmp_path: Path) -> Iterator[ServiceManager]:
    done = subprocess.run(
        (
            *(sys.executable, "-m", "havip", "manifest", "systemd", f"--program={PROGRAM}"),
            *(f"--vip-address-cidr={Lab.vip}", f"--auth-hmac-keys-file={KEYS}"),
            f"--check-kubelet-url={AWKWARD}",
        ),
        capture_output=True,
        text=True,
        check=True,
        env={},
    )
    # docs/manifest.md; the test's own is shorter.
    assert "\nWatchdogSec=10\n" in done.stdout
    manager = ServiceManager(host, tmp_path, done.stdout, {KEYS: f"1: {'5f' * 32}\n"})
    yield manager
    manager.close()


def test_it_starts_reloads_is_watched_and_stops(host: Host, manager: ServiceManager) -> None:
    manager.wait_until("ActiveState", "active")
    assert holder(host.lab) is host

    assert manager.environment["HAVIP_CHECK_KUBELET_URL"] == AWKWARD

    # It may do what it needs, and nothing else that the unit could forbid.
    first = manager.main_pid
    status = Path(f"/proc/{first}/status").read_text()
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0b11 << 12
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")

    manager.systemctl("reload", "havip")
    manager.wait_for(lambda: "configuration reloaded" in manager.log(), "no reload")
    manager.wait_until("ActiveState", "active")
    assert manager.main_pid == first

    # A stopped process holds nothing, and is replaced.
    os.kill(first, signal.SIGSTOP)
    host.lab.watch.wait_until_gone(host.lab.vip_address)
    manager.wait_until("NRestarts", "1")
    manager.wait_until("ActiveState", "active")
    assert manager.main_pid != first
    assert holder(host.lab) is host

    manager.systemctl("stop", "havip")
    assert not host.has_vip(host.lab.vip_address)
    assert (manager.show("Result"), manager.show("ExecMainStatus")) == ("success", "0")
