"""`havip manifest` writes what the chart renders for the same settings, but for what is named here.

The chart is told what `havip manifest helmchart` says, so one comparison holds all three together:
what the HelmChart says, what the DaemonSet is, and what the chart makes of it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import kubernetes_validate
import pytest
import yaml
from rendering import CHART, EXAMPLES, Rendered, helm, render
from test_examples import VERSIONS, values_of
from test_values import GIVEN_BY_THE_CHART, MODEL, OTHER_DEFAULTS, VALUES

from havip.__main__ import main
from havip.settings import add_arguments, load

VIP = "--vip-address-cidr=192.0.2.10/24"
KEYS = "--auth-hmac-keys-file=/var/run/secrets/havip/hmac-keys"
PASSWORD = "--auth-password-file=/var/run/secrets/havip/password"
TWO = (
    '[{"vipAddressCidr": "192.0.2.10/24", "virtualRouterId": 12, "vrrpAdvertInterval": 7},'
    ' {"vipAddressCidr": "2001:db8::A/64", "virtualRouterId": 11, "vrrpInterfaceName": "eth1"}]'
)
BALANCED = [VIP, "--load-balancer", "--load-balancer-check-expected-status=200"]
"""With the answer of kubeadm's API servers: a HelmChart has that of k3s otherwise."""
Object = dict[str, Any]


def manifest(kind: str, *flags: str, environ: dict[str, str] | None = None) -> str:
    """What `havip manifest` prints; in this process, since there are many."""
    with (
        mock.patch.dict(os.environ, environ or {}, clear=True),
        contextlib.redirect_stdout(io.StringIO()) as told,
        contextlib.redirect_stderr(io.StringIO()) as problems,
    ):
        status = main(["manifest", kind, *flags])
    assert status == 0, problems.getvalue()
    return told.getvalue()


def objects(kind: str, *flags: str, environ: dict[str, str] | None = None) -> list[Object]:
    return [*yaml.safe_load_all(manifest(kind, *flags, environ=environ))]


class OfManifest(Rendered):
    """The objects of a manifest, looked at like those of a release."""

    def __init__(self, *flags: str, environ: dict[str, str] | None = None) -> None:
        super().__init__(manifest("daemonset", *flags, environ=environ))


def effective(config: Object, directory: Path) -> dict[str, Any]:
    """What the daemon makes of a file; two files may say the same, one of them by defaults."""
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return load(
        parser.parse_args([f"--config={file}"]), {}, is_for_here=False
    ).settings.model_dump()


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Each field of an object by its path; lists by what their entries are called."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            name = item.get("name", number) if isinstance(item, dict) else number
            yield from leaves(item, f"{path}[{name}]")
    else:
        yield path, value


def differences(one: object, other: object) -> dict[str, tuple[object, object]]:
    """By path, what `one` and `other` have there; `None` for nothing."""
    here, there = dict(leaves(one)), dict(leaves(other))
    return {
        path: (here.get(path), there.get(path))
        for path in here.keys() | there.keys()
        if here.get(path) != there.get(path)
    }


# DaemonSet and HelmChart ---------------------------------------------------------------------

