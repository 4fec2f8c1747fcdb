"""Each bad input of `bad_input.txt` is refused, in exactly the words that stand there.

The words are for people; that each names field, value, reason and remedy is for a reader of
that file to see. The host of the examples is the one of conftest.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from havip.core.host import Host, HostAddress, Interface
from havip.settings import ConfigError, Loaded, resolve
from pem import CERTIFICATE

SPECIFICATION = Path(__file__).parent / "bad_input.txt"
VIP = "--vip-address-cidr=192.0.2.10/24"

Load = Callable[..., Loaded]


@dataclass
class Example:
    name: str
    flags: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    message: list[str] = field(default_factory=list)


def examples() -> list[Example]:
    """`# name`, lines of files as `file | line`, `$ command`, then what it says."""
    found = []
    for paragraph in SPECIFICATION.read_text(encoding="utf-8").strip().split("\n\n"):
        example = Example("")
        for line in paragraph.splitlines():
            name, bar, content = line.partition(" |")
            if line.startswith("# ") and not example.name:
                example.name = line[2:]
            elif line.startswith("$ "):
                words = shlex.split(line[2:])
                command = words.index("havip")
                example.environ = dict(word.split("=", 1) for word in words[:command])
                example.flags = words[command + 2 :]
            elif bar and not example.flags:
                example.files[name] = example.files.get(name, "") + content[1:] + "\n"
            else:
                example.message.append(line)
        found.append(example)
    return found


def refusal_of(load: Callable[[], Loaded], host: Host) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve(load(), host)
    return caught.value


@pytest.mark.parametrize("example", [pytest.param(each, id=each.name) for each in examples()])
def test_bad_input(
    example: Example,
    load_from: Load,
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in example.files.items():
        Path(name).write_text(content, encoding="utf-8")
    error = refusal_of(lambda: load_from(*example.flags, environ=example.environ), host)
    assert str(error) == "\n".join(example.message)
    for secret in ("s3cret", "nine-char", "5f0c2f6c"):
        assert secret not in str(error)


def test_file_that_is_no_text(tmp_path: Path, load_from: Load, host: Host) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"debug: \xff\xfe\x00")
    (problem,) = refusal_of(lambda: load_from(VIP, f"--config={path}"), host).problems
    assert (problem.field, problem.value) == ("config", f"{path}:1")
    assert "is not YAML" in problem.problem


FILE_SETTINGS = (
    "authPasswordFile",
    "authHmacKeysFile",
    "checkServiceCaFile",
    "checkKubeletCaFile",
    "checkKubeApiCaFile",
    "checkKubeApiTokenFile",
    "checkKubeApiClientCertFile",
    "checkKubeApiClientKeyFile",
    "kubeconfigFile",
    "kubeTokenFile",
    "kubeCaFile",
    "kubeClientCertFile",
    "kubeClientKeyFile",
)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        *((setting, "fifo") for setting in FILE_SETTINGS),
        ("authPasswordFile", "link"),
        ("checkKubeApiTokenFile", "/dev/zero"),
    ],
)
def test_a_file_that_is_no_regular_one(setting: str, name: str, tmp_path: Path) -> None:
    """Whoever opens a FIFO waits for a writer; in a process of its own, which can be ended."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    path = tmp_path / name
    files = {setting: path}
    if "Client" in setting:
        start = setting.partition("Client")[0]
        both = (f"{start}ClientCertFile", f"{start}ClientKeyFile")
        files = dict.fromkeys(both, certificate) | files
    config = tmp_path / "config.yaml"
    config.write_text(
        "vipAddressCidr: 192.0.2.10/24\n"
        f"vrrpVersion: {2 if setting == 'authPasswordFile' else 3}\n"
        "checkServiceUrl: https://192.0.2.1/\n"
        "checkKubelet: true\n"
        "checkKubeApi: true\n" + "".join(f"{key}: {value}\n" for key, value in files.items())
    )
    line = next(line for line in refused_in_time(config).splitlines() if setting in line)
    assert f"{setting} {path} (file {config}:" in line
    what = "a kubeconfig" if setting == "kubeconfigFile" else "a file that the daemon's user"
    assert f"cannot be read: it is no regular file; name {what}" in line


