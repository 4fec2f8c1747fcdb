"""One cluster for all tests here; a test that fails prints what the cluster looked like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_cluster import Cluster

HANG_S = 600
"""Protection against a hang: a Deployment rolls at the pace of its `minReadySeconds`."""
_clusters: list[Cluster] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.netns)
            item.add_marker(pytest.mark.timeout(HANG_S))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real control plane and three nodes; each test removes what it installs."""
    with Cluster() as cluster:
        _clusters.append(cluster)
        yield cluster
        _clusters.remove(cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[pytest.TestReport | None]:
    report: pytest.TestReport = yield  # type: ignore[misc, assignment]
    if report.failed:
        for cluster in _clusters:
            report.sections.extend(cluster.story())
    return report  # type: ignore[return-value]
