"""Changes of Leases, told by watches: a hint to look now, and not at the next look."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from havip.core.backoff import Backoff
from havip.core.events import LeaseChanged
from havip.kube import KubeApi, KubeError

_WATCH_S: Final = 300.0
"""After which a watch is begun anew: its connection may have died in silence."""

Key = tuple[str, str]
"""Namespace and name."""


class LeaseWatch:
    """Watches Leases on the running loop, and calls `deliver` for each change, twice perhaps."""

    def __init__(self, deliver: Callable[[LeaseChanged], None]) -> None:
        self._deliver = deliver
        self._api: KubeApi | None = None
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def watch(self, api: KubeApi, leases: Iterable[Key]) -> None:
        """Watch these from now on, and no others."""
        wanted = set(leases)
        for key in list(self._tasks):
            if key not in wanted or api is not self._api:
                self._tasks.pop(key).cancel()
        self._api = api
        for key in wanted - self._tasks.keys():
            task = asyncio.get_running_loop().create_task(self._follow(api, key))
            task.add_done_callback(_raise_failure)
            self._tasks[key] = task

    async def close(self) -> None:
        """End all watches."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, api: KubeApi, key: Key) -> None:
        namespace, name = key
        path = (
            f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
            f"?fieldSelector=metadata.name%3D{name}"
        )
        # Whoever does not allow watches has those who wait look each `leaseRetryPeriod`.
        backoff = Backoff(random.SystemRandom().random)
        while True:
            try:
                async with contextlib.aclosing(api.watch(path, timeout_s=_WATCH_S)) as events:
                    async for event in events:
                        backoff.succeed()
                        changed = LeaseChanged(
                            namespace=namespace, name=name, version=_version(event["object"])
                        )
                        # By the loop: what goes wrong in the core reaches its exception handler.
                        asyncio.get_running_loop().call_soon(self._deliver, changed)
            except KubeError:
                pass
            else:
                backoff.succeed()
            await asyncio.sleep(backoff.pause_s())


def _version(lease: Mapping[str, Any]) -> str:
    metadata = lease.get("metadata")
    return str(metadata.get("resourceVersion")) if isinstance(metadata, dict) else ""


def _raise_failure(task: asyncio.Task[None]) -> None:
    """To the loop's exception handler, not to a task that nobody looks at."""
    if not task.cancelled():
        task.result()
