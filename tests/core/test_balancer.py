"""The balancer's decisions: what HAProxy should have, and when a node is not fit for the VIP."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from driver import V4, V6, Driver, Net, router

from havip.core.actions import ChangeBalancer, KeepBackends, Report, Topic
from havip.core.balancer import BACKENDS, BALANCER, Balancer, carried_over, unheard
from havip.core.config import Backend, Balance, BalancerConfig
from havip.core.events import (
    BackendsListed,
    BackendsUnlisted,
    BalancerAnswered,
    BalancerCaOutdated,
    BalancerSilent,
    ProbeResult,
    Reconfigured,
)
from havip.core.haproxy import (
    GRACE_S,
    Answer,
    Change,
    Server,
    called,
    fingerprint,
    read_answer,
    server_of,
)
from havip.core.reasons import Reason, State

A = Backend("a", ip_address("192.0.2.1"), 6443)
B = Backend("b", ip_address("192.0.2.2"), 6443)
C = Backend("c", ip_address("192.0.2.3"), 6443)
Z = Backend("z", ip_address("192.0.2.26"), 6443)
STATIC = BalancerConfig(binds=(ip_address("0.0.0.0"),), backends=(A, B))
DISCOVERING = replace(STATIC, backends=None)


def server(backend: Backend, **changes: Any) -> Server:
    up: dict[str, Any] = {
        "name": server_of(backend),
        "endpoint": backend.endpoint,
        "status": "UP",
        "check": "L7OK",
        "check_code": "200",
        "check_detail": "",
        "changed_s": 3600,
    }
    counts = (
        *("sessions", "sessions_total", "bytes_in", "bytes_out"),
        *("connection_errors", "retries", "redispatches"),
    )
    return Server(**{**up, **dict.fromkeys(counts, 0), **changes})


def down(backend: Backend, **changes: Any) -> Server:
    failed = {"status": "DOWN", "check": "L4CON", "check_detail": "Connection refused"}
    return server(backend, **{"check_code": "", **failed, **changes})


def answered(*servers: Server, config: BalancerConfig = STATIC, **changes: Any) -> BalancerAnswered:
    facts: dict[str, Any] = {
        "version": "2.6.12-1",
        "description": f"havip {fingerprint(config)}",
        "process": 17,
        "uptime_s": 60,
        "is_stopping": False,
        "frontend": "OPEN",
        "sessions": 3,
        "sessions_limit": 100,
        "sessions_total": 9,
    }
    return BalancerAnswered(answer=Answer(servers=servers, **{**facts, **changes}))


def changes(actions: list[Any]) -> list[tuple[Change, str]]:
    return [
        (each.change, called(each.name)) for each in actions if isinstance(each, ChangeBalancer)
    ]


def told(actions: list[Any]) -> list[tuple[Reason | None, object]]:
    return [(each.reason, each.fields["backend"]) for each in actions if isinstance(each, Report)]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        pytest.param((server(A), server(B)), [], id="as it should be"),
        pytest.param((server(A),), [(Change.ADD, "b")], id="one is missing"),
        pytest.param((), [(Change.ADD, "a"), (Change.ADD, "b")], id="started anew without any"),
        pytest.param(
            (server(A), server(B, status="MAINT", check="")),
            [(Change.PROVE, "b")],
            id="half added: made, and no more",
        ),
        pytest.param(
            (server(A), server(B, status="no check", check="")),
            [(Change.PROVE, "b")],
            id="somebody has ended its checks",
        ),
        pytest.param(
            (server(A), server(B, status="MAINT")),
            [(Change.PROVE, "b")],
            id="listed again, half removed",
        ),
        pytest.param(
            (server(A), server(B, status="DRAIN 1/2", check="INI")),
            [],
            id="half added: checked, and not yet taken for down",
        ),
        pytest.param((server(A), down(B, check="INI")), [], id="added, not asked yet"),
        pytest.param(
            (server(A), server(B, status="DOWN 1/2")), [], id="added, the first check passed"
        ),
        pytest.param(
            (server(A), server(B, status="DRAIN")),
            [(Change.ENABLE, "b")],
            id="added and found up, or listed again",
        ),
        pytest.param(
            (server(A), server(B, status="DRAIN 1/2", check="L7TOUT")),
            [(Change.ENABLE, "b")],
            id="listed again, with a failed check that does not count yet",
        ),
        pytest.param(
            (server(A), server(B), server(C, sessions=2)),
            [(Change.DRAIN, "c")],
            id="not listed, and in use",
        ),
        pytest.param(
            (server(A), server(B), server(C, status="DRAIN", sessions=2)),
            [],
            id="not listed, and draining",
        ),
        pytest.param(
            (server(A), server(B), server(C, status="DRAIN")),
            [(Change.REMOVE, "c")],
            id="not listed, and drained",
        ),
        pytest.param(
            (server(C, sessions=2),),
            [(Change.ADD, "a"), (Change.ADD, "b")],
            id="all replaced: the old one serves on",
        ),
        pytest.param(
            (down(A), down(B, check="INI"), server(C), down(Z)),
            [],
            id="all replaced: none of the new ones is healthy yet",
        ),
        pytest.param(
            (server(A), down(B), server(C, sessions=2), down(Z)),
            [(Change.DRAIN, "c"), (Change.REMOVE, "z")],
            id="all replaced: the first of the new ones is healthy",
        ),
        pytest.param(
            (down(A), down(B), server(C, status="DRAIN")),
            [(Change.REMOVE, "c")],
            id="not listed, drained, and no other is left: it stays so",
        ),
        pytest.param(
            (server(A), server(B, endpoint="192.0.2.9:6443")),
            [(Change.REMOVE, "b")],
            id="moved by hand",
        ),
        pytest.param(
            (down(A), server(B, endpoint="192.0.2.9:6443")),
            [(Change.REMOVE, "b")],
            id="moved by hand, and in the way of what is listed",
        ),
        pytest.param(
            (server(A), down(B, check="L4TOUT", check_detail="", sessions=4)),
            [(Change.CUT, "b")],
            id="its host is gone, and clients wait",
        ),
        pytest.param(
            (server(A), down(B, check="L4TOUT", check_detail="", sessions=4, changed_s=4)),
            [],
            id="its host is gone, and HAProxy may yet connect elsewhere",
        ),
        pytest.param(
            (server(A), down(B, check="L4TOUT", check_detail="", sessions=4, changed_s=5)),
            [(Change.CUT, "b")],
            id="its host is gone, and those were redispatched",
        ),
        pytest.param(
            (server(A), down(B, check="L6TOUT", check_detail="", sessions=4)),
            [],
            id="slow: its kernel answers",
        ),
        pytest.param(
            (server(A), down(B, check_detail="No route to host", sessions=4)),
            [(Change.CUT, "b")],
            id="its host does not answer ARP, and clients wait",
        ),
        pytest.param((server(A), down(B, sessions=4)), [], id="its process ends in its own way"),
        pytest.param(
            (server(A), down(B, check="L7STS", check_code="500", sessions=4)),
            [],
            id="not ready: what it has goes on",
        ),
    ],
)
def test_only_the_difference_is_said(
    servers: tuple[Server, ...], expected: list[tuple[Change, str]]
) -> None:
    balancer = Balancer(STATIC)
    for _ in range(2):  # what was lost is said again
        _, actions = balancer.handle_answer(answered(*servers))
        assert changes(actions) == expected


def test_a_backend_that_moves_is_added_at_once_and_its_old_place_is_drained() -> None:
    balancer = Balancer(STATIC)
    old = replace(B, address=ip_address("192.0.2.9"))
    _, actions = balancer.handle_answer(answered(server(A), server(old, sessions=2)))
    assert [(each.change, each.name) for each in actions if isinstance(each, ChangeBalancer)] == [
        (Change.ADD, "b_192.0.2.2:6443"),
        (Change.DRAIN, "b_192.0.2.9:6443"),
    ]
    balancer.handle_answer(
        answered(server(A), server(B), server(old, sessions=2, status="DRAIN"), server(C))
    )
    shown = [(each.name, each.endpoint, each.listed) for each in balancer.view().backends]
    assert shown == [
        ("a", A.endpoint, True),
        ("b", B.endpoint, True),
        ("b_192.0.2.9:6443", old.endpoint, False),
        ("c", C.endpoint, False),
    ]


def test_one_that_is_down_and_not_listed_is_told_to_drain_once() -> None:
    """HAProxy shows a server that is down as `DOWN`, drained or not."""
    balancer = Balancer(STATIC)
    failing = down(C, check="L7STS", check_code="500", sessions=2)
    told = [
        ((server(A), failing), [(Change.DRAIN, "c")]),
        ((server(A), failing), []),
        ((server(A), replace(failing, status="DOWN 1/2")), []),
        # What was said is lost: it is seen once it is up.
        ((server(A), server(C, sessions=2)), [(Change.DRAIN, "c")]),
        ((server(A), server(C, status="DRAIN", sessions=2)), []),
        ((server(A), failing), [(Change.DRAIN, "c")]),
        ((server(A), replace(failing, sessions=0)), [(Change.REMOVE, "c")]),
    ]
    for servers, expected in told:
        _, actions = balancer.handle_answer(answered(*servers, server(B)))
        assert changes(actions) == expected


def do(action: ChangeBalancer, there: dict[str, Server]) -> None:
    """As a HAProxy does whose checks pass at once, and whose every server then has a watch."""
    old = there.get(action.name)
    if action.change is Change.ADD:
        assert action.backend
        there.setdefault(action.name, server(action.backend, status="DRAIN"))
    elif old and action.change is Change.REMOVE and old.sessions == 0:
        del there[action.name]
    elif old:
        made: dict[Change, dict[str, Any]] = {
            Change.ENABLE: {"status": "UP", "sessions": 1},
            Change.DRAIN: {"status": "DRAIN"},
            Change.CUT: {"sessions": 0},
        }
        there[action.name] = replace(old, **made.get(action.change, {}))


def test_haproxy_never_has_more_servers_than_an_answer_can_tell_of() -> None:
    """A list that is replaced again and again, while every connection lasts."""
    balancer = Balancer(STATIC)
    there: dict[str, Server] = {}
    waiting: list[Any] = []
    for generation, answers in enumerate([1, 2, 3, 4, 5] * 4 + [20]):
        listed = [Backend(f"b{generation}", A.address, 1 + each) for each in range(BACKENDS)]
        balancer.reconfigure(replace(STATIC, backends=tuple(listed)))
        for _ in range(answers):
            _, decided = balancer.handle_answer(answered(*there.values()))
            # Done an answer late, when there may be another list.
            for action in waiting:
                if isinstance(action, ChangeBalancer):
                    do(action, there)
            waiting = decided
            rows = "".join(f"apiserver,{name}\n" for name in there)
            text = f"# pxname,svname\nclients,FRONTEND\n{rows}apiserver,BACKEND\n"
            assert len(read_answer("Version: 3.0.0", text).servers) == len(there)
    assert {name for name, each in there.items() if each.status == "UP"} == {
        server_of(each) for each in listed
    }


@pytest.mark.parametrize(
    "backend", [A, replace(A, name="a_b_"), Backend.at(ip_address("2001:db8::1"), 6443)]
)
def test_the_name_of_a_server_is_that_of_its_backend(backend: Backend) -> None:
    assert called(server_of(backend)) == backend.name


@pytest.mark.parametrize(
    ("event", "result", "words"),
    [
        pytest.param(answered(server(A), down(B)), ProbeResult.PASSED, "", id="one is enough"),
        pytest.param(
            answered(down(A), down(B)),
            ProbeResult.FAILED,
            "none of 2 backends is healthy (a: L4CON Connection refused, b:",
            id="none is healthy",
        ),
        pytest.param(
            answered(
                server(A, status="UP 1/2", check="L7STS", check_code="500"),
                server(B, status="UP 9/10", check="L7TOUT", check_code=""),
            ),
            ProbeResult.PASSED,
            "",
            id="a failed check of each, and HAProxy sends connections on",
        ),
        pytest.param(
            answered(server(A, status="UP 1/2", check="INI"), server(B, status="UP", check="INI")),
            ProbeResult.FAILED,
            "none of 2 backends is healthy (a: INI",
            id="taken for healthy, and not asked yet",
        ),
        pytest.param(
            answered(server(A, status="UP 1/2", check="SOCKERR", check_code="")),
            ProbeResult.FAILED,
            "none of 2 backends is healthy (a: SOCKERR",
            id="taken for healthy, and HAProxy cannot ask",
        ),
        pytest.param(
            answered(server(C)), ProbeResult.PASSED, "", id="another than listed, which serves on"
        ),
        pytest.param(
            answered(down(A), down(B), server(C, sessions=2)),
            ProbeResult.PASSED,
            "",
            id="none that is listed, and another serves on",
        ),
        pytest.param(
            answered(server(C, status="DRAIN", sessions=2)),
            ProbeResult.FAILED,
            "none is added yet",
            id="another than listed, which was drained",
        ),
        pytest.param(
            answered(server(A), version="2.4.22"),
            ProbeResult.FAILED,
            "of version 2.4.22, and 2.6 is the oldest",
            id="too old",
        ),
        pytest.param(
            answered(server(A), description="havip 0"),
            ProbeResult.FAILED,
            "started with another configuration",
            id="of another configuration",
        ),
        pytest.param(
            answered(server(A), is_stopping=True),
            ProbeResult.FAILED,
            "HAProxy was told to stop",
            id="told to stop",
        ),
        pytest.param(
            answered(server(A), frontend="PAUSED"),
            ProbeResult.FAILED,
            "(frontend clients: PAUSED): say `enable frontend clients`",
            id="paused",
        ),
        pytest.param(
            answered(server(A), frontend=""), ProbeResult.FAILED, "not there", id="no frontend"
        ),
        pytest.param(
            BalancerSilent(result=ProbeResult.REFUSED, detail="HAProxy at x does not run"),
            ProbeResult.REFUSED,
            "start it after `havip load-balancer`",
            id="does not run",
        ),
    ],
)
def test_fit_for_the_vip(
    event: BalancerAnswered | BalancerSilent, result: ProbeResult, words: str
) -> None:
    balancer = Balancer(STATIC)
    finished, _ = balancer.handle_answer(event)
    assert (finished.check, finished.result) == (BALANCER, result)
    assert words in finished.detail
    assert balancer.view().problem == finished.detail


@pytest.mark.parametrize("strange", [{"version": "2.4.22"}, {"description": "somebody else's"}])
def test_a_haproxy_of_somebody_else_is_left_alone(strange: dict[str, str]) -> None:
    _, actions = Balancer(STATIC).handle_answer(answered(server(C), **strange))
    assert actions == []


def test_the_api_names_the_backends() -> None:
    balancer = Balancer(DISCOVERING)
    finished, _ = balancer.handle_answer(answered(config=DISCOVERING))
    assert finished.detail == "no backend is known: none is listed yet"
    balancer.handle_unlisted(0.0, BackendsUnlisted(detail="EndpointSlice: refused"))
    finished, _ = balancer.handle_answer(answered(config=DISCOVERING))
    assert finished.detail == "no backend is known: EndpointSlice: refused"
    # The kept list is written already.
    assert balancer.handle_listed(BackendsListed(backends=frozenset({A}), is_kept=True)) == []
    assert balancer.view().backends_known_by == "kept"
    _, actions = balancer.handle_answer(answered(config=DISCOVERING))
    assert changes(actions) == [(Change.ADD, "a")]
    listed = BackendsListed(backends=frozenset({B, A}))
    assert balancer.handle_listed(listed) == [KeepBackends(backends=(A, B))]
    assert balancer.handle_listed(listed) == []
    assert balancer.view().backends_known_by == "api"
    # Neither an empty list nor an old one says more than that.
    balancer.handle_listed(BackendsListed(backends=frozenset()))
    balancer.handle_listed(BackendsListed(backends=frozenset({C}), is_kept=True))
    _, actions = balancer.handle_answer(answered(server(A), server(B), config=DISCOVERING))
    assert changes(actions) == []


def test_an_unanswered_api_is_an_alarm_once() -> None:
    balancer = Balancer(DISCOVERING)
    event = BackendsUnlisted(detail="HTTP 403: allow it")
    (alarm,) = balancer.handle_unlisted(0.0, event)
    assert isinstance(alarm, Report)
    assert (alarm.topic, alarm.reason) == (Topic.ALARM, Reason.BACKENDS_MISSING)
    assert balancer.handle_unlisted(0.5, event) == []


def test_ca_certificates_that_haproxy_does_not_have_are_an_alarm_in_time() -> None:
    balancer = Balancer(STATIC)
    balancer.handle_answer(answered(server(A), server(B)))
    event = BalancerCaOutdated(file="/etc/kubernetes/pki/ca.crt")
    (alarm,) = balancer.handle_outdated_ca(0.0, event)
    assert isinstance(alarm, Report)
    assert (alarm.topic, alarm.reason) == (Topic.ALARM, Reason.BALANCER_CA_OUTDATED)
    assert alarm.fields["file"] == "/etc/kubernetes/pki/ca.crt"
    assert "restart HAProxy" in str(alarm.fields["remedy"])
    assert balancer.handle_outdated_ca(0.5, event) == []
    assert balancer.view().problem == "", "and no reason to move"
    assert balancer.handle_outdated_ca(2.0, event), "it is said again"


def test_a_listed_backend_that_is_the_balancer_itself() -> None:
    config = replace(DISCOVERING, port=6443, own=frozenset({A.address}))
    balancer = Balancer(config)
    balancer.handle_listed(BackendsListed(backends=frozenset({A, B})))
    finished, actions = balancer.handle_answer(answered(server(B), config=config))
    assert finished.result is ProbeResult.FAILED
    assert "backend a is at port 6443 of this node" in finished.detail
    assert "set loadBalancerPort" in finished.detail
    assert "loadBalancerBind: vip" in finished.detail
    assert changes(actions) == [], "no connection goes in circles"


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({}, id="beside the API server"),
        pytest.param({"redirect_port": A.port}, id="a port that leads back"),
        pytest.param({"port": A.port, "own": frozenset({A.address})}, id="its own port"),
    ],
)
def test_a_listed_backend_at_the_vip_is_none(changed: dict[str, Any]) -> None:
    """It would be healthy once this node holds, which it may not before."""
    config = replace(DISCOVERING, vips=frozenset({A.address}), **changed)
    balancer = Balancer(config)
    (alarm,) = balancer.handle_listed(BackendsListed(backends=frozenset({A})))
    assert isinstance(alarm, Report)
    assert (alarm.topic, alarm.reason) == (Topic.ALARM, Reason.BACKENDS_MISSING)
    finished, actions = balancer.handle_answer(answered(config=config))
    assert "lists a 192.0.2.1:6443, which is the VIP: have the API servers" in finished.detail
    assert changes(actions) == []
    told = balancer.handle_listed(BackendsListed(backends=frozenset({A, B})))
    assert told == [KeepBackends(backends=(B,))], "it was told"
    finished, actions = balancer.handle_answer(answered(server(B), config=config))
    assert finished.result is ProbeResult.PASSED, "the others are some"
    assert changes(actions) == [], "no connection goes in circles"


def test_of_too_many_that_leave_the_least_use_goes_first() -> None:
    balancer = Balancer(STATIC)
    leaving = [
        server(Backend(f"x{number}", ip_address(f"192.0.2.{number + 100}"), 6443), sessions=5)
        for number in range(BACKENDS)
    ]
    few = server(Backend("few", ip_address("192.0.2.70"), 6443), sessions=4)
    failed = down(Backend("failed", ip_address("192.0.2.71"), 6443), sessions=9)
    for gone, others in ((few, leaving), (failed, [*leaving[1:], few])):
        event = answered(server(A), server(B), *others, gone)
        _, actions = balancer.handle_answer(event)
        assert (Change.CUT, called(gone.name)) in changes(actions)
        assert sum(change is Change.CUT for change, _ in changes(actions)) == 1


def test_what_happens_is_told_once() -> None:
    balancer = Balancer(STATIC)
    story = [
        (answered(server(A)), [(Reason.BACKEND_LISTED, "a"), (Reason.BACKEND_HEALTHY, "a")]),
        (answered(server(A)), []),
        (answered(down(A)), [(Reason.BACKEND_FAILED, "a")]),
        (answered(down(A)), []),
        (
            answered(down(A, check="L4TOUT", check_detail="", sessions=1)),
            [(Reason.BACKEND_SILENT, "a")],
        ),
        (answered(server(A, status="DOWN 1/2")), []),
        (answered(server(A)), [(Reason.BACKEND_HEALTHY, "a")]),
        (
            answered(server(A), server(B, status="DOWN", check="INI")),
            [(Reason.BACKEND_LISTED, "b")],
        ),
        (answered(server(A), server(B, status="DOWN 1/2")), []),
        (answered(server(A), server(B)), [(Reason.BACKEND_HEALTHY, "b")]),
        (answered(server(A), server(C, sessions=1)), [(Reason.BACKEND_UNLISTED, "c")]),
        (answered(server(A), server(C, status="DRAIN", sessions=1)), []),
        (answered(server(A)), [(Reason.BACKEND_DRAINED, "c")]),
        (answered(down(A), server(C)), [(Reason.BACKEND_FAILED, "a"), (Reason.BACKEND_KEPT, "c")]),
        (answered(down(A), server(C)), []),
        (
            answered(server(A), server(C)),
            [(Reason.BACKEND_HEALTHY, "a"), (Reason.BACKEND_UNLISTED, "c")],
        ),
        (answered(server(A)), [(Reason.BACKEND_DRAINED, "c")]),
    ]
    for event, expected in story:
        _, actions = balancer.handle_answer(event)
        assert told(actions) == expected


def test_a_balancer_that_is_full_is_told_of() -> None:
    balancer = Balancer(STATIC)
    said, shown = [], []
    for sessions in (99, 100, 100, 95, 100, 89, 100):
        finished, actions = balancer.handle_answer(answered(server(A), sessions=sessions))
        assert finished.result is ProbeResult.PASSED, "a move would take all clients along"
        alarms = [
            each
            for each in actions
            if isinstance(each, Report) and each.reason is Reason.BALANCER_FULL
        ]
        said.append(len(alarms))
        shown.append(balancer.view().full)
        assert all("loadBalancerMaxConnections" in str(each.fields["remedy"]) for each in alarms)
    assert said == [0, 1, 0, 0, 0, 0, 1]
    assert shown == [False, True, True, True, True, False, True]
    assert balancer.view().sessions_limit == 100
    balancer.handle_answer(BalancerSilent(result=ProbeResult.TIMED_OUT, detail="late"))
    assert not balancer.view().full, "nobody knows"
    balancer.handle_answer(answered(server(A), sessions=100, description="another"))
    assert not balancer.view().full, "its connections are not counted by this limit"


def test_the_view_has_what_is_listed_and_what_is_there() -> None:
    balancer = Balancer(STATIC)
    assert not balancer.view().answers
    balancer.handle_answer(answered(server(A, sessions=2), server(C, status="DRAIN")))
    view = balancer.view()
    assert (view.answers, view.version, view.process) == (True, "2.6.12-1", 17)
    shown = [(each.name, each.listed, each.healthy, each.status) for each in view.backends]
    assert shown == [
        ("a", True, True, "UP"),
        ("b", True, False, ""),
        ("c", False, False, "DRAIN"),
    ]
    balancer.handle_answer(BalancerSilent(result=ProbeResult.TIMED_OUT, detail="late"))
    assert not balancer.view().answers


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            STATIC, replace(STATIC, backends=(C,)), replace(STATIC, backends=(C,)), id="backends"
        ),
        pytest.param(STATIC, replace(STATIC, port=1), STATIC, id="what HAProxy starts with"),
        pytest.param(STATIC, DISCOVERING, STATIC, id="discovered from now on"),
        pytest.param(STATIC, None, STATIC, id="switched off"),
        pytest.param(None, STATIC, None, id="switched on"),
    ],
)
def test_a_reload_changes_backends_and_nothing_else(
    old: BalancerConfig | None, new: BalancerConfig | None, expected: BalancerConfig | None
) -> None:
    assert carried_over(old, new) == expected


@pytest.mark.parametrize(
    ("binds", "net", "expected"),
    [
        pytest.param(("0.0.0.0",), V4, "", id="all addresses"),
        pytest.param(("192.0.2.9", str(V4.vip.address)), V4, "", id="one of the VIPs"),
        pytest.param(("192.0.2.9",), V4, f"without {V4.vip.address},", id="another VIP"),
        pytest.param(("0.0.0.0",), V6, f"without {V6.vip.address},", id="another family"),
    ],
)
def test_a_vip_that_haproxy_does_not_listen_for(
    binds: tuple[str, ...], net: Net, expected: str
) -> None:
    balancer = replace(STATIC, binds=tuple(map(ip_address, binds)))
    config = Driver((router(net),), balancer=balancer).config
    problem = unheard(config)
    assert expected in problem
    assert ("restart HAProxy" in problem) == bool(expected)
    assert unheard(replace(config, balancer=None)) == ""


def test_the_fingerprint_is_that_of_what_haproxy_starts_with() -> None:
    assert fingerprint(STATIC) == fingerprint(replace(STATIC, backends=(C,)))
    for different in (
        replace(STATIC, port=1),
        replace(STATIC, balance=Balance.ROUNDROBIN),
        replace(STATIC, slow_start_s=1.0),
        replace(STATIC, check_host="other"),
    ):
        assert fingerprint(different) != fingerprint(STATIC)


# In the node


def test_the_vip_is_held_while_the_balancer_is_fit() -> None:
    d = Driver((router(),), balancer=STATIC)
    d.start()
    d.run_for(5.0)
    assert d.state is not State.ACTIVE, "nothing is known of HAProxy yet"
    d.balancer_says = answered(server(A), server(B))
    d.run_for(10.0)
    assert d.state is State.ACTIVE
    # HAProxy dies: its end is heard, and quick questions confirm it.
    d.balancer_says = BalancerSilent(result=ProbeResult.REFUSED, detail="HAProxy does not run")
    d.tell(BalancerSilent(result=ProbeResult.CLOSED, detail="closed", is_unasked=True))
    d.run_for(0.15)
    assert d.state is not State.ACTIVE
    d.balancer_says = answered(server(A), server(B))
    d.run_for(10.0)
    assert d.state is State.ACTIVE


def test_the_vip_leaves_while_a_haproxy_that_was_told_to_stop_serves_on() -> None:
    d = Driver((router(),), balancer=STATIC, balancer_says=answered(server(A), server(B)))
    d.become_active()
    d.balancer_says = answered(server(A), server(B), is_stopping=True)
    d.run_for(GRACE_S - 1.0)
    assert d.state is not State.ACTIVE


def test_a_failed_backend_moves_nothing() -> None:
    d = Driver((router(),), balancer=STATIC, balancer_says=answered(server(A), server(B)))
    d.become_active()
    d.balancer_says = answered(down(A), server(B))
    d.run_for(60.0)
    assert d.state is State.ACTIVE
    d.balancer_says = answered(down(A), down(B))
    d.run_for(5.0)
    assert d.state is not State.ACTIVE


def test_a_reload_gives_other_backends_at_once() -> None:
    d = Driver((router(),), balancer=STATIC, balancer_says=answered(server(A), server(B)))
    d.become_active()
    d.balancer = replace(STATIC, backends=(C,))
    assert KeepBackends(backends=(C,)) in d.tell(Reconfigured(config=d.config))
    assert changes(d.tell(answered(server(A)))) == [(Change.ADD, "c")]
    assert changes(d.tell(answered(server(A), server(C)))) == [(Change.REMOVE, "a")]