SETTINGS: list[Any] = [
    pytest.param([VIP], {}, id="nothing but a VIP"),
    pytest.param(
        [
            *("--vip-address-cidr=192.0.2.10/24,2001:db8::10/64", "--virtual-router-id=51"),
            *("--vrrp-interface-name=eth0", "--vip-interface-name=eth1", "--vrrp-priority=120"),
            *("--vrrp-no-preempt", "--vrrp-preempt-delay=0.5", "--vrrp-fast-detect=false"),
            *("--vrrp-advert-interval=4.2", "--all-unhealthy=hold", "--vip-take-over"),
            "--vrrp-unicast-peers=192.0.2.2,192.0.2.3,2001:db8::2",
            *("--log-format=text", "--debug"),
        ],
        {},
        id="the virtual router and the process",
    ),
    pytest.param(
        [
            *(VIP, "--check-service-url=https://127.0.0.1:6443/readyz"),
            *("--check-service-expected-status=200-299,401", "--check-service-interval=1.5"),
            *("--check-service-timeout=1", "--check-service-fail-after=3", "--check-kubelet"),
            *("--check-service-ca-file=/etc/kubernetes/pki/ca.crt", "--check-kubelet-weight=-9"),
            *("--check-kube-api", "--check-kube-api-url=https://127.0.0.1:6443"),
            *("--check-kube-api-client-cert-file=/etc/kubernetes/pki/havip.crt",),
            *("--check-kube-api-client-key-file=/etc/kubernetes/pki/havip.key",),
            *("--check-kube-api-ca-file=/etc/kubernetes/pki/ca.crt", "--check-kube-api-weight=0"),
        ],
        {},
        id="checks with files of the node",
    ),
    pytest.param([VIP, "--check-kube-api"], {}, id="the API check with its token"),
    pytest.param(
        [
            *(VIP, "--check-kube-api", "--check-kube-api-url=https://127.0.0.1:6443"),
            "--check-kube-api-ca-file=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            "--check-kube-api-token-file=/var/run/secrets/kubernetes.io/serviceaccount/token",
        ],
        {},
        id="the node's API server with the pod's token",
    ),
    pytest.param(
        [
            *(VIP, "--check-kube-api", "--check-kube-api-url=https://127.0.0.1:6443/livez?verbose"),
            "--check-kube-api-token-file=/var/run/secrets/kubernetes.io/serviceaccount/token",
        ],
        {},
        id="another path of the API server",
    ),
    pytest.param(
        [VIP, KEYS, "--auth-hmac-mode=permissive", "--auth-hmac-time-window=9"], {}, id="HMAC"
    ),
    pytest.param([VIP, PASSWORD, "--vrrp-version=2"], {}, id="version 2 with a password"),
    pytest.param([], {"HAVIP_VIRTUAL_ROUTERS": TWO}, id="several virtual routers"),
    pytest.param(
        [
            *(VIP, "--kube-holder-lease", "--kube-events", "--kube-holder-label"),
            *("--kube-node-watch", "--kube-node-weight=-50"),
        ],
        {},
        id="what Kubernetes shows",
    ),
    pytest.param(
        [VIP, "--kube-holder-lease", "--lease-name=edge", "--lease-namespace=other"],
        {},
        id="a Lease elsewhere",
    ),
    pytest.param(
        [VIP, "--election=lease", "--kube-holder-lease", "--kube-events"],
        {},
        id="election by a Lease",
    ),
    pytest.param(
        [VIP, "--vrrp-unicast-peers=auto", "--kube-peers-service=peers-havip"],
        {},
        id="peers by discovery",
    ),
    pytest.param(BALANCED, {}, id="a load balancer"),
    pytest.param(
        [
            "--vip-address-cidr=192.0.2.10/24,2001:db8::10/64",
            *("--load-balancer", "--load-balancer-backends=a 192.0.2.11:6443, [2001:db8::1]:6443"),
            *("--load-balancer-port=443", "--load-balancer-bind=vip", "--load-balancer-balance"),
            *("roundrobin", "--load-balancer-check-interval=1.5", "--load-balancer-slow-start=0"),
            *("--load-balancer-check-timeout=1", "--load-balancer-check-expected-status=200,401"),
            *("--load-balancer-max-connections=500000", "--load-balancer-proxy-protocol"),
            "--load-balancer-ca-file=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            "--load-balancer-image=registry.example.org/haproxy:3.2",
        ],
        {},
        id="a load balancer at the VIPs",
    ),
    pytest.param(
        [*BALANCED, "--load-balancer-ca-file=/etc/kubernetes/pki/ca.crt"],
        {},
        id="a load balancer with a file of the node",
    ),
    pytest.param([*BALANCED, "--image-pull-policy=Never"], {}, id="no image is pulled"),
    pytest.param([VIP, "--listen=[::]:9999"], {}, id="listens everywhere"),
    pytest.param([VIP, "--listen=[::]:9999", "--metrics"], {}, id="metrics everywhere already"),
]
WORKLOADS: list[Any] = [
    pytest.param([], id="as it is"),
    pytest.param(["--nodes=control-plane"], id="control plane"),
    pytest.param(["--name=havip-edge", "--namespace=vip"], id="another name"),
    pytest.param(
        [
            *("--image=registry.example.org:5000/infra/havip:dev", "--image-pull-policy=Always"),
            *("--requests=cpu=100m,memory=96Mi", "--limits=memory=1Gi,cpu=1"),
            *("--realtime", "--metrics"),
        ],
        id="another pod",
    ),
    pytest.param([f"--image=localhost/havip@sha256:{'5f' * 32}"], id="an image by its digest"),
]

