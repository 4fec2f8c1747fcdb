"""Name look-ups that cannot keep anything else waiting.

The system's resolver blocks, and while its servers do not answer it does so for 20 seconds and
more. asyncio asks it in the threads that everything else uses too: with a check each second, a
handful of threads was soon all in the resolver, and no reload and no certificate got one.
"""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

MAX_LOOK_UPS: Final = 16
"""At once, each of another name: a node checks three services."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop that looks names up in threads of their own, each name once at a time.

    Who asks for a name that is being looked up waits for the same answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._resolver = ThreadPoolExecutor(MAX_LOOK_UPS, thread_name_prefix="havip-names")
        self._look_ups: dict[tuple[Any, ...], asyncio.Future[Any]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As `socket.getaddrinfo`, which it asks."""
        wanted = host, port, family, type, proto, flags
        look_up = self._look_ups.get(wanted)
        if look_up is None:
            look_up = self.run_in_executor(self._resolver, socket.getaddrinfo, *wanted)
            self._look_ups[wanted] = look_up
            look_up.add_done_callback(lambda done: self._end(wanted, done))
        return await asyncio.shield(look_up)

    def close(self) -> None:
        self._resolver.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _end(self, wanted: tuple[Any, ...], look_up: asyncio.Future[Any]) -> None:
        del self._look_ups[wanted]
        # Whoever asked may have given up: that nobody wants to know is no defect.
        if not look_up.cancelled():
            look_up.exception()
