"""A release from its installation to its removal, by Helm 3 and by Helm 4."""

from __future__ import annotations

import base64
import time
from functools import partial

import pytest
from kube_cluster import CHART, HANG_S, Cluster
from release import NAMESPACE, Release, installed, namespace, values

from havip.netlab import Prober, plain_address

KINDS = ["Deployment", "DaemonSet"]
HERE = f"--namespace={NAMESPACE}"


def objects(cluster: Cluster) -> set[str]:
    """Every object of the cluster that can be listed, but Events, which expire by themselves."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--output=name").split()
    wanted = ",".join(sorted(kind for kind in kinds if not kind.startswith("events")))
    told = cluster.kubectl(
        *("get", wanted, "--all-namespaces", "--no-headers", "--ignore-not-found"),
        "--output=custom-columns=K:.kind,S:.metadata.namespace,N:.metadata.name",
    )
    return {" ".join(line.split()) for line in told.splitlines()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])
def test_a_release_serves_the_vip_until_it_is_uninstalled_and_leaves_nothing(
    cluster: Cluster, major: int, kind: str
) -> None:
    lab = cluster.lab
    with namespace(cluster), Prober(lab.client, str(lab.vip_address)) as prober:
        before = objects(cluster)
        release = Release(cluster, major, values(cluster, kind=kind))
        told = release.install("--wait", "--timeout=120s")
        assert lab.vip in told.stdout, "NOTES say which address"
        release.wait_until_rolled_out()
        assert len(release.pods()) == (2 if kind == "Deployment" else 3)
        first = release.holder()
        assert first.name in release.pods()
        prober.wait_for_answer(first.name)

        tested = release.helm("test", "--timeout=60s")
        assert "Succeeded" in tested.stdout

        # An upgrade that changes the pods changes all of them, and a rollback brings them back.
        before_upgrade = templates(release)
        release.upgrade("--timeout=120s", debug=True)
        assert not templates(release) & before_upgrade
        release.helm("rollback", "1", "--wait", "--timeout=120s")
        release.wait_until_rolled_out()
        assert templates(release) == before_upgrade
        second = release.holder()
        prober.wait_for_answer(second.name, since_at=time.monotonic())

        release.helm("uninstall", "--wait", "--timeout=120s")
        lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)
        cluster.wait_until(lambda: objects(cluster) == before, lambda: objects(cluster) - before)


def templates(release: Release) -> set[str]:
    """Which versions of the pod template the pods are made from."""
    labels = (pod["metadata"]["labels"] for pod in release.pods().values())
    names = ("pod-template-hash", "controller-revision-hash")
    return {each[name] for each in labels for name in names if name in each}


def test_running_pods_follow_values_and_keys(cluster: Cluster) -> None:
    """Most settings need no new pod, so that changing them moves nothing."""
    lab = cluster.lab
    with (
        # Each pod has a changed key within this time: the stand-in for the kubelet is quick.
        installed(cluster, kind="DaemonSet", authRotationDelay=10) as release,
        Prober(lab.client, str(lab.vip_address)) as prober,
    ):
        pods = {name: pod["metadata"]["uid"] for name, pod in release.pods().items()}
        first = release.holder()
        prober.wait_for_answer(first.name)
        began_at = time.monotonic()
        release.upgrade(vrrpPriority=120)
        wait_for_routers(cluster, "effective_priority", 120)
        assert routers(cluster, "hmac_key") == {1}
        release.upgrade(authHmacKeys={"1": "", "2": ""}, authHmacActiveKey=2)
        wait_for_routers(cluster, "hmac_key", 2)
        assert {name: pod["metadata"]["uid"] for name, pod in release.pods().items()} == pods
        assert release.holder() is first
        assert not [e for e in lab.watch.vip_events(lab.vip_address) if e.at > began_at]
        assert prober.seen(began_at).lost == 0


def routers(cluster: Cluster, field: str) -> set[object]:
    """What the daemons of all nodes say of their router."""
    return {node.status()["routers"][0][field] for node in cluster.nodes}


def wait_for_routers(cluster: Cluster, field: str, wanted: object) -> None:
    cluster.wait_until(lambda: routers(cluster, field) == {wanted}, lambda: routers(cluster, field))


@pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])
def test_the_kind_can_be_changed_and_changed_back(cluster: Cluster, major: int) -> None:
    lab = cluster.lab
    with (
        installed(cluster, major, kind="Deployment") as release,
        Prober(lab.client, str(lab.vip_address)) as prober,
    ):
        for kind in ("DaemonSet", "Deployment"):
            release.upgrade("--timeout=120s", kind=kind)
            cluster.wait_until(lambda: kinds(release) == [kind], partial(kinds, release))  # noqa: B023
            prober.wait_for_answer(release.holder().name, since_at=time.monotonic())


def kinds(release: Release) -> list[str]:
    """Of the workloads that still have pods or wish them."""
    listed = release.cluster.items("deployments,daemonsets,pods", HERE)
    owners = (each["metadata"].get("ownerReferences", ()) for each in listed)
    found = {each["kind"] for each in listed} - {"Pod"}
    found |= {
        owner["kind"].replace("ReplicaSet", "Deployment") for owned in owners for owner in owned
    }
    return sorted(found)


def test_the_old_readmes_removal_leaves_nothing(cluster: Cluster) -> None:
    """`helm delete -n vip …`, without --wait."""
    with namespace(cluster):
        before = objects(cluster)
        release = Release(cluster, 3, values(cluster))
        release.install("--wait", "--timeout=120s")
        release.holder()
        cluster.helm(3, "delete", "-n", NAMESPACE, release.name)
        cluster.lab.watch.wait_until_gone(cluster.lab.vip_address, timeout_s=HANG_S)
        cluster.wait_until(lambda: objects(cluster) == before, lambda: objects(cluster) - before)


@pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])
def test_a_failed_helm_test_says_why_and_leaves_nothing(cluster: Cluster, major: int) -> None:
    """Nothing listens at the port, and helm does not wait for the test to give up either."""
    with installed(cluster, major, helmTest={"port": 7}) as release:
        release.holder()
        before = objects(cluster)
        failed = release.helm("test", "--timeout=60s", check=False)
        assert failed.returncode != 0
        assert "it does not answer" in failed.stdout + failed.stderr
        cluster.wait_until(lambda: objects(cluster) == before, lambda: objects(cluster) - before)
        assert release.helm("test", "--timeout=5s", check=False).returncode != 0
        cluster.wait_until(lambda: objects(cluster) == before, lambda: objects(cluster) - before)


def test_keys_survive_an_upgrade(cluster: Cluster) -> None:
    """A key made anew at each upgrade would split the group while it rolls."""
    with installed(cluster) as release:
        before = secrets(cluster)
        assert before, "a new installation signs its adverts"
        release.upgrade(vrrpPriority=120)
        assert secrets(cluster) == before


@pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])
def test_a_key_is_changed_as_the_docs_say(cluster: Cluster, major: int) -> None:
    """Where values are reused, the old key is among them until it is taken out."""

    def step(*settings: str) -> list[str]:
        told = (f"--set={each}" for each in settings)
        release.helm("upgrade", str(CHART), "--reset-then-reuse-values", *told, "--wait")
        file = base64.b64decode(secrets(cluster)["havip"]["hmac-keys"]).decode()
        return [line.partition(":")[0] for line in file.splitlines()]

    with installed(cluster, major) as release:
        two = step("authHmacKeys.1=", "authHmacKeys.2=", "authHmacActiveKey=2")
        assert two == ["active", "1", "2"]
        assert step("authHmacKeys.1=null") == ["active", "2"]


def secrets(cluster: Cluster) -> dict[str, dict[str, str]]:
    """What the chart's Secrets have; Helm keeps its own records in others."""
    return {
        each["metadata"]["name"]: each["data"]
        for each in cluster.items("secrets", f"--namespace={NAMESPACE}")
        if each["type"] != "helm.sh/release.v1"
    }


def test_two_releases_share_the_nodes(cluster: Cluster) -> None:
    """With the same virtual router they would fight, which the second is told before it is made."""
    lab = cluster.lab
    other = plain_address(lab.other_vip)
    with installed(cluster, kind="DaemonSet") as release:
        first = release.holder()
        began_at = time.monotonic()
        wanted = values(cluster, kind="DaemonSet", vipAddressCidr=lab.other_vip)
        second = Release(cluster, 4, wanted, name="second")
        refused = second.install(check=False)
        assert refused.returncode != 0
        assert "virtualRouterId" in refused.stderr

        second.values["virtualRouterId"] = 11
        second.install("--wait", "--timeout=120s")
        try:
            second.wait_until_rolled_out()
            lab.watch.wait_for_holder(other, timeout_s=HANG_S)
            assert second.pods().keys() == release.pods().keys()
            for each in (release, second):
                assert "Succeeded" in each.helm("test", "--timeout=60s").stdout
            assert release.holder() is first
            assert not [e for e in lab.watch.vip_events(lab.vip_address) if e.at > began_at]
        finally:
            second.helm("uninstall", "--wait")
            lab.watch.wait_until_gone(other, timeout_s=HANG_S)