PERMITTED = {
    # The chart is no part of it, and Helm does not manage it.
    "metadata.labels.helm.sh/chart": ("havip-0.1.0", None),
    "metadata.labels.app.kubernetes.io/managed-by": ("Helm", None),
}
ONLY_IN_THE_CHART = {"Pod"}
"""That of `helm test`."""


def chart_of(flags: list[str], environ: dict[str, str]) -> Rendered:
    """What the chart renders if it is told what `havip manifest helmchart` says."""
    (chart,) = objects("helmchart", *flags, environ=environ)
    spec = chart["spec"]
    return render(
        yaml.safe_load(spec["valuesContent"]),
        name=chart["metadata"]["name"],
        namespace=spec["targetNamespace"],
    )


def compare(flags: list[str], environ: dict[str, str], directory: Path) -> None:
    charts, ours = chart_of(flags, environ), OfManifest(*flags, environ=environ)
    by_name = {_name(each): each for each in charts.objects}
    assert len(by_name) == len(charts.objects)
    by_name = {name: each for name, each in by_name.items() if name[0] not in ONLY_IN_THE_CHART}
    assert sorted(by_name) == sorted(map(_name, ours.objects))
    kinds = [each["kind"] for each in ours.objects]
    assert (kinds[0], kinds[-1]) == ("ServiceAccount", "DaemonSet"), "what it needs is there before"
    assert effective(charts.config, directory) == effective(ours.config, directory)
    for each in ours.objects:
        theirs = by_name[_name(each)]
        found = differences(theirs, each)
        # Compared above.
        found.pop("data.config.yaml", None)
        assert found == PERMITTED, each["kind"]


def _name(each: Any) -> tuple[str, str]:
    return each["kind"], each["metadata"]["name"]


@pytest.mark.parametrize(("settings", "environ"), SETTINGS)
def test_settings(settings: list[str], environ: dict[str, str], tmp_path: Path) -> None:
    compare([*settings, "--auth-secret=mine"], environ, tmp_path)


@pytest.mark.parametrize("flags", WORKLOADS)
def test_workloads(flags: list[str], tmp_path: Path) -> None:
    compare([VIP, KEYS, *flags], {}, tmp_path)


def test_the_settings_are_those_that_were_given(tmp_path: Path) -> None:
    """Otherwise both could be told nothing, and be equal."""
    flags = [VIP, "--vrrp-priority=120", "--check-service-url=tcp://127.0.0.1:80", "--debug"]
    config = OfManifest(*flags).config
    assert config == {
        "vipAddressCidr": "192.0.2.10/24",
        "vrrpPriority": 120,
        "checkServiceUrl": "tcp://127.0.0.1:80",
        "debug": True,
        "listen": "127.0.0.1:9650",
    }
    assert effective(config, tmp_path)["vrrp_priority"] == 120


def test_settings_of_single_nodes(tmp_path: Path) -> None:
    """In the one file of all nodes; none is this machine's, whatever its name is."""
    overrides = {os.uname().nodename: {"vrrpPriority": 120}}
    file = tmp_path / "havip.yaml"
    file.write_text(yaml.safe_dump({"nodeOverrides": overrides}))
    flags = (VIP, f"--config={file}")
    (chart,) = objects("helmchart", *flags)
    values = yaml.safe_load(chart["spec"]["valuesContent"])
    assert (values["nodeOverrides"], "vrrpPriority" in values) == (overrides, False)
    config = OfManifest(*flags).config
    assert render(values).config["nodeOverrides"] == config["nodeOverrides"] == overrides


def test_what_the_chart_does_unasked_is_named() -> None:
    checks = {name: value for name, value in OTHER_DEFAULTS.items() if name != "listen"}
    for name, value in checks.items():
        assert VALUES[name] == value
        assert MODEL[name].default != value
    (chart,) = objects("helmchart", VIP)
    values = yaml.safe_load(chart["spec"]["valuesContent"])
    assert {name: values[name] or None for name in checks} == {
        name: MODEL[name].default or None for name in checks
    }


def sample(name: str) -> str:
    if name.endswith("File"):
        return "/etc/havip/some/file"
    samples = {"metricsListen": "127.0.0.1:1", "kubeApiServer": "https://127.0.0.1:6443"}
    return samples.get(name, "some")


