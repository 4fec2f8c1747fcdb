"""The status server over real connections, friendly and otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havip.act import http
from havip.act.http import (
    MAX_CONNECTIONS,
    Server,
    is_of_accept,
    metrics_pages,
    split_listen,
    status_document,
    status_pages,
)
from havip.core.view import NodeView


class Daemon:
    def __init__(self, view: NodeView) -> None:
        self.view = view
        self.is_alive = True
        self.metrics = b"havip_ready 1.0\n"
        self.metrics_asked = asyncio.Event()
        self.server = Server(
            "127.0.0.1:0",
            status_pages(lambda: self.view, lambda: self.is_alive, self._show_metrics),
        )

    def _show_metrics(self) -> bytes:
        self.metrics_asked.set()
        return self.metrics

    async def send(self, request: bytes) -> bytes:
        """What comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(request)
            writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def get(self, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        answer = await self.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        pairs = (field.split(": ", 1) for field in fields)
        return int(status.split()[1]), {name.lower(): value for name, value in pairs}, body


@asynccontextmanager
async def serving(view: NodeView) -> AsyncIterator[Daemon]:
    failures: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    daemon = Daemon(view)
    await daemon.server.open()
    try:
        yield daemon
    finally:
        await daemon.server.close()
        await asyncio.sleep(0)
    assert failures == []


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run(view: NodeView, scenario: Callable[[Daemon], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), serving(view) as daemon:
            await scenario(daemon)

    asyncio.run(main())


def test_health(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        assert (await daemon.get("/healthz"))[0] == 200
        daemon.is_alive = False
        assert (await daemon.get("/healthz"))[0] == 503

    run(view, scenario)


def test_readiness_says_what_is_missing(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        assert (await daemon.get("/readyz"))[0] == 200
        daemon.view = replace(view, ready=False, not_ready_because="check service has no result")
        status, _, body = await daemon.get("/readyz")
        assert status == 503
        assert b"check service has no result" in body

    run(view, scenario)


def test_metrics_and_index(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        status, headers, body = await daemon.get("/metrics")
        assert (status, body) == (200, b"havip_ready 1.0\n")
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        status, _, body = await daemon.get("/")
        assert status == 200
        assert b"/status" in body

    run(view, scenario)


def test_metrics_alone(view: NodeView):
    """What the network may see: figures, and neither the status nor the probes of kubelet."""

    async def scenario(daemon: Daemon) -> None:
        complete, daemon.server = (
            daemon.server,
            Server("127.0.0.1:0", metrics_pages(lambda: b"havip_ready 1.0\n")),
        )
        await daemon.server.open()
        status, headers, body = await daemon.get("/metrics")
        assert (status, body) == (200, b"havip_ready 1.0\n")
        assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        for path in ("/", "/healthz", "/readyz", "/status"):
            status, _, body = await daemon.get(path)
            assert (status, body) == (404, b"not found; there is /metrics\n")
        await daemon.server.close()
        daemon.server = complete

    run(view, scenario)


def test_status(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        status, headers, body = await daemon.get("/status?pretty")
        assert (status, headers["content-type"]) == (200, "application/json")
        document = json.loads(body)
        assert document["node_name"] == "node-1"
        router = document["routers"][0]
        assert router["state"] == "backup"
        assert abs(datetime.fromisoformat(router["since"]).timestamp() - time.time() + 60) < 30
        assert router["since_age_s"] == pytest.approx(60, abs=0.001)
        assert router["peers"][0]["last_advert_age_s"] == pytest.approx(0.05, abs=0.001)
        assert document["checks"][1]["last"] is None
        assert document["checks"][1]["last_age_s"] is None
        assert document["transitions"][0]["age_s"] == pytest.approx(60, abs=0.001)
        assert document["transitions"][0]["fields"] == {"peer": "10.0.0.2", "silent_s": None}

    run(view, scenario)


def test_no_instant_of_the_monotonic_clock_is_shown(view: NodeView):
    document = status_document(replace(view, at=1000.0), utc_offset_s=1786190401.25 - 1000.0)
    assert document["time"] == "2026-08-08T12:00:01.250Z"
    assert "age_s" not in document

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {k for item in value.values() for k in keys(item)}
        if isinstance(value, list):
            return {k for item in value for k in keys(item)}
        return set()

    assert not [key for key in keys(document) if key == "at" or key.endswith("_at")]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/status", 200),
        ("POST", "/status", 405),
        ("DELETE", "/nothing", 405),
        ("GET", "/nothing", 404),
        ("GET", "//status", 404),
        ("GET", "/status/../healthz", 404),
        ("GET", "http://elsewhere/status", 404),
    ],
)
def test_routes(view: NodeView, method, path, status):
    async def scenario(daemon: Daemon) -> None:
        found, headers, body = await daemon.get(path, method)
        assert found == status
        assert headers["connection"] == "close"
        if method == "HEAD":
            assert body == b""
            assert int(headers["content-length"]) > 100
        else:
            assert int(headers["content-length"]) == len(body)
        if status == 405:
            assert headers["allow"] == "GET, HEAD"

    run(view, scenario)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b" 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b" 400 "),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b" 400 "),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b" 200 "),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b" 431 "),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n", b" 431 "),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123456789", b" 405 "),
        (b"GET / HTTP/1.1\r\nHost: x", b" 400 "),
    ],
)
def test_bad_requests(view: NodeView, request_bytes, status):
    async def scenario(daemon: Daemon) -> None:
        answer = await daemon.send(request_bytes)
        assert status in answer.partition(b"\r\n")[0], answer[:100]

    run(view, scenario)


def test_any_bytes(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        loop = asyncio.get_running_loop()

        @given(st.binary(max_size=300))
        @settings(max_examples=60, deadline=None)
        def send(data: bytes) -> None:
            answer = asyncio.run_coroutine_threadsafe(daemon.send(data), loop).result()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 ")

        await asyncio.to_thread(send)
        assert (await daemon.get("/healthz"))[0] == 200

    run(view, scenario)


def test_a_slow_request_ends(view: NodeView, monkeypatch):
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.1)

    async def scenario(daemon: Daemon) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.server.port)
        writer.write(b"GET /status HTT")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(view, scenario)


