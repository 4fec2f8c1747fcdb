"""One release of the chart in a namespace of its own, as a person with Helm has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import yaml
from kube_cluster import CHART, HANG_S, Cluster

from havip.netlab import PORT, Host

NAMESPACE = "vip"
ALLOWS_HOST_NETWORK = {"pod-security.kubernetes.io/enforce": "privileged"}
READY = '{.status.conditions[?(@.type=="Ready")].status}'


class Release:
    """`name` in `namespace`, by Helm `major`; its values, and what it became."""

    def __init__(
        self, cluster: Cluster, major: int, values: dict[str, Any], name: str = "havip"
    ) -> None:
        self.cluster = cluster
        self.major = major
        self.name = name
        self.values = values

    @property
    def selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"

    def helm(self, verb: str, *args: str, check: bool = True) -> CompletedProcess[str]:
        return self.cluster.helm(
            self.major, verb, self.name, *args, f"--namespace={NAMESPACE}", check=check
        )

    def install(self, *args: str, chart: Path = CHART, check: bool = True) -> CompletedProcess[str]:
        return self.helm("install", str(chart), *self._valued(), *args, check=check)

    def upgrade(self, *args: str, chart: Path = CHART, **changes: Any) -> CompletedProcess[str]:
        """Upgrade to the values with `changes`, and wait until the pods are ready."""
        self.values = self.values | changes
        told = self.helm("upgrade", str(chart), *self._valued(), "--wait", *args)
        self.wait_until_rolled_out()
        return told

    def wait_until_rolled_out(self) -> None:
        """Helm 3 is content with a DaemonSet that has not begun to roll."""
        for kind in ("deployment", "daemonset"):
            for each in self.cluster.items(kind, f"--selector={self.selector}", *_HERE):
                target = f"{kind}/{each['metadata']['name']}"
                self.cluster.kubectl("rollout", "status", target, "--timeout=120s", *_HERE)

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods that run havip, by node; those that go away are not counted."""
        found = self.cluster.items("pods", f"--selector={self.selector}", *_HERE)
        return {
            pod["spec"]["nodeName"]: pod
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") == "Running"
        }

    def holder(self) -> Host:
        """The node that has the VIP, once exactly one has."""
        lab = self.cluster.lab
        lab.watch.wait_for_holder(lab.vip_address, timeout_s=HANG_S)
        (name,) = lab.watch.holders(lab.vip_address)
        return lab[name]

    def _valued(self) -> tuple[str, str]:
        path = self.cluster.lab.directory / "values.yaml"
        path.write_text(yaml.safe_dump(self.values))
        return "--values", str(path)


_HERE = (f"--namespace={NAMESPACE}",)


def values(cluster: Cluster, **changes: Any) -> dict[str, Any]:
    """What a person sets: the VIP, and the service whose health counts."""
    return {
        "vipAddressCidr": cluster.lab.vip,
        "checkServiceUrl": f"http://127.0.0.1:{PORT}/",
    } | changes


@contextlib.contextmanager
def namespace(cluster: Cluster, **labels: str) -> Iterator[None]:
    """The namespace of a test, with all that controllers put into every namespace."""
    labels = labels or ALLOWS_HOST_NETWORK
    metadata = {"name": NAMESPACE, "labels": labels}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    try:
        for created in ("serviceaccount/default", "configmap/kube-root-ca.crt"):
            cluster.kubectl("wait", "--for=create", created, "--timeout=60s", *_HERE)
        yield
    finally:
        cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


@contextlib.contextmanager
def installed(
    cluster: Cluster, major: int = 4, *, chart: Path = CHART, **changes: Any
) -> Iterator[Release]:
    """A release whose pods are ready; uninstalled at the end, with its namespace."""
    with namespace(cluster):
        release = Release(cluster, major, values(cluster, **changes))
        try:
            release.install("--wait", "--timeout=120s", chart=chart)
            release.wait_until_rolled_out()
            yield release
        finally:
            release.helm("uninstall", "--ignore-not-found", "--wait")
            cluster.lab.watch.wait_until_gone(cluster.lab.vip_address, timeout_s=HANG_S)
