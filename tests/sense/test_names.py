"""What a resolver that does not answer may cost: nothing but the checks of that name."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from havip.core.config import CheckConfig
from havip.core.events import ProbeFinished, ProbeResult
from havip.sense.checks import Prober
from havip.sense.names import Loop

CONFIG = CheckConfig(
    name="service",
    url="http://hangs.example/healthz",
    interval_s=1.0,
    timeout_s=0.02,
    fail_after=2,
    recover_after=2,
)
PATIENCE_S = 10.0


class Resolver:
    """The system's, but for a name that it does not find before it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = threading.Event()
        self._ask = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any) -> Any:
        if host not in ("hangs.example", b"hangs.example"):
            return self._ask(host, *args)
        self.asked += 1
        self.may_answer.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.may_answer.set()


def test_a_name_that_hangs_takes_no_thread_from_anything_else(resolver: Resolver) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        other = replace(CONFIG, name="kubelet", url=f"tcp://localhost:{port}", timeout_s=PATIENCE_S)
        events: asyncio.Queue[ProbeFinished] = asyncio.Queue()
        prober = Prober([CONFIG, other], events.put_nowait)
        for _ in range(40):
            prober.start("service")
            assert (await events.get()).result is ProbeResult.TIMED_OUT
        # Neither a reload or a certificate, which take a thread, nor another name.
        async with asyncio.timeout(PATIENCE_S / 2):
            await asyncio.to_thread(lambda: None)
        prober.start("kubelet")
        assert (await events.get()).result is ProbeResult.PASSED
        assert resolver.asked == 1
        # Once it says something, the name is looked up anew.
        resolver.may_answer.set()
        await prober.close()
        prober = Prober([replace(CONFIG, timeout_s=PATIENCE_S)], events.put_nowait)
        prober.start("service")
        assert (await events.get()).result is ProbeResult.NAME_NOT_FOUND
        await prober.close()
        server.close()
        await server.wait_closed()

    told: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: told.append(context))
        runner.run(main())
    assert told == [], "an answer that nobody waits for is no defect"
