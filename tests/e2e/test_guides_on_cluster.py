"""The commands of docs/guides, as they stand there, on a real API server behind the VIP.

What differs from a reader's cluster is put in its place: addresses, the CA's path, a node's name.
A pod's container is podman's, so `kubectl exec POD --` is `podman exec CONTAINER`; and the API
server is on a host of its own, to which each node passes its port 6443 on.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_cluster import BINARIES, CHART, Cluster

from guides import GUIDES, ON_CLUSTER, Expected, Place, commands, files, rights
from havip.netlab import Host, LabError
from havip.netlab.namespace import inside

pytestmark = pytest.mark.kubernetes
BEFORE = ("before.md", "api-kubeadm.md", "api-k3s.md", "api-rke2.md", "credentials.md")
AFTER = (
    *("README.md", "validate.md", "moving.md", "troubleshooting.md", "from-kube-vip.md"),
    *("from-haproxy-keepalived.md", "from-keepalived-ingress-vip.md"),
)
NAMESPACE = "--namespace=kube-system"
EXEC = "kubectl --namespace kube-system exec $POD -- "
OLD_VIP = "10.77.0.90"
# Each connection, in both directions, until one of its ends closes.
FORWARD = """
import asyncio, sys

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

async def pass_on(reader, writer):
    there = await asyncio.open_connection(sys.argv[1], 6443)
    await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

