"""The Lease, Events and labels as they reach an API server, whatever that one does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from havip.act.kube_record import CLOSING_S, KubeRecord
from havip.core.actions import Report, Topic
from havip.core.backoff import Backoff
from havip.core.config import (
    KubeAccess,
    Leg,
    NodeConfig,
    RouterConfig,
    Secret,
    TlsConfig,
    Vip,
)
from havip.core.reasons import Reason, State
from havip.kube import KubeApi
from servers import server_tls, serving, status

HANG_S = 30.0
UTC_S = 1_700_000_000.25
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
LEASE = f"{LEASES}/havip-10"
EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
NODE = "/api/v1/nodes/node-a"
Json = dict[str, Any]

ROUTER = RouterConfig(
    name="eth0/10",
    virtual_router_id=10,
    version=3,
    vrrp_interface="eth0",
    vip_interface="eth0",
    legs=(
        Leg(source=ip_address("192.0.2.1"), vips=(Vip(interface=ip_interface("192.0.2.100/32")),)),
    ),
)
SHOWN = replace(ROUTER, holder_lease=("kube-system", "havip-10"))


def moved(state: State, was: State = State.BACKUP, reason: Reason = Reason.ACTIVE_SILENT) -> Report:
    return Report(topic=Topic.MOVED, router="eth0/10", state=state, was=was, reason=reason)


@dataclass
class ApiServer:
    """Keeps one Lease, and takes notes; `answers` may say something else first."""

    lease: Json | None = None
    requests: list[tuple[str, str, Json]] = field(default_factory=list)
    answers: list[bytes | None] = field(default_factory=list)
    """None: silence."""
    version: int = 17
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.decode().split(" ", 2)
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ),
            0,
        )
        body = json.loads(await reader.readexactly(length)) if length else {}
        said = self.answers.pop(0) if self.answers else self.answer(method, path, body)
        async with self.heard:
            self.requests.append((method, path, body))
            self.heard.notify_all()
        if said == b"":
            return
        if said is not None:
            writer.write(said)
            await writer.drain()
        await reader.read()

    def answer(self, method: str, path: str, body: Json) -> bytes:
        match method, path:
            case "GET", _ if path == LEASE:
                return status(404) if self.lease is None else self.ok(self.lease)
            case "POST", _ if path == LEASES:
                return self.keep(body)
            case "PUT", _ if path == LEASE:
                assert self.lease is not None
                if body["metadata"]["resourceVersion"] != str(self.version):
                    return status(409)
                return self.keep(body)
        return self.ok(body or {})

    def keep(self, body: Json) -> bytes:
        self.version += 1
        self.lease = body
        body["metadata"]["resourceVersion"] = str(self.version)
        return self.ok(body)

    def ok(self, body: Json) -> bytes:
        return status(200, json.dumps(body).encode())

    async def until(self, is_done: Callable[[], bool]) -> None:
        async with asyncio.timeout(HANG_S), self.heard:
            await self.heard.wait_for(is_done)

    @property
    def asked(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.requests]


def of_chart() -> Json:
    return {
        "metadata": {
            "name": "havip-10",
            "namespace": "kube-system",
            "resourceVersion": "17",
            "labels": {"app.kubernetes.io/managed-by": "Helm"},
        },
        "spec": {},
    }


@dataclass
class Desk:
    record: KubeRecord
    server: ApiServer
    warnings: list[dict[str, Any]]


@asynccontextmanager
async def desk(
    certificates: Any, server: ApiServer, *routers: RouterConfig, **config: bool
) -> AsyncIterator[Desk]:
    warnings: list[dict[str, Any]] = []
    async with serving(server.handle, server_tls(certificates)) as port:
        access = KubeAccess(
            servers=(f"https://127.0.0.1:{port}",),
            tls=TlsConfig(ca_file=certificates.path("ca.pem"), server_name="127.0.0.1"),
            token=Secret(b"t0ken"),
        )
        node = NodeConfig(node_name="node-a", routers=routers or (ROUTER,), **config)
        record = KubeRecord(
            KubeApi(access), node, {}, warn=lambda _message, **fields: warnings.append(fields)
        )
        try:
            yield Desk(record, server, warnings)
        finally:
            await record.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "pause_s", lambda _self: 0.01)
    monkeypatch.setattr("havip.core.publish.SPACING_S", 0.01)
    monkeypatch.setattr("havip.core.publish.RELEASE_AFTER_S", 0.05)
    monkeypatch.setattr("havip.core.publish.SHOW_AFTER_S", 0.01)


def test_a_holder_is_written_into_the_lease_of_the_chart(certificates: Any) -> None:
    async def main() -> ApiServer:
        server = ApiServer(of_chart())
        async with desk(certificates, server, SHOWN) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: ("PUT", LEASE) in server.asked)
        return server

    server = asyncio.run(main())
    assert server.lease is not None
    spec = server.lease["spec"]
    assert spec["holderIdentity"] == "node-a"
    assert spec["acquireTime"] == "2023-11-14T22:13:20.250000Z"
    assert spec["leaseDurationSeconds"] == 40
    assert spec["leaseTransitions"] == 1
    assert server.lease["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "Helm"}


def test_a_lease_that_is_not_there_is_made(certificates: Any) -> None:
    async def main() -> ApiServer:
        server = ApiServer(None)
        async with desk(certificates, server, SHOWN) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: server.lease is not None)
        return server

    server = asyncio.run(main())
    assert server.asked == [("GET", LEASE), ("POST", LEASES)]


def test_a_lease_that_somebody_else_wrote_meanwhile_is_read_anew(certificates: Any) -> None:
    async def main() -> ApiServer:
        server = ApiServer(of_chart())
        server.answers = [server.ok(of_chart()), status(409)]
        async with desk(certificates, server, SHOWN) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: len(server.requests) >= 4)
        return server

    server = asyncio.run(main())
    assert [method for method, _ in server.asked] == ["GET", "PUT", "GET", "PUT"]
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "node-a"


def test_who_stops_takes_its_name_out_and_nobody_elses(certificates: Any) -> None:
    async def main(successor: str) -> ApiServer:
        server = ApiServer(of_chart())
        async with desk(certificates, server, SHOWN) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: ("PUT", LEASE) in server.asked)
            if successor:
                assert server.lease is not None
                server.lease["spec"]["holderIdentity"] = successor
                server.version += 1
                server.lease["metadata"]["resourceVersion"] = str(server.version)
            d.record.note(moved(State.INITIALIZE, State.ACTIVE, Reason.STOPPED), UTC_S)
            await d.record.finish()
        return server

    for successor in ("", "node-b"):
        server = asyncio.run(main(successor))
        assert server.lease is not None
        assert server.lease["spec"]["holderIdentity"] == successor


def test_an_end_does_not_wait_long_for_a_server_that_hangs(certificates: Any) -> None:
    async def main() -> float:
        server = ApiServer(of_chart())
        server.answers = [None] * 100
        async with desk(certificates, server, SHOWN, shows_events=True, shows_label=True) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: len(server.requests) >= 3)
            loop = asyncio.get_running_loop()
            began_at = loop.time()
            await d.record.finish()
            return loop.time() - began_at

    # It gives up by itself: the servers answer never, and a call may take five times as long.
    assert asyncio.run(main()) < 4 * CLOSING_S


def test_last_words_that_are_refused_concern_nobody(certificates: Any) -> None:
    """`helm uninstall` takes the rights away before the pods."""

    async def main() -> Desk:
        server = ApiServer(of_chart())
        async with desk(certificates, server, SHOWN, shows_events=True, shows_label=True) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: {("PUT", LEASE), ("POST", EVENTS)} <= {*server.asked})
            server.answers = [status(403)] * 100
            d.record.note(moved(State.INITIALIZE, State.ACTIVE, Reason.STOPPED), UTC_S)
            await d.record.finish()
            return d

    d = asyncio.run(main())
    assert ("PUT", LEASE) in d.server.asked
    assert not d.warnings


def test_an_event_of_the_node(certificates: Any) -> None:
    async def main() -> Json:
        server = ApiServer()
        async with desk(certificates, server, shows_events=True) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: bool(server.requests))
        ((method, path, body),) = server.requests
        assert (method, path) == ("POST", EVENTS)
        return body

    event = asyncio.run(main())
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Node",
        "name": "node-a",
        "uid": "node-a",
    }
    assert event["eventTime"] == "2023-11-14T22:13:20.250000Z"
    assert (event["reason"], event["action"], event["type"]) == (
        "active_silent",
        "active",
        "Normal",
    )
    assert event["note"] == "active for 192.0.2.100 on eth0/10, was backup"
    assert event["reportingController"] == "havip"
    assert event["reportingInstance"] == "havip-node-a"


def test_an_event_whose_answer_was_lost_is_not_sent_twice(certificates: Any) -> None:
    async def main() -> Desk:
        server = ApiServer()
        server.answers = [b"", status(409)]
        async with desk(certificates, server, shows_events=True) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            d.record.note(moved(State.BACKUP), UTC_S + 1)
            await server.until(lambda: len(server.requests) >= 3)
            return d

    d = asyncio.run(main())
    names = [body["metadata"]["name"] for _, _, body in d.server.requests]
    assert names[0] == names[1] != names[2]
    assert d.record.dropped == 0


@pytest.mark.parametrize("code", [400, 404, 422])
def test_an_event_that_is_no_good_does_not_hold_up_the_next(certificates: Any, code: int) -> None:
    async def main() -> Desk:
        server = ApiServer()
        server.answers = [status(code)]
        async with desk(certificates, server, shows_events=True) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            d.record.note(moved(State.BACKUP), UTC_S + 1)
            await server.until(lambda: len(server.requests) >= 2)
            return d

    d = asyncio.run(main())
    assert d.record.dropped == 1
    assert len(d.warnings) == 1


def test_the_label_comes_and_goes(certificates: Any) -> None:
    async def main() -> ApiServer:
        server = ApiServer()
        async with desk(certificates, server, shows_label=True) as d:
            await server.until(lambda: len(server.requests) >= 1)
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: len(server.requests) >= 2)
            await d.record.finish()
        return server

    server = asyncio.run(main())
    assert server.asked == [("PATCH", NODE)] * 3
    labels = [body["metadata"]["labels"] for _, _, body in server.requests]
    assert labels == [{"havip.io/holder-10": each} for each in (None, "true", None)]


MALFORMED = [
    pytest.param(status(200, b"[]"), id="no object"),
    pytest.param(status(200, b"{}"), id="no Lease"),
    pytest.param(status(200, b'{"metadata": {"resourceVersion": 7}, "spec": 1}'), id="other kinds"),
    pytest.param(b"SSH-2.0\r\n\r\n", id="no HTTP"),
    pytest.param(status(403), id="forbidden"),
    pytest.param(status(500), id="error"),
    pytest.param(b"", id="closed"),
]


@pytest.mark.parametrize("said", MALFORMED)
@pytest.mark.parametrize("before", [0, 1], ids=["read", "write"])
def test_a_server_that_talks_nonsense_is_asked_again_and_told_of_once(
    certificates: Any, said: bytes, before: int
) -> None:
    async def main() -> Desk:
        server = ApiServer(of_chart())
        server.answers = [server.ok(of_chart())] * before + [said]
        async with desk(certificates, server, SHOWN) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: server.lease is not None and bool(server.lease["spec"]))
            return d

    d = asyncio.run(main())
    ((warning),) = d.warnings
    assert warning["object"] == "Lease"
    assert warning["detail"]


def test_a_failure_that_goes_on_is_told_ever_more_rarely(certificates: Any) -> None:
    async def main() -> Desk:
        server = ApiServer(of_chart())
        server.answers = [status(403)] * 20
        async with desk(certificates, server, SHOWN) as d:
            d.record.note(moved(State.ACTIVE), UTC_S)
            await server.until(lambda: len(server.requests) >= 20)
            return d

    d = asyncio.run(main())
    assert 1 <= len(d.warnings) < len(d.server.requests) / 2
    assert "update leases" in d.warnings[0]["detail"] or "HTTP 403" in d.warnings[0]["detail"]
