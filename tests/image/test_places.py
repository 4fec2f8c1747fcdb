"""Where people take the image: a node's containerd, and a registry of their own."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archive import Image
from engine import Engine

from conftest import built
from havip.netlab import Host, Lab

PLAIN = "--tls-verify=false"


@pytest.fixture
def node(make_lab: Callable[..., Lab]) -> Host:
    return make_lab(hosts=1, clients=0).hosts[0]


@pytest.fixture
def ctr(node: Host, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """The client of a containerd like that of k3s, RKE2 and kubeadm."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        f'[grpc]\naddress = "{tmp_path}/containerd.sock"\n'
        # The part that serves the kubelet wants cgroups and a network of its own.
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
    )
    inside = ("nsenter", f"--net=/run/netns/{node.namespace}")
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen(
            (*inside, "containerd", "--config", str(config)), stdout=log, stderr=log
        )

    def client(*args: str, check: bool = True) -> str:
        done = subprocess.run(
            (*inside, "ctr", "--address", f"{tmp_path}/containerd.sock", "-n", "k8s.io", *args),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    try:
        while not client("version", check=False):
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield client
    finally:
        daemon.terminate()
        daemon.wait()


def test_containerd_imports_it_under_the_name_that_the_chart_is_told(
    ctr: Callable[..., str], node: Host, archive: Path, image: Image
) -> None:
    ctr("images", "import", str(archive))
    assert ctr("images", "list", "--quiet").split()[0] == image.reference
    assert image.reference == (
        "localhost/havip:" + image.config["config"]["Labels"]["org.opencontainers.image.version"]
    )
    options = ("--rm", "--net-host", "--cgroup", f"/{node.namespace}")
    told = ctr("run", *options, image.reference, "version", "/usr/bin/havip", "--version")
    assert re.fullmatch(r"havip \S+\n", told)


@pytest.fixture
def registry(node: Host, tmp_path: Path) -> str:
    """A registry on the node: its name, as `podman push` takes it."""
    name = f"{node.ipv4}:5000"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '{name}'}}\n"
    )
    process = node.popen(("docker-registry", "serve", str(config)))
    process.wait_for(lambda: ":5000" in node.run(("ss", "-Hltn")).stdout, 20, "does not listen")
    return name


def test_a_registry_gives_it_back_by_the_digest_that_it_was_pushed_with(
    engine: Engine, node: Host, image: Image, registry: str, tmp_path: Path
) -> None:
    name = f"{registry}/infra/havip"
    written = tmp_path / "digest"
    engine.podman("tag", image.reference, f"{name}:0.1.0")
    engine.podman("push", PLAIN, "--digestfile", str(written), f"{name}:0.1.0", host=node)
    engine.podman("rmi", f"{name}:0.1.0")
    assert runs(engine, f"{name}@{written.read_text().strip()}", node)


def test_one_name_for_both_architectures(engine: Engine, node: Host, registry: str) -> None:
    name = f"{registry}/infra/havip"
    engine.podman("manifest", "create", f"{name}:both")
    for architecture in ("amd64", "arm64"):
        archive = built(architecture)
        engine.podman("manifest", "add", f"{name}:both", f"docker-archive:{archive}")
    listed = json.loads(engine.podman("manifest", "inspect", f"{name}:both"))
    assert {each["platform"]["architecture"] for each in listed["manifests"]} == {"amd64", "arm64"}
    engine.podman(
        "manifest", "push", PLAIN, "--all", f"{name}:both", f"docker://{name}:both", host=node
    )
    engine.podman("manifest", "rm", f"{name}:both")
    assert runs(engine, f"{name}:both", node)


def runs(engine: Engine, name: str, node: Host) -> bool:
    """Pull it, which takes this machine's architecture, and start it."""
    engine.podman("pull", PLAIN, name, host=node)
    told = engine.podman("run", "--rm", "--network", "none", name, "--version")
    engine.podman("rmi", name)
    return told.startswith("havip ")
