"""Where the first backends come from, if the API at the VIP is behind the balancer itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from havip.core.host import Host
from havip.settings import Loaded, resolve
from pem import CERTIFICATE

LOCAL, CLUSTER = "https://127.0.0.1:6443", "https://192.0.2.10:6443"
VIP = "--vip-address-cidr=192.0.2.10/24"
AT_VIP = ("--load-balancer-bind=vip", "--load-balancer-port=6443")
LOOPBACK = LOCAL
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


@pytest.mark.parametrize(
    ("flags", "cluster", "servers"),
    [
        pytest.param((), CLUSTER, [LOCAL, CLUSTER, "https://127.0.0.1:8443"], id="beside it"),
        pytest.param(
            ("--load-balancer-bind=vip",),
            CLUSTER,
            [LOCAL, CLUSTER, "https://192.0.2.10:8443"],
            id="at the VIP alone",
        ),
        pytest.param(
            ("--load-balancer-bind=vip",),
            "https://192.0.2.10:8443",
            ["https://127.0.0.1:8443", "https://192.0.2.10:8443", LOCAL],
            id="the kubeconfig has the balancer",
        ),
        pytest.param(
            ("--vip-address-cidr=2001:db8::10/64",),
            "https://[2001:db8::10]:8443",
            ["https://[::1]:8443", "https://[2001:db8::10]:8443", LOCAL],
            id="IPv6 alone, where HAProxy serves no IPv4",
        ),
    ],
)
def test_where_the_daemon_asks_if_nobody_chose(
    *,
    flags: tuple[str, ...],
    cluster: str,
    servers: list[str],
    tmp_path: Path,
    load_from: Callable[..., Loaded],
    host: Host,
) -> None:
    """By the balancer too: on the holder VIP:6443 is its own API server, even a dead one."""
    ca = tmp_path / "ca.pem"
    ca.write_text(CERTIFICATE)
    content = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "users": [{"name": "a", "user": {"token": "a.b.c"}}],
        "clusters": [
            {"name": "a", "cluster": {"server": cluster, "certificate-authority": str(ca)}}
        ],
    }
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(yaml.safe_dump(content))
    loaded = load_from(VIP, "--load-balancer", f"--kubeconfig-file={kubeconfig}", *flags)
    config, _ = resolve(loaded, host)
    assert config.kube
    assert list(config.kube.servers) == servers
