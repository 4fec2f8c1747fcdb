"""A cluster for tests: a real control plane, three nodes, and the tools that people use on it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from control_plane import SERVICE_HOST, ControlPlane

from havip.netlab import Host, Lab, LabError, Process
from havip.netlab.namespace import PREFIX

ROOT = Path(__file__).parents[2]
BINARIES = ROOT / "build" / "bin"
CHART = ROOT / "chart"
HANG_S = 60.0
"""Protection against a hang; no promise."""
# Podman's own limits are higher than a root without CAP_SYS_RESOURCE may ask for. The capabilities
# are those that containerd gives a container that asks for nothing.
_CONTAINERS_CONF = """
[containers]
default_capabilities = [
  "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
  "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
"""
# A store of its own, which goes with the lab: the machine's images and pods stay as they are.
_STORAGE_CONF = """
[storage]
driver = "overlay"
graphroot = "{directory}/store"
runroot = "{directory}/store.run"
"""


class Cluster:
    """The lab's hosts are nodes, its first client is a client, its second the control plane."""

    def __init__(self) -> None:
        self.lab = Lab(hosts=3, clients=2)
        self.nodes = self.lab.hosts
        self.kubelets: dict[str, Process] = {}
        self.image = ""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        _check_tools()
        _unmount_orphans()
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.lab)
            self._configure_podman()
            stack.callback(self._remove_pods)
            loaded = self.podman("load", "--quiet", "--input", str(image_archive()))
            self.image = loaded.split()[-1]
            self.control_plane = ControlPlane(self.lab.clients[1], self.nodes, BINARIES)
            self.control_plane.start()
            for node in self.nodes:
                self.control_plane.route_service(node)
                node.serve()
                self.start_kubelet(node)
            self.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
            self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_kubelet(self, node: Host) -> Process:
        """The stand-in for the kubelet, on the node's network and in this process's mounts."""
        process = node.popen(
            (
                # `ip netns exec` gives each command mounts of its own, and podman's must be seen
                # by the next podman.
                *("nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt", sys.executable),
                *(str(Path(__file__).with_name("kubelet")), "--node", node.name),
                *("--address", node.ipv4, "--server", self.control_plane.server),
                *("--service-host", SERVICE_HOST, "--lab", self.lab.prefix),
                *("--certificates", str(self.control_plane.authority.directory)),
                *("--state", str(self.lab.directory / f"{node.name}-pods")),
            ),
            name="kubelet",
            env=self._podman_settings,
        )
        process.wait_for_log("registered and ready", HANG_S)
        self.kubelets[node.name] = process
        return process

    # What happens to nodes and pods

    def kill(self, node: Host, namespace: str, pod: str) -> float:
        """SIGKILL the pod's containers; the node's VIP is stale from then on. Returns when."""
        containers = self.containers(namespace, pod)
        self.lab.watch.mark(node.name, alive=False)
        killed_at = time.monotonic()
        self.podman("kill", "--signal", "KILL", *containers)
        return killed_at

    def power_on(self, node: Host) -> None:
        """As after a boot: nothing runs but the kubelet, and the service."""
        self.lab.watch.mark(node.name, alive=True)
        node.power_on()
        node.serve()
        self.start_kubelet(node)
        self.kubectl("wait", "--for=condition=Ready", f"node/{node.name}", "--timeout=60s")

    def wait_until(self, question: Callable[[], bool], told: Callable[[], object]) -> None:
        """Ask again and again until the answer is yes.

        Raises:
            LabError: not in time; the message is what `told` says then.
        """
        deadline = time.monotonic() + HANG_S
        while not question():
            if time.monotonic() > deadline:
                raise LabError(f"not within {HANG_S:g} s: {told()}")

    # What a person at a terminal does

    def kubectl(self, *args: str, check: bool = True) -> str:
        """Run kubectl as the administrator; returns what it printed.

        Raises:
            LabError: it failed, unless `check` is False; the message has its standard error.
        """
        done = self._run((str(BINARIES / "kubectl"), *args), check=check)
        return done.stdout

    def get(self, *args: str) -> dict[str, Any]:
        """`kubectl get … -o json`."""
        told = json.loads(self.kubectl("get", *args, "--output=json"))
        assert isinstance(told, dict)
        return told

    def items(self, *args: str) -> list[dict[str, Any]]:
        found = self.get(*args)["items"]
        assert isinstance(found, list)
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        path = self.lab.directory / "apply.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        self.kubectl("apply", "--filename", str(path))

    def as_pod(self, pod: Mapping[str, Any], *args: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl with the token that the pod itself has, and with nothing else."""
        state = self.lab.directory / f"{pod['spec']['nodeName']}-pods" / pod["metadata"]["uid"]
        (token,) = state.glob("*/token")
        return self._run(
            (
                *(str(BINARIES / "kubectl"), f"--token={token.read_text()}"),
                f"--server={self.control_plane.server}",
                f"--certificate-authority={self.control_plane.authority.path('ca.crt')}",
                *args,
            ),
            check=False,
            kubeconfig="/dev/null",
        )

    def helm(self, major: int, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Helm 3 or 4.

        Raises:
            LabError: it failed, unless `check` is False.
        """
        home = self.lab.directory / f"helm{major}"
        places = (f"HELM_{kind}_HOME={home}" for kind in ("CACHE", "CONFIG", "DATA"))
        return self._run(("env", *places, str(BINARIES / f"helm{major}"), *args), check=check)

    def ct(self, major: int, directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
        """Run ct in a directory, with Helm 3 or 4; whatever it finds wrong is in its result."""
        tools = self.lab.directory / f"ct{major}"
        tools.mkdir(exist_ok=True)
        for name, program in (("helm", f"helm{major}"), ("kubectl", "kubectl")):
            if not (tools / name).exists():
                (tools / name).symlink_to(BINARIES / program)
        places = (f"PATH={tools}:{os.environ['PATH']}", f"HOME={tools}")
        command = ("env", f"--chdir={directory}", *places, str(BINARIES / "ct"), *args)
        return self._run(command, check=False)

    def _run(
        self, args: Sequence[str], *, check: bool, kubeconfig: Path | str | None = None
    ) -> subprocess.CompletedProcess[str]:
        kubeconfig = self.control_plane.admin if kubeconfig is None else kubeconfig
        return self.lab.clients[1].run(
            ("env", f"KUBECONFIG={kubeconfig}", *args), check=check, timeout_s=300
        )

    # Pods, as they run

    def podman(self, *args: str) -> str:
        """Run podman on the cluster's own store; returns what it printed.

        Raises:
            LabError: it failed; the message has its standard error.
        """
        done = subprocess.run(
            ("podman", *args),
            env={**os.environ, **self._podman_settings},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"podman {' '.join(args)}: {done.stderr.strip()}")
        # `podman logs` tells apart what a container wrote to which of the two.
        return done.stdout + (done.stderr if args[0] == "logs" else "")

    def execute(self, pod: Mapping[str, Any], *args: str) -> str:
        """What a command prints in a pod of one container, whatever its exit status.

        As `kubectl exec`, which the stand-in for the kubelet does not serve.
        """
        metadata = pod["metadata"]
        (container,) = self.containers(metadata["namespace"], metadata["name"])
        settings = (f"{name}={value}" for name, value in self._podman_settings.items())
        # The pod has the network of its node, which `podman exec` does not look for.
        entered = ("nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt", "env", *settings)
        node = self.lab[pod["spec"]["nodeName"]]
        return node.run((*entered, "podman", "exec", container, *args), check=False).stdout

    def containers(self, namespace: str, pod: str) -> list[str]:
        """Names of the pod's containers in podman."""
        listed = self.podman(
            *("ps", "--all", "--filter", f"pod={self.lab.prefix}-{namespace}-{pod}"),
            *("--format", "{{.Names}}"),
        )
        return [name for name in listed.split() if not name.endswith("-infra")]

    def story(self) -> Iterator[tuple[str, str]]:
        """What happened, for a person who asks why a test failed: titles and texts."""
        yield "who had which address", self.lab.watch.story()
        for title, args in (
            ("objects", ("get", "all", "--all-namespaces", "--output=wide")),
            ("events", ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp")),
        ):
            yield title, self.kubectl(*args, check=False)
        for name, text in (*self.lab.logs().items(), *self._pod_logs()):
            if text:
                yield name, "\n".join(text.splitlines()[-60:])

    def _pod_logs(self) -> Iterator[tuple[str, str]]:
        """What the containers wrote: those that run, and those that are gone."""
        listed = self.podman(
            *("ps", "--format", "{{.Names}}"),
        )
        for name in listed.split():
            with contextlib.suppress(LabError):
                yield name, self.podman("logs", name)
        for path in sorted(self.lab.directory.glob("h*-pods/*.log")):
            yield f"{path.stem} (gone)", path.read_text(errors="replace")

    def _configure_podman(self) -> None:
        self._podman_settings = {}
        for name, text in (("CONTAINERS", _CONTAINERS_CONF), ("CONTAINERS_STORAGE", _STORAGE_CONF)):
            path = self.lab.directory / f"{name.lower()}.conf"
            path.write_text(text.format(directory=self.lab.directory))
            self._podman_settings[f"{name}_CONF"] = str(path)

    def _remove_pods(self) -> None:
        for kubelet in self.kubelets.values():
            kubelet.kill()
        with contextlib.suppress(LabError):
            self.podman("pod", "rm", "--all", "--force", "--time", "0")
        _unmount(f"{self.lab.directory}/")


def image_archive() -> Path:
    """The image for this machine that `make image` built."""
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    found = list((ROOT / "build" / "image").glob(f"havip-*-{architecture}.tar"))
    if len(found) != 1:
        raise LabError(f"{len(found)} images for {architecture} in build/image: run `make image`")
    return found[0]


def _check_tools() -> None:
    """Say at once, and with the remedy, what is missing."""
    for tool in ("podman", "runc", "openssl", "nsenter"):
        if shutil.which(tool) is None:
            raise LabError(f"`{tool}` was not found: run `make e2e`, which installs it")
    for tool in ("etcd", "kube-apiserver", "kubectl", "helm3", "helm4", "ct"):
        if not (BINARIES / tool).exists():
            raise LabError(f"{BINARIES / tool} is missing: run `make tools`")


def _unmount_orphans() -> None:
    """Unmount the containers of clusters whose process was killed, so that a lab's sweep works."""
    start = f"{tempfile.gettempdir()}/{PREFIX}"
    for line in Path("/proc/mounts").read_text().splitlines():
        target = line.split(" ")[1]
        pid = target.removeprefix(start).split("-")[0]
        if target.startswith(start) and not Path("/proc", pid).exists():
            _unmount(target)


def _unmount(start: str) -> None:
    """Unmount all that is mounted at paths that start so, the innermost first."""
    mounted = (line.split(" ")[1] for line in Path("/proc/mounts").read_text().splitlines())
    for target in sorted((each for each in mounted if each.startswith(start)), reverse=True):
        subprocess.run(("umount", "--lazy", target), check=False, capture_output=True)
