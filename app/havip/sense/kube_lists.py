"""A list of the Kubernetes API, followed: what some objects name, and each change of it.

A list, then a watch of its changes, and after a few minutes again: the core removes nobody but by
a list, and a connection that died in silence must not deceive for longer. What is malformed in an
object is left out, since a list that names fewer removes nobody at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Hashable, Iterator
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

from havip.core.backoff import Backoff
from havip.core.events import ProbeResult
from havip.kube import KubeApi, KubeError

Address = IPv4Address | IPv6Address
Named = TypeVar("Named", bound=Hashable)

_ASK_S: Final = 10.0
_WATCH_S: Final = 120.0
_LONGEST_RETRY_S: Final = 15.0
_PAGE: Final = 5
"""Objects of one answer: a node with many images has some tens of kilobytes."""


class ListWatch(Generic[Named]):
    """Follows one list; tells each time what its objects name together, and why it cannot."""

    def __init__(
        self,
        api: KubeApi,
        path: str,
        *,
        query: str,
        read: Callable[[object], Iterator[Named]],
        limit: int,
        too_many: str,
        listed: Callable[[frozenset[Named]], None],
        unlisted: Callable[[str], None],
    ) -> None:
        """
        Args:
            query: which objects of the path, such as `labelSelector=a%3Db`.
            read: what one object names.
            limit: how many objects, and names, are taken.
            too_many: what is wrong with more of them, and what to do.
            listed: told of the first list and of each change.
            unlisted: told why there is none, for people.
        """
        self._api = api
        self._path = path
        self._query = query
        self._read = read
        self._limit = limit
        self._too_many = too_many
        self._listed = listed
        self._unlisted = unlisted
        self._backoff = Backoff(random.SystemRandom().random, longest_s=_LONGEST_RETRY_S)

    async def run(self) -> None:
        """Until cancelled. Whatever the API server does, it is asked again."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                began_at = loop.time()
                try:
                    await self._follow()
                except KubeError as error:
                    if error.status != HTTPStatus.GONE:
                        self._unlisted(error.detail)
                if loop.time() - began_at > _LONGEST_RETRY_S:
                    self._backoff.succeed()
                await asyncio.sleep(self._backoff.pause_s())
        finally:
            await self._api.close()

    async def _follow(self) -> None:
        found, version = await self._list()
        told = self._told(found)
        query = f"?{self._query}&resourceVersion={version}"
        events = self._api.watch(self._path + query, timeout_s=_WATCH_S)
        async with contextlib.aclosing(events):
            async for event in events:
                name = _name(event["object"])
                if event["type"] == "DELETED":
                    found.pop(name, None)
                elif event["type"] in ("ADDED", "MODIFIED"):
                    found[name] = frozenset(self._read(event["object"]))
                if frozenset[Named]().union(*found.values()) != told:
                    told = self._told(found)

    async def _list(self) -> tuple[dict[str, frozenset[Named]], str]:
        """Names by the object that gives them, and the version to watch from."""
        found: dict[str, frozenset[Named]] = {}
        query = f"?{self._query}&limit={_PAGE}"
        following = ""
        # As many answers as the objects that there may be need, and as many again.
        pages = 2 * self._limit // _PAGE
        for _ in range(pages):
            answer = await self._api.get(self._path + query + following, timeout_s=_ASK_S)
            items, metadata = answer.get("items"), answer.get("metadata")
            if not isinstance(items, list) or not isinstance(metadata, dict):
                raise KubeError(ProbeResult.MALFORMED, "the answer is no list")
            for each in items:
                found[_name(each)] = frozenset(self._read(each))
            self._require_few(found)
            token = metadata.get("continue")
            if not isinstance(token, str) or not token:
                return found, quote(str(metadata.get("resourceVersion", "")), safe="")
            following = f"&continue={quote(token, safe='')}"
        raise KubeError(ProbeResult.MALFORMED, f"the list has no end after {pages} answers")

    def _told(self, found: dict[str, frozenset[Named]]) -> frozenset[Named]:
        self._require_few(found)
        names = frozenset[Named]().union(*found.values())
        self._listed(names)
        return names

    def _require_few(self, found: dict[str, frozenset[Named]]) -> None:
        count = sum(map(len, found.values()))
        if count > self._limit or len(found) > self._limit:
            raise KubeError(ProbeResult.FAILED, self._too_many)


def slices_path(namespace: str) -> str:
    """Where the EndpointSlices of a namespace are listed."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{quote(namespace)}/endpointslices"


def list_in(item: object, key: str) -> list[Any]:
    """The list at a key, or an empty one."""
    found = item.get(key) if isinstance(item, dict) else None
    return found if isinstance(found, list) else []


def address_in(text: object) -> Iterator[Address]:
    """The address, if a node can have it and be reached by it."""
    with contextlib.suppress(ValueError):
        address = ip_address(text) if isinstance(text, str) else None
        if address is not None and not (
            address.is_unspecified
            or address.is_multicast
            or address.is_loopback
            or address.is_reserved
            or (address.version == 6 and (address.is_link_local or address.scope_id))
        ):
            yield address


def _name(item: object) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""
