"""The list of peers from an API server: as Kubernetes gives it, and as nobody should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from havip.core.config import KubeAccess, PeerSource, Secret, TlsConfig
from havip.core.events import PeersListed, PeersUnlisted
from havip.kube import KubeApi
from havip.sense.kube_peers import PeerWatch
from servers import server_tls, serving, status

HANG_S = 30.0
SERVICE = PeerSource(service="peers", namespace="vip", file="peers.json")
NODES = PeerSource(selector="role in (edge),zone!=b", file="peers.json")
Told = PeersListed | PeersUnlisted
Json = dict[str, Any]


def piece(name: str, *addresses: object, **more: object) -> Json:
    endpoints = [{"addresses": [each], "conditions": {"ready": False}} for each in addresses]
    return {"metadata": {"name": name}, "addressType": "IPv4", "endpoints": endpoints} | more


def node(name: str, *addresses: object) -> Json:
    listed = [{"type": "InternalIP", "address": each} for each in addresses]
    other = [
        {"type": "Hostname", "address": name},
        {"type": "ExternalIP", "address": "203.0.113.9"},
    ]
    return {"metadata": {"name": name}, "status": {"addresses": [*listed, *other]}}


def listing(*items: object, more: str = "") -> bytes:
    metadata = {"resourceVersion": "17", "continue": more}
    return status(200, json.dumps({"items": items, "metadata": metadata}).encode())


def watching(*events: tuple[str, Json]) -> bytes:
    lines = [json.dumps({"type": kind, "object": item}).encode() + b"\n" for kind, item in events]
    return status(200, b"".join(lines))


def follow(
    certificates: Any,
    source: PeerSource,
    *answers: bytes,
    until: Callable[[list[Told]], bool],
) -> tuple[list[Told], list[str]]:
    """What is told, and the paths that were asked, while the server gives these answers; after the
    last one it says nothing more.
    """
    requests: list[str] = []
    left = iter(answers)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode())
        answer = next(left, None)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
        await reader.read()

    async def main() -> list[Told]:
        told: list[Told] = []
        done = asyncio.Event()

        def tell(event: Told) -> None:
            told.append(event)
            if until(told):
                done.set()

        async with serving(handler, server_tls(certificates)) as port:
            access = KubeAccess(
                servers=(f"https://127.0.0.1:{port}",),
                tls=TlsConfig(ca_file=certificates.path("ca.pem"), server_name="127.0.0.1"),
                token=Secret(b"t0ken"),
            )
            task = asyncio.create_task(PeerWatch(KubeApi(access), source, tell).run())
            async with asyncio.timeout(HANG_S):
                waiting = asyncio.create_task(done.wait())
                await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return told

    return asyncio.run(main()), requests


def lists(told: list[Told]) -> list[set[str]]:
    return [set(map(str, each.addresses)) for each in told if isinstance(each, PeersListed)]


def enough(count: int) -> Callable[[list[Told]], bool]:
    return lambda told: len(told) >= count


def test_endpoints_of_a_service_and_their_changes(certificates: Any) -> None:
    told, requests = follow(
        certificates,
        SERVICE,
        listing(piece("a", "192.0.2.1"), more="to/ken"),
        listing(piece("b", "2001:db8::1", addressType="IPv6")),
        watching(
            ("MODIFIED", piece("a", "192.0.2.1", "192.0.2.2")),
            ("MODIFIED", piece("a", "192.0.2.2", "192.0.2.1")),
            ("ADDED", piece("c", "192.0.2.3")),
            ("BOOKMARK", piece("a")),
            ("DELETED", piece("a")),
        ),
        listing(piece("c", "192.0.2.3")),
        until=enough(5),
    )
    assert lists(told) == [
        {"192.0.2.1", "2001:db8::1"},
        {"192.0.2.1", "192.0.2.2", "2001:db8::1"},
        {"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1"},
        {"192.0.2.3", "2001:db8::1"},
        {"192.0.2.3"},
    ]
    where = "/apis/discovery.k8s.io/v1/namespaces/vip/endpointslices"
    query = "?labelSelector=kubernetes.io%2Fservice-name%3Dpeers"
    first, second, watch = requests[:3]
    assert first == f"{where}{query}&limit=5"
    assert second == f"{where}{query}&limit=5&continue=to%2Fken"
    assert watch.startswith(f"{where}{query}&resourceVersion=17&watch=1&timeoutSeconds=")


def test_nodes_by_label(certificates: Any) -> None:
    told, requests = follow(
        certificates,
        NODES,
        listing(node("a", "192.0.2.1", "2001:db8::1"), node("b", "192.0.2.2")),
        until=enough(1),
    )
    assert lists(told) == [{"192.0.2.1", "2001:db8::1", "192.0.2.2"}]
    assert requests[0].startswith(
        "/api/v1/nodes?labelSelector=role%20in%20%28edge%29%2Czone%21%3Db&"
    )


@pytest.mark.parametrize("items", [[], [piece("a", "192.0.2.1")]], ids=["empty", "the same"])
def test_a_list_without_an_end_is_none(certificates: Any, items: list[Json]) -> None:
    """It is given up and told, and begun anew only after a pause."""
    told, requests = follow(
        certificates, SERVICE, *[listing(*items, more="on")] * 999, until=enough(1)
    )
    assert told == [PeersUnlisted(detail="Service vip/peers: the list has no end after 51 answers")]
    assert len(requests) == 51


@pytest.mark.parametrize(
    "address",
    [
        *(
            None,
            7,
            "",
            "node-a",
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.18",
            "255.255.255.255",
            "fe80::1",
        ),
        *("2001:db8::1%eth0", "::ffff:192.0.2.9", "10" * 3000),
    ],
)
def test_what_no_node_can_be_reached_by_is_left_out(certificates: Any, address: object) -> None:
    told, _ = follow(
        certificates, SERVICE, listing(piece("a", address, "192.0.2.1")), until=enough(1)
    )
    assert lists(told) == [{"192.0.2.1"}]


@pytest.mark.parametrize(
    "item",
    [
        None,
        "text",
        {},
        {"metadata": None},
        {"metadata": {"name": ["a"]}, "endpoints": {"addresses": 1}},
        {"metadata": {"name": "a"}, "endpoints": [None, 1, {"addresses": None}]},
    ],
)
@pytest.mark.parametrize("source", [SERVICE, NODES], ids=["service", "nodes"])
def test_an_object_that_is_none_names_nobody(
    certificates: Any, source: PeerSource, item: object
) -> None:
    told, _ = follow(certificates, source, listing(item), until=enough(1))
    assert lists(told) == [set()]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        pytest.param(status(403), "HTTP 403", id="forbidden"),
        pytest.param(status(500), "HTTP 500", id="error"),
        pytest.param(status(200, b"garbage"), "no JSON object", id="garbage"),
        pytest.param(status(200, b"{}"), "the answer is no list", id="no list"),
        pytest.param(
            listing(*(piece(f"s{number}", f"192.0.2.{number}") for number in range(1, 200))),
            "more than 128 addresses",
            id="too many",
        ),
    ],
)
def test_whatever_is_answered_it_is_asked_again(
    certificates: Any, answer: bytes, detail: str
) -> None:
    told, _ = follow(
        certificates, SERVICE, answer, listing(piece("a", "192.0.2.1")), until=enough(2)
    )
    first, second = told
    assert isinstance(first, PeersUnlisted)
    assert first.detail.startswith("Service vip/peers: ")
    assert detail in first.detail
    assert second == PeersListed(addresses=frozenset({ip_address("192.0.2.1")}))


def test_a_watch_that_is_too_old_is_no_news(certificates: Any) -> None:
    gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
    told, _ = follow(
        certificates,
        SERVICE,
        listing(piece("a", "192.0.2.1")),
        watching(("ERROR", gone)),
        listing(piece("a", "192.0.2.2")),
        until=enough(2),
    )
    assert lists(told) == [{"192.0.2.1"}, {"192.0.2.2"}]
