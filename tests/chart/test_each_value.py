"""Each value, changed, changes what is rendered: the line that `each_value.txt` says."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import ROOT, VIP, render, render_ahead
from test_values import LEAVES, default, flat

TABLE = Path(__file__).with_name("each_value.txt")
ELSEWHERE = {
    "allowSharedVirtualRouterId": "test_cluster.py, since it allows what a cluster's state forbids",
    "keepalived": "former_parameters.txt, key by key",
    "rbac.pspEnabled": "former_parameters.txt, since it changes NOTES alone",
    "global": "Helm's own",
}


def nested(settings: list[str]) -> dict[str, Any]:
    """The values of settings such as `pod.replicas = 7`, and a VIP."""
    values: dict[str, Any] = {"vipAddressCidr": VIP}
    for setting in settings:
        path, _, text = setting.partition(" = ")
        *parents, last = path.strip().split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(text)
    if "virtualRouters" in values:
        del values["vipAddressCidr"]
    return values


def rows() -> list[Any]:
    """Values without the change, with it, and the line."""
    found = []
    for row in TABLE.read_text(encoding="utf-8").splitlines():
        if not row.startswith("#"):
            settings, _, line = row.partition(" | ")
            *before, _ = given = settings.split(" + ")
            found.append(pytest.param(nested(before), nested(given), line, id=settings.strip()))
    return found


def name(row: Any) -> str:
    """Of the value that is changed."""
    return str(row.id).split(" + ")[-1].partition(" = ")[0]


@pytest.fixture(scope="module", autouse=True)
def _ahead() -> None:
    render_ahead(functools.partial(render, values) for row in rows() for values in row.values[:2])


@pytest.mark.parametrize(("before", "changed", "line"), rows())
def test_a_changed_value_is_rendered(
    before: dict[str, Any], changed: dict[str, Any], line: str
) -> None:
    was, became = (
        [each.strip() for each in render(values).text.splitlines()] for values in (before, changed)
    )
    gone = line.removeprefix("without ")
    if gone != line:
        was, became, line = became, was, gone
    assert became.count(line) > was.count(line)


def test_the_settings_that_replace_pods_are_documented() -> None:
    """All others reach running pods, and move nothing."""
    replacing = {
        name(row)
        for row in rows()
        if name(row) in flat() and pod_template(row.values[0]) != pod_template(row.values[1])
    }
    document = (ROOT / "docs" / "chart.md").read_text(encoding="utf-8")
    paragraph = document.partition("Some replace the pods")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) & flat() == replacing


def pod_template(values: dict[str, Any]) -> str:
    (workload,) = (
        each for each in render(values).text.split("\n---\n") if "\n  minReadySeconds:" in each
    )
    return workload.partition("\n  template:\n")[2]


def test_no_value_is_left_out() -> None:
    named = {name(row) for row in rows()}
    of_leaves = {leaf for leaf in LEAVES for each in named if f"{each}.".startswith(f"{leaf}.")}
    assert of_leaves | ELSEWHERE.keys() == LEAVES.keys()
    assert not of_leaves & ELSEWHERE.keys()
    # What stands within a value by default has a row of its own.
    for leaf in LEAVES:
        if isinstance(default(leaf), dict):
            assert {f"{leaf}.{inner}" for inner in paths(default(leaf))} <= named


def paths(values: dict[str, Any], prefix: str = "") -> set[str]:
    """The full names of the innermost values."""
    found: set[str] = set()
    for name, value in values.items():
        found |= paths(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return found
