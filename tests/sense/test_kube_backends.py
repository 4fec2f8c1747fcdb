"""What an EndpointSlice names as API servers, and what in it is left out."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from havip.core.config import Backend
from havip.sense.kube_backends import _backends_of_slice


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        pytest.param(["192.0.2.1", "2001:db8::1"], ["192.0.2.1", "2001:db8::1"], id="both"),
        pytest.param(["127.0.0.1", "0.0.0.0", "fe80::1", "ff02::1"], [], id="of no other node"),
        pytest.param(["2001:db8::2%eth0"], [], id="a zone"),
        pytest.param(["2001:db8::2%a; disable frontend clients; #"], [], id="a zone, a command"),
        pytest.param(["a", 7, None], [], id="no address"),
    ],
)
def test_addresses(addresses: list[object], expected: list[str]) -> None:
    item = {
        "ports": [{"name": "https", "port": 6443}],
        "endpoints": [{"addresses": addresses}],
    }
    found = list(_backends_of_slice(item))
    assert found == [Backend.at(ip_address(each), 6443) for each in expected]
