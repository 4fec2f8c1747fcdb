"""A pod for each node: the chart's, filled in as that node's kubelet would."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from havip.netlab import PORT, Host

ROOT = Path(__file__).parents[2]
CHART = ROOT / "chart"
HELM = ROOT / "build" / "bin" / "helm3"
SECRET = {"hmac-keys": f"1: {'5f' * 32}\n"}
KUBELET_PORT = 10248

Manifest = dict[str, Any]


def write_pod(host: Host, image: str) -> Path:
    """The manifest of the host's pod, as `podman kube play` takes it."""
    objects = _rendered(host, image)
    (workload,) = (each for each in objects if each["kind"] == "DaemonSet")
    pod = workload["spec"]["template"]
    pod |= {"apiVersion": "v1", "kind": "Pod"}
    files = {
        ("configMap", each["metadata"]["name"]): each["data"]
        for each in objects
        if each["kind"] == "ConfigMap"
    }
    files["secret", "havip-auth"] = SECRET
    for volume in pod["spec"].get("volumes", ()):
        kind = "configMap" if "configMap" in volume else "secret"
        source = volume.pop(kind)
        directory = host.lab.directory / f"{host.name}-{volume['name']}"
        directory.mkdir()
        for name, text in files[kind, source.get("name", source.get("secretName"))].items():
            (directory / name).write_text(text)
            (directory / name).chmod(source.get("defaultMode", 0o644))
        volume["hostPath"] = {"path": str(directory), "type": "Directory"}
    return write_for(host, pod)


def write_for(host: Host, pod: Manifest) -> Path:
    """A pod as the host's kubelet would start it, as a file."""
    pod["metadata"] = {"name": f"havip-{host.name}", "labels": pod["metadata"]["labels"]}
    (container,) = pod["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        # Podman would run curl in the container. The tests ask themselves, as a kubelet does.
        container.pop(probe, None)
    fields = {"spec.nodeName": host.name, "status.hostIP": host.ipv4}
    for variable in container["env"]:
        if source := variable.pop("valueFrom", None):
            variable["value"] = fields[source["fieldRef"]["fieldPath"]]
    path = host.lab.directory / f"{host.name}-pod.yaml"
    path.write_text(yaml.safe_dump(pod))
    return path


def _rendered(host: Host, image: str) -> list[Manifest]:
    repository, _, tag = image.rpartition(":")
    values = {
        "vipAddressCidr": host.lab.vip,
        "kind": "DaemonSet",
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "authExistingSecret": "havip-auth",
        "checkServiceUrl": f"http://127.0.0.1:{PORT}/",
        "checkKubeletUrl": f"http://127.0.0.1:{KUBELET_PORT}/healthz",
        # Nothing here is an API server: tests/e2e has one.
        "checkKubeApi": False,
    }
    done = subprocess.run(
        (str(HELM), "template", "havip", str(CHART), "--values", "-"),
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]
