"""What a running HAProxy tells of itself, as events: asked, and when it is heard to die.

And what it does not tell: that the CA certificates it was started with were replaced since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from havip.core.config import BalancerConfig
from havip.core.events import BalancerAnswered, BalancerCaOutdated, BalancerSilent, ProbeResult
from havip.core.haproxy import CA_BYTES, read_answer
from havip.files import open_regular
from havip.haproxy import RuntimeApi, RuntimeApiError

_CA_CHECK_S: Final = 2.0
Deliver = Callable[[BalancerAnswered | BalancerSilent], None]


class BalancerWatch:
    """Asks on request; each `start` is answered once, unless a later one overtook it."""

    def __init__(self, config: BalancerConfig, timeout_s: float, deliver: Deliver) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._deliver = deliver
        self._asking: asyncio.Task[BalancerAnswered | BalancerSilent] | None = None
        self.api = RuntimeApi(config.socket_file, self._tell_closed)
        """For those who change something, too: their commands and the questions take turns."""

    def start(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.get_running_loop().create_task(self._ask())
        self._asking.add_done_callback(self._finish)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        self.api.close()

    def _finish(self, task: asyncio.Task[BalancerAnswered | BalancerSilent]) -> None:
        # In a callback rather than in the task: what goes wrong in the core reaches the
        # loop's exception handler, not a task that nobody looks at.
        if task.cancelled() or task is not self._asking:
            return
        self._asking = None
        self._deliver(task.result())

    async def _ask(self) -> BalancerAnswered | BalancerSilent:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        where = f"HAProxy at {self._config.socket_file}"
        try:
            async with asyncio.timeout(self._timeout_s):
                info, statistics = await self.api.ask("show info", "show stat")
            answer = read_answer(info, statistics)
        except TimeoutError:
            result, detail = ProbeResult.TIMED_OUT, f"{where} does not answer in time"
        except (RuntimeApiError, ValueError) as error:
            result, detail = ProbeResult.MALFORMED, f"{where}: {error}"
        except FileNotFoundError:
            result = ProbeResult.REFUSED
            detail = f"{where} has no socket: it does not run, or is to be restarted if it does"
        except ConnectionError as error:
            # A socket file that nobody listens at is what a HAProxy that was killed leaves.
            result = ProbeResult.REFUSED
            detail = f"{where} does not run: {error.strerror or error}"
        except OSError as error:
            result, detail = ProbeResult.FAILED, f"{where}: {error.strerror or error}"
        else:
            return BalancerAnswered(answer=answer, duration_s=loop.time() - started_at)
        return BalancerSilent(result=result, detail=detail, duration_s=loop.time() - started_at)

    def _tell_closed(self) -> None:
        self._deliver(
            BalancerSilent(
                result=ProbeResult.CLOSED,
                detail="HAProxy closed the connection to its Runtime API",
                is_unasked=True,
            )
        )


class CaWatch:
    """Compares the CA certificates with the copy of them that HAProxy was started with."""

    def __init__(
        self, ca_file: str, ca_copy: str, deliver: Callable[[BalancerCaOutdated], None]
    ) -> None:
        self._ca_file = ca_file
        self._ca_copy = ca_copy
        self._deliver = deliver
        self._last_seen = b""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_CA_CHECK_S)
            if await asyncio.to_thread(self.is_outdated):
                self._deliver(BalancerCaOutdated(file=self._ca_file))

    def is_outdated(self) -> bool:
        """Whether they differ, and the file is as at the last look: one is not read half-way.

        Blocks, as long as a network file system does.
        """
        try:
            copied, found = _content(self._ca_copy), _content(self._ca_file)
        except OSError:
            # One that is about to be replaced; HAProxy, or `havip load-balancer`, says what lacks.
            return False
        is_still = found == self._last_seen
        self._last_seen = found
        return is_still and found != copied


def _content(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(CA_BYTES)
