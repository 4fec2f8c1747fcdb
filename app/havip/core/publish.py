"""What Kubernetes is to show of this node, and when it is told: a Lease, Events, labels.

For people and alerts, never for the election: nothing here decides who holds, and nothing waits for
what is asked for here. Only the newest state counts: a move that is over before it could be shown
is not written into a Lease or label any more, but stands in the Events, of which the oldest go when
the API server does not take them in time.

The Lease `havip-<VRID>` names the holder, who renews it at a leisurely pace, so that it shows when
a holder lost power and nobody came after. Whoever holds writes it, whatever stands there: the wire
has decided. Whoever holds no longer gives its successor a moment, and then takes its name out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from havip.core.actions import Report, Topic
from havip.core.backoff import Backoff
from havip.core.config import NodeConfig, RouterConfig
from havip.core.reasons import WARNINGS, State
from havip.core.record import MOST, LeaseRecord

RENEW_S: Final = 10.0
"""A kubelet renews the Lease of its node as often."""
DURATION_S: Final = 40
"""`leaseDurationSeconds`: older than that it shows a holder that nobody hears from."""
RELABEL_S: Final = 60.0
"""A Node that was registered anew has lost its labels."""
SPACING_S: Final = 1.0
"""From one call for an object to the next, and from Event to Event."""
SHOW_AFTER_S: Final = 0.5
"""A move has the loop for itself: three TLS handshakes take longer than its announcements allow."""
RELEASE_AFTER_S: Final = 2.0
"""By then a successor has written its own name over that of who held before."""
QUEUE: Final = 50
"""Events that wait for the API server."""
NOTE_LIMIT: Final = 1000
"""Characters; an Event has room for 1024 (events.k8s.io/v1, `note`)."""
LABEL: Final = "havip.io/holder"

LeaseKey = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowHolder:
    """Have a Lease name this node; or no more, if it still does."""

    key: LeaseKey
    since_us: int | None
    """Since when this node holds, UTC, microseconds since the epoch; None: it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowLabels:
    """Put these labels on the Node, or take them off."""

    labels: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowEvent:
    """Tell of one change of a virtual router's state."""

    name: str
    """Of the object: the same however often it is sent."""
    at_us: int
    reason: str
    action: str
    note: str
    is_warning: bool


Wish = ShowHolder | ShowLabels | ShowEvent


class _Sign:
    """One object that is to show something: when to write it next."""

    def __init__(self, random: Callable[[], float], due_at: float) -> None:
        self.due_at = due_at
        self.is_busy = False
        self.began_at = -math.inf
        self._backoff = Backoff(random)
        self._is_failing = False

    @property
    def wake_at(self) -> float:
        return math.inf if self.is_busy else self.due_at

    def begin(self, now: float) -> None:
        self.is_busy = True
        self.began_at = now

    def hasten(self, now: float, in_s: float = 0.0) -> None:
        """There is something new to show; but who does not answer is not asked more often."""
        if not self._is_failing:
            self.due_at = max(now + in_s, self.began_at + SPACING_S)

    def end(self, now: float, *, is_done: bool, next_at: float) -> None:
        self.is_busy = False
        self._is_failing = not is_done
        if is_done:
            self._backoff.succeed()
            self.due_at = max(next_at, self.began_at + SPACING_S)
        else:
            self.due_at = now + self._backoff.pause_s()


class _HolderSign(_Sign):
    def __init__(self, random: Callable[[], float], router: str) -> None:
        super().__init__(random, math.inf)
        self.router = router
        self.is_wanted = True
        self.may_name_me = True
        """In doubt: an earlier life may have written it."""


