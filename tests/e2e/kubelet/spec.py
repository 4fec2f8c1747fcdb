"""A pod's spec, and what only a kubelet can fill in: volumes, variables, tokens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
from api import Json, Place, UnsupportedError

REFRESH_S = 1.0
"""How soon a mounted ConfigMap or Secret follows its object; a kubelet takes up to a minute."""


class Projection:
    """A volume's files, replaced all at once when their sources change, as a kubelet does it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, tuple[bytes, int]] | None = None

    def put(self, files: dict[str, tuple[bytes, int]]) -> None:
        """Contents and mode by path. A reader sees all of the old or all of the new."""
        if files == self._files:
            return
        fresh = self.directory / f"..{time.time_ns()}"
        fresh.mkdir(mode=0o755)
        for name, (content, mode) in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(mode)
        data = self.directory / "..data"
        old = data.resolve() if data.is_symlink() else None
        link = self.directory / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(data)
        for top in {Path(name).parts[0] for name in files}:
            if not (self.directory / top).is_symlink():
                (self.directory / top).symlink_to(f"..data/{top}")
        for entry in self.directory.iterdir():
            if not entry.name.startswith("..") and not entry.exists():
                entry.unlink()
        if old is not None:
            for path in sorted(old.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            old.rmdir()
        self._files = files


class Spec:
    """What a pod is to be, as the API server has it."""

    def __init__(self, place: Place, pod: Json, directory: Path) -> None:
        self._place = place
        self._pod = pod
        self._namespace: str = pod["metadata"]["namespace"]
        self._directory = directory
        self._projections: dict[str, Projection] = {}
        self._tokens: dict[str, bytes] = {}

    def refuse_unsupported(self) -> None:
        """Ask first whether all of it can be done here.

        Raises:
            UnsupportedError: no; the message says what.
        """
        spec = self._pod["spec"]
        if not spec.get("hostNetwork"):
            raise UnsupportedError("a pod with a network of its own needs a CNI: set hostNetwork")
        if any("restartPolicy" in each for each in spec.get("initContainers", ())):
            raise UnsupportedError("init containers that go on running")
        for container in spec["containers"]:
            for mount in container.get("volumeMounts", ()):
                if "subPath" in mount or "subPathExpr" in mount:
                    raise UnsupportedError("volumeMounts with subPath")
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                if not container.get(name, {"exec": {}}).keys() & {"httpGet", "exec"}:
                    raise UnsupportedError(f"a {name} that is neither httpGet nor exec")

    async def _object(self, kind: str, name: str, *, optional: bool) -> Json:
        path = f"/api/v1/namespaces/{self._namespace}/{kind}/{name}"
        try:
            return await self._place.api.call("GET", path)
        except httpx.HTTPStatusError as error:
            if optional and error.response.status_code == httpx.codes.NOT_FOUND:
                return {}
            raise

    async def _keys(self, kind: str, source: Json, name: str) -> dict[str, bytes]:
        """All keys of a ConfigMap or Secret."""
        found = await self._object(kind, name, optional=source.get("optional", False))
        if kind == "secrets":
            return {key: base64.b64decode(text) for key, text in found.get("data", {}).items()}
        return {key: text.encode() for key, text in found.get("data", {}).items()}

    async def _files(self, kind: str, source: Json, name: str, mode: int) -> Json:
        keys = await self._keys(kind, source, name)
        if "items" not in source:
            return {key: (content, mode) for key, content in keys.items()}
        files: Json = {}
        for item in source["items"]:
            if item["key"] in keys:
                files[item["path"]] = (keys[item["key"]], item.get("mode", mode))
            elif not source.get("optional", False):
                raise OSError(f"{kind} {name} has no key {item['key']}")
        return files

    async def _token(self, source: Json) -> bytes:
        """A token of the pod's service account, bound to the pod; it outlives every test."""
        key = json.dumps(source, sort_keys=True)
        if key not in self._tokens:
            account = self._pod["spec"].get("serviceAccountName", "default")
            audience = source.get("audience")
            bound = {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": self._pod["metadata"]["name"],
                "uid": self._pod["metadata"]["uid"],
            }
            answer = await self._place.api.call(
                "POST",
                f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token",
                {
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenRequest",
                    "spec": {
                        "audiences": [audience] if audience else [],
                        "expirationSeconds": source.get("expirationSeconds", 3600),
                        "boundObjectRef": bound,
                    },
                },
            )
            self._tokens[key] = answer["status"]["token"].encode()
        return self._tokens[key]

    async def _volume(self, volume: Json) -> Json | None:
        """The files of a volume that is made of objects; None: it is of another kind."""
        if source := volume.get("configMap"):
            mode = source.get("defaultMode", 0o644)
            return await self._files("configmaps", source, source["name"], mode)
        if source := volume.get("secret"):
            mode = source.get("defaultMode", 0o644)
            return await self._files("secrets", source, source["secretName"], mode)
        if "projected" not in volume:
            return None
        mode = volume["projected"].get("defaultMode", 0o644)
        files: Json = {}
        for part in volume["projected"]["sources"]:
            if source := part.get("configMap"):
                files |= await self._files("configmaps", source, source["name"], mode)
            elif source := part.get("secret"):
                files |= await self._files("secrets", source, source["name"], mode)
            elif source := part.get("serviceAccountToken"):
                files[source["path"]] = (await self._token(source), mode)
            elif source := part.get("downwardAPI"):
                for item in source["items"]:
                    text = self._field(item["fieldRef"]["fieldPath"])
                    files[item["path"]] = (text.encode(), item.get("mode", mode))
            else:
                raise UnsupportedError(f"a volume projected from {', '.join(part)}")
        return files

    async def project(self) -> None:
        for volume in self._pod["spec"].get("volumes", ()):
            files = await self._volume(volume)
            if files is not None:
                name = volume["name"]
                if name not in self._projections:
                    self._projections[name] = Projection(self._directory / name)
                self._projections[name].put(files)
            elif "emptyDir" not in volume and "hostPath" not in volume:
                raise UnsupportedError(f"a volume of kind {', '.join(set(volume) - {'name'})}")

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            # As a kubelet: what was mounted stays while the API server does not answer.
            with contextlib.suppress(httpx.HTTPError, OSError):
                await self.project()

    def _field(self, path: str) -> str:
        status = {
            "status.hostIP": self._place.address,
            "status.podIP": self._place.address,
            "status.hostIPs": self._place.address,
            "status.podIPs": self._place.address,
        }
        if path in status:
            return status[path]
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str(self._pod["metadata"].get(match[1], {}).get(match[2], ""))
        found: Any = self._pod
        for part in path.split("."):
            found = found[part]
        return str(found)

    async def _environment(self, container: Json) -> dict[str, str]:
        """The container's variables; one may use those before it, as `$(NAME)`."""
        told = {
            "KUBERNETES_SERVICE_HOST": self._place.service_host,
            "KUBERNETES_SERVICE_PORT": "443",
        }
        if container.get("envFrom"):
            raise UnsupportedError("envFrom")
        for variable in container.get("env", ()):
            name, source = variable["name"], variable.get("valueFrom")
            if source is None:
                told[name] = _expanded(variable.get("value", ""), told)
            elif reference := source.get("fieldRef"):
                told[name] = self._field(reference["fieldPath"])
            elif reference := source.get("secretKeyRef") or source.get("configMapKeyRef"):
                kind = "secrets" if "secretKeyRef" in source else "configmaps"
                keys = await self._keys(kind, reference, reference["name"])
                if reference["key"] in keys:
                    told[name] = keys[reference["key"]].decode()
                elif not reference.get("optional"):
                    raise OSError(f"{kind} {reference['name']} has no key {reference['key']}")
            else:
                raise UnsupportedError(f"{name} from {', '.join(source)}")
        return told

    async def manifest(self, podman_name: str) -> Json:
        """The pod as podman gets it: the API server's spec with references resolved."""
        spec = self._pod["spec"]
        volumes: list[Json] = []
        for volume in spec.get("volumes", ()):
            if projection := self._projections.get(volume["name"]):
                source = {"path": str(projection.directory), "type": "Directory"}
                volumes.append({"name": volume["name"], "hostPath": source})
            elif "emptyDir" in volume:
                path = self._directory / volume["name"]
                path.mkdir(parents=True, exist_ok=True)
                # As a kubelet: whoever the containers are, they write there.
                path.chmod(0o777)
                source = {"path": str(path), "type": "Directory"}
                volumes.append({"name": volume["name"], "hostPath": source})
            elif volume["hostPath"].get("type") == "DirectoryOrCreate":
                # All nodes are one machine, whose disk is not theirs.
                path = self._place.state / "disk" / volume["hostPath"]["path"].lstrip("/")
                path.mkdir(parents=True, exist_ok=True)
                source = {"path": str(path), "type": "Directory"}
                volumes.append({"name": volume["name"], "hostPath": source})
            else:
                volumes.append(volume)
        initial = [await self._container(each) for each in spec.get("initContainers", ())]
        containers = [await self._container(each) for each in spec["containers"]]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": podman_name, "labels": {"havip-lab": self._place.lab}},
            "spec": {
                "hostNetwork": True,
                # The node's, as everything in the node's network has it.
                "hostname": self._place.name,
                # Restarts are this program's, which counts them.
                "restartPolicy": "Never",
                # Podman runs them one after the other, and no other container unless all succeed.
                "initContainers": initial,
                "containers": containers,
                "volumes": volumes,
                "securityContext": spec.get("securityContext", {}),
            },
        }

    async def _container(self, container: Json) -> Json:
        kept = ("name", "image", "imagePullPolicy", "workingDir", "resources")
        told = {key: container[key] for key in kept if key in container}
        environment = await self._environment(container)
        told["env"] = [{"name": name, "value": text} for name, text in environment.items()]
        for words in ("command", "args"):
            if words in container:
                told[words] = [_expanded(word, environment) for word in container[words]]
        told["securityContext"] = self._security(container)
        # On the node's own network a port needs no forwarding.
        told["volumeMounts"] = container.get("volumeMounts", [])
        return told

    def _security(self, container: Json) -> Json:
        """A container's security context, which takes from the pod's what it leaves open."""
        inherited = {
            key: value
            for key, value in self._pod["spec"].get("securityContext", {}).items()
            if key in ("runAsUser", "runAsGroup", "runAsNonRoot", "seccompProfile")
        }
        context: Json = inherited | container.get("securityContext", {})
        return context


def _expanded(text: str, variables: dict[str, str]) -> str:
    """`$(NAME)` for variables that are known, and `$$` for a dollar sign."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]+)\)", replace, text)
