"""`vrrpUnicastPeers: auto`: pods find each other by the API, and stay found without it."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kube_cluster import HANG_S, Cluster
from release import NAMESPACE, Release, installed, namespace, values

from havip.netlab import Host, Prober

pytestmark = pytest.mark.kubernetes
HERE = f"--namespace={NAMESPACE}"
SERVICE = "peers-havip"


def disk(cluster: Cluster, node: Host) -> Path:
    return Path(cluster.lab.directory, f"{node.name}-pods", "disk")


def forget_lists(cluster: Cluster) -> None:
    """As on nodes that have never had a pod of havip: its list outlasts the release."""
    for node in cluster.nodes:
        shutil.rmtree(disk(cluster, node), ignore_errors=True)


@contextlib.contextmanager
def discovering(cluster: Cluster, **changes: Any) -> Iterator[Release]:
    forget_lists(cluster)
    with installed(cluster, vrrpUnicastPeers="auto", **changes) as release:
        yield release


def wait_until_acquainted(release: Release, count: int) -> None:
    """Every pod's node sends adverts to all others, and the VIP is on one of them."""
    cluster = release.cluster
    address = {node.name: node.ipv4 for node in cluster.nodes}

    def peers() -> dict[str, list[str]]:
        return {
            name: cluster.lab[name].status()["routers"][0]["unicast_peers"]
            for name in release.pods()
        }

    def are_acquainted() -> bool:
        known = peers()
        everybody = {address[name] for name in known}
        return len(known) == count and all(
            set(found) == everybody - {address[name]} for name, found in known.items()
        )

    cluster.wait_until(are_acquainted, peers)


def kept_lists(cluster: Cluster) -> dict[str, list[str]]:
    """The lists on the nodes' disks, by node."""
    found = {}
    for node in cluster.nodes:
        for path in disk(cluster, node).rglob("peers-*.json"):
            found[node.name] = json.loads(path.read_text())["addresses"]
    return found


def readiness(node: Host) -> str:
    """What `/readyz` says; nothing while nobody answers."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return node.get("/readyz")[1]
    return ""


def test_the_pods_of_a_daemonset_find_each_other(cluster: Cluster) -> None:
    lab = cluster.lab
    with discovering(cluster, kind="DaemonSet") as release:
        wait_until_acquainted(release, 3)
        first = release.holder()
        everybody = sorted(node.ipv4 for node in cluster.nodes)
        cluster.wait_until(
            lambda: (
                [*map(sorted, kept_lists(cluster).values())] == [everybody] * len(cluster.nodes)
            ),
            lambda: kept_lists(cluster),
        )
        pod = release.pods()[first.name]["metadata"]["name"]
        cluster.kill(first, NAMESPACE, pod)
        assert release.holder() is not first
        cluster.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", HERE, "--timeout=60s")
        lab.watch.mark(first.name, alive=True)
        wait_until_acquainted(release, 3)


def test_a_new_pod_is_known_and_moves_nothing(cluster: Cluster) -> None:
    """And one that goes away hands over, and is no peer of its successor's any more at the end."""
    with (
        discovering(cluster, pod={"replicas": 2}) as release,
        Prober(cluster.lab.client, str(cluster.lab.vip_address)) as prober,
    ):
        first = release.holder()
        prober.wait_for_answer(first.name)
        wait_until_acquainted(release, 2)
        scaled_at = time.monotonic()
        release.upgrade(pod={"replicas": 3})
        wait_until_acquainted(release, 3)
        assert release.holder() is first
        seen = prober.seen(scaled_at)
        assert (seen.lost, seen.answered_by) == (0, (first.name,))

        pod = release.pods()[first.name]["metadata"]["name"]
        deleted_at = time.monotonic()
        cluster.kubectl("delete", "pod", pod, HERE, "--timeout=60s")
        release.wait_until_rolled_out()
        assert release.holder() is not first
        assert prober.seen(deleted_at).lost == 0


def test_without_the_api_every_pod_restarts_and_one_holds(cluster: Cluster) -> None:
    lab = cluster.lab
    with discovering(cluster, kind="DaemonSet") as release:
        wait_until_acquainted(release, 3)
        pods = {name: pod["metadata"]["name"] for name, pod in release.pods().items()}
        cluster.control_plane.api_server.kill()
        try:
            for node in cluster.nodes:
                cluster.kill(node, NAMESPACE, pods[node.name])
                cluster.wait_until(node.is_ready, partial(readiness, node))
                lab.watch.mark(node.name, alive=True)
                release.holder()
            restarted = {
                node.name: node.status()["routers"][0]["unicast_peers"] for node in cluster.nodes
            }
            assert {len(peers) for peers in restarted.values()} == {2}, restarted
            # For longer than any of them would wait for a holder that it did not hear.
            began_at = time.monotonic()
            cluster.wait_until(lambda: time.monotonic() > began_at + 3, lambda: "")
            held = lab.watch.held(lab.vip_address, began_at, time.monotonic())
            assert (held.none_s, held.two_s) == (0, 0), lab.watch.story()
        finally:
            cluster.control_plane.api_server = cluster.control_plane.start_api_server()


def test_without_the_right_to_list_nobody_holds_and_the_pod_says_why(cluster: Cluster) -> None:
    """And once it has the right, it goes on by itself."""
    lab = cluster.lab
    forget_lists(cluster)
    with namespace(cluster):
        rbac = {"create": False}
        changes = {"kind": "DaemonSet", "vrrpUnicastPeers": "auto", "rbac": rbac}
        release = Release(cluster, 4, values(cluster, **changes))
        try:
            release.install()
            cluster.wait_until(
                lambda: all("RBAC rule" in readiness(node) for node in cluster.nodes),
                lambda: [readiness(node) for node in cluster.nodes],
            )
            told = readiness(cluster.nodes[0])
            assert "no_peers: Service vip/peers-havip: HTTP 403" in told
            assert "list endpointslices.discovery.k8s.io" in told
            assert lab.watch.holders(lab.vip_address) == ()
            metadata = {"name": SERVICE, "namespace": NAMESPACE}
            of_group = {"apiGroup": "rbac.authorization.k8s.io"}
            subject = {"kind": "ServiceAccount", "name": "havip", "namespace": NAMESPACE}
            rule = {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            }
            kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata}
            cluster.apply(
                kind | {"kind": "Role", "rules": [rule]},
                kind
                | {
                    "kind": "RoleBinding",
                    "roleRef": of_group | {"kind": "Role", "name": SERVICE},
                    "subjects": [subject],
                },
            )
            wait_until_acquainted(release, 3)
            release.holder()
        finally:
            release.helm("uninstall", "--ignore-not-found", "--wait")
            lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)


def test_it_may_list_its_peers_and_nobody_elses(cluster: Cluster) -> None:
    with discovering(cluster) as release:
        (pod, *_) = release.pods().values()

        def may(*question: str) -> bool:
            told = cluster.as_pod(pod, "auth", "can-i", *question).stdout.split()[:1]
            assert told in (["yes"], ["no"])
            return told == ["yes"]

        for verb in ("list", "watch"):
            assert may(verb, "endpointslices.discovery.k8s.io", HERE)
            assert not may(verb, "endpointslices.discovery.k8s.io", "--namespace=kube-system")
        for question in (
            ("get", "endpointslices.discovery.k8s.io"),
            ("update", "endpointslices.discovery.k8s.io"),
            ("list", "endpoints"),
            ("list", "services"),
            ("list", "pods"),
            ("list", "nodes"),
        ):
            assert not may(*question, HERE), question
