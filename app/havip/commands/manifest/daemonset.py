"""The objects of the chart as a DaemonSet, for whoever has no Helm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from havip.commands.manifest.access import lacks_for_pods
from havip.commands.manifest.document import Document, secret_steps
from havip.commands.manifest.places import ARCHIVE
from havip.commands.manifest.plan import (
    CONFIG_DIRECTORY,
    VERSION,
    Plan,
    is_of_service_account,
    load_balancer_of,
    of_all_nodes,
    refuse,
    uses_api,
)
from havip.commands.manifest.pod import (
    CONTROL_PLANE_AFFINITY,
    CONTROL_PLANE_TOLERATIONS,
    MASTER_TOLERATIONS,
    TOLERATIONS,
    Object,
    balancer_containers,
    balancer_volumes,
    common_spec,
    container,
    directories,
    directory_mounts,
    environment,
    file_volumes,
    haproxy_image,
    pod_labels,
    read_at_start,
    selector,
    state_volumes,
)
from havip.commands.manifest.text import comment, to_yaml
from havip.settings.errors import Problem
from havip.settings.model import Election
from havip.settings.rules import lease_name
from havip.settings.sources import as_text, name_of
from havip.settings.values import AUTO


def daemonset(plan: Plan, *, secret: str, on_control_plane: bool) -> Document:
    """Service account, its rights, settings and DaemonSet.

    Args:
        secret: name of the Secret with keys and passwords, if the settings name files of them.

    Raises:
        ConfigError: the settings need something that pods that are alike cannot have, or the API
            lists the backends and is asked where HAProxy itself answers.
    """
    refuse(
        [*of_all_nodes(plan), *load_balancer_of(plan), *_nested(plan), *lacks_for_pods(plan)],
    )
    apply = f"kubectl apply --filename {plan.name}.yaml"
    steps = (
        f"the image: on each node, ctr --namespace k8s.io images import {ARCHIVE}",
        *((haproxy_image(plan),) if plan.settings.load_balancer else ()),
        *secret_steps(plan, secret),
        f"this file: {apply}",
    )
    head = (
        "Made by `havip manifest daemonset`; to change it, make it anew.",
        *(f"  {step}" for step in steps),
    )
    objects = (
        _service_account(plan),
        *_rights(plan),
        _config_map(plan),
        *_leases(plan),
        *_peers(plan),
        _daemonset(plan, secret=secret, on_control_plane=on_control_plane),
    )
    return Document(text=comment(head) + to_yaml(*objects), steps=steps)


def native(plan: Plan) -> dict[str, Any]:
    """The settings by their names in a file, with values as one would write them there."""
    return {
        name_of(attribute): value
        if isinstance(value, bool | int | float | dict)
        else [dict(entry) for entry in value]
        if attribute == "virtual_routers"
        else as_text(value)
        for attribute, value in plan.given.items()
    }


def _nested(plan: Plan) -> list[Problem]:
    """A volume cannot be mounted within another one that is read-only."""
    return [
        Problem(
            field=name_of(attribute),
            value=path,
            problem=f"lies in {CONFIG_DIRECTORY}, where the pod has its settings",
            remedy=f"name it under /var/run/secrets/havip/, such as /var/run/secrets/havip/"
            f"{PurePosixPath(path).name}",
        )
        for attribute, path in (
            *plan.other_files.items(),
            *((attribute, path) for path, attribute in plan.secret_files.items()),
        )
        if CONFIG_DIRECTORY in PurePosixPath(path).parents
    ]


def _metadata(plan: Plan, name: str | None = None) -> Object:
    labels = {**pod_labels(plan), "app.kubernetes.io/version": VERSION}
    if name:
        return {"name": name, "labels": labels}
    return {"name": plan.name, "namespace": plan.namespace, "labels": labels}


def _service_account(plan: Plan) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(plan),
        # The pods that need a token ask for it.
        "automountServiceAccountToken": False,
    }


def _rights(plan: Plan) -> Iterator[Object]:
    """What the settings need, and no more: chart/templates/rbac.yaml has the reasons."""
    settings = plan.settings
    rules: list[Object] = []
    selects = plan.discovers_peers and settings.kube_peers_selector
    if paths := _health_paths(plan):
        rules.append({"nonResourceURLs": paths, "verbs": ["get"]})
    if settings.kube_node_watch:
        rules.append({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "watch"]})
    if selects:
        rules.append({"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]})
    if settings.kube_holder_label:
        rules.append({"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]})
    if rules:
        yield from _role(plan, "", "", rules)
    elects = settings.election is Election.LEASE
    if elects or settings.kube_holder_lease:
        group: Object = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
        names = [lease_name(router) for router in plan.routers]
        verbs = ["get", "update", *(["watch"] if elects else [])]
        rules = [{**group, "resourceNames": names, "verbs": verbs}]
        yield from _role(plan, "-lease", plan.lease_namespace, rules)
    if settings.kube_events:
        group = {"apiGroups": ["events.k8s.io"], "resources": ["events"]}
        yield from _role(plan, "-events", "default", [{**group, "verbs": ["create"]}])
    if plan.discovers_peers and settings.kube_peers_service:
        group = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}
        rules = [{**group, "verbs": ["list", "watch"]}]
        namespace = settings.kube_namespace or plan.namespace
        yield from _role(plan, "", namespace, rules, name=_peers_service(plan))
    if plan.keeps_backends:
        group = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}
        rules = [{**group, "resourceNames": ["kubernetes"], "verbs": ["list", "watch"]}]
        yield from _role(plan, "-backends", "default", rules)


def _health_paths(plan: Plan) -> list[str]:
    """What the API check asks with the pods' token, on whichever node."""
    settings, paths = plan.settings, set()
    for override in ({}, *settings.node_overrides.values()):
        is_on = override.get("checkKubeApi", settings.check_kube_api)
        url = str(override.get("checkKubeApiUrl", settings.check_kube_api_url))
        token = str(settings.check_kube_api_token_file or "")
        if str(is_on).lower() == "true" and (url == AUTO or is_of_service_account(token)):
            path = "" if url == AUTO else urlsplit(url).path
            paths.add("/readyz" if path in ("", "/") else path)
    return sorted(paths)


