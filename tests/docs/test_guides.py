"""Every command of the guides is accounted for, and those that need no cluster are run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from guides import ON_CLUSTER, ROOT, RUN_ALONE, Command, commands, files, guides, why_not
from havip.__main__ import main
from havip.settings import sources
from pem import CERTIFICATE

COMMANDS = [command for guide in guides() for command in commands(guide)]
FILES = [(guide.name, path, text) for guide in guides() for path, text in files(guide)]
HELM = ROOT / "build" / "bin" / "helm4"
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
PATH = re.compile(r"`((?:docs|values-examples|ansible|chart)/[\w./-]+)`")


def beginning_with(*starts: str) -> list[object]:
    found = [command for command in COMMANDS if command.text.startswith(starts)]
    assert found
    return [pytest.param(each, id=f"{each.guide}: {each.text[:60]}") for each in found]


def run_havip(text: str, directory: Path) -> None:
    """In this process, with what it would read or write on a node in a directory."""
    args = shlex.split(text)[1:]
    if "--output" in args:
        at = args.index("--output") + 1
        args[at] = str(directory / "written")
    assert main(args) == 0


@pytest.mark.parametrize("guide", [path.name for path in guides()])
def test_every_command_is_run_or_says_why_not(guide: str) -> None:
    unknown = [
        command.text
        for command in COMMANDS
        if command.guide == guide
        and command.text not in ON_CLUSTER
        and not command.text.startswith(RUN_ALONE)
        and not why_not(command)
    ]
    assert unknown == []


def test_nothing_is_accounted_for_that_no_guide_says() -> None:
    texts = {command.text for command in COMMANDS}
    assert set(ON_CLUSTER) - texts == set()


def test_a_command_that_can_be_run_is_not_excused() -> None:
    excused = [
        command.text
        for command in COMMANDS
        if (command.text in ON_CLUSTER or command.text.startswith(RUN_ALONE)) and why_not(command)
    ]
    assert excused == []


@pytest.mark.parametrize("command", beginning_with("havip manifest "))
def test_manifest(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if "--vip-address-cidr" not in command.text:
        # It reads the guide's own file, the last one before it.
        *_, text = (
            text
            for guide, path, text in FILES
            if guide == command.guide and path == sources.DEFAULT_FILE
        )
        (tmp_path / "config.yaml").write_text(text)
        monkeypatch.setattr(sources, "DEFAULT_FILE", str(tmp_path / "config.yaml"))
    run_havip(command.text, tmp_path)
    assert (tmp_path / "written").read_text()
    # etcd without a majority makes every API server unready at once.
    assert ("--all-unhealthy hold" in command.text) is ("/readyz" in command.text)


@pytest.mark.parametrize("command", beginning_with("havip check-config --"))
def test_check_config(command: Command, tmp_path: Path) -> None:
    """What it says of the interfaces of a node, tests/commands asks."""
    run_havip(f"{command.text} --offline", tmp_path)


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=guide) for guide, path, text in FILES if "etc/havip" in path]
)
def test_a_configuration_file(text: str, tmp_path: Path) -> None:
    contents = {"password": "s3cret", "token": "a.b.c", "server-ca.crt": CERTIFICATE}
    for path in re.findall(r"^\w+File: (\S+)$", text, re.MULTILINE):
        file = tmp_path / Path(path).name
        file.write_text(contents[file.name])
        text = text.replace(path, str(file))
    config = tmp_path / "config.yaml"
    config.write_text(text)
    assert main(["check-config", "--offline", "--config", str(config)]) == 0


@pytest.mark.parametrize(
    ("path", "text"),
    [pytest.param(path, text, id=f"{guide}: {path}") for guide, path, text in FILES],
)
def test_a_yaml_file(path: str, text: str) -> None:
    documents = [*yaml.safe_load_all(text)]
    assert all(isinstance(each, dict) for each in documents)
    if "tls-san" in text or "certSANs" in text:
        (document,) = documents
        names = document.get("tls-san") or document["apiServer"]["certSANs"]
        assert {"api.example.org", "192.168.1.100"} <= {*names}


@pytest.mark.parametrize("command", beginning_with("helm install ", "helm template "))
def test_helm(command: Command, tmp_path: Path) -> None:
    """Without a cluster: what the chart makes of the values."""
    former = (ROOT / "tests" / "chart" / "former_values.yaml").read_text()
    (tmp_path / "old-values.yaml").write_text(former)
    args = shlex.split(command.text.replace("helm install", "helm template"))[1:]
    values = {"old-values.yaml": str(tmp_path / "old-values.yaml")}
    done = subprocess.run(
        [str(HELM), *(values.get(each, each) for each in args)],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "KUBECONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kinds = {each["kind"] for each in yaml.safe_load_all(done.stdout) if each}
    assert kinds & {"DaemonSet", "Deployment"}


@pytest.mark.parametrize("guide", guides(), ids=lambda path: path.name)
def test_what_a_guide_points_at_is_there(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    for target, heading in LINK.findall(text):
        page = (guide.parent / target).resolve() if target else guide
        assert page.exists(), target
        assert not heading or heading in anchors(page), f"{target}#{heading}"
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), path


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and GitLab write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
