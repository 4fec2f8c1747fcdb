"""The API server as a node sees it, and the tools that a node runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx

Json = dict[str, Any]


class UnsupportedError(Exception):
    """The pod asks for something that a kubelet does and this program does not."""


def say(text: str) -> None:
    sys.stderr.write(f"{time.monotonic():.3f} {text}\n")


def timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Api:
    """The API server, as a node sees it."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        timeout = httpx.Timeout(10, read=None)
        self._client = httpx.AsyncClient(base_url=server, verify=context, timeout=timeout)

    async def call(self, method: str, path: str, body: Json | None = None, **params: str) -> Json:
        """Ask and get JSON.

        Raises:
            httpx.HTTPError: no answer, or one that says no; `response.text` says why.
        """
        kind = {"PATCH": "application/strategic-merge-patch+json"}.get(method, "application/json")
        response = await self._client.request(
            method,
            path,
            params=params,
            content=None if body is None else json.dumps(body),
            headers={"Content-Type": kind},
            timeout=10,
        )
        if response.is_error:
            message = f"{method} {path}: {response.status_code} {response.text[:500]}"
            raise httpx.HTTPStatusError(message, request=response.request, response=response)
        return cast(Json, response.json())

    async def watch(self, path: str, **params: str) -> AsyncIterator[tuple[str, Json]]:
        """(ADDED, MODIFIED or DELETED, object), from what is there now on, until it breaks off."""
        params |= {"watch": "true"}
        async with self._client.stream("GET", path, params=params) as response:
            if response.is_error:
                raise httpx.HTTPStatusError(
                    f"watch {path}: {(await response.aread()).decode()}",
                    request=response.request,
                    response=response,
                )
            async for line in response.aiter_lines():
                event = json.loads(line)
                yield event["type"], event["object"]


async def run(*args: str, check: bool = True) -> tuple[int, str]:
    """Run a tool to its end: exit status and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output = (await process.communicate())[0].decode(errors="replace")
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    status = cast(int, process.returncode)
    if check and status != 0:
        raise OSError(f"{' '.join(args)}: {output.strip() or status}")
    return status, output


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The node, as its pods need it."""

    name: str
    address: str
    lab: str
    """Begins the names of its pods in podman."""
    service_host: str
    """Address of the `kubernetes` Service."""
    state: Path
    """Where volumes and logs of pods are."""
    api: Api
    prober: httpx.AsyncClient
