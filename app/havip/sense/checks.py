"""Probes turned into events: asked ones answered, and a close of the watched connection told.

A check with `fast_fail` keeps one idle TCP connection to the service. The kernel closes it in
the moment the service dies, and so says what the next probe would find out seconds later.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from havip.core.config import CheckConfig
from havip.core.events import ProbeFinished, ProbeResult
from havip.sense.probe import Target

_WATCH_SHORT_S = 5.0
"""A watched connection that the service closes sooner than this is not worth reopening soon."""
_WATCH_BACKOFF_S = 1.0
_WATCH_BACKOFF_MAX_S = 60.0
_WATCH_STARVED_S = 600.0
"""How long not to watch after a probe got no answer while a connection was being watched."""
_WATCH_READ_LIMIT = 65536

Deliver = Callable[[ProbeFinished], None]


class Prober:
    """Runs the probes of all checks on the running loop.

    `deliver` is called from the loop: once for each `start`, unless a later `start`,
    `reconfigure` or `close` overtook it, and once with `is_unasked` when the service closes a
    watched connection.
    """

    def __init__(self, configs: Iterable[CheckConfig], deliver: Deliver) -> None:
        self._deliver = deliver
        self._targets: dict[str, Target] = {c.name: Target(c) for c in configs}
        self._watches: dict[str, Watch] = {}
        self._tasks: dict[str, asyncio.Task[ProbeFinished]] = {}

    def start(self, check: str) -> None:
        """Probe now. A probe of the same check that is still under way is dropped.

        Raises:
            KeyError: no such check.
        """
        target = self._targets[check]
        running = self._tasks.pop(check, None)
        if running is not None:
            running.cancel()
        task = asyncio.get_running_loop().create_task(_probe(target))
        self._tasks[check] = task
        task.add_done_callback(self._finish)

    def reconfigure(self, configs: Iterable[CheckConfig]) -> None:
        """Go on with other checks; what did not change keeps its probe and its connection."""
        targets: dict[str, Target] = {}
        for config in configs:
            known = self._targets.get(config.name)
            targets[config.name] = known if known and known.config == config else Target(config)
        for name, target in self._targets.items():
            if targets.get(name) is not target:
                self._drop(name)
        self._targets = targets

    async def close(self) -> None:
        """End all probes and connections without another event."""
        running: list[asyncio.Task[ProbeFinished] | asyncio.Task[None]] = []
        running += self._tasks.values()
        running += [w.opening for w in self._watches.values() if w.opening is not None]
        for name in list(self._targets):
            self._drop(name)
        await asyncio.gather(*running, return_exceptions=True)

    def _drop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        watch = self._watches.pop(name, None)
        if watch is not None:
            watch.close()

    def _finish(self, task: asyncio.Task[ProbeFinished]) -> None:
        # In a callback rather than in the task: what goes wrong in the core reaches the
        # loop's exception handler, not a task that nobody looks at.
        if task.cancelled():
            return
        finished = task.result()
        if self._tasks.get(finished.check) is not task:
            return
        del self._tasks[finished.check]
        target = self._targets[finished.check]
        if target.config.fast_fail:
            self._tend(target, finished.result)
        self._deliver(finished)

    def _tend(self, target: Target, result: ProbeResult) -> None:
        name = target.config.name
        watch = self._watches.get(name)
        if result is ProbeResult.PASSED:
            if watch is None:
                watch = Watch(target, self._tell_closed)
                self._watches[name] = watch
            watch.open()
        elif result is ProbeResult.TIMED_OUT and watch is not None:
            watch.yield_to_others()

    def _tell_closed(self, watch: Watch) -> None:
        name = watch.target.config.name
        if self._watches.get(name) is not watch:
            return
        self._deliver(
            ProbeFinished(
                check=name,
                result=ProbeResult.CLOSED,
                detail="the service closed a watched idle connection",
                is_unasked=True,
            )
        )


class Watch(asyncio.Protocol):
    """At most one idle connection to a service, to hear when the service goes.

    Opened after a probe has passed, and again after each that passes, until it is open; less
    and less eagerly when the service does not keep idle connections.
    """

    def __init__(self, target: Target, on_closed: Callable[[Watch], None]) -> None:
        self.target = target
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._opened_at = 0.0
        self._not_before_at = -math.inf
        self._backoff_s = 0.0
        self._received = 0
        self.opening: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def open(self) -> None:
        """Connect in the background, unless open, opening or told to wait."""
        loop = asyncio.get_running_loop()
        if self.is_open or self.opening is not None or loop.time() < self._not_before_at:
            return
        self.opening = loop.create_task(self._connect())

    def close(self) -> None:
        """Let go without telling anyone."""
        if self.opening is not None:
            self.opening.cancel()
            self.opening = None
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def yield_to_others(self) -> None:
        """Let go for long: a probe got no answer, and the watched connection may be why.

        A server that handles one connection at a time waits for the idle one to speak.
        """
        if self.is_open:
            self.close()
            self._not_before_at = asyncio.get_running_loop().time() + _WATCH_STARVED_S

    async def _connect(self) -> None:
        host, port = self.target.endpoint
        try:
            async with asyncio.timeout(self.target.config.timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        except OSError:
            self._wait_longer()
        finally:
            self.opening = None

    def _wait_longer(self) -> None:
        self._backoff_s = min(max(2 * self._backoff_s, _WATCH_BACKOFF_S), _WATCH_BACKOFF_MAX_S)
        self._not_before_at = asyncio.get_running_loop().time() + self._backoff_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._opened_at = asyncio.get_running_loop().time()
        self._received = 0

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > _WATCH_READ_LIMIT:
            self.close()
            self._wait_longer()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        if asyncio.get_running_loop().time() - self._opened_at < _WATCH_SHORT_S:
            self._wait_longer()
        else:
            self._backoff_s = 0.0
        self._on_closed(self)


async def _probe(target: Target) -> ProbeFinished:
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    result, detail = await target.probe()
    return ProbeFinished(
        check=target.config.name,
        result=result,
        detail=detail,
        duration_s=loop.time() - started_at,
    )
