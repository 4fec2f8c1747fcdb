"""What Kubernetes is to show, and what is to be watched there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from havip.core.host import Host
from havip.settings import Loaded, resolve
from pem import CERTIFICATE

Load = Callable[..., Loaded]
VIP = "--vip-address-cidr=192.0.2.10/24"
ALL = ("--kube-holder-lease", "--kube-events", "--kube-holder-label", "--kube-node-watch")


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


def test_nothing_is_shown_or_watched_unasked(
    access: list[str], load_from: Load, host: Host
) -> None:
    config, _ = resolve(load_from(VIP, *access), host)
    assert not config.shows_anything
    assert config.node_weight is None


@pytest.mark.parametrize(
    ("flags", "lease"),
    [
        pytest.param([], ("kube-system", "havip-10"), id="by default"),
        pytest.param(["--virtual-router-id=7"], ("kube-system", "havip-7"), id="by VRID"),
        pytest.param(
            ["--lease-name=edge", "--lease-namespace=other"], ("other", "edge"), id="named"
        ),
        pytest.param(["--election=lease"], None, id="the Lease that elects shows it"),
    ],
)
def test_the_lease(
    flags: list[str],
    lease: tuple[str, str] | None,
    access: list[str],
    load_from: Load,
    host: Host,
) -> None:
    config, _ = resolve(load_from(VIP, "--kube-holder-lease", *access, *flags), host)
    assert config.routers[0].holder_lease == lease
    assert config.shows_anything is (lease is not None)


def test_events_and_label(access: list[str], load_from: Load, host: Host) -> None:
    events, _ = resolve(load_from(VIP, "--kube-events", *access), host)
    assert (events.shows_events, events.shows_label, events.shows_anything) == (True, False, True)
    label, _ = resolve(load_from(VIP, "--kube-holder-label", *access), host)
    assert (label.shows_events, label.shows_label, label.shows_anything) == (False, True, True)


@pytest.mark.parametrize(
    ("flags", "weight"),
    [([], -30), (["--kube-node-weight=-100"], -100), (["--kube-node-weight=0"], 0)],
)
def test_the_weight_of_a_node_that_is_about_to_leave(
    flags: list[str], weight: int, access: list[str], load_from: Load, host: Host
) -> None:
    config, _ = resolve(load_from(VIP, "--kube-node-watch", *access, *flags), host)
    assert config.node_weight == weight


def test_without_the_api_it_starts_all_the_same_and_says_what_has_no_effect(
    load_from: Load, host: Host
) -> None:
    config, warnings = resolve(load_from(VIP, *ALL), host)
    assert not config.shows_anything
    assert config.node_weight is None
    assert [warning.field for warning in warnings] == [
        "kubeHolderLease",
        "kubeEvents",
        "kubeHolderLabel",
        "kubeNodeWatch",
    ]
