"""What one virtual router wants done and told, in order, until the edge takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from havip.core.actions import Action, Count, Counter, Report, Topic
from havip.core.announce import Restraint
from havip.core.reasons import Reason, State
from havip.wire.drop import Drop

LONGEST_S: Final = 600.0
"""What goes on for ever is told this often in the end."""


class Outbox:
    """Actions of one virtual router, and the forms that carry its name."""

    def __init__(self, router: str) -> None:
        """
        Args:
            router: its name, for the counters and reports.
        """
        self._router = router
        self._actions: list[Action] = []
        self._stories: dict[tuple[Topic, *tuple[object, ...]], _Story] = {}

    def take(self) -> list[Action]:
        """What has been put in since the last call, in order."""
        actions, self._actions = self._actions, []
        return actions

    def do(self, *actions: Action) -> None:
        self._actions += actions

    def count(self, counter: Counter, reason: Drop | str = "") -> None:
        self.do(Count(counter=counter, router=self._router, reason=reason))

    def report(
        self,
        topic: Topic,
        reason: Reason | None,
        fields: Mapping[str, str | int | float],
        *,
        state: State | None = None,
        was: State | None = None,
    ) -> None:
        self.do(
            Report(
                topic=topic,
                router=self._router,
                reason=reason,
                state=state,
                was=was,
                fields=dict(fields),
            )
        )

    def report_priority(self, priority: int, was: int, because: Reason | None) -> None:
        """The effective priority has changed.

        Args:
            because: what changed it, if not a check.
        """
        fell = Reason.CHECK_FAILED if priority < was else Reason.CHECK_RECOVERED
        fields = {"priority": priority, "priority_was": was}
        self.report(Topic.PRIORITY, because or fell, fields)

    def alarm(
        self,
        now: float,
        what: Reason | str,
        fields: Callable[[], Mapping[str, str | int | float]],
    ) -> None:
        """Tell people, but not at a stranger's pace: what goes on is told ever more rarely.

        Args:
            what: why, or in words what is wrong.
            fields: the rest of the story; made only when it is told, since a stranger sets the
                pace of that, too.
        """
        if isinstance(what, Reason):
            self._repeat(now, (Topic.ALARM, what), what, fields)
        else:
            self._repeat(now, (Topic.ALARM, what), None, lambda: {**fields(), "detail": what})

    def repeat(
        self,
        now: float,
        topic: Topic,
        reason: Reason | None,
        fields: Mapping[str, str | int | float],
    ) -> None:
        """Tell at once what may go on for ever, and ever more rarely while it does."""
        self._repeat(now, (topic, reason, fields.get("address")), reason, lambda: fields)

    def _repeat(
        self,
        now: float,
        story: tuple[Topic, *tuple[object, ...]],
        reason: Reason | None,
        fields: Callable[[], Mapping[str, str | int | float]],
    ) -> None:
        told = self._stories.setdefault(story, _Story())
        told.times += 1
        if not told.restraint.allows(now):
            return
        times, told.times = told.times, 0
        self.report(story[0], reason, {**fields(), **({"times": times} if times > 1 else {})})


class _Story:
    """What goes on, and how often it has happened since it was told last."""

    def __init__(self) -> None:
        self.restraint = Restraint(free=1, longest_s=LONGEST_S)
        self.times = 0
