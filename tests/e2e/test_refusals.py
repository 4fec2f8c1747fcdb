"""What must not be installed is refused before anything is made."""

from __future__ import annotations

import pytest
from kube_cluster import Cluster
from release import NAMESPACE, Release, namespace, values

MAJORS = pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])


def refusal(release: Release) -> str:
    """Why the installation was refused, when it left nothing behind."""
    cluster = release.cluster
    told = release.install(check=False)
    assert told.returncode != 0, told.stdout
    listed = cluster.items("all,secrets,configmaps,roles", f"--namespace={NAMESPACE}")
    names = {each["metadata"]["name"] for each in listed}
    assert {name for name in names if "havip" in name} <= {"sh.helm.release.v1.havip.v1"}
    assert not cluster.items("clusterroles", f"--selector={release.selector}")
    return told.stderr


@MAJORS
@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_a_namespace_whose_level_forbids_the_pods(cluster: Cluster, major: int, level: str) -> None:
    """The API server takes the workload and then makes no pod, which nobody is told."""
    with namespace(cluster, **{"pod-security.kubernetes.io/enforce": level}):
        told = refusal(Release(cluster, major, values(cluster)))
        assert level in told
        assert f"kubectl label namespace {NAMESPACE}" in told
        assert "pod-security.kubernetes.io/enforce=privileged" in told


@MAJORS
def test_the_command_of_the_refusal_helps(cluster: Cluster, major: int) -> None:
    with namespace(cluster, **{"pod-security.kubernetes.io/enforce": "baseline"}):
        release = Release(cluster, major, values(cluster))
        told = refusal(release)
        command = next(line for line in told.splitlines() if "kubectl label" in line)
        words = command[command.index("kubectl label") :].split()
        cluster.kubectl(*(word.strip("`'\"") for word in words[1:]))
        try:
            release.install("--wait", "--timeout=120s")
            release.holder()
        finally:
            release.helm("uninstall", "--wait")


@MAJORS
@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"vipAddressCidr": ""}, "vipAddressCidr", id="no VIP"),
        pytest.param({"virtualRouterId": 256}, "virtualRouterId", id="VRID out of range"),
        pytest.param({"kind": "StatefulSet"}, "kind", id="kind"),
        pytest.param({"vipAdressCidr": "10.77.0.100/24"}, "vipAdressCidr", id="misspelt"),
    ],
)
def test_bad_values(cluster: Cluster, major: int, changes: dict[str, object], field: str) -> None:
    with namespace(cluster):
        assert field in refusal(Release(cluster, major, values(cluster, **changes)))
