"""Watches of Leases: each event is a hint, and whatever ends a watch begins it anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from havip.core.backoff import Backoff
from havip.core.events import LeaseChanged, ProbeResult
from havip.kube import KubeApi, KubeError
from havip.sense.leases import LeaseWatch

KEY = ("kube-system", "havip-10")


def event(version: object) -> dict[str, Any]:
    return {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": version}}}


class Server(KubeApi):
    """Each watch gives the next of these lists; the last one lasts."""

    def __init__(self, *watches: list[dict[str, Any] | KubeError]) -> None:
        self.watches = list(watches)
        self.paths: list[str] = []
        self.ended = 0

    async def watch(self, path: str, *, timeout_s: float) -> AsyncGenerator[dict[str, Any]]:
        self.paths.append(path)
        try:
            for each in self.watches.pop(0):
                if isinstance(each, KubeError):
                    raise each
                yield each
            if not self.watches:
                await asyncio.Event().wait()
        finally:
            self.ended += 1


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "pause_s", lambda _self: 0.0)


def told(server: Server, count: int, then: Callable[[LeaseWatch], None] | None = None) -> list[str]:
    """The versions of that many hints."""
    heard: list[LeaseChanged] = []

    async def run() -> None:
        enough = asyncio.Event()

        def deliver(changed: LeaseChanged) -> None:
            heard.append(changed)
            if len(heard) == count:
                enough.set()

        watch = LeaseWatch(deliver)
        watch.watch(server, [KEY])
        await enough.wait()
        if then is not None:
            then(watch)
        await watch.close()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert all((each.namespace, each.name) == KEY for each in heard)
    return [each.version for each in heard]


def test_each_event_is_a_hint() -> None:
    server = Server([event("1"), event("2")])
    assert told(server, 2) == ["1", "2"]
    assert server.paths == [
        "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
        "?fieldSelector=metadata.name%3Dhavip-10"
    ]
    assert server.ended == 1, "closed"


@pytest.mark.parametrize("status", [401, 403, 410, 500, None])
def test_a_watch_that_ends_begins_anew(status: int | None) -> None:
    error = KubeError(ProbeResult.FAILED, "why", status)
    server = Server([event("1"), error], [error], [], [event("2")])
    assert told(server, 2) == ["1", "2"]
    assert len(server.paths) == 4


@pytest.mark.parametrize("content", [{}, {"metadata": None}, {"metadata": []}], ids=str)
def test_garbage_is_a_hint_all_the_same(content: dict[str, Any]) -> None:
    assert len(told(Server([{"type": "ADDED", "object": content}]), 1)) == 1


def test_a_reload_watches_what_it_names() -> None:
    first = Server([event("1")])
    second = Server([event("2")])
    assert told(first, 1, lambda watch: watch.watch(second, [])) == ["1"]
    assert second.paths == []
