"""One pod on the node, from its binding to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import cast

import httpx
import yaml
from api import Json, Place, run, say, timestamp
from container import Container, get, probe
from spec import Spec

BACK_OFF_S = (0.0, 10.0, 20.0, 40.0)
PODMAN_S = 30.0
"""How long podman may take beyond the grace; protection against a hang."""


class Pod:
    """One pod bound to this node, from its binding to its removal."""

    def __init__(self, place: Place, pod: Json) -> None:
        self._place = place
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.namespace: str = pod["metadata"]["namespace"]
        self.name: str = pod["metadata"]["name"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.podman_name = f"{place.lab}-{self.namespace}-{self.name}"
        self.directory = place.state / self.uid
        self._spec = Spec(place, pod, self.directory)
        self.containers = [
            Container(spec, f"{self.podman_name}-{spec['name']}")
            for spec in pod["spec"]["containers"]
        ]
        self.phase = "Pending"
        self.problem = ""
        self.began_at = timestamp()
        self._ready_since = ""
        self._reported: Json = {}
        self._told: set[str] = set()
        self._doomed = asyncio.Event()
        self._grace_s = 0.0
        self.task = asyncio.create_task(self._live())

    def update(self, pod: Json) -> None:
        """The API server's new version of the pod."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._grace_s = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
            self._doomed.set()

    def vanish(self) -> None:
        """The API server no longer knows it: it was deleted by force."""
        self._grace_s = 0.0
        self._doomed.set()

    async def _live(self) -> None:
        if self._doomed.is_set():
            # Its deletion was asked for before this program knew of it.
            await self._remove()
            return
        life = asyncio.create_task(self._run())
        doom = asyncio.create_task(self._doomed.wait())
        try:
            await asyncio.wait((life, doom), return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                await life
                await doom
        except Exception as error:
            say(f"{self.podman_name}: {error!r}")
            self.phase, self.problem = "Failed", str(error)
            await self._report()
            await doom
        finally:
            for task in (life, doom):
                task.cancel()
            await asyncio.gather(life, doom, return_exceptions=True)
        await self._remove()

    async def _run(self) -> None:
        self._spec.refuse_unsupported()
        await self._report()
        attempt = 0
        while True:
            try:
                await self._spec.project()
                manifest = await self._spec.manifest(self.podman_name)
                await self._play(manifest)
                break
            except (OSError, httpx.HTTPError) as error:
                say(f"{self.podman_name}: {error}")
                for container in self.containers:
                    container.waiting = ("CreateContainerError", str(error)[-500:])
                await self._report()
                # As a kubelet: a Secret may come later than the pod.
                await asyncio.sleep(min(10.0, 0.5 * 2**attempt))
                attempt += 1
        self.phase = "Running"
        await self._report()
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(self._spec.follow())
            async with asyncio.TaskGroup() as containers:
                for container in self.containers:
                    containers.create_task(self._keep(container))
            refreshing.cancel()
        failed = any(container.exit_code for container in self.containers)
        self.phase = "Failed" if failed else "Succeeded"
        await self._report()

    async def _play(self, manifest: Json) -> None:
        exists, _ = await run("podman", "pod", "exists", self.podman_name, check=False)
        if exists == 0 and not await self._adopt():
            await run("podman", "pod", "rm", "--force", "--time", "0", self.podman_name)
            exists = 1
        if exists != 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / "pod.yaml"
            path.write_text(yaml.safe_dump(manifest))
            await run(
                *("podman", "kube", "play", "--quiet", "--log-driver", "k8s-file", str(path)),
            )
        for container in self.containers:
            inspected = await self._inspect(container)
            container.id = f"podman://{inspected['Id']}"
            # The name in full, as a container runtime tells it.
            container.image, container.image_id = inspected["ImageName"], inspected["Image"]
            container.began()

    async def _inspect(self, container: Container) -> Json:
        _, text = await run("podman", "container", "inspect", container.podman_name)
        return cast(Json, json.loads(text)[0])

    async def _adopt(self) -> bool:
        """Whether the pod's containers all run since before this program did."""
        with contextlib.suppress(OSError):
            states = [(await self._inspect(each))["State"] for each in self.containers]
            return all(state["Running"] for state in states)
        return False

    async def _keep(self, container: Container) -> None:
        """Run a container until it has ended for good."""
        policy = self.pod["spec"].get("restartPolicy", "Always")
        while True:
            exit_code = await self._until_ended(container)
            say(f"{container.podman_name} ended with {exit_code}")
            container.ended(exit_code)
            if policy == "Never" or (policy == "OnFailure" and exit_code == 0):
                await self._report()
                return
            pause_s = BACK_OFF_S[min(container.restarts, len(BACK_OFF_S) - 1)]
            container.waiting = ("CrashLoopBackOff", f"back-off {pause_s:g} s")
            await self._report()
            await asyncio.sleep(pause_s)
            await _start_again(container)
            container.restarts += 1
            container.began()
            await self._report()

    async def _until_ended(self, container: Container) -> int:
        waiting = asyncio.create_task(run("podman", "wait", container.podman_name))
        probing = asyncio.create_task(probe(self._place, container, self))
        try:
            await asyncio.wait((waiting, probing), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                await probing
                say(f"{container.podman_name}: liveness failed")
                await self._stop(container, self._configured_grace_s)
            return int((await waiting)[1].split()[-1])
        finally:
            for task in (waiting, probing):
                task.cancel()
            await asyncio.gather(waiting, probing, return_exceptions=True)

    @property
    def _configured_grace_s(self) -> float:
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _stop(self, container: Container, grace_s: float) -> None:
        """PreStop, SIGTERM, and SIGKILL at the end of the grace."""
        end_at = time.monotonic() + grace_s
        hook = container.spec.get("lifecycle", {}).get("preStop")
        if hook and container.is_running and grace_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._hook(container, hook)
        left_s = max(0, round(end_at - time.monotonic()))
        # Where its monitor ends without a word, podman 4.3 waits for ever.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s + PODMAN_S):
                await run(
                    "podman", "stop", "--time", str(left_s), container.podman_name, check=False
                )

    async def _hook(self, container: Container, hook: Json) -> None:
        if action := hook.get("sleep"):
            await asyncio.sleep(action["seconds"])
        elif "httpGet" in hook:
            await get(self._place, container, hook["httpGet"], self._configured_grace_s)
        elif action := hook.get("exec"):
            await run("podman", "exec", container.podman_name, *action["command"], check=False)

    async def _keep_logs(self) -> None:
        """What the containers wrote, before podman forgets them."""
        for container in self.containers:
            _, text = await run("podman", "logs", container.podman_name, check=False)
            (self._place.state / f"{container.podman_name}.log").write_text(text)

    async def _remove(self) -> None:
        say(f"{self.podman_name}: stopping, grace {self._grace_s:g} s")
        running = [container for container in self.containers if container.is_running]
        await asyncio.gather(*(self._stop(each, self._grace_s) for each in running))
        for container in running:
            with contextlib.suppress(OSError):
                container.ended((await self._inspect(container))["State"]["ExitCode"])
        if self.phase == "Running":
            failed = any(container.exit_code for container in self.containers)
            self.phase = "Failed" if failed else "Succeeded"
            await self._report()
        await self._keep_logs()
        await run("podman", "pod", "rm", "--force", "--time", "0", self.podman_name, check=False)
        say(f"{self.podman_name}: removed")
        body: Json = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        with contextlib.suppress(httpx.HTTPError):
            await self._place.api.call("DELETE", self.path, body)

    # Status

    async def readiness_changed(self) -> None:
        await self._report()

    async def probe_failed(self, message: str) -> None:
        """An event, as `kubectl describe pod` shows it; a kubelet would count those to come."""
        if message in self._told:
            return
        now = timestamp()
        involved = {
            **{"apiVersion": "v1", "kind": "Pod", "uid": self.uid},
            **{"namespace": self.namespace, "name": self.name},
        }
        event: Json = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self.name}.", "namespace": self.namespace},
            "involvedObject": involved,
            "type": "Warning",
            "reason": "Unhealthy",
            "message": message,
            "source": {"component": "kubelet", "host": self._place.name},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._place.api.call("POST", f"/api/v1/namespaces/{self.namespace}/events", event)
        except httpx.HTTPError as error:
            say(f"{self.podman_name}: event not taken: {error}")
        else:
            self._told.add(message)

    async def _report(self) -> None:
        is_over = self.phase in ("Succeeded", "Failed")
        is_ready = self.phase == "Running" and all(each.is_ready for each in self.containers)
        if not is_ready:
            self._ready_since = ""
        elif not self._ready_since:
            self._ready_since = timestamp()
        conditions = {"Initialized": True, "ContainersReady": is_ready, "Ready": is_ready}
        unready = " ".join(each.spec["name"] for each in self.containers if not each.is_ready)
        because = {
            "reason": "PodCompleted" if is_over else "ContainersNotReady",
            "message": f"containers with unready status: [{unready}]",
        }
        status: Json = {
            "phase": self.phase,
            "reason": "Unsupported" if self.problem else None,
            "message": self.problem or None,
            "startTime": self.began_at,
            "hostIP": self._place.address,
            "hostIPs": [{"ip": self._place.address}],
            "podIP": self._place.address,
            "podIPs": [{"ip": self._place.address}],
            "conditions": [
                {
                    "type": kind,
                    "status": str(is_true),
                    "lastTransitionTime": (self._ready_since if is_true else None) or timestamp(),
                    **({"reason": None, "message": None} if is_true else because),
                }
                for kind, is_true in conditions.items()
            ],
            "containerStatuses": [each.status(is_over=is_over) for each in self.containers],
        }
        if _without_times(status) == self._reported:
            return
        try:
            body = {"metadata": {"uid": self.uid}, "status": status}
            await self._place.api.call("PATCH", f"{self.path}/status", body)
        except httpx.HTTPError as error:
            say(f"{self.podman_name}: status not taken: {error}")
        else:
            self._reported = _without_times(status)


async def _start_again(container: Container) -> None:
    """Start a container that has ended, once podman is done with its end."""
    for pause_s in (0.2, 1.0, 5.0):
        with contextlib.suppress(OSError):
            await run("podman", "start", container.podman_name)
            return
        await asyncio.sleep(pause_s)
    await run("podman", "start", container.podman_name)


def _without_times(status: Json) -> Json:
    conditions = [{**each, "lastTransitionTime": ""} for each in status["conditions"]]
    return {**status, "conditions": conditions}
