"""Pods from the real image move the VIP, as the cluster and its people make them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kube_cluster import HANG_S, Cluster
from release import NAMESPACE, Release, installed

from havip.netlab import Host, Prober

HERE = f"--namespace={NAMESPACE}"


def others(release: Release, host: Host) -> list[str]:
    return [name for name in release.pods() if name != host.name]


@contextlib.contextmanager
def watching(cluster: Cluster, **values: Any) -> Iterator[tuple[Release, Host, Prober]]:
    """A release, the node that holds its VIP, and a client that asks it each millisecond."""
    with (
        installed(cluster, **values) as release,
        Prober(cluster.lab.client, str(cluster.lab.vip_address)) as prober,
    ):
        first = release.holder()
        prober.wait_for_answer(first.name)
        yield release, first, prober


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_a_deleted_pod_hands_the_vip_over_and_loses_nothing(cluster: Cluster, kind: str) -> None:
    with watching(cluster, kind=kind) as (release, first, prober):
        deleted_at = time.monotonic()
        pod = release.pods()[first.name]["metadata"]["name"]
        cluster.kubectl("delete", "pod", pod, HERE, "--timeout=60s")
        release.wait_until_rolled_out()

        second = release.holder()
        assert second is not first
        seen = prober.seen(deleted_at)
        assert seen.lost == 0
        assert seen.answered_by[-1] == second.name


def test_a_killed_pod_loses_the_vip_to_another_node_and_is_restarted(cluster: Cluster) -> None:
    with watching(cluster, kind="DaemonSet") as (release, first, prober):
        lab = cluster.lab
        pod = release.pods()[first.name]["metadata"]["name"]
        killed_at = cluster.kill(first, NAMESPACE, pod)
        lab.watch.wait_for_holder(lab.vip_address, *others(release, first), timeout_s=HANG_S)
        second = release.holder()
        prober.wait_for_answer(second.name, since_at=killed_at)

        cluster.kubectl("wait", "--for=condition=Ready", f"pod/{pod}", HERE, "--timeout=60s")
        (status,) = cluster.get("pod", pod, HERE)["status"]["containerStatuses"]
        assert status["restartCount"] == 1
        # It comes back as a backup: what another one has, it does not take.
        lab.watch.mark(first.name, alive=True)
        lab.watch.wait_until_gone(lab.vip_address, first.name)
        assert release.holder() is second


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_a_rolling_update_moves_the_vip_at_most_once_per_node_and_loses_nothing(
    cluster: Cluster, kind: str
) -> None:
    """With as many replicas as nodes, a Deployment must be able to roll too."""
    lab = cluster.lab
    with watching(cluster, kind=kind, pod={"replicas": len(cluster.nodes)}) as (release, _, prober):
        old = {pod["metadata"]["name"] for pod in release.pods().values()}
        began_at = time.monotonic()
        release.upgrade(debug=True)
        ended_at = time.monotonic()

        assert not old & {pod["metadata"]["name"] for pod in release.pods().values()}
        # Not where it came: the next may be one that is yet to be replaced, and get it back later.
        left = [
            event.host
            for event in lab.watch.vip_events(lab.vip_address)
            if event.at > began_at and not event.present
        ]
        assert left, "the holder was replaced too"
        assert len(left) == len(set(left)), f"at most once per node: {left}"
        seen = prober.seen(began_at, ended_at)
        assert seen.lost == 0
        assert lab.watch.held(lab.vip_address, began_at, ended_at).none_s == 0


def test_a_drained_node_hands_the_vip_over(cluster: Cluster) -> None:
    with watching(cluster) as (release, first, prober):
        began_at = time.monotonic()
        try:
            cluster.kubectl("drain", first.name, "--timeout=60s")
            second = release.holder()
            assert second is not first
            assert prober.seen(began_at).lost == 0
            # Two replicas, three nodes: the third gets what the first had.
            release.wait_until_rolled_out()
            assert first.name not in release.pods()
        finally:
            cluster.kubectl("uncordon", first.name)


def test_a_dead_node_is_replaced_at_once_and_its_pod_after_the_toleration(
    cluster: Cluster,
) -> None:
    """Its replica comes back on the node that had none, since the tolerations end after 15 s."""
    with watching(cluster) as (release, first, prober):
        (spare,) = {node.name for node in cluster.nodes} - set(release.pods())
        off_at = first.power_off()
        try:
            second = release.holder()
            assert second is not first
            prober.wait_for_answer(second.name, since_at=off_at)
            cluster.kubectl(
                "wait", "--for=condition=Ready=Unknown", f"node/{first.name}", "--timeout=60s"
            )
            cluster.wait_until(lambda: spare in release.pods(), release.pods)
            assert cluster.lab.watch.holders(cluster.lab.vip_address) == (second.name,)
        finally:
            cluster.power_on(first)


def test_a_dead_kubelet_moves_the_vip(cluster: Cluster) -> None:
    """`checkKubelet` probes the kubelet, where the old chart probed the service again."""
    checks = {"checkKubeletInterval": 1, "checkKubeletFailAfter": 2}
    with watching(cluster, kind="DaemonSet", **checks) as (release, first, prober):
        stopped_at = time.monotonic()
        cluster.kubelets[first.name].kill()
        try:
            cluster.lab.watch.wait_for_holder(
                cluster.lab.vip_address, *others(release, first), timeout_s=HANG_S
            )
            assert prober.seen(stopped_at).lost == 0
        finally:
            cluster.start_kubelet(first)


def test_without_an_api_server_the_vip_stays(cluster: Cluster) -> None:
    """Each node notices at its own time, the holder last and the return first."""
    checks = {"checkKubeApiInterval": 1, "checkKubeApiFailAfter": 2}
    with watching(cluster, kind="DaemonSet", **checks) as (release, _, prober):
        stopped_at = time.monotonic()
        holder = release.holder()

        def wait_for_priority(priority: int) -> None:
            cluster.wait_until(
                lambda: {effective_priority(node) for node in cluster.nodes} == {priority},
                lambda: [node.status() for node in cluster.nodes],
            )
            assert release.holder() is holder
            prober.wait_for_answer(holder.name, since_at=time.monotonic())

        cluster.control_plane.api_server.kill()
        try:
            wait_for_priority(60)
        finally:
            cluster.control_plane.api_server = cluster.control_plane.start_api_server()
        wait_for_priority(100)
        seen = prober.seen(stopped_at)
        assert (seen.lost, list(seen.answered_by)) == (0, [holder.name])


def effective_priority(node: Host) -> int:
    (router,) = node.status()["routers"]
    priority: int = router["effective_priority"]
    return priority
