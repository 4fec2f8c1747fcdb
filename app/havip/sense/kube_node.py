"""What the Kubernetes API says of this node's own Node object.

A get, then a watch of that object alone, and after a few minutes again: a connection that died in
silence must not deceive for longer. What is malformed in an object says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from havip.core.backoff import Backoff
from havip.core.events import NodeSeen, NodeUnseen
from havip.kube import KubeApi, KubeError

STEP_DOWN: Final = "havip.io/step-down"
"""Annotation of a Node that shall not hold while another one can."""

_ASK_S: Final = 10.0
_WATCH_S: Final = 300.0
_LONGEST_RETRY_S: Final = 15.0
_TAINTS: Final = 100
_DETAIL_LIMIT: Final = 200

Told = NodeSeen | NodeUnseen


class NodeWatch:
    """Follows one Node; tells what it says whenever that changes, and why it cannot be seen."""

    def __init__(self, api: KubeApi, node_name: str, tell: Callable[[Told], None]) -> None:
        self._api = api
        self._name = node_name
        self._tell = tell
        self._last: NodeSeen | None = None

    async def run(self) -> None:
        """Until cancelled. Whatever the API server does, it is asked again."""
        backoff = Backoff(random.SystemRandom().random, longest_s=_LONGEST_RETRY_S)
        try:
            while True:
                try:
                    await self._follow(backoff)
                except KubeError as error:
                    if error.status != HTTPStatus.GONE:
                        self._last = None
                        self._tell(NodeUnseen(detail=self._explain(error)))
                await asyncio.sleep(backoff.pause_s())
        finally:
            await self._api.close()

    async def _follow(self, backoff: Backoff) -> None:
        name = quote(self._name, safe="")
        node = await self._api.get(f"/api/v1/nodes/{name}", timeout_s=_ASK_S)
        self._see(node)
        version = quote(_text_in(_mapping_in(node, "metadata"), "resourceVersion"), safe="")
        path = f"/api/v1/nodes?fieldSelector=metadata.name%3D{name}&resourceVersion={version}"
        events = self._api.watch(path, timeout_s=_WATCH_S)
        async with contextlib.aclosing(events):
            async for event in events:
                backoff.succeed()
                # One that is deleted is made anew by the kubelet; until then nothing is news.
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._see(event["object"])
        backoff.succeed()

    def _see(self, node: dict[str, Any]) -> None:
        if _text_in(_mapping_in(node, "metadata"), "name") != self._name:
            return
        seen = read(node)
        if seen != self._last:
            self._last = seen
            self._tell(seen)

    def _explain(self, error: KubeError) -> str:
        if error.status == HTTPStatus.NOT_FOUND:
            return (
                f"there is no Node {self._name}: set nodeName to what kubectl get nodes calls "
                "this node, or kubeNodeWatch: false"
            )
        return f"Node {self._name}: {error.detail}"


def read(node: dict[str, Any]) -> NodeSeen:
    """What a Node says of its future."""
    spec = _mapping_in(node, "spec")
    annotations = _mapping_in(_mapping_in(node, "metadata"), "annotations")
    return NodeSeen(
        is_unschedulable=spec.get("unschedulable") is True,
        taints=frozenset(_text_in(taint, "key") for taint in _mappings_in(spec, "taints")),
        not_ready_because=_not_ready_because(node),
        is_stepping_down=annotations.get(STEP_DOWN) == "true",
    )


def _not_ready_because(node: dict[str, Any]) -> str:
    for condition in _mappings_in(_mapping_in(node, "status"), "conditions"):
        if (condition.get("type"), condition.get("status")) == ("Ready", "False"):
            parts = (_text_in(condition, "reason"), _text_in(condition, "message"))
            return ": ".join(filter(None, parts))[:_DETAIL_LIMIT]
    return ""


def _mapping_in(item: dict[str, Any], key: str) -> dict[str, Any]:
    found = item.get(key)
    return found if isinstance(found, dict) else {}


def _mappings_in(item: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    found = item.get(key)
    for each in found[:_TAINTS] if isinstance(found, list) else []:
        if isinstance(each, dict):
            yield each


def _text_in(item: dict[str, Any], key: str) -> str:
    found = item.get(key)
    return found if isinstance(found, str) else ""