def test_a_client_that_never_reads_ends(view: NodeView, monkeypatch):
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.1)

    async def scenario(daemon: Daemon) -> None:
        daemon.metrics = b"x" * 2**26
        with socket.create_connection(("127.0.0.1", daemon.server.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await daemon.metrics_asked.wait()
            await asyncio.wait(daemon.server._handlers)

    run(view, scenario)


def test_idle_connections_do_not_keep_a_probe_out(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        idle = [
            await asyncio.open_connection("127.0.0.1", daemon.server.port)
            for _ in range(MAX_CONNECTIONS)
        ]
        assert (await daemon.get("/healthz"))[0] == 200
        first_reader, _ = idle[0]
        with contextlib.suppress(ConnectionError):
            assert await first_reader.read() == b""
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    run(view, scenario)


def test_a_flood_of_connections_takes_a_bounded_number_of_files(view: NodeView):
    """Else the daemon runs out of them, and can neither probe nor speak."""

    async def scenario(daemon: Daemon) -> None:
        clients: list[socket.socket] = []
        before = open_files()
        most = 0
        try:
            for _ in range(60):
                for _ in range(10):
                    client = socket.socket()
                    clients.append(client)
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", daemon.server.port))
                await asyncio.sleep(0)
                most = max(most, open_files() - before - len(clients))
        finally:
            for client in clients:
                client.close()
        assert MAX_CONNECTIONS <= most < 2 * MAX_CONNECTIONS
        assert (await daemon.get("/healthz"))[0] == 200

    run(view, scenario)


def test_a_port_in_use_is_told(view: NodeView):
    async def scenario(daemon: Daemon) -> None:
        other = Server(f"127.0.0.1:{daemon.server.port}", metrics_pages(lambda: b""))
        with pytest.raises(OSError, match="in use"):
            await other.open()
        await other.close()

    run(view, scenario)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:9650", ("127.0.0.1", 9650)),
        ("[::1]:9650", ("::1", 9650)),
        ("[::]:0", ("::", 0)),
        ("localhost:80", ("localhost", 80)),
        (":9650", ("", 9650)),
    ],
)
def test_listen(listen, expected):
    assert split_listen(listen) == expected


@pytest.mark.parametrize("listen", ["", "9650", "::1:9650", "127.0.0.1:", "h:x", "h:65536", "h:²"])
def test_bad_listen(listen):
    with pytest.raises(ValueError, match="write"):
        split_listen(listen)


def test_ipv6(view: NodeView):
    async def main() -> None:
        server = Server("[::1]:0", status_pages(lambda: view, lambda: True, lambda: b""))
        await server.open()
        reader, writer = await asyncio.open_connection("::1", server.port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.close()
        await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "number",
    [errno.EMFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.ENETDOWN],
    ids=errno.errorcode.__getitem__,
)
def test_a_refused_accept_is_told_from_a_defect(
    number: int, view: NodeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accept(2) names them; whoever runs the loop must not take one for its own."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[object] = asyncio.Queue()
        accept = socket.socket._accept  # type: ignore[attr-defined]

        def refuse_once(sock: socket.socket) -> object:
            monkeypatch.setattr(socket.socket, "_accept", accept, raising=False)
            raise OSError(number, os.strerror(number))

        async with serving(view) as daemon:
            loop.set_exception_handler(lambda _, context: told.put_nowait(context["exception"]))
            monkeypatch.setattr(socket.socket, "_accept", refuse_once, raising=False)
            # It goes on listening: the connection that was refused is accepted in the end.
            status, _, _ = await daemon.get("/healthz")
            assert status == 200
            refused = await told.get()
            assert isinstance(refused, OSError)
            assert refused.errno == number
            assert is_of_accept(refused)

            def defect() -> None:
                raise OSError(number, "in a callback")

            loop.call_soon(defect)
            other = await told.get()
            assert isinstance(other, OSError)
            assert not is_of_accept(other)

    asyncio.run(main())
