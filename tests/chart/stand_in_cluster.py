"""A cluster as far as `lookup` can tell: an API server that has objects, and changes none.

The real one is in tests/e2e. This one answers helm's questions in milliseconds, so that each rule
that looks at the cluster can be asked about many clusters.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import yaml
from rendering import CHART, Object, RefusedError, Rendered, helm, render

# API group and version, kind, the resource's name, and whether namespaces hold it.
_RESOURCES = (
    ("v1", "Namespace", "namespaces", False),
    ("v1", "Secret", "secrets", True),
    ("v1", "ConfigMap", "configmaps", True),
    ("v1", "ServiceAccount", "serviceaccounts", True),
    ("v1", "Pod", "pods", True),
    ("apps/v1", "Deployment", "deployments", True),
    ("apps/v1", "DaemonSet", "daemonsets", True),
    ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", False),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", True),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", False),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", False),
    ("rbac.authorization.k8s.io/v1", "Role", "roles", True),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", True),
    ("coordination.k8s.io/v1", "Lease", "leases", True),
)
EVERY_CLUSTER: tuple[Object, ...] = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}},
    {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "system-cluster-critical"},
    },
)


def namespace(name: str = "vip", **labels: str) -> Object:
    """A namespace; underscores in labels' names stand for what Python's cannot have."""
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


class StandInCluster:
    """Serves objects while it is entered."""

    def __init__(self, *objects: Object) -> None:
        self.objects = [*EVERY_CLUSTER, *objects]
        self.forbids: frozenset[str] = frozenset()
        """Resources that whoever asks may not list everywhere."""
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            # Answers in one piece, on connections that stay: a release asks dozens of questions.
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                selector = dict(parse_qsl(url.query)).get("labelSelector", "")
                status, body = cluster.answer(url.path, selector)
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def apply(self, objects: Iterable[Object], *, namespace: str = "vip") -> None:
        """Have these in place of those of the same kind and name."""
        in_namespaces = {kind for _, kind, _, is_namespaced in _RESOURCES if is_namespaced}
        for each in objects:
            home = {"namespace": namespace} if each["kind"] in in_namespaces else {}
            kept = {**each, "metadata": {**home, **each["metadata"]}}
            self.objects = [old for old in self.objects if _key(old) != _key(kept)]
            self.objects.append(kept)

    def render(
        self,
        directory: Path,
        values: dict[str, Any] | None = None,
        *,
        is_upgrade: bool = False,
        major: int = 3,
        **options: Any,
    ) -> Rendered:
        """What `helm install` or `helm upgrade` would make of the values in this cluster."""
        args = ("--dry-run=server", "--disable-openapi-validation")
        # `render` remembers what it was told: each state of the cluster is another.
        state = str(hash(json.dumps(self.objects, sort_keys=True)))
        return render(
            values,
            major=major,
            args=(*args, *(["--is-upgrade"] if is_upgrade else [])),
            env={**self.environment(directory), "STATE": state},
            **options,
        )

    def notes(self, directory: Path, *args: str, major: int = 3, name: str = "havip") -> str:
        """What `helm install` would say in this cluster.

        Raises:
            RefusedError: it would install nothing.
        """
        options = ("--namespace=vip", "--dry-run=server", "--disable-openapi-validation")
        done = helm(
            *(major, "install", name, str(CHART), *options, *args),
            env=self.environment(directory),
        )
        if done.returncode:
            raise RefusedError(done.stderr)
        return done.stdout.partition("NOTES:\n")[2]

    def environment(self, directory: Path) -> dict[str, str]:
        """With it, helm and kubectl talk to this cluster."""
        path = directory / f"kubeconfig-{self._server.server_port}"
        path.write_text(yaml.safe_dump(self._kubeconfig()))
        return {"KUBECONFIG": str(path), "HOME": str(directory)}

    def answer(self, path: str, selector: str) -> tuple[int, Object]:
        """Status and body for a path."""
        match path.strip("/").split("/"):
            case ["version"]:
                return 200, {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
            case ["api"]:
                return 200, {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return 200, _groups()
            case ["api", "v1"]:
                return 200, _resources("v1")
            case ["apis", group, version]:
                return 200, _resources(f"{group}/{version}")
            case ["api", version, *rest]:
                return self._object(version, rest, selector)
            case ["apis", group, version, *rest]:
                return self._object(f"{group}/{version}", rest, selector)
        return 404, _status(404, "NotFound")

    def _object(self, version: str, path: list[str], selector: str) -> tuple[int, Object]:
        namespace = None
        if path[0] == "namespaces" and len(path) > 2:
            namespace, path = path[1], path[2:]
        kinds = {(each[0], each[2]): each[1] for each in _RESOURCES}
        kind = kinds.get((version, path[0]))
        found = [
            each
            for each in self.objects
            if (each["apiVersion"], each["kind"]) == (version, kind)
            and (namespace is None or each["metadata"].get("namespace") == namespace)
        ]
        if len(path) == 1:
            if namespace is None and path[0] in self.forbids:
                return 403, _status(403, "Forbidden")
            wanted = {tuple(each.split("=", 1)) for each in selector.split(",") if each}
            items = [each for each in found if wanted <= _labels(each)]
            return 200, {"apiVersion": version, "kind": f"{kind}List", "items": items}
        for each in found:
            if each["metadata"]["name"] == path[1]:
                return 200, each
        return 404, _status(404, "NotFound")

    def _kubeconfig(self) -> Object:
        server = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {"server": server}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
            "users": [{"name": "me", "user": {}}],
            "current-context": "it",
        }


def _key(each: Object) -> tuple[str, str, str]:
    metadata = each["metadata"]
    return each["kind"], metadata.get("namespace", ""), metadata["name"]


def _labels(each: Object) -> set[tuple[str, ...]]:
    return set((each["metadata"].get("labels") or {}).items())


def _groups() -> Object:
    versions = dict.fromkeys(version for version, *_ in _RESOURCES if "/" in version)
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": each.partition("/")[0],
                "versions": [{"groupVersion": each, "version": each.partition("/")[2]}],
                "preferredVersion": {"groupVersion": each, "version": each.partition("/")[2]},
            }
            for each in versions
        ],
    }


def _resources(wanted: str) -> Object:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": wanted,
        "resources": [
            {
                "name": name,
                "singularName": kind.lower(),
                "namespaced": is_namespaced,
                "kind": kind,
                "verbs": ["get", "list", "create", "patch"],
            }
            for version, kind, name, is_namespaced in _RESOURCES
            if version == wanted
        ],
    }


def _status(code: int, reason: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": reason,
        "code": code,
    }
