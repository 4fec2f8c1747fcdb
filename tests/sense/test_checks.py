"""The prober: one answer for each question, and what the watched connection tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from havip.core.config import CheckConfig
from havip.core.events import ProbeFinished, ProbeResult
from havip.sense import checks
from havip.sense.checks import Prober

CONFIG = CheckConfig(
    name="service",
    url="",
    interval_s=2.0,
    timeout_s=5.0,
    fail_after=2,
    recover_after=2,
    fast_fail=True,
)


class Service:
    """A service that answers `GET` and otherwise keeps connections until it is killed."""

    def __init__(self) -> None:
        self.connections: list[asyncio.StreamWriter] = []
        self.arrivals: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        self.must_hang = False
        self.must_hang_up = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Service:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """What the kernel does when the process dies: nothing listens, everything closes."""
        self._server.close()
        for writer in self.connections:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def config(self) -> CheckConfig:
        return replace(CONFIG, url=f"http://127.0.0.1:{self.port}/healthz")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self.arrivals.put_nowait(writer)
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._tasks.add(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.must_hang_up:
            request = await reader.read(65536)
            if request and not self.must_hang:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await reader.read()
        writer.transport.abort()


class Bench:
    """A prober of one service, and the events that it delivers."""

    def __init__(self, config: CheckConfig) -> None:
        self.events: asyncio.Queue[ProbeFinished] = asyncio.Queue()
        self.prober = Prober([config], self.events.put_nowait)

    async def probe(self) -> ProbeFinished:
        self.prober.start("service")
        return await self.events.get()

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.prober.close()
        await asyncio.sleep(0)


async def gone(writer: asyncio.StreamWriter) -> None:
    """Wait until the other side has let go."""
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def run(scenario: Callable[[Service], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Service() as service:
            await scenario(service)

    asyncio.run(main())


def test_a_killed_service_tells_of_itself():
    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            assert (await bench.probe()).result is ProbeResult.PASSED
            await service.arrivals.get()
            await service.arrivals.get()
            await service.kill()
            closed = await bench.events.get()
            assert (closed.result, closed.is_unasked) == (ProbeResult.CLOSED, True)
            assert (await bench.probe()).result is ProbeResult.REFUSED
            assert bench.events.empty()

    run(scenario)


def test_one_connection_is_watched_and_it_is_idle():
    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            for _ in range(3):
                await bench.probe()
            for _ in range(4):
                await service.arrivals.get()
            await bench.probe()
            assert len(service.connections) == 5
            assert len([c for c in service.connections if not c.is_closing()]) <= 2

    run(scenario)


def test_without_fast_fail_nothing_is_watched():
    async def scenario(service: Service) -> None:
        async with Bench(replace(service.config, fast_fail=False)) as bench:
            for _ in range(3):
                await bench.probe()
            assert len(service.connections) == 3

    run(scenario)


def test_a_server_that_closes_idle_connections_is_watched_less_and_less():
    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            await bench.probe()
            await service.arrivals.get()
            watched = await service.arrivals.get()
            watched.transport.abort()
            assert (await bench.events.get()).is_unasked
            await bench.probe()
            await bench.probe()
            # Not reopened yet: closed sooner than is worth it.
            assert len(service.connections) == 4

    run(scenario)


def test_a_watched_connection_that_lived_is_reopened_after_the_next_good_probe(monkeypatch):
    monkeypatch.setattr(checks, "_WATCH_SHORT_S", 0.0)

    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            await bench.probe()
            await service.arrivals.get()
            watched = await service.arrivals.get()
            watched.transport.abort()
            assert (await bench.events.get()).is_unasked
            await bench.probe()
            await service.arrivals.get()
            reopened = await service.arrivals.get()
            assert not reopened.is_closing()

    run(scenario)


def test_a_probe_without_answer_lets_the_watched_connection_go():
    """A server that handles one connection at a time would wait for the idle one."""

    async def scenario(service: Service) -> None:
        async with Bench(replace(service.config, timeout_s=0.3)) as bench:
            await bench.probe()
            await service.arrivals.get()
            watched = await service.arrivals.get()
            service.must_hang = True
            assert (await bench.probe()).result is ProbeResult.TIMED_OUT
            await gone(watched)
            service.must_hang = False
            assert (await bench.probe()).result is ProbeResult.PASSED
            # Two probes and the watched connection, and one more probe: nothing reopened.
            assert len(service.connections) == 4
            assert bench.events.empty()

    run(scenario)


def test_a_service_that_talks_without_end_is_not_watched():
    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            await bench.probe()
            await service.arrivals.get()
            watched = await service.arrivals.get()
            watched.write(b"x" * 200_000)
            await gone(watched)
            assert bench.events.empty()

    run(scenario)


def test_a_new_question_replaces_the_old_one():
    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            service.must_hang = True
            bench.prober.start("service")
            await service.arrivals.get()
            service.must_hang = False
            assert (await bench.probe()).result is ProbeResult.PASSED
            assert bench.events.empty()

    run(scenario)


def test_closing_says_nothing_more():
    async def scenario(service: Service) -> None:
        bench = Bench(service.config)
        await bench.probe()
        await service.arrivals.get()
        watched = await service.arrivals.get()
        service.must_hang = True
        bench.prober.start("service")
        await service.arrivals.get()
        await bench.prober.close()
        await gone(watched)
        assert bench.events.empty()

    run(scenario)


def test_reconfiguring_keeps_what_did_not_change():
    async def scenario(service: Service) -> None:
        async with Bench(service.config) as bench:
            await bench.probe()
            await service.arrivals.get()
            watched = await service.arrivals.get()
            kubelet = replace(service.config, name="kubelet", fast_fail=False)
            bench.prober.reconfigure([service.config, kubelet])
            bench.prober.start("kubelet")
            assert (await bench.events.get()).check == "kubelet"
            assert not watched.is_closing()
            bench.prober.reconfigure([kubelet])
            await gone(watched)
            with pytest.raises(KeyError):
                bench.prober.start("service")
            assert bench.events.empty()

    run(scenario)


def test_an_error_in_the_core_reaches_the_loop():
    """A daemon whose core has failed must end, not go on without its probes."""

    async def scenario(service: Service) -> None:
        errors: asyncio.Queue[dict[str, object]] = asyncio.Queue()
        asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.put_nowait(what))

        def fail(_: ProbeFinished) -> None:
            raise AssertionError("the core is broken")

        prober = Prober([service.config], fail)
        prober.start("service")
        error = await errors.get()
        assert isinstance(error["exception"], AssertionError)
        await prober.close()

    run(scenario)
