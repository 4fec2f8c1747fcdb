"""Shows in Kubernetes who holds: writes the Leases, Events and labels that `core.publish` wishes.

Tasks beside the loop's own work, each bounded in time: what the API server does or does not do
costs the holder nothing. A failure is told, ever more rarely while it goes on.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from havip.act.lease import decode, encode, micro_time, path_of
from havip.core.actions import Report
from havip.core.announce import Restraint
from havip.core.config import NodeConfig
from havip.core.events import ProbeResult
from havip.core.outbox import LONGEST_S
from havip.core.publish import (
    LeaseKey,
    Publisher,
    ShowEvent,
    ShowHolder,
    ShowLabels,
    Wish,
    record_of,
)
from havip.core.record import LeaseRecord
from havip.kube import KubeApi, KubeError

_CALL_S: Final = 5.0
CLOSING_S: Final = 1.0
"""A daemon that ends, having let go already, waits so long for its last words to be taken."""
_EVENTS: Final = "/apis/events.k8s.io/v1/namespaces/default/events"
"""Where the API server wants Events about what has no namespace."""
_REPORTER: Final = "havip"
_HOPELESS: Final = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""An Event that is refused so is refused for ever."""

Warn = Callable[..., None]


class KubeRecord:
    """Follows the reports of one daemon, on the running loop."""

    def __init__(
        self, api: KubeApi, config: NodeConfig, since_utc: Mapping[str, float], *, warn: Warn
    ) -> None:
        """
        Args:
            since_utc: virtual routers that hold now, and since when.
            warn: takes a message and its fields.
        """
        self._api = api
        self._node_name = config.node_name
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._publisher = Publisher(
            config,
            self._loop.time(),
            {router: int(at_utc * 1e6) for router, at_utc in since_utc.items()},
            random=random.SystemRandom().random,
        )
        self._versions: dict[LeaseKey, tuple[LeaseRecord, dict[str, Any]]] = {}
        """Leases as this node has written them last."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._alarms: dict[tuple[str, object], Restraint] = {}
        self._is_finishing = False
        self._run()

    @property
    def dropped(self) -> int:
        """Events that nobody will see."""
        return self._publisher.dropped

    def use(self, api: KubeApi | None, config: NodeConfig) -> None:
        """Go over to another configuration, and to other servers unless `api` is None."""
        self._api = api or self._api
        self._node_name = config.node_name
        self._publisher.use(config, self._loop.time())
        self._run()

    def note(self, report: Report, at_utc: float) -> None:
        """Take a report of the core, made at `at_utc` (seconds since the epoch)."""
        self._publisher.note(self._loop.time(), int(at_utc * 1e6), report)
        self._run()

    async def finish(self) -> None:
        """This daemon holds nothing any more: say so, if the API server takes it soon."""
        self._is_finishing = True
        self._publisher.finish(self._loop.time())
        self._run()
        deadline = self._loop.time() + CLOSING_S
        while not self._publisher.is_idle and self._tasks:
            left_s = deadline - self._loop.time()
            if left_s <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            # The callbacks of what is done, which may begin more.
            await asyncio.sleep(0)

    async def close(self) -> None:
        """End all that is under way."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._tasks)
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self) -> None:
        now = self._loop.time()
        for wish in self._publisher.take(now):
            task = self._loop.create_task(self._try(wish))
            self._tasks.add(task)
            task.add_done_callback(self._end_task)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (wake_at := self._publisher.wake_at) < math.inf:
            self._timer = self._loop.call_at(wake_at, self._run)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        if task not in self._tasks:
            # Closed meanwhile.
            return
        self._tasks.discard(task)
        # What goes wrong in havip itself reaches the loop's exception handler.
        task.result()
        self._run()

    async def _try(self, wish: Wish) -> None:
        end = partial(self._publisher.end, wish=wish)
        try:
            match wish:
                case ShowHolder():
                    await self._show_holder(wish)
                case ShowLabels():
                    await self._show_labels(wish)
                case ShowEvent():
                    await self._show_event(wish)
        except KubeError as error:
            self._tell(wish, error)
            is_hopeless = error.status in _HOPELESS
            end(self._loop.time(), is_done=False, is_hopeless=is_hopeless)
        else:
            end(self._loop.time(), is_done=True)

    def _tell(self, wish: Wish, error: KubeError) -> None:
        if self._is_finishing:
            # `helm uninstall` takes the rights away before the pods.
            return
        what = {ShowHolder: "Lease", ShowLabels: "label", ShowEvent: "Event"}[type(wish)]
        alarm = self._alarms.setdefault(
            (what, error.status or error.result), Restraint(free=1, longest_s=LONGEST_S)
        )
        if alarm.allows(self._loop.time()):
            self._warn("Kubernetes does not show the holder", object=what, detail=error.detail)

    async def _show_holder(self, wish: ShowHolder) -> None:
        known = self._versions.pop(wish.key, None)
        if known is not None and await self._write(wish, *known):
            return
        # Somebody else has written it, or it was never read.
        for _ in range(2):
            if await self._write(wish, *await self._read(wish.key)):
                return
        raise KubeError(ProbeResult.FAILED, "somebody else goes on writing it", HTTPStatus.CONFLICT)

    async def _read(self, key: LeaseKey) -> tuple[LeaseRecord | None, dict[str, Any]]:
        try:
            found = await self._api.get(path_of(*key), timeout_s=_CALL_S)
        except KubeError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None, {}
        record = decode(found)
        if record is None:
            raise _malformed()
        return record, found

    async def _write(
        self, wish: ShowHolder, found: LeaseRecord | None, onto: dict[str, Any]
    ) -> bool:
        """Whether it says now what it should; false if it is another than was found."""
        record = record_of(found, wish, self._node_name, int(time.time() * 1e6))
        if record is None:
            return True
        is_new = found is None
        try:
            written = await self._api.send(
                "POST" if is_new else "PUT",
                path_of(wish.key[0]) if is_new else path_of(*wish.key),
                encode(record, wish.key, onto=onto),
                timeout_s=_CALL_S,
            )
        except KubeError as error:
            is_outdated = error.status == HTTPStatus.CONFLICT or (
                error.status == HTTPStatus.NOT_FOUND and not is_new
            )
            if is_outdated:
                return False
            raise
        now_there = decode(written)
        if now_there != record:
            raise _malformed()
        self._versions[wish.key] = now_there, written
        return True

    async def _show_labels(self, wish: ShowLabels) -> None:
        # Not the Node's whole: others write labels too, and null takes off what may not be there.
        labels = {name: "true" if is_on else None for name, is_on in wish.labels.items()}
        await self._api.send(
            "PATCH",
            f"/api/v1/nodes/{quote(self._node_name, safe='')}",
            {"metadata": {"labels": labels}},
            timeout_s=_CALL_S,
            content_type="application/merge-patch+json",
        )

    async def _show_event(self, wish: ShowEvent) -> None:
        event = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": wish.name, "namespace": "default"},
            "eventTime": micro_time(wish.at_us),
            "reportingController": _REPORTER,
            "reportingInstance": f"{_REPORTER}-{self._node_name}"[:128],
            "action": wish.action,
            "reason": wish.reason,
            "note": wish.note,
            "type": "Warning" if wish.is_warning else "Normal",
            # By the name as uid, as the kubelet does: so `kubectl describe node` finds it.
            "regarding": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self._node_name,
                "uid": self._node_name,
            },
        }
        try:
            await self._api.send("POST", _EVENTS, event, timeout_s=_CALL_S)
        except KubeError as error:
            # It had arrived before, and the answer was lost.
            if error.status != HTTPStatus.CONFLICT:
                raise


def _malformed() -> KubeError:
    return KubeError(
        ProbeResult.MALFORMED,
        "the answer is not the Lease that was asked for: is it an API server's?",
    )
