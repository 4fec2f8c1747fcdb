"""Static pods, as the image itself writes them by `havip manifest`; no API server is there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml
from engine import Engine, Pod
from manifest import write_for

from havip.netlab import PORT, Host, Lab

HANG_S = 20.0
"""Protection against a hang; no promise."""
KEYS = {"first": f"1: {'5f' * 32}\n", "second": f"2: {'a0' * 32}\nactive: 2\n1: {'5f' * 32}\n"}


def written(engine: Engine, image: str, host: Host) -> Pod:
    """The pod of a host, from its manifest, with keys in a directory of the host."""
    keys = host.lab.directory / f"{host.name}-auth" / "hmac-keys"
    keys.parent.mkdir(mode=0o700)
    keys.write_text(KEYS["first"])
    keys.chmod(0o600)
    text = engine.podman(
        *("run", "--rm", "--network=none", "--log-driver=none", image, "manifest", "static-pod"),
        *("--vip-address-cidr", host.lab.vip, "--image", image, "--image-pull-policy=Never"),
        *("--check-service-url", f"http://127.0.0.1:{PORT}/"),
        *("--auth-hmac-keys-file", str(keys)),
    )
    return Pod(engine, host, write_for(host, yaml.safe_load(text)))


@pytest.fixture
def pods(make_lab: Callable[..., Lab], engine: Engine, image) -> tuple[Lab, dict[str, Pod]]:
    lab = make_lab(hosts=2)
    pods = {host.name: written(engine, image.reference, host) for host in lab.hosts}
    for pod in pods.values():
        pod.host.serve()
        pod.play()
    for pod in pods.values():
        pod.wait_until_ready()
    return lab, pods


def test_static_pods_hold_one_vip_and_follow_the_keys_of_the_node(pods) -> None:
    lab, all_pods = pods
    lab.watch.wait_for_holder(lab.vip_address, timeout_s=HANG_S)
    for pod in all_pods.values():
        (router,) = pod.host.status()["routers"]
        assert router["hmac_key"] == 1, "adverts are signed with the key in the node's file"

    # Replaced, as an editor or a tool does it: a file that is mounted alone would stay the old one.
    for pod in all_pods.values():
        keys = lab.directory / f"{pod.host.name}-auth" / "hmac-keys"
        new = keys.with_name("new")
        new.write_text(KEYS["second"])
        new.chmod(0o600)
        new.replace(keys)
    for pod in all_pods.values():
        pod.wait_for(lambda pod=pod: "configuration reloaded" in pod.logs(), "no reload")

    (first,) = lab.watch.holders(lab.vip_address)
    (second,) = all_pods.keys() - {first}
    assert all_pods[first].stop() == 0
    lab.watch.wait_for_holder(lab.vip_address, second, timeout_s=HANG_S)
