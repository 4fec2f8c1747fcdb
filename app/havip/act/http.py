"""The daemon's status over HTTP: `/healthz`, `/readyz`, `/metrics`, `/status`.

`/metrics` can be served a second time, alone, where a scraper reaches it: what kubelet asks on
the loopback then shares neither its port nor its number of connections with a network.

Whoever can connect may send anything, as slowly as they like: each request has a bounded
size, time and number, and what is wrong with it is answered, not raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import h11

from havip.core.view import NodeView

REQUEST_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
# asyncio accepts as many as the backlog in one turn of the loop, before any can be refused.
_BACKLOG = 8
_HEADER_LIMIT = 8192
_LINGER_S = 1.0

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Answer = tuple[HTTPStatus, str, bytes]
"""Status, media type and body."""
Pages = Mapping[bytes, Callable[[], Answer]]
"""What is served, by path."""

_INDEX = """\
havip: the virtual IP daemon
/healthz  whether its loop runs
/readyz   whether it takes part, and every check that can forbid holding has passed once
/metrics  figures for Prometheus
/status   state, reasons, checks, peers and the last transitions, as JSON
"""


def status_pages(
    snapshot: Callable[[], NodeView], is_alive: Callable[[], bool], metrics: Callable[[], bytes]
) -> Pages:
    """Everything that the daemon says, as `snapshot` and `metrics` are at the time of a request.

    Args:
        is_alive: whether the daemon's loop still decides.
        metrics: the exposition for Prometheus, complete.
    """

    def health() -> Answer:
        if is_alive():
            return HTTPStatus.OK, _TEXT, b"ok\n"
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"the loop does not run\n"

    def readiness() -> Answer:
        view = snapshot()
        if view.ready:
            return HTTPStatus.OK, _TEXT, b"ok\n"
        # A probe's detail may quote what came over the network.
        body = f"not ready: {view.not_ready_because}\n".encode("utf-8", "backslashreplace")
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, body

    def status() -> Answer:
        document = status_document(snapshot(), time.time() - time.monotonic())
        return HTTPStatus.OK, _JSON, json.dumps(document, allow_nan=False).encode() + b"\n"

    return {
        b"/": lambda: (HTTPStatus.OK, _TEXT, _INDEX.encode()),
        b"/healthz": health,
        b"/readyz": readiness,
        b"/status": status,
        **metrics_pages(metrics),
    }


def metrics_pages(metrics: Callable[[], bytes]) -> Pages:
    """`/metrics` and nothing else."""
    return {b"/metrics": lambda: (HTTPStatus.OK, METRICS_TYPE, metrics())}


class Server:
    """Serves pages on one address.

    Args:
        listen: `host:port` or `[v6]:port`; port 0 picks a free one.
    """

    def __init__(self, listen: str, pages: Pages) -> None:
        self._host, self._port = split_listen(listen)
        self._pages = pages
        self._server: asyncio.Server | None = None
        self._handlers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: the port is in use, or the address is not this host's.
        """
        self._server = await asyncio.start_server(
            self._accept, self._host, self._port, limit=_HEADER_LIMIT, backlog=_BACKLOG
        )

    @property
    def port(self) -> int:
        """The port it listens on, once open."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        handlers = list(self._handlers)
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A handler that was told to go lives for some turns more; telling it again frees nothing.
        held = [pair for pair in self._handlers.items() if not pair[1].is_closing()]
        if len(held) >= MAX_CONNECTIONS:
            # The oldest goes, not the newest: connections that say nothing must not keep
            # kubelet's probe out. Its socket goes first, whatever the handler still does.
            oldest, its_writer = held[0]
            its_writer.transport.abort()
            oldest.cancel()
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._handlers[task] = writer
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._handlers.pop(task).transport.abort()
        if not task.cancelled():
            task.result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                # Closing with unread bytes would reset the connection, and the client might
                # lose the answer.
                while await reader.read(_HEADER_LIMIT):
                    pass

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_LIMIT)
        method = b"GET"
        try:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await reader.read(_HEADER_LIMIT))
            if not isinstance(event, h11.Request):
                return b""
            method = event.method
            status, kind, body = self._route(method, event.target)
        except h11.RemoteProtocolError as error:
            status, kind = HTTPStatus(error.error_status_hint), _TEXT
            body = f"{status.phrase.lower()}\n".encode()
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers.append(("Allow", "GET, HEAD"))
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
        return head.encode("ascii") + (b"" if method == b"HEAD" else body)

    def _route(self, method: bytes, target: bytes) -> Answer:
        if method not in {b"GET", b"HEAD"}:
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET and HEAD\n"
        page = self._pages.get(target.partition(b"?")[0])
        if page is not None:
            return page()
        there = b", ".join(sorted(self._pages))
        return HTTPStatus.NOT_FOUND, _TEXT, b"not found; there is " + there + b"\n"


def is_of_accept(error: BaseException) -> bool:
    """Whether the kernel refused to accept a connection.

    For want of memory or descriptors, or because of an error of the network that it tells there
    (accept(2)). asyncio tells the loop's exception handler, beside what goes wrong in a callback,
    and goes on listening.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, OSError) and any(
        frame.f_code is socket.socket.accept.__code__ for frame, _ in frames
    )


def split_listen(listen: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; no host means every address.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{listen}: write an IPv6 address in brackets, like [::1]:9650")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{listen}: write host:port, like 127.0.0.1:9650")
    return host, int(port)


def status_document(view: NodeView, utc_offset_s: float) -> dict[str, Any]:
    """The view as JSON values.

    An instant `x_at` on the monotonic clock becomes `x` in UTC (RFC 3339) and `x_age_s`, how
    long ago that was when the view was taken. A plain `at` becomes `time`, and in a transition
    also `age_s`.

    Args:
        utc_offset_s: UTC minus the monotonic clock, seconds.
    """
    document = _jsonable(view, view.at, utc_offset_s)
    assert isinstance(document, dict)
    del document["age_s"]
    return document


def _jsonable(value: object, now: float, utc_offset_s: float) -> Any:
    if dataclasses.is_dataclass(value):
        document: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.name == "at" or field.name.endswith("_at"):
                stem = field.name[:-3]
                document[stem or "time"] = _utc(item, utc_offset_s)
                age = None if item is None else _jsonable(now - item, now, utc_offset_s)
                document[f"{stem}_age_s" if stem else "age_s"] = age
            else:
                document[field.name] = _jsonable(item, now, utc_offset_s)
        return document
    if isinstance(value, dict):
        return {key: _jsonable(item, now, utc_offset_s) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_jsonable(item, now, utc_offset_s) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _utc(at: float | None, utc_offset_s: float) -> str | None:
    if at is None or not math.isfinite(at):
        return None
    moment = datetime.fromtimestamp(at + utc_offset_s, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
