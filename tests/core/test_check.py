"""The state machine of a check, in virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havip.core.actions import Action, Report, StartProbe, Topic
from havip.core.check import ANSWER_MARGIN_S, CONFIRMATION_GAP_S, Check, Verdict
from havip.core.config import CheckConfig
from havip.core.events import NOTHING_LISTENS, ProbeFinished, ProbeResult, Woken
from havip.core.reasons import Reason

PASSED = ProbeResult.PASSED
REFUSED = ProbeResult.REFUSED
SLOW = ProbeResult.TIMED_OUT
BROKEN = ProbeResult.WRONG_STATUS

SERVICE = CheckConfig(
    name="service",
    url="http://127.0.0.1:8080/healthz",
    interval_s=2.0,
    timeout_s=1.0,
    fail_after=3,
    recover_after=2,
    fast_fail=True,
)


class Bench:
    """A check whose probes take `answer_s` and end as the test says."""

    def __init__(self, config: CheckConfig = SERVICE, now: float = 100.0) -> None:
        self.now = now
        self.check = Check(config, now)
        self.starts: list[float] = []
        self.reports: list[tuple[float, Report]] = []

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case StartProbe():
                    self.starts.append(self.now)
                case Report():
                    self.reports.append((self.now, action))

    def wake(self) -> None:
        self.now = max(self.now, self.check.wake_at)
        self.take(self.check.handle(self.now, Woken()))

    def answer(self, result: ProbeResult, after_s: float = 0.001) -> None:
        """Wake for the next probe and answer it."""
        probes = len(self.starts)
        self.wake()
        assert len(self.starts) == probes + 1
        self.finish(result, after_s)

    def finish(self, result: ProbeResult, after_s: float = 0.001) -> None:
        self.now += after_s
        self.take(self.check.handle(self.now, ProbeFinished(check="service", result=result)))

    def close_watched(self) -> None:
        closed = ProbeFinished(check="service", result=ProbeResult.CLOSED, is_unasked=True)
        self.take(self.check.handle(self.now, closed))

    def answers(self, *results: ProbeResult) -> Verdict:
        for result in results:
            self.answer(result)
        return self.check.verdict


@pytest.mark.parametrize(
    ("result", "verdict", "reason"),
    [
        (PASSED, Verdict.HEALTHY, Reason.CHECK_RECOVERED),
        (REFUSED, Verdict.UNHEALTHY, Reason.CHECK_FAILED),
        (SLOW, Verdict.UNHEALTHY, Reason.CHECK_FAILED),
    ],
)
def test_the_first_result_decides_at_once(result, verdict, reason):
    bench = Bench()
    assert bench.check.verdict is Verdict.PENDING
    assert bench.check.wake_at == bench.now
    assert bench.answers(result) is verdict
    (_, report), *more = bench.reports
    assert not more
    assert (report.topic, report.reason) == (Topic.CHECK, reason)
    assert report.fields["check"] == "service"
    assert report.fields["result"] == result


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        pytest.param([PASSED, SLOW, BROKEN], Verdict.HEALTHY, id="two of three soft failures"),
        pytest.param([PASSED, SLOW, BROKEN, SLOW], Verdict.UNHEALTHY, id="three in a row"),
        pytest.param([PASSED, SLOW, SLOW, PASSED, SLOW, SLOW], Verdict.HEALTHY, id="not in a row"),
        pytest.param([SLOW, PASSED], Verdict.UNHEALTHY, id="one of two passes"),
        pytest.param([SLOW, PASSED, PASSED], Verdict.HEALTHY, id="two in a row"),
        pytest.param([SLOW, PASSED, SLOW, PASSED], Verdict.UNHEALTHY, id="passes not in a row"),
        pytest.param([PASSED, REFUSED, REFUSED, REFUSED], Verdict.UNHEALTHY, id="confirmed"),
        pytest.param([PASSED, REFUSED, REFUSED, PASSED], Verdict.HEALTHY, id="not confirmed"),
        pytest.param(
            [PASSED, REFUSED, SLOW, REFUSED, SLOW],
            Verdict.HEALTHY,
            id="quick probes that end slow do not use up the patience",
        ),
        pytest.param(
            [PASSED, REFUSED, PASSED, REFUSED, PASSED, REFUSED, PASSED],
            Verdict.HEALTHY,
            id="a service that comes and goes starts anew each time",
        ),
    ],
)
def test_results_in_a_row(results, verdict):
    assert Bench().answers(*results) is verdict


def test_a_refused_connection_is_confirmed_in_milliseconds():
    bench = Bench()
    bench.answers(PASSED, REFUSED)
    refused_at = bench.starts[-1]
    bench.answers(REFUSED, REFUSED)
    assert bench.check.verdict is Verdict.UNHEALTHY
    assert bench.now - refused_at < 0.05
    assert bench.starts[-3:] == [
        refused_at,
        refused_at + CONFIRMATION_GAP_S,
        refused_at + CONFIRMATION_GAP_S + CONFIRMATION_GAP_S,
    ]


def test_after_the_verdict_probes_are_an_interval_apart_again():
    bench = Bench()
    bench.answers(PASSED, REFUSED, REFUSED, REFUSED, REFUSED)
    assert bench.starts[-1] - bench.starts[-2] == pytest.approx(SERVICE.interval_s)


def test_without_fast_fail_a_refusal_is_one_failure_like_another():
    bench = Bench(replace(SERVICE, fast_fail=False))
    assert bench.answers(PASSED, REFUSED, REFUSED) is Verdict.HEALTHY
    assert bench.starts[-1] - bench.starts[-2] == pytest.approx(SERVICE.interval_s)
    assert bench.answers(REFUSED) is Verdict.UNHEALTHY


def test_fail_after_one_needs_no_confirmation():
    assert Bench(replace(SERVICE, fail_after=1)).answers(PASSED, REFUSED) is Verdict.UNHEALTHY


def test_probes_are_an_interval_apart_from_start_to_start():
    bench = Bench()
    bench.answers(PASSED)
    bench.wake()
    bench.finish(PASSED, after_s=0.9)
    bench.wake()
    assert [b - a for a, b in zip(bench.starts, bench.starts[1:], strict=False)] == [2.0, 2.0]


def test_a_late_loop_starts_one_probe_not_all_that_it_missed():
    bench = Bench()
    bench.answers(PASSED)
    bench.now += 60
    bench.wake()
    bench.finish(PASSED)
    assert bench.starts == [100.0, bench.starts[1]]
    assert bench.check.wake_at == bench.starts[1] + SERVICE.interval_s


def test_a_probe_that_never_answers_counts_as_timed_out():
    bench = Bench()
    bench.answers(PASSED)
    for _ in range(SERVICE.fail_after):
        bench.wake()
        due_at = bench.check.wake_at
        assert due_at == bench.starts[-1] + SERVICE.timeout_s + ANSWER_MARGIN_S
        bench.now = due_at
        bench.take(bench.check.handle(bench.now, Woken()))
    assert bench.check.verdict is Verdict.UNHEALTHY
    assert bench.reports[-1][1].fields["result"] == SLOW


def test_an_answer_that_nobody_waits_for_changes_nothing():
    bench = Bench()
    bench.answers(PASSED)
    before = bench.check.view(bench.now)
    bench.finish(SLOW)
    other = ProbeFinished(check="kubelet", result=SLOW)
    bench.wake()
    assert bench.check.handle(bench.now, other) == []
    assert bench.check.view(bench.now) == before


def test_a_closed_watched_connection_is_asked_about_at_once():
    bench = Bench()
    bench.answers(PASSED)
    bench.now += 0.7
    bench.close_watched()
    assert bench.starts[-1] == bench.now
    closed_at = bench.now
    bench.finish(REFUSED)
    bench.answers(REFUSED, REFUSED)
    assert bench.check.verdict is Verdict.UNHEALTHY
    assert bench.now - closed_at < 0.06


def test_a_server_may_close_an_idle_connection():
    bench = Bench()
    bench.answers(PASSED)
    bench.now += 0.7
    bench.close_watched()
    bench.finish(PASSED)
    assert bench.check.verdict is Verdict.HEALTHY
    assert len(bench.reports) == 1
    assert bench.check.wake_at == bench.starts[-1] + SERVICE.interval_s


def test_a_close_during_a_probe_is_asked_about_after_it():
    bench = Bench()
    bench.answers(PASSED)
    bench.wake()
    probes = len(bench.starts)
    bench.close_watched()
    assert len(bench.starts) == probes
    bench.finish(PASSED)
    bench.wake()
    assert bench.starts[-1] - bench.starts[-2] == pytest.approx(CONFIRMATION_GAP_S)


def test_a_server_that_closes_everything_is_not_probed_without_end():
    bench = Bench()
    bench.answers(PASSED)
    for _ in range(50):
        bench.close_watched()
        bench.wake()
        bench.finish(PASSED, after_s=0.0)
    gaps = [b - a for a, b in zip(bench.starts, bench.starts[1:], strict=False)]
    assert min(gaps) >= CONFIRMATION_GAP_S * 0.999


@pytest.mark.parametrize(
    ("config", "results"),
    [
        pytest.param(replace(SERVICE, fast_fail=False), [PASSED], id="not asked for"),
        pytest.param(SERVICE, [SLOW], id="failed already"),
        pytest.param(SERVICE, [], id="no result yet"),
    ],
)
def test_a_close_that_says_nothing_new_starts_nothing(config, results):
    bench = Bench(config)
    bench.answers(*results)
    wake_at = bench.check.wake_at
    if results:
        bench.now += 0.1
        bench.close_watched()
        assert len(bench.starts) == len(results)
    assert bench.check.wake_at == wake_at


def test_recovery_must_last():
    bench = Bench(replace(SERVICE, interval_s=5.0, stability_s=5.0))
    bench.answers(SLOW, PASSED)
    bench.wake()
    bench.finish(PASSED, after_s=0.9)
    assert bench.check.verdict is Verdict.UNHEALTHY
    # Quicker than the last answer: it must not cost another interval.
    bench.wake()
    bench.finish(PASSED, after_s=0.001)
    assert bench.check.verdict is Verdict.HEALTHY
    assert bench.starts[-1] == 100.0 + 15.0


def test_a_failure_while_recovering_starts_over():
    bench = Bench(replace(SERVICE, interval_s=1.0, stability_s=3.0))
    assert bench.answers(SLOW, PASSED, PASSED, PASSED, PASSED) is Verdict.UNHEALTHY
    assert bench.answers(SLOW, PASSED, PASSED, PASSED, PASSED) is Verdict.UNHEALTHY
    assert bench.answers(PASSED) is Verdict.HEALTHY


def test_the_view_says_what_was_found():
    bench = Bench()
    view = bench.check.view(bench.now)
    assert (view.healthy, view.last_result, view.last_at, view.changed_at) == (None, "", None, None)
    bench.answers(PASSED, SLOW, BROKEN)
    view = bench.check.view(bench.now)
    assert (view.healthy, view.last_result, view.consecutive) == (True, "wrong_status", 2)
    assert view.last_at == bench.now
    assert view.changed_at == pytest.approx(100.001)


# Never passed ------------------------------------------------------------------------------------


def alarms(bench: Bench) -> list[Report]:
    return [report for _, report in bench.reports if report.topic is Topic.ALARM]


def test_a_target_that_never_passes_is_told_once():
    bench = Bench()
    bench.answers(*[REFUSED] * (SERVICE.fail_after - 1))
    assert alarms(bench) == []
    bench.answers(*[REFUSED] * 20)
    (alarm,) = alarms(bench)
    assert alarm.reason is Reason.CHECK_NEVER_PASSED
    assert alarm.fields["url"] == SERVICE.url
    assert alarm.fields["result"] == REFUSED
    assert "checkServiceUrl" in str(alarm.fields["remedy"])
    assert not bench.check.view(bench.now).has_passed


def test_whoever_has_passed_once_is_only_down():
    bench = Bench()
    bench.answers(REFUSED, PASSED, *[REFUSED] * 20)
    assert bench.check.verdict is Verdict.UNHEALTHY
    assert alarms(bench) == []
    assert bench.check.never_passed_because == ""
    assert bench.check.view(bench.now).has_passed


def test_another_target_has_never_passed():
    bench = Bench()
    bench.answers(PASSED)
    bench.check.reconfigure(replace(SERVICE, fail_after=4))
    bench.answers(*[SLOW] * 5)
    assert alarms(bench) == [], "the same target"
    bench.check.reconfigure(replace(SERVICE, url="http://127.0.0.1:9090/"))
    assert bench.check.never_passed_because == "", "nobody knows yet"
    bench.answers(*[SLOW] * 5)
    (alarm,) = alarms(bench)
    assert alarm.fields["url"] == "http://127.0.0.1:9090/"


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("service", "checkServiceUrl"),
        ("kubelet", "checkKubeletUrl"),
        ("kube_api", "checkKubeApiUrl"),
    ],
)
def test_what_a_target_that_never_passed_lacks(name, setting):
    check = Check(replace(SERVICE, name=name), 100.0)
    assert check.never_passed_because == ""
    check.handle(100.0, Woken())
    refused = "nothing listens on 127.0.0.1:8080 (connection refused)"
    check.handle(100.1, ProbeFinished(check=name, result=REFUSED, detail=refused))
    assert check.never_passed_because == (
        f"check {name} has never passed: http://127.0.0.1:8080/healthz: {refused}; "
        f"start what answers there, or set {setting} to a health URL of this node"
    )


# Reload ------------------------------------------------------------------------------------------


def test_reconfiguring_keeps_the_verdict_and_asks_at_once():
    bench = Bench()
    bench.answers(PASSED, SLOW, SLOW)
    bench.check.reconfigure(replace(SERVICE, url="http://127.0.0.1:9090/"))
    assert bench.check.verdict is Verdict.HEALTHY
    assert bench.check.wake_at <= bench.now
    assert bench.answers(SLOW, SLOW) is Verdict.HEALTHY
    assert bench.answers(SLOW) is Verdict.UNHEALTHY


def test_reconfiguring_drops_the_probe_under_way():
    bench = Bench()
    bench.answers(PASSED)
    bench.wake()
    bench.check.reconfigure(replace(SERVICE, url="http://127.0.0.1:9090/", fail_after=1))
    bench.finish(SLOW)
    assert bench.check.verdict is Verdict.HEALTHY
    assert bench.starts[-1] == bench.now


def test_the_same_configuration_again_changes_nothing():
    bench = Bench()
    bench.answers(PASSED)
    wake_at = bench.check.wake_at
    bench.check.reconfigure(replace(SERVICE))
    assert bench.check.wake_at == wake_at


CONFIGS = st.builds(
    CheckConfig,
    name=st.just("service"),
    url=st.just("tcp://127.0.0.1:1"),
    interval_s=st.sampled_from([0.5, 2.0]),
    timeout_s=st.just(0.4),
    fail_after=st.integers(1, 4),
    recover_after=st.integers(1, 4),
    stability_s=st.sampled_from([0.0, 1.0, 5.0]),
    fast_fail=st.booleans(),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wake", "answer", "late answer", "closed"]),
        st.sampled_from([r for r in ProbeResult if r is not ProbeResult.CLOSED]),
        st.floats(0.0, 3.0),
    ),
    max_size=80,
)


@given(config=CONFIGS, steps=STEPS)
def test_whatever_happens(config, steps):
    """Probes never overlap, the verdict rests on results, and the check never sleeps for good."""
    now = 1000.0
    check = Check(config, now)
    running_since: float | None = None
    results: list[ProbeResult] = []
    for kind, result, wait_s in steps:
        now += wait_s
        before = check.verdict
        event: ProbeFinished | Woken
        match kind:
            case "wake":
                event = Woken()
            case "closed":
                event = ProbeFinished(check="service", result=ProbeResult.CLOSED, is_unasked=True)
            case _:
                event = ProbeFinished(check="service", result=result)
                if running_since is not None:
                    results.append(result)
                    running_since = None
        actions = check.handle(now, event)
        started = [a for a in actions if isinstance(a, StartProbe)]
        reports = [a for a in actions if isinstance(a, Report) and a.topic is Topic.CHECK]
        if running_since is not None and now >= running_since + 0.4 + ANSWER_MARGIN_S:
            results.append(SLOW)
            running_since = None
        assert len(started) <= (running_since is None)
        if started:
            running_since = now
        assert check.wake_at <= now + config.interval_s + 0.4 + ANSWER_MARGIN_S
        assert bool(reports) == (check.verdict is not before)
        if not results:
            assert check.verdict is Verdict.PENDING
        elif check.verdict is Verdict.UNHEALTHY and before is Verdict.HEALTHY:
            failed = [r is not PASSED for r in results[-config.fail_after :]]
            nothing = [r in NOTHING_LISTENS for r in results[-3:]]
            assert all(failed) or (config.fast_fail and all(nothing))
        elif check.verdict is Verdict.HEALTHY and before is Verdict.UNHEALTHY:
            assert all(r is PASSED for r in results[-config.recover_after :])
