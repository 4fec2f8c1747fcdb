"""The way to a running HAProxy: its Runtime API, on a UNIX socket in a directory shared with it.

One connection is kept open, in interactive mode. The kernel closes it in the moment HAProxy dies,
and so says what the next question would find out a second later. Whatever answers there costs
bounded bytes and bounded time; questions wait for one another, and nothing else waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Final

from havip.core.haproxy import closing, read_answer

_ANSWER_LIMIT: Final = 1 << 18
"""Bytes of one answer: 64 servers of `show stat` are 30 kilobytes."""
_PROMPT: Final = b"\n> "
_PAUSE_S: Final = 0.01


class RuntimeApiError(Exception):
    """HAProxy answers, but not as its Runtime API does."""


class RuntimeApi:
    """Asks the HAProxy at a socket. Whoever asks sees to the time (`asyncio.timeout`)."""

    def __init__(self, path: str, on_closed: Callable[[], None] = lambda: None) -> None:
        """
        Args:
            on_closed: called when HAProxy has closed the connection, and nobody was asking.
        """
        self._path = path
        self._on_closed = on_closed
        self._connection: _Connection | None = None
        self._turn = asyncio.Lock()

    async def ask(self, *commands: str) -> list[str]:
        """The answers to these commands, in their order; nobody else's come between.

        Raises:
            OSError: nobody answers at the socket, or not any more.
            RuntimeApiError: what answers is no Runtime API.
        """
        async with self._turn:
            if self._connection is None:
                self._connection = await self._open()
            connection = self._connection
            try:
                return [await connection.ask(command) for command in commands]
            except BaseException:
                # Half an answer may still be on its way: what comes next would be taken for
                # the answer to another question.
                self._drop()
                raise

    def close(self) -> None:
        self._drop()

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(
            lambda: _Connection(self._closed), self._path
        )
        try:
            await connection.ask("prompt")
        except BaseException:
            connection.close()
            raise
        return connection

    def _closed(self, connection: _Connection) -> None:
        if self._connection is connection:
            self._connection = None
            self._on_closed()

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


class _Connection(asyncio.Protocol):
    def __init__(self, closed: Callable[[_Connection], None]) -> None:
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[str] | None = None
        self._received = bytearray()

    async def ask(self, command: str) -> str:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("HAProxy has closed the connection")
        assert self._waiting is None
        self._waiting = asyncio.get_running_loop().create_future()
        self._received.clear()
        try:
            self._transport.write(command.encode() + b"\n")
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        waiting = self._waiting
        if waiting is None or waiting.done():
            # Nobody has asked for it.
            self.close()
            return
        self._received += data
        if len(self._received) > _ANSWER_LIMIT:
            waiting.set_exception(
                RuntimeApiError(f"an answer is longer than {_ANSWER_LIMIT} bytes")
            )
        elif self._received.endswith(_PROMPT):
            waiting.set_result(self._received[: -len(_PROMPT)].decode("utf-8", "replace"))

    def connection_lost(self, _error: Exception | None) -> None:
        if self._waiting is not None:
            with contextlib.suppress(asyncio.InvalidStateError):
                self._waiting.set_exception(
                    ConnectionResetError("HAProxy has closed the connection")
                )
        else:
            self._closed(self)


def close_sessions(path: str, within_s: float) -> None:
    """Have the HAProxy at a socket close its clients' connections, and wait until it has.

    One of somebody else is left alone, and what is still open at the end as well. Blocks; for a
    thread.

    Raises:
        OSError: nobody answers there in time.
        RuntimeApiError, ValueError: what answers is no Runtime API.
    """
    until_at = time.monotonic() + within_s
    while True:
        info, statistics = (_ask(path, each, until_at) for each in ("show info", "show stat"))
        answer = read_answer(info, statistics)
        is_ours = answer.description.startswith("havip ")
        if not is_ours or not answer.servers or answer.sessions == 0:
            return
        _ask(path, closing(answer.servers), until_at)
        if time.monotonic() + _PAUSE_S > until_at:
            return
        # HAProxy answers before it has closed the last one.
        time.sleep(_PAUSE_S)


def _ask(path: str, command: str, until_at: float) -> str:
    """One answer, on a connection of its own, which HAProxy closes after it."""
    received = bytearray()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_left_s(until_at))
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        while part := connection.recv(65536):
            received += part
            if len(received) > _ANSWER_LIMIT:
                raise RuntimeApiError(f"an answer is longer than {_ANSWER_LIMIT} bytes")
            connection.settimeout(_left_s(until_at))
    return received.decode("utf-8", "replace")


def _left_s(until_at: float) -> float:
    left_s = until_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("HAProxy does not answer in time")
    return left_s