class Publisher:
    """Says what to write when; told of each report of the core, and of how each wish ended."""

    def __init__(
        self,
        config: NodeConfig,
        now: float,
        since_us: Mapping[str, int],
        *,
        random: Callable[[], float],
    ) -> None:
        """
        Args:
            since_us: virtual routers that hold already, and since when, as in `note`.
            random: uniform in [0, 1).
        """
        self.dropped = 0
        """Events that nobody will see."""
        self._random = random
        self._config = config
        self._routers: dict[str, RouterConfig] = {}
        self._since: dict[str, int | None] = dict(since_us)
        """Of each router that has said whether it holds, since when."""
        self._holders: dict[LeaseKey, _HolderSign] = {}
        self._labels: dict[str, set[str]] = {}
        """Of each label that the Node may have, the routers that it stands for."""
        self._label_sign = _Sign(random, math.inf)
        self._events: deque[ShowEvent] = deque()
        self._event_sign = _Sign(random, -math.inf)
        self._last_us = 0
        self._is_finishing = False
        self.use(config, now)

    def use(self, config: NodeConfig, now: float) -> None:
        """Show what this configuration wants; what it does not want any more is taken back."""
        self._config = config
        self._routers |= {router.name: router for router in config.routers}
        wanted = {r.holder_lease: r.name for r in config.routers if r.holder_lease is not None}
        for key, sign in self._holders.items():
            if key not in wanted:
                sign.is_wanted = False
                sign.hasten(now)
        for key, router in wanted.items():
            sign = self._holders.setdefault(key, _HolderSign(self._random, router))
            sign.router, sign.is_wanted = router, True
            sign.hasten(now, 0.0 if self._wanted(sign) is not None else RELEASE_AFTER_S)
        self._labels = {label: set() for label in self._labels}
        if config.shows_label:
            for each in config.routers:
                self._labels.setdefault(label_of(each), set()).add(each.name)
        if self._labels:
            self._label_sign.hasten(now)
        if not config.shows_events:
            self._drop(len(self._events))

    def note(self, now: float, at_us: int, report: Report) -> None:
        """Take a report of the core.

        Args:
            at_us: UTC, microseconds since the epoch.
        """
        if report.topic is not Topic.MOVED or report.state is None:
            return
        held = self._since.get(report.router)
        holds = report.state is State.ACTIVE
        since_us = (held or at_us) if holds else None
        if self._config.shows_events:
            if not self._events:
                self._event_sign.hasten(now, SHOW_AFTER_S)
            self._tell(at_us, report)
        is_news = report.router not in self._since or since_us != held
        self._since[report.router] = since_us
        if not is_news:
            return
        for sign in self._holders.values():
            if sign.router == report.router:
                sign.hasten(now, SHOW_AFTER_S if holds else RELEASE_AFTER_S)
        if self._labels:
            self._label_sign.hasten(now, SHOW_AFTER_S)

    @property
    def wake_at(self) -> float:
        """Monotonic seconds at which something is due; infinity for never."""
        signs = (self._label_sign, *self._holders.values())
        wake_at = min(sign.wake_at for sign in signs)
        return min(wake_at, self._event_sign.wake_at) if self._events else wake_at

    def take(self, now: float) -> list[Wish]:
        """What is due now; each has to be answered by `end`."""
        wishes: list[Wish] = []
        for key, sign in list(self._holders.items()):
            if now < sign.wake_at:
                continue
            since_us = self._wanted(sign)
            if since_us is None and not sign.may_name_me:
                sign.due_at = math.inf
                if not sign.is_wanted:
                    del self._holders[key]
                continue
            sign.begin(now)
            wishes.append(ShowHolder(key=key, since_us=since_us))
        if now >= self._label_sign.wake_at:
            self._label_sign.begin(now)
            wishes.append(ShowLabels(labels=self._wanted_labels()))
        if self._events and now >= self._event_sign.wake_at:
            self._event_sign.begin(now)
            wishes.append(self._events[0])
        return wishes

    def end(self, now: float, wish: Wish, *, is_done: bool, is_hopeless: bool = False) -> None:
        """How a wish ended.

        Args:
            is_done: Kubernetes shows it now.
            is_hopeless: it never will, however often it is asked.
        """
        match wish:
            case ShowHolder():
                self._end_holder(now, wish, is_done=is_done)
            case ShowLabels():
                self._end_labels(now, wish, is_done=is_done)
            case ShowEvent():
                if (is_done or is_hopeless) and self._events and self._events[0] is wish:
                    self._events.popleft()
                    self.dropped += not is_done
                self._event_sign.end(now, is_done=is_done or is_hopeless, next_at=now)
        if self._is_finishing:
            self._end_last(now, wish, is_done=is_done or is_hopeless)

    def finish(self, now: float) -> None:
        """This daemon ends: nothing is held any more, and for each thing there is one attempt."""
        self._is_finishing = True
        self._since = dict.fromkeys(self._since)
        for sign in (*self._holders.values(), self._event_sign):
            sign.due_at = now
        if self._labels:
            self._label_sign.due_at = now

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing left to wait for, soon or at all."""
        signs = (self._label_sign, self._event_sign, *self._holders.values())
        return self.wake_at == math.inf and not any(sign.is_busy for sign in signs)

    def _end_last(self, now: float, wish: Wish, *, is_done: bool) -> None:
        """A daemon that ends has time for one attempt, and none for a pause."""
        match wish:
            case ShowHolder():
                is_last = wish.since_us is None
                self._holders[wish.key].due_at = math.inf if is_last else now
            case ShowLabels():
                self._label_sign.due_at = math.inf if not any(wish.labels.values()) else now
            case ShowEvent():
                self._event_sign.due_at = now
                if not is_done:
                    self._drop(len(self._events))

    def _end_labels(self, now: float, wish: ShowLabels, *, is_done: bool) -> None:
        next_at = now + RELABEL_S if any(wish.labels.values()) else math.inf
        if wish.labels != self._wanted_labels():
            next_at = now
        elif is_done and not self._config.shows_label:
            self._labels.clear()
        self._label_sign.end(now, is_done=is_done, next_at=next_at)

    def _end_holder(self, now: float, wish: ShowHolder, *, is_done: bool) -> None:
        sign = self._holders[wish.key]
        if wish.since_us is not None:
            sign.may_name_me = True
        elif is_done:
            sign.may_name_me = False
        wanted = self._wanted(sign)
        if wanted != wish.since_us:
            next_at = now if wanted is not None else now + RELEASE_AFTER_S
        elif wanted is not None:
            next_at = sign.began_at + RENEW_S
        else:
            next_at = math.inf if sign.is_wanted else now
        sign.end(now, is_done=is_done, next_at=next_at)

    def _wanted(self, sign: _HolderSign) -> int | None:
        return self._since.get(sign.router) if sign.is_wanted else None

    def _wanted_labels(self) -> dict[str, bool]:
        return {
            label: any(self._since.get(router) is not None for router in routers)
            for label, routers in self._labels.items()
        }

    def _tell(self, at_us: int, report: Report) -> None:
        assert report.state is not None
        # Two in one microsecond are two.
        self._last_us = at_us = max(at_us, self._last_us + 1)
        router = self._routers.get(report.router)
        vips = [str(vip.address) for leg in router.legs for vip in leg.vips] if router else []
        was = f", was {report.was.value}" if report.was is not None else ""
        more = ", ".join(f"{key}={_shown(value)}" for key, value in report.fields.items())
        note = f"{report.state.value} for {', '.join(vips)} on {report.router}{was}"
        self._events.append(
            ShowEvent(
                name=f"{self._config.node_name}.{at_us:016x}",
                at_us=at_us,
                reason=report.reason.value if report.reason else report.topic.value,
                action=report.state.value,
                note=f"{note}: {more}"[:NOTE_LIMIT] if more else note[:NOTE_LIMIT],
                is_warning=report.reason in WARNINGS,
            )
        )
        self._drop(len(self._events) - QUEUE)

    def _drop(self, count: int) -> None:
        """The oldest go; that which is under way too, since nobody knows whether it arrives."""
        for _ in range(count):
            self._events.popleft()
            self.dropped += 1


def label_of(router: RouterConfig) -> str:
    """Each virtual router has its own: several daemons may share a node."""
    return f"{LABEL}-{router.virtual_router_id}"


def record_of(
    found: LeaseRecord | None, wish: ShowHolder, identity: str, now_us: int
) -> LeaseRecord | None:
    """What to write, over what was found; None if nothing.

    Args:
        found: as it stands there; None: there is no such Lease.
        identity: this node's name.
        now_us: UTC, microseconds since the epoch.
    """
    is_mine = found is not None and found.holder == identity
    if wish.since_us is None:
        if found is None or not is_mine:
            return None
        return replace(
            found, holder="", holder_mac=b"", duration_s=1, acquired_us=now_us, renewed_us=now_us
        )
    transitions = 0 if found is None else min(found.transitions + (not is_mine), MOST)
    return LeaseRecord(
        holder=identity,
        holder_mac=b"",
        duration_s=DURATION_S,
        acquired_us=wish.since_us,
        renewed_us=now_us,
        transitions=transitions,
        version="" if found is None else found.version,
    )


def _shown(value: str | float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
