"""Each of values-examples/ renders with both majors of helm, for old and new Kubernetes, and works.

What is rendered is held against the API's own schemas, and the daemon's file against the daemon.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from rendering import (
    CHART,
    EXAMPLES,
    MAJORS,
    NEWEST,
    OLDEST,
    ROOT,
    Rendered,
    helm,
    render,
    render_ahead,
    tool,
)
from stand_in_cluster import StandInCluster, namespace

from havip.settings import Loaded, add_arguments, load

VERSIONS = (OLDEST, "1.29", "1.33", NEWEST)
NOT_OF_KUBERNETES = {"PodMonitor", "PrometheusRule"}
FILES = sorted(EXAMPLES.glob("*.yaml"))
FORMER = Path(__file__).with_name("former_values.yaml")
"""Rendered like an example, although it is nobody's to copy."""
BOTH = pytest.mark.parametrize("major", MAJORS)
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
EACH_AND_FORMER = pytest.mark.parametrize("path", [*FILES, FORMER], ids=lambda path: path.stem)


def text_of(path: Path) -> str:
    """Its values, as they are written; of a k3s manifest, those for helm."""
    text = path.read_text(encoding="utf-8")
    if "\nkind: HelmChart\n" in text:
        return str(yaml.safe_load(text)["spec"]["valuesContent"]) + "\n"
    return text


