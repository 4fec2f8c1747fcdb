"""Figures for Prometheus: what was counted since the start, and what is true at the scrape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from havip.core.actions import Action, Count, Report, Topic
from havip.core.actions import Counter as Counted
from havip.core.events import ProbeFinished
from havip.core.node_state import LEAVING
from havip.core.reasons import State
from havip.core.view import BackendView, BalancerView, CheckView, NodeView, RouterView

# Another series for each, that says when it was first counted; nobody asks that of a daemon
# that has process_start_time_seconds.
disable_created_metrics()  # type: ignore[no-untyped-call]

_Labelled = TypeVar("_Labelled", GaugeMetricFamily, CounterMetricFamily)
_LOOP_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_PROBE_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric, as the documentation lists it."""

    name: str
    """As exposed: counters with `_total`."""
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


def _counted(counter: Counted, labels: tuple[str, ...], meaning: str) -> tuple[Counted, Family]:
    return counter, Family(f"havip_{counter}_total", "counter", labels, meaning)


_COUNTED = dict(
    [
        _counted(Counted.ADVERTS_SENT, ("router",), "VRRP adverts sent."),
        _counted(Counted.ADVERTS_RECEIVED, ("router",), "VRRP adverts received and used."),
        _counted(
            Counted.ADVERTS_DROPPED,
            ("router", "reason"),
            "VRRP packets received and not used, by the check that they failed.",
        ),
        _counted(
            Counted.PRIORITY_ZERO_SENT, ("router",), "Adverts of priority 0 sent: I am leaving."
        ),
        _counted(
            Counted.PRIORITY_ZERO_RECEIVED,
            ("router",),
            "Adverts of priority 0 received: the holder is leaving.",
        ),
        _counted(
            Counted.ANNOUNCEMENTS,
            ("router",),
            "Gratuitous ARP requests and unsolicited neighbour advertisements sent.",
        ),
        _counted(
            Counted.SUSPICIONS,
            ("router", "reason"),
            "Times the holder was late and its kernel was asked, by how that ended.",
        ),
        _counted(
            Counted.ADDRESS_RENEWALS, ("router",), "Renewals of the lifetime of a held address."
        ),
        _counted(
            Counted.ADDRESS_CONFLICTS, ("router",), "Times another host answered for the VIP."
        ),
        _counted(Counted.FRAMES_MALFORMED, ("router",), "ARP and ND frames not understood."),
        _counted(
            Counted.ACTIONS_FAILED,
            ("router", "reason"),
            "Actions that the kernel refused, by kind; the router is empty.",
        ),
        _counted(
            Counted.LEASE_WRITES,
            ("router",),
            "Times that this node wrote the Lease: claims, renewals, releases.",
        ),
        _counted(
            Counted.LEASE_FAILURES,
            ("router", "reason"),
            "Requests for the Lease that failed, by HTTP status or by how; losing a claim is none.",
        ),
        _counted(
            Counted.CLOCK_ALARMS,
            ("router",),
            "Correctly signed adverts whose time is out of order.",
        ),
    ]
)
_MOVES = Family(
    "havip_moves_total",
    "counter",
    ("router", "state", "reason"),
    "Changes of a virtual router's state, by the new state.",
)
_DECISIONS = Family(
    "havip_decisions_total",
    "counter",
    ("topic", "router", "reason"),
    "Log lines about decisions, changes of state included.",
)
_PROBES = Family("havip_probes_total", "counter", ("check", "result"), "Finished probes.")
_PROBE_SECONDS = Family(
    "havip_probe_duration_seconds", "histogram", ("check",), "How long probes took."
)
_LOOP_DELAY = Family(
    "havip_loop_delay_seconds", "histogram", (), "How late the loop woke, against its timer."
)
_LINES_DROPPED = Family(
    "havip_log_lines_dropped_total",
    "counter",
    (),
    "Log lines dropped because whoever reads them did not keep up.",
)
_KUBE_CALLS = Family(
    "havip_kube_calls_total",
    "counter",
    ("call", "result"),
    "Calls to the Kubernetes API, checks apart, by `ok`, the HTTP status, or how they failed.",
)
_EVENTS_DROPPED = Family(
    "havip_kube_events_dropped_total",
    "counter",
    (),
    "Events that the Kubernetes API did not take, or not in time.",
)
_LEAVING = Family(
    "havip_node_leaving",
    "gauge",
    ("reason",),
    "1 for why Kubernetes has this node leave, else 0; absent while its Node was never seen.",
)
_INFO = Family("havip_info", "gauge", ("node", "version"), "Always 1.")
_READY = Family(
    "havip_ready",
    "gauge",
    (),
    "1 when it takes part, every check has a result, and every check of weight 0 has passed once.",
)
_STATE = Family(
    "havip_router_state", "gauge", ("router", "state"), "1 for the state the router is in, else 0."
)
_STATE_SINCE = Family(
    "havip_router_state_since_timestamp_seconds",
    "gauge",
    ("router",),
    "When the state last changed, seconds since the epoch.",
)
_LAST_REASON = Family(
    "havip_router_last_reason", "gauge", ("router", "reason"), "1 for why the state last changed."
)
_HOLDING = Family(
    "havip_router_holding", "gauge", ("router",), "1 while the VIP is on this node's interface."
)
_MAY_HOLD = Family("havip_router_may_hold", "gauge", ("router",), "0 while something forbids it.")
_BLOCKED = Family(
    "havip_router_blocked", "gauge", ("router", "reason"), "1 for what forbids holding."
)
_PRIORITY = Family("havip_router_priority", "gauge", ("router",), "Priority as configured.")
_EFFECTIVE = Family(
    "havip_router_effective_priority", "gauge", ("router",), "Priority after the checks' weights."
)
_PEERS = Family(
    "havip_router_peers", "gauge", ("router",), "Other routers of this VRID that are heard."
)
_INTERVAL = Family(
    "havip_router_advert_interval_seconds", "gauge", ("router",), "Announced advert interval."
)
_ARMED = Family(
    "havip_router_fast_detect_armed",
    "gauge",
    ("router",),
    "1 while a silent holder's kernel would be asked.",
)
_HMAC_KEY = Family(
    "havip_router_hmac_key",
    "gauge",
    ("router",),
    "Id of the HMAC key that signs now; absent while nothing is signed.",
)
_LEASE_TRANSITIONS = Family(
    "havip_router_lease_transitions",
    "gauge",
    ("router",),
    "How often the Lease has changed its holder; absent where VRRP elects.",
)
_HEALTHY = Family(
    "havip_check_healthy", "gauge", ("check",), "1 or 0; absent before the first result."
)
_WEIGHT = Family("havip_check_weight", "gauge", ("check",), "Configured weight; 0 forbids holding.")
_CONSECUTIVE = Family(
    "havip_check_consecutive_results",
    "gauge",
    ("check",),
    "How many results in a row were like the last.",
)
_LAST_PROBE = Family(
    "havip_check_last_probe_timestamp_seconds",
    "gauge",
    ("check",),
    "When the last probe finished, seconds since the epoch.",
)

