"""A node whose holder a Lease elects: what follows from what the API server and the host say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from driver import (
    ETH,
    MAC,
    V4,
    V6,
    Driver,
    announcement,
    check,
    mac_of,
    order,
    question,
    router,
)

from havip.core.actions import (
    Action,
    InstallAddress,
    ReadLease,
    RemoveAddress,
    ResetFormerConnections,
    Topic,
    WriteLease,
)
from havip.core.config import LeaseConfig, RouterConfig
from havip.core.events import (
    ClockStepped,
    LeaseChanged,
    LeaseFailed,
    LeaseRead,
    LeaseWritten,
    ProbeResult,
    Removal,
    StopRequested,
)
from havip.core.reasons import Reason, State
from havip.core.record import LeaseRecord

SLOW = LeaseConfig(namespace="kube-system", name="havip-10")
FAST = replace(SLOW, duration_s=5, renew_deadline_s=3.0, retry_period_s=1.0)
OTHER = mac_of(V4.higher)
THEIRS = LeaseRecord(
    holder="b",
    holder_mac=OTHER,
    duration_s=15,
    acquired_us=1,
    renewed_us=1,
    transitions=0,
    version="7",
)


@dataclass
class Fleet(Driver):
    """A driver with an API server that answers at once, unless `is_silent`."""

    stored: LeaseRecord | None = None
    is_silent: bool = False
    status: int | None = None
    """With which every request fails."""
    asked: list[tuple[float, ReadLease | WriteLease]] = field(default_factory=list)

    def _act(self, action: Action) -> None:
        super()._act(action)
        if isinstance(action, ReadLease | WriteLease):
            self.asked.append((self.now, action))
            if not self.is_silent:
                self._pending.append((self.now, self.answer(action)))

    def answer(self, action: ReadLease | WriteLease) -> LeaseRead | LeaseWritten | LeaseFailed:
        if self.status is not None:
            return self.failure(action, self.status)
        if isinstance(action, ReadLease):
            return LeaseRead(request=action.request, record=self.stored)
        if action.record.version != (self.stored.version if self.stored else ""):
            return self.failure(action, 409)
        version = str(int(action.record.version or 0) + 1)
        self.stored = replace(action.record, version=version)
        return LeaseWritten(request=action.request, version=version)

    def failure(self, action: ReadLease | WriteLease, status: int | None) -> LeaseFailed:
        result = ProbeResult.WRONG_STATUS
        return LeaseFailed(request=action.request, result=result, status=status, detail="why")

    def start(self, *, links: bool = True) -> Fleet:
        super().start(links=links)
        self.wake()
        return self

    def hold(self) -> Fleet:
        """Start, claim, and have the address confirmed."""
        self.start()
        self.run_for(1.0)
        assert self.state is State.ACTIVE
        assert self.on_interface
        self.done.clear()
        self.asked.clear()
        return self

    def installs(self) -> list[float]:
        return [at for at, _ in self.timed(InstallAddress)]


def fleet(lease: LeaseConfig = SLOW, **changes: object) -> Fleet:
    fields = {k: changes.pop(k) for k in list(changes) if k in RouterConfig.__dataclass_fields__}
    return Fleet((router(lease=lease, **fields),), **changes)  # type: ignore[arg-type]


# Claims.


def test_nothing_is_written_before_it_was_read() -> None:
    d = fleet(is_silent=True)
    d.start()
    d.run_for(10.0)
    assert [type(action) for _, action in d.asked] == [ReadLease]
    assert d.state is State.BACKUP
    assert "no answer yet for Lease kube-system/havip-10" in d.node.view(d.now).not_ready_because


def test_a_node_is_ready_once_it_has_read() -> None:
    d = fleet(stored=THEIRS)
    d.start()
    assert d.node.view(d.now).ready
    assert d.view.lease is not None and d.view.lease.holder == "b"


def test_why_it_is_not_ready() -> None:
    d = fleet(status=403)
    d.start()
    assert d.node.view(d.now).not_ready_because.endswith(": why")


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        pytest.param(None, Reason.LEASE_ABSENT, id="absent"),
        pytest.param(replace(THEIRS, holder=""), Reason.LEASE_RELEASED, id="released"),
        pytest.param(THEIRS, Reason.LEASE_EXPIRED, id="expired"),
        pytest.param(
            replace(THEIRS, holder="a", holder_mac=MAC), Reason.LEASE_RESUMED, id="resumed"
        ),
    ],
)
def test_why_a_node_holds(stored: LeaseRecord | None, reason: Reason) -> None:
    d = fleet(stored=stored)
    d.start()
    d.run_for(16.0)
    assert [(state, why) for _, state, why in d.moves][1:] == [(State.ACTIVE, reason)]
    assert d.on_interface == {V4.vip.interface}
    assert d.announcements


def test_what_it_had_open_to_the_former_holder_ends_once_it_has_announced() -> None:
    d = fleet().start()
    d.run_for(1)
    assert d.timed(ResetFormerConnections) == [
        (d.announcements[0][0], ResetFormerConnections(address=V4.vip.address))
    ]


def test_an_address_comes_only_with_the_answer() -> None:
    d = fleet(is_silent=True)
    d.start()
    d.tell(d.answer(d.asked[-1][1]))
    d.run_for(1.0)
    claim = d.asked[-1][1]
    assert isinstance(claim, WriteLease) and not d.installs()
    d.tell(d.answer(claim))
    assert d.installs() == [d.now]


def test_an_answer_after_the_deadline_gives_no_right() -> None:
    d = fleet(is_silent=True)
    d.start()
    d.tell(d.answer(d.asked[-1][1]))
    d.run_for(1.0)
    claim = d.asked[-1][1]
    d.freeze_for(12.0)
    d.tell(d.answer(claim))
    assert not d.installs()


@pytest.mark.parametrize(("priority", "delay_s"), [(254, 0.0), (127, 0.125), (2, 0.248)], ids=str)
def test_the_better_claim_earlier(priority: int, delay_s: float) -> None:
    d = fleet(stored=THEIRS, priority=priority)
    d.start()
    d.run_for(5.0)
    d.stored = replace(THEIRS, holder="", version="8")
    d.tell(LeaseChanged(namespace="kube-system", name="havip-10", version="8"))
    at = d.now
    d.run_for(1.0)
    (claimed_at,) = [when for when, action in d.asked if isinstance(action, WriteLease)][:1]
    assert claimed_at - at == pytest.approx(delay_s, abs=0.002)


def test_a_hint_of_another_lease_is_none() -> None:
    d = fleet(stored=THEIRS)
    d.start()
    d.run_for(1.0)
    d.asked.clear()
    d.tell(LeaseChanged(namespace="default", name="havip-10", version="8"))
    d.wake()
    assert not d.asked


def test_a_stranger_with_the_address_is_refused() -> None:
    d = fleet()
    d.start()
    d.tell(announcement(mac_of(V4.lower), V4.vip.address))
    d.run_for(1.0)
    (report,) = [report for _, report in d.reports(Topic.REFUSED)]
    assert report.reason is Reason.ADDRESS_IN_USE
    assert d.stored is None
    d.run_for(10.0)
    assert d.state is State.ACTIVE, "it has gone"


def test_a_holder_of_the_lease_is_no_stranger() -> None:
    d = fleet(stored=THEIRS)
    d.start()
    d.run_for(0.6)
    d.tell(announcement(OTHER, V4.vip.address))
    d.stored = replace(THEIRS, holder="", version="8")
    d.tell(LeaseChanged(namespace="kube-system", name="havip-10", version="8"))
    d.run_for(0.3)
    assert d.state is State.ACTIVE


# The holder.


def test_it_renews_lease_and_address() -> None:
    d = fleet().hold()
    d.run_for(20.0)
    assert all(isinstance(action, WriteLease) for _, action in d.asked)
    spacings = [b - a for (a, _), (b, _) in pairwise(d.asked)]
    assert spacings == [pytest.approx(2.0)] * 9
    assert 28 <= len(d.installs()) <= 29


@pytest.mark.parametrize("lease", [SLOW, FAST], ids=["15/10/2", "5/3/1"])
@pytest.mark.parametrize("how", ["silence", "500", "403"])
def test_without_renewal_the_address_goes_in_time(lease: LeaseConfig, how: str) -> None:
    d = fleet(lease).hold()
    d.run_for(lease.retry_period_s)
    sent_at = d.asked[-1][0]
    d.done.clear()
    d.is_silent, d.status = how == "silence", None if how == "silence" else int(how)
    d.run_for(lease.duration_s)
    ((removed_at, _),) = d.timed(RemoveAddress)
    assert removed_at == pytest.approx(sent_at + lease.renew_deadline_s, abs=0.01)
    assert max(d.installs()) + 3.3 <= sent_at + lease.duration_s
    assert (d.state, d.moves[-1][2]) == (State.BACKUP, Reason.LEASE_NOT_RENEWED)


def test_a_waning_lease_installs_nothing_and_says_nothing() -> None:
    d = fleet(FAST).hold()
    d.run_for(1.0)
    d.is_silent = True
    d.run_for(2.0)
    d.done.clear()
    d.tell(question(V4.lower, V4.vip.address))
    d.lose_address(V4.vip.interface)
    d.own_address(address="192.0.2.77/24")
    d.run_for(0.5)
    assert not d.installs() and not d.announcements


def test_a_renewal_in_time_brings_everything_back() -> None:
    d = fleet(FAST).hold()
    d.run_for(1.0)
    sent_at = d.asked[-1][0]
    d.is_silent = True
    d.run_until(sent_at + 2.5)
    d.lose_address(V4.vip.interface)
    asked_at, renewal = d.asked[-1]
    assert asked_at == pytest.approx(sent_at + 1.0)
    d.is_silent = False
    d.done.clear()
    d.tell(d.answer(renewal))
    d.run_for(0.1)
    assert d.on_interface == {V4.vip.interface} and d.announcements


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(replace(THEIRS, version="50"), id="another's"),
        pytest.param(replace(THEIRS, holder="", version="50"), id="emptied"),
    ],
)
def test_a_lease_that_was_taken_ends_it_at_once(seen: LeaseRecord) -> None:
    d = fleet().hold()
    d.stored = seen
    d.tell(LeaseChanged(namespace="kube-system", name="havip-10", version="50"))
    d.run_for(0.01)
    assert not d.on_interface
    assert d.moves[0][1:] == (State.BACKUP, Reason.LEASE_TAKEN)


def test_who_disputes_the_address_has_the_lease_asked() -> None:
    """A machine that stood still with its clock has no other sign."""
    d = fleet().hold()
    d.run_for(0.5)
    d.stored = replace(THEIRS, version="50")
    d.asked.clear()
    d.done.clear()
    d.tell(announcement(OTHER, V4.vip.address))
    assert not d.announcements, "it may be right"
    d.run_for(0.01)
    assert isinstance(d.asked[0][1], ReadLease) and not d.on_interface


def test_a_dispute_that_the_lease_decides_is_answered() -> None:
    d = fleet().hold()
    d.run_for(1.5)
    d.done.clear()
    d.tell(announcement(mac_of(V4.lower), V4.vip.address))
    d.run_for(0.001)
    assert d.announcements and d.state is State.ACTIVE


def test_a_flood_of_disputes_is_no_flood_of_requests() -> None:
    d = fleet().hold()
    for _ in range(1000):
        d.tell(announcement(mac_of(V4.lower), V4.vip.address))
        d.run_for(0.001)
    assert len(d.asked) < 12


def test_a_step_of_the_clock_has_the_lease_asked() -> None:
    d = fleet().hold()
    d.run_for(0.5)
    d.asked.clear()
    d.tell(ClockStepped(utc_offset_s=5e9))
    d.run_for(0.01)
    assert [type(action) for _, action in d.asked] == [ReadLease, WriteLease]


# A process that was stopped.


def test_it_asks_before_it_goes_on() -> None:
    d = fleet().hold()
    d.run_for(0.5)
    d.freeze_for(4.0)
    d.done.clear()
    d.asked.clear()
    d.lose_address(V4.vip.interface, Removal.EXPIRED)
    assert order(d.since(d.now)) == []
    d.wake()
    assert isinstance(d.asked[0][1], ReadLease)
    d.run_for(0.5)
    assert d.state is State.ACTIVE and d.on_interface


def test_it_lets_go_if_its_time_is_over() -> None:
    d = fleet().hold()
    d.freeze_for(60.0)
    d.stored = replace(THEIRS, version="50")
    d.lose_address(V4.vip.interface, Removal.EXPIRED)
    d.run_for(1.0)
    assert d.moves[0][1:] == (State.BACKUP, Reason.FROZEN)
    assert not d.installs() and not d.announcements


# Leaving.


def leave(d: Fleet, how: str) -> None:
    if how == "stopped":
        d.tell(StopRequested())
    else:
        d.judge(ProbeResult.REFUSED)


@pytest.mark.parametrize("how", ["stopped", "unfit"])
def test_it_releases_first_and_keeps_the_address_until_it_is_announced(how: str) -> None:
    d = fleet(checks=(check(),)).hold()
    d.run_for(0.3)
    d.asked.clear()
    leave(d, how)
    d.run_for(0.2)
    assert d.stored is not None and d.stored.holder == "", "released"
    assert d.on_interface, "and kept"
    d.tell(announcement(OTHER, V4.vip.address))
    d.run_for(0.1)
    assert not d.on_interface
    assert d.is_finished == (how == "stopped")


def test_clients_that_asked_in_the_overlap_hear_the_successor_again() -> None:
    """It announces to whoever asks: once before the address goes here, and once after."""
    d = fleet().hold()
    d.tell(StopRequested())
    d.run_for(0.2)
    d.done.clear()
    d.tell(announcement(OTHER, V4.vip.address))
    d.run_for(0.1)
    ((removed_at, _),) = d.timed(RemoveAddress)
    (before_at, before), (after_at, after) = d.probes
    assert before_at < removed_at <= after_at
    assert before == after == V4.vip.address


def test_a_new_holder_announces_to_whoever_asks() -> None:
    d = fleet()
    d.start()
    while d.state is not State.ACTIVE:
        d.run_for(0.01)
    d.run_for(0.03)
    d.done.clear()
    d.tell(question(V4.lower, V4.vip.address))
    assert [at for at, _ in d.announcements] == [d.now]


def test_a_successor_that_is_not_heard_is_read() -> None:
    d = fleet().hold()
    d.tell(StopRequested())
    d.run_for(0.1)
    d.stored = replace(THEIRS, version="50")
    at = d.now
    d.run_for(1.0)
    ((removed_at, _),) = d.timed(RemoveAddress)
    assert removed_at - at < 0.6 and d.is_finished


def test_without_a_successor_it_lets_go_all_the_same() -> None:
    d = fleet().hold()
    d.tell(StopRequested())
    d.run_for(5.0)
    assert d.is_finished and not d.on_interface


def test_a_release_that_fails_is_tried_as_long_as_the_lease_lasts() -> None:
    d = fleet().hold()
    sent_at = d.asked[-1][0] if d.asked else d.now - 0.4
    d.status = 500
    d.tell(StopRequested())
    d.run_for(12.0)
    assert d.is_finished and not d.on_interface
    ((removed_at, _),) = d.timed(RemoveAddress)
    assert removed_at <= sent_at + 10.1
    assert len(d.asked) > 4


def test_a_release_that_succeeds_late_is_one() -> None:
    d = fleet().hold()
    d.is_silent = True
    d.tell(StopRequested())
    d.run_for(0.1)
    release = d.asked[-1][1]
    assert isinstance(release, WriteLease) and release.record.holder == ""
    d.tell(announcement(OTHER, V4.vip.address))
    d.run_for(0.2)
    assert not d.on_interface, "the successor knew before this node did"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        pytest.param(lambda d: d.link(is_up=False), Reason.LINK_DOWN, id="link down"),
        pytest.param(
            lambda d: d.lose_address("192.0.2.10/24"), Reason.NO_ADDRESS, id="no own address"
        ),
    ],
)
def test_what_makes_holding_impossible_ends_it_at_once(
    what: Callable[[Fleet], object], reason: Reason
) -> None:
    d = fleet().hold()
    what(d)
    assert d.timed(RemoveAddress)
    d.run_for(0.1)
    assert d.stored is not None and d.stored.holder == ""
    assert d.moves[0][1:] == (State.INITIALIZE, reason)


def test_a_refused_address_goes_back() -> None:
    d = fleet(kernel_s=None)
    d.start()
    d.run_for(1.0)
    assert d.state is State.ACTIVE
    d.fail_install(V4.vip)
    d.run_for(0.1)
    assert d.stored is not None and d.stored.holder == ""
    assert d.moves[-1][2] is Reason.INSTALL_FAILED
    at = d.now
    d.run_for(10.0)
    assert [when - at > 2.5 for when, state, _ in d.moves if state is State.ACTIVE][-1]


def test_a_claim_whose_answer_was_lost_is_released_when_it_is_not_wanted() -> None:
    d = fleet(checks=(check(),), is_silent=True)
    d.start()
    d.tell(d.answer(d.asked[-1][1]))
    d.run_for(1.0)
    claim = d.asked[-1][1]
    d.answer(claim)
    d.is_silent = False
    d.tell(d.failure(claim, None))
    d.judge(ProbeResult.REFUSED)
    d.run_for(5.0)
    assert d.stored is not None and d.stored.holder == ""
    assert not d.installs()


def test_who_holds_nothing_stops_at_once() -> None:
    d = fleet(stored=THEIRS)
    d.start()
    d.run_for(1.0)
    d.tell(StopRequested())
    assert d.is_finished
    assert d.stored == THEIRS


def test_who_stops_while_it_claims_releases() -> None:
    d = fleet(is_silent=True)
    d.start()
    d.tell(d.answer(d.asked[-1][1]))
    d.run_for(1.0)
    claim = d.asked[-1][1]
    assert isinstance(claim, WriteLease)
    d.tell(StopRequested())
    assert not d.is_finished
    d.is_silent = False
    d.tell(d.answer(claim))
    d.run_for(0.1)
    assert d.is_finished
    assert d.stored is not None and d.stored.holder == ""


# Reloads.


def test_other_times_move_nothing() -> None:
    d = fleet().hold()
    d.reconfigure(lease=FAST)
    d.run_for(10.0)
    assert d.state is State.ACTIVE and not d.timed(RemoveAddress)
    assert d.stored is not None and d.stored.duration_s == 5


@pytest.mark.parametrize(
    "other", [replace(SLOW, name="other"), None], ids=["another Lease", "VRRP"]
)
def test_another_election_hands_over_first(other: LeaseConfig | None) -> None:
    d = fleet().hold()
    first = d.stored
    d.reconfigure(lease=other)
    d.run_for(0.01)
    assert first is not None
    released = [a.record for _, a in d.asked if isinstance(a, WriteLease) and a.name == SLOW.name]
    assert released[0].holder == "" and released[0].version == first.version


def test_both_families_move_together() -> None:
    config = router(lease=SLOW, legs=(V4.leg(), V6.leg()))
    d = Fleet((config,))
    d.start()
    d.run_for(1.0)
    assert d.on_interface == {V4.vip.interface, V6.vip.interface}


def test_adverts_mean_nothing() -> None:
    d = fleet().hold()
    d.hear(254, V4.higher)
    d.run_for(1.0)
    assert d.state is State.ACTIVE and not d.adverts
    assert ETH
