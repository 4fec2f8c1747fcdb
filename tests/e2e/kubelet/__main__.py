"""Stands in for the kubelet on one node: the API's pods, run from their image by podman.

    python tests/e2e/kubelet --node h1 --address 10.77.0.11 --server https://10.77.0.202:6443 …

A kubelet wants a container runtime, cgroups and a mount table of its own, one set for each node;
nodes here are network namespaces of one machine. So this program does a kubelet's work instead, as
far as havip's pods ask for it. It is a node to the API server: it has a node's certificate, and the
Node authorizer and NodeRestriction hold for it.

- It registers the Node, renews its Lease, and answers on 10248 (`/healthz`) and 10250 (logs).
- It starts each pod that is bound to the node by `podman kube play`, with the pod's spec as the API
  server has it, after filling in what only a kubelet can: volumes of ConfigMaps, Secrets and
  service-account tokens, which follow their objects while the pod runs, and environment variables
  that refer to fields and keys.
- It probes, restarts, stops (preStop, SIGTERM, grace, SIGKILL) and reports status and readiness.

What it cannot do it refuses, as the pod's status says: pods with a network of their own, init
containers that go on running, other kinds of volumes and probes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

import httpx
from api import Api, Json, Place, run, say, timestamp
from pod import Pod

LEASE_S = 40


class Node:
    """The node: its registration, its heartbeat, and its pods."""

    def __init__(self, options: argparse.Namespace) -> None:
        certificates: Path = options.certificates
        pair = (certificates / f"{options.node}.crt", certificates / f"{options.node}.key")
        context = ssl.create_default_context(cafile=certificates / "ca.crt")
        context.load_cert_chain(*pair)
        self.place = Place(
            name=options.node,
            address=options.address,
            lab=options.lab,
            service_host=options.service_host,
            state=options.state,
            api=Api(options.server, context),
            # A kubelet's probes verify nothing either.
            prober=httpx.AsyncClient(verify=False),
        )
        self.serving = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.crt"
        )
        self.serving.load_cert_chain(*pair)
        self.serving.verify_mode = ssl.CERT_REQUIRED
        self.pods: dict[str, Pod] = {}

    async def run(self) -> None:
        await self._register()
        health = await asyncio.start_server(self._answer, "127.0.0.1", 10248)
        logs = await asyncio.start_server(self._answer, self.place.address, 10250, ssl=self.serving)
        async with health, logs, asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._follow())

    async def _register(self) -> None:
        now = timestamp()
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "the stand-in for the kubelet is ready",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        size = {"cpu": "4", "memory": "8Gi", "pods": "20", "ephemeral-storage": "20Gi"}
        status = {
            "capacity": size,
            "allocatable": size,
            "conditions": [
                ready,
                *(
                    ready | {"type": kind, "status": "False", "reason": "Fine", "message": "fine"}
                    for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
                ),
            ],
            "addresses": [
                {"type": "InternalIP", "address": self.place.address},
                {"type": "Hostname", "address": self.place.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        }
        labels = {
            "kubernetes.io/hostname": self.place.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.place.name, "labels": labels},
            "status": status,
        }
        try:
            await self.place.api.call("POST", "/api/v1/nodes", node)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.CONFLICT:
                raise
        await self.place.api.call(
            "PATCH", f"/api/v1/nodes/{self.place.name}/status", {"status": status}
        )
        say(f"{self.place.name} is registered and ready")

    async def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        while True:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            lease: Json = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self.place.name, "namespace": "kube-node-lease"},
                "spec": {
                    "holderIdentity": self.place.name,
                    "leaseDurationSeconds": LEASE_S,
                    "renewTime": now,
                },
            }
            try:
                await self.place.api.call(
                    "PATCH", f"{path}/{self.place.name}", {"spec": lease["spec"]}
                )
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.NOT_FOUND:
                    say(f"lease: {error}")
                else:
                    with contextlib.suppress(httpx.HTTPError):
                        await self.place.api.call("POST", path, lease)
            except httpx.HTTPError as error:
                say(f"lease: {error!r}")
            await asyncio.sleep(LEASE_S / 4)

    async def _follow(self) -> None:
        """Keep the pods as the API server has them; a watch that breaks off begins again."""
        while True:
            try:
                await self._watch()
            except httpx.HTTPError as error:
                say(f"watch: {error!r}")
                await asyncio.sleep(1)

    async def _watch(self) -> None:
        selector = f"spec.nodeName={self.place.name}"
        listed = await self.place.api.call("GET", "/api/v1/pods", fieldSelector=selector)
        there = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
        for uid in set(self.pods) - set(there):
            self._gone(uid)
        for pod in there.values():
            self._is(pod)
        events = self.place.api.watch(
            "/api/v1/pods",
            fieldSelector=selector,
            resourceVersion=listed["metadata"]["resourceVersion"],
        )
        async for kind, pod in events:
            if kind == "ERROR":
                say(f"watch: {pod.get('message')}")
                return
            if kind == "DELETED":
                self._gone(pod["metadata"]["uid"])
            elif kind in ("ADDED", "MODIFIED"):
                self._is(pod)

    def _is(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self.pods:
            is_over = pod["status"].get("phase") in ("Succeeded", "Failed")
            if is_over and "deletionTimestamp" not in pod["metadata"]:
                return
            self.pods[uid] = Pod(self.place, pod)
        self.pods[uid].update(pod)

    def _gone(self, uid: str) -> None:
        if (pod := self.pods.pop(uid, None)) is not None:
            pod.vanish()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split(" ", 2)[1].partition("?")[0]
            status, body = await self._page(path)
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        writer.close()

    async def _page(self, path: str) -> tuple[str, bytes]:
        if path == "/healthz":
            return "200 OK", b"ok"
        if match := re.fullmatch(r"/containerLogs/([^/]+)/([^/]+)/([^/]+)", path):
            _, text = await run("podman", "logs", f"{self.place.lab}-{'-'.join(match.groups())}")
            return "200 OK", text.encode()
        return "404 Not Found", b"the stand-in for the kubelet has no such page\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--service-host", required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    options = parser.parse_args()
    os.umask(0o022)
    options.state.mkdir(parents=True, exist_ok=True)
    asyncio.run(Node(options).run())


if __name__ == "__main__":
    main()
