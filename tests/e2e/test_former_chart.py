"""From keepalived-ingress-vip to havip: the chart changes, the values and the clients do not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from former import load_image, write_chart
from kube_cluster import CHART, HANG_S, Cluster
from release import NAMESPACE, Release, namespace

from havip.netlab import PORT, Prober

HERE = f"--namespace={NAMESPACE}"


def former_values(cluster: Cluster, kind: str) -> dict[str, object]:
    """As the former chart's README has them."""
    return {
        "keepalived": {
            "vrrpInterfaceName": "eth0",
            "vipInterfaceName": "eth0",
            "vipAddressCidr": cluster.lab.vip,
            "checkServiceUrl": f"http://127.0.0.1:{PORT}/",
            "checkServiceInterval": 1,
        },
        "kind": kind,
    }


@pytest.fixture(autouse=True)
def no_leftover(cluster: Cluster) -> Iterator[None]:
    """A keepalived that is killed leaves the VIP for good: the next test must not find it."""
    yield
    for node in cluster.nodes:
        node.run(("ip", "address", "delete", cluster.lab.vip, "dev", "eth0"), check=False)


@pytest.mark.parametrize("kind", ["Deployment", "Daemonset"])
@pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])
def test_a_running_group_changes_charts_node_by_node(
    cluster: Cluster, major: int, kind: str
) -> None:
    lab = cluster.lab
    load_image(cluster)
    with namespace(cluster), Prober(lab.client, str(lab.vip_address)) as prober:
        release = Release(
            cluster, major, former_values(cluster, kind), name="keepalived-ingress-vip"
        )
        release.install("--wait", "--timeout=120s", chart=write_chart(lab.directory))
        release.wait_until_rolled_out()
        first = release.holder()
        prober.wait_for_answer(first.name)
        before = secret(cluster, release)

        began_at = time.monotonic()
        told = release.upgrade("--timeout=180s", chart=CHART).stdout
        assert "keepalived." in told, "NOTES say what was translated"
        assert {image(pod) for pod in release.pods().values()} == {cluster.image}
        assert len(release.pods()) == (2 if kind == "Deployment" else 3)
        holder = release.holder()
        prober.wait_for_answer(holder.name, since_at=time.monotonic())
        assert secret(cluster, release)["password"] == before["password"]

        # Beside keepalived there is never a second holder; each node has the VIP once at most.
        held = lab.watch.held(lab.vip_address, began_at)
        assert held.two_s == 0, lab.watch.story(began_at)
        came = [
            e.host for e in lab.watch.vip_events(lab.vip_address) if e.present and e.at > began_at
        ]
        assert len(came) == len(set(came))
        assert "Succeeded" in release.helm("test", "--timeout=60s").stdout

        # And back: who is not content has the former chart again.
        release.helm("rollback", "1", "--wait", "--timeout=180s")
        release.wait_until_rolled_out()
        prober.wait_for_answer(release.holder().name, since_at=time.monotonic())
        release.helm("uninstall", "--wait")
        lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)


def image(pod: dict[str, object]) -> str:
    spec = pod["status"]["containerStatuses"][0]  # type: ignore[index]
    return str(spec["image"])


def secret(cluster: Cluster, release: Release) -> dict[str, str]:
    found = cluster.get("secret", release.name, HERE)["data"]
    assert isinstance(found, dict)
    return found
