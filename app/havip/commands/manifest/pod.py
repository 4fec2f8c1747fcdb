"""The pod, the same as the chart's: chart/templates/_pod.tpl has the reasons.

tests/chart/test_manifest_equals_chart.py holds the two together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import PurePosixPath
from typing import Any

from havip.commands.manifest.plan import CONFIG_DIRECTORY, Plan, is_of_service_account
from havip.settings import Settings
from havip.settings.sources import as_text, name_of

Object = dict[str, Any]

STATE_DIRECTORY = "/var/lib/havip"
_KUBELET_CERTIFICATES = PurePosixPath("/var/lib/kubelet/pki")

CONTROL_PLANE_TOLERATIONS = [
    # What a node is before its CNI and its cloud provider have come.
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
    {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists"},
    {"key": "node.cloudprovider.kubernetes.io/uninitialized", "operator": "Exists"},
    {"key": "CriticalAddonsOnly", "operator": "Exists"},
]
MASTER_TOLERATIONS = [
    {"key": f"node-role.kubernetes.io/{role}", "operator": "Exists"}
    for role in ("control-plane", "master", "controlplane", "etcd")
]
TOLERATIONS = [
    {
        "key": f"node.kubernetes.io/{what}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 15,
    }
    for what in ("unreachable", "not-ready")
]
BALANCER_RESOURCES = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"memory": "512Mi"},
}
# The label's value differs among distributions.
CONTROL_PLANE_AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}
                    ]
                }
            ]
        }
    }
}


def selector(plan: Plan) -> dict[str, str]:
    """The labels by which a workload knows its pods."""
    return {"app.kubernetes.io/name": "havip", "app.kubernetes.io/instance": plan.name}


def pod_labels(plan: Plan) -> dict[str, str]:
    return {**selector(plan), "app.kubernetes.io/part-of": "havip"}


def read_at_start(plan: Plan) -> str:
    """Differs once a running pod does not follow a change: that needs another pod."""
    settings = plan.settings
    found: Object = {"debug": settings.debug, "logFormat": settings.log_format}
    if settings.load_balancer:
        found |= _read_by_haproxy(settings)
        found["binds"] = _binds(plan)
    text = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_by_haproxy(settings: Settings) -> Object:
    """The settings of the load balancer that are values of the chart."""
    found = {
        name_of(attribute): _plain(getattr(settings, attribute))
        for attribute in Settings.model_fields
        if attribute.startswith("load_balancer") and attribute != "load_balancer_directory"
    }
    return {name: value for name, value in found.items() if value != ""}


def _plain(value: object) -> bool | int | float | str:
    """As JSON has it, whoever writes it: a whole number without a fraction."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value if isinstance(value, int) else as_text(value)


def _binds(plan: Plan) -> list[str]:
    """Where HAProxy listens."""
    vips = {vip.ip for router in plan.routers for vip in router.vip_address_cidr or ()}
    if plan.settings.load_balancer_bind == "all":
        return sorted({"::" if vip.version == 6 else "0.0.0.0" for vip in vips})  # noqa: S104
    return sorted(map(str, vips))


def common_spec(plan: Plan) -> Object:
    """What holds for every pod, whoever starts it."""
    return {
        "hostNetwork": True,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": plan.grace_period_s,
    }


