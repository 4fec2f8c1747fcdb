"""A host to configure, and one way to configure it from all three sources."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from havip.core.host import Gateway, Host, HostAddress, Interface
from havip.settings import Loaded, add_arguments, load

Load = Callable[..., Loaded]


def interface(
    name: str, *addresses: str | HostAddress, mac: bytes = b"\x02\0\0\0\0\1"
) -> Interface:
    return Interface(
        name=name,
        index=1,
        mac=mac,
        is_up=True,
        is_loopback=name == "lo",
        addresses=tuple(
            a if isinstance(a, HostAddress) else HostAddress(interface=ip_interface(a))
            for a in addresses
        ),
    )


@pytest.fixture
def host() -> Host:
    """eth0 towards the default gateway, eth1 beside it, and two interfaces without IPv4."""
    return Host(
        interfaces=(
            interface("lo", "127.0.0.1/8", "::1/128"),
            interface("eth0", "192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"),
            interface("eth1", "198.51.100.1/24", "fe80::2/64"),
            interface("six0", "2001:db8:6::1/64", "fe80::3/64"),
            interface("none0"),
        ),
        gateways=(
            Gateway(interface="eth0", address=ip_address("192.0.2.254")),
            Gateway(interface="eth0", address=ip_address("fe80::ff")),
        ),
        default_route_interfaces={4: "eth0", 6: "eth0"},
    )


@pytest.fixture
def load_from(tmp_path: Path) -> Load:
    """Load settings from flags, environment and the text of a file."""

    def load_them(
        *flags: str,
        environ: Mapping[str, str] | None = None,
        file: str | None = None,
        mode: int = 0o600,
        service_account: Path = tmp_path / "none",
        may_wait: bool = True,
    ) -> Loaded:
        words: Sequence[str] = flags
        if file is not None:
            path = tmp_path / "config.yaml"
            path.write_text(file, encoding="utf-8")
            path.chmod(mode)
            words = [*flags, f"--config={path}"]
        parser = argparse.ArgumentParser(allow_abbrev=False)
        add_arguments(parser)
        return load(
            parser.parse_args(words),
            environ or {},
            service_account=str(service_account),
            may_wait=may_wait,
        )

    return load_them
