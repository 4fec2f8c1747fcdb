"""What stands in the objects, and why it has to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import EXAMPLES, MAJORS, NOTHING_SHOWN, Rendered, render
from stand_in_cluster import StandInCluster, namespace

KEY = "5f0c2f6c6a1f3a52d5d3c4e0a9f1b7c86e2f7a90b1c2d3e4f5061728394a5b6c"
SELECTOR = {"app.kubernetes.io/name": "havip", "app.kubernetes.io/instance": "havip"}


@pytest.fixture
def cluster() -> Iterator[StandInCluster]:
    with StandInCluster(namespace()) as cluster:
        yield cluster


def environment(rendered: Rendered) -> dict[str, Any]:
    """The pod's variables; each once, since helm 4 refuses two of a name."""
    variables = rendered.container["env"]
    found = {each["name"]: each.get("value") or each["valueFrom"] for each in variables}
    assert len(found) == len(variables)
    return found


# The workload ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["Deployment", "deployment", "DaemonSet", "Daemonset", "DAEMONSET"]
)
def test_kind_in_any_case(kind: str) -> None:
    wanted = "Deployment" if kind.lower() == "deployment" else "DaemonSet"
    assert render({"kind": kind}).workload["kind"] == wanted


def test_both_kinds_have_one_pod() -> None:
    """But for the rule that pods of a Deployment share no node, which a DaemonSet's never do."""
    deployment = render().workload["spec"]["template"]
    daemonset = render({"kind": "DaemonSet"}).workload["spec"]["template"]
    anti_affinity = deployment["spec"].pop("affinity")
    assert deployment == daemonset
    assert anti_affinity == {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "labelSelector": {"matchLabels": SELECTOR},
                    "topologyKey": "kubernetes.io/hostname",
                }
            ]
        }
    }


def test_a_deployment_rolls_where_it_has_as_many_pods_as_nodes() -> None:
    spec = render({"pod": {"replicas": 3}}).workload["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }
    assert spec["minReadySeconds"] == 5


def test_a_daemonset_rolls_one_by_one_or_as_it_is_told() -> None:
    spec = render({"kind": "DaemonSet"}).workload["spec"]
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    told = render({"kind": "DaemonSet", "updateStrategy": {"type": "OnDelete"}}).workload["spec"]
    assert told["updateStrategy"] == {"type": "OnDelete"}
    two = render({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}).workload["spec"]
    assert two["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 2}
    recreate = render({"updateStrategy": {"type": "Recreate"}}).workload["spec"]
    assert recreate["strategy"] == {"type": "Recreate"}


def test_the_users_affinity_stands_beside_ours() -> None:
    theirs = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "other"}}}
    affinity = {
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [theirs]},
    }
    found = render({"pod": {"affinity": affinity}}).pod["affinity"]
    required = found["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required[0] == theirs
    assert required[1]["labelSelector"]["matchLabels"] == SELECTOR
    assert found["nodeAffinity"] == affinity["nodeAffinity"]


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ({}, 10),
        ({"vrrpAdvertInterval": 5}, 15),
        ({"vrrpAdvertInterval": 40}, 30),
        (
            {"virtualRouters": [{"vipAddressCidr": "192.0.2.9/24", "vrrpAdvertInterval": 7}]},
            21,
        ),
        ({"pod": {"terminationGracePeriodSeconds": 60}}, 60),
    ],
)
def test_a_pod_has_time_to_hand_the_vip_over(values: dict[str, Any], seconds: int) -> None:
    rendered = render(values)
    assert rendered.pod["terminationGracePeriodSeconds"] == seconds
    assert "lifecycle" not in rendered.container


@pytest.mark.parametrize(
    ("values", "is_there"),
    [
        ({}, True),
        ({"pod": {"replicas": 1}}, False),
        ({"kind": "DaemonSet"}, False),
        ({"podDisruptionBudget": {"enabled": False}}, False),
    ],
)
def test_a_drain_takes_one_pod_at_a_time(values: dict[str, Any], is_there: bool) -> None:
    rendered = render(values)
    assert bool(rendered.all("PodDisruptionBudget")) is is_there
    if is_there:
        spec = rendered.one("PodDisruptionBudget")["spec"]
        assert spec == {
            "maxUnavailable": 1,
            "selector": {"matchLabels": SELECTOR},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }
        old = render(values, kube="1.25").one("PodDisruptionBudget")["spec"]
        assert "unhealthyPodEvictionPolicy" not in old


