"""What a node may conclude from a Lease, and what it writes into one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise

import pytest

from havip.core.actions import Action, Counter, ReadLease, WriteLease
from havip.core.actions import Count as Counted
from havip.core.config import LeaseConfig
from havip.core.events import LeaseFailed, LeaseRead, LeaseWritten, ProbeResult
from havip.core.lease import LATEST_US, Lease
from havip.core.outbox import Outbox
from havip.core.reasons import Reason
from havip.core.record import MOST, LeaseRecord
from havip.core.timers import OUTLIVES_S

CONFIG = LeaseConfig(namespace="kube-system", name="havip-10")
ME, MAC, OTHER_MAC = "node-a", b"\2\0\0\0\0\x0a", b"\2\0\0\0\0\x0b"
UTC = 1_700_000_000.0
NOW = 1000.0
THEIRS = LeaseRecord(
    holder="node-b",
    holder_mac=OTHER_MAC,
    duration_s=15,
    acquired_us=5,
    renewed_us=7,
    transitions=3,
    version="70",
)
MINE = replace(THEIRS, holder=ME, holder_mac=MAC)
RELEASED = replace(THEIRS, holder="", holder_mac=b"", duration_s=1)


class Node:
    """One Lease and the API server's part."""

    def __init__(self, config: LeaseConfig = CONFIG) -> None:
        self.out = Outbox("eth0/10")
        self.lease = Lease(config, ME, self.out, numbers=count(1), random=lambda: 0.5)
        self.lease.mac = MAC
        self.lease.utc_offset_s = UTC - NOW
        self.told: list[Action] = []

    def do(self, what: Callable[[float], None], now: float) -> ReadLease | WriteLease | None:
        """The request that follows from it."""
        what(now)
        actions = self.out.take()
        self.told += actions
        asked = [a for a in actions if isinstance(a, ReadLease | WriteLease)]
        assert len(asked) < 2, "one request at a time"
        return asked[0] if asked else None

    def read(self, now: float, record: LeaseRecord | None, *, takes_s: float = 0.0) -> None:
        self.lease.look_by(now)
        request = self.do(self.lease.look, now)
        assert isinstance(request, ReadLease)
        self.lease.take(now + takes_s, LeaseRead(request=request.request, record=record))

    def write(
        self, what: Callable[[float], None], now: float, *, takes_s: float = 0.0
    ) -> LeaseRecord:
        """Something is written, and succeeds."""
        request = self.do(what, now)
        assert isinstance(request, WriteLease)
        self.lease.take(now + takes_s, LeaseWritten(request=request.request, version="71"))
        self.told += self.out.take()
        return request.record

    def fail(
        self, what: Callable[[float], None], now: float, status: int | None, *, takes_s: float = 0.0
    ) -> None:
        request = self.do(what, now)
        assert request is not None
        failed = LeaseFailed(
            request=request.request, result=ProbeResult.FAILED, status=status, detail="why"
        )
        self.lease.take(now + takes_s, failed)
        self.told += self.out.take()

    def counted(self, counter: Counter) -> list[str]:
        return [str(a.reason) for a in self.told if isinstance(a, Counted) and a.counter is counter]


def holding() -> Node:
    node = Node()
    node.read(NOW, None)
    node.write(node.lease.claim, NOW)
    return node


# Whose it is.


@pytest.mark.parametrize(
    ("record", "free_at", "reason"),
    [
        pytest.param(None, NOW, Reason.LEASE_ABSENT, id="there is none"),
        pytest.param(RELEASED, NOW, Reason.LEASE_RELEASED, id="released"),
        pytest.param(THEIRS, NOW + 15, Reason.LEASE_EXPIRED, id="another's, for its own duration"),
        pytest.param(
            replace(THEIRS, duration_s=60), NOW + 60, Reason.LEASE_EXPIRED, id="another's, longer"
        ),
        pytest.param(
            replace(THEIRS, duration_s=0), NOW + 15, Reason.LEASE_EXPIRED, id="without a duration"
        ),
        pytest.param(MINE, NOW, Reason.LEASE_RESUMED, id="this node's, of an earlier life"),
        pytest.param(
            replace(MINE, holder_mac=OTHER_MAC), NOW + 15, Reason.LEASE_EXPIRED, id="a namesake's"
        ),
        pytest.param(
            replace(MINE, holder_mac=b""), NOW + 15, Reason.LEASE_EXPIRED, id="a nameless one's"
        ),
    ],
)
def test_when_a_lease_may_be_claimed(
    record: LeaseRecord | None, free_at: float, reason: Reason
) -> None:
    node = Node()
    assert node.lease.free()[0] == math.inf, "before it was read"
    node.read(NOW, record)
    assert node.lease.free() == (free_at, reason)


