"""Who holds, as kubectl shows it, and moves by what kubectl says of the nodes.

A real API server with the rights of docs/holder-and-drains.md; the nodes are objects that nobody
but this test changes, and the daemons run beside it as under systemd.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from control_plane import ControlPlane
from kube_cluster import BINARIES, CHART, ROOT
from test_lease import ACCOUNT, HANG_S, NAME, SLOW, Cluster, daemon, reasons, wait_until

from havip.netlab import Host, Lab

pytestmark = pytest.mark.kubernetes
DOCUMENT = (ROOT / "docs" / "holder-and-drains.md").read_text(encoding="utf-8")
LABEL = "havip.io/holder-10"
QUIET_S = 3.0
"""For so long nothing may move that would have moved within some tenths."""
BY_VRRP: dict[str, Any] = {"election": "vrrp", **SLOW}
ALL = {
    "kube_holder_lease": "true",
    "kube_events": "true",
    "kube_holder_label": "true",
    "kube_node_watch": "true",
}


def manifest() -> str:
    """The manifest of the document."""
    (found,) = re.findall(r"```yaml\n(apiVersion.*?)```", DOCUMENT, re.DOTALL)
    return str(found)


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
            cluster.apply(f"{{apiVersion: v1, kind: Node, metadata: {{name: {host.name}}}}}")
            host.serve()
        yield cluster


@pytest.fixture
def cluster(control_plane: Cluster) -> Iterator[Cluster]:
    """Three nodes of which none is about to leave, and no daemon of an earlier test."""
    yield control_plane
    lab = control_plane.lab
    for host in lab.hosts:
        for process in host.processes:
            if process.is_daemon and process.is_running:
                process.kill()
        control_plane.kubectl("uncordon", host.name)
        control_plane.kubectl("annotate", "node", host.name, "havip.io/step-down-")
        control_plane.kubectl("label", "node", host.name, f"{LABEL}-")
    lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)
    control_plane.kubectl("delete", "lease", NAME, "--namespace=kube-system", "--ignore-not-found")
    control_plane.kubectl("delete", "events", "--all", "--namespace=default")
    control_plane.apply(manifest())


def start(cluster: Cluster, *hosts: Host, **settings: object) -> None:
    cluster.start(*hosts, **{**BY_VRRP, **ALL, **settings})


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    start(cluster, *cluster.lab.hosts)
    cluster.holder()
    for host in cluster.lab.hosts:
        wait_until(partial(sees_its_node, host), "the Node is not seen")
    return cluster


def sees_its_node(host: Host) -> bool:
    return host.status()["node_object"]["seen"] is not None


def shown(cluster: Cluster) -> str:
    return str(cluster.lease()["spec"].get("holderIdentity", ""))


def labelled(cluster: Cluster) -> list[str]:
    told = cluster.kubectl("get", "nodes", f"--selector={LABEL}", "--output=name")
    return [line.removeprefix("node/") for line in told.split()]


def events(cluster: Cluster, host: Host) -> list[dict[str, Any]]:
    """Those of a node, the oldest first."""
    told = cluster.kubectl(
        *("get", "events.events.k8s.io", "--namespace=default", "--output=json"),
    )
    found = [each for each in json.loads(told)["items"] if each["regarding"]["name"] == host.name]
    return sorted(found, key=lambda each: each["eventTime"])


def leaves(cluster: Cluster, holder: Host, *command: str) -> Host:
    """The successor, once a command had the VIP move without a lost probe."""
    lab = cluster.lab
    with lab.client.probe(str(lab.vip_address)) as prober:
        prober.wait_for_answer(holder.name)
        at = time.monotonic()
        cluster.kubectl(*command)
        successor = cluster.wait_for_other(holder)
        seen = prober.seen(at)
    assert seen.lost == 0, lab.watch.story(at)
    assert lab.watch.held(lab.vip_address, at).none_s == 0, lab.watch.story(at)
    return successor


def stays(cluster: Cluster, holder: Host, since_at: float) -> None:
    """For a while nothing moves."""
    lab = cluster.lab
    wait_until(lambda: time.monotonic() > since_at + QUIET_S, "")
    held = lab.watch.held(lab.vip_address, since_at)
    assert (held.none_s, held.two_s) == (0, 0), lab.watch.story(since_at)
    assert cluster.holder() is holder


# Who holds.


def test_kubectl_shows_the_holder(three: Cluster) -> None:
    holder = three.holder()
    wait_until(lambda: shown(three) == holder.name, "the Lease does not say it")
    listed = three.kubectl("get", "lease", NAME, "--namespace=kube-system")
    assert listed.splitlines()[1].split()[:2] == [NAME, holder.name]
    wait_until(lambda: labelled(three) == [holder.name], "the label does not say it")
    told: list[str] = []

    def is_told() -> bool:
        told[:] = [each["reason"] for each in events(three, holder)]
        return told == reasons(daemon(holder))

    wait_until(is_told, "the Events are not what the log says")
    event = events(three, holder)[-1]
    assert (event["action"], event["type"]) == ("active", "Normal")
    assert str(three.lab.vip_address) in event["note"]
    assert told[-1] in three.kubectl("describe", "node", holder.name)
    of_havip = "--field-selector=involvedObject.kind=Node,reportingComponent=havip"
    listed = three.kubectl("get", "events", of_havip)
    assert re.search(rf"Normal +{told[-1]} +node/{holder.name} +active for ", listed), listed


def test_a_planned_stop_is_shown(three: Cluster) -> None:
    former = three.holder()
    wait_until(lambda: shown(three) == former.name, "the Lease does not say it")
    assert daemon(former).stop(HANG_S) == 0
    successor = three.wait_for_other(former)
    wait_until(lambda: shown(three) == successor.name, "the Lease does not follow")
    wait_until(lambda: labelled(three) == [successor.name], "the label does not follow")
    wait_until(
        lambda: "stopped" in [each["reason"] for each in events(three, former)], "no last Event"
    )
    assert three.lease()["spec"]["leaseTransitions"] >= 2


def test_the_last_one_takes_its_name_out(cluster: Cluster) -> None:
    host = cluster.lab.hosts[0]
    start(cluster, host)
    wait_until(lambda: shown(cluster) == host.name, "the Lease does not say it")
    assert daemon(host).stop(HANG_S) == 0
    assert (shown(cluster), labelled(cluster)) == ("", [])


def test_a_successor_of_the_dead_is_shown(three: Cluster) -> None:
    former = three.holder()
    wait_until(lambda: shown(three) == former.name, "the Lease does not say it")
    daemon(former).kill()
    successor = three.wait_for_other(former)
    wait_until(lambda: shown(three) == successor.name, "the Lease does not follow")


def test_a_lease_that_is_applied_again_stays(three: Cluster) -> None:
    holder = three.holder()
    wait_until(lambda: shown(three) == holder.name, "the Lease does not say it")
    three.apply(manifest())
    assert shown(three) == holder.name


@pytest.mark.parametrize("major", [3, 4])
def test_an_upgrade_of_the_chart_leaves_the_holder_in_its_lease(
    cluster: Cluster, major: int
) -> None:
    """Helm 3 merges what it made, makes and finds; Helm 4 has the server apply its fields."""
    at = ("lease", "havip-77", "--namespace=default")

    def helm(*args: str) -> None:
        config = f"KUBECONFIG={cluster.control_plane.admin}"
        home = f"HOME={cluster.lab.directory}"
        program = str(BINARIES / f"helm{major}")
        cluster.control_plane.host.run(("env", config, home, program, *args))

    def holder() -> str:
        return cluster.kubectl("get", *at, "--output=jsonpath={.spec.holderIdentity}")

    chart = ("edge", str(CHART), "--namespace=default", "--set=virtualRouterId=77")
    values = (f"--set=vipAddressCidr={cluster.lab.vip}", "--set=fullnameOverride=edge")
    helm("install", *chart, *values)
    try:
        assert holder() == ""
        cluster.kubectl("patch", *at, "--type=merge", '--patch={"spec":{"holderIdentity":"h1"}}')
        helm("upgrade", *chart, *values, "--set=vrrpPriority=120", "--set=commonLabels.team=net")
        assert holder() == "h1"
        labels = cluster.kubectl("get", *at, "--output=jsonpath={.metadata.labels.team}")
        assert labels == "net", "it is Helm's all the same"
        helm("rollback", "edge", "1", "--namespace=default")
        assert holder() == "h1"
    finally:
        helm("uninstall", "edge", "--namespace=default")
    assert not cluster.kubectl("get", *at, "--ignore-not-found")


def test_a_reload_shows_what_is_held_and_takes_it_back(cluster: Cluster) -> None:
    host = cluster.lab.hosts[0]
    config = cluster.lab.directory / "havip.yaml"
    on = {"kubeHolderLease": True, "kubeHolderLabel": True, "kubeNodeWatch": True}
    config.write_text("{}")
    cluster.start(host, args=(f"--config={config}",), **BY_VRRP)
    assert cluster.holder() is host
    at = time.monotonic()
    config.write_text(json.dumps(on))
    wait_until(lambda: shown(cluster) == host.name, "the Lease does not say it")
    wait_until(lambda: labelled(cluster) == [host.name], "the label does not say it")
    wait_until(lambda: host.status()["node_object"] is not None, "the Node is not watched")
    config.write_text("{}")
    wait_until(lambda: shown(cluster) == "", "the Lease still says it")
    wait_until(lambda: not labelled(cluster), "the label still says it")
    assert host.status()["node_object"] is None
    stays(cluster, host, at)


# Moves.


@pytest.mark.parametrize("election", ["vrrp", "lease"])
@pytest.mark.parametrize("how", ["cordon", "step-down"])
def test_a_node_that_is_about_to_leave_hands_over(
    cluster: Cluster, election: str, how: str
) -> None:
    if election == "lease":
        create = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
        rules = [{**create, "verbs": ["create", "get", "update", "watch"]}]
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "havip-lease", "namespace": "kube-system"},
            "rules": rules,
        }
        cluster.apply(json.dumps(role))
    start(cluster, *cluster.lab.hosts, election=election)
    former = cluster.holder()
    for host in cluster.lab.hosts:
        wait_until(partial(sees_its_node, host), "the Node is not seen")
    commands = {
        "cordon": ("cordon", former.name),
        "step-down": ("annotate", "node", former.name, "havip.io/step-down=true"),
    }
    successor = leaves(cluster, former, *commands[how])
    reason = {"cordon": "node_cordoned", "step-down": "node_steps_down"}[how]
    assert former.status()["node_object"]["leaving"] == reason
    wait_until(lambda: shown(cluster) == successor.name, "the Lease does not follow")
    at = time.monotonic()
    cluster.kubectl("uncordon", former.name)
    cluster.kubectl("annotate", "node", former.name, "havip.io/step-down-")
    wait_until(
        lambda: former.status()["node_object"]["leaving"] == "", "the Node does not stay any more"
    )
    stays(cluster, successor, at)


def test_where_every_node_is_cordoned_nothing_moves(three: Cluster) -> None:
    holder = three.holder()
    at = time.monotonic()
    others = [host for host in three.lab.hosts if host is not holder]
    for host in (*others, holder):
        three.kubectl("cordon", host.name)
        wait_until(
            lambda host=host: host.status()["node_object"]["leaving"] == "node_cordoned",
            "not seen",
        )
    stays(three, holder, at)


def test_an_api_server_that_is_away_moves_nothing(three: Cluster) -> None:
    plane = three.control_plane
    cordoned = three.holder()
    holder = leaves(three, cordoned, "cordon", cordoned.name)
    at = time.monotonic()
    plane.api_server.kill()
    try:
        for host in three.lab.hosts:
            wait_until(lambda host=host: host.status()["node_object"]["problem"] != "", "not seen")
        stays(three, holder, at)
        assert cordoned.status()["node_object"]["leaving"] == "node_cordoned"
        # And a move while it is away is shown afterwards.
        daemon(holder).kill()
        successor = three.wait_for_other(holder)
    finally:
        plane.api_server = plane.start_api_server()
    wait_until(lambda: shown(three) == successor.name, "the Lease does not follow")
    took_over = reasons(daemon(successor))[-1]
    wait_until(
        lambda: took_over in [each["reason"] for each in events(three, successor)],
        "the Event does not follow",
    )


# Rights.


def test_without_a_right_it_holds_all_the_same_and_says_so(cluster: Cluster) -> None:
    for kind in ("rolebinding/havip-lease", "clusterrolebinding/havip-nodes"):
        cluster.kubectl("delete", kind, "--namespace=kube-system")
    host = cluster.lab.hosts[0]
    start(cluster, host)
    assert cluster.holder() is host
    log = daemon(host)

    def says(*words: str) -> bool:
        return any(all(word in line for word in words) for line in log.log_text().splitlines())

    for words in (
        ("does not show the holder", "Lease", "get leases", "RBAC rule"),
        ("does not show the holder", "label", "patch nodes", "RBAC rule"),
        ("node_unknown", "get nodes", "RBAC rule"),
    ):
        wait_until(partial(says, *words), f"does not say {words}")


def test_rights_are_no_more_than_needed(cluster: Cluster) -> None:
    def may(*question: str) -> bool:
        told = cluster.kubectl("auth", "can-i", *question, f"--as={ACCOUNT}", check=False)
        return told.strip() == "yes"

    here = "--namespace=kube-system"
    assert all(may(verb, f"leases/{NAME}", here) for verb in ("get", "update"))
    assert not any(
        may(verb, f"leases/{NAME}", here) for verb in ("delete", "patch", "list", "watch")
    )
    assert not any(may(verb, "leases/kube-scheduler", here) for verb in ("get", "update"))
    assert not any(may(verb, "nodes") for verb in ("list", "update", "delete", "create"))
    assert not any(
        may(verb, "events.events.k8s.io", "--namespace=default")
        for verb in ("get", "list", "delete", "update")
    )
    assert not any(may("get", what, here) for what in ("secrets", "configmaps", "pods"))


def test_the_commands_of_the_document_say_what_stands_there(cluster: Cluster) -> None:
    blocks = re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL)
    (text,) = (block for block in blocks if "can-i" in block)
    asked = re.findall(r"\$ kubectl (.*)\n(.*)\n", text)
    assert len(asked) == 5
    for command, answer in asked:
        assert cluster.kubectl(*shlex.split(command), check=False).strip() == answer, command