# The pod -----------------------------------------------------------------------------------


def test_what_the_pod_may_do() -> None:
    rendered = render()
    assert rendered.container["securityContext"] == {
        "runAsUser": 0,
        "runAsNonRoot": False,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
    }
    assert rendered.pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    realtime = render({"pod": {"realtime": True}}).container["securityContext"]["capabilities"]
    assert realtime == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "SYS_NICE"]}


def test_what_the_pod_is_in_the_cluster() -> None:
    pod = render().pod
    assert pod["hostNetwork"] is True
    assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert pod["enableServiceLinks"] is False
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert "hostPID" not in pod
    assert "hostIPC" not in pod


@pytest.mark.parametrize(
    ("listen", "host", "port", "declared"),
    [
        # A port of the host's network that is declared keeps the next release away.
        ("", "127.0.0.1", 9650, []),
        ("127.0.0.1:9999", "127.0.0.1", 9999, []),
        ("[::1]:9650", "::1", 9650, []),
        ("0.0.0.0:9650", "127.0.0.1", 9650, [9650]),
        ("[::]:9650", "::1", 9650, [9650]),
        ("192.0.2.1:9650", "192.0.2.1", 9650, [9650]),
    ],
)
def test_probes_go_to_the_loopback_by_http(
    listen: str, host: str, port: int, declared: list[int]
) -> None:
    container = render({"listen": listen}).container
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for name, path in paths.items():
        assert container[name]["httpGet"] == {"host": host, "port": port, "path": path}
    for name in ("startupProbe", "livenessProbe"):
        asked = container[name]
        assert asked["periodSeconds"] * asked["failureThreshold"] >= 30, "or a slow one is killed"
    assert [each["hostPort"] for each in container.get("ports", [])] == declared


def test_no_cpu_limit_and_enough_memory() -> None:
    assert render().container["resources"] == {
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "limits": {"memory": "128Mi"},
    }


@pytest.mark.parametrize(
    ("amount", "is_enough"),
    [
        ("96Mi", True),
        ("95Mi", False),
        ("100M", False),
        ("101M", True),
        ("1Gi", True),
        ("0.1G", False),
    ],
)
def test_quantities(amount: str, is_enough: bool) -> None:
    values = {"pod": {"resources": {"limits": {"memory": amount}}}}
    if is_enough:
        assert render(values).container["resources"]["limits"]["memory"] == amount
    else:
        with pytest.raises(Exception, match="would kill the process"):
            render(values)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ({}, "localhost/havip:0.1.0"),
        ({"tag": "dev"}, "localhost/havip:dev"),
        (
            {"repository": "registry.example.org:5000/havip"},
            "registry.example.org:5000/havip:0.1.0",
        ),
        ({"tag": "dev", "digest": f"sha256:{'5f' * 32}"}, f"localhost/havip@sha256:{'5f' * 32}"),
    ],
)
def test_the_image(image: dict[str, str], name: str) -> None:
    rendered = render({"image": image})
    assert rendered.container["image"] == name
    assert rendered.one("Pod")["spec"]["containers"][0]["image"] == name


def test_extra_variables_replace_ours() -> None:
    name = {"name": "HAVIP_NODE_NAME", "value": "mine"}
    assert environment(render({"pod": {"extraEnv": [name]}})) == {"HAVIP_NODE_NAME": "mine"}
    assert environment(render()) == {
        "HAVIP_NODE_NAME": {"fieldRef": {"fieldPath": "spec.nodeName"}}
    }


def test_tolerations() -> None:
    own = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": 15}
        for key in ("unreachable", "not-ready")
    ]
    assert render().pod["tolerations"] == own
    masters = [
        {"key": f"node-role.kubernetes.io/{key}", "operator": "Exists"}
        for key in ("control-plane", "master", "controlplane", "etcd")
    ]
    assert render({"pod": {"tolerateMasterTaints": True}}).pod["tolerations"] == own + masters
    mine = [{"operator": "Exists"}]
    assert render({"pod": {"tolerations": mine}}).pod["tolerations"] == mine
    assert "tolerations" not in render({"pod": {"tolerations": []}}).pod


