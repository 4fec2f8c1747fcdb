"""Hosts for Ansible: a network namespace each, and file systems whose changes are their own.

Ansible's connection is local, and the Python that it runs its modules with is a script that enters
the host's namespaces. So a module sees the host's network and its /etc, /opt, /run, /usr/local and
/var/lib, which lie over the machine's and leave those as they are.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from havip.netlab import Host, Lab, Process

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "ansible"
BIN = Path(sys.executable).parent
OWN = ("/etc", "/opt", "/run", "/usr/local", "/var/lib")
STATIC_POD = "etc/kubernetes/manifests/havip.yaml"
LOOK_S = 0.1
_PUT = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
_RECAP = re.compile(
    r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one call of ansible-playbook came to."""

    status: int
    text: str

    @property
    def changed(self) -> dict[str, int]:
        """Changed tasks by host."""
        return {host: int(changed) for host, changed, _, _ in _RECAP.findall(self.text)}


class Node:
    """A host, as Ansible and a kubelet see it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.directory = host.lab.directory / f"{host.name}-files"
        self.directory.mkdir()
        self._root = self._lay_over()
        self._pod: Process | None = None
        self._manifest = ""
        self.python = self.directory / "python"
        pid = self._root.pid
        self.python.write_text(
            f'#!/bin/sh\nexec nsenter --target {pid} --net --mount --wd=/ {sys.executable} "$@"\n'
        )
        self.python.chmod(0o755)

    def path(self, path: str) -> Path:
        """A file of the host, seen from here; only what was changed is there."""
        top = next(each for each in OWN if f"/{path}".startswith(f"{each}/"))
        return self.directory / top[1:].replace("/", "-") / "upper" / path[len(top) :]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program on the host, which sees the host's files."""
        inside = ("nsenter", "--target", str(self._root.pid), "--mount", "--wd=/")
        return self.host.run((*inside, *command), check=False)

    def put(self, file: str, text: str) -> None:
        """Write a file that the host sees."""
        self.run(sys.executable, "-c", _PUT, file, text)

    def look(self) -> None:
        """What a kubelet does: start, replace or stop the pod that is in its directory."""
        file = self.path(STATIC_POD)
        manifest = file.read_text() if file.exists() else ""
        if manifest == self._manifest:
            return
        if self._pod:
            self._pod.stop(30)
            self._pod = None
        self._manifest = manifest
        if manifest:
            self._pod = self._start(yaml.safe_load(manifest))

    def _start(self, pod: dict[str, Any]) -> Process:
        (container,) = pod["spec"]["containers"]
        env = {
            each["name"]: each["value"].replace("$$", "$")
            for each in container["env"]
            if "value" in each
        }
        return self.host.popen(
            (
                *("nsenter", "--target", str(self._root.pid), "--mount"),
                *(sys.executable, "-m", "havip", *container["args"]),
            ),
            name="havip",
            env={"HAVIP_NODE_NAME": self.host.name, **env},
            is_daemon=True,
        )

    def _lay_over(self) -> Process:
        mounts = []
        for top in OWN:
            own = self.directory / top[1:].replace("/", "-")
            (own / "upper").mkdir(parents=True)
            (own / "work").mkdir()
            options = f"lowerdir={top},upperdir={own}/upper,workdir={own}/work"
            mounts.append(f"mount -t overlay overlay -o {options} {top}")
        # Before it is mounted: what is put into a layer afterwards need not be seen.
        programs = self.path("usr/local/bin/systemctl").parent
        programs.mkdir()
        shutil.copy(Path(__file__).with_name("systemctl"), programs)
        script = " && ".join((*mounts, "echo ready >&2", "exec sleep infinity"))
        process = self.host.popen(("sh", "-c", script), name="files")
        process.wait_for_log("ready")
        return process


class Farm:
    """Two hosts, and the controller beside them."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.lab = Lab(hosts=2, clients=1)
        self.directory = directory
        self.nodes: dict[str, Node] = {}
        self.settings = settings
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self.lab)
        for host in self.lab.hosts:
            host.serve()
            self.nodes[host.name] = Node(host)
        kubelets = threading.Thread(target=self._kubelets)
        kubelets.start()
        self._stack.callback(kubelets.join)
        self._stack.callback(self._stop.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, *args: str, **settings: Any) -> Run:
        """Run the example playbook on this farm; None leaves a variable out of the inventory."""
        hosts = {
            name: {"ansible_python_interpreter": str(node.python)}
            for name, node in self.nodes.items()
        }
        common = {
            "ansible_connection": "local",
            # The test is root already, and `sudo` would be another program.
            "ansible_become": False,
            "havip_vip": self.lab.vip,
            "havip_command": str(BIN / "havip"),
            **self.settings,
        }
        given = {name: value for name, value in (common | settings).items() if value is not None}
        inventory = self.directory / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"control_plane": {"hosts": hosts, "vars": given}}))
        done = subprocess.run(
            (
                *(str(BIN / "ansible-playbook"), "--inventory", str(inventory)),
                *("playbook.yml", *args),
            ),
            cwd=ROLES,
            env={
                **os.environ,
                "HOME": str(self.directory),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_LOCALHOST_WARNING": "0",
                "ANSIBLE_LIBRARY": str(Path(__file__).with_name("library")),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        return Run(status=done.returncode, text=done.stdout + done.stderr)

    def _kubelets(self) -> None:
        while not self._stop.wait(LOOK_S):
            for node in self.nodes.values():
                node.look()
