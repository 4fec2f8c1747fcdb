"""`loadBalancer.enabled`: HAProxy beside havip in the chart's pods and in static pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from rendering import MAJORS, NEWEST, render
from test_manifest_equals_chart import VIP, chart_of, differences, effective, objects, static_pod

ENABLED: dict[str, Any] = {"loadBalancer": {"enabled": True}}
LISTED = ENABLED | {"loadBalancerBackends": ["a 192.0.2.11:6443", "b 192.0.2.12:6443"]}
ASKS_NOTHING = {
    "checkKubeApi": False,
    "kubeHolderLease": False,
    "kubeEvents": False,
    "kubeNodeWatch": False,
}
"""Nothing else then has a use for the Kubernetes API."""
FILE = "/run/havip-haproxy/haproxy.cfg"


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
def test_haproxy_starts_once_its_configuration_is_written_and_validated(
    major: int, kind: str
) -> None:
    rendered = render(ENABLED | {"kind": kind}, major=major)
    write, validate = rendered.pod["initContainers"]
    havip, haproxy = rendered.pod["containers"]
    assert (write["image"], write["args"]) == (havip["image"], ["load-balancer"])
    # It judges the same settings in the same place.
    assert (write["env"], write["volumeMounts"]) == (havip["env"], havip["volumeMounts"])
    assert validate["image"] == haproxy["image"], "the very HAProxy that will run"
    assert validate["command"] == ["haproxy", "-c", "-f", FILE]
    assert haproxy["command"] == ["haproxy", "-W", "-db", "-f", FILE]
    shared = {"name": "haproxy", "mountPath": "/run/havip-haproxy"}
    assert shared in havip["volumeMounts"]
    assert haproxy["volumeMounts"] == validate["volumeMounts"] == [shared]
    assert {"name": "haproxy", "emptyDir": {}} in rendered.pod["volumes"]


def test_haproxy_may_do_nothing_but_listen() -> None:
    *_, haproxy = render(ENABLED).pod["containers"]
    security = haproxy["securityContext"]
    assert security["runAsNonRoot"]
    assert security["runAsUser"] > 0
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    write, _ = render(ENABLED).pod["initContainers"]
    assert write["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_balancer_takes_the_place_of_the_ingress_default() -> None:
    assert "checkServiceUrl" not in render(ENABLED).config
    own = ENABLED | {"checkServiceUrl": "https://127.0.0.1:6443/readyz"}
    assert render(own).config["checkServiceUrl"] == own["checkServiceUrl"]


def test_without_it_nothing_is_there() -> None:
    rendered = render({"loadBalancerBackends": "a 192.0.2.11:6443"})
    assert "initContainers" not in rendered.pod
    assert len(rendered.pod["containers"]) == 1
    assert not [name for name in rendered.config if name.startswith("loadBalancer")]
    assert not [each for each in rendered.all("Role") if "backends" in each["metadata"]["name"]]


def test_the_pods_may_list_the_api_servers_and_keep_the_list() -> None:
    rendered = render(ENABLED | ASKS_NOTHING)
    role, binding = rendered.one("Role"), rendered.one("RoleBinding")
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "default"
    assert role["rules"] == [
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "resourceNames": ["kubernetes"],
            "verbs": ["list", "watch"],
        }
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "havip", "namespace": "vip"}
    assert rendered.pod["automountServiceAccountToken"] is True
    assert "state" in {volume["name"] for volume in rendered.pod["volumes"]}


def test_a_list_of_backends_needs_no_rights() -> None:
    rendered = render(LISTED | ASKS_NOTHING)
    assert rendered.config["loadBalancerBackends"] == "a 192.0.2.11:6443,b 192.0.2.12:6443"
    assert not rendered.all("Role")
    assert rendered.pod["automountServiceAccountToken"] is False
    assert "state" not in {volume["name"] for volume in rendered.pod["volumes"]}


BOTH = "192.0.2.10/24,2001:db8::10/64"
TWO_ROUTERS = {
    "vipAddressCidr": "",
    "virtualRouters": [
        {"vipAddressCidr": "192.0.2.10/24", "virtualRouterId": 10},
        {"vipAddressCidr": "2001:db8::10/64", "virtualRouterId": 11},
    ],
}


@pytest.mark.parametrize(
    ("values", "rolls"),
    [
        pytest.param({"vipAddressCidr": "192.0.2.99/24"}, False, id="still every IPv4 address"),
        pytest.param({"vipAddressCidr": BOTH}, True, id="every IPv6 address too"),
        pytest.param(TWO_ROUTERS, True, id="the same by virtualRouters"),
        pytest.param({"vrrpPriority": 90}, False, id="havip alone"),
    ],
)
def test_pods_are_replaced_where_haproxy_would_listen_elsewhere(
    values: dict[str, Any], rolls: bool
) -> None:
    """A running HAProxy keeps its sockets, and one of another configuration keeps havip waiting."""
    assert (checksum(ENABLED | values) != checksum(ENABLED)) is rolls
    assert checksum(values) == checksum({}), "without HAProxy, havip follows"


def test_pods_are_replaced_for_another_vip_at_which_haproxy_listens() -> None:
    at_vip = LISTED | {"loadBalancerBind": "vip"}
    assert checksum(at_vip | {"vipAddressCidr": "192.0.2.99/24"}) != checksum(at_vip)
    assert checksum(at_vip | {"vipAddressCidr": "192.0.2.10/26"}) == checksum(at_vip)
    assert checksum(at_vip | {"vrrpPriority": 90}) == checksum(at_vip)


def checksum(values: dict[str, Any]) -> str:
    metadata = render(values).workload["spec"]["template"]["metadata"]
    found = metadata["annotations"]["checksum/read-at-start"]
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize("values", [ENABLED, LISTED], ids=["discovered", "listed"])
def test_the_daemon_and_the_api_take_it(values: dict[str, Any], tmp_path: Path) -> None:
    rendered = render(values)
    assert effective(rendered.config, tmp_path)["load_balancer"] is True
    for each in rendered.objects:
        kubernetes_validate.validate(each, NEWEST, strict=True)


# By `havip manifest` ---------------------------------------------------------------------------

LIST = "--load-balancer-backends=a 192.0.2.11:6443"


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([LIST], id="listed"),
        pytest.param([LIST, "--load-balancer-port=443"], id="a privileged port"),
        pytest.param([LIST, "--load-balancer-redirect-port=6443"], id="another port too"),
        pytest.param(
            [LIST, "--load-balancer-image=registry.example.org/haproxy:3.2"], id="another image"
        ),
    ],
)
def test_a_static_pod_is_the_charts(flags: list[str]) -> None:
    flags = [VIP, "--load-balancer", *flags]
    charts, ours = chart_of(flags, {}).pod, static_pod(*flags)["spec"]
    found = differences(charts, ours)
    parts = ("initContainers[", "containers[haproxy]", "volumes[haproxy]")
    settings = (".env[HAVIP_", ".volumeMounts[config]")
    different = {
        path: pair
        for path, pair in found.items()
        if path.startswith(parts) and not any(part in path for part in settings)
    }
    assert different == {}
    assert len(ours["initContainers"]) == len(ours["containers"]) == 2


def test_a_static_pod_that_follows_the_api_has_what_it_needs() -> None:
    pod = static_pod(VIP, "--load-balancer")["spec"]
    write, _ = pod["initContainers"]
    havip, _ = pod["containers"]
    assert write["env"] == havip["env"]
    assert write["volumeMounts"] == havip["volumeMounts"]
    mounted = {each["mountPath"] for each in havip["volumeMounts"]}
    assert {"/etc/kubernetes/admin.conf", "/var/lib/havip", "/run/havip-haproxy"} <= mounted
    for version in (NEWEST,):
        made = static_pod(VIP, "--load-balancer")
        kubernetes_validate.validate(made, version, strict=True)


def test_a_helmchart_says_so() -> None:
    (chart,) = objects("helmchart", VIP, "--load-balancer", "--load-balancer-port=7443")
    values = yaml.safe_load(chart["spec"]["valuesContent"])
    assert values["loadBalancer"] == {"enabled": True}
    assert values["loadBalancerPort"] == 7443
