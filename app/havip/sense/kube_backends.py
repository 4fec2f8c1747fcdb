"""Who the API servers are: the endpoints of the Service `kubernetes`, which they keep themselves.

Each API server writes its own address there and removes that of one that has been gone for some
fifteen seconds. The EndpointSlice has the name of the Service, so that the right to read this one
object is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from havip.core.balancer import BACKENDS
from havip.core.config import Backend
from havip.core.events import BackendsListed, BackendsUnlisted
from havip.kube import KubeApi
from havip.sense.kube_lists import ListWatch, address_in, list_in, slices_path

_SERVICE: Final = "kubernetes"
_NAMESPACE: Final = "default"
_PORT: Final = "https"


class BackendsWatch(ListWatch[Backend]):
    """Follows the API servers of the cluster; tells each list, and why there is none."""

    def __init__(
        self, api: KubeApi, tell: Callable[[BackendsListed | BackendsUnlisted], None]
    ) -> None:
        where = f"EndpointSlice {_NAMESPACE}/{_SERVICE}"
        super().__init__(
            api,
            slices_path(_NAMESPACE),
            query=f"fieldSelector=metadata.name%3D{_SERVICE}",
            read=_backends_of_slice,
            limit=BACKENDS,
            too_many=f"more than {BACKENDS} API servers, each of which would be probed by each "
            "node; set loadBalancerBackends",
            listed=lambda backends: tell(BackendsListed(backends=backends)),
            unlisted=lambda detail: tell(BackendsUnlisted(detail=f"{where}: {detail}")),
        )


def _backends_of_slice(item: object) -> Iterator[Backend]:
    ports = [each.get("port") for each in list_in(item, "ports") if _is_https(each)]
    for endpoint in list_in(item, "endpoints"):
        for text in list_in(endpoint, "addresses"):
            for address in address_in(text):
                for port in ports:
                    if type(port) is int and 1 <= port <= 65535:
                        yield Backend.at(address, port)


def _is_https(port: object) -> bool:
    return isinstance(port, dict) and port.get("name") in (_PORT, "", None)
