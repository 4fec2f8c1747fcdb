"""Who the peers are, by the Kubernetes API: endpoints of a Service, or nodes by their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final
from urllib.parse import quote

from havip.core.config import PeerSource
from havip.core.discovery import LISTED
from havip.core.events import PeersListed, PeersUnlisted
from havip.kube import KubeApi
from havip.sense.kube_lists import ListWatch, address_in, list_in, slices_path

Address = IPv4Address | IPv6Address

_SERVICE_NAME: Final = "kubernetes.io/service-name"
"""Label by which a slice belongs to its Service (Kubernetes, EndpointSlice, "Ownership")."""


class PeerWatch(ListWatch[Address]):
    """Follows the list that `source` names; tells each list, and why there is none."""

    def __init__(
        self,
        api: KubeApi,
        source: PeerSource,
        tell: Callable[[PeersListed | PeersUnlisted], None],
    ) -> None:
        by_service = f"{_SERVICE_NAME}={source.service}"
        selector = by_service if source.service else source.selector
        super().__init__(
            api,
            slices_path(source.namespace) if source.service else "/api/v1/nodes",
            query=f"labelSelector={quote(selector, safe='')}",
            read=_addresses_of_slice if source.service else _addresses_of_node,
            limit=LISTED,
            too_many=f"more than {LISTED} addresses, each of which would get every advert; choose "
            "fewer nodes",
            listed=lambda addresses: tell(PeersListed(addresses=addresses)),
            unlisted=lambda detail: tell(PeersUnlisted(detail=f"{source}: {detail}")),
        )


def _addresses_of_slice(item: object) -> Iterator[Address]:
    """Of all endpoints: one that is not ready is a node all the same."""
    for endpoint in list_in(item, "endpoints"):
        for text in list_in(endpoint, "addresses"):
            yield from address_in(text)


def _addresses_of_node(item: object) -> Iterator[Address]:
    status = item.get("status") if isinstance(item, dict) else None
    for each in list_in(status, "addresses"):
        if isinstance(each, dict) and each.get("type") == "InternalIP":
            yield from address_in(each.get("address"))
