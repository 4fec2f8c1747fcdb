"""What HAProxy starts with: written, taken by the real HAProxy, and read again by havip."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from havip.act.haproxy import BalancerHand, Proposal, kept, write_backends
from havip.core.actions import KeepBackends
from havip.core.config import Backend, Balance, BalancerConfig
from havip.core.events import ActionFailed
from havip.core.haproxy import configuration
from havip.haproxy import RuntimeApi

FOUND = (Backend.at(ip_address("192.0.2.11"), 6443), Backend.at(ip_address("2001:db8::11"), 6443))
NAMED = (Backend("cp-1", ip_address("192.0.2.11"), 6443),)


@pytest.fixture
def config(tmp_path: Path) -> BalancerConfig:
    return BalancerConfig(
        binds=(ip_address("0.0.0.0"),),
        directory=str(tmp_path / "haproxy"),
        kept_file=str(tmp_path / "state" / "backends.json"),
    )


def validate(path: str) -> None:
    """This machine's HAProxy takes the file without a warning."""
    command = ["haproxy", "-dW", "-c", "-f", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def prepare(config: BalancerConfig) -> str:
    """Have HAProxy start with this; in words why a kept list does not count."""
    proposal = Proposal(config)
    proposal.accept()
    return proposal.kept_problem


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="as it is"),
        pytest.param({"balance": Balance.ROUNDROBIN, "slow_start_s": 0.0}, id="roundrobin"),
        pytest.param({"proxy_protocol": True}, id="PROXY protocol"),
        pytest.param({"expected_status": ((200, 200), (400, 404))}, id="statuses"),
        pytest.param(
            {
                "binds": (ip_address("192.0.2.100"), ip_address("2001:db8::100")),
                "check_interval_s": 0.1,
                "idle_timeout_s": 604_800.0,
            },
            id="at the VIPs, extreme times",
        ),
        pytest.param({"binds": (ip_address("0.0.0.0"), ip_address("::"))}, id="both families"),
    ],
)
@pytest.mark.parametrize("with_ca", [False, True])
def test_haproxy_takes_it(
    changes: dict[str, Any], with_ca: bool, config: BalancerConfig, certificates: Any
) -> None:
    ca_file = certificates.path("ca.pem") if with_ca else None
    config = replace(config, backends=(*NAMED, FOUND[1]), ca_file=ca_file, **changes)
    assert prepare(config) == ""
    validate(config.configuration_file)


def test_no_two_sections_have_one_name(config: BalancerConfig) -> None:
    """From 3.3 on HAProxy refuses that; Debian 12's takes it without a word."""
    lines = configuration(config, NAMED).splitlines()
    named = [line.split()[1] for line in lines if line.startswith(("frontend ", "backend "))]
    assert len(named) == len({*named}) == 2


addresses = st.ip_addresses()
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
ports = st.integers(1, 65535)


@settings(max_examples=10)
@given(
    found=st.lists(st.builds(Backend.at, addresses, ports), max_size=8, unique_by=lambda b: b.name),
    named=st.lists(st.builds(Backend, names, addresses, ports), unique_by=lambda b: b.name),
)
def test_haproxy_takes_whatever_backends_there_are(
    found: list[Backend], named: list[Backend], tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "haproxy.cfg"
    config = BalancerConfig(binds=(ip_address("0.0.0.0"),))
    path.write_text(configuration(config, [*found, *named]))
    validate(str(path))


def test_what_is_kept_is_what_the_next_start_begins_with(config: BalancerConfig) -> None:
    assert kept(config) == ((), "")
    write_backends(config, FOUND)
    assert kept(config) == (FOUND, "")
    written = Path(config.configuration_file).read_text()
    Path(config.configuration_file).unlink()
    assert prepare(config) == ""
    assert Path(config.configuration_file).read_text() == written
    assert "server 192.0.2.11:6443 192.0.2.11:6443 check" in written


def test_a_static_list_is_not_kept(config: BalancerConfig) -> None:
    write_backends(replace(config, backends=NAMED), NAMED)
    assert not Path(config.kept_file).exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"garbage", "Expecting value", id="garbage"),
        pytest.param(b"[" * 10_000, "", id="deep"),
        pytest.param(b"x" * 20_000, "is longer than 16384 bytes", id="long"),
        pytest.param(b"{}", "is not of this version of havip", id="another version"),
        pytest.param(b'{"version": 1}', "has no list of backends", id="no list"),
        pytest.param(
            b'{"version": 1, "backends": [{"address": "192.0.2.1", "port": true}]}',
            "has something else than backends in its list",
            id="no port",
        ),
        pytest.param(
            b'{"version": 1, "backends": [{"address": "a\\n b", "port": 1}]}',
            "does not appear to be an IPv4 or IPv6 address",
            id="no address",
        ),
        pytest.param(
            b'{"version": 1, "backends": [{"address": "2001:db8::1%a\\nglobal", "port": 1}]}',
            "has an address with a zone in its list",
            id="a zone, and behind it another section",
        ),
    ],
)
def test_what_somebody_else_wrote_is_judged(
    content: bytes, problem: str, config: BalancerConfig
) -> None:
    Path(config.kept_file).parent.mkdir()
    Path(config.kept_file).write_bytes(content)
    backends, why = kept(config)
    assert backends == ()
    assert why
    assert problem in why
    assert prepare(config) == why, "HAProxy starts without any"
    validate(config.configuration_file)


def test_a_disk_that_takes_nothing_is_told(config: BalancerConfig) -> None:
    Path(config.directory).write_text("a file, and no directory")
    failures: list[ActionFailed] = []

    async def main() -> None:
        hand = BalancerHand(config, RuntimeApi(config.socket_file), failures.append)
        hand.keep(KeepBackends(backends=FOUND))
        assert hand.writing is not None
        await hand.writing
        await hand.close()

    asyncio.run(main())
    (failed,) = failures
    assert failed.action == "KeepBackends"
    assert json.loads(Path(config.kept_file).read_text())["version"] == 1, "the other one is there"