@pytest.mark.parametrize(
    ("values", "has_token"),
    [
        ({}, True),
        ({"checkKubeApi": False}, False),
        ({"checkKubeApi": False, "nodeOverrides": {"n1": {"checkKubeApi": True}}}, True),
        ({"checkKubeApi": False, "nodeOverrides": {"n1": {"checkKubeApiUrl": "auto"}}}, False),
        ({"checkKubeApiUrl": "https://127.0.0.1:6443"}, False),
        (
            {
                "checkKubeApiUrl": "https://127.0.0.1:6443",
                "checkKubeApiTokenFile": "/var/run/secrets/kubernetes.io/serviceaccount/token",
            },
            True,
        ),
    ],
)
def test_the_token_is_there_only_for_the_api_check(values: dict[str, Any], has_token: bool) -> None:
    rendered = render({**NOTHING_SHOWN, **values})
    assert rendered.pod["automountServiceAccountToken"] is has_token
    assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False


def test_the_service_account_and_its_role() -> None:
    rendered = render(NOTHING_SHOWN)
    assert rendered.one("ClusterRole")["rules"] == [
        {"nonResourceURLs": ["/readyz"], "verbs": ["get"]}
    ]
    (subject,) = rendered.one("ClusterRoleBinding")["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "havip", "namespace": "vip"}
    existing = render({"serviceAccount": {"name": "mine"}})
    assert not existing.all("ServiceAccount")
    assert existing.pod["serviceAccountName"] == "mine"
    (subject,) = existing.one("ClusterRoleBinding")["subjects"]
    assert subject["name"] == "mine"


def test_pull_secrets_are_rendered() -> None:
    pull = [{"name": "registry"}]
    rendered = render({"pod": {"imagePullSecrets": pull}})
    assert rendered.pod["imagePullSecrets"] == pull
    assert rendered.one("Pod")["spec"]["imagePullSecrets"] == pull


# Configuration -----------------------------------------------------------------------------


def template(values: dict[str, Any]) -> Any:
    return render(values).workload["spec"]["template"]


@pytest.mark.parametrize(
    "change",
    [
        {"vrrpPriority": 110},
        {"vipAddressCidr": "192.0.2.20/24"},
        {"checkServiceUrl": "tcp://127.0.0.1:80"},
        {"nodeOverrides": {"node-1": {"vrrpPriority": 120}}},
        {"commonLabels": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_running_pods_follow_a_change_without_being_replaced(change: dict[str, Any]) -> None:
    assert template(change) == template({})


def test_a_changed_key_replaces_no_pod() -> None:
    before = template({"authHmacKeys": {"1": KEY}})
    assert template({"authHmacKeys": {"1": KEY, "2": KEY[::-1]}, "authHmacActiveKey": 2}) == before


@pytest.mark.parametrize(
    "change", [{"debug": True}, {"logFormat": "text"}, {"listen": "[::1]:9650"}]
)
def test_what_is_read_at_the_start_replaces_pods(change: dict[str, Any]) -> None:
    assert template(change) != template({})


def test_the_file_is_followed_as_a_directory() -> None:
    """The kubelet never changes what is mounted by subPath."""
    rendered = render({"authExistingSecret": "vrrp"})
    assert rendered.container["volumeMounts"] == [
        {"name": "config", "mountPath": "/etc/havip", "readOnly": True},
        {"name": "auth", "mountPath": "/var/run/secrets/havip", "readOnly": True},
    ]
    assert rendered.pod["volumes"][0] == {"name": "config", "configMap": {"name": "havip"}}


@pytest.mark.parametrize("major", MAJORS)
def test_a_fraction_by_set(major: int) -> None:
    """helm makes text of it."""
    given = (
        "vrrpAdvertInterval=0.25",
        "checkServiceTimeout=0.5",
        "virtualRouters[0].vipAddressCidr=192.0.2.11/24",
        "virtualRouters[0].vrrpPreemptDelay=1.5",
        "nodeOverrides.n1.checkKubeletInterval=2.5",
        "authHmacTimeWindow=1.5",
        f"authHmacKeys.1={KEY}",
    )
    values = {"virtualRouters": []}
    config = render(values, major=major, args=tuple(f"--set={each}" for each in given)).config
    assert (config["vrrpAdvertInterval"], config["checkServiceTimeout"]) == (0.25, 0.5)
    assert config["virtualRouters"][0]["vrrpPreemptDelay"] == 1.5
    assert config["nodeOverrides"]["n1"] == {"checkKubeletInterval": 2.5}
    assert config["authHmacTimeWindow"] == 1.5


def test_lists_and_texts_of_addresses() -> None:
    listed = render({"vipAddressCidr": ["192.0.2.10/24", "2001:db8::10/64"]}).config
    assert listed["vipAddressCidr"] == "192.0.2.10/24,2001:db8::10/64"


def test_more_volumes_variables_labels_and_objects() -> None:
    volume = {"name": "ca", "configMap": {"name": "ca"}}
    mount = {"name": "ca", "mountPath": "/ca"}
    rendered = render(
        {
            "commonLabels": {"team": "edge", "app.kubernetes.io/name": "no"},
            "pod": {
                "labels": {"tier": "net", "app.kubernetes.io/instance": "no"},
                "annotations": {"note": "x"},
                "extraVolumes": [volume],
                "extraVolumeMounts": [mount],
            },
            "extraObjects": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "{{ .Release.Name }}-1"},
                },
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Namespace }}-2'}",
            ],
        }
    )
    assert volume in rendered.pod["volumes"]
    assert mount in rendered.container["volumeMounts"]
    for each in rendered.objects:
        if "labels" in each["metadata"]:
            assert each["metadata"]["labels"]["team"] == "edge"
    pod = rendered.workload["spec"]["template"]["metadata"]
    assert pod["labels"] == {
        **SELECTOR,
        "app.kubernetes.io/part-of": "havip",
        "team": "edge",
        "tier": "net",
    }
    assert pod["annotations"]["note"] == "x"
    names = {each["metadata"]["name"] for each in rendered.all("ConfigMap")}
    assert names == {"havip", "havip-1", "vip-2"}


