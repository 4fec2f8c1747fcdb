"""The VIP of the API while etcd and every API server are stopped for minutes, and afterwards.

Three nodes with an API server each, and etcd on the first. The daemons have the settings of the
static pods that the guides have people make, access to the API included.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import yaml
from control_plane import ControlPlane
from kube_cluster import BINARIES
from test_lease import HANG_S, Cluster, daemon, wait_until

from guides import GUIDES, commands, rights
from havip.netlab import Host, Lab, LabError, Process

pytestmark = pytest.mark.kubernetes
AWAY_S = 120.0
"""So long the control plane is stopped; nothing may happen within."""
BACK_S = 10.0
"""So long nothing may move once everything is there again."""


@dataclass
class Outage(Cluster):
    """A control plane on the nodes themselves, which can be stopped as a whole."""

    api_servers: dict[str, Process] = field(default_factory=dict)

    def start_api_server(self, host: Host) -> None:
        self.api_servers[host.name] = self.control_plane.start_api_server(host)

    def others(self, holder: Host) -> list[Host]:
        return [host for host in self.lab.hosts if host is not holder]

    def nothing_moves_for(self, duration_s: float) -> None:
        """Return after that time; at once, and in vain, if an address comes or goes."""
        before = len(self.lab.watch.vip_events(self.lab.vip_address))
        with pytest.raises(LabError, match="a move: not within"):
            self.lab.watch.wait_for(
                lambda: len(self.lab.watch.vip_events(self.lab.vip_address)) != before,
                duration_s,
                "a move",
            )


def of_the_guide(guide: str, files: dict[str, Path], vip: str) -> dict[str, str]:
    """The environment of the guide's static pod with access to the API, on a node of the lab."""
    (text,) = (
        command.text
        for command in commands(GUIDES / guide)
        if command.text.startswith("havip manifest static-pod ")
        and "--kube-holder-lease" in command.text
    )
    args = shlex.split(text)[1:]
    output = args.index("--output")
    del args[output : output + 2]
    done = subprocess.run(
        (sys.executable, "-m", "havip", *args), capture_output=True, text=True, check=True
    )
    (container,) = yaml.safe_load(done.stdout)["spec"]["containers"]
    env = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    env["HAVIP_VIP_ADDRESS_CIDR"] = vip
    for name, value in env.items():
        if name.endswith("_FILE"):
            env[name] = str(files[value])
    return {name.removeprefix("HAVIP_").lower(): value for name, value in env.items()}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Outage]:
    with Lab(hosts=3, clients=1) as lab:
        control_plane = ControlPlane(lab.hosts[0], lab.hosts, BINARIES)
        control_plane.start_etcd()
        outage = Outage(lab, control_plane, lab.directory / "token")
        for host in lab.hosts:
            outage.start_api_server(host)
            host.serve()
        outage.apply(rights()["rights.yaml"])
        made = outage.kubectl("create", "token", "havip", "--namespace=kube-system")
        outage.token.write_text(made.strip())
        for host in lab.hosts:
            outage.apply(f"{{apiVersion: v1, kind: Node, metadata: {{name: {host.name}}}}}")
        yield outage


@pytest.fixture(params=["api-kubeadm.md", "api-k3s.md"])
def outage(control_plane: Outage, request: pytest.FixtureRequest) -> Iterator[Outage]:
    """The nodes, each of which says that it is well and shows what it does."""
    lab, plane = control_plane.lab, control_plane.control_plane
    keys = lab.directory / "hmac-keys"
    keys.write_text(f"1: {'5f' * 32}\n")
    keys.chmod(0o600)
    files = {
        "/etc/havip/auth/hmac-keys": keys,
        "/etc/havip/api/token": control_plane.token,
        "/etc/kubernetes/pki/ca.crt": plane.authority.path("ca.crt"),
        "/etc/rancher/k3s/k3s.yaml": plane.authority.kubeconfig("admin", "https://127.0.0.1:6443"),
    }
    settings = of_the_guide(request.param, files, lab.vip)
    for host in lab.hosts:
        host.havip(wait=False, **settings)
    for host in lab.hosts:
        daemon(host).wait_for(partial(has_checks, host, True), HANG_S, "a check does not pass")
        daemon(host).wait_for(partial(sees_its_node, host), HANG_S, "the Node is not seen")
    yield control_plane
    for host in lab.hosts:
        daemon(host).kill()
    lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)


def has_checks(host: Host, healthy: bool) -> bool:
    """Whether each check, and there is one, says so."""
    checks = host.status()["checks"]
    return bool(checks) and all(each["healthy"] is healthy for each in checks)


def sees_its_node(host: Host) -> bool:
    return host.status()["node_object"]["seen"] is not None


def shows(outage: Outage, holder: Host) -> Callable[[], bool]:
    return lambda: outage.lease()["spec"].get("holderIdentity") == holder.name


def test_a_control_plane_that_is_stopped_for_minutes_moves_nothing(outage: Outage) -> None:
    """Last to go and first to come is the holder's API server: before, and after, it is the best.

    Which of the nodes that go at once notices last, and is the best for that long, is chance.
    """
    lab, plane = outage.lab, outage.control_plane
    holder = outage.holder()
    wait_until(shows(outage, holder), "the Lease does not say it")
    renewed = outage.lease()["spec"]["renewTime"]
    with lab.client.probe(str(lab.vip_address), interval_s=0.01) as prober:
        prober.wait_for_answer(holder.name)
        at = time.monotonic()
        for host in outage.others(holder):
            outage.api_servers[host.name].kill()
            wait_until(partial(has_checks, host, False), f"{host.name} does not notice")
        plane.etcd.kill()
        outage.api_servers[holder.name].kill()
        wait_until(partial(has_checks, holder, False), "the holder does not notice")

        outage.nothing_moves_for(AWAY_S)
        for host in lab.hosts:
            assert has_checks(host, healthy=False)
            assert host.status()["node_object"]["problem"]

        plane.start_etcd()
        for host in (holder, *outage.others(holder)):
            outage.start_api_server(host)
            wait_until(partial(has_checks, host, True), f"{host.name} does not recover")
        wait_until(lambda: outage.lease()["spec"]["renewTime"] > renewed, "not shown again")
        outage.nothing_moves_for(BACK_S)
        seen = prober.seen(at)
    assert (seen.lost, seen.answered_by) == (0, (holder.name,)), lab.watch.story(at)
    held = lab.watch.held(lab.vip_address, at)
    assert (held.none_s, held.two_s, held.holders) == (0, 0, (holder.name,)), lab.watch.story(at)
    assert shows(outage, holder)()
