"""values.yaml, its schema, its README, Rancher's form and the daemon's settings say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import annotated_types
import pytest
import yaml
from rendering import CHART, ROOT

from havip.settings import RouterSettings, Settings
from havip.settings.sources import as_text, name_of

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
QUESTIONS = yaml.safe_load((CHART / "questions.yaml").read_text(encoding="utf-8"))["questions"]
MODEL = {name_of(attribute): info for attribute, info in Settings.model_fields.items()}

SHOWN = {"kubeHolderLease", "kubeEvents", "kubeHolderLabel", "kubeNodeWatch", "kubeNodeWeight"}
"""What havip does with the Kubernetes API, not how it gets there."""
GIVEN_BY_THE_CHART = {
    "nodeName": "the pod's spec.nodeName",
    "metricsListen": "metrics.enabled",
    "stateDirectory": "a directory of the node that is mounted there",
    "authPasswordFile": "the Secret that is mounted",
    "authHmacKeysFile": "the Secret that is mounted",
    **dict.fromkeys(
        (name for name in MODEL if name.startswith("kube") and name not in SHOWN),
        "the pod's service account",
    ),
    "loadBalancer": "loadBalancer.enabled",
    "loadBalancerDirectory": "a volume that havip and HAProxy share",
}
"""Settings without a value of the same name, and what they come from."""
OTHER_DEFAULTS = {
    # As design.md §5 has it: what the former chart checked, the chart checks.
    "checkServiceUrl": "http://127.0.0.1:10254/healthz",
    "checkKubelet": True,
    "checkKubeApi": True,
    # The pods have a service account, and the chart gives it the rights.
    "kubeHolderLease": True,
    "kubeEvents": True,
    "kubeNodeWatch": True,
    # By the VRID, so that several releases can run on one node.
    "listen": "",
}
OF_THE_CHART_ALONE = {"allowSharedVirtualRouterId", "authMethod", "authExistingSecret"}


def leaves(schema: dict[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The values by their full names."""
    found: dict[str, dict[str, Any]] = {}
    for name, each in schema["properties"].items():
        if "default" in each:
            found[prefix + name] = each
        else:
            found |= leaves(each, f"{prefix}{name}.")
    return found


LEAVES = leaves(SCHEMA)


def default(name: str) -> Any:
    value = VALUES
    for part in name.split("."):
        value = value[part]
    return value


