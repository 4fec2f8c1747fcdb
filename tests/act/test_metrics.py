"""The exposition: what is counted, what is shown, and that the documentation says so."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from havip.act.metrics import FAMILIES, Metrics
from havip.core.actions import Count, Counter, RemoveAddress, Report, Topic
from havip.core.events import ProbeFinished, ProbeResult
from havip.core.reasons import Reason, State
from havip.core.view import NodeView
from havip.wire.drop import Drop

ROOT = Path(__file__).resolve().parents[2]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


def feed(metrics: Metrics) -> None:
    """One of everything that can be counted."""
    for counter in Counter:
        metrics.observe(Count(counter=counter, router="eth0/10", reason=Drop.CHECKSUM))
    metrics.observe(
        Report(
            topic=Topic.MOVED,
            router="eth0/10",
            state=State.ACTIVE,
            was=State.BACKUP,
            reason=Reason.ACTIVE_SILENT,
        )
    )
    metrics.observe_probe(ProbeFinished(check="service", result=ProbeResult.PASSED))
    metrics.observe_loop_delay(0.003)
    metrics.observe_kube_call("update leases", "ok")


def test_counts(view: NodeView):
    metrics = Metrics(lambda: view)
    for _ in range(3):
        metrics.observe(Count(counter=Counter.ADVERTS_SENT, router="eth0/10"))
        metrics.observe(
            Count(counter=Counter.ADVERTS_DROPPED, router="eth0/10", reason=Drop.AUTH_TAG)
        )
    assert value(metrics, "havip_adverts_sent_total", router="eth0/10") == 3
    assert value(metrics, "havip_adverts_dropped_total", router="eth0/10", reason="auth_tag") == 3


def test_decisions_and_moves(view: NodeView):
    metrics = Metrics(lambda: view)
    feed(metrics)
    metrics.observe(Report(topic=Topic.CHECK, reason=Reason.CHECK_FAILED))
    assert (
        value(
            metrics, "havip_moves_total", router="eth0/10", state="active", reason="active_silent"
        )
        == 1
    )
    assert (
        value(metrics, "havip_decisions_total", topic="check", router="", reason="check_failed")
        == 1
    )


def test_other_actions_count_nothing(view: NodeView):
    metrics = Metrics(lambda: view)
    before = {k for k in samples(metrics) if k[0].startswith("havip_")}
    vip = view.routers[0].vips[0]
    metrics.observe(RemoveAddress(interface="eth0", address=IPv4Interface(vip)))
    assert {k for k in samples(metrics) if k[0].startswith("havip_")} == before


def test_probes(view: NodeView):
    metrics = Metrics(lambda: view)
    metrics.observe_probe(
        ProbeFinished(check="service", result=ProbeResult.PASSED, duration_s=0.02)
    )
    metrics.observe_probe(
        ProbeFinished(check="service", result=ProbeResult.CLOSED, is_unasked=True)
    )
    assert value(metrics, "havip_probes_total", check="service", result="passed") == 1
    assert value(metrics, "havip_probes_total", check="service", result="closed") == 1
    assert value(metrics, "havip_probe_duration_seconds_count", check="service") == 1
    assert value(metrics, "havip_probe_duration_seconds_sum", check="service") == 0.02


def test_the_view_at_the_scrape(view: NodeView):
    shown = [view]
    metrics = Metrics(lambda: shown[0], lambda: 7, lambda: 3)

    def of_router(name: str, **labels: str) -> float | None:
        return value(metrics, f"havip_router_{name}", router="eth0/10", **labels)

    assert of_router("state", state="backup") == 1
    assert of_router("state", state="active") == 0
    assert of_router("effective_priority") == 60
    assert of_router("may_hold") == 0
    assert of_router("blocked", reason="check_failed") == 1
    assert of_router("last_reason", reason="higher_priority") == 1
    assert of_router("holding") == 0
    assert of_router("peers") == 1
    assert of_router("fast_detect_armed") == 1
    assert value(metrics, "havip_check_healthy", check="service") == 0
    assert value(metrics, "havip_check_healthy", check="kube_api") is None
    assert value(metrics, "havip_log_lines_dropped_total") == 7
    assert value(metrics, "havip_kube_events_dropped_total") == 3
    assert value(metrics, "havip_info", node="node-1", version="0.1.0") == 1

    active = replace(view.routers[0], state="active", is_holding=True, may_hold=True, blocked_by="")
    shown[0] = replace(view, routers=(active,))
    assert of_router("state", state="active") == 1
    assert of_router("holding") == 1
    assert of_router("blocked", reason="check_failed") is None


def test_a_node_that_is_about_to_leave(view: NodeView):
    shown = [view]
    metrics = Metrics(lambda: shown[0])
    assert view.node_object is not None

    def leaving(reason: str) -> float | None:
        return value(metrics, "havip_node_leaving", reason=reason)

    assert (leaving("node_cordoned"), leaving("node_tainted")) == (1, 0)
    shown[0] = replace(view, node_object=replace(view.node_object, leaving=""))
    assert (leaving("node_cordoned"), leaving("node_tainted")) == (0, 0)
    shown[0] = replace(view, node_object=replace(view.node_object, seen_at=None))
    assert leaving("node_cordoned") is None, "never seen"
    shown[0] = replace(view, node_object=None)
    assert leaving("node_cordoned") is None, "not watched"


def test_a_host_name_that_is_no_utf_8(view: NodeView):
    metrics = Metrics(lambda: replace(view, node_name="n\udcff"), lambda: 0)
    assert value(metrics, "havip_info", node="n\\udcff", version=view.version) == 1


def test_the_table_lists_exactly_what_is_exposed(view: NodeView):
    metrics = Metrics(lambda: view)
    feed(metrics)
    found: set[tuple[str, str, tuple[str, ...]]] = set()
    for family in text_string_to_metric_families(metrics.render().decode()):
        if family.name.startswith("process_"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = set(family.samples[0].labels) - {"le"}
        found.add((name, family.type, tuple(sorted(labels))))
    listed = {(f.name, f.kind, tuple(sorted(f.labels))) for f in FAMILIES}
    assert found == listed


def test_the_documentation_is_up_to_date():
    command = [sys.executable, "ci/generate_metrics_docs.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