def _role(
    plan: Plan, suffix: str, namespace: str, rules: list[Object], *, name: str = ""
) -> Iterator[Object]:
    """A role and its binding; without a namespace the cluster's."""
    api = "rbac.authorization.k8s.io"
    # What no namespace of its own holds: the colon, which no other name can have, keeps them apart.
    name = name or f"{plan.namespace}:{plan.name}{suffix}"
    metadata = _metadata(plan, name)
    kind = "ClusterRole"
    if namespace:
        metadata["namespace"] = namespace
        kind = "Role"
    yield {"apiVersion": f"{api}/v1", "kind": kind, "metadata": metadata, "rules": rules}
    yield {
        "apiVersion": f"{api}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": api, "kind": kind, "name": name},
        "subjects": [
            {"kind": "ServiceAccount", "name": plan.name, "namespace": plan.namespace},
        ],
    }


def _leases(plan: Plan) -> Iterator[Object]:
    """Those that elect, or show who holds, empty: what a daemon writes stays at the next apply."""
    if not (plan.settings.election is Election.LEASE or plan.settings.kube_holder_lease):
        return
    for router in plan.routers:
        metadata = _metadata(plan, lease_name(router))
        yield {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**metadata, "namespace": plan.lease_namespace},
        }


def _peers_service(plan: Plan) -> str:
    """Name of the Service that is made here; another one is somebody else's."""
    return f"peers-{plan.name}"


