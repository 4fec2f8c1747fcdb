"""The role, by its example playbook, on two hosts of a lab: twice, changed, refused, removed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from farm import BIN, ROLES, ROOT, STATIC_POD, Farm, Node, Run

from havip.netlab import PORT, Process

ROLE = ROLES / "roles" / "havip"
UNIT = "etc/systemd/system/havip.service"
HAPROXY_UNIT = "etc/systemd/system/havip-haproxy.service"
BACKENDS = "etc/havip/havip-backends.yaml"
API_SERVER = (sys.executable, "-I", "-S", str(ROOT / "tests" / "netns" / "api_stand_in.py"))
KEYS = "etc/havip/auth/havip-hmac-keys"
KEY = "5f0c2f6c6a1f3a52d5d3c4e0a9f1b7c86e2f7a90b1c2d3e4f5061728394a5b6c"
CHECK = {"checkServiceUrl": f"http://127.0.0.1:{PORT}/"}
HANG_S = 60
pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with Farm(tmp_path, havip_settings=CHECK, havip_hmac_keys={"1": KEY}) as farm:
        yield farm


def converged(run: Run) -> dict[str, int]:
    assert run.status == 0, run.text
    return run.changed


def holder(farm: Farm) -> str:
    farm.lab.watch.wait_for_holder(farm.lab.vip_address, timeout_s=HANG_S)
    (name,) = farm.lab.watch.holders(farm.lab.vip_address)
    return name


NOTHING = dict.fromkeys(("h1", "h2"), 0)


def test_a_static_pod_on_each_node(farm: Farm) -> None:
    lab = farm.lab
    # In check mode nothing is made, and what would be is told.
    looked = farm.play("--check")
    assert looked.status == 0, looked.text
    assert not any(node.path(STATIC_POD).exists() for node in farm.nodes.values())
    assert "10.77.0.100 is not in the certificate of 127.0.0.1:6443" in _joined(looked.text)

    first = converged(farm.play())
    assert all(first.values())
    held_by = holder(farm)
    for node in farm.nodes.values():
        assert node.path(STATIC_POD).stat().st_mode & 0o777 == 0o600
        assert node.path(KEYS).stat().st_mode & 0o777 == 0o600
        assert node.path(KEYS).read_text() == f"1: {KEY}\n"
        status = node.host.status()
        assert status["ready"]

    assert converged(farm.play()) == NOTHING
    assert holder(farm) == held_by

    # A change of a setting goes from node to node, and comes to all.
    changed = farm.play(havip_settings={**CHECK, "vrrpAdvertInterval": 0.2})
    assert converged(changed) == dict.fromkeys(NOTHING, 1)
    for node in farm.nodes.values():
        assert "HAVIP_VRRP_ADVERT_INTERVAL" in node.path(STATIC_POD).read_text()
    holder(farm)

    only = farm.play("--limit", "h2", "--tags", "havip-validate")
    assert converged(only) == {"h2": 0}

    assert all(converged(farm.play(havip_state="absent")).values())
    lab.watch.wait_until_gone(lab.vip_address, timeout_s=HANG_S)
    assert not any(node.path(KEYS).exists() for node in farm.nodes.values())
    assert converged(farm.play(havip_state="absent")) == NOTHING


def test_node_by_node_the_others_are_asked_too(farm: Farm) -> None:
    """The playbook takes one after the other, and each is judged beside all."""
    converged(farm.play())
    for node in farm.nodes.values():
        assert "HAVIP_ALL_UNHEALTHY" in node.path(STATIC_POD).read_text()
    # One that was taken away comes back beside the holder, whose turn is later.
    converged(farm.play("--limit", "h1", havip_state="absent"))
    assert holder(farm) == "h2"
    again = converged(farm.play())
    assert again["h1"] > 0
    assert again["h2"] == 0

    name = holder(farm)
    (other,) = farm.nodes.keys() - {name}
    farm.nodes[other].host.ip(f"address add {farm.lab.vip_address}/32 dev eth0")
    run = farm.play("--tags", "havip-validate")
    assert run.status != 0
    assert f"Two nodes have {farm.lab.vip} at once" in _joined(run.text)


def test_a_vip_in_use_stops_it_before_anything_is_made(farm: Farm) -> None:
    owner = farm.lab.client
    owner.ip(f"address add {farm.lab.vip} dev eth0")
    run = farm.play()
    assert run.status != 0
    assert f"10.77.0.100 is in use: {owner.mac} answers for it" in _joined(run.text)
    assert not any(node.path(STATIC_POD).exists() for node in farm.nodes.values())


def test_a_wrong_setting_stops_it_in_havips_own_words(farm: Farm) -> None:
    run = farm.play(havip_settings={"vrrpPriority": 255})
    assert run.status != 0
    assert "is for the owner of an address" in _joined(run.text)
    assert not any(node.path(STATIC_POD).exists() for node in farm.nodes.values())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"havip_mode": "static_pod"}, "static-pod"),
        ({"havip_distribution": "k8s"}, "kubeadm"),
        ({"havip_vip": None}, "havip_vip"),
        ({"havip_settings": ["allUnhealthy"]}, "havip_settings"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(
    farm: Farm, settings: dict[str, object], told: str
) -> None:
    run = farm.play(**settings)
    assert run.status != 0
    assert "Validating arguments" in run.text
    assert told in _joined(run.text)


def test_the_reminder_is_silent_where_the_certificate_names_the_vip(
    farm: Farm, tmp_path: Path
) -> None:
    for name, address in (("h1", "10.77.0.100"), ("h2", "10.77.0.10")):
        pair = (tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        subprocess.run(
            (
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=api"),
                *("-addext", f"subjectAltName=IP:{address}"),
                *("-out", str(pair[0]), "-keyout", str(pair[1])),
            ),
            check=True,
            capture_output=True,
        )
        host = farm.nodes[name].host
        server = host.popen(
            (
                *("openssl", "s_server", "-www", "-accept", "6443"),
                *("-cert", str(pair[0]), "-key", str(pair[1])),
            )
        )
        server.wait_for(
            lambda host=host: ":6443" in host.run(("ss", "-ltnH")).stdout, HANG_S, "no listener"
        )
    run = farm.play("--tags", "havip-check")
    assert converged(run) == NOTHING
    told = set(re.findall(r"ok: \[(h\d)\] => .*\n.*is not in the certificate", run.text))
    assert told == {"h2"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """havip and what it needs, as pip would find them."""
    directory = tmp_path_factory.mktemp("wheels")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check")
    to = ("--wheel-dir", str(directory))
    requirements = str(ROOT / "requirements" / "runtime.txt")
    for args in (
        ("--require-hashes", "--requirement", requirements),
        ("--no-deps", "--no-build-isolation", str(ROOT)),
    ):
        subprocess.run((*pip, *to, *args), check=True)
    return directory


def test_a_unit_of_systemd_on_each_node(farm: Farm, wheels: Path) -> None:
    (package,) = wheels.glob("havip-*.whl")
    farm.settings |= {
        "havip_mode": "systemd",
        "havip_source": str(package),
        "havip_python": sys.executable,
        "havip_pip_arguments": ["--no-index", "--find-links", str(wheels)],
    }
    assert farm.play("--check").status == 0
    assert not any(node.path(UNIT).exists() for node in farm.nodes.values())

    assert all(converged(farm.play()).values())
    held_by = holder(farm)
    for node in farm.nodes.values():
        unit = node.path(UNIT).read_text()
        assert "ExecStart=/opt/havip/bin/havip run" in unit
        assert node.host.status()["ready"]

    assert converged(farm.play()) == NOTHING
    assert holder(farm) == held_by

    # The unit and its restart.
    changed = farm.play(havip_settings={**CHECK, "vrrpAdvertInterval": 0.2})
    assert converged(changed) == dict.fromkeys(NOTHING, 2)
    holder(farm)

    assert all(converged(farm.play(havip_state="absent")).values())
    farm.lab.watch.wait_until_gone(farm.lab.vip_address, timeout_s=HANG_S)
    assert converged(farm.play(havip_state="absent")) == NOTHING


def test_a_unit_before_the_first_server_starts(farm: Farm, wheels: Path) -> None:
    """The kubeconfig comes later, and what elects by it: systemd tries until it does."""
    (package,) = wheels.glob("havip-*.whl")
    run = farm.play(
        "--limit",
        "h1",
        havip_mode="systemd",
        havip_distribution="k3s",
        havip_settings={**CHECK, "election": "lease"},
        havip_validate=False,
        havip_source=str(package),
        havip_python=sys.executable,
        havip_pip_arguments=["--no-index", "--find-links", str(wheels)],
    )
    assert converged(run)["h1"] > 0
    unit = farm.nodes["h1"].path(UNIT).read_text()
    assert "HAVIP_KUBECONFIG_FILE=/etc/rancher/k3s/k3s.yaml" in unit
    assert "HAVIP_KUBE_API_SERVER=https://127.0.0.1:6443,https://10.77.0.100:6443" in unit


# HAProxy beside it -------------------------------------------------------------------------------

LISTED = "h1 10.77.0.11:6443, h2 10.77.0.12:6443"


@pytest.fixture
def api_servers(farm: Farm, certificates: Any) -> dict[str, Process]:
    """What stands in for one on each host."""
    found = {}
    for name, node in farm.nodes.items():
        host = node.host
        where = (str(host.ipv4), "6443", str(certificates.folder))
        found[name] = host.popen((*API_SERVER, name, *where), name="api")
        found[name].wait_for(
            lambda host=host: ":6443" in host.run(("ss", "-ltnH")).stdout, HANG_S, "no listener"
        )
    return found


@pytest.fixture
def balanced(farm: Farm, wheels: Path, api_servers: dict[str, Process]) -> Farm:
    """Hosts with systemd and without HAProxy."""
    (package,) = wheels.glob("havip-*.whl")
    farm.settings |= {
        "havip_mode": "systemd",
        "havip_distribution": "none",
        "havip_source": str(package),
        "havip_python": sys.executable,
        "havip_pip_arguments": ["--no-index", "--find-links", str(wheels)],
        "havip_haproxy": "/usr/local/sbin/haproxy",
        "havip_validate_retries": 20,
        "ansible_package_use": "stand_in_package",
        "havip_settings": balancing(),
    }
    return farm


def balancing(**settings: object) -> dict[str, object]:
    return {
        "loadBalancer": True,
        "loadBalancerBackends": LISTED,
        "loadBalancerCheckInterval": 0.5,
        **settings,
    }


def backends(node: Node) -> dict[str, bool]:
    """By their names, whether they are healthy."""
    return {each["name"]: each["healthy"] for each in node.host.status()["balancer"]["backends"]}


def processes(farm: Farm) -> dict[str, int]:
    """Of HAProxy on each host."""
    return {name: node.host.status()["balancer"]["process"] for name, node in farm.nodes.items()}


def active(node: Node, unit: str) -> bool:
    return node.run("systemctl", "is-active", unit).stdout.strip() == "active"


def test_haproxy_as_a_second_unit(balanced: Farm, api_servers: dict[str, Process]) -> None:
    farm = balanced
    assert farm.play("--check").status == 0
    assert not any(node.path(HAPROXY_UNIT).exists() for node in farm.nodes.values())

    assert all(converged(farm.play()).values())
    held_by = holder(farm)
    for node in farm.nodes.values():
        unit = node.path(HAPROXY_UNIT).read_text()
        assert "ExecStart=/usr/local/sbin/haproxy -W -db" in unit
        assert node.path(BACKENDS).stat().st_mode & 0o777 == 0o644
        assert active(node, "havip-haproxy")
        # What the package starts serves nobody.
        assert not active(node, "haproxy")
        assert node.run("systemctl", "is-enabled", "haproxy").stdout.strip() == "disabled"
        assert backends(node) == {"h1": True, "h2": True}
    before = processes(farm)

    assert converged(farm.play()) == NOTHING
    assert holder(farm) == held_by

    # A change of the list needs no restart: of no unit, and of no HAProxy.
    fewer = balancing(loadBalancerBackends=["h1 10.77.0.11:6443"])
    assert converged(farm.play(havip_settings=fewer)) == dict.fromkeys(NOTHING, 1)
    for name, node in farm.nodes.items():
        api_servers[name].wait_for(
            lambda node=node: backends(node) == {"h1": True}, HANG_S, "the list is not followed"
        )
    assert processes(farm) == before

    # Of anything else it does, from host to host: both units, and their restart.
    flags = ["--load-balancer-slow-start=5"]
    other = farm.play(havip_settings=fewer, havip_manifest_flags=flags)
    assert converged(other) == dict.fromkeys(NOTHING, 3)
    for node in farm.nodes.values():
        for unit in (UNIT, HAPROXY_UNIT):
            assert "HAVIP_LOAD_BALANCER_SLOW_START=5" in node.path(unit).read_text()
    assert not {*processes(farm).values()} & {*before.values()}
    holder(farm)

    # Without it again: havip stays.
    assert all(converged(farm.play(havip_settings=CHECK)).values())
    for node in farm.nodes.values():
        assert not node.path(HAPROXY_UNIT).exists()
        assert not node.path(BACKENDS).exists()
        assert node.host.status().get("balancer") is None
        assert node.host.status()["ready"]


def test_a_haproxy_that_serves_somebody_is_left_alone(balanced: Farm) -> None:
    farm = balanced
    node = farm.nodes["h1"]
    configuration = (
        "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1s\n"
        "    timeout server 1s\nlisten others\n    bind :8443\n    server one 10.77.0.11:6443\n"
    )
    unit = "[Service]\nExecStart=/usr/sbin/haproxy -db -f /etc/haproxy.cfg\n"
    node.put("/etc/haproxy.cfg", configuration)
    node.put("/etc/systemd/system/haproxy.service", unit)
    node.run("ln", "-s", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy")
    node.run("systemctl", "enable", "haproxy")
    node.run("systemctl", "start", "haproxy")

    run = farm.play("--limit", "h1")
    assert run.status != 0
    told = "loadBalancerPort 0.0.0.0:8443: something else on this node has that port"
    assert told in _joined(run.text)
    assert not node.path(HAPROXY_UNIT).exists()
    assert not node.path(UNIT).exists()
    assert active(node, "haproxy")

    beside = balancing(loadBalancerPort=9443)
    assert converged(farm.play("--limit", "h1", havip_settings=beside))["h1"] > 0
    assert active(node, "haproxy")
    assert active(node, "havip-haproxy")
    assert node.run("systemctl", "is-enabled", "haproxy").stdout.strip() == "enabled"

    converged(farm.play("--limit", "h1", havip_state="absent"))
    farm.lab.watch.wait_until_gone(farm.lab.vip_address, timeout_s=HANG_S)
    assert not node.path(HAPROXY_UNIT).exists()
    assert not node.path(BACKENDS).exists()
    assert ":9443" not in node.host.run(("ss", "-ltnH")).stdout
    assert active(node, "haproxy")


def test_haproxy_as_a_second_container(farm: Farm) -> None:
    """Its health takes the place of that of the node's own API server."""
    run = farm.play("--check", "--diff", havip_distribution="k3s", havip_settings=balancing())
    assert run.status == 0, run.text
    assert "image: docker.io/library/haproxy:" in run.text
    assert "HAVIP_LOAD_BALANCER_CHECK_EXPECTED_STATUS" in run.text
    assert "HAVIP_KUBECONFIG_FILE" in run.text
    assert not re.findall(r"HAVIP_CHECK_\w+", run.text)


