"""One container: what became of it, and whether its probes pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import httpx
from api import Json, Place, run, timestamp


class Container:
    """One container of a pod: whether it runs, is started and ready, and how it ended."""

    def __init__(self, spec: Json, podman_name: str) -> None:
        self.spec = spec
        self.podman_name = podman_name
        self.id = ""
        self.image = spec["image"]
        self.image_id = ""
        self.started_at = ""
        self.exit_code: int | None = None
        self.waiting = ("ContainerCreating", "")
        self.last_exit: Json = {}
        self.restarts = 0
        self.is_started = False
        self.is_ready = False

    @property
    def is_running(self) -> bool:
        return bool(self.started_at) and self.exit_code is None

    def began(self) -> None:
        self.started_at = timestamp()
        self.exit_code = None
        self.is_started = "startupProbe" not in self.spec
        self.is_ready = self.is_started and "readinessProbe" not in self.spec

    def ended(self, exit_code: int) -> None:
        self.exit_code = exit_code
        self.is_started = self.is_ready = False
        self.last_exit = {
            "terminated": {
                "exitCode": exit_code,
                "reason": "Completed" if exit_code == 0 else "Error",
                "startedAt": self.started_at,
                "finishedAt": timestamp(),
                "containerID": self.id,
            }
        }

    def status(self, *, is_over: bool) -> Json:
        reason, message = self.waiting
        state: Json
        if self.is_running:
            state = {"running": {"startedAt": self.started_at}}
        elif self.exit_code is not None and is_over:
            state = self.last_exit
        else:
            state = {"waiting": {"reason": reason, "message": message}}
        return {
            "name": self.spec["name"],
            "image": self.image,
            "imageID": self.image_id,
            "containerID": self.id,
            "ready": self.is_ready,
            "started": self.is_started,
            "restartCount": self.restarts,
            "state": state,
            "lastState": self.last_exit if self.restarts else {},
        }


class Watcher(Protocol):
    """Who is told of a container's probes."""

    async def readiness_changed(self) -> None: ...

    async def probe_failed(self, message: str) -> None:
        """A probe failed; the message is all that a kubelet keeps of it."""


async def probe(place: Place, container: Container, watcher: Watcher) -> None:
    """Probe until liveness, or the startup, has failed."""
    spec = container.spec
    if "startupProbe" in spec:
        async for is_good in _verdicts(place, container, "startupProbe", watcher):
            if not is_good:
                return
            break
        container.is_started = True
        container.is_ready = "readinessProbe" not in spec
        await watcher.readiness_changed()
    readiness = asyncio.create_task(_follow_readiness(place, container, watcher))
    try:
        if "livenessProbe" in spec:
            async for is_good in _verdicts(place, container, "livenessProbe", watcher):
                if not is_good:
                    return
        await asyncio.Event().wait()
    finally:
        readiness.cancel()
        await asyncio.gather(readiness, return_exceptions=True)


async def _follow_readiness(place: Place, container: Container, watcher: Watcher) -> None:
    if "readinessProbe" in container.spec:
        async for is_good in _verdicts(place, container, "readinessProbe", watcher):
            if container.is_ready != is_good:
                container.is_ready = is_good
                await watcher.readiness_changed()


async def _verdicts(
    place: Place, container: Container, kind: str, watcher: Watcher
) -> AsyncIterator[bool]:
    """Probe each period; yields each time that a threshold is reached, or still is."""
    asked = container.spec[kind]
    good = bad = 0
    await asyncio.sleep(asked.get("initialDelaySeconds", 0))
    while True:
        if problem := await _problem(place, container, asked):
            good, bad = 0, bad + 1
            name = kind.removesuffix("Probe").capitalize()
            await watcher.probe_failed(f"{name} probe failed: {problem}")
        else:
            good, bad = good + 1, 0
        if good >= asked.get("successThreshold", 1):
            yield True
        elif bad >= asked.get("failureThreshold", 3):
            yield False
        await asyncio.sleep(asked.get("periodSeconds", 10))


async def _problem(place: Place, container: Container, asked: Json) -> str:
    """Why the probe did not pass; empty if it did."""
    timeout_s = float(asked.get("timeoutSeconds", 1))
    if action := asked.get("httpGet"):
        return await get(place, container, action, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            args = ("podman", "exec", container.podman_name, *asked["exec"]["command"])
            exit_code, output = await run(*args, check=False)
            return "" if exit_code == 0 else output or f"exit status {exit_code}"
    except TimeoutError:
        return f"command timed out after {timeout_s:g} s"


async def get(place: Place, container: Container, action: Json, timeout_s: float) -> str:
    """Do what `httpGet` says; what was wrong with the answer, in a kubelet's words.

    A kubelet drops the body, whatever it says (pkg/probe/http/http.go).
    """
    port = action["port"]
    if isinstance(port, str):
        ports = container.spec.get("ports", ())
        (port,) = (each["containerPort"] for each in ports if each["name"] == port)
    host = action.get("host") or place.address
    url = f"{action.get('scheme', 'HTTP').lower()}://{host}:{port}{action.get('path', '/')}"
    headers = {each["name"]: each["value"] for each in action.get("httpHeaders", ())}
    try:
        response = await place.prober.get(url, headers=headers, timeout=timeout_s)
    except httpx.HTTPError as error:
        return f'Get "{url}": {error or type(error).__name__}'
    if response.status_code < httpx.codes.BAD_REQUEST:
        return ""
    return f"HTTP probe failed with statuscode: {response.status_code}"
