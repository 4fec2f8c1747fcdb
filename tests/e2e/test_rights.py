"""What the pod's own service account may do, asked with the pod's own token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kube_cluster import Cluster
from release import NAMESPACE, Release, installed

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:havip"


@pytest.fixture(scope="module")
def release(cluster: Cluster) -> Iterator[Release]:
    with installed(cluster) as release:
        yield release


def may(release: Release, *question: str) -> bool:
    (pod, *_) = release.pods().values()
    told = release.cluster.as_pod(pod, "auth", "can-i", *question)
    answer = told.stdout.split()[:1]
    assert answer in (["yes"], ["no"]), told.stderr
    return answer == ["yes"]


def test_it_is_who_it_says(release: Release) -> None:
    (pod, *_) = release.pods().values()
    told = release.cluster.as_pod(pod, "auth", "whoami")
    assert ACCOUNT in told.stdout


def test_it_may_ask_the_api_server_how_it_is(release: Release) -> None:
    (pod, *_) = release.pods().values()
    for path in ("/readyz", "/healthz"):
        assert may(release, "get", path)
        assert release.cluster.as_pod(pod, "get", "--raw", path).stdout == "ok"


@pytest.mark.parametrize(
    "question",
    [
        ("list", "secrets", "--all-namespaces"),
        ("get", "secrets", f"--namespace={NAMESPACE}"),
        ("get", "secrets", "--namespace=kube-system"),
        ("list", "configmaps", "--all-namespaces"),
        ("list", "pods", "--all-namespaces"),
        ("create", "pods", f"--namespace={NAMESPACE}"),
        ("create", "pods/exec", f"--namespace={NAMESPACE}"),
        ("delete", "pods", f"--namespace={NAMESPACE}"),
        ("update", "daemonsets", f"--namespace={NAMESPACE}"),
        ("create", "serviceaccounts/token", f"--namespace={NAMESPACE}"),
        ("patch", "nodes"),
        ("list", "nodes"),
        ("create", "leases.coordination.k8s.io", f"--namespace={NAMESPACE}"),
        ("update", "leases.coordination.k8s.io/other", f"--namespace={NAMESPACE}"),
        ("update", "nodes/status"),
        ("delete", "nodes"),
        # By its flag: what follows a slash is a name, and any Node may be read.
        ("get", "nodes", "--subresource=proxy"),
        ("create", "clusterrolebindings"),
        ("bind", "clusterroles"),
        ("escalate", "clusterroles"),
        ("impersonate", "users"),
        ("get", "/metrics"),
        ("get", "/debug/pprof"),
    ],
    ids=" ".join,
)
def test_it_may_not(release: Release, question: tuple[str, ...]) -> None:
    assert not may(release, *question)


def test_it_may_no_more_than_its_role_says(release: Release) -> None:
    """`can-i --list` beside that of a service account to which nobody gave anything."""
    (pod, *_) = release.pods().values()
    listed = release.cluster.as_pod(pod, "auth", "can-i", "--list", f"--namespace={NAMESPACE}")
    nobody = release.cluster.kubectl(
        *("auth", "can-i", "--list", f"--namespace={NAMESPACE}"),
        *(f"--as=system:serviceaccount:{NAMESPACE}:default", "--as-group=system:authenticated"),
        *("--as-group=system:serviceaccounts", f"--as-group=system:serviceaccounts:{NAMESPACE}"),
    )
    given = {" ".join(line.split()) for line in listed.stdout.splitlines()} - {
        " ".join(line.split()) for line in nobody.splitlines()
    }
    # Reading /readyz needs no more than every account has; Events are created elsewhere.
    assert given == {
        "leases.coordination.k8s.io [] [havip-10] [get update]",
        "nodes [] [] [get watch]",
    }


def test_it_may_create_events_of_nodes_and_read_none(release: Release) -> None:
    events = "events.events.k8s.io"
    assert may(release, "create", events, "--namespace=default")
    for verb in ("get", "list", "delete", "update", "patch"):
        assert not may(release, verb, events, "--namespace=default")
    assert not may(release, "create", events, "--namespace=kube-system")
