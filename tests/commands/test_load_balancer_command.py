"""`havip load-balancer` on a host of its own: what it writes, and what keeps it from that."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_check_config import HOST, VIP

pytestmark = pytest.mark.netns
BACKENDS = "--load-balancer-backends=a 192.0.2.11:6443"


def load_balancer(
    directory: Path, *flags: str, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run it on a host that has 192.0.2.1/24 on d0, to write into this directory."""
    script = ["unshare", "--net", "sh", "-e", "-c", HOST, "sh", *before]
    havip = [sys.executable, "-m", "havip", "load-balancer", VIP, "--load-balancer", BACKENDS]
    return subprocess.run(
        [*script, *havip, f"--load-balancer-directory={directory}", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def test_it_writes_what_haproxy_takes(tmp_path: Path) -> None:
    done = load_balancer(tmp_path, "--haproxy=/usr/sbin/haproxy")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/haproxy.cfg\n"), done.stderr
    assert "server a 192.0.2.11:6443" in (tmp_path / "haproxy.cfg").read_text()


def test_a_port_that_only_haproxy_may_bind_is_left_to_haproxy(tmp_path: Path) -> None:
    """In a pod this has no capability, while HAProxy's container has the one for it."""
    before = ("setpriv", "--bounding-set=-net_bind_service")
    done = load_balancer(tmp_path, "--load-balancer-port=443", before=before)
    assert done.returncode == 0, done.stderr
    assert "bind 0.0.0.0:443" in (tmp_path / "haproxy.cfg").read_text()