def test_only_a_change_of_the_record_counts_anew() -> None:
    node = Node()
    node.read(NOW, THEIRS)
    node.read(NOW + 5, replace(THEIRS, version="71"))
    assert node.lease.free()[0] == NOW + 15, "somebody has labelled it"
    node.read(NOW + 7, replace(THEIRS, renewed_us=8))
    assert node.lease.free()[0] == NOW + 22


def test_what_the_record_says_of_the_time_counts_for_nothing() -> None:
    node = Node()
    node.read(NOW, replace(THEIRS, renewed_us=LATEST_US))
    node.read(NOW + 2, replace(THEIRS, renewed_us=0))
    assert node.lease.free()[0] == NOW + 17


def test_a_deleted_lease_is_not_free_before_its_record_has_run_out() -> None:
    node = Node()
    node.read(NOW, THEIRS)
    node.read(NOW + 1, None)
    assert node.lease.free() == (NOW + 15, Reason.LEASE_EXPIRED)
    assert node.lease.holder == ""
    assert node.write(node.lease.claim, NOW + 15).version == "", "it is made anew"


# What is written.


def test_a_first_claim() -> None:
    node = Node()
    node.read(NOW, None)
    assert node.write(node.lease.claim, NOW) == LeaseRecord(
        holder=ME,
        holder_mac=MAC,
        duration_s=15,
        acquired_us=int(UTC * 1e6),
        renewed_us=int(UTC * 1e6),
        transitions=0,
    )


@pytest.mark.parametrize(
    ("record", "transitions"),
    [
        pytest.param(THEIRS, 4, id="another's"),
        pytest.param(RELEASED, 4, id="released"),
        pytest.param(MINE, 3, id="its own"),
        pytest.param(replace(THEIRS, transitions=MOST), MOST, id="as often as there are numbers"),
    ],
)
def test_transitions_are_kept_as_client_go_keeps_them(
    record: LeaseRecord, transitions: int
) -> None:
    node = Node()
    node.read(NOW, record)
    claimed = node.write(node.lease.claim, NOW + 20)
    assert (claimed.transitions, claimed.version) == (transitions, "70")
    assert (claimed.acquired_us == record.acquired_us) == (record is MINE)


def test_a_renewal_keeps_when_it_was_acquired() -> None:
    node = holding()
    renewed = node.write(node.lease.renew, NOW + 2)
    assert renewed.acquired_us == int(UTC * 1e6)
    assert renewed.renewed_us == int((UTC + 2) * 1e6)
    assert renewed.version == "71"


@pytest.mark.parametrize("offset_s", [-NOW - 2, -1e12, 1e12], ids=["same", "before 1970", "9999"])
def test_a_renewal_is_never_like_the_last_one(offset_s: float) -> None:
    """Whatever the clock says: others would take a holder that renews for a dead one."""
    node = holding()
    node.lease.utc_offset_s = offset_s
    records = [node.write(node.lease.renew, NOW + 2 * n) for n in range(1, 4)]
    assert all(one.renewed_us != other.renewed_us for one, other in pairwise(records))
    assert all(0 <= record.renewed_us <= LATEST_US + 1 for record in records)


def test_a_release_is_that_of_client_go() -> None:
    node = holding()
    node.lease.look_by(NOW + 1)
    released = node.write(node.lease.release, NOW + 1)
    assert (released.holder, released.duration_s, released.transitions) == ("", 1, 0)
    assert released.holder_mac == MAC, "whose the address is until somebody succeeds it"
    assert node.lease.is_let_go and node.lease.held_until == -math.inf


# For how long it is held.


@pytest.mark.parametrize("takes_s", [0.0, 1.5])
def test_time_counts_from_sending(takes_s: float) -> None:
    node = Node()
    node.read(NOW, None)
    node.write(node.lease.claim, NOW, takes_s=takes_s)
    assert node.lease.held_until == NOW + 10
    assert node.lease.wanes_at == NOW + 15 - OUTLIVES_S
    node.write(node.lease.renew, NOW + 2, takes_s=takes_s)
    assert node.lease.held_until == NOW + 12


def test_a_failed_renewal_prolongs_nothing() -> None:
    node = holding()
    node.fail(node.lease.renew, NOW + 2, None, takes_s=1.6)
    assert node.lease.held_until == NOW + 10
    assert node.lease.due_at == NOW + 3.6, "at once: half a period has passed"
    assert node.counted(Counter.LEASE_FAILURES) == ["failed"]
    assert node.lease.view(NOW + 4).problem == "why"


