"""Where the first backends come from, if the API at the VIP is behind the balancer itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from havip.core.host import Host
from havip.settings import Loaded, resolve
from pem import CERTIFICATE

VIP = "--vip-address-cidr=192.0.2.10/24"
AT_VIP = ("--load-balancer-bind=vip", "--load-balancer-port=6443")
LOOPBACK = "https://127.0.0.1:6443"
"""What only loopback and VIP come to, bad_input.txt has."""


@pytest.mark.parametrize(
    ("flags", "servers"),
    [
        pytest.param(AT_VIP, f"{LOOPBACK},https://192.0.2.11:6443", id="a node's own address"),
        pytest.param(AT_VIP, f"{LOOPBACK},https://[2001:db8::11]:6443", id="another's, by IPv6"),
        pytest.param(AT_VIP, "https://10.96.0.1:443", id="the address of the Service"),
        pytest.param(AT_VIP, "https://127.0.0.1:7443", id="another balancer on the node"),
        pytest.param(("--load-balancer-bind=vip",), LOOPBACK, id="its own port is free"),
        pytest.param((), LOOPBACK, id="HAProxy at every address, beside it"),
    ],
)
def test_an_api_server_that_answers_before_the_balancer_does(
    flags: tuple[str, ...],
    servers: str,
    tmp_path: Path,
    load_from: Callable[..., Loaded],
    host: Host,
) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    (tmp_path / "token").write_text("a.b.c")
    credential = (
        f"--kube-ca-file={tmp_path / 'ca.pem'}",
        f"--kube-token-file={tmp_path / 'token'}",
    )
    loaded = load_from(VIP, "--load-balancer", f"--kube-api-server={servers}", *flags, *credential)
    config, _ = resolve(loaded, host)
    assert config.balancer is not None
    assert config.balancer.backends is None