def test_a_priority_class_may_come_with_the_release(
    cluster: StandInCluster, tmp_path: Path
) -> None:
    made = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "mine"},
        "value": 1000,
    }
    values = {"pod": {"priorityClassName": "mine"}, "extraObjects": [made]}
    assert cluster.render(tmp_path, values).pod["priorityClassName"] == "mine"


@pytest.mark.parametrize("major", MAJORS)
def test_an_empty_heading_of_a_mapping_or_list_stands_for_none(major: int) -> None:
    """As in `affinity:` with everything below it commented out."""
    lists = ("tolerations", "extraEnv", "imagePullSecrets", "extraVolumes", "extraVolumeMounts")
    maps = ("affinity", "nodeSelector", "labels", "annotations", "resources", "securityContext")
    empty = dict.fromkeys((*lists, *maps, "livenessProbe", "readinessProbe"))
    top = ("commonLabels", "nodeOverrides", "virtualRouters", "updateStrategy", "extraObjects")
    values = {"vipAddressCidr": "192.0.2.10/24", "pod": empty, **dict.fromkeys(top)}
    rendered = render(values, major=major)
    assert not {*lists, "nodeSelector", "securityContext"} & rendered.pod.keys()
    assert rendered.container["resources"] == {}
    for probe in ("livenessProbe", "readinessProbe"):
        assert rendered.container[probe].keys() == {"httpGet"}
    masters = {"pod": {"tolerations": None, "tolerateMasterTaints": True}}
    assert len(render(masters, major=major).pod["tolerations"]) == 4