_BALANCER_UP = Family(
    "havip_balancer_up",
    "gauge",
    (),
    "1 while HAProxy answers, else 0; absent without a load balancer.",
)
_BALANCER_SESSIONS = Family(
    "havip_balancer_sessions", "gauge", (), "Connections of clients to the balancer now."
)
_BALANCER_LIMIT = Family(
    "havip_balancer_sessions_limit",
    "gauge",
    (),
    "Connections that may be open at once (`loadBalancerMaxConnections`); further ones wait.",
)
_BALANCER_FULL = Family(
    "havip_balancer_full",
    "gauge",
    (),
    "1 from when as many are open as may be, until a tenth of them has ended, else 0.",
)
_BALANCER_SESSIONS_TOTAL = Family(
    "havip_balancer_sessions_total",
    "counter",
    (),
    "Connections of clients since HAProxy was started.",
)


def _of_backend(name: str, kind: Literal["counter", "gauge"], meaning: str) -> Family:
    return Family(f"havip_balancer_backend_{name}", kind, ("backend",), meaning)


_BACKEND_HEALTHY = _of_backend(
    "healthy", "gauge", "1 while HAProxy's checks of the backend pass, else 0."
)
_BACKEND_LISTED = _of_backend(
    "listed", "gauge", "1 while it is one of the backends, 0 once it is listed no more."
)
_BACKEND_SESSIONS = _of_backend("sessions", "gauge", "Connections to the backend now.")
_BACKEND_SESSIONS_TOTAL = _of_backend(
    "sessions_total", "counter", "Connections to the backend since it was added."
)
_BACKEND_RECEIVED = _of_backend(
    "received_bytes_total", "counter", "Bytes from clients to the backend."
)
_BACKEND_SENT = _of_backend("sent_bytes_total", "counter", "Bytes from the backend to clients.")
_BACKEND_ERRORS = _of_backend(
    "connection_errors_total", "counter", "Connections to the backend that failed to open."
)
_BACKEND_RETRIES = _of_backend("retries_total", "counter", "Attempts to connect anew.")
_BACKEND_REDISPATCHES = _of_backend(
    "redispatches_total", "counter", "Connections that went to another backend instead."
)

