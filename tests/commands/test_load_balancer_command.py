"""`havip load-balancer` on a host of its own: what it writes, and what keeps it from that."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from test_check_config import HOST, VIP

from havip.commands import here
from havip.commands import load_balancer as command
from havip.core.config import BalancerConfig
from pem import CERTIFICATE, MALFORMED

pytestmark = pytest.mark.netns
BACKENDS = "--load-balancer-backends=a 192.0.2.11:6443"


def load_balancer(
    directory: Path, *flags: str, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run it on a host that has 192.0.2.1/24 on d0, to write into this directory."""
    script = ["unshare", "--net", "sh", "-e", "-c", HOST, "sh", *before]
    havip = [sys.executable, "-m", "havip", "load-balancer", VIP, "--load-balancer", BACKENDS]
    return subprocess.run(
        [*script, *havip, f"--load-balancer-directory={directory}", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def test_it_writes_what_haproxy_takes(tmp_path: Path) -> None:
    done = load_balancer(tmp_path, "--haproxy=/usr/sbin/haproxy")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/haproxy.cfg\n"), done.stderr
    assert " 192.0.2.11:6443 check " in (tmp_path / "haproxy.cfg").read_text()


def test_a_port_that_only_haproxy_may_bind_is_left_to_haproxy(tmp_path: Path) -> None:
    """In a pod this has no capability, while HAProxy's container has the one for it."""
    before = ("setpriv", "--bounding-set=-net_bind_service")
    done = load_balancer(tmp_path, "--load-balancer-port=443", before=before)
    assert done.returncode == 0, done.stderr
    assert "bind 0.0.0.0:443" in (tmp_path / "haproxy.cfg").read_text()


# What HAProxy may open --------------------------------------------------------------------------

TO_4096 = ("prlimit", "--nofile=1024:4096", "setpriv", "--bounding-set=-sys_resource")


@pytest.mark.parametrize(
    ("connections", "is_refused"),
    [
        pytest.param(8000, True, id="many more than there may be"),
        pytest.param(2048, True, id="two files for each, and none for itself"),
        pytest.param(1548, False, id="as many as it says"),
    ],
)
def test_more_connections_than_files_are_refused_as_haproxy_would(
    connections: int, is_refused: bool, directory: Path
) -> None:
    flags = (f"--load-balancer-max-connections={connections}", "--haproxy=/usr/sbin/haproxy")
    done = load_balancer(directory, *flags, before=TO_4096)
    assert done.returncode == (2 if is_refused else 0), done.stderr
    told = f"loadBalancerMaxConnections {connections} (flag --load-balancer-max-connections): "
    assert (told in done.stderr) is is_refused
    assert ("may open 4096 here; set 1548 or fewer, or allow" in done.stderr) is is_refused

    # HAProxy finds nothing wrong with the file, and does not start.
    assert load_balancer(directory, *flags).returncode == 0
    file = f"{directory}/haproxy.cfg"
    start = (*TO_4096, sys.executable, "-c", BESIDE_HAPROXY, file, "0.0.0.0:7443")
    done = load_balancer(directory, *flags, before=start)
    assert ("HAProxy has ended" in done.stderr) is is_refused, done.stderr


@pytest.mark.parametrize(
    ("limit", "may_raise", "told"),
    [
        pytest.param(4096, False, "set 1548 or fewer, or allow 17000", id="too few"),
        pytest.param(1024, False, "; allow 17000", id="too few for any"),
        pytest.param(16_020, False, "", id="perhaps enough: HAProxy judges"),
        pytest.param(resource.RLIM_INFINITY, False, "", id="no limit"),
        pytest.param(1024, True, "", id="HAProxy may raise it"),
    ],
)
def test_a_limit_of_open_files(
    limit: int, may_raise: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(here, "may_raise_limits", lambda: may_raise)
    config = BalancerConfig(binds=(ip_address("0.0.0.0"),), max_connections=8000)
    problems = [str(each) for each in here.too_few_files(config)]
    assert [told in each for each in problems] == ([True] if told else [])


# What has the port --------------------------------------------------------------------------------

# $1: its configuration; $2: what somebody else has. The rest runs once it listens.
BESIDE_HAPROXY = """\
import socket, subprocess, sys
address, _, port = sys.argv[2].rpartition(":")
family = socket.AF_INET6 if ":" in address else socket.AF_INET
other = socket.create_server((address.strip("[]"), int(port)), family=family)
haproxy = subprocess.Popen(["haproxy", "-W", "-db", "-f", sys.argv[1]], stderr=subprocess.PIPE)
while b"Loading success" not in (line := haproxy.stderr.readline()):
    assert line, "HAProxy has ended"
status = subprocess.run(sys.argv[3:]).returncode
haproxy.kill()
sys.exit(status)
"""
SLOWER = "--load-balancer-check-interval=4"


@pytest.mark.parametrize(
    ("flags", "is_taken"),
    [
        pytest.param([], False, id="as it was started"),
        pytest.param([SLOWER], False, id="its own port, with other settings"),
        pytest.param([SLOWER, "--load-balancer-bind=vip"], False, id="its own, at the VIP alone"),
        pytest.param(["--load-balancer-port=7443"], True, id="a port of somebody else"),
    ],
)
def test_a_port_in_use_is_told_beside_a_haproxy_that_has_another(
    flags: list[str], is_taken: bool, tmp_path: Path
) -> None:
    assert load_balancer(tmp_path).returncode == 0
    before = (sys.executable, "-c", BESIDE_HAPROXY, f"{tmp_path}/haproxy.cfg", "0.0.0.0:7443")
    done = load_balancer(tmp_path, *flags, before=before)
    assert done.returncode == (2 if is_taken else 0), done.stderr
    told = "loadBalancerPort 0.0.0.0:7443 (flag --load-balancer-port): something else on this node"
    assert (told in done.stderr) is is_taken


@pytest.mark.parametrize(
    ("other", "is_taken"),
    [
        pytest.param("0.0.0.0:7443", False, id="nobody else has it"),
        pytest.param("192.0.2.1:8443", True, id="somebody has it at the node's address"),
        pytest.param("127.0.0.1:8443", True, id="somebody has it at the loopback"),
    ],
)
def test_its_port_at_the_vip_alone_is_no_obstacle_to_all_addresses(
    other: str, is_taken: bool, tmp_path: Path
) -> None:
    assert load_balancer(tmp_path, "--load-balancer-bind=vip").returncode == 0
    before = (sys.executable, "-c", BESIDE_HAPROXY, f"{tmp_path}/haproxy.cfg", other)
    done = load_balancer(tmp_path, "--load-balancer-bind=all", before=before)
    assert done.returncode == (2 if is_taken else 0), done.stderr
    assert ("loadBalancerPort 0.0.0.0:8443: something else" in done.stderr) is is_taken


def test_a_port_of_its_own_in_one_family_says_nothing_of_the_other(tmp_path: Path) -> None:
    """Where a VIP of the other family is added, HAProxy has yet to listen there."""
    assert load_balancer(tmp_path).returncode == 0
    before = (sys.executable, "-c", BESIDE_HAPROXY, f"{tmp_path}/haproxy.cfg", "[::]:8443")
    done = load_balancer(tmp_path, f"{VIP},2001:db8::10/64", before=before)
    assert done.returncode == 2, done.stderr
    assert "loadBalancerPort [::]:8443: something else on this node has that port" in done.stderr


# The HAProxy that is named ---------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def program(directory: Path, validates: str, version: str = "2.6.12") -> Path:
    """A stand-in for HAProxy, which says its version, and to `-c -f FILE` runs this."""
    path = directory / "haproxy"
    says = f'echo "HAProxy version {version} 2023/12/16 - https://haproxy.org/"'
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] || {{ {says}; exit; }}\n{validates}\n')
    path.chmod(0o755)
    return path


def test_one_that_it_refuses_does_not_take_the_place_of_the_last_good_one(directory: Path) -> None:
    assert load_balancer(directory, "--haproxy=/usr/sbin/haproxy").returncode == 0
    good = (directory / "haproxy.cfg").read_text()
    refuses = program(directory, "echo 'parsing [haproxy.cfg:7]: no' >&2; exit 1")
    done = load_balancer(directory, f"--haproxy={refuses}", "--load-balancer-port=7443")
    assert done.returncode == 2
    assert f"does not take {directory}/haproxy.cfg.new: parsing [haproxy.cfg:7]: no" in done.stderr
    assert (directory / "haproxy.cfg").read_text() == good
    assert ":7443" in (directory / "haproxy.cfg.new").read_text()


def test_certificates_that_it_refuses_do_not_take_the_place_of_the_last_good_ones(
    directory: Path,
) -> None:
    """OpenSSL takes the certificate by itself, and HAProxy not what is beside it."""
    files = {name: directory / name for name in ("ca.crt", "haproxy.cfg")}
    given = directory / "given.crt"
    given.write_text(CERTIFICATE)
    flags = (f"--load-balancer-ca-file={given}", "--haproxy=/usr/sbin/haproxy")
    assert load_balancer(directory, *flags).returncode == 0
    assert {*directory.iterdir()} == {given, *files.values()}
    good = {name: file.read_text() for name, file in files.items()}
    assert good["ca.crt"] == CERTIFICATE
    assert f"ca-file {files['ca.crt']} " in good["haproxy.cfg"]

    given.write_text(CERTIFICATE + MALFORMED.replace("CERTIFICATE", "X509 CRL"))
    done = load_balancer(directory, *flags)
    assert done.returncode == 2
    assert f"unable to load {directory}/ca.crt.new" in done.stderr
    assert {name: file.read_text() for name, file in files.items()} == good

    given.write_text(CERTIFICATE + CERTIFICATE)
    assert load_balancer(directory, *flags).returncode == 0
    assert files["ca.crt"].read_text() == CERTIFICATE + CERTIFICATE
    assert {*directory.iterdir()} == {given, *files.values()}


def test_it_validates_as_the_user_who_may_write_there(directory: Path) -> None:
    """That user can have put in a configuration that runs a program, which root must not."""
    validates = program(directory, 'echo "$(id -u) $(id -g) $(id -G)" >&2; exit 1')
    ours = load_balancer(directory, f"--haproxy={validates}")
    assert "haproxy.cfg.new: 0 0 0" in ours.stderr
    os.chown(directory, NOBODY, NOBODY)
    theirs = load_balancer(directory, f"--haproxy={validates}")
    assert f"haproxy.cfg.new: {NOBODY} {NOBODY} {NOBODY};" in theirs.stderr


@pytest.mark.parametrize(
    ("validates", "told"),
    [
        pytest.param("sleep 60", "has not said so within 0.2 seconds", id="it hangs"),
        pytest.param(None, "cannot be run: No such file", id="it is gone by then"),
    ],
)
def test_a_validation_that_does_not_end_is_a_refusal(
    validates: str | None, told: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_HANG_S", 0.2)
    path = program(directory, f"exec {validates}") if validates else directory / "haproxy"
    assert told in command._refusal(str(path), str(directory / "haproxy.cfg.new"))


@pytest.mark.parametrize(
    ("version", "told"),
    [
        pytest.param("2.4.22", "is version 2.4.22", id="too old"),
        pytest.param("1.8.30-2", "is version 1.8.30-2", id="much too old"),
        pytest.param("", "is no HAProxy", id="of no version"),
    ],
)
def test_a_haproxy_that_is_too_old_is_refused(version: str, told: str, directory: Path) -> None:
    old = program(directory, "exit 0", version)
    assert_unfit(directory, old, told)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        pytest.param("/nonexistent/haproxy", "cannot be run: No such file", id="missing"),
        pytest.param("/etc/passwd", "cannot be run: Permission denied", id="no program"),
        pytest.param("/bin/true", "is no HAProxy", id="another program"),
    ],
)
def test_what_is_no_haproxy_is_refused(path: str, told: str, directory: Path) -> None:
    assert_unfit(directory, Path(path), told)


def assert_unfit(directory: Path, haproxy: Path, told: str) -> None:
    """It says why, and how to get one that fits; nothing is written that one would start with."""
    done = load_balancer(directory, f"--haproxy={haproxy}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--haproxy {haproxy}: {told}" in done.stderr
    assert "install HAProxy 2.6 or later" in done.stderr
    assert not [*directory.glob("haproxy.cfg*")]