def test_names() -> None:
    def name(release: str, **values: str) -> str:
        return render(values, name=release).workload["metadata"]["name"]  # type: ignore[no-any-return]

    assert name("havip") == name("x", fullnameOverride="havip") == "havip"
    assert name("edge") == "edge-havip"
    assert name("edge", nameOverride="vip") == "edge-vip"
    assert len(name("x" * 53, nameOverride="n" * 60)) == 63


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet"])
@pytest.mark.parametrize(("name", "home"), [("123", "456"), ("1e5", "on"), ("null", "0x1f")])
def test_names_that_yaml_would_read_as_something_else(
    name: str, home: str, kind: str, major: int
) -> None:
    values = {
        "kind": kind,
        "nameOverride": name,
        "serviceAccount": {"name": name},
        "pod": {"priorityClassName": name},
        "authExistingSecret": name,
        "metrics": {
            "enabled": True,
            "podMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
        },
    }
    mine = (
        values,
        {**values, "serviceAccount": {}, "authExistingSecret": "", "authMethod": "none"},
    )
    for each in mine:
        rendered = render(each, name=name, namespace=home, major=major)
        for found in rendered.objects:
            metadata = found["metadata"]
            own = f"{home}:{name}"
            names = {name, own, f"{name}-test", f"{own}-lease", f"{own}-events", "havip-10"}
            assert metadata["name"] in names
            of_events = metadata["name"] == f"{own}-events"
            assert metadata.get("namespace", home) == ("default" if of_events else home)
            assert all(isinstance(label, str) for label in metadata["labels"].values())
        labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name}
        assert rendered.workload["spec"]["selector"]["matchLabels"] == labels
        pod = rendered.pod
        assert (pod["serviceAccountName"], pod["priorityClassName"]) == (name, name)
        assert pod["volumes"][0]["configMap"]["name"] == name
        assert pod["volumes"][-1].get("secret", {}).get("secretName", name) == name
        (subject,) = rendered.one("ClusterRoleBinding")["subjects"]
        assert (subject["name"], subject["namespace"]) == (name, home)


# Metrics -----------------------------------------------------------------------------------


