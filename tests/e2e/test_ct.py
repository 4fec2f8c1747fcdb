"""`ct install`, as publishers of charts run it: install, test and remove, for each values file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from kube_cluster import CHART, HANG_S, ROOT, Cluster
from release import values


@pytest.mark.parametrize("major", [3, 4], ids=["helm 3", "helm 4"])
def test_ct_install(cluster: Cluster, tmp_path: Path, major: int) -> None:
    """The values are this cluster's: ct looks for them in the chart's `ci/`, here in a copy."""
    shutil.copytree(ROOT / "ci", tmp_path / "ci")
    shutil.copytree(CHART, tmp_path / "chart")
    given = tmp_path / "chart" / "ci"
    given.mkdir()
    for kind in ("Deployment", "DaemonSet"):
        text = yaml.safe_dump(values(cluster, kind=kind))
        (given / f"{kind.lower()}-values.yaml").write_text(text)
    before = namespaces(cluster)
    done = cluster.ct(
        major, tmp_path, "install", "--config=ci/ct.yaml", "--helm-extra-args=--timeout=120s"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All charts installed successfully" in done.stdout
    assert done.stdout.count("Phase:          Succeeded") == 2, "helm test ran, for each of them"
    cluster.lab.watch.wait_until_gone(cluster.lab.vip_address, timeout_s=HANG_S)
    assert namespaces(cluster) == before


def namespaces(cluster: Cluster) -> set[str]:
    return {each["metadata"]["name"] for each in cluster.items("namespaces")}