def refused_in_time(config: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "havip", "check-config", f"--config={config}"],
        capture_output=True,
        text=True,
        check=False,
        env={},
        timeout=30,
    )
    assert done.returncode == 2
    return done.stderr


def test_a_configuration_file_that_is_no_regular_one(tmp_path: Path) -> None:
    """A reload that waits for a FIFO's writer would be the last."""
    config = tmp_path / "config.yaml"
    os.mkfifo(config)
    assert refused_in_time(config) == (
        f"config {config}: cannot be read: it is no regular file; name a readable file\n"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param(
            "0x" + "f" * 5000, "whole number of a sensible size", id="thousands of digits"
        ),
        pytest.param("[" * 3000, "nested too deeply", id="thousands of brackets"),
        pytest.param("\x01", "special characters are not allowed", id="control character"),
    ],
)
def test_yaml_that_the_parser_chokes_on(
    value: str, problem: str, tmp_path: Path, load_from: Load, host: Host
) -> None:
    error = refusal_of(lambda: load_from(VIP, file=f"debug: true\nvrrpPriority: {value}"), host)
    (found,) = error.problems
    assert (found.field, found.value) == ("config", f"{tmp_path / 'config.yaml'}:2")
    assert problem in found.problem


def test_a_name_that_looks_like_a_date_stays_a_name(load_from: Load) -> None:
    loaded = load_from(VIP, file="nodeName: 2020-01-01")
    assert loaded.settings.node_name == "2020-01-01"


def test_no_interface_fits_and_there_is_no_default_route(load_from: Load, host: Host) -> None:
    stranded = replace(host, gateways=(), default_route_interfaces={})
    error = refusal_of(lambda: load_from("--vip-address-cidr=203.0.113.10/24"), stranded)
    assert str(error) == (
        "vrrpInterfaceName: no interface has a subnet that contains 203.0.113.10/24, and there is "
        "no default route; set it to one of eth0, eth1, six0, none0"
    )


@pytest.mark.parametrize("mac", [b"", bytes([10, 9, 0, 1]), bytes(20)], ids=["none", "IP", "IB"])
def test_interface_without_an_ethernet_address(mac: bytes, load_from: Load, host: Host) -> None:
    own = HostAddress(interface=ip_interface("203.0.113.1/24"))
    tunnel = Interface(name="wg0", index=9, mac=mac, is_up=True, addresses=(own,))
    both = replace(host, interfaces=(*host.interfaces, tunnel))
    for flags, name in (
        (["--vip-address-cidr=203.0.113.10/24"], "vrrpInterfaceName"),
        ([VIP, "--vip-interface-name=wg0"], "vipInterfaceName"),
    ):
        (problem,) = refusal_of(lambda flags=flags: load_from(*flags), both).problems
        assert (problem.field, problem.value) == (name, "wg0")
        assert "has no Ethernet address" in problem.problem


def test_interface_whose_only_address_is_the_vip_itself(load_from: Load) -> None:
    """keepalived left it there; VRRP cannot be spoken from it."""
    vip = HostAddress(interface=ip_interface("192.0.2.10/24"), is_permanent=False)
    eth0 = Interface(name="eth0", index=1, mac=b"\2\0\0\0\0\1", is_up=True, addresses=(vip,))
    host = Host(interfaces=(eth0,), default_route_interfaces={4: "eth0"})
    (problem,) = refusal_of(lambda: load_from(VIP, "--vip-take-over"), host).problems
    assert (problem.field, problem.value) == ("vrrpInterfaceName", "eth0")
    assert "no IPv4 address of its own" in problem.problem


def test_a_value_cannot_forge_lines_or_colours(load_from: Load, host: Host) -> None:
    (problem,) = refusal_of(lambda: load_from("--vip-address-cidr=\x1b[31m\nok/24"), host).problems
    assert str(problem).isprintable()


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_exit_status_and_message(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "havip", command, "--vip-address-cidr=192.0.2.10"],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        "vipAddressCidr 192.0.2.10 (flag --vip-address-cidr): has no prefix length from 1 to 32; "
        "write it like 192.0.2.10/24\n" in done.stderr
    )
    assert "Traceback" not in done.stderr