def container(plan: Plan, env: Iterable[Object], mounts: Iterable[Object]) -> Object:
    """The container of havip."""
    made: Object = {
        "name": "havip",
        "image": str(plan.pod.image),
        "imagePullPolicy": plan.pod.pull_policy,
        "args": ["run"],
        "env": [*env],
    }
    if port := metrics_port(plan):
        made["ports"] = [
            {"name": "metrics", "containerPort": port, "hostPort": port, "protocol": "TCP"}
        ]
    capabilities = ["NET_ADMIN", "NET_RAW"]
    if plan.pod.realtime:
        capabilities.append("SYS_NICE")
    return made | {
        "startupProbe": {
            **_http_get(plan, "/healthz"),
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": 60,
        },
        "livenessProbe": {
            **_http_get(plan, "/healthz"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "readinessProbe": {
            **_http_get(plan, "/readyz"),
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "resources": plan.pod.resources,
        "securityContext": _security(capabilities),
        "volumeMounts": [*mounts],
    }


def _security(capabilities: list[str]) -> Object:
    return {
        "runAsUser": 0,
        "runAsNonRoot": False,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], **({"add": capabilities} if capabilities else {})},
    }


def balancer_containers(
    plan: Plan, env: Iterable[Object], mounts: Iterable[Object]
) -> tuple[list[Object], list[Object]]:
    """What prepares HAProxy before it starts, and what runs it; both empty without one."""
    if not plan.settings.load_balancer:
        return [], []
    image = str(plan.pod.balancer_image)
    directory = plan.settings.load_balancer_directory
    file = f"{directory}/haproxy.cfg"
    is_privileged = plan.settings.load_balancer_port < 1024
    shared = {"name": "haproxy", "mountPath": directory}
    security = {
        "runAsUser": 0 if is_privileged else 65534,
        # Its socket is this group's, and so is havip.
        "runAsGroup": 0,
        "runAsNonRoot": not is_privileged,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {
            "drop": ["ALL"],
            **({"add": ["NET_BIND_SERVICE"]} if is_privileged else {}),
        },
    }
    write: Object = {
        "name": "load-balancer",
        "image": str(plan.pod.image),
        "imagePullPolicy": plan.pod.pull_policy,
        "args": ["load-balancer"],
        "env": [*env],
        "resources": plan.pod.resources,
        "securityContext": _security([]),
        "volumeMounts": [*mounts],
    }
    validate: Object = {
        "name": "haproxy-check",
        "image": image,
        "imagePullPolicy": plan.pod.pull_policy,
        "command": ["haproxy", "-c", "-f", file],
        "resources": BALANCER_RESOURCES,
        "securityContext": security,
        "volumeMounts": [shared],
    }
    run: Object = {
        "name": "haproxy",
        "image": image,
        "imagePullPolicy": plan.pod.pull_policy,
        "command": ["haproxy", "-W", "-db", "-f", file],
        "resources": BALANCER_RESOURCES,
        "securityContext": security,
        "volumeMounts": [shared],
    }
    return [write, validate], [run]


def haproxy_image(plan: Plan) -> str:
    """The step that has it there."""
    return f"HAProxy's image: {plan.pod.balancer_image}"


def balancer_volumes(plan: Plan) -> tuple[list[Object], list[Object]]:
    """Volumes and mounts that havip shares with HAProxy; both empty without one."""
    if not plan.settings.load_balancer:
        return [], []
    mount = {"name": "haproxy", "mountPath": plan.settings.load_balancer_directory}
    return [{"name": "haproxy", "emptyDir": {}}], [mount]


def environment(plan: Plan) -> list[Object]:
    """The variables that the kubelet fills in."""
    variables: list[Object] = [
        {
            "name": "HAVIP_NODE_NAME",
            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        }
    ]
    if plan.pod.metrics and _is_on_loopback(plan):
        port = plan.listen.port
        variables += (
            {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
            {"name": "HAVIP_METRICS_LISTEN", "value": f"[$(HOST_IP)]:{port}"},
        )
    return variables


def metrics_port(plan: Plan) -> int | None:
    """Port of the metrics on an address that others reach."""
    is_reached = plan.pod.metrics or not _is_on_loopback(plan)
    return plan.listen.port if is_reached else None


def _is_on_loopback(plan: Plan) -> bool:
    return ip_address(plan.listen.host).is_loopback


def directories(plan: Plan) -> list[tuple[str, PurePosixPath]]:
    """The directories of keys and passwords, each with the name of its volume."""
    found = sorted({PurePosixPath(path).parent for path in plan.secret_files})
    return [
        (f"auth-{number}" if number > 1 else "auth", directory)
        for number, directory in enumerate(found, start=1)
    ]


def directory_mounts(plan: Plan) -> list[Object]:
    return [
        {"name": name, "mountPath": str(directory), "readOnly": True}
        for name, directory in directories(plan)
    ]


def file_volumes(plan: Plan) -> tuple[list[Object], list[Object]]:
    """Volumes and mounts of the node's other files.

    Where beside them lies nothing else, with their directory: what is put in the place of a file
    that is mounted alone is never seen. Others alone: beside them lie keys.
    """
    volumes: list[Object] = []
    mounts: list[Object] = []
    mounted = {directory for _, directory in directories(plan)}
    seen: set[str] = set()
    for attribute, path in plan.other_files.items():
        if path in seen or is_of_service_account(path):
            continue
        seen.add(path)
        parents = PurePosixPath(path).parents
        if mounted.isdisjoint(parents):
            host_path = {"path": path, "type": "File"}
            if _is_for_this_alone(parents[0]):
                # It may come later: a VIP waits for no token.
                host_path = {"path": str(parents[0]), "type": "DirectoryOrCreate"}
                mounted.add(parents[0])
            name = attribute.replace("_", "-")
            volumes.append({"name": name, "hostPath": host_path})
            mounts.append({"name": name, "mountPath": host_path["path"], "readOnly": True})
    return volumes, mounts


def state_volumes(plan: Plan) -> tuple[list[Object], list[Object]]:
    """Where what was discovered outlasts the pod: the next one knows it before the API tells it."""
    if not (plan.discovers_peers or plan.keeps_backends):
        return [], []
    path = f"{STATE_DIRECTORY}/{plan.namespace}/{plan.name}"
    volume = {"name": "state", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    return [volume], [{"name": "state", "mountPath": plan.settings.state_directory}]


def _is_for_this_alone(directory: PurePosixPath) -> bool:
    """Below havip's own, or where the kubelet keeps its own certificate, a link that it renews."""
    return CONFIG_DIRECTORY in directory.parents or directory == _KUBELET_CERTIFICATES


def _http_get(plan: Plan, path: str) -> Object:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(plan.listen.host, plan.listen.host)  # noqa: S104
    return {"httpGet": {"host": host, "port": plan.listen.port, "path": path}}