def test_metrics_alone_are_on_the_nodes_address() -> None:
    rendered = render({"metrics": {"enabled": True}})
    assert environment(rendered)["HOST_IP"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    assert environment(rendered)["HAVIP_METRICS_LISTEN"] == "[$(HOST_IP)]:9650"
    order = [each["name"] for each in rendered.container["env"]]
    assert order.index("HOST_IP") < order.index("HAVIP_METRICS_LISTEN"), "or nothing is expanded"
    (port,) = rendered.container["ports"]
    assert port == {"name": "metrics", "containerPort": 9650, "hostPort": 9650, "protocol": "TCP"}
    assert rendered.config["listen"] == "127.0.0.1:9650"


def test_the_pod_monitor_finds_them() -> None:
    rendered = render(yaml.safe_load((EXAMPLES / "monitoring.yaml").read_text()))
    monitor = rendered.one("PodMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == rendered.container["ports"][0]["name"]
    assert (endpoint["path"], endpoint["interval"]) == ("/metrics", "15s")
    assert endpoint["relabelings"] == [
        {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
    ], "the alerts name the node"
    assert rendered.one("PrometheusRule")["metadata"]["labels"]["release"] == "prometheus"
    labels = rendered.workload["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("is_enabled", [True, False])
@pytest.mark.parametrize("listen", ["0.0.0.0:9650", "[::]:9650", "192.0.2.1:9650"])
def test_listening_everywhere_needs_no_second_address(listen: str, is_enabled: bool) -> None:
    metrics = {"enabled": is_enabled, "podMonitor": {"enabled": True}}
    rendered = render({"listen": listen, "metrics": metrics})
    assert "HAVIP_METRICS_LISTEN" not in environment(rendered)
    (endpoint,) = rendered.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    (port,) = rendered.container["ports"]
    assert (port["name"], port["containerPort"]) == (endpoint["port"], 9650)


class NoKeyTwice(yaml.SafeLoader):
    """helm 4 and the API refuse it; helm 3 and this parser by itself take one of them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"twice in {node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)  # type: ignore[return-value]


def test_no_key_is_rendered_twice() -> None:
    mine = {"release": "prometheus", "app.kubernetes.io/name": "mine", "team": "b"}
    rendered = render(
        {
            "commonLabels": {"release": "common", "team": "a", "app.kubernetes.io/part-of": "c"},
            "pod": {
                "labels": mine,
                "annotations": {"checksum/read-at-start": "mine", "note": "x"},
            },
            "metrics": {
                "enabled": True,
                "podMonitor": {"enabled": True, "labels": mine},
                "prometheusRule": {"enabled": True, "labels": mine, "alertLabels": mine},
            },
        }
    )
    list(yaml.load_all(rendered.text, NoKeyTwice))
    for kind in ("PodMonitor", "PrometheusRule"):
        labels = rendered.one(kind)["metadata"]["labels"]
        assert (labels["release"], labels["team"]) == ("prometheus", "b")
        assert labels["app.kubernetes.io/name"] == "havip"
    annotations = rendered.workload["spec"]["template"]["metadata"]["annotations"]
    assert annotations["note"] == "x"
    assert annotations["checksum/read-at-start"] != "mine"


# helm test ---------------------------------------------------------------------------------


def test_the_pod_of_helm_test() -> None:
    rendered = render({"vipAddressCidr": "192.0.2.10/24,2001:db8::10/64"})
    pod = rendered.one("Pod")
    annotations = pod["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "test"
    deleted = set(annotations["helm.sh/hook-delete-policy"].split(","))
    assert deleted == {"before-hook-creation", "hook-succeeded", "hook-failed"}
    assert annotations["helm.sh/hook-output-log-policy"] == "hook-failed", "while it is there"
    assert pod["spec"]["hostNetwork"] is True
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "affinity" not in pod["spec"], "it has to run where the pods are"
    assert pod["spec"]["restartPolicy"] == "Never", "or helm never hears that it failed"
    assert pod["spec"]["activeDeadlineSeconds"] == 120
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["who-has", "--timeout=30", "192.0.2.10", "2001:db8::10"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_RAW"]}
    selector = rendered.workload["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= pod["metadata"]["labels"].items()


def test_helm_test_of_several_routers_asks_on_the_interface_of_each() -> None:
    values = yaml.safe_load((EXAMPLES / "two-networks.yaml").read_text())
    rendered = render({**values, "helmTest": {"port": 443}})
    args = [each["args"] for each in rendered.one("Pod")["spec"]["containers"]]
    assert args == [
        ["who-has", "--timeout=30", "--port=443", "--interface=eth0", "192.168.1.100"],
        ["who-has", "--timeout=30", "--port=443", "--interface=eth1", "10.0.0.100"],
    ]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ({"vrrpInterfaceName": "eth0"}, "--interface=eth0"),
        ({"vipInterfaceName": "eth1"}, "--interface=eth1"),
        ({"vrrpInterfaceName": "eth0", "vipInterfaceName": "eth1"}, "--interface=eth1"),
    ],
    ids=["VRRP's", "the VIP's", "both"],
)
def test_helm_test_asks_where_the_vip_is(names: dict[str, str], wanted: str) -> None:
    (container,) = render(names).one("Pod")["spec"]["containers"]
    assert wanted in container["args"]


def test_helm_test_pulls_as_the_pods_do() -> None:
    rendered = render({"image": {"pullPolicy": "Never"}})
    (container,) = rendered.one("Pod")["spec"]["containers"]
    assert container["imagePullPolicy"] == "Never"


def test_without_helm_test() -> None:
    assert not render({"helmTest": {"enabled": False}}).all("Pod")


# NOTES -------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "192.0.2.10/24 moves among the nodes of Deployment havip (VRID 10, VRRP version 3)."),
        (
            ["election=lease"],
            "192.0.2.10/24 moves among the nodes of Deployment havip (Lease havip-10).",
        ),
        ([], "helm test --namespace vip havip"),
        ([], "exec deployment/havip -- havip status"),
        (["kind=DaemonSet"], "exec daemonset/havip -- havip status"),
        ([], "There is no public one yet"),
        (
            [],
            "That is the NGINX ingress controller in the host's network. With Traefik (k3s),",
        ),
        (
            [],
            "A pod whose check has never passed is not ready; its log and `havip status` in it",
        ),
        ([], "Adverts are signed by HMAC, with a random key, kept in Secret havip."),
        (["authMethod=none"], "Adverts are not signed: anybody on the network can take the VIP."),
        (["authExistingSecret=mine"], "Secret mine is not there yet; the pods wait for it."),
        (
            ["checkServiceUrl=https://127.0.0.1:6443/readyz"],
            "apiServer.certSANs; k3s\nand RKE2: tls-san",
        ),
        (
            ["pod.tolerateMasterTaints=true"],
            "WARNING: the pods run on control-plane nodes, and check",
        ),
        (["pod.replicas=1"], "WARNING: pod.replicas is 1"),
        (
            ["loadBalancer.enabled=true", "checkServiceUrl=https://127.0.0.1:6443/readyz"],
            "WARNING: checkServiceUrl https://127.0.0.1:6443/readyz is the node's own API server",
        ),
        (
            ["pod.resources.limits.cpu=500m"],
            "WARNING: pod.resources.limits.cpu 500m delays adverts",
        ),
        (
            [],
            "a firewall must let protocol 112 pass to 224.0.0.18 and ff02::12; NetworkPolicies",
        ),
        ([], "kubelet --node-ip, Calico\nIP_AUTODETECTION_METHOD"),
    ],
)
def test_notes(
    cluster: StandInCluster, tmp_path: Path, major: int, settings: list[str], said: str
) -> None:
    assert said in notes(cluster, tmp_path, major, *settings)
    if settings:
        assert said not in notes(cluster, tmp_path, major)


def notes(cluster: StandInCluster, directory: Path, major: int, *settings: str) -> str:
    args = (f"--set={each}" for each in ("vipAddressCidr=192.0.2.10/24", *settings))
    return cluster.notes(directory, *args, major=major)


@pytest.mark.parametrize("major", MAJORS)
def test_an_api_vip_is_not_taken_for_an_ingress(
    cluster: StandInCluster, tmp_path: Path, major: int
) -> None:
    """Its pods belong on control-plane nodes, whatever else they check there."""
    settings = ("pod.tolerateMasterTaints=true", "checkKubeApiUrl=https://127.0.0.1:6443")
    told = notes(cluster, tmp_path, major, *settings)
    assert "apiServer.certSANs" in told
    assert "WARNING" not in told


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["checkServiceUrl=https://127.0.0.1:8443/readyz"], id="the balancer"),
        pytest.param(
            ["checkServiceUrl=https://127.0.0.1:6443/readyz", "checkServiceWeight=-2"],
            id="it only counts",
        ),
        pytest.param(["checkKubeApiUrl=https://127.0.0.1:6443"], id="of weight -40"),
    ],
)
def test_a_check_beside_the_balancer_that_may_well_be_meant(
    cluster: StandInCluster, tmp_path: Path, major: int, settings: list[str]
) -> None:
    told = notes(cluster, tmp_path, major, "loadBalancer.enabled=true", *settings)
    assert "own API server" not in told


HINT = "kubectl label namespace vip pod-security.kubernetes.io/enforce=privileged --overwrite"


@pytest.mark.parametrize("major", MAJORS)
def test_of_a_namespace_that_is_not_there_the_notes_say_how_to_label_it(
    tmp_path: Path, major: int
) -> None:
    with StandInCluster() as cluster:
        told = notes(cluster, tmp_path, major)
        assert "Namespace vip was not there yet." in told
        assert HINT in told
    with StandInCluster(namespace(**{"pod-security.kubernetes.io/enforce": "privileged"})) as there:
        assert HINT not in notes(there, tmp_path, major)


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("vipAddressCidr=192.0.2.20/24", "vipAddressCidr"),
        ("virtualRouterId=20", "virtualRouterId"),
        ("vrrpUnicastPeers=192.0.2.20", "vrrpUnicastPeers"),
        ("vrrpPriority=120", ""),
    ],
)
def test_what_the_nodes_must_agree_on(
    cluster: StandInCluster, tmp_path: Path, major: int, setting: str, name: str
) -> None:
    """Of a change that divides them until the last has read it, the notes warn."""
    before = render().one("ConfigMap")
    # As Helm marks what it may take over: the notes are those of an installation.
    before["metadata"]["annotations"] = {
        "meta.helm.sh/release-name": "havip",
        "meta.helm.sh/release-namespace": "vip",
    }
    cluster.apply([before])
    told = notes(cluster, tmp_path, major, setting)
    assert ("WARNING" in told) is bool(name)
    assert not name or f"WARNING: {name} changed. The nodes read it within two minutes" in told
