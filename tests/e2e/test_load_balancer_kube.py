"""Three real API servers behind a real HAProxy at the VIP, and kubectl with a client certificate.

Everybody's kubeconfig, havip's too, has the VIP as its server, as kubeadm writes it: so the first
backends are found while nobody holds the VIP.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from control_plane import ControlPlane
from kube_cluster import BINARIES

from havip.netlab import Host, Lab, Process

pytestmark = pytest.mark.kubernetes
PORT = 8443
HANG_S = 60.0
"""Protection against a hang; no promise."""
# Who asks a host without power gives up before kubectl finds out by itself.
REQUESTS = (
    "while :; do kubectl get --raw /api/v1/namespaces/default --request-timeout=5s >/dev/null"
    " && echo ok; done"
)
MANY = "for _ in 1 2 3 4 5 6; do kubectl get configmaps --watch & done; wait"
WATCHES = "while :; do kubectl get configmaps --watch --output name; echo ended; done"


@dataclass
class Balanced:
    lab: Lab
    control_plane: ControlPlane
    kubeconfig: Path
    api_servers: dict[str, Process] = field(default_factory=dict)
    haproxies: dict[str, Process] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)

    def start(self) -> None:
        self.control_plane.start_etcd()
        for host in self.lab.hosts:
            self.api_servers[host.name] = self.control_plane.start_api_server(host)
        for host in self.lab.hosts:
            settings = self._settings(host)
            given = [f"HAVIP_{name.upper()}={value}" for name, value in settings.items()]
            prepare = (sys.executable, "-m", "havip", "load-balancer", "--haproxy", "haproxy")
            host.run(("env", *given, *prepare))
            file = f"{settings['load_balancer_directory']}/haproxy.cfg"
            command = ("haproxy", "-W", "-db", "-f", file)
            self.haproxies[host.name] = host.popen(command, name="haproxy")
            self.daemons[host.name] = host.havip(wait=False, **settings)

    def _settings(self, host: Host) -> dict[str, object]:
        return {
            "vip_address_cidr": self.lab.vip,
            "load_balancer": "true",
            "load_balancer_directory": self.lab.directory / f"{host.name}-haproxy",
            "load_balancer_ca_file": self.control_plane.authority.path("ca.crt"),
            "load_balancer_slow_start": 0,
            "state_directory": self.lab.directory / f"{host.name}-state",
            "kubeconfig_file": self.kubeconfig,
        }

    def shell(self, script: str) -> Process:
        """A script of a person at the client, who has kubectl and the kubeconfig."""
        env = {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{BINARIES}:/usr/bin:/bin"}
        return self.lab.client.popen(("sh", "-c", script), name="sh", env=env)

    def kubectl(self, *args: str) -> str:
        config = f"KUBECONFIG={self.kubeconfig}"
        return self.lab.client.run(("env", config, str(BINARIES / "kubectl"), *args)).stdout

    def holder(self) -> Host:
        self.lab.watch.wait_for_holder(self.lab.vip_address, timeout_s=HANG_S)
        (name,) = self.lab.watch.holders(self.lab.vip_address)
        return self.lab[name]

    def sessions(self, host: Host) -> list[int]:
        """Of each backend, how many connections it has."""
        return [each["sessions"] for each in host.status()["balancer"]["backends"]]

    def failed(self, requests: Process) -> str:
        """What kubectl wrote of requests that failed."""
        return requests.log_text().replace("ok\n", "")

    def wait(self, host: Host, what: str, expected: set[str]) -> None:
        """Until the backends of that host which are so are these hosts' API servers."""
        names = {f"{each.ipv4}:6443": each.name for each in self.lab.hosts}

        def found() -> set[str]:
            try:
                backends = host.status()["balancer"]["backends"]
            except OSError:  # it does not listen yet
                return set()
            return {names[each["name"]] for each in backends if each[what]}

        self.daemons[host.name].wait_for(lambda: found() == expected, HANG_S, f"{what} {expected}")


@pytest.fixture(scope="module")
def it() -> Iterator[Balanced]:
    with Lab(hosts=3, clients=2, capture=False) as lab:
        control_plane = ControlPlane(lab.clients[1], lab.hosts, BINARIES)
        server = f"https://{lab.vip_address}:{PORT}"
        yield Balanced(lab, control_plane, control_plane.authority.kubeconfig("admin", server))


def test_kubectl_and_its_watches_go_on(it: Balanced) -> None:
    lab = it.lab
    it.start()
    everybody = {host.name for host in lab.hosts}
    for host in lab.hosts:
        it.wait(host, "healthy", everybody)
    first = it.holder()
    assert "kubernetes-admin" in it.kubectl("auth", "whoami")
    requests, watches = it.shell(REQUESTS), it.shell(WATCHES)

    def wait_for_answers(count: int) -> None:
        wanted = requests.log_text().count("ok") + count
        requests.wait_for(lambda: requests.log_text().count("ok") >= wanted, HANG_S, "no answers")

    wait_for_answers(12)
    process = first.status()["balancer"]["process"]

    # Seven watches are two or three for each API server, but for a request in between.
    many = it.shell(MANY)
    many.wait_for(lambda: sum(it.sessions(first)) >= 7, HANG_S, "no seven watches")
    assert min(it.sessions(first)) >= 1
    many.kill()

    # An API server dies: once that is seen, no request fails. Then the others list it no more;
    # and it comes back.
    dead = next(host for host in lab.hosts if host is not first)
    it.api_servers[dead.name].kill()
    it.wait(first, "healthy", everybody - {dead.name})
    failed = it.failed(requests)
    wait_for_answers(10)
    it.kubectl("create", "configmap", "dead")
    watches.wait_for_log("configmap/dead", HANG_S)
    it.wait(first, "listed", everybody - {dead.name})
    assert lab.watch.holders(lab.vip_address) == (first.name,)

    it.api_servers[dead.name] = it.control_plane.start_api_server(dead)
    it.wait(first, "healthy", everybody)
    wait_for_answers(10)
    assert it.failed(requests) == failed
    assert first.status()["balancer"]["process"] == process, "no reload"

    # The VIP moves: the watch ends, and begins anew where the VIP is.
    ended = watches.log_text().count("ended")
    it.daemons[first.name].stop()
    second = it.holder()
    assert second is not first
    watches.wait_for(
        lambda: watches.log_text().count("ended") > ended, HANG_S, "the watch hangs on"
    )
    it.kubectl("create", "configmap", "moved")
    watches.wait_for_log("configmap/moved", HANG_S)

    # The holder loses power, and its API server with it. Once both are seen, no request fails.
    (third,) = (host for host in lab.hosts if host not in (first, second))
    second.power_off()
    lab.watch.wait_for_holder(lab.vip_address, third.name, timeout_s=HANG_S)
    wait_for_answers(10)
    it.wait(third, "healthy", everybody - {second.name})
    wait_for_answers(1)  # of whoever was asking then
    failed = it.failed(requests)
    wait_for_answers(10)
    assert it.failed(requests) == failed