def values_of(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(text_of(path))
    assert isinstance(found, dict)
    return found


@EACH
def test_it_says_whom_it_is_for(path: Path) -> None:
    comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert "# For " in comment.partition("apiVersion")[0]


@pytest.fixture(scope="module", autouse=True)
def _ahead() -> None:
    render_ahead(
        functools.partial(render, values_of(path), major=major, kube=version)
        for path in (*FILES, FORMER)
        for major in MAJORS
        for version in (VERSIONS if major == 3 else (NEWEST,))
    )


@functools.cache
def validate(each: str, version: str) -> None:
    """Once for each object: most are the same in several examples."""
    kubernetes_validate.validate(json.loads(each), version, strict=True)


@EACH_AND_FORMER
@BOTH
def test_the_api_takes_it(path: Path, major: int) -> None:
    versions = VERSIONS if major == 3 else (NEWEST,)
    for version in versions:
        rendered = render(values_of(path), major=major, kube=version)
        for each in rendered.objects:
            if each["kind"] not in NOT_OF_KUBERNETES:
                validate(json.dumps(each), version)


def test_the_schemas_find_what_is_wrong() -> None:
    """A field that a version does not know; otherwise the test above could not fail."""
    (budget,) = render().all("PodDisruptionBudget")
    with pytest.raises(kubernetes_validate.ValidationError, match="unhealthyPodEvictionPolicy"):
        kubernetes_validate.validate(budget, "1.25", strict=True)


@EACH_AND_FORMER
def test_both_majors_make_the_same(path: Path) -> None:
    three, four = (render(values_of(path), major=major).objects for major in MAJORS)
    assert three == four


def test_every_template_is_used_by_an_example() -> None:
    made = {each["kind"] for path in FILES for each in render(values_of(path)).objects}
    assert made == {
        *("ConfigMap", "Secret", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"),
        *("Deployment", "DaemonSet", "PodDisruptionBudget", "PodMonitor", "PrometheusRule", "Pod"),
        *("Role", "RoleBinding", "Service", "Lease"),
    }


# What the daemon makes of the file ---------------------------------------------------------


def daemon_reads(rendered: Rendered, directory: Path, node: str = "node-1") -> Loaded:
    """The configuration as `havip run` in the pod reads it; raises ConfigError."""
    config = rendered.config
    for setting in ("authPasswordFile", "authHmacKeysFile"):
        if setting in config:
            config[setting] = str(directory / Path(config[setting]).name)
    for secret in rendered.all("Secret"):
        for name, text in secret["data"].items():
            (directory / name).write_bytes(base64.b64decode(text))
    if not rendered.all("Secret"):
        (directory / "password").write_text("s3cret")
        (directory / "hmac-keys").write_text(f"1: {'5f' * 32}\n")
    for name in ("password", "hmac-keys"):
        if (directory / name).exists():
            (directory / name).chmod(0o400)
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return load(parser.parse_args([f"--config={file}"]), {"HAVIP_NODE_NAME": node})


@EACH_AND_FORMER
def test_the_daemon_takes_it(path: Path, tmp_path: Path) -> None:
    loaded = daemon_reads(render(values_of(path)), tmp_path)
    assert [str(each.problem) for each in loaded.warnings] == []


def test_the_daemon_takes_it_as_a_new_release_in_a_cluster(tmp_path: Path) -> None:
    with StandInCluster(namespace()) as cluster:
        loaded = daemon_reads(cluster.render(tmp_path), tmp_path)
    (router,) = loaded.routers.values()
    assert router.auth_hmac_keys


# Single examples ---------------------------------------------------------------------------


def test_spread_releases_do_not_clash(tmp_path: Path) -> None:
    with StandInCluster(namespace()) as cluster:
        first = cluster.render(tmp_path, values_of(EXAMPLES / "spread-first.yaml"), name="havip-1")
        cluster.apply(first.objects)
        second = values_of(EXAMPLES / "spread-second.yaml")
        assert cluster.render(tmp_path, second, name="havip-2").workload


@pytest.mark.parametrize("name", ["api-kubeadm", "api-k3s", "api-rke2", "k3s-helmchart"])
def test_the_api_server_is_asked_on_its_own_node(name: str) -> None:
    config = render(values_of(EXAMPLES / f"{name}.yaml")).config
    assert config["checkServiceUrl"] == "https://127.0.0.1:6443/readyz"
    assert config["checkKubeApi"] is (name != "api-kubeadm")
    # etcd without a majority makes every API server unready at once.
    assert config["allUnhealthy"] == "hold"


def test_the_token_is_there_where_it_is_named() -> None:
    for path in FILES:
        rendered = render(values_of(path))
        asks = ("checkKubeApi", "kubeHolderLease", "kubeEvents", "kubeNodeWatch", "loadBalancer")
        needs = any(rendered.config.get(name) for name in asks)
        assert rendered.pod["automountServiceAccountToken"] is needs, path.name


def test_bootstrapping_waits_for_nothing() -> None:
    """The taints of a node that has no CNI, no cloud provider, and is a server."""
    rendered = render(values_of(EXAMPLES / "k3s-helmchart.yaml"))
    tolerated = {
        (each["key"], each.get("effect"))
        for each in rendered.pod["tolerations"]
        if each["operator"] == "Exists"
    }
    for taint in (
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/network-unavailable",
        "node.cloudprovider.kubernetes.io/uninitialized",
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/etcd",
        "CriticalAddonsOnly",
    ):
        assert (taint, None) in tolerated
    assert rendered.pod["hostNetwork"] is True


def test_the_manifest_with_the_chart_inside_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "ci" / "generate_k3s_manifest.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@BOTH
def test_the_chart_inside_is_the_chart(major: int, tmp_path: Path) -> None:
    manifest = yaml.safe_load((EXAMPLES / "k3s-helmchart-inline.yaml").read_text())
    archive = tmp_path / "havip.tgz"
    archive.write_bytes(base64.b64decode(manifest["spec"]["chartContent"]))
    values = values_of(EXAMPLES / "k3s-helmchart-inline.yaml")
    inside = render(values, major=major, chart=archive)
    assert inside.objects == render(values, major=major).objects


@BOTH
def test_the_packed_chart(major: int, tmp_path: Path) -> None:
    done = helm(major, "package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("havip-*.tgz")
    assert render(major=major, chart=archive).objects == render(major=major).objects


@BOTH
def test_ct_lint(major: int, tmp_path: Path) -> None:
    """The chart with each example in its `ci/`, where ct looks for values."""
    shutil.copytree(ROOT / "ci", tmp_path / "ci")
    shutil.copytree(CHART, tmp_path / "chart")
    given = tmp_path / "chart" / "ci"
    given.mkdir()
    for path in FILES:
        (given / f"{path.stem}-values.yaml").write_text(text_of(path), encoding="utf-8")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "helm").symlink_to(tool(f"helm{major}"))
    (tools / "git").symlink_to(shutil.which("git") or "")
    for needed in ("yamllint", "yamale"):
        (tools / needed).symlink_to(Path(sys.executable).with_name(needed))
    done = subprocess.run(
        [tool("ct"), "lint", "--config=ci/ct.yaml"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PATH": str(tools), "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All charts linted successfully" in done.stdout
    for path in FILES:
        assert f"{path.stem}-values.yaml" in done.stdout


def test_yamllint() -> None:
    targets = [
        "values-examples",
        "chart/Chart.yaml",
        "chart/values.yaml",
        "chart/questions.yaml",
        "ci",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "yamllint",
            "--strict",
            "--config-file=ci/ct-yamllint.yaml",
            *targets,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, "")
