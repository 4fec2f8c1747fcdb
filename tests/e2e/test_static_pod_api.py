"""A static pod that asks a real API server, of which it needs nothing to hold the VIP.

The manifest is for a node of kubeadm, and podman starts it as the kubelet does: what the pod sees
of the token and the CA is what its manifest mounts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_plane import ControlPlane
from kube_cluster import BINARIES, ROOT, image_archive

from guides import rights
from havip.netlab import Lab

sys.path.insert(0, str(ROOT / "tests" / "image"))
from engine import Engine, Pod
from manifest import write_for

pytestmark = pytest.mark.kubernetes
HANG_S = 60.0
"""Protection against a hang; no promise."""
API, AUTHORITY = "/etc/havip/api", "/etc/kubernetes/pki/ca.crt"
REFUSED = "nothing listens on 127.0.0.1:6443 (connection refused): start the API server"


@dataclass
class Node:
    """The only one; its API server is there, and no pod yet."""

    lab: Lab
    engine: Engine
    control_plane: ControlPlane
    image: str
    api: Path
    """Its `/etc/havip/api`."""

    def kubectl(self, *args: str) -> str:
        config = f"KUBECONFIG={self.control_plane.admin}"
        return self.lab.hosts[0].run(("env", config, str(BINARIES / "kubectl"), *args)).stdout

    def renew_token(self) -> None:
        """By a new file in place of the former one."""
        new = self.api / "new"
        new.write_text(self.kubectl("create", "token", "havip", "--namespace=kube-system"))
        new.chmod(0o600)
        new.replace(self.api / "token")

    def start_api_server(self) -> None:
        self.control_plane.api_server = self.control_plane.start_api_server()

    def play(self) -> Pod:
        command = (
            *(sys.executable, "-m", "havip", "manifest", "static-pod", "--for=kubeadm"),
            *(f"--vip-address-cidr={self.lab.vip}", "--all-unhealthy=hold"),
            *(f"--image={self.image}", "--image-pull-policy=Never"),
            *("--check-kube-api=true", "--check-kube-api-weight=0"),
            *("--check-kube-api-interval=0.5", "--check-kube-api-timeout=0.4"),
            *("--kube-api-server=https://127.0.0.1:6443", f"--kube-token-file={API}/token"),
            f"--kube-ca-file={AUTHORITY}",
        )
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        written = yaml.safe_load(text)
        places = {API: self.api, AUTHORITY: self.control_plane.authority.path("ca.crt")}
        for volume in written["spec"]["volumes"]:
            volume["hostPath"]["path"] = str(places[volume["hostPath"]["path"]])
        host = self.lab.hosts[0]
        pod = Pod(self.engine, host, write_for(host, written))
        pod.play()
        return pod


@pytest.fixture
def node() -> Iterator[Node]:
    with Engine() as engine, Lab(hosts=1, clients=1) as lab:
        try:
            loaded = engine.podman("load", "--quiet", "--input", str(image_archive()))
            control_plane = ControlPlane(lab.hosts[0], lab.hosts, BINARIES)
            control_plane.start_api()
            api = lab.directory / "api"
            api.mkdir(mode=0o700)
            node = Node(lab, engine, control_plane, loaded.split()[-1], api)
            rights_file = lab.directory / "rbac.yaml"
            rights_file.write_text(rights()["rbac.yaml"])
            node.kubectl("apply", f"--filename={rights_file}")
            node.renew_token()
            yield node
        finally:
            # Before the namespaces go: a container is not the lab's process.
            engine.remove_all()


def test_a_static_pod_outlives_the_api_server_and_its_token(node: Node) -> None:
    host, watch, vip = node.lab.hosts[0], node.lab.watch, node.lab.vip_address

    def check() -> dict[str, Any]:
        (found,) = (each for each in host.status()["checks"] if each["name"] == "kube_api")
        assert isinstance(found, dict)
        return found

    def says(healthy: bool, result: str, words: str) -> None:
        def is_said() -> bool:
            try:
                told = check()
            except OSError:
                return False
            as_it_is = (told["healthy"], told["last_result"])
            return as_it_is == (healthy, result) and words in told["detail"]

        pod.wait_for(is_said, f"the check does not say {result}: {words}", HANG_S)

    # As after a power cut: the pod is there first.
    node.control_plane.api_server.kill()
    pod = node.play()
    watch.wait_for_holder(vip, host.name, timeout_s=HANG_S)
    at, started = time.monotonic(), pod.pid
    says(False, "refused", REFUSED)
    node.start_api_server()
    says(True, "passed", "HTTP 200")
    node.control_plane.api_server.kill()
    says(False, "refused", REFUSED)
    node.start_api_server()
    says(True, "passed", "HTTP 200")

    # A token is as good as its account.
    account = ("serviceaccount", "havip", "--namespace=kube-system")
    node.kubectl("delete", *account)
    says(False, "unauthorized", "HTTP 401: the token is not accepted: renew it")
    node.kubectl("create", *account)
    node.renew_token()
    says(True, "passed", "HTTP 200")

    assert (pod.pid, pod.restarts) == (started, 0)
    held = watch.held(vip, at)
    assert (held.none_s, held.two_s, held.holders) == (0, 0, (host.name,)), watch.story(at)
