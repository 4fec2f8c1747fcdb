"""A configuration file of HA VIP Manager means here what it means there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from havip.core.config import AllUnhealthy, NodeConfig, Secret
from havip.core.host import Host, HostAddress
from havip.settings import ConfigError, ConfigWarning, Loaded, resolve
from pem import CERTIFICATE as PEM

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "values-examples" / "ha-vip-manager").glob("*.yaml"))
IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
VIP = "vip: 192.0.2.10/24\n"

Load = Callable[..., Loaded]


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_text(PEM)
    return path


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    (directory / "token").write_text("t0ken")
    (directory / "ca.crt").write_text(PEM)
    (directory / "namespace").write_text("havip-system")
    return directory


def test_external(load_from: Load, host: Host, ca: Path) -> None:
    file = (
        "k8s:\n"
        "  enabled: true\n"
        "  in_cluster: false\n"
        "  api_server: https://127.0.0.1:6443\n"
        "  token: t0ken\n"
        f"  ca_cert: {ca}\n"
        "node_id: node1\n"
        "priority: 1\n"
        "interface: eth0\n"
        "vip: 192.0.2.10/24\n"
        "peers: ['192.0.2.1:9999', '192.0.2.2:9999', '192.0.2.3:9999']\n"
        "heartbeat_interval: 1\n"
    )
    config, warnings = resolve(load_from(file=file), host)
    assert warnings == []
    assert (config.node_name, config.all_unhealthy) == ("node1", AllUnhealthy.HOLD)
    (router,) = config.routers
    assert (router.vrrp_interface, router.priority, router.advert_interval_s) == ("eth0", 200, 1.0)
    (leg,) = router.legs
    assert [str(vip.interface) for vip in leg.vips] == ["192.0.2.10/32"]
    assert [str(peer) for peer in leg.peers] == ["192.0.2.2", "192.0.2.3"]
    (check,) = config.checks
    assert (check.name, check.url) == ("kube_api", "https://127.0.0.1:6443/readyz")
    assert (check.weight, check.interval_s, check.fail_after, check.recover_after) == (0, 2, 2, 2)
    assert check.stability_s == 5
    assert check.token == Secret(b"t0ken")
    assert (check.tls.verify, check.tls.ca_file) == (True, str(ca))
    assert check.tls.server_name == "kubernetes"
    assert config.kube
    assert config.kube.servers == ("https://127.0.0.1:6443",)
    assert config.kube.token == Secret(b"t0ken")


def test_in_cluster(load_from: Load, host: Host, service_account: Path) -> None:
    file = f"{VIP}k8s: {{enabled: true, in_cluster: true, api_server: 'x', token: '', ca_cert: y}}"
    loaded = load_from(file=file, environ=IN_CLUSTER, service_account=service_account)
    config, warnings = resolve(loaded, host)
    (check,) = config.checks
    assert check.url == "https://10.96.0.1:443/readyz"
    assert check.token_file == str(service_account / "token")
    assert check.tls.ca_file == str(service_account / "ca.crt")
    assert (check.weight, warnings) == (0, [])
    assert config.kube
    assert config.kube.namespace == "havip-system"


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        pytest.param({}, "KUBERNETES_SERVICE_HOST is not set: this is no pod", id="no pod"),
        pytest.param(IN_CLUSTER, "no service account is mounted (there is no /", id="no account"),
    ],
)
def test_in_cluster_where_it_is_not(
    environ: dict[str, str], problem: str, load_from: Load, host: Host
) -> None:
    loaded = load_from(file=f"{VIP}k8s: {{enabled: true, in_cluster: true}}", environ=environ)
    with pytest.raises(ConfigError) as caught:
        resolve(loaded, host)
    (found,) = caught.value.problems
    assert (found.field, found.value) == ("k8s.in_cluster", True)
    assert found.problem.startswith("the in-cluster configuration cannot be built: ")
    assert problem in found.problem
    assert "automountServiceAccountToken: true" in found.remedy


def configured(
    load_from: Load, host: Host, file: str, **more: Any
) -> tuple[NodeConfig, list[ConfigWarning]]:
    return resolve(load_from(file=file, **more), host)


@pytest.mark.parametrize(
    "block", ["{enabled: false, in_cluster: true, ca_cert: /nonexistent}", "{}", "{token: x}"]
)
def test_a_block_that_is_not_enabled_says_nothing(block: str, load_from: Load, host: Host) -> None:
    config, warnings = configured(load_from, host, f"{VIP}k8s: {block}")
    assert (config.checks, config.kube, warnings) == ((), None, [])
    assert config.all_unhealthy is AllUnhealthy.DROP


def test_the_block_stands_in_a_file_of_havips_too(load_from: Load, host: Host) -> None:
    file = "vipAddressCidr: 192.0.2.10/24\nk8s: {enabled: true}\ncheckKubeApiWeight: -40"
    config, (warning,) = configured(load_from, host, file)
    (check,) = config.checks
    assert (check.url, check.weight, check.interval_s) == (
        "https://127.0.0.1:6443/readyz",
        -40,
        2,
    )
    assert warning.field == "checkKubeApiCaFile"


def test_without_a_ca_the_token_stays_here(load_from: Load, host: Host) -> None:
    file = f"{VIP}k8s: {{enabled: true, token: t0ken}}"
    config, (warning,) = configured(load_from, host, file)
    (check,) = config.checks
    assert (check.token, check.token_file, check.tls.verify) == (None, None, False)
    assert config.kube is None
    assert (warning.field, "t0ken" in str(warning)) == ("kubeCaFile", False)
    assert "the credential is withheld" in warning.problem


@pytest.mark.parametrize(("priority", "vrrp_priority"), [(0, 201), (1, 200), (100, 101), (185, 16)])
def test_the_lower_priority_wins(
    priority: int, vrrp_priority: int, load_from: Load, host: Host
) -> None:
    file = f"{VIP}node_id: a\npriority: {priority}\nk8s: {{enabled: true}}"
    config, _ = configured(load_from, host, file)
    assert config.routers[0].priority == vrrp_priority


@pytest.mark.parametrize(
    ("vip", "placed"),
    [("192.0.2.10", "192.0.2.10/32"), ("2001:db8::a", "2001:db8::a/128")],
)
def test_a_vip_without_prefix_length(vip: str, placed: str, load_from: Load, host: Host) -> None:
    config, _ = configured(load_from, host, f"node_id: a\nvip: '{vip}'")
    assert str(config.routers[0].legs[0].vips[0].interface) == placed


def test_peers_of_every_kind(load_from: Load, host: Host) -> None:
    peers = "['192.0.2.2', '192.0.2.3:8080', '[2001:db8::2]:8080', '2001:db8::3']"
    file = f"node_id: a\nvip: '192.0.2.10/24,2001:db8::a/64'\npeers: {peers}"
    config, _ = configured(load_from, host, file)
    found = [[str(peer) for peer in leg.peers] for leg in config.routers[0].legs]
    assert found == [["192.0.2.2", "192.0.2.3"], ["2001:db8::2", "2001:db8::3"]]


def test_a_list_of_peers_that_names_this_node_alone(load_from: Load, host: Host) -> None:
    with pytest.raises(ConfigError, match="names this host alone"):
        configured(load_from, host, f"{VIP}node_id: a\npeers: ['192.0.2.1:9999']")


@pytest.mark.parametrize("key", ["port", "election_timeout", "tls_cert", "tls_key"])
def test_what_has_no_meaning_here_is_told(key: str, load_from: Load, host: Host) -> None:
    config, (warning,) = configured(load_from, host, f"{VIP}node_id: a\n{key}: 9999")
    assert config.routers
    assert (warning.field, "is ignored" in warning.problem) == (key, True)


def test_a_token_in_a_file_that_everyone_reads_is_told(load_from: Load, host: Host) -> None:
    file = f"{VIP}k8s: {{enabled: true, token: t0ken}}"
    _, warnings = configured(load_from, host, file, mode=0o644)
    (found,) = (each for each in warnings if each.field == "kubeToken")
    assert "kubeTokenFile" in found.remedy


def test_words_that_are_not_its_alone_do_not_make_a_file_of_it(load_from: Load) -> None:
    with pytest.raises(ConfigError, match=r"priority .*did you mean vrrpPriority\?"):
        load_from(file="vipAddressCidr: 192.0.2.10/24\npriority: 1")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_come_to(
    path: Path, load_from: Load, host: Host, service_account: Path
) -> None:
    """Everything that they name is found: without files and hosts, the next test has them."""
    own = HostAddress(interface=ip_interface("192.168.1.10/24"))
    eth0 = replace(host.interfaces[1], addresses=(own,))
    here = replace(host, interfaces=(host.interfaces[0], eth0), gateways=())
    text = path.read_text(encoding="utf-8")
    text = text.replace("/etc/kubernetes/pki/ca.crt", str(service_account / "ca.crt"))
    loaded = load_from(file=text, environ=IN_CLUSTER, service_account=service_account)
    config, warnings = resolve(loaded, here)
    (check,) = config.checks
    assert (check.weight, check.tls.verify) == (0, True)
    assert "127.0.0.1" in check.url or path.stem == "config-in-cluster"
    assert config.routers[0].priority == (200 if path.stem == "config" else 101)
    assert config.kube
    assert {warning.field for warning in warnings} <= {
        *("port", "election_timeout", "tls_cert", "tls_key"),
        "vipAddressCidr",
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_check_config_takes_each_as_it_is(path: Path) -> None:
    """On a node as it describes: in a network and with files of its own."""
    account = "/run/secrets/kubernetes.io/serviceaccount"
    prepare = (
        "ip link set lo up; ip link add eth0 type veth peer name eth9; "
        "ip address add 192.168.1.10/24 dev eth0; ip link set eth0 up; "
        "mount -t tmpfs tmpfs /etc; mount -t tmpfs tmpfs /run; "
        f"mkdir -p /etc/kubernetes/pki {account}; echo t0ken > {account}/token; "
        f"echo {shlex.quote(PEM)} | tee /etc/kubernetes/pki/ca.crt > {account}/ca.crt; "
    )
    command = shlex.join([sys.executable, "-m", "havip", "check-config", f"--config={path}"])
    done = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-euc", prepare + command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **IN_CLUSTER},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "kube_api" in done.stdout
    assert "t0ken" not in done.stdout
    assert "your-service-account-token" not in done.stdout
