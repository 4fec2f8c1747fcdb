"""One health check: when to probe, and what the results amount to.

Two speeds, on purpose. A slow or wrong answer may be a busy service, so it takes `fail_after`
probes, an interval apart: people set 3 s × 10 to live through an upgrade. Nothing listening is
another matter: a crashed service does not come back by being asked patiently, so a check with
`fast_fail` asks a few times more in quick succession and then believes it (design §4).

And what is softly weighed is often shared: the nodes notice that the API server is gone one
after another. A holder believes that last, and its return first, or what ails all of them would
move the VIP from one to the next.

A target that has never passed is perhaps no target at all: the URL of somebody else's ingress
controller, on a node where nothing can ever answer. That is told apart from a service that is
down, or nobody would hold the VIP and nobody would know why.
"""

from __future__ import annotations

import math
from enum import StrEnum

from havip.core.actions import Action, Report, StartProbe, Topic
from havip.core.config import CheckConfig
from havip.core.events import NOTHING_LISTENS, ProbeFinished, ProbeResult, Woken
from havip.core.reasons import Reason
from havip.core.view import CheckView

CONFIRMATIONS = 2
"""Quick re-probes that must also find nothing listening before a healthy check fails."""

CONFIRMATION_GAP_S = 0.02
"""From the start of one quick probe to the next. A killed service is found after two gaps:
40 ms, which leaves the move itself its share of the 150 ms promised."""

ANSWER_MARGIN_S = 1.0
"""How much later than its timeout a probe's answer may come before it is given up."""


