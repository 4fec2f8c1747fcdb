"""What the settings of election by a Lease come to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from havip.core.config import LeaseConfig
from havip.core.host import Host
from havip.settings import Loaded, resolve
from pem import CERTIFICATE

Load = Callable[..., Loaded]
VIP = "--vip-address-cidr=192.0.2.10/24"


@pytest.fixture
def access(tmp_path: Path) -> list[str]:
    certificate = tmp_path / "ca.crt"
    certificate.write_text(CERTIFICATE)
    token = tmp_path / "token"
    token.write_text("t")
    return [
        "--kube-api-server=https://127.0.0.1:6443",
        f"--kube-ca-file={certificate}",
        f"--kube-token-file={token}",
    ]


@pytest.mark.parametrize(
    ("flags", "lease"),
    [
        pytest.param([], None, id="VRRP"),
        pytest.param(
            ["--election=lease"],
            LeaseConfig(
                namespace="kube-system",
                name="havip-10",
                duration_s=15,
                renew_deadline_s=10.0,
                retry_period_s=2.0,
            ),
            id="defaults",
        ),
        pytest.param(
            [
                "--election=lease",
                "--virtual-router-id=7",
                "--kube-namespace=havip",
                "--lease-duration=5",
                "--lease-renew-deadline=3",
                "--lease-retry-period=1",
            ],
            LeaseConfig(
                namespace="havip",
                name="havip-7",
                duration_s=5,
                renew_deadline_s=3.0,
                retry_period_s=1.0,
            ),
            id="as kube-vip's docs have it",
        ),
        pytest.param(
            ["--election=lease", "--lease-name=plndr-cp-lock", "--lease-namespace=other"],
            LeaseConfig(namespace="other", name="plndr-cp-lock"),
            id="named",
        ),
    ],
)
def test_what_elects(
    flags: list[str],
    lease: LeaseConfig | None,
    access: list[str],
    load_from: Load,
    host: Host,
) -> None:
    config, _ = resolve(load_from(VIP, *access, *flags), host)
    (router,) = config.routers
    assert router.lease == lease


def test_each_virtual_router_has_its_own(access: list[str], load_from: Load, host: Host) -> None:
    routers = (
        '[{"vipAddressCidr": "192.0.2.10/24"}, '
        '{"vipAddressCidr": "192.0.2.11/24", "virtualRouterId": 11}]'
    )
    environ = {"HAVIP_VIRTUAL_ROUTERS": routers, "HAVIP_ELECTION": "lease"}
    config, _ = resolve(load_from(*access, environ=environ), host)
    assert [each.lease and each.lease.name for each in config.routers] == ["havip-10", "havip-11"]
