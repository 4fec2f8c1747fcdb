"""What Kubernetes is told of the holder, and when: in virtual time, by a server that answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from driver import V4, router

from havip.core.actions import Report, Topic
from havip.core.config import NodeConfig, RouterConfig
from havip.core.publish import (
    DURATION_S,
    NOTE_LIMIT,
    QUEUE,
    RELABEL_S,
    RELEASE_AFTER_S,
    RENEW_S,
    SHOW_AFTER_S,
    Publisher,
    ShowEvent,
    ShowHolder,
    ShowLabels,
    Wish,
    record_of,
)
from havip.core.reasons import Reason, State
from havip.core.record import MOST, LeaseRecord

KEY = ("kube-system", "havip-10")
LABEL = "havip.io/holder-10"
LEASE = router(holder_lease=KEY)
PLAIN = router()
UTC_S = 1_700_000_000


@dataclass
class Desk:
    """Takes every wish, and grants it after `answer_s` unless `grants` says no."""

    routers: tuple[RouterConfig, ...] = (LEASE,)
    events: bool = False
    label: bool = False
    answer_s: float | None = 0.0
    """None: it never answers."""
    grants: Callable[[Wish], bool] = lambda _wish: True
    hopeless: bool = False
    now: float = 1000.0
    asked: list[tuple[float, Wish]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.publisher = Publisher(self.config, self.now, {}, random=lambda: 0.5)
        self.pending: list[tuple[float, Wish]] = []

    @property
    def config(self) -> NodeConfig:
        return NodeConfig(
            node_name="a",
            routers=self.routers,
            shows_events=self.events,
            shows_label=self.label,
        )

    def move(
        self,
        state: State,
        reason: Reason = Reason.ACTIVE_SILENT,
        was: State | None = None,
        router: str = "eth0/10",
        **fields: str | int | float,
    ) -> None:
        report = Report(
            topic=Topic.MOVED, router=router, reason=reason, state=state, was=was, fields=fields
        )
        self.publisher.note(self.now, self.utc_us, report)
        self.step()

    @property
    def utc_us(self) -> int:
        return UTC_S * 1_000_000 + round(self.now * 1e6)

    def step(self) -> None:
        while True:
            for wish in self.publisher.take(self.now):
                self.asked.append((self.now, wish))
                if self.answer_s is not None:
                    self.pending.append((self.now + self.answer_s, wish))
            due = [item for item in self.pending if item[0] <= self.now]
            if not due:
                return
            for item in due:
                self.pending.remove(item)
                is_done = self.grants(item[1])
                self.publisher.end(
                    self.now, item[1], is_done=is_done, is_hopeless=self.hopeless and not is_done
                )

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            at = min(self.publisher.wake_at, *(at for at, _ in self.pending), math.inf)
            if at > end:
                break
            assert at >= self.now or self.publisher.wake_at <= self.now
            self.now = max(self.now, at)
            self.step()
            assert self.publisher.wake_at > self.now, "spins"
        self.now = end

    def wishes(self, kind: type) -> list[tuple[float, Wish]]:
        return [(at, wish) for at, wish in self.asked if isinstance(wish, kind)]

    @property
    def holders(self) -> list[tuple[float, int | None]]:
        return [(at, w.since_us) for at, w in self.asked if isinstance(w, ShowHolder)]


# The Lease ---------------------------------------------------------------------------------------


def test_a_holder_writes_its_name_after_its_move_and_renews_it():
    desk = Desk()
    desk.move(State.BACKUP, Reason.STARTED)
    desk.run_for(100.0)
    desk.asked.clear()
    since_us, at = desk.utc_us, desk.now
    desk.move(State.ACTIVE)
    desk.run_for(SHOW_AFTER_S + 3 * RENEW_S)
    assert desk.holders == [(at + SHOW_AFTER_S + n * RENEW_S, since_us) for n in range(4)]


def test_a_node_that_never_held_looks_once_whether_an_earlier_life_did():
    desk = Desk()
    desk.move(State.BACKUP, Reason.STARTED)
    at = desk.now
    desk.run_for(1000.0)
    assert desk.holders == [(at + RELEASE_AFTER_S, None)]


def test_who_holds_no_more_leaves_its_successor_the_first_word():
    desk = Desk()
    desk.move(State.ACTIVE)
    desk.run_for(5.0)
    desk.asked.clear()
    desk.move(State.BACKUP, Reason.HIGHER_PRIORITY)
    at = desk.now
    desk.run_for(1000.0)
    assert desk.holders == [(at + RELEASE_AFTER_S, None)]


def test_moves_to_and_fro_are_written_once_they_are_over():
    desk = Desk()
    for number in range(40):
        desk.move(State.BACKUP if number % 2 else State.ACTIVE)
        desk.run_for(0.1)
    count = len(desk.holders)
    assert count <= 5, "once a second at most"
    desk.run_for(100.0)
    assert desk.holders[-1][1] is None


def test_what_changes_while_a_call_is_under_way_follows_it():
    desk = Desk(answer_s=3.0)
    desk.move(State.ACTIVE)
    desk.run_for(1.0)
    desk.move(State.BACKUP)
    desk.run_for(10.0)
    assert [since is None for _, since in desk.holders] == [False, True]


def test_a_server_that_does_not_answer_is_asked_by_one_call():
    desk = Desk(answer_s=None)
    for state in (State.ACTIVE, State.BACKUP, State.ACTIVE):
        desk.move(state)
        desk.run_for(100.0)
    assert len(desk.holders) == 1


def test_a_server_that_refuses_is_asked_ever_more_rarely_whatever_happens():
    desk = Desk(grants=lambda _wish: False)
    for number in range(3000):
        desk.move(State.BACKUP if number % 2 else State.ACTIVE)
        desk.run_for(0.1)
    assert len(desk.holders) <= 11
    desk.grants = lambda _wish: True
    desk.move(State.ACTIVE)
    desk.run_for(100.0)
    times = [at for at, since in desk.holders if since is not None][-3:]
    assert [b - a for a, b in pairwise(times)] == [RENEW_S, RENEW_S]


def test_a_reload_that_shows_nothing_takes_its_name_out():
    desk = Desk()
    desk.move(State.ACTIVE)
    desk.run_for(5.0)
    desk.asked.clear()
    desk.routers = (PLAIN,)
    desk.publisher.use(desk.config, desk.now)
    desk.run_for(1000.0)
    assert [since for _, since in desk.holders] == [None]


def test_a_reload_that_shows_what_is_held_already():
    desk = Desk(routers=(PLAIN,))
    desk.move(State.ACTIVE)
    since_us = desk.utc_us
    desk.run_for(5.0)
    desk.routers = (LEASE,)
    desk.publisher.use(desk.config, desk.now)
    desk.run_for(1.0)
    assert [since for _, since in desk.holders] == [since_us]


def test_an_end_takes_the_name_out_at_once_and_asks_no_more():
    desk = Desk(label=True, events=True)
    desk.move(State.ACTIVE)
    desk.run_for(10.0)
    desk.asked.clear()
    desk.move(State.INITIALIZE, Reason.STOPPED, State.ACTIVE)
    assert not desk.asked
    desk.publisher.finish(desk.now)
    desk.step()
    assert desk.holders == [(desk.now, None)]
    assert [wish.labels for _, wish in desk.wishes(ShowLabels)] == [{LABEL: False}]
    assert [wish.reason for _, wish in desk.wishes(ShowEvent)] == ["stopped"]
    assert desk.publisher.is_idle


def test_an_end_does_not_wait_for_a_server_that_refuses():
    desk = Desk(label=True, events=True, grants=lambda _wish: False)
    desk.move(State.ACTIVE)
    desk.move(State.INITIALIZE, Reason.STOPPED, State.ACTIVE)
    desk.run_for(30.0)
    desk.asked.clear()
    desk.publisher.finish(desk.now)
    desk.step()
    assert len(desk.asked) <= 3
    assert desk.publisher.is_idle


# What a Lease says -------------------------------------------------------------------------------

OTHER = LeaseRecord(
    holder="b",
    holder_mac=b"\x02\0\0\0\0\x0b",
    duration_s=40,
    acquired_us=1,
    renewed_us=2,
    transitions=7,
    version="17",
)
HOLD = ShowHolder(key=KEY, since_us=500)
LET_GO = ShowHolder(key=KEY, since_us=None)


@pytest.mark.parametrize(
    ("found", "transitions"),
    [
        pytest.param(None, 0, id="none: it is made"),
        pytest.param(replace(OTHER, holder="", transitions=0), 1, id="empty, as a chart makes it"),
        pytest.param(replace(OTHER, transitions=MOST), MOST, id="as often as there are numbers"),
        pytest.param(OTHER, 8, id="another's: the wire has decided"),
        pytest.param(replace(OTHER, holder="a"), 7, id="this node's own"),
    ],
)
def test_a_holder_writes_over_whatever_stands_there(found, transitions):
    assert record_of(found, HOLD, "a", 900) == LeaseRecord(
        holder="a",
        holder_mac=b"",
        duration_s=DURATION_S,
        acquired_us=500,
        renewed_us=900,
        transitions=transitions,
    )


def test_a_write_names_the_version_that_it_replaces():
    record = record_of(OTHER, HOLD, "a", 900)
    assert record is not None
    assert record.version == "17"


@pytest.mark.parametrize("found", [None, OTHER, replace(OTHER, holder="")])
def test_nobody_takes_out_another_name_than_its_own(found):
    assert record_of(found, LET_GO, "a", 900) is None


def test_taking_the_own_name_out():
    record = record_of(replace(OTHER, holder="a"), LET_GO, "a", 900)
    assert record is not None
    assert (record.holder, record.transitions, record.version) == ("", 7, "17")


# Labels ------------------------------------------------------------------------------------------


def test_the_label_of_an_earlier_life_goes_and_that_of_a_holder_stays():
    desk = Desk((PLAIN,), label=True)
    desk.move(State.BACKUP)
    desk.run_for(10.0)
    at = desk.now
    desk.move(State.ACTIVE)
    desk.run_for(RELABEL_S + 2.0)
    desk.move(State.BACKUP)
    desk.run_for(1000.0)
    assert [(at, wish.labels) for at, wish in desk.wishes(ShowLabels)] == [
        (1000.0 + SHOW_AFTER_S, {LABEL: False}),
        (at + SHOW_AFTER_S, {LABEL: True}),
        (at + SHOW_AFTER_S + RELABEL_S, {LABEL: True}),
        (at + RELABEL_S + 2.0 + SHOW_AFTER_S, {LABEL: False}),
    ]


def test_each_virtual_router_has_its_own_label():
    other = replace(PLAIN, name="eth0/20", virtual_router_id=20)
    desk = Desk((PLAIN, other), label=True)
    desk.run_for(10.0)
    desk.move(State.ACTIVE, router="eth0/20")
    desk.run_for(SHOW_AFTER_S)
    _, wish = desk.wishes(ShowLabels)[-1]
    assert wish.labels == {LABEL: False, "havip.io/holder-20": True}


def test_a_reload_without_labels_takes_them_off():
    desk = Desk((PLAIN,), label=True)
    desk.move(State.ACTIVE)
    desk.run_for(10.0)
    desk.asked.clear()
    desk.label = False
    desk.publisher.use(desk.config, desk.now)
    desk.run_for(1000.0)
    assert [wish.labels for _, wish in desk.wishes(ShowLabels)] == [{LABEL: False}]


def test_no_label_is_ever_touched_where_none_is_wanted():
    desk = Desk((PLAIN,))
    desk.move(State.ACTIVE)
    desk.run_for(100.0)
    assert not desk.asked


# Events ------------------------------------------------------------------------------------------


def test_an_event_says_what_the_log_says():
    desk = Desk((PLAIN,), events=True)
    desk.move(
        State.ACTIVE, Reason.ACTIVE_UNREACHABLE, State.BACKUP, peer="192.0.2.15", silent_s=0.2124
    )
    at_us = desk.utc_us
    assert not desk.asked, "the move has the loop for itself"
    desk.run_for(SHOW_AFTER_S)
    ((_, event),) = desk.wishes(ShowEvent)
    assert event == ShowEvent(
        name=f"a.{at_us:016x}",
        at_us=at_us,
        reason="active_unreachable",
        action="active",
        note=f"active for {V4.vip.address} on eth0/10, was backup: peer=192.0.2.15, silent_s=0.212",
        is_warning=False,
    )


@pytest.mark.parametrize("reason", [Reason.FROZEN, Reason.CHECK_FAILED, Reason.INSTALL_FAILED])
def test_what_a_person_should_look_at_is_a_warning(reason):
    desk = Desk((PLAIN,), events=True)
    desk.move(State.BACKUP, reason, State.ACTIVE)
    desk.run_for(SHOW_AFTER_S)
    ((_, event),) = desk.wishes(ShowEvent)
    assert event.is_warning


def test_only_changes_of_state_are_events():
    desk = Desk((PLAIN,), events=True)
    for topic in Topic:
        if topic is not Topic.MOVED:
            report = Report(topic=topic, router="eth0/10", reason=Reason.CHECK_FAILED)
            desk.publisher.note(desk.now, desk.utc_us, report)
    desk.run_for(100.0)
    assert not desk.asked


def test_a_story_that_is_too_long_is_cut():
    desk = Desk((PLAIN,), events=True)
    desk.move(State.BACKUP, detail="x" * 5000)
    desk.run_for(SHOW_AFTER_S)
    ((_, event),) = desk.wishes(ShowEvent)
    assert len(event.note) == NOTE_LIMIT


def test_events_wait_for_the_server_in_order_and_each_has_its_own_name():
    desk = Desk((PLAIN,), events=True, grants=lambda _wish: False)
    for number in range(5):
        desk.move(State.BACKUP, number=number)
    desk.run_for(100.0)
    desk.grants = lambda _wish: True
    desk.asked.clear()
    desk.run_for(200.0)
    events = [wish for _, wish in desk.wishes(ShowEvent)]
    assert [wish.note[-1] for wish in events] == ["0", "1", "2", "3", "4"]
    assert len({wish.name for wish in events}) == 5
    assert desk.publisher.dropped == 0


def test_the_oldest_of_too_many_events_are_dropped_and_counted():
    desk = Desk((PLAIN,), events=True, answer_s=None)
    for _ in range(QUEUE + 7):
        desk.move(State.BACKUP)
    desk.run_for(100.0)
    assert desk.publisher.dropped == 7
    assert len(desk.asked) == 1


def test_an_event_that_no_server_will_ever_take_is_dropped_and_counted():
    desk = Desk((PLAIN,), events=True, grants=lambda _wish: False, hopeless=True)
    desk.move(State.BACKUP)
    desk.run_for(1000.0)
    assert len(desk.asked) == 1
    assert desk.publisher.dropped == 1


def test_a_flapping_router_sends_one_event_a_second():
    desk = Desk((PLAIN,), events=True)
    for number in range(1000):
        desk.move(State.BACKUP if number % 2 else State.ACTIVE)
        desk.run_for(0.01)
    assert len(desk.asked) <= 11