FAMILIES: tuple[Family, ...] = (
    _INFO,
    _READY,
    _LEAVING,
    _STATE,
    _STATE_SINCE,
    _LAST_REASON,
    _HOLDING,
    _MAY_HOLD,
    _BLOCKED,
    _PRIORITY,
    _EFFECTIVE,
    _PEERS,
    _INTERVAL,
    _ARMED,
    _HMAC_KEY,
    _LEASE_TRANSITIONS,
    _MOVES,
    _DECISIONS,
    *_COUNTED.values(),
    _HEALTHY,
    _WEIGHT,
    _CONSECUTIVE,
    _LAST_PROBE,
    _PROBES,
    _PROBE_SECONDS,
    _KUBE_CALLS,
    _EVENTS_DROPPED,
    _BALANCER_UP,
    _BALANCER_SESSIONS,
    _BALANCER_LIMIT,
    _BALANCER_FULL,
    _BALANCER_SESSIONS_TOTAL,
    _BACKEND_HEALTHY,
    _BACKEND_LISTED,
    _BACKEND_SESSIONS,
    _BACKEND_SESSIONS_TOTAL,
    _BACKEND_RECEIVED,
    _BACKEND_SENT,
    _BACKEND_ERRORS,
    _BACKEND_RETRIES,
    _BACKEND_REDISPATCHES,
    _LOOP_DELAY,
    _LINES_DROPPED,
)
"""Every metric of havip's own; beside them stand `process_*` of the Prometheus client."""

RouterFigure = Callable[[RouterView], float | None]
_ROUTER_FIGURES: tuple[tuple[Family, RouterFigure], ...] = (
    (_HOLDING, lambda router: router.is_holding),
    (_MAY_HOLD, lambda router: router.may_hold),
    (_PRIORITY, lambda router: router.priority),
    (_EFFECTIVE, lambda router: router.effective_priority),
    (_PEERS, lambda router: len(router.peers)),
    (_INTERVAL, lambda router: router.advert_interval_s),
    (_ARMED, lambda router: router.fast_detect == "armed"),
    (_HMAC_KEY, lambda router: router.hmac_key),
    (_LEASE_TRANSITIONS, lambda router: router.lease.transitions if router.lease else None),
)

CheckFigure = Callable[[CheckView], float | None]
_CHECK_FIGURES: tuple[tuple[Family, CheckFigure], ...] = (
    (_HEALTHY, lambda check: check.healthy),
    (_WEIGHT, lambda check: check.weight),
    (_CONSECUTIVE, lambda check: check.consecutive),
)

