"""Who the peers are, as the Kubernetes API lists them: endpoints of a Service, or nodes by label.

A list, then a watch of its changes, and after a few minutes again: the core removes nobody but by
a list, and a connection that died in silence must not deceive for longer. What is malformed in an
object is left out, since a list that names fewer removes nobody at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final
from urllib.parse import quote

from havip.core.backoff import Backoff
from havip.core.config import PeerSource
from havip.core.discovery import LISTED
from havip.core.events import PeersListed, PeersUnlisted, ProbeResult
from havip.kube import KubeApi, KubeError

Address = IPv4Address | IPv6Address

_ASK_S: Final = 10.0
_WATCH_S: Final = 120.0
_LONGEST_RETRY_S: Final = 15.0
_PAGE: Final = 5
"""Objects of one answer: a node with many images has some tens of kilobytes."""
_SERVICE_NAME: Final = "kubernetes.io/service-name"
"""Label by which a slice belongs to its Service (Kubernetes, EndpointSlice, "Ownership")."""


class PeerWatch:
    """Follows the list that `source` names; tells each list, and why there is none."""

    def __init__(
        self,
        api: KubeApi,
        source: PeerSource,
        tell: Callable[[PeersListed | PeersUnlisted], None],
    ) -> None:
        self._api = api
        self._tell = tell
        self._source = source
        self._backoff = Backoff(random.SystemRandom().random, longest_s=_LONGEST_RETRY_S)
        if source.service:
            self._path = (
                f"/apis/discovery.k8s.io/v1/namespaces/{quote(source.namespace)}/endpointslices"
            )
            self._selector = f"{_SERVICE_NAME}={source.service}"
            self._read = _addresses_of_slice
        else:
            self._path = "/api/v1/nodes"
            self._selector = source.selector
            self._read = _addresses_of_node

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
                        self._tell(PeersUnlisted(detail=f"{self._source}: {error.detail}"))
                if loop.time() - began_at > _LONGEST_RETRY_S:
                    self._backoff.succeed()
                await asyncio.sleep(self._backoff.pause_s())
        finally:
            await self._api.close()

    async def _follow(self) -> None:
        found, version = await self._list()
        told = self._told(found)
        query = f"?labelSelector={quote(self._selector, safe='')}&resourceVersion={version}"
        events = self._api.watch(self._path + query, timeout_s=_WATCH_S)
        async with contextlib.aclosing(events):
            async for event in events:
                name = _name(event["object"])
                if event["type"] == "DELETED":
                    found.pop(name, None)
                elif event["type"] in ("ADDED", "MODIFIED"):
                    found[name] = frozenset(self._read(event["object"]))
                if frozenset[Address]().union(*found.values()) != told:
                    told = self._told(found)

    async def _list(self) -> tuple[dict[str, frozenset[Address]], str]:
        """Addresses by the object that names them, and the version to watch from."""
        found: dict[str, frozenset[Address]] = {}
        query = f"?labelSelector={quote(self._selector, safe='')}&limit={_PAGE}"
        following = ""
        while True:
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

    def _told(self, found: dict[str, frozenset[Address]]) -> frozenset[Address]:
        self._require_few(found)
        addresses = frozenset[Address]().union(*found.values())
        self._tell(PeersListed(addresses=addresses))
        return addresses

    def _require_few(self, found: dict[str, frozenset[Address]]) -> None:
        count = sum(map(len, found.values()))
        if count > LISTED or len(found) > LISTED:
            raise KubeError(
                ProbeResult.FAILED,
                f"more than {LISTED} addresses, each of which would get every advert; choose "
                "fewer nodes",
            )


def _addresses_of_slice(item: object) -> Iterator[Address]:
    """Of all endpoints: one that is not ready is a node all the same."""
    for endpoint in _list_in(item, "endpoints"):
        for text in _list_in(endpoint, "addresses"):
            yield from _address(text)


def _addresses_of_node(item: object) -> Iterator[Address]:
    status = item.get("status") if isinstance(item, dict) else None
    for each in _list_in(status, "addresses"):
        if isinstance(each, dict) and each.get("type") == "InternalIP":
            yield from _address(each.get("address"))


def _address(text: object) -> Iterator[Address]:
    """The address, if a node can have it and be reached by it."""
    with contextlib.suppress(ValueError):
        address = ip_address(text) if isinstance(text, str) else None
        if address is not None and not (
            address.is_unspecified
            or address.is_multicast
            or address.is_loopback
            or address.is_reserved
            or (address.version == 6 and address.is_link_local)
        ):
            yield address


def _name(item: object) -> str:
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""


def _list_in(item: object, key: str) -> list[Any]:
    found = item.get(key) if isinstance(item, dict) else None
    return found if isinstance(found, list) else []
