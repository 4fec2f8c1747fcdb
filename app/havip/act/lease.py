"""Leases read from and written to the Kubernetes API, as the core asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from havip.core.actions import ReadLease, WriteLease
from havip.core.events import LeaseFailed, LeaseRead, LeaseWritten, ProbeResult
from havip.core.lease import LATEST_US
from havip.core.record import MOST, LeaseRecord
from havip.kube import KubeApi, KubeError

HOLDER_MAC: Final = "havip/holder-mac"
"""Annotation: who of two nodes of one name it is, and what a client's ARP entry should say."""
OFFERED: Final = "havip/offered"
"""Annotation: the holder is about to leave, and gives way to whoever asks."""
ASKED_BY: Final = "havip/asked-by"
"""Annotation: who has asked."""
_GROUP: Final = "coordination.k8s.io/v1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Request = ReadLease | WriteLease
Answer = LeaseRead | LeaseWritten | LeaseFailed
Key = tuple[str, str]
"""Namespace and name."""


class Leases:
    """Does each request as a task on the running loop, and calls `deliver` with its answer."""

    def __init__(self, api: KubeApi, deliver: Callable[[Answer], None]) -> None:
        self._api = api
        self._deliver = deliver
        self._objects: dict[Key, dict[str, Any]] = {}
        """As last read or written: what is not havip's in them is kept."""
        self._tasks: set[asyncio.Task[Answer]] = set()

    def start(self, request: Request) -> None:
        """Do it now."""
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._finish)

    def use(self, api: KubeApi) -> None:
        """Ask these servers from now on."""
        self._api = api

    async def close(self) -> None:
        """End all requests without an answer."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finish(self, task: asyncio.Task[Answer]) -> None:
        # In a callback: what goes wrong in the core reaches the loop's exception handler.
        self._tasks.discard(task)
        if not task.cancelled():
            self._deliver(task.result())

    async def _answer(self, request: Request) -> Answer:
        try:
            if isinstance(request, ReadLease):
                return await self._read(request)
            return await self._write(request)
        except KubeError as error:
            return LeaseFailed(
                request=request.request,
                result=error.result,
                status=error.status,
                detail=error.detail,
            )

    async def _read(self, request: ReadLease) -> Answer:
        key = (request.namespace, request.name)
        try:
            found = await self._api.get(path_of(*key), timeout_s=request.timeout_s)
        except KubeError as error:
            if error.status != 404:
                raise
            self._objects.pop(key, None)
            return LeaseRead(request=request.request, record=None)
        record = decode(found)
        if record is None:
            return _malformed(request)
        self._objects[key] = found
        return LeaseRead(request=request.request, record=record)

    async def _write(self, request: WriteLease) -> Answer:
        key = (request.namespace, request.name)
        body = encode(request.record, key, onto=self._objects.get(key, {}))
        is_new = not request.record.version
        written = await self._api.send(
            "POST" if is_new else "PUT",
            path_of(request.namespace) if is_new else path_of(*key),
            body,
            timeout_s=request.timeout_s,
        )
        record = decode(written)
        if record is None or record != request.record:
            return _malformed(request)
        self._objects[key] = written
        return LeaseWritten(request=request.request, version=record.version)


def path_of(namespace: str, name: str = "") -> str:
    """Of one Lease, or of all of a namespace."""
    path = f"/apis/{_GROUP}/namespaces/{namespace}/leases"
    return f"{path}/{name}" if name else path


def decode(lease: Mapping[str, Any]) -> LeaseRecord | None:
    """What a Lease says; None if it is none, or says what no API server takes.

    A field that is missing means nobody, never, or zero, as in client-go.
    """
    metadata, spec = lease.get("metadata"), lease.get("spec", {})
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        return None
    annotations = metadata.get("annotations") or {}
    version = metadata.get("resourceVersion")
    holder = spec.get("holderIdentity") or ""
    numbers = [spec.get(name) or 0 for name in ("leaseDurationSeconds", "leaseTransitions")]
    times = [_microseconds(spec.get(name)) for name in ("acquireTime", "renewTime")]
    if not (
        isinstance(version, str)
        and version
        and isinstance(holder, str)
        and isinstance(annotations, dict)
        and all(type(number) is int and 0 <= number <= MOST for number in numbers)
    ):
        return None
    if times[0] is None or times[1] is None:
        return None
    return LeaseRecord(
        holder=holder,
        holder_mac=_mac(annotations.get(HOLDER_MAC)),
        duration_s=numbers[0],
        acquired_us=times[0],
        renewed_us=times[1],
        transitions=numbers[1],
        is_offered=annotations.get(OFFERED) == "true",
        asked_by=str(annotations.get(ASKED_BY) or ""),
        version=version,
    )


def encode(record: LeaseRecord, key: Key, *, onto: Mapping[str, Any]) -> dict[str, Any]:
    """The object to write.

    Args:
        onto: the object as it is; labels, annotations and owners of others stay.
    """
    namespace, name = key
    metadata = {k: v for k, v in onto.get("metadata", {}).items() if k != "managedFields"}
    said = {
        HOLDER_MAC: record.holder_mac.hex(":"),
        OFFERED: "true" if record.is_offered else "",
        ASKED_BY: record.asked_by,
    }
    annotations = {**(metadata.get("annotations") or {}), **said}
    for annotation, value in said.items():
        if not value:
            del annotations[annotation]
    if record.version:
        metadata["resourceVersion"] = record.version
    else:
        metadata = {}
    return {
        "apiVersion": _GROUP,
        "kind": "Lease",
        "metadata": {
            **metadata,
            "namespace": namespace,
            "name": name,
            "annotations": annotations,
        },
        "spec": {
            **onto.get("spec", {}),
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration_s,
            "acquireTime": micro_time(record.acquired_us),
            "renewTime": micro_time(record.renewed_us),
            "leaseTransitions": record.transitions,
        },
    }


def _malformed(request: Request) -> LeaseFailed:
    return LeaseFailed(
        request=request.request,
        result=ProbeResult.MALFORMED,
        status=None,
        detail="the answer is not the Lease that was asked for: is it an API server's?",
    )


def _microseconds(text: object) -> int | None:
    """A MicroTime (RFC 3339) since the epoch; 0 if there is none, None if it is no time.

    Nor is one that `micro_time` could not write again: before 1970, or after 9999 in UTC.
    """
    if text is None:
        return 0
    try:
        us = (datetime.fromisoformat(str(text)) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):
        return None
    return us if 0 <= us <= LATEST_US + 1 else None


def micro_time(us: int) -> str:
    """Microseconds since the epoch as a MicroTime."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _mac(text: object) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", "")) if isinstance(text, str) else b""
    except ValueError:
        return b""
