"""The chart through the real helm, 3 and 4: what it makes of values, or why it refuses them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "chart"
EXAMPLES = ROOT / "values-examples"
BIN = ROOT / "build" / "bin"
NOTHING_SHOWN: dict[str, Any] = {
    "kubeHolderLease": False,
    "kubeEvents": False,
    "kubeHolderLabel": False,
    "kubeNodeWatch": False,
}
"""Values without what asks the Kubernetes API for more than its health."""
MAJORS = (3, 4)
OLDEST, NEWEST = "1.25", "1.37"
"""The API versions that the chart is rendered for; Chart.yaml names the oldest."""
VIP = "192.0.2.10/24"

Object = dict[str, Any]


class RefusedError(Exception):
    """helm rendered nothing, and said why, a line for each reason."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.lines = [
            line.removeprefix("- ").strip()
            for line in told.splitlines()
            if line.strip()
            and not line.startswith(("Error:", "Use --debug", "level=", "havip:"))
            and "engine.go" not in line
        ]


def tool(name: str) -> str:
    """A program that ci/tools/build makes.

    Raises:
        FileNotFoundError: it has not been built.
    """
    path = BIN / name
    if not path.exists():
        raise FileNotFoundError(f"{path}: build it with ci/tools/build {name}")
    return str(path)


def helm(
    major: int, *args: str, env: Mapping[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `helm3` or `helm4`, away from whatever cluster this machine may know."""
    return subprocess.run(
        [tool(f"helm{major}"), *args],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # A helm that ends in a tenth of a second need not collect its garbage.
        env={"HOME": "/nonexistent", "KUBECONFIG": "/nonexistent", "GOGC": "off", **(env or {})},
    )


class Rendered:
    """The objects of one release."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def objects(self) -> list[Object]:
        return [each for each in yaml.safe_load_all(self.text) if each]

    def all(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str) -> Object:
        """The only object of its kind; not the pod of `helm test`."""
        (found,) = self.all(kind)
        return found

    @property
    def workload(self) -> Object:
        (found,) = self.all("Deployment") + self.all("DaemonSet")
        return found

    @property
    def pod(self) -> Object:
        """The pod's spec."""
        spec = self.workload["spec"]["template"]["spec"]
        assert isinstance(spec, dict)
        return spec

    @property
    def container(self) -> Object:
        """That of havip."""
        (found,) = (each for each in self.pod["containers"] if each["name"] == "havip")
        assert isinstance(found, dict)
        return found

    @property
    def config(self) -> dict[str, Any]:
        """The daemon's file."""
        found = yaml.safe_load(self.one("ConfigMap")["data"]["config.yaml"])
        assert isinstance(found, dict)
        return found


def render(
    values: Mapping[str, Any] | None = None,
    *,
    major: int = 3,
    name: str = "havip",
    namespace: str = "vip",
    kube: str = NEWEST,
    chart: Path = CHART,
    args: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
) -> Rendered:
    """What `helm template` makes of the values, and a VIP unless they have one.

    Raises:
        RefusedError: it makes nothing.
    """
    given = dict(values or {})
    if not {"vipAddressCidr", "virtualRouters", "keepalived"} & given.keys():
        given["vipAddressCidr"] = VIP
    command = ("template", name, str(chart), "--namespace", namespace, "--kube-version", kube)
    given_env = tuple(sorted((env or {}).items()))
    done = _output(major, (*command, *args), json.dumps(given), given_env)
    if done.returncode:
        raise RefusedError(done.stderr)
    return Rendered(done.stdout)


@functools.cache
def _output(
    major: int, command: tuple[str, ...], values: str, env: tuple[tuple[str, str], ...]
) -> subprocess.CompletedProcess[str]:
    return helm(major, *command, "--values", "/dev/stdin", env=dict(env), stdin=values)


def render_ahead(calls: Iterable[Callable[[], object]]) -> None:
    """Have these rendered on every core, so that the tests find them done."""

    def quietly(call: Callable[[], object]) -> None:
        with contextlib.suppress(RefusedError):
            call()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(quietly, calls))
