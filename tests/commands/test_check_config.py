"""`havip check-config` on a host of its own: a namespace that ends with the command."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pem import CERTIFICATE

HOST = """\
ip link set lo up
ip link add d0 type veth peer name d1
ip address add 192.0.2.1/24 dev d0
ip link set d0 up
ip link set d1 up
exec "$@"
"""
VIP = "--vip-address-cidr=192.0.2.10/24"


def check_config(
    *flags: str, before: Sequence[str] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run it on a host that has 192.0.2.1/24 on d0."""
    script = ["unshare", "--net", "sh", "-e", "-c", HOST, "sh"]
    return subprocess.run(
        [*script, *before, sys.executable, "-m", "havip", "check-config", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environ},
    )


def rows(text: str) -> dict[str, list[str]]:
    """Cells by the first one of each line."""
    lines = (line.split("  ") for line in text.splitlines())
    return {cells[0]: [c.strip() for c in cells[1:] if c.strip()] for cells in lines if cells}


@pytest.mark.netns
def test_each_value_with_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("vrrpPriority: 30\nvirtualRouterId: 7\nauthPassword: s3cret\n")
    done = check_config(f"--config={path}", VIP, HAVIP_VRRP_PRIORITY="20", HAVIP_VRRP_VERSION="2")
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    assert found["vipAddressCidr"] == ["192.0.2.10/24", "flag --vip-address-cidr"]
    assert found["vrrpPriority"] == ["20", "environment HAVIP_VRRP_PRIORITY"]
    assert found["virtualRouterId"] == ["7", f"file {path}:2"]
    assert found["authPassword"] == ["***", f"file {path}:3"]
    assert found["vrrpInterfaceName"] == ["d0", "default"]
    assert found["vrrpAdvertInterval"] == ["1", "default"]
    assert (
        "d0/7: VRID 7, version 2, from 192.0.2.1 on d0 to multicast: 192.0.2.10/32 on d0"
        in done.stdout
    )


