"""`vrrpUnicastPeers: auto`: what pods need to find each other, and nothing where they do not."""

from __future__ import annotations

from typing import Any

import pytest
from rendering import MAJORS, NOTHING_SHOWN, render

AUTO = {"vrrpUnicastPeers": "auto"}


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_the_service_names_every_pod_ready_or_not(major: int, kind: str) -> None:
    rendered = render(AUTO | {"kind": kind}, major=major)
    service = rendered.one("Service")
    assert service["spec"] == {
        "clusterIP": "None",
        "ipFamilyPolicy": "PreferDualStack",
        "publishNotReadyAddresses": True,
        "selector": rendered.workload["spec"]["selector"]["matchLabels"],
    }
    assert rendered.config["kubePeersService"] == service["metadata"]["name"] == "peers-havip"
    # The pod of `helm test` is on a node too, and no peer.
    labels = rendered.one("Pod")["metadata"]["labels"]
    assert not service["spec"]["selector"].items() <= labels.items()


def test_the_pods_may_list_their_own_namespace_and_keep_what_they_read() -> None:
    rendered = render(NOTHING_SHOWN | AUTO | {"checkKubeApi": False})
    assert rendered.one("Role")["metadata"]["namespace"] == "vip"
    assert rendered.one("Role")["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        }
    ]
    assert rendered.one("RoleBinding")["roleRef"]["name"] == "peers-havip"
    (subject,) = rendered.one("RoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "havip", "namespace": "vip"}
    assert rendered.pod["automountServiceAccountToken"] is True
    path = "/var/lib/havip/vip/havip"
    assert {
        "name": "state",
        "hostPath": {"path": path, "type": "DirectoryOrCreate"},
    } in rendered.pod["volumes"]
    mount = {"name": "state", "mountPath": "/var/lib/havip"}
    assert mount in rendered.container["volumeMounts"]
    assert rendered.container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("values", "discovers"),
    [
        pytest.param({}, False, id="multicast"),
        pytest.param({"vrrpUnicastPeers": "192.0.2.11,192.0.2.12"}, False, id="a list"),
        pytest.param({"vrrpUnicastPeers": ["192.0.2.11"]}, False, id="a list of texts"),
        pytest.param(AUTO, True, id="auto"),
        pytest.param({"vrrpUnicastPeers": ["auto"]}, True, id="a list of auto"),
        pytest.param({"vrrpUnicastPeers": " auto "}, True, id="auto and spaces"),
        pytest.param({"nodeOverrides": {"a": AUTO, "b": {}}}, True, id="on one node"),
        pytest.param(
            {
                "virtualRouters": [
                    {"vipAddressCidr": "192.0.2.10/24", "virtualRouterId": 10},
                    {"vipAddressCidr": "192.0.2.20/24", "virtualRouterId": 20} | AUTO,
                ]
            },
            True,
            id="of one virtual router",
        ),
    ],
)
def test_only_who_discovers_has_it(values: dict[str, Any], discovers: bool) -> None:
    rendered = render(NOTHING_SHOWN | values)
    kinds = {each["kind"] for each in rendered.objects}
    assert kinds & {"Service", "Role", "RoleBinding"} == (
        {"Service", "Role", "RoleBinding"} if discovers else set()
    )
    assert ("kubePeersService" in rendered.config) is discovers
    assert ("state" in {volume["name"] for volume in rendered.pod["volumes"]}) is discovers


def test_without_rbac_it_makes_no_role() -> None:
    rendered = render(AUTO | {"rbac": {"create": False}})
    assert not rendered.all("Role") + rendered.all("RoleBinding")
    assert rendered.one("Service")


@pytest.mark.parametrize("name", ["1st", "x" * 53])
def test_the_name_is_one_for_a_service(name: str) -> None:
    """It begins with a letter, which a release's need not, and has at most 63 characters."""
    service = render(AUTO, name=name).one("Service")["metadata"]["name"]
    assert service[0].isalpha()
    assert len(service) <= 63