@pytest.mark.parametrize("name", sorted(GIVEN_BY_THE_CHART))
def test_what_is_no_value_of_the_chart_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "havip.yaml"
    version = 2 if name == "authPasswordFile" else 3
    file.write_text(yaml.safe_dump({name: sample(name), "vrrpVersion": version}))
    with contextlib.redirect_stderr(io.StringIO()) as told:
        assert main(["manifest", "helmchart", VIP, f"--config={file}"]) == 2
    assert name in told.getvalue()


# The HelmChart beside the example ------------------------------------------------------------

BOOTSTRAP = [
    *("--vip-address-cidr=192.168.1.100/24", "--nodes=control-plane"),
    *("--check-service-url=https://127.0.0.1:6443/readyz",),
    *("--check-service-expected-status=200-299,401", "--check-kube-api"),
    *("--check-kube-api-url=https://127.0.0.1:6443", "--check-kube-api-weight=0"),
    "--check-kube-api-ca-file=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    "--check-kube-api-token-file=/var/run/secrets/kubernetes.io/serviceaccount/token",
    *("--check-kube-api-interval=2", "--check-kube-api-fail-after=2"),
    *("--kube-holder-lease", "--kube-events", "--kube-node-watch", "--all-unhealthy=hold"),
]


def test_it_is_the_example() -> None:
    """Said by flags, the same as in values-examples/."""
    (ours,) = objects("helmchart", *BOOTSTRAP)
    path = EXAMPLES / "k3s-helmchart.yaml"
    example = yaml.safe_load(path.read_text(encoding="utf-8"))
    values = yaml.safe_load(ours["spec"].pop("valuesContent"))
    del example["spec"]["valuesContent"]
    assert ours == example
    assert render(values).objects == render(values_of(path)).objects


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_the_chart_inside_is_the_chart_too(form: str, tmp_path: Path) -> None:
    chart = CHART
    if form == "archive":
        assert helm(3, "package", str(CHART), "--destination", str(tmp_path)).returncode == 0
        (chart,) = tmp_path.glob("havip-*.tgz")
    (made,) = objects("helmchart", VIP, f"--chart={chart}")
    assert "chart" not in made["spec"]
    inside = tmp_path / "inside.tgz"
    inside.write_bytes(base64.b64decode(made["spec"]["chartContent"]))
    assert render(chart=inside).objects == render().objects


# The static pod beside the chart's pod --------------------------------------------------------


def static_pod(*flags: str, environ: dict[str, str] | None = None) -> Object:
    (pod,) = objects("static-pod", *flags, environ=environ)
    assert isinstance(pod, dict)
    return pod


def of_static_pod(charts: Object, *, has_keys: bool, variables: Object) -> Object:
    """By path, what the chart's pod has and a static pod has in its place; both None for none."""
    permitted: Object = {
        # It refers to no object of the cluster.
        "serviceAccountName": ("havip", None),
        "automountServiceAccountToken": (charts["automountServiceAccountToken"], False),
        "volumes[config].configMap.name": ("havip", None),
        "volumes[config].name": ("config", None),
        "containers[havip].volumeMounts[config].name": ("config", None),
        "containers[havip].volumeMounts[config].mountPath": ("/etc/havip", None),
        "containers[havip].volumeMounts[config].readOnly": (True, None),
        # The kubelet itself has it tolerate everything, and nobody schedules it.
        **{path: (value, None) for path, value in leaves(charts["tolerations"], "tolerations")},
        # It is as important as the API server's, and there before the cluster's names are.
        "priorityClassName": ("system-cluster-critical", "system-node-critical"),
        "priority": (None, 2000001000),
        "dnsPolicy": ("ClusterFirstWithHostNet", "Default"),
    }
    if not charts["automountServiceAccountToken"]:
        del permitted["automountServiceAccountToken"]
    if has_keys:
        # The directory of the node in place of the Secret.
        permitted |= {
            "volumes[auth].secret.secretName": ("havip-auth", None),
            "volumes[auth].secret.defaultMode": (0o400, None),
            "volumes[auth].secret.items[0].key": ("hmac-keys", None),
            "volumes[auth].secret.items[0].path": ("hmac-keys", None),
            "volumes[auth].hostPath.path": (None, "/var/run/secrets/havip"),
            "volumes[auth].hostPath.type": (None, "Directory"),
        }
    if not has_keys and not any(each["name"] != "config" for each in charts["volumes"]):
        permitted["volumes"] = permitted["containers[havip].volumeMounts"] = (None, [])
    for name, value in variables.items():
        permitted[f"containers[havip].env[{name}].name"] = (None, name)
        permitted[f"containers[havip].env[{name}].value"] = (None, value)
    return permitted


