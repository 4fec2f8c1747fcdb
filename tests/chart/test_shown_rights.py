"""What the chart creates and allows for what Kubernetes shows: as in docs/holder-and-drains.md."""

from __future__ import annotations

from typing import Any

import pytest
from rendering import NOTHING_SHOWN, render

FORMER = {"vipAddressCidr": "", "keepalived": {"vipAddressCidr": "192.0.2.10/24"}}
HEALTH = {"nonResourceURLs": ["/readyz"], "verbs": ["get"]}
WATCH = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "watch"]}
LABEL = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}
EVENTS = {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]}


def lease(*names: str) -> dict[str, Any]:
    return {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": list(names),
        "verbs": ["get", "update"],
    }


def rules(values: dict[str, Any]) -> dict[str, list[Any]]:
    """By the namespace of each role, what it allows; the cluster's under an empty name."""
    rendered = render(values)
    found: dict[str, list[Any]] = {"": rendered.one("ClusterRole")["rules"]}
    roles = rendered.all("Role")
    bindings = {each["metadata"]["name"]: each for each in rendered.all("RoleBinding")}
    assert bindings.keys() == {each["metadata"]["name"] for each in roles}
    for role in roles:
        binding = bindings[role["metadata"]["name"]]
        assert binding["metadata"]["namespace"] == role["metadata"]["namespace"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "havip", "namespace": "vip"}
        ]
        found.setdefault(role["metadata"]["namespace"], []).extend(role["rules"])
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param(
            {},
            {"": [HEALTH, WATCH], "vip": [lease("havip-10")], "default": [EVENTS]},
            id="by default",
        ),
        pytest.param(NOTHING_SHOWN, {"": [HEALTH]}, id="nothing"),
        pytest.param(
            {**NOTHING_SHOWN, "kubeHolderLease": True},
            {"": [HEALTH], "vip": [lease("havip-10")]},
            id="a Lease",
        ),
        pytest.param(
            {**NOTHING_SHOWN, "kubeEvents": True}, {"": [HEALTH], "default": [EVENTS]}, id="Events"
        ),
        pytest.param(
            {**NOTHING_SHOWN, "kubeNodeWatch": True}, {"": [HEALTH, WATCH]}, id="the watch"
        ),
        pytest.param(
            {**NOTHING_SHOWN, "kubeHolderLabel": True}, {"": [HEALTH, LABEL]}, id="a label"
        ),
        pytest.param(
            {
                **NOTHING_SHOWN,
                "kubeHolderLease": True,
                "leaseName": "edge",
                "leaseNamespace": "other",
            },
            {"": [HEALTH], "other": [lease("edge")]},
            id="a Lease elsewhere",
        ),
        pytest.param(
            {
                **NOTHING_SHOWN,
                "kubeHolderLease": True,
                "vipAddressCidr": "",
                "virtualRouters": [
                    {"vipAddressCidr": "192.0.2.10/24"},
                    {"vipAddressCidr": "192.0.2.11/24", "virtualRouterId": 11},
                ],
            },
            {"": [HEALTH], "vip": [lease("havip-10", "havip-11")]},
            id="a Lease for each virtual router",
        ),
    ],
)
def test_rights_are_those_that_are_used(
    values: dict[str, Any], expected: dict[str, list[Any]]
) -> None:
    assert rules(values) == expected


TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
LOCAL = "https://127.0.0.1:6443"


@pytest.mark.parametrize(
    ("values", "paths"),
    [
        pytest.param({"checkKubeApi": False}, [], id="nobody asks"),
        pytest.param({"checkKubeApiUrl": f"{LOCAL}/livez"}, [], id="without a token"),
        pytest.param(
            {"checkKubeApiUrl": f"{LOCAL}/livez?verbose", "checkKubeApiTokenFile": TOKEN},
            ["/livez"],
            id="another path",
        ),
        pytest.param(
            {"checkKubeApiUrl": LOCAL, "checkKubeApiTokenFile": TOKEN}, ["/readyz"], id="no path"
        ),
        pytest.param(
            {"checkKubeApi": False, "nodeOverrides": {"node-b": {"checkKubeApi": True}}},
            ["/readyz"],
            id="on one node",
        ),
    ],
)
def test_the_health_that_is_asked_and_no_other(values: dict[str, Any], paths: list[str]) -> None:
    roles = render({**NOTHING_SHOWN, **values}).all("ClusterRole")
    found = [rule["nonResourceURLs"] for role in roles for rule in role["rules"]]
    assert found == ([paths] if paths else [])


def test_who_brings_rights_gets_none() -> None:
    rendered = render({"rbac": {"create": False}})
    for kind in ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"):
        assert not rendered.all(kind)
    assert rendered.all("Lease"), "it is no right"


def test_the_lease_is_empty_so_that_an_upgrade_changes_nothing_in_it() -> None:
    made = render().one("Lease")
    assert made.keys() == {"apiVersion", "kind", "metadata"}
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("vip", "havip-10")


def test_no_lease_is_made_where_none_shows() -> None:
    assert not render({"kubeHolderLease": False}).all("Lease")


@pytest.mark.parametrize("name", NOTHING_SHOWN)
def test_the_pod_has_its_token_for_each_of_them(name: str) -> None:
    without = {**NOTHING_SHOWN, "checkKubeApi": False}
    assert render(without).pod["automountServiceAccountToken"] is False
    assert render({**without, name: True}).pod["automountServiceAccountToken"] is True


def test_values_of_the_former_chart_keep_its_election() -> None:
    assert render(FORMER).config["kubeNodeWatch"] is False