class Verdict(StrEnum):
    PENDING = "pending"
    """No probe has finished yet."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Check:
    """The state machine of one check.

    The first result decides at once: a node that starts must not wait out thresholds that are
    there to spare a running one. After that, `fail_after` failures in a row make it unhealthy
    and `recover_after` passes in a row, kept up for `stability_s`, make it healthy.
    """

    def __init__(self, config: CheckConfig, now: float) -> None:
        self._config = config
        self._verdict = Verdict.PENDING
        self._settled = Verdict.PENDING
        self._settles_at = -math.inf
        self._next_start_at = now
        self._last_start_at = -math.inf
        self._is_running = False
        self._is_suspected = False
        self._quick_probes_left = 0
        self._failures = 0
        self._passes = 0
        self._has_passed = False
        self._failures_before_any_pass = 0
        self._consecutive = 0
        self._stable_from_at: float | None = None
        self._last: ProbeFinished | None = None
        self._last_at: float | None = None
        self._changed_at: float | None = None

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def config(self) -> CheckConfig:
        return self._config

    @property
    def verdict(self) -> Verdict:
        return self._verdict

    def verdict_for(self, *, holder: bool) -> Verdict:
        """What counts in the election, of a node that holds the VIP or of another one.

        Only a weight that is not there to find a crash quickly is waited for.
        """
        lags = Verdict.UNHEALTHY if holder else Verdict.HEALTHY
        return self._settled if self._is_settling and self._verdict is lags else self._verdict

    @property
    def never_passed_because(self) -> str:
        """What a target that has never passed lacks, and what to do; empty otherwise."""
        if self._has_passed or self._last is None:
            return ""
        return (
            f"check {self.name} has never passed: {self._config.url}: "
            f"{self._last.detail or self._last.result}; {self._remedy}"
        )

    @property
    def wake_at(self) -> float:
        """When to call `handle` next, if no result comes before."""
        probe_at = self._answer_due_at if self._is_running else self._next_start_at
        return min(probe_at, self._settles_at) if self._is_settling else probe_at

    def handle(self, now: float, event: ProbeFinished | Woken | None = None) -> list[Action]:
        """Take a result, or the time, and say what follows.

        Results of other checks, and results that nobody waits for any more, change nothing.
        """
        actions: list[Action] = []
        if now >= self._settles_at:
            self._settled = self._verdict
        if isinstance(event, ProbeFinished) and event.check == self.name:
            if event.is_unasked:
                self._suspect(now)
            elif self._is_running:
                actions += self._judge(now, event)
        if self._is_running and now >= self._answer_due_at:
            # The edge owes an answer within the timeout. Waiting for ever on one that was
            # lost would freeze the verdict at its last, perhaps healthy, value.
            lost = ProbeFinished(
                check=self.name,
                result=ProbeResult.TIMED_OUT,
                detail="the probe was never answered",
                duration_s=now - self._last_start_at,
            )
            actions += self._judge(now, lost)
        if not self._is_running and now >= self._next_start_at:
            self._is_running = True
            self._is_suspected = False
            self._last_start_at = now
            actions.append(StartProbe(check=self.name))
        return actions

    def reconfigure(self, config: CheckConfig) -> None:
        """Go on with another configuration of the same check; the verdict stays.

        Whatever changed, it is probed at once: an answer to the old question is not waited for.
        """
        if config == self._config:
            return
        if config.url != self._config.url:
            self._has_passed = False
            self._failures_before_any_pass = 0
            self._last = None
        self._config = config
        self._settled = self._verdict
        self._is_running = False
        self._is_suspected = False
        self._next_start_at = self._last_start_at
        self._quick_probes_left = 0
        self._failures = 0
        self._passes = 0
        self._stable_from_at = None

    def view(self, now: float) -> CheckView:
        """What people see. `now` only says when they look."""
        return CheckView(
            name=self.name,
            url=self._config.url,
            healthy=None if self._verdict is Verdict.PENDING else self._is_healthy,
            has_passed=self._has_passed,
            weight=self._config.weight,
            last_result=self._last.result if self._last else "",
            detail=self._last.detail if self._last else "",
            consecutive=self._consecutive,
            last_at=self._last_at,
            changed_at=self._changed_at,
        )

    @property
    def _is_healthy(self) -> bool:
        return self._verdict is Verdict.HEALTHY

    @property
    def _is_settling(self) -> bool:
        """Whether other nodes may not have noticed the same change of a shared target yet."""
        return self._settled is not self._verdict

    @property
    def _remedy(self) -> str:
        if self._config.remedy:
            return self._config.remedy
        setting = self._config.setting("Url")
        return f"start what answers there, or set {setting} to a health URL of this node"

    @property
    def _answer_due_at(self) -> float:
        return self._last_start_at + self._config.timeout_s + ANSWER_MARGIN_S

    def _suspect(self, now: float) -> None:
        """A watched idle connection was closed: ask, rather than believe.

        Servers close idle connections for good reasons too. A probe that is under way may have
        been answered before the service went, so it does not count as asking.
        """
        if not (self._config.fast_fail and self._is_healthy):
            return
        self._is_suspected = True
        if not self._is_running:
            self._start_no_later_than(max(now, self._last_start_at + CONFIRMATION_GAP_S))

    def _judge(self, now: float, finished: ProbeFinished) -> list[Action]:
        self._is_running = False
        has_passed = finished.result is ProbeResult.PASSED
        had_passed = self._last is not None and self._last.result is ProbeResult.PASSED
        self._consecutive = self._consecutive + 1 if self._last and has_passed == had_passed else 1
        self._last = finished
        self._last_at = now
        # From start to start: a slow answer must not stretch the interval.
        self._next_start_at = max(now, self._last_start_at + self._config.interval_s)
        if has_passed:
            actions = self._pass(now)
        else:
            actions = self._fail(now, finished.result) + self._doubt_target()
        if self._is_suspected and self._is_healthy:
            self._start_no_later_than(max(now, self._last_start_at + CONFIRMATION_GAP_S))
        return actions

    def _pass(self, now: float) -> list[Action]:
        self._has_passed = True
        self._failures = 0
        self._quick_probes_left = 0
        if self._verdict is Verdict.PENDING:
            return self._decide(now, Verdict.HEALTHY)
        if self._is_healthy:
            return []
        self._passes += 1
        if self._passes < self._config.recover_after:
            return []
        if self._stable_from_at is None:
            self._stable_from_at = self._last_start_at
        # Compared by starts, which are whole intervals apart: by ends, an answer that is a
        # millisecond quicker than the last would cost another interval.
        if self._last_start_at < self._stable_from_at + self._config.stability_s:
            return []
        return self._decide(now, Verdict.HEALTHY)

    def _fail(self, now: float, result: ProbeResult) -> list[Action]:
        self._passes = 0
        self._stable_from_at = None
        if self._verdict is Verdict.PENDING:
            return self._decide(now, Verdict.UNHEALTHY)
        if not self._is_healthy:
            return []
        is_confirming = self._quick_probes_left > 0
        if not is_confirming:
            # Quick probes are not intervals: three of them in 40 ms that end in a mixture of
            # refused and slow must not use up the patience that fail_after asks for.
            self._failures += 1
        if self._failures >= self._config.fail_after:
            return self._decide(now, Verdict.UNHEALTHY)
        if not (self._config.fast_fail and result in NOTHING_LISTENS):
            self._quick_probes_left = 0
            return []
        if not is_confirming:
            self._quick_probes_left = CONFIRMATIONS
        else:
            self._quick_probes_left -= 1
            if self._quick_probes_left == 0:
                return self._decide(now, Verdict.UNHEALTHY)
        self._start_no_later_than(max(now, self._last_start_at + CONFIRMATION_GAP_S))
        return []

    def _doubt_target(self) -> list[Action]:
        """Say once that the target has not passed in as many probes as make a failure."""
        if self._has_passed:
            return []
        self._failures_before_any_pass += 1
        if self._failures_before_any_pass != self._config.fail_after:
            return []
        assert self._last is not None
        return [
            Report(
                topic=Topic.ALARM,
                reason=Reason.CHECK_NEVER_PASSED,
                fields={
                    "check": self.name,
                    "url": self._config.url,
                    "result": self._last.result,
                    "detail": self._last.detail,
                    "remedy": self._remedy,
                },
            )
        ]

    def _decide(self, now: float, verdict: Verdict) -> list[Action]:
        assert self._last is not None
        was = self._verdict
        is_soft = self._config.weight != 0 and not self._config.fast_fail
        if is_soft and was is not Verdict.PENDING:
            self._settles_at = (
                now + self._config.interval_s + self._config.timeout_s + ANSWER_MARGIN_S
            )
        else:
            self._settled = verdict
        self._verdict = verdict
        self._changed_at = now
        self._quick_probes_left = 0
        self._is_suspected = False
        self._failures = 0
        self._passes = 0
        self._stable_from_at = None
        return [
            Report(
                topic=Topic.CHECK,
                reason=Reason.CHECK_RECOVERED if self._is_healthy else Reason.CHECK_FAILED,
                fields={
                    "check": self.name,
                    "verdict": verdict,
                    "before": was,
                    "result": self._last.result,
                    "detail": self._last.detail,
                },
            )
        ]

    def _start_no_later_than(self, at: float) -> None:
        self._next_start_at = min(self._next_start_at, at)