async def main():
    server = await asyncio.start_server(pass_on, "0.0.0.0", 6443)
    print("listening", file=sys.stderr, flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
# kube-vip's, as its manifests name them; the DaemonSet fits no node.
KUBE_VIP = """
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: plndr-cp-lock, namespace: kube-system}
spec: {holderIdentity: h2}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-vip-ds, namespace: kube-system}
spec:
  selector: {matchLabels: {app: kube-vip}}
  template:
    metadata: {labels: {app: kube-vip}}
    spec:
      nodeSelector: {of-no: node}
      containers: [{name: kube-vip, image: localhost/kube-vip}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: kube-vip, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:kube-vip-role"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:kube-vip-binding"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:kube-vip-role"}
"""


class Reader:
    """Somebody who follows a guide, in a directory of their own."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.lab = cluster.lab
        self.directory = directory
        self._first = ""
        (directory / "kubeconfig").write_bytes(cluster.control_plane.admin.read_bytes())
        for name, text in rights().items():
            (directory / name).write_text(text)

    def follow(self, guide: str) -> None:
        """Do what it says, as far as it can be done here; what is not as expected fails."""
        path = GUIDES / guide
        for name, text in files(path):
            if "/" not in name:
                (self.directory / name).write_text(text)
        holder = self._holder()
        self._first = holder.name if holder else ""
        for command in commands(path):
            if expected := ON_CLUSTER.get(command.text):
                self._do(command.text, expected)

    def _do(self, text: str, expected: Expected) -> None:
        told = ""

        def is_as_expected() -> bool:
            nonlocal told
            told = self._run(text, expected.place)
            return re.search(self._pattern(expected), told, re.MULTILINE) is not None

        # A controller fills a Secret, and a VIP arrives, a moment later.
        self.cluster.wait_until(
            is_as_expected, lambda: f"{text}\nwanted: {self._pattern(expected)}\ntold: {told}"
        )

    def _pattern(self, expected: Expected) -> str:
        holder = self._holder()
        return expected.told.format(
            vip=re.escape(str(self.lab.vip_address)),
            holder=holder.name if holder else "",
            holder_mac=holder.mac if holder else "",
        )

    def _run(self, text: str, place: Place) -> str:
        """What it printed, whatever its exit status."""
        node = self._host(Place.NODE)
        pod = self._pods().get(node.name, "")
        if text.startswith(EXEC):
            (container,) = self.cluster.containers("kube-system", pod)
            args = self._as_here(text.removeprefix(EXEC)).split()
            try:
                # A container in the host's network has that of whoever calls podman.
                return inside(node.namespace, lambda: self.cluster.podman("exec", container, *args))
            except LabError as error:
                return str(error)
        done = subprocess.run(
            (
                *("ip", "netns", "exec", self._host(place).namespace),
                *("bash", "-c", self._as_here(text)),
            ),
            cwd=self.directory,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{BINARIES}:{os.environ['PATH']}",
                "KUBECONFIG": str(self.directory / "kubeconfig"),
                "POD": pod,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return done.stdout + done.stderr

    def _holder(self) -> Host | None:
        names = self.lab.watch.holders(self.lab.vip_address)
        return self.lab[next(iter(names))] if names else None

    def _host(self, place: Place) -> Host:
        holder = self._holder()
        if place is Place.ADMIN:
            return self.cluster.control_plane.host
        if place is Place.HOLDER and holder:
            return holder
        return next(node for node in self.cluster.nodes if node is not holder)

    def _as_here(self, text: str) -> str:
        control_plane = self.cluster.control_plane
        for theirs, ours in (
            ("192.168.1.100", str(self.lab.vip_address)),
            ("192.168.1.90", OLD_VIP),
            ("192.168.1.11", control_plane.host.ipv4),
            ("/etc/kubernetes/pki/ca.crt", str(control_plane.authority.path("ca.crt"))),
            ("cordon cp-1", f"cordon {self._first}"),
            ("drain cp-1", f"drain {self._first}"),
            ("node cp-1", f"node {self._first}"),
        ):
            text = text.replace(theirs, ours)
        return text

    def _pods(self) -> dict[str, str]:
        found = self.cluster.items("pods", NAMESPACE, "--selector=app.kubernetes.io/part-of=havip")
        return {each["spec"]["nodeName"]: each["metadata"]["name"] for each in found}


@pytest.fixture(scope="module")
def reader(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Before anything is installed; the API server answers on each node."""
    for node in cluster.nodes:
        forward = node.popen(
            (sys.executable, "-I", "-c", FORWARD, cluster.control_plane.host.ipv4), name="forward"
        )
        forward.wait_for_log("listening")
    yield Reader(cluster, tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def installed(reader: Reader) -> Iterator[Reader]:
    """The chart as the API endpoint on each node, in place of what credentials.md made."""
    cluster = reader.cluster
    for name in ("token-secret.yaml", *rights()):
        made = str(reader.directory / name)
        cluster.kubectl("delete", "--filename", made, "--ignore-not-found")
    at = ("havip", NAMESPACE)
    values = (
        *("--set", f"vipAddressCidr={cluster.lab.vip}", "--set", "kind=DaemonSet"),
        *("--set", "checkServiceUrl=https://127.0.0.1:6443/readyz", "--set", "checkKubelet=false"),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.helm, 4, "uninstall", *at, "--wait")
        cluster.helm(4, "install", *at, str(CHART), *values, "--wait", "--timeout=120s")
        cluster.kubectl("rollout", "status", "daemonset/havip", NAMESPACE, "--timeout=120s")
        cluster.lab.watch.wait_for_holder(cluster.lab.vip_address, timeout_s=60)
        yield reader


@pytest.mark.parametrize("guide", BEFORE)
def test_before_it_is_installed(reader: Reader, guide: str) -> None:
    reader.follow(guide)


@pytest.mark.parametrize("guide", AFTER)
def test_once_it_is_installed(installed: Reader, guide: str) -> None:
    cluster = installed.cluster
    manifest = installed.directory / "kube-vip.yaml"
    manifest.write_text(KUBE_VIP)
    cluster.kubectl("apply", "--filename", str(manifest))
    try:
        installed.follow(guide)
    finally:
        cluster.kubectl("delete", "--filename", str(manifest), "--ignore-not-found")


def test_each_guide_is_followed() -> None:
    assert {*BEFORE, *AFTER} == {path.name for path in GUIDES.glob("*.md")}