def test_times_of_a_reload_count_from_the_next_renewal() -> None:
    """A longer deadline must not outlast the record that others have seen."""
    fast = replace(CONFIG, duration_s=5, renew_deadline_s=3.0, retry_period_s=1.0)
    node = Node(fast)
    node.read(NOW, None)
    request = node.do(node.lease.claim, NOW)
    node.lease.config = CONFIG
    assert isinstance(request, WriteLease)
    node.lease.take(NOW, LeaseWritten(request=request.request, version="1"))
    assert (request.record.duration_s, node.lease.held_until) == (5, NOW + 3)
    assert node.write(node.lease.renew, NOW + 1).duration_s == 15
    assert node.lease.held_until == NOW + 11


@pytest.mark.parametrize(
    ("record", "is_lost"),
    [
        pytest.param(THEIRS, True, id="another's"),
        pytest.param(RELEASED, True, id="released by somebody"),
        pytest.param(replace(MINE, holder_mac=OTHER_MAC), True, id="a namesake's"),
        pytest.param(replace(MINE, version="99"), False, id="still its own"),
        pytest.param(None, False, id="deleted"),
    ],
)
def test_a_conflict_is_read_at_once(record: LeaseRecord | None, is_lost: bool) -> None:
    node = holding()
    node.fail(node.lease.renew, NOW + 2, 409)
    assert node.lease.due_at == NOW + 2
    request = node.do(node.lease.renew, NOW + 2)
    assert isinstance(request, ReadLease), "read before write"
    node.lease.take(NOW + 2.1, LeaseRead(request=request.request, record=record))
    assert (node.lease.held_until == -math.inf) == is_lost
    if not is_lost:
        renewed = node.write(node.lease.renew, NOW + 2.1)
        assert renewed.version == ("99" if record else "")
        assert node.lease.held_until == NOW + 12.1
    assert not node.counted(Counter.LEASE_FAILURES), "no failure"


def test_conflicts_without_end_are_no_busy_loop() -> None:
    node = holding()
    at, asked = NOW + 2, 0
    while at < NOW + 9:
        request = node.do(node.lease.renew, at)
        asked += 1
        if isinstance(request, ReadLease):
            node.lease.take(at, LeaseRead(request=request.request, record=MINE))
        elif request is not None:
            failed = LeaseFailed(
                request=request.request, result=ProbeResult.WRONG_STATUS, status=409, detail=""
            )
            node.lease.take(at, failed)
        at = max(at, node.lease.due_at)
    assert asked < 40


@pytest.mark.parametrize("status", [404, 403, 500, None])
def test_a_lease_that_cannot_be_made_is_a_failure(status: int | None) -> None:
    """404: the namespace does not exist."""
    node = Node()
    node.read(NOW, None)
    node.fail(node.lease.claim, NOW, status)
    assert node.counted(Counter.LEASE_FAILURES) == [str(status or "failed")]
    assert node.lease.due_at == NOW + 2
    assert not node.lease.is_known, "perhaps it was made all the same"


def test_who_released_it_is_known_by_its_mac() -> None:
    """Also to a node that has not seen it hold."""
    node = Node()
    node.read(NOW, replace(RELEASED, holder_mac=OTHER_MAC))
    assert OTHER_MAC in node.lease.holder_macs
    assert node.lease.free()[1] is Reason.LEASE_RELEASED


def test_an_answer_to_another_request_is_no_answer() -> None:
    node = Node()
    assert not node.lease.take(NOW, LeaseRead(request=99, record=None))
    request = node.do(node.lease.look, NOW)
    assert request is not None
    assert not node.lease.take(NOW, LeaseRead(request=request.request + 1, record=None))
    assert node.lease.is_busy
    assert node.do(node.lease.look, NOW + 100) is None, "one at a time"


def test_a_hint_has_those_who_wait_look_at_once() -> None:
    node = Node()
    node.read(NOW, THEIRS)
    node.lease.hear(NOW + 0.1, "70")
    assert node.lease.due_at > NOW + 1, "that is known"
    node.lease.hear(NOW + 0.2, "71")
    assert node.lease.due_at == NOW + 0.2


def test_a_hint_during_a_request_counts_after_it() -> None:
    node = Node()
    request = node.do(node.lease.look, NOW)
    assert request is not None
    node.lease.hear(NOW + 0.1, "71")
    node.lease.take(NOW + 0.2, LeaseRead(request=request.request, record=THEIRS))
    assert node.lease.due_at == NOW + 0.2


def test_a_namesake_is_told() -> None:
    node = Node()
    node.read(NOW, replace(MINE, holder_mac=OTHER_MAC))
    told = [getattr(action, "reason", None) for action in node.out.take()]
    assert Reason.NAME_IN_USE in told
