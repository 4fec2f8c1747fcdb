"""Election by a Lease of a real API server, while a client asks the VIP, or writes through it.

Three daemons on hosts of their own; etcd and the API server run on another one. Rights are those
of docs/lease-election.md. Beside what each test asks, nobody may have the address together with
anybody else at any time, dead or alive, for longer than a planned move takes.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control_plane import ControlPlane
from kube_cluster import BINARIES, ROOT
from writes import Writes

from havip.netlab import Host, Lab, Process

pytestmark = pytest.mark.kubernetes
DOCUMENT = (ROOT / "docs" / "lease-election.md").read_text(encoding="utf-8")
ACCOUNT = "system:serviceaccount:kube-system:havip"
NAME = "havip-10"
HANG_S = 60.0
"""Protection against a hang; no promise."""
MOVE_S = 0.5
"""A planned move's overlap is 26 ms in the simulation; this machine may be busy."""
SLOW = {"lease_duration": 15, "lease_renew_deadline": 10, "lease_retry_period": 2}
FAST = {"lease_duration": 5, "lease_renew_deadline": 3, "lease_retry_period": 1}


@dataclass
class Cluster:
    lab: Lab
    control_plane: ControlPlane
    token: Path

    def kubectl(self, *args: str, check: bool = True) -> str:
        config = f"KUBECONFIG={self.control_plane.admin}"
        command = ("env", config, str(BINARIES / "kubectl"), *args)
        return self.control_plane.host.run(command, check=check).stdout

    def apply(self, text: str) -> None:
        path = self.lab.directory / "apply.yaml"
        path.write_text(text)
        self.kubectl("apply", f"--filename={path}")

    def lease(self) -> dict[str, Any]:
        told = self.kubectl("get", "lease", NAME, "--namespace=kube-system", "--output=json")
        found = json.loads(told)
        assert isinstance(found, dict)
        return found

    def start(self, *hosts: Host, wait: bool = True, **settings: object) -> None:
        """`havip run` on each host."""
        settings = {
            "vip_address_cidr": self.lab.vip,
            "election": "lease",
            "kube_api_server": self.control_plane.server,
            "kube_token_file": self.token,
            "kube_ca_file": self.control_plane.authority.path("ca.crt"),
            **FAST,
            **settings,
        }
        daemons = {host.name: host.havip(wait=False, **settings) for host in hosts}
        for host in hosts if wait else ():
            daemons[host.name].wait_for(host.is_ready, HANG_S, "/readyz does not say 200")

    def holder(self) -> Host:
        self.lab.watch.wait_for_holder(self.lab.vip_address, timeout_s=HANG_S)
        (name,) = self.lab.watch.holders(self.lab.vip_address)
        return self.lab[name]

    def wait_for_other(self, former: Host) -> Host:
        """The one holder, once it is another."""
        names = {host.name for host in self.lab.hosts} - {former.name}
        vip = self.lab.vip_address
        self.lab.watch.wait_for(
            lambda: any(self.lab.watch.has(name, vip) for name in names), HANG_S, "a successor"
        )
        return self.holder()

    def longest_overlap_s(self, since_at: float) -> float:
        """How long two hosts had the address at once, whoever of them was alive."""
        having: set[str] = set()
        longest_s, began_at = 0.0, 0.0
        for event in self.lab.watch.vip_events(self.lab.vip_address):
            was_two = len(having) > 1
            (having.add if event.present else having.discard)(event.host)
            if len(having) > 1 and not was_two:
                began_at = event.at
            elif was_two and len(having) < 2 and event.at >= since_at:
                longest_s = max(longest_s, event.at - began_at)
        assert len(having) < 2, self.lab.watch.story()
        return longest_s


def daemon(host: Host) -> Process:
    return next(each for each in reversed(host.processes) if each.is_daemon)