NOT_OF_A_STATIC_POD = {
    "the node's API server with the pod's token",  # it has none
    "another path of the API server",  # likewise
    "version 2 with a password",  # as HMAC is
    # These take a kubeconfig (tests/commands/test_manifest.py).
    "what Kubernetes shows",
    "peers by discovery",
    "a Lease elsewhere",
    "election by a Lease",
    # These are compared in tests/chart/test_load_balancer.py.
    "a load balancer",
    "a load balancer at the VIPs",
    "a load balancer with a file of the node",
    "no image is pulled",
}


@pytest.mark.parametrize(
    ("settings", "environ"), [each for each in SETTINGS if each.id not in NOT_OF_A_STATIC_POD]
)
def test_a_static_pod(settings: list[str], environ: dict[str, str], tmp_path: Path) -> None:
    flags = [*settings, "--limits=cpu=1", "--realtime"]
    rendered, pod = chart_of(flags, environ), static_pod(*flags, environ=environ)
    variables = {
        each["name"]: each["value"]
        for each in pod["spec"]["containers"][0]["env"]
        if each["name"] not in {"HAVIP_NODE_NAME", "HOST_IP"}
    }
    assert differences(rendered.pod, pod["spec"]) == of_static_pod(
        rendered.pod, has_keys=KEYS in settings, variables=variables
    )
    assert pod["metadata"] == {
        "name": "havip",
        "namespace": "kube-system",
        "labels": rendered.workload["spec"]["template"]["metadata"]["labels"],
    }
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    read = load(parser.parse_args([]), variables, is_for_here=False).settings.model_dump()
    assert read == effective(rendered.config, tmp_path)


# The schemas of the API ----------------------------------------------------------------------


SHOWN = ["--kube-holder-lease", "--kube-events", "--kube-holder-label", "--kube-node-watch"]
DISCOVERS = ["--vrrp-unicast-peers=auto", "--kube-peers-service=peers-havip"]
FORMS: list[Any] = [
    pytest.param(
        [KEYS, "--metrics", "--realtime", "--check-service-ca-file=/etc/kubernetes/ca.crt"],
        id="everything of the pod",
    ),
    pytest.param(["--election=lease"], id="election by a Lease"),
    pytest.param([*SHOWN, *DISCOVERS], id="what Kubernetes shows and names"),
    pytest.param(["--load-balancer"], id="a load balancer"),
]
WITH_ACCESS: list[Any] = [
    pytest.param(["--kube-events", "--kubeconfig-file=/etc/havip/api/config"], id="kubeconfig"),
    pytest.param(
        [
            *("--kube-events", "--kube-api-server=https://127.0.0.1:6443"),
            *("--kube-token-file=/etc/havip/api/token", "--kube-ca-file=/etc/kubernetes/ca.crt"),
        ],
        id="token",
    ),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flags", [*FORMS, *WITH_ACCESS])
def test_the_api_takes_a_static_pod(flags: list[str], version: str) -> None:
    for each in ("--for=kubeadm", "--for=k3s"):
        kubernetes_validate.validate(static_pod(VIP, *flags, each), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flags", FORMS)
@pytest.mark.parametrize("nodes", ["all", "control-plane"])
def test_the_api_takes_a_daemonset(flags: list[str], nodes: str, version: str) -> None:
    made = objects("daemonset", VIP, *flags, f"--nodes={nodes}")
    kinds = {each["kind"] for each in made}
    assert {"ServiceAccount", "ConfigMap", "DaemonSet"} <= kinds
    assert ("Lease" in kinds) is ("--election=lease" in flags or flags[0] == SHOWN[0])
    for each in made:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("flags", FORMS)
def test_the_api_takes_what_a_helmchart_makes(
    flags: list[str], version: str, tmp_path: Path
) -> None:
    """There is no schema of a HelmChart: of its own chart, by its own values."""
    (made,) = objects("helmchart", VIP, *flags, f"--chart={CHART}")
    spec = made["spec"]
    inside = tmp_path / "inside.tgz"
    inside.write_bytes(base64.b64decode(spec["chartContent"]))
    rendered = render(
        yaml.safe_load(spec["valuesContent"]),
        chart=inside,
        kube=version,
        namespace=spec["targetNamespace"],
    )
    for each in rendered.objects:
        kubernetes_validate.validate(each, version, strict=True)