@pytest.mark.netns
def test_peers_that_are_to_be_discovered_are_told_by_their_list(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    (tmp_path / "token").write_text("t0ken")
    done = check_config(
        VIP,
        "--vrrp-unicast-peers=auto",
        "--kube-peers-selector=role=edge",
        f"--kube-ca-file={tmp_path / 'ca.pem'}",
        f"--kube-token-file={tmp_path / 'token'}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "from 192.0.2.1 on d0 to the peers by nodes with role=edge: " in done.stdout


@pytest.mark.netns
def test_as_json(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"1: {'5f' * 32}\n")
    keys.chmod(0o644)
    done = check_config(VIP, f"--auth-hmac-keys-file={keys}", "--output=json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["settings"]["vipAddressCidr"] == {
        "value": "192.0.2.10/24",
        "source": "flag --vip-address-cidr",
    }
    (router,) = document["resolved"]["routers"]
    assert router["legs"][0]["vips"][0]["interface"] == "192.0.2.10/32"
    assert router["hmac"]["keys"] == {"1": "***"}
    assert [warning["field"] for warning in document["warnings"]] == ["authHmacKeysFile"]
    assert "5f5f" not in done.stdout


@pytest.mark.netns
def test_warnings_do_not_fail() -> None:
    done = check_config("--vip-address-cidr=203.0.113.10/24", "--vrrp-interface-name=d0")
    assert done.returncode == 0
    assert "warning: vipAddressCidr: 203.0.113.10/24 lies in no subnet" in done.stdout


@pytest.mark.netns
def test_what_does_not_fit_the_host() -> None:
    done = check_config("--vip-address-cidr=192.0.2.1/24")
    assert (done.returncode, done.stdout) == (2, "")
    assert "is an address of this node already (on d0)" in done.stderr


@pytest.mark.netns
def test_offline_does_not_look_at_the_host() -> None:
    done = check_config("--vip-address-cidr=192.0.2.1/24", "--offline")
    assert (done.returncode, done.stderr) == (0, "")
    assert "on this host" not in done.stdout


@pytest.mark.netns
def test_problems_as_json() -> None:
    done = check_config(VIP, "--virtual-router-id=0", "--output=json")
    assert (done.returncode, done.stderr) == (2, "")
    assert json.loads(done.stdout) == {
        "problems": [
            {
                "field": "virtualRouterId",
                "value": "0",
                "problem": "is less than 1",
                "remedy": "set 1 or more",
                "source": "flag --virtual-router-id",
            }
        ]
    }


@pytest.mark.netns
def test_what_the_file_says_for_this_node_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("vrrpPriority: 30\nnodeOverrides:\n  node-b: {vrrpPriority: 60}\n")
    other = check_config(f"--config={path}", VIP, HAVIP_NODE_NAME="node-a")
    assert rows(other.stdout)["vrrpPriority"] == ["30", f"file {path}:1"]
    done = check_config(f"--config={path}", VIP, HAVIP_NODE_NAME="node-b")
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(done.stdout)
    assert found["vrrpPriority"] == ["60", f"file {path}:2, nodeOverrides.node-b"]
    assert found["nodeOverrides"] == ['{"node-b": {"vrrpPriority": 60}}', f"file {path}:2"]


@pytest.mark.netns
def test_virtual_routers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "vrrpPriority: 30\nvirtualRouters:\n"
        "  - vipAddressCidr: 192.0.2.10/24\n"
        "  - vipAddressCidr: 192.0.2.11/24\n    virtualRouterId: 11\n"
    )
    done = check_config(f"--config={path}")
    assert (done.returncode, done.stderr) == (0, "")
    second = rows(done.stdout.partition("# virtualRouters[1]\n")[2])
    assert (second["vipAddressCidr"], second["vrrpPriority"]) == (["192.0.2.11/24"], ["30"])
    assert "d0/10: " in done.stdout
    assert "d0/11: " in done.stdout


def test_help_shows_an_example_and_the_exit_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "havip", *shlex.split("check-config --help")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "havip check-config --vip-address-cidr" in done.stdout
    assert "exit status:" in done.stdout


@pytest.mark.netns
def test_missing_capabilities_are_refused() -> None:
    done = check_config(VIP, before=("setpriv", "--bounding-set=-net_raw"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "capabilities CAP_NET_RAW: missing" in done.stderr
    assert "securityContext.capabilities.add" in done.stderr
    offline = check_config(VIP, "--offline", before=("setpriv", "--bounding-set=-net_raw"))
    assert offline.returncode == 0


METRICS = "# TYPE havip_ready gauge\nhavip_ready 1.0\n"


@pytest.mark.netns
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param(METRICS, "", id="a havip that runs"),
        pytest.param("up 1.0\n", "Address already in use", id="something else"),
        pytest.param(None, "Address already in use", id="something silent"),
    ],
)
@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_refused_unless_it_is_havips(
    answer: str | None, problem: str, listen: str
) -> None:
    """A look at the configuration beside the running daemon must not fail."""
    service = """\
import socket, subprocess, sys, threading
listener = socket.create_server((sys.argv[1], 9650))
def serve(answer):
    while True:
        connection = listener.accept()[0]
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + answer.encode())
        connection.close()
if sys.argv[2]:
    threading.Thread(target=serve, args=(sys.argv[2],), daemon=True).start()
else:
    listener.close()
    listener = socket.socket()
    listener.bind((sys.argv[1], 9650))
sys.exit(subprocess.run(sys.argv[3:]).returncode)
"""
    before = (sys.executable, "-c", service, listen, answer or "")
    done = check_config(VIP, f"--listen={listen}:9650", before=before)
    assert done.returncode == (2 if problem else 0), done.stderr
    if problem:
        assert f"listen {listen}:9650 (flag --listen): {problem}; choose a free" in done.stderr
    else:
        assert "warning" not in done.stdout


@pytest.mark.netns
@pytest.mark.parametrize("setting", ["listen", "metricsListen"])
def test_an_address_of_another_host_is_refused(setting: str) -> None:
    variable = {"listen": "HAVIP_LISTEN", "metricsListen": "HAVIP_METRICS_LISTEN"}[setting]
    done = check_config(VIP, **{variable: "192.0.2.7:9652"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"{setting} 192.0.2.7:9652 (environment {variable}): Cannot assign requested address; "
        "choose a free port of an address of this node\n"
    )