def _peers(plan: Plan) -> Iterator[Object]:
    """A Service to which nobody connects: its endpoints are the nodes of the pods."""
    name = _peers_service(plan)
    if plan.discovers_peers and plan.settings.kube_peers_service == name:
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**_metadata(plan, name), "namespace": plan.namespace},
            "spec": {
                "clusterIP": "None",
                "ipFamilyPolicy": "PreferDualStack",
                # A pod is ready when it knows its peers, and must be known to them before.
                "publishNotReadyAddresses": True,
                "selector": selector(plan),
            },
        }


def _needs_token(plan: Plan) -> bool:
    """The token goes into the pod only if there is a use for it."""
    settings = plan.settings
    files = (settings.check_kube_api_token_file, settings.check_kube_api_ca_file)
    asks_health = settings.check_kube_api and (
        settings.check_kube_api_url == AUTO
        or any(path and is_of_service_account(path) for path in files)
    )
    # Beside the token lies the cluster's CA.
    verifies = settings.load_balancer and is_of_service_account(
        settings.load_balancer_ca_file or ""
    )
    return asks_health or verifies or plan.keeps_backends or uses_api(settings)


def _config_map(plan: Plan) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(plan),
        "data": {"config.yaml": to_yaml(native(plan))},
    }


def _daemonset(plan: Plan, *, secret: str, on_control_plane: bool) -> Object:
    metadata = _metadata(plan)
    metadata["annotations"] = _taken(plan)
    template = {
        "metadata": {
            "labels": pod_labels(plan),
            "annotations": {"checksum/read-at-start": read_at_start(plan)},
        },
        "spec": _spec(plan, secret=secret, on_control_plane=on_control_plane),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": selector(plan)},
            "minReadySeconds": 5,
            "revisionHistoryLimit": 3,
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "template": template,
        },
    }


def _spec(plan: Plan, *, secret: str, on_control_plane: bool) -> Object:
    volumes, mounts = file_volumes(plan)
    shared, shared_mounts = balancer_volumes(plan)
    states, state_mounts = state_volumes(plan)
    config = {"name": "config", "mountPath": str(CONFIG_DIRECTORY), "readOnly": True}
    mounts = [config, *directory_mounts(plan), *shared_mounts, *state_mounts, *mounts]
    preparing, running = balancer_containers(plan, environment(plan), mounts)
    placement: Object = {"tolerations": TOLERATIONS}
    if on_control_plane:
        placement = {
            "affinity": CONTROL_PLANE_AFFINITY,
            "tolerations": [*CONTROL_PLANE_TOLERATIONS, *MASTER_TOLERATIONS],
        }
    return {
        **common_spec(plan),
        "dnsPolicy": "ClusterFirstWithHostNet",
        "serviceAccountName": plan.name,
        "automountServiceAccountToken": _needs_token(plan),
        "priorityClassName": "system-cluster-critical",
        **placement,
        **({"initContainers": preparing} if preparing else {}),
        "containers": [container(plan, environment(plan), mounts), *running],
        "volumes": [
            {"name": "config", "configMap": {"name": plan.name}},
            *(
                {
                    "name": name,
                    "secret": {
                        "secretName": secret,
                        "defaultMode": 0o400,
                        "items": [
                            {"key": path.name, "path": path.name}
                            for path in sorted(map(PurePosixPath, plan.secret_files))
                            if path.parent == directory
                        ],
                    },
                }
                for name, directory in directories(plan)
            ),
            *shared,
            *states,
            *volumes,
        ],
    }


def _taken(plan: Plan) -> dict[str, str]:
    """What it takes, for the chart to see before it installs another one."""
    routers = [
        {
            "id": router.virtual_router_id,
            "interface": router.vrrp_interface_name or "",
            "addresses": [str(vip.ip) for vip in router.vip_address_cidr or ()],
        }
        for router in plan.routers
    ]
    return {
        "havip/port": str(plan.listen.port),
        "havip/virtual-routers": json.dumps(routers, separators=(",", ":"), sort_keys=True),
    }
