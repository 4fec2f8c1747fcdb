"""podman with a store of its own: what it makes goes with it, and the machine's pods stay.

A pod with `hostNetwork: true` joins the network namespace that podman is started in, so each host
of a lab is a node, with nothing between the pod's manifest and the kernel but podman and runc.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from havip.netlab import Host, LabError
from havip.netlab.namespace import PREFIX

# A root without CAP_SYS_RESOURCE may not ask for podman's own limits. Locks in files, not in
# shared memory: nothing is outside the directory.
_CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
tmp_dir = "{directory}/run"
volume_path = "{directory}/volumes"
"""
_STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{directory}/store"
runroot = "{directory}/store.run"
"""


class Engine:
    """Runs podman, and removes at the end what it made.

    Raises:
        LabError: podman or its runtime is missing.
    """

    def __init__(self) -> None:
        for tool in ("podman", "runc", "nsenter"):
            if shutil.which(tool) is None:
                raise LabError(f"`{tool}` was not found: run `make e2e`, which installs it")
        _sweep()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-podman-"))
        for name, text in (("CONTAINERS", _CONTAINERS_CONF), ("CONTAINERS_STORAGE", _STORAGE_CONF)):
            path = self.directory / f"{name.lower()}.conf"
            path.write_text(text.format(directory=self.directory))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs, and remove the store."""
        _close(self.directory)

    def remove_all(self) -> None:
        """Kill what runs, and remove every pod and container."""
        _remove_all(self.directory)

    def podman(self, *args: str, host: Host | None = None, check: bool = True) -> str:
        """Run podman, on a host's network if one is named; returns what it printed.

        Raises:
            LabError: it failed, unless `check` is False; the message has its standard error.
        """
        done = subprocess.run(
            self.command(*args, host=host),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        if check and done.returncode != 0:
            raise LabError(f"podman {' '.join(args)}: {done.stderr.strip()}")
        # `podman logs` tells apart what a container wrote to which of the two.
        return done.stdout + (done.stderr if args[0] == "logs" else "")

    def popen(self, *args: str, host: Host) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*args, host=host),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    @property
    def environment(self) -> dict[str, str]:
        return _environment(self.directory)

    def command(self, *args: str, host: Host | None) -> Sequence[str]:
        # Not `ip netns exec`: that gives each command mounts of its own, which the next podman
        # could not see.
        inside = ("nsenter", f"--net=/run/netns/{host.namespace}") if host else ()
        return (*inside, "podman", *args)

    def inspect(self, container: str) -> dict[str, Any]:
        (told,) = json.loads(self.podman("container", "inspect", container))
        assert isinstance(told, dict)
        return told

    def containers(self) -> list[str]:
        """Every container that there is, running or not, but the pods' pauses."""
        listed = self.podman("ps", "--all", "--format", "{{.Names}}")
        return [name for name in listed.split() if not name.endswith("-infra")]


class Pod:
    """A pod on a host of the lab, from a manifest as the kubelet gets it."""

    def __init__(self, engine: Engine, host: Host, manifest: Path) -> None:
        self._engine = engine
        self.host = host
        self._manifest = str(manifest)

    def play(self) -> None:
        """Start it; `wait_until_ready` waits for it."""
        self._engine.podman("kube", "play", "--quiet", self._manifest, host=self.host)
        self.host.lab.watch.mark(self.host.name, alive=True)

    def wait_until_ready(self) -> None:
        """Ask /readyz again and again, as the kubelet does."""
        self.wait_for(self.host.is_ready, "/readyz does not say 200")

    def wait_for(self, question: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
        """Ask again and again until the answer is yes.

        Raises:
            LabError: not in time; the message has the log.
        """
        deadline = time.monotonic() + timeout_s
        while not question():
            if time.monotonic() > deadline:
                told = f"{self.name}: {what}: not within {timeout_s:g} s"
                raise LabError(f"{told}\n{self.logs()}")
            time.sleep(0.02)

    def stop(self) -> int:
        """End it as the kubelet does, SIGTERM and its grace; returns the exit status."""
        self._engine.podman("pod", "stop", self.name)
        return int(self._engine.inspect(self.container)["State"]["ExitCode"])

    def kill(self) -> float:
        """SIGKILL its process, without a word; returns the instant."""
        self.host.lab.watch.mark(self.host.name, alive=False)
        killed_at = time.monotonic()
        os.kill(self.pid, signal.SIGKILL)
        return killed_at

    def remove(self) -> None:
        """Take it away, as when its object is deleted."""
        # `kube down` alone sends SIGKILL on the heels of SIGTERM.
        self._engine.podman("pod", "stop", self.name)
        self._engine.podman("kube", "down", self._manifest)

    @property
    def name(self) -> str:
        return f"havip-{self.host.name}"

    @property
    def container(self) -> str:
        return f"{self.name}-havip"

    @property
    def pid(self) -> int:
        """PID 1 of its container, as this machine numbers it."""
        return int(self._engine.inspect(self.container)["State"]["Pid"])

    @property
    def restarts(self) -> int:
        return int(self._engine.inspect(self.container)["RestartCount"])

    def logs(self) -> str:
        return self._engine.podman("logs", self.container, check=False)


def _environment(directory: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CONTAINERS_CONF": str(directory / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(directory / "containers_storage.conf"),
    }


def _remove_all(directory: Path) -> None:
    for args in (("pod", "rm"), ("rm",)):
        subprocess.run(
            ("podman", *args, "--all", "--force", "--time", "0"),
            env=_environment(directory),
            capture_output=True,
            check=False,
        )


def _close(directory: Path) -> None:
    _remove_all(directory)
    mounts = [line.split(" ")[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for target in sorted((m for m in mounts if m.startswith(f"{directory}/")), reverse=True):
        subprocess.run(("umount", "--lazy", target), check=False, capture_output=True)
    shutil.rmtree(directory)


def _sweep() -> None:
    """Remove what engines left behind whose process was killed."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-podman-*"):
        pid = directory.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", pid).exists():
            _close(directory)
