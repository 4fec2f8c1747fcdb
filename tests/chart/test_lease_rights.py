"""Rights for election by a Lease: as in docs/lease-election.md, and only where one elects."""

from __future__ import annotations

from typing import Any

import pytest
from rendering import render


def test_vrrp_has_no_role() -> None:
    assert not render().all("Role") and not render().all("RoleBinding")


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
    role, binding = rendered.one("Role"), rendered.one("RoleBinding")
    assert role["rules"] == [
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": names,
            "verbs": ["get", "update", "watch"],
        },
    ]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "havip", "namespace": "vip"}]


def test_who_brings_rights_gets_none() -> None:
    assert not render({"election": "lease", "rbac": {"create": False}}).all("Role")


def test_the_pod_has_its_token_and_the_time_to_release() -> None:
    values = {"election": "lease", "checkKubeApi": False}
    pod = render(values).pod
    assert pod["automountServiceAccountToken"] is True
    assert pod["terminationGracePeriodSeconds"] == 12
    assert render({"checkKubeApi": False}).pod["automountServiceAccountToken"] is False