def reasons(process: Process) -> list[str]:
    lines = (json.loads(line) for line in process.log_text().splitlines() if line[:1] == "{")
    return [line.get("reason", "") for line in lines if line["event"] == "moved"]


def manifest() -> str:
    """The manifest of the document: its YAML that holds a Role."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    (found,) = (block for block in blocks if "kind: Role\n" in block)
    return found


@pytest.fixture(scope="module")
def control_plane() -> Iterator[Cluster]:
    with Lab(hosts=3, clients=2) as lab:
        control_plane = ControlPlane(lab.clients[1], [], BINARIES)
        control_plane.start_api()
        cluster = Cluster(lab, control_plane, lab.directory / "token")
        cluster.apply(manifest())
        made = cluster.kubectl("create", "token", "havip", "--namespace=kube-system")
        cluster.token.write_text(made.strip())
        for host in lab.hosts:
            host.serve()
        yield cluster


@pytest.fixture
def cluster(control_plane: Cluster) -> Iterator[Cluster]:
    """The control plane, and no daemon and no Lease from an earlier test."""
    since_at = time.monotonic()
    yield control_plane
    lab = control_plane.lab
    for host in lab.hosts:
        for process in host.processes:
            if process.is_daemon and process.is_running:
                process.kill()
    lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)
    overlap_s = control_plane.longest_overlap_s(since_at)
    assert overlap_s < MOVE_S, lab.watch.story(since_at)
    control_plane.kubectl(
        "delete", "lease", NAME, "--namespace=kube-system", "--ignore-not-found", check=False
    )


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    cluster.start(*cluster.lab.hosts)
    cluster.holder()
    return cluster


def wait_until(question: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HANG_S
    while not question():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


# Who holds.


def test_kubectl_shows_the_holder(three: Cluster) -> None:
    holder = three.holder()
    listed = three.kubectl("get", "lease", NAME, "--namespace=kube-system")
    assert listed.splitlines()[1].split()[:2] == [NAME, holder.name]
    lease = three.lease()
    assert lease["metadata"]["annotations"] == {"havip/holder-mac": holder.mac}
    spec = lease["spec"]
    assert (spec["leaseDurationSeconds"], spec["leaseTransitions"]) == (5, 0)
    for host in three.lab.hosts:
        (router,) = host.status()["routers"]
        daemon(host).wait_for(
            lambda host=host: host.status()["routers"][0]["lease"]["holder"] == holder.name,
            HANG_S,
            "does not follow",
        )
        assert router["state"] == ("active" if host is holder else "backup")


def test_what_others_write_into_the_lease_stays(three: Cluster) -> None:
    """And it moves nothing."""
    holder = three.holder()
    three.kubectl("annotate", "lease", NAME, "--namespace=kube-system", "example.org/note=1")
    before = three.lease()["spec"]["renewTime"]
    wait_until(lambda: three.lease()["spec"]["renewTime"] > before, "not renewed")
    assert three.lease()["metadata"]["annotations"]["example.org/note"] == "1"
    daemon(holder).stop()
    three.wait_for_other(holder)
    assert three.lease()["metadata"]["annotations"]["example.org/note"] == "1"


# Moves.


def test_a_planned_move_loses_nothing(three: Cluster) -> None:
    lab = three.lab
    with lab.client.probe(str(lab.vip_address)) as prober:
        prober.wait_for_answer()
        holder, at = three.holder(), time.monotonic()
        assert daemon(holder).stop(HANG_S) == 0
        successor = three.wait_for_other(holder)
        seen = prober.seen(at)
    assert seen.lost == 0, lab.watch.story(at)
    # In between both answer, and answers overtake one another.
    assert (seen.answered_by[0], seen.answered_by[-1]) == (holder.name, successor.name)
    assert set(seen.answered_by) == {holder.name, successor.name}
    spec = three.lease()["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == (successor.name, 1)
    assert reasons(daemon(successor))[-1] == "lease_released"


@pytest.mark.parametrize(
    "times", [pytest.param(FAST, id="5/3/1"), pytest.param(SLOW, id="15/10/2")]
)
@pytest.mark.parametrize("how", ["killed", "powered off"])
def test_a_dead_holder_is_replaced(cluster: Cluster, how: str, times: dict[str, int]) -> None:
    lab = cluster.lab
    cluster.start(*lab.hosts, **times)
    with lab.client.probe(str(lab.vip_address)) as prober, Writes(lab) as writes:
        prober.wait_for_answer()
        holder = cluster.holder()
        writes.wait_for(holder, 0.0, HANG_S)
        at = time.monotonic()
        try:
            daemon(holder).kill() if how == "killed" else holder.power_off()
            names = [host.name for host in lab.hosts if host is not holder]
            prober.wait_for_answer(*names, since_at=at, timeout_s=HANG_S)
            assert cluster.longest_overlap_s(at) == 0, lab.watch.story(at)
            successor = cluster.wait_for_other(holder)
            assert reasons(daemon(successor))[-1] == "lease_expired"
            assert cluster.lease()["spec"]["holderIdentity"] == successor.name
            writes.wait_for(successor, at, HANG_S)
            writes.verify(holder, successor)
            assert lab.watch.held(lab.vip_address, at).two_s == 0, lab.watch.story(at)
        finally:
            if how != "killed":
                holder.power_on()
                holder.serve()


def test_a_daemon_that_is_started_again_resumes_its_lease(three: Cluster) -> None:
    holder = three.holder()
    daemon(holder).kill()
    three.start(holder)
    wait_until(lambda: "lease_resumed" in reasons(daemon(holder)), "not resumed")
    assert three.holder() is holder
    assert three.lease()["spec"]["leaseTransitions"] == 0


def test_a_frozen_holder_has_lost_the_address_before(three: Cluster) -> None:
    lab = three.lab
    holder = three.holder()
    frozen = daemon(holder)
    with Writes(lab) as writes:
        writes.wait_for(holder, 0.0, HANG_S)
        at = time.monotonic()
        frozen.freeze()
        successor = three.wait_for_other(holder)
        assert three.longest_overlap_s(at) == 0, lab.watch.story(at)
        writes.wait_for(successor, at, HANG_S)
        frozen.thaw()
        thawed_at = time.monotonic()
        wait_until(lambda: "frozen" in reasons(frozen), "does not step down")
        version = three.lease()["metadata"]["resourceVersion"]
        wait_until(lambda: three.lease()["metadata"]["resourceVersion"] != version, "not renewed")
        assert three.lease()["spec"]["holderIdentity"] == successor.name
        assert three.holder() is successor
        writes.wait_for(successor, thawed_at, HANG_S)
        writes.verify(holder, successor)
    assert three.longest_overlap_s(at) == 0, lab.watch.story(at)
    assert lab.watch.held(lab.vip_address, at).two_s == 0, lab.watch.story(at)


# The API server.


def test_nobody_holds_without_the_api_server(three: Cluster) -> None:
    lab, plane = three.lab, three.control_plane
    holder, at = three.holder(), time.monotonic()
    plane.api_server.kill()
    try:
        lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)
        assert reasons(daemon(holder))[-1] == "lease_not_renewed"
        # For longer than the Lease: each node has asked in vain since it ended.
        expired_at = time.monotonic() + FAST["lease_duration"]
        failures = {host.name: failed(host) for host in lab.hosts}
        wait_until(
            lambda: (
                time.monotonic() > expired_at
                and all(failed(host) > failures[host.name] + 3 for host in lab.hosts)
            ),
            "nobody asks",
        )
        assert not lab.watch.holders(lab.vip_address)
        problem = lab.hosts[0].status()["routers"][0]["lease"]["problem"]
        assert "refused" in problem and "start the API server" in problem
    finally:
        plane.api_server = plane.start_api_server()
    three.holder()
    assert three.longest_overlap_s(at) == 0, lab.watch.story(at)


def failed(host: Host) -> float:
    lines = (line.rpartition(" ") for line in host.metrics().splitlines())
    return sum(float(value) for name, _, value in lines if "lease_failures_total{" in name)


def test_a_holder_that_is_cut_off_lets_go_before(three: Cluster) -> None:
    lab, plane = three.lab, three.control_plane
    holder, at = three.holder(), time.monotonic()
    lab.partition([holder], [plane.host])
    try:
        successor = three.wait_for_other(holder)
        assert three.longest_overlap_s(at) == 0, lab.watch.story(at)
        assert reasons(daemon(holder))[-1] == "lease_not_renewed"
    finally:
        lab.heal()
    follows = lambda: holder.status()["routers"][0]["lease"]["holder"] == successor.name  # noqa: E731
    daemon(holder).wait_for(follows, HANG_S, "does not follow")
    assert three.holder() is successor


def test_a_right_that_is_taken_away_is_named(three: Cluster) -> None:
    lab = three.lab
    holder, at = three.holder(), time.monotonic()
    three.kubectl("delete", "rolebinding", "havip-lease", "--namespace=kube-system")
    try:
        lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)
        problem = holder.status()["routers"][0]["lease"]["problem"]
        assert f"{ACCOUNT} may not" in problem and "RBAC rule" in problem
        assert "leases" in problem and "coordination.k8s.io" in problem
    finally:
        three.apply(manifest())
    three.holder()
    assert three.longest_overlap_s(at) == 0, lab.watch.story(at)


def test_a_wrong_namespace_is_named(cluster: Cluster) -> None:
    host = cluster.lab.hosts[0]
    cluster.start(host, wait=False, lease_namespace="nowhere")
    daemon(host).wait_for(lambda: _answers(host), HANG_S, "no status")
    why = ""

    def is_told() -> bool:
        nonlocal why
        why = host.status()["not_ready_because"]
        return "nowhere" in why and "403" in why

    daemon(host).wait_for(is_told, HANG_S, f"does not say why: {why}")
    assert not cluster.lab.watch.holders(cluster.lab.vip_address)


def _answers(host: Host) -> bool:
    try:
        host.status()
    except OSError:
        return False
    return True


def test_a_deleted_lease_is_made_anew_by_its_holder(three: Cluster) -> None:
    holder, at = three.holder(), time.monotonic()
    three.kubectl("delete", "lease", NAME, "--namespace=kube-system")
    wait_until(
        lambda: NAME in three.kubectl("get", "leases", "--namespace=kube-system"), "not made"
    )
    assert three.lease()["spec"]["holderIdentity"] == holder.name
    assert three.lab.watch.held(three.lab.vip_address, at).none_s == 0


# Rights.


def test_rights_are_no_more_than_needed(cluster: Cluster) -> None:
    def may(*question: str) -> bool:
        told = cluster.kubectl(
            *("auth", "can-i", *question, f"--as={ACCOUNT}", "--namespace=kube-system"), check=False
        )
        return told.strip() == "yes"

    lease = f"leases/{NAME}"
    assert all(may(verb, lease) for verb in ("get", "update", "watch"))
    assert not any(may(verb, lease) for verb in ("delete", "patch", "list"))
    assert may("create", "leases")
    assert not any(may(verb, "leases/kube-scheduler") for verb in ("get", "update", "watch"))
    assert not any(may("get", what) for what in ("secrets", "configmaps", "nodes", "pods"))


def test_the_commands_of_the_document_say_what_stands_there(cluster: Cluster) -> None:
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    (text,) = (block for block in blocks if "can-i" in block)
    asked = re.findall(r"\$ kubectl (.*)\n(.*)\n", text)
    assert len(asked) == 3
    for command, answer in asked:
        assert cluster.kubectl(*shlex.split(command), check=False).strip() == answer, command