def test_the_generated_files_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "ci" / "generate_chart_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_value_is_explained_and_none_is_forgotten() -> None:
    def names(values: dict[str, Any], prefix: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            full = prefix + name
            if full in LEAVES:
                found.add(full)
            else:
                assert isinstance(value, dict), f"{full} has no comment beginning with `# --`"
                found |= names(value, f"{full}.")
        return found

    assert names(VALUES) == LEAVES.keys()
    for name, each in LEAVES.items():
        assert len(each["description"]) > 10, name


def test_the_schema_is_closed() -> None:
    def check(schema: Any, place: str) -> None:
        if isinstance(schema, dict) and "properties" in schema:
            assert schema["additionalProperties"] is False, place
            for name, each in schema["properties"].items():
                check(each, f"{place}.{name}")

    check(SCHEMA, "values")
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#", "helm 3 knows no newer"


# Beside the daemon's settings --------------------------------------------------------------


def flat() -> set[str]:
    """The values that are settings: those at top level that configure the daemon."""
    groups = {"kind", "image", "pod", "updateStrategy", "podDisruptionBudget", "rbac"}
    groups |= {"loadBalancer", "serviceAccount", "nameOverride", "fullnameOverride", "commonLabels"}
    groups |= {"extraObjects", "metrics", "helmTest", "keepalived", "global"}
    return VALUES.keys() - groups


def test_the_values_are_the_settings() -> None:
    assert flat() - OF_THE_CHART_ALONE == MODEL.keys() - GIVEN_BY_THE_CHART.keys()


@pytest.mark.parametrize("name", sorted(flat() - OF_THE_CHART_ALONE))
def test_the_defaults_are_the_daemons(name: str) -> None:
    value = VALUES[name]
    if name in OTHER_DEFAULTS:
        assert value == OTHER_DEFAULTS[name]
        return
    of_daemon = MODEL[name].default
    if value in (None, "", [], {}):
        assert not of_daemon, f"the daemon's is {of_daemon}"
    else:
        assert as_text(value) == as_text(of_daemon)


@pytest.mark.parametrize("name", sorted(flat() - OF_THE_CHART_ALONE))
def test_the_bounds_are_the_daemons(name: str) -> None:
    schema = SCHEMA["properties"][name]
    bounds: dict[str, float] = {}
    for each in _constraints(MODEL[name]):
        match each:
            case annotated_types.Ge():
                bounds["minimum"] = max(each.ge, bounds.get("minimum", each.ge))
            case annotated_types.Gt():
                bounds["exclusiveMinimum"] = each.gt
            case annotated_types.Le():
                bounds["maximum"] = min(each.le, bounds.get("maximum", each.le))
    if name == "vrrpAdvertInterval":
        # Both versions' together: more than nothing is 0.01 on the wire of version 3.
        assert bounds == {"exclusiveMinimum": 0, "maximum": 255}
        bounds = {"minimum": 0.01, "maximum": 255}
    keys = ("minimum", "exclusiveMinimum", "maximum")
    assert {key: schema[key] for key in keys if key in schema} == bounds


def _constraints(info: Any) -> list[Any]:
    """The bounds of a field, also those within `Annotated[…] | None`."""
    found = []
    waiting = [*info.metadata, info.annotation]
    while waiting:
        each = waiting.pop()
        found.append(each)
        waiting += getattr(each, "metadata", None) or getattr(each, "__metadata__", ())
        waiting += getattr(each, "__args__", ())
    return found


def test_an_entry_of_virtual_routers_has_what_the_daemons_has() -> None:
    names = {str(info.alias) for info in RouterSettings.model_fields.values()}
    secrets = {name for name in names if name.startswith("auth")}
    entry = SCHEMA["properties"]["virtualRouters"]["items"]["properties"]
    assert entry.keys() == names - secrets


def test_a_node_overrides_what_the_daemon_lets_it() -> None:
    from havip.settings import sources

    schema = SCHEMA["properties"]["nodeOverrides"]["additionalProperties"]["properties"]
    refused = {name for name, _ in sources.unknown_in_override(MODEL)}
    # The kubelet's probes and the scraper know one port; the rest is read at the start only.
    of_all_pods = {"listen", "metricsListen", "logFormat", "debug", "stateDirectory"}
    # And so is the second container.
    of_all_pods |= {name for name in MODEL if name.startswith(("kube", "loadBalancer"))}
    assert schema.keys() == MODEL.keys() - refused - of_all_pods


# Rancher's form ----------------------------------------------------------------------------


def questions() -> list[dict[str, Any]]:
    return [
        each for question in QUESTIONS for each in (question, *question.get("subquestions", ()))
    ]


@pytest.mark.parametrize("question", questions(), ids=lambda question: question["variable"])
def test_a_question_is_about_a_value(question: dict[str, Any]) -> None:
    name = question["variable"]
    schema = LEAVES[name]
    assert question["default"] == default(name)
    assert question["label"]
    wanted = {"int": {"integer", "number"}, "boolean": {"boolean"}}.get(
        question["type"], {"string"}
    )
    types = schema.get("type", "string")
    assert wanted & set([types] if isinstance(types, str) else types)
    assert question.get("max_length") == schema.get("maxLength")
    if "options" in question and "enum" in schema:
        assert question["options"] == schema["enum"]
    for bound, key in (("min", "minimum"), ("max", "maximum")):
        if bound in question:
            # Rancher's fields take whole numbers.
            assert question[bound] >= schema.get(key, question[bound]) or bound == "max"
            assert bound == "min" or question[bound] == schema[key]


def test_the_form_asks_for_what_is_required_and_no_condition_is_lost() -> None:
    variables = {each["variable"] for each in questions()}
    assert next(each for each in QUESTIONS if each.get("required"))["variable"] == "vipAddressCidr"
    for each in questions():
        if "show_if" in each:
            assert each["show_if"].partition("=")[0] in variables
        assert "group" in each or each not in QUESTIONS
    assert len({each["variable"] for each in questions()}) == len(questions())


def test_the_charts_own_words() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{chart["appVersion"]}"' in project
    assert chart["kubeVersion"].endswith("-0"), "or a version such as 1.30.4-gke.1 is no match"
    assert (CHART / chart["icon"].removeprefix("file://")).exists()
    resources = VALUES["pod"]["resources"]["requests"]
    annotations = chart["annotations"]
    (change,) = yaml.safe_load(annotations.pop("artifacthub.io/changes"))
    assert change["kind"] in {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert annotations == {
        "artifacthub.io/category": "networking",
        "artifacthub.io/license": "Apache-2.0",
        "catalog.cattle.io/display-name": "havip, the virtual IP",
        "catalog.cattle.io/kube-version": chart["kubeVersion"],
        "catalog.cattle.io/rancher-version": ">=2.7.0-0",
        # Where its pods may run, and which clusters the catalog offers it to.
        "catalog.cattle.io/os": "linux",
        "catalog.cattle.io/permits-os": "linux",
        "catalog.cattle.io/release-name": chart["name"],
        "catalog.cattle.io/type": "cluster-tool",
        "catalog.cattle.io/requests-cpu": resources["cpu"],
        "catalog.cattle.io/requests-memory": resources["memory"],
    }


def test_a_catalog_of_this_repository_has_one_chart() -> None:
    """Rancher offers every directory that has a Chart.yaml."""
    found = []
    for directory, inner, files in os.walk(ROOT):
        inner[:] = [name for name in inner if name[0] != "." and name not in ("build", "dist")]
        found += [Path(directory)] * ("Chart.yaml" in files)
    assert found == [CHART]


def test_rancher_shows_what_its_form_does_not_say() -> None:
    shown = " ".join((CHART / "app-readme.md").read_text(encoding="utf-8").split())
    assert "Pod Security level must be `privileged`" in shown
    assert "There is no public image yet" in shown
    groups = {each["group"] for each in QUESTIONS}
    for group in ("Image", "Health checks"):
        assert f"*{group}*" in shown
        assert group in groups