def test_hosts_without_a_kubelet_have_no_static_pods(farm: Farm) -> None:
    run = farm.play(havip_distribution="none")
    assert run.status != 0
    assert "set havip_mode: systemd" in _joined(run.text)


@pytest.mark.parametrize("name", ["havip", "second"])
@pytest.mark.parametrize("mode", ["static-pod", "systemd"])
def test_the_role_asks_where_the_manifest_has_the_daemon_listen(mode: str, name: str) -> None:
    vrid = 51
    flags = ("--vip-address-cidr=192.0.2.10/24", f"--virtual-router-id={vrid}", f"--name={name}")
    made = subprocess.run(
        (sys.executable, "-m", "havip", "manifest", mode, *flags),
        capture_output=True,
        text=True,
        check=True,
        env={},
    ).stdout
    told = re.search(r"HAVIP_LISTEN(?:=|\n +value: )\"?([\d.:]+)", made)
    template = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["havip_listen"]
    asked = jinja2.Template(template).render(
        havip_all_settings={}, havip_mode=mode, havip_name=name, havip_virtual_router_id=vrid
    )
    assert asked == (told[1] if told else "127.0.0.1:9650")


def test_every_variable_is_described_with_its_default() -> None:
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    options = specs["argument_specs"]["main"]["options"]
    described = {name: option["default"] for name, option in options.items() if "default" in option}
    assert described == defaults
    assert {name for name, option in options.items() if option.get("required")} == {"havip_vip"}


def test_lint() -> None:
    done = subprocess.run(
        (str(BIN / "ansible-lint"), "--offline", "--profile", "production", "--nocolor"),
        cwd=ROLES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _joined(text: str) -> str:
    """Ansible folds long texts of messages into JSON."""
    return re.sub(r"\s+", " ", text.replace("\\n", " "))
