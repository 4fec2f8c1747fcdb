"""HAProxy as a second container, of the chart and of `havip manifest`, on a real API server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import haproxy_image
import pytest
from kube_cluster import HANG_S, Cluster
from release import NAMESPACE, Release, installed, namespace

from havip.netlab import Host

HERE = f"--namespace={NAMESPACE}"
PORT = 8443
VALUES: dict[str, Any] = {
    "kind": "DaemonSet",
    # The default, which the balancer takes the place of.
    "checkServiceUrl": "http://127.0.0.1:10254/healthz",
    "checkKubelet": False,
    "loadBalancer": {
        "enabled": True,
        "image": {"repository": haproxy_image.REPOSITORY, "tag": haproxy_image.TAG},
    },
    # Containers may have 4096 files here.
    "loadBalancerMaxConnections": 1000,
    "loadBalancerCaFile": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
}


def by_chart(cluster: Cluster) -> AbstractContextManager[Release]:
    return installed(cluster, **VALUES)


@contextlib.contextmanager
def by_manifest(cluster: Cluster) -> Iterator[Release]:
    """The same pods, of `havip manifest daemonset`."""
    file = cluster.lab.directory / "daemonset.yaml"
    subprocess.run(
        (
            *(sys.executable, "-m", "havip", "manifest", "daemonset", f"--output={file}"),
            *(f"--vip-address-cidr={cluster.lab.vip}", HERE, "--load-balancer"),
            f"--load-balancer-image={haproxy_image.REPOSITORY}:{haproxy_image.TAG}",
            f"--load-balancer-max-connections={VALUES['loadBalancerMaxConnections']}",
            f"--load-balancer-ca-file={VALUES['loadBalancerCaFile']}",
        ),
        capture_output=True,
        check=True,
        env={},
    )
    release = Release(cluster, 4, {})
    with namespace(cluster):
        try:
            cluster.kubectl("apply", f"--filename={file}")
            release.wait_until_rolled_out()
            yield release
        finally:
            cluster.kubectl("delete", f"--filename={file}", "--wait", "--timeout=120s")
            cluster.lab.watch.wait_until_gone(cluster.lab.vip_address, timeout_s=HANG_S)


def balancer(node: Host) -> dict[str, Any]:
    try:
        found = node.status()["balancer"]
    except OSError:  # it does not listen
        return {}
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("made", [by_chart, by_manifest])
def test_haproxy_beside_havip(
    made: Callable[[Cluster], AbstractContextManager[Release]], cluster: Cluster
) -> None:
    lab = cluster.lab
    haproxy_image.load(cluster)
    with made(cluster) as release:
        first = release.holder()
        api_server = f"{cluster.control_plane.host.ipv4}:6443"
        (backend,) = balancer(first)["backends"]
        assert (backend["name"], backend["healthy"]) == (api_server, True)
        assert balancer(first)["backends_known_by"] == "api"
        # The other tests run this machine's.
        assert balancer(first)["version"].startswith("3.0.")

        # kubectl with its client certificate, through the VIP.
        server = f"--server=https://{lab.vip_address}:{PORT}"
        assert "kubernetes-admin" in cluster.kubectl("auth", "whoami", server)

        # Its rights: this one list, and no other.
        (pod, *_) = release.pods().values()
        default = "--namespace=default"
        for name, namespace, expected in (
            ("endpointslices.discovery.k8s.io/kubernetes", default, "yes"),
            ("endpointslices.discovery.k8s.io/other", default, "no"),
            ("endpointslices.discovery.k8s.io", default, "no"),
            ("endpointslices.discovery.k8s.io", HERE, "no"),
        ):
            told = cluster.as_pod(pod, "auth", "can-i", "list", name, namespace)
            assert told.stdout.split()[:1] == [expected], name

        # HAProxy dies: the VIP moves, and the kubelet starts HAProxy again.
        name = release.pods()[first.name]["metadata"]["name"]
        (haproxy,) = (
            each for each in cluster.containers(NAMESPACE, name) if each.endswith("-haproxy")
        )
        cluster.podman("kill", "--signal", "KILL", haproxy)
        cluster.wait_until(
            lambda: first.name not in lab.watch.holders(lab.vip_address), lab.watch.story
        )
        assert release.holder() is not first
        assert "kubernetes-admin" in cluster.kubectl("auth", "whoami", server)
        cluster.wait_until(lambda: balancer(first)["problem"] == "", lambda: balancer(first))
        assert release.pods()[first.name]["metadata"]["name"] == name, "the pod is the same"
