"""The alerts, evaluated by Prometheus's own promtool on series as the daemons expose them.

Notation of a series: `1x10` is 1 now and in the 10 next minutes, `_` is missing, `0+1x5` counts up.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import ROOT, render


def alerting(**values: Any) -> dict[str, Any]:
    """Values with the alerts, and with the PodMonitor whose metrics they ask for."""
    rule = {"enabled": True, **values}
    return {
        "loadBalancer": {"enabled": True},
        "metrics": {"enabled": True, "podMonitor": {"enabled": True}, "prometheusRule": rule},
    }


OF_THE_BALANCER = {"HavipBackendFailing", "HavipBalancerDown", "HavipBalancerFull"}
ALERTS = {
    *("HavipNoHolder", "HavipTwoHolders", "HavipFlapping"),
    *("HavipCheckFailing", "HavipBlocked", "HavipNoSpare"),
    *OF_THE_BALANCER,
}


def groups(values: dict[str, Any]) -> list[dict[str, Any]]:
    found = render(values).one("PrometheusRule")["spec"]["groups"]
    assert isinstance(found, list)
    return found


def series(metric: str, node: str, values: str, **labels: str) -> dict[str, str]:
    """One series of the pod on a node; its interface is called otherwise on `b`."""
    interface = "ens3" if node == "b" else "eth0"
    labels = {"job": "vip/havip", "node": node, "router": f"{interface}/10", **labels}
    text = ", ".join(f'{name}="{value}"' for name, value in labels.items() if value)
    return {"series": f"{metric}{{{text}}}", "values": values}


def good(metric: str = "") -> list[dict[str, str]]:
    """Two nodes, of which `a` holds; without one metric, which the test has its own of."""
    both = [
        series("havip_router_holding", "a", "1x60"),
        series("havip_router_holding", "b", "0x60"),
        series("havip_router_may_hold", "a", "1x60"),
        series("havip_router_may_hold", "b", "1x60"),
        series("havip_moves_total", "a", "1x60", state="active", reason="active_silent"),
        series("havip_check_healthy", "a", "1x60", router="", check="service"),
        series("havip_check_healthy", "b", "1x60", router="", check="service"),
        series("havip_router_blocked", "b", "_ 1 _x58", reason="check_pending"),
        *(
            series(metric, node, values, router="", **labels)
            for node in "ab"
            for metric, values, labels in (
                ("havip_check_healthy", "1x60", {"check": "balancer"}),
                ("havip_balancer_full", "0x60", {}),
                ("havip_balancer_backend_healthy", "1x60", {"backend": "cp-1"}),
                ("havip_balancer_backend_listed", "1x60", {"backend": "cp-1"}),
            )
        ),
    ]
    return [each for each in both if not metric or not each["series"].startswith(f"{metric}{{")]


def of_backend(node: str, healthy: str, listed: str = "1x60") -> list[dict[str, str]]:
    """A second backend, as the balancer of a node sees it."""
    return [
        series(f"havip_balancer_backend_{name}", node, values, router="", backend="cp-2")
        for name, values in (("healthy", healthy), ("listed", listed))
    ]


OF_A, OF_B = ({"job": "vip/havip", "node": node} for node in "ab")
CASES = [
    pytest.param(good(), {}, id="all is well"),
    pytest.param(
        [
            *good("havip_router_holding"),
            series("havip_router_holding", "a", "1x9 0x50"),
            series("havip_router_holding", "b", "0x60"),
        ],
        {"HavipNoHolder": (range(11, 60), {"vrid": "10"})},
        id="nobody holds",
    ),
    pytest.param(
        [
            *good("havip_router_holding"),
            series("havip_router_holding", "a", "1x9 0x50"),
            series("havip_router_holding", "b", "0x10 1x49"),
        ],
        {},
        id="nobody holds for a scrape",
    ),
    pytest.param(
        [],
        {"HavipNoHolder": (range(1, 60), {"job": "vip/havip"})},
        id="no pod answers",
    ),
    pytest.param(
        [
            *good("havip_router_holding"),
            series("havip_router_holding", "a", "1x60"),
            series("havip_router_holding", "b", "0x9 1x50"),
        ],
        {"HavipTwoHolders": (range(12, 60), {"vrid": "10"})},
        id="two hold",
    ),
    pytest.param(
        [
            *good("havip_router_holding"),
            series("havip_router_holding", "a", "1x10 0x49"),
            series("havip_router_holding", "b", "0x9 1x50"),
        ],
        {},
        id="two hold between two scrapes",
    ),
    pytest.param(
        [*good(), series("havip_router_holding", "b", "1x60", router="ens3/11")],
        {},
        id="two virtual routers",
    ),
    pytest.param(
        [*good(), series("havip_router_holding", "b", "1x60", job="edge/havip")],
        {},
        id="two releases",
    ),
    pytest.param(
        [
            *good("havip_moves_total"),
            series("havip_moves_total", "a", "1x9 2+1x3 5x46", state="active", reason="preempted"),
            series("havip_moves_total", "b", "1x9 2+1x3 5x46", state="active", reason="preempted"),
            series("havip_moves_total", "b", "1x9 2+9x3 29x46", state="backup", reason="x"),
        ],
        {"HavipFlapping": (range(11, 26), {"vrid": "10"})},
        id="flapping",
    ),
    pytest.param(
        [
            *good("havip_moves_total"),
            series("havip_moves_total", "a", "1x9 2x50", state="active", reason="active_left"),
            series("havip_moves_total", "b", "1x9 3x50", state="active", reason="active_left"),
        ],
        {},
        id="a roll-out",
    ),
    pytest.param(
        [
            *good("havip_check_healthy"),
            series("havip_check_healthy", "a", "1x60", router="", check="service"),
            series("havip_check_healthy", "b", "1x9 0x50", router="", check="service"),
        ],
        {"HavipCheckFailing": (range(15, 60), {**OF_B, "check": "service"})},
        id="check failing",
    ),
    pytest.param(
        [*good(), series("havip_router_blocked", "b", "_x9 1x50", reason="vrid_collision")],
        {
            "HavipBlocked": (
                range(10, 60),
                {**OF_B, "router": "ens3/10", "reason": "vrid_collision"},
            )
        },
        id="blocked",
    ),
    pytest.param(
        [*good(), series("havip_router_blocked", "b", "1x60", reason="check_failed")],
        {},
        id="blocked by a check",
    ),
    pytest.param(
        [
            *good("havip_router_may_hold"),
            series("havip_router_may_hold", "a", "1x60"),
            series("havip_router_may_hold", "b", "1x9 0x50"),
        ],
        {"HavipNoSpare": (range(20, 60), {"vrid": "10"})},
        id="no spare",
    ),
    pytest.param(
        [*good(), *of_backend("a", "1x9 0x50"), *of_backend("b", "1x19 0x40")],
        {"HavipBackendFailing": (range(15, 60), {"backend": "cp-2"})},
        id="a backend fails",
    ),
    pytest.param([*good(), *of_backend("a", "1x9 0x4 1x45")], {}, id="a backend restarts"),
    pytest.param(
        [*good(), *of_backend("a", "1x9 0x50", listed="1x9 0x50")], {}, id="a backend is drained"
    ),
    pytest.param(
        [
            *good("havip_check_healthy"),
            *(
                series("havip_check_healthy", node, values, router="", check="balancer")
                for node, values in (("a", "1x9 0x50"), ("b", "1x29 0x10 1x19"))
            ),
        ],
        {
            "HavipCheckFailing": (range(15, 60), {**OF_A, "check": "balancer"}),
            "HavipBalancerDown": (range(31, 41), {"job": "vip/havip"}),
        },
        id="no balancer works",
    ),
    pytest.param(
        [
            *good("havip_balancer_full"),
            series("havip_balancer_full", "a", "0x60", router=""),
            series("havip_balancer_full", "b", "0x9 1x50", router=""),
        ],
        {"HavipBalancerFull": (range(11, 60), OF_B)},
        id="a balancer is full",
    ),
]


@pytest.mark.parametrize(("inputs", "alerts"), CASES)
def test_alerts(
    inputs: list[dict[str, str]],
    alerts: dict[str, tuple[range, dict[str, str]]],
    tmp_path: Path,
) -> None:
    """Each alert is there exactly as long as it should, and no other is."""
    rules = groups(alerting())
    severity = {}
    for rule in rules[0]["rules"]:
        severity[rule["alert"]] = rule["labels"]["severity"]
        # promtool would compare the words too, figures included.
        del rule["annotations"]
    assert severity.keys() == ALERTS
    expected = []
    for name in sorted(ALERTS):
        during, labels = alerts.get(name, (range(0), {}))
        firing = {"exp_labels": {"severity": severity[name], **labels}}
        edges = {during.start - 1, during.start, during.stop - 1, during.stop}
        expected += [
            {
                "alertname": name,
                "eval_time": f"{minute}m",
                "exp_alerts": [firing] if minute in during else [],
            }
            for minute in sorted({0, 5, 20, 30, 45, 59} | edges)
            if 0 <= minute < 60
        ]
    told = promtool(
        tmp_path,
        rules,
        {"interval": "1m", "input_series": inputs, "alert_rule_test": expected},
    )
    assert "SUCCESS" in told


def promtool(directory: Path, rules: list[dict[str, Any]], test: dict[str, Any]) -> str:
    (directory / "rules.yaml").write_text(yaml.safe_dump({"groups": rules}))
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [test]}
    (directory / "test.yaml").write_text(yaml.safe_dump(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(directory / "test.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("inputs", "name", "labels", "summary"),
    [
        ([], "HavipNoHolder", {"job": "vip/havip"}, "vip/havip: nobody holds the virtual IP."),
        (
            [series("havip_router_holding", "a", "0x60")],
            "HavipNoHolder",
            {"vrid": "10"},
            "vip/havip: nobody holds the virtual IP of VRID 10.",
        ),
        (
            [series("havip_router_holding", node, "1x60") for node in "ab"],
            "HavipTwoHolders",
            {"vrid": "10"},
            "vip/havip: 2 nodes hold the virtual IP of VRID 10.",
        ),
        (
            [series("havip_check_healthy", "b", "0x60", router="", check="kubelet")],
            "HavipCheckFailing",
            {"node": "b", "check": "kubelet"},
            "vip/havip: the kubelet check fails on b.",
        ),
        (
            [*of_backend("a", "0x60"), *of_backend("b", "0x60")],
            "HavipBackendFailing",
            {"backend": "cp-2"},
            "vip/havip: backend cp-2 fails the checks of 2 balancers.",
        ),
        (
            [series("havip_balancer_full", "b", "1x60", router="")],
            "HavipBalancerFull",
            {"job": "vip/havip", "node": "b"},
            "vip/havip: the balancer on b is full, and new clients wait.",
        ),
    ],
)
def test_the_words(
    inputs: list[dict[str, str]], name: str, labels: dict[str, str], summary: str, tmp_path: Path
) -> None:
    rules = groups(alerting())
    (rule,) = (rule for rule in rules[0]["rules"] if rule["alert"] == name)
    own = {"job": "vip/havip"} if "check" in labels else {}
    firing = {
        "exp_labels": {**rule["labels"], **own, **labels},
        "exp_annotations": {"summary": summary, "description": rule["annotations"]["description"]},
    }
    promtool(
        tmp_path,
        rules,
        {
            "interval": "1m",
            "input_series": inputs,
            "alert_rule_test": [{"alertname": name, "eval_time": "30m", "exp_alerts": [firing]}],
        },
    )


def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": groups(alerting())}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_can_be_left_out() -> None:
    for alert in ALERTS:
        name = alert.removeprefix("Havip")
        (group,) = groups(alerting(alerts={name[0].lower() + name[1:]: False}))
        left = {rule["alert"] for rule in group["rules"]}
        assert ALERTS - left == {alert}


def test_without_a_load_balancer_there_are_no_alerts_of_it() -> None:
    (group,) = groups(alerting() | {"loadBalancer": {"enabled": False}})
    assert {rule["alert"] for rule in group["rules"]} == ALERTS - OF_THE_BALANCER


def test_labels_and_the_job_are_the_users() -> None:
    labels = {"team": "net", "severity": "page"}
    # A job that the PodMonitor has nothing to do with.
    values = {
        "metrics": {"prometheusRule": {"enabled": True, "job": "mine", "alertLabels": labels}}
    }
    (group,) = groups(values)
    for each in group["rules"]:
        assert each["labels"] == {"severity": "page", "team": "net"}
        assert 'job="mine"' in each["expr"]


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    listed = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    asked = {
        name
        for rule in groups(alerting())[0]["rules"]
        for name in re.findall(r"havip_\w+", rule["expr"])
    }
    assert len(asked) == 8
    for name in asked:
        assert f"| `{name}` |" in listed
