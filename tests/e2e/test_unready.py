"""A pod that can never hold the VIP, and where a person finds out why."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kube_cluster import Cluster
from release import NAMESPACE, Release, namespace, values

HERE = f"--namespace={NAMESPACE}"
URL = "http://127.0.0.1:10254/healthz"
"""The chart's default, behind which nothing is in this cluster."""


def test_a_check_that_never_passes_is_explained_by_the_log_and_the_status(cluster: Cluster) -> None:
    with namespace(cluster):
        release = Release(cluster, 4, values(cluster, kind="DaemonSet", checkServiceUrl=URL))
        release.install()
        try:
            kubelets_words = "Readiness probe failed: HTTP probe failed with statuscode: 503"
            wait_for(cluster, partial(said, cluster), kubelets_words)
            assert "never passed" not in said(cluster), "the kubelet drops what the probe was told"
            for pod in release.pods().values():
                status = partial(cluster.execute, pod, "havip", "status")
                wait_for(cluster, status, f"check service has never passed: {URL}")
                log = partial(cluster.kubectl, "logs", pod["metadata"]["name"], HERE)
                wait_for(cluster, log, "check_never_passed", URL)
        finally:
            release.helm("uninstall", "--wait")


def wait_for(cluster: Cluster, told: Callable[[], str], *words: str) -> None:
    cluster.wait_until(lambda: all(word in told() for word in words), told)


def said(cluster: Cluster) -> str:
    """The events of the pods, as `kubectl describe pod` shows them."""
    events = cluster.items("events", HERE)
    return "\n".join(each["message"] for each in events if each["reason"] == "Unhealthy")
