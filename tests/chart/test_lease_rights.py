"""Rights for election by a Lease: as in docs/lease-election.md, and only where one elects."""

from __future__ import annotations

from typing import Any

import pytest
from rendering import NOTHING_SHOWN, Rendered, render


def lease_role(rendered: Rendered) -> tuple[Any, Any]:
    """The Role for Leases, and its binding."""
    (role,) = (each for each in rendered.all("Role") if "leases" in each["rules"][0]["resources"])
    name = role["metadata"]["name"]
    (binding,) = (each for each in rendered.all("RoleBinding") if each["metadata"]["name"] == name)
    return role, binding


@pytest.mark.parametrize(
    ("values", "namespace", "names"),
    [
        ({}, "vip", ["havip-10"]),
        ({"virtualRouterId": 7, "leaseNamespace": "kube-system"}, "kube-system", ["havip-7"]),
        ({"leaseName": "plndr-cp-lock"}, "vip", ["plndr-cp-lock"]),
        (
            {
                "vipAddressCidr": "",
                "virtualRouters": [
                    {"vipAddressCidr": "192.0.2.10/24"},
                    {"vipAddressCidr": "192.0.2.11/24", "virtualRouterId": 11},
                ],
            },
            "vip",
            ["havip-10", "havip-11"],
        ),
    ],
    ids=["defaults", "elsewhere", "named", "several"],
)
def test_a_role_for_these_leases_alone(
    values: dict[str, Any], namespace: str, names: list[str]
) -> None:
    rendered = render({"election": "lease", **values})
    role, binding = lease_role(rendered)
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": names,
            "verbs": ["get", "update", "watch"],
        },
    ]
    # To create any would be a right on all of the namespace.
    made = [
        (each["metadata"]["namespace"], each["metadata"]["name"]) for each in rendered.all("Lease")
    ]
    assert made == [(namespace, name) for name in names]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "havip", "namespace": "vip"}]


def test_the_lease_stays_the_same_when_the_election_changes() -> None:
    """Were it taken away, the pods that elect by it would lose it under their hands."""
    shows, elects = (render({"election": each}).one("Lease") for each in ("vrrp", "lease"))
    assert shows == elects
    assert elects.keys() == {"apiVersion", "kind", "metadata"}, "who holds is not Helm's to say"


def test_who_brings_rights_gets_none() -> None:
    assert not render({"election": "lease", "rbac": {"create": False}}).all("Role")


def test_the_pod_has_its_token_and_the_time_to_release() -> None:
    values = {**NOTHING_SHOWN, "checkKubeApi": False}
    pod = render({"election": "lease", **values}).pod
    assert pod["automountServiceAccountToken"] is True
    assert pod["terminationGracePeriodSeconds"] == 12
    assert render(values).pod["automountServiceAccountToken"] is False
