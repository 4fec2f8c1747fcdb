"""The image as one process: how it starts, how it ends, and what it needs from its host."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from archive import Image
from engine import Engine

from conftest import Measured
from havip.netlab import Host, Lab

HANG_S = 5.0
"""Protection against a hang; no promise."""
CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
CAPABLE = (*CONFINED, "--cap-add", "NET_ADMIN,NET_RAW")


@dataclass(frozen=True, slots=True)
class Started:
    container: str
    pid: int
    descriptor: int
    executed_at: float
    """When the runtime's process became the image's."""


@pytest.fixture
def host(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(hosts=1).hosts[0]


@contextmanager
def started(
    engine: Engine, host: Host, *args: str, permissions: Sequence[str] = CAPABLE
) -> Iterator[Started]:
    """A container from the moment of its exec, watched from outside."""
    network = ("--network", f"ns:/run/netns/{host.namespace}")
    container = engine.podman("create", *network, *permissions, *args).strip()
    # The runtime's process waits to become PID 1 of the container.
    engine.podman("init", container)
    pid = int(engine.inspect(container)["State"]["Pid"])
    descriptor = os.pidfd_open(pid)
    program = Path("/proc", str(pid), "exe")
    runtime = program.readlink()
    starting = engine.popen("start", container, host=host)
    try:
        deadline = time.monotonic() + 30
        while program.readlink() == runtime:
            assert time.monotonic() < deadline, "podman start"
        yield Started(container, pid, descriptor, time.monotonic())
    finally:
        starting.wait()
        engine.podman("rm", "--force", "--time", "0", container)
        os.close(descriptor)


def wait_until(question: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not question():
        assert time.monotonic() < deadline


def has_child(process: Started) -> bool:
    """tini has started Python, and before that has taken over every signal."""
    return bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


def terminate(process: Started) -> bool:
    """SIGTERM to PID 1, as a runtime stops a container; whether it ended."""
    signal.pidfd_send_signal(process.descriptor, signal.SIGTERM)
    return bool(select.select([process.descriptor], [], [], HANG_S)[0])


@pytest.mark.parametrize(
    "delay_s", [0, 0.001, 0.003, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1, 1.5]
)
def test_sigterm_ends_it_in_order_at_any_time_from_the_start(
    engine: Engine, host: Host, image: Image, delay_s: float, measured: Measured
) -> None:
    args = (image.reference, "run", "--vip-address-cidr", host.lab.vip)
    with started(engine, host, *args) as process:
        wait_until(lambda: has_child(process))
        measured("until SIGTERM is heard", time.monotonic() - process.executed_at)
        wait_until(lambda: time.monotonic() >= process.executed_at + delay_s)
        assert terminate(process)
        assert engine.podman("wait", process.container).strip() == "0"
        assert "Traceback" not in engine.podman("logs", process.container)
    assert not host.lab.watch.holders(host.lab.vip_address)


def test_a_pid_1_that_handles_no_sigterm_would_be_found(
    engine: Engine, host: Host, image: Image
) -> None:
    """The test above could not fail if podman, or the lab, ended the process in some other way."""
    args = ("--entrypoint", "/usr/bin/python3.11", image.reference)
    with started(engine, host, *args, "-c", "import signal; signal.pause()") as process:
        assert not terminate(process)


def test_it_gets_ready_with_no_file_to_write_and_no_name_for_its_user(
    engine: Engine, host: Host, image: Image, measured: Measured
) -> None:
    # /etc/passwd, /etc/group, /etc/hosts, … that are empty, as for any user that nobody knows.
    empty = host.lab.directory / "empty"
    empty.touch()
    files = ("passwd", "group", "hosts", "nsswitch.conf", "resolv.conf", "services", "protocols")
    args = [arg for name in files for arg in ("--volume", f"{empty}:/etc/{name}:ro")]
    args += ["--read-only-tmpfs=false", image.reference, "run", "--vip-address-cidr", host.lab.vip]
    with started(engine, host, *args) as process:
        wait_until(host.is_ready)
        measured("until /readyz says 200", time.monotonic() - process.executed_at)
        wait_until(lambda: host.has_vip(host.lab.vip_address))
        assert terminate(process)
    assert not host.lab.watch.holders(host.lab.vip_address)


def test_commands_run_in_it(engine: Engine, host: Host, image: Image) -> None:
    """`kubectl exec POD -- havip status` is how people look."""
    args = (image.reference, "run", "--vip-address-cidr", host.lab.vip)
    with started(engine, host, *args) as process:
        wait_until(lambda: host.has_vip(host.lab.vip_address))
        told = engine.podman("exec", process.container, "havip", "status")
        assert "active" in told
    assert image.config["config"]["Labels"]["org.opencontainers.image.version"] in engine.podman(
        "run", "--rm", "--network", "none", *CONFINED, image.reference, "--version"
    )


def test_it_trusts_the_certificates_that_debian_trusts(engine: Engine, image: Image) -> None:
    asked = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"
    options = ("--rm", "--network", "none", *CONFINED, "--entrypoint", "/usr/bin/python3.11")
    told = engine.podman("run", *options, image.reference, "-Ic", asked)
    bundle = image.read("etc/ssl/certs/ca-certificates.crt")
    assert int(told) == bundle.count(b"BEGIN CERTIFICATE") > 100


def test_a_user_without_the_capabilities_is_told_so(
    engine: Engine, host: Host, image: Image
) -> None:
    args = ("--user", "4242:4242", image.reference, "run", "--vip-address-cidr", host.lab.vip)
    with started(engine, host, *args, permissions=CONFINED) as process:
        assert engine.podman("wait", process.container).strip() == "2"
        told = engine.podman("logs", process.container)
    assert "CAP_NET_ADMIN, CAP_NET_RAW: missing" in told