BackendFigure = Callable[[BackendView], float]
_BACKEND_FIGURES: tuple[tuple[Family, BackendFigure], ...] = (
    (_BACKEND_HEALTHY, lambda backend: backend.healthy),
    (_BACKEND_LISTED, lambda backend: backend.listed),
    (_BACKEND_SESSIONS, lambda backend: backend.sessions),
    (_BACKEND_SESSIONS_TOTAL, lambda backend: backend.sessions_total),
    (_BACKEND_RECEIVED, lambda backend: backend.bytes_in_total),
    (_BACKEND_SENT, lambda backend: backend.bytes_out_total),
    (_BACKEND_ERRORS, lambda backend: backend.connection_errors_total),
    (_BACKEND_RETRIES, lambda backend: backend.retries_total),
    (_BACKEND_REDISPATCHES, lambda backend: backend.redispatches_total),
)


class Metrics:
    """Collects and renders the figures of one daemon.

    Args:
        snapshot: the node as it is now; asked at each scrape.
        lines_dropped: how many log lines were dropped since the start.
        events_dropped: how many Events of Kubernetes were.
    """

    def __init__(
        self,
        snapshot: Callable[[], NodeView],
        lines_dropped: Callable[[], int] = lambda: 0,
        events_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._registry = CollectorRegistry()
        self._counters = {key: self._counter(family) for key, family in _COUNTED.items()}
        self._moves = self._counter(_MOVES)
        self._decisions = self._counter(_DECISIONS)
        self._probes = self._counter(_PROBES)
        self._kube_calls = self._counter(_KUBE_CALLS)
        self._probe_seconds = Histogram(
            _PROBE_SECONDS.name,
            _PROBE_SECONDS.meaning,
            _PROBE_SECONDS.labels,
            buckets=_PROBE_BUCKETS_S,
            registry=self._registry,
        )
        self._loop_delay = Histogram(
            _LOOP_DELAY.name,
            _LOOP_DELAY.meaning,
            buckets=_LOOP_BUCKETS_S,
            registry=self._registry,
        )
        # Looking a labelled counter up costs more than counting; a flood of malformed packets
        # is counted ten thousand times a second.
        self._known: dict[tuple[Counted, str, str], Counter] = {}
        self._registry.register(_NodeCollector(snapshot, lines_dropped, events_dropped))
        ProcessCollector(registry=self._registry)

    def observe(self, action: Action) -> None:
        """Count what a Count or a Report says; every other action changes nothing."""
        match action:
            case Count():
                self._count(action)
            case Report():
                reason = action.reason or ""
                self._decisions.labels(action.topic.value, action.router, str(reason)).inc()
                if action.topic is Topic.MOVED and action.state is not None:
                    self._moves.labels(action.router, action.state.value, str(reason)).inc()

    def observe_probe(self, finished: ProbeFinished) -> None:
        """Count a finished probe; a close nobody asked for is one too, without a duration."""
        self._probes.labels(finished.check, finished.result.value).inc()
        if not finished.is_unasked:
            self._probe_seconds.labels(finished.check).observe(finished.duration_s)

    def observe_kube_call(self, call: str, result: str) -> None:
        """Count a call to the Kubernetes API, by how it ended."""
        self._kube_calls.labels(call, result).inc()

    def observe_loop_delay(self, delay_s: float) -> None:
        """Note how late the loop woke."""
        self._loop_delay.observe(delay_s)

    def render(self) -> bytes:
        """The exposition in Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def _counter(self, family: Family) -> Counter:
        name = family.name.removesuffix("_total")
        return Counter(name, family.meaning, family.labels, registry=self._registry)

    def _count(self, count: Count) -> None:
        key = (count.counter, count.router, str(count.reason))
        child = self._known.get(key)
        if child is None:
            labels = {"router": count.router, "reason": str(count.reason)}
            wanted = _COUNTED[count.counter].labels
            child = self._counters[count.counter].labels(*(labels[name] for name in wanted))
            self._known[key] = child
        child.inc()


class _NodeCollector(Collector):
    """What the node's view says, read at the scrape."""

    def __init__(
        self,
        snapshot: Callable[[], NodeView],
        lines_dropped: Callable[[], int],
        events_dropped: Callable[[], int],
    ) -> None:
        self._snapshot = snapshot
        self._dropped = ((_LINES_DROPPED, lines_dropped), (_EVENTS_DROPPED, events_dropped))

    def collect(self) -> Iterable[Metric]:
        view = self._snapshot()
        # The wall clock moves; the view's instants are converted when they are shown.
        utc_offset_s = time.time() - time.monotonic()
        yield _gauge(_INFO, [((view.node_name, view.version), 1)])
        yield _gauge(_READY, [((), view.ready)])
        yield _gauge(_LEAVING, _leaving(view))
        yield _gauge(_STATE, _states(view))
        yield _gauge(_STATE_SINCE, [((r.name,), r.since_at + utc_offset_s) for r in view.routers])
        yield _gauge(_LAST_REASON, [((r.name, r.reason), 1) for r in view.routers if r.reason])
        yield _gauge(_BLOCKED, [((r.name, r.blocked_by), 1) for r in view.routers if r.blocked_by])
        for family, of_router in _ROUTER_FIGURES:
            yield _gauge(
                family,
                [((r.name,), value) for r in view.routers if (value := of_router(r)) is not None],
            )
        for family, of_check in _CHECK_FIGURES:
            yield _gauge(
                family,
                [((c.name,), value) for c in view.checks if (value := of_check(c)) is not None],
            )
        yield _gauge(
            _LAST_PROBE,
            [((c.name,), c.last_at + utc_offset_s) for c in view.checks if c.last_at is not None],
        )
        if view.balancer is not None:
            yield from _of_balancer(view.balancer)
        for family, dropped in self._dropped:
            yield CounterMetricFamily(family.name, family.meaning, value=dropped())


def _leaving(view: NodeView) -> Iterator[tuple[tuple[str], float]]:
    node = view.node_object
    if node is not None and node.seen_at is not None:
        for reason in LEAVING:
            yield (reason.value,), node.leaving == reason.value


def _states(view: NodeView) -> Iterator[tuple[tuple[str, str], float]]:
    for router in view.routers:
        for state in State:
            yield (router.name, state.value), router.state == state.value


def _of_balancer(balancer: BalancerView) -> Iterator[Metric]:
    yield _gauge(_BALANCER_UP, [((), balancer.answers)])
    if not balancer.answers:
        return
    yield _gauge(_BALANCER_SESSIONS, [((), balancer.sessions)])
    yield _gauge(_BALANCER_LIMIT, [((), balancer.sessions_limit)])
    yield _gauge(_BALANCER_FULL, [((), balancer.full)])
    yield _counter(_BALANCER_SESSIONS_TOTAL, [((), balancer.sessions_total)])
    for family, of_backend in _BACKEND_FIGURES:
        make = _gauge if family.kind == "gauge" else _counter
        yield make(family, [((each.name,), of_backend(each)) for each in balancer.backends])


Samples = Iterable[tuple[tuple[str, ...], float]]


def _gauge(family: Family, samples: Samples) -> GaugeMetricFamily:
    return _filled(GaugeMetricFamily(family.name, family.meaning, labels=family.labels), samples)


def _counter(family: Family, samples: Samples) -> CounterMetricFamily:
    return _filled(CounterMetricFamily(family.name, family.meaning, labels=family.labels), samples)


def _filled(metric: _Labelled, samples: Samples) -> _Labelled:
    for labels, value in samples:
        # A host name may hold any bytes, and the exposition is UTF-8 (os.fsdecode).
        shown = [label.encode("utf-8", "backslashreplace").decode() for label in labels]
        metric.add_metric(shown, float(value))
    return metric
