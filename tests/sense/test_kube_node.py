"""The own Node from an API server: as Kubernetes gives it, and as nobody should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from havip.core.backoff import Backoff
from havip.core.config import KubeAccess, Secret, TlsConfig
from havip.core.events import NodeSeen, NodeUnseen
from havip.kube import KubeApi
from havip.sense.kube_node import NodeWatch, read
from servers import server_tls, serving, status

HANG_S = 30.0
Told = NodeSeen | NodeUnseen
Json = dict[str, Any]


def node(name: str = "node-a", *, annotations: object = None, **spec: object) -> Json:
    metadata = {"name": name, "resourceVersion": "17", "annotations": annotations}
    return {"metadata": metadata, "spec": spec, "status": {}}


def answer(item: object) -> bytes:
    return status(200, json.dumps(item).encode())


def watching(*events: tuple[str, Json]) -> bytes:
    lines = [json.dumps({"type": kind, "object": item}).encode() + b"\n" for kind, item in events]
    return status(200, b"".join(lines))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "pause_s", lambda _self: 0.0)


def follow(
    certificates: Any, *answers: bytes, until: Callable[[list[Told], list[str]], bool]
) -> tuple[list[Told], list[str]]:
    """What is told, and the paths that were asked, while the server gives these answers; after the
    last one it says nothing more.
    """
    requests: list[str] = []
    told: list[Told] = []
    left = iter(answers)
    done = asyncio.Event()

    def look() -> None:
        if until(told, requests):
            done.set()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        look()
        if (piece := next(left, None)) is not None:
            writer.write(piece)
            await writer.drain()
        await reader.read()

    def tell(event: Told) -> None:
        told.append(event)
        look()

    async def main() -> None:
        async with serving(handler, server_tls(certificates)) as port:
            access = KubeAccess(
                servers=(f"https://127.0.0.1:{port}",),
                tls=TlsConfig(ca_file=certificates.path("ca.pem"), server_name="127.0.0.1"),
                token=Secret(b"t0ken"),
            )
            task = asyncio.create_task(NodeWatch(KubeApi(access), "node-a", tell).run())
            async with asyncio.timeout(HANG_S):
                waiting = asyncio.create_task(done.wait())
                await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return told, requests


def test_the_node_and_its_changes(certificates: Any) -> None:
    told, requests = follow(
        certificates,
        answer(node()),
        watching(
            ("MODIFIED", node(unschedulable=True)),
            ("MODIFIED", node(unschedulable=True, podCIDR="10.0.0.0/24")),
            ("BOOKMARK", node()),
            ("MODIFIED", node("node-b")),
            ("DELETED", node()),
            ("MODIFIED", node()),
        ),
        until=lambda told, requests: len(requests) == 3,
    )
    assert told == [NodeSeen(), NodeSeen(is_unschedulable=True), NodeSeen()]
    assert requests[:2] == [
        "/api/v1/nodes/node-a",
        "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-a&resourceVersion=17"
        "&watch=1&timeoutSeconds=300",
    ]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param(status(404), "there is no Node node-a: set nodeName", id="404"),
        pytest.param(status(403), "HTTP 403", id="403"),
        pytest.param(status(500), "HTTP 500", id="500"),
        pytest.param(status(200, b"[]"), "no JSON object", id="no object"),
        pytest.param(b"SSH-2.0\r\n\r\n", "does not answer in HTTP", id="no HTTP"),
    ],
)
def test_a_server_that_does_not_show_it_is_asked_again(
    certificates: Any, reply: bytes, words: str
) -> None:
    told, _ = follow(
        certificates,
        answer(node(unschedulable=True)),
        status(200),
        reply,
        answer(node(unschedulable=True)),
        until=lambda told, _requests: len(told) == 3,
    )
    first, second, third = told
    assert isinstance(second, NodeUnseen)
    assert words in second.detail
    assert first == third == NodeSeen(is_unschedulable=True), "told anew"


def test_a_watch_that_is_too_old_is_no_failure(certificates: Any) -> None:
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    told, requests = follow(
        certificates,
        answer(node()),
        status(200, json.dumps(gone).encode() + b"\n"),
        answer(node()),
        until=lambda _told, requests: len(requests) == 4,
    )
    assert told == [NodeSeen()]
    assert requests[2] == "/api/v1/nodes/node-a"


READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ok"}
DOWN = {
    "type": "Ready",
    "status": "False",
    "reason": "KubeletNotReady",
    "message": "node is shutting down",
}


@pytest.mark.parametrize(
    ("found", "seen"),
    [
        pytest.param(node(), NodeSeen(), id="ordinary"),
        pytest.param(node(unschedulable=True), NodeSeen(is_unschedulable=True), id="cordoned"),
        pytest.param(
            node(taints=[{"key": "a", "effect": "NoExecute"}, {"key": "b", "value": "c"}]),
            NodeSeen(taints=frozenset("ab")),
            id="tainted",
        ),
        pytest.param(
            node(annotations={"havip.io/step-down": "true"}),
            NodeSeen(is_stepping_down=True),
            id="annotated",
        ),
        pytest.param(
            node(annotations={"havip.io/step-down": "false"}), NodeSeen(), id="annotated with false"
        ),
        pytest.param(
            node() | {"status": {"conditions": [{"type": "DiskPressure", "status": "True"}, DOWN]}},
            NodeSeen(not_ready_because="KubeletNotReady: node is shutting down"),
            id="shutting down",
        ),
        pytest.param(node() | {"status": {"conditions": [READY]}}, NodeSeen(), id="ready"),
        pytest.param({}, NodeSeen(), id="nothing"),
        pytest.param({"metadata": [], "spec": "", "status": None}, NodeSeen(), id="of other kinds"),
        pytest.param(
            node(annotations=[1], taints={"key": "a"}, unschedulable="true"),
            NodeSeen(),
            id="of other kinds within",
        ),
        pytest.param(
            node(taints=[None, 7, {"key": 7}]), NodeSeen(taints=frozenset({""})), id="no taints"
        ),
        pytest.param(
            node() | {"status": {"conditions": [DOWN | {"reason": None, "message": "x" * 9999}]}},
            NodeSeen(not_ready_because="x" * 200),
            id="a long story",
        ),
    ],
)
def test_what_a_node_says(found: Json, seen: NodeSeen) -> None:
    assert read(found) == seen
