"""A Lease of the Kubernetes API: who has it, until when this node has it, and what to ask next.

The rules are those of client-go's `leaderelection`, in pure form. Why there are never two holders:

- Nobody's clock counts. Whoever waits measures, by its own monotonic clock, for how long it has
  seen the same record, and claims no sooner than the record's duration after it *first saw* it.
  That is after the holder *sent* it. So a holder has at least `leaseDuration` from the moment of
  sending, whatever UTC says on either node.
- The holder's time counts from sending, too, not from the answer: it lets go `leaseRenewDeadline`
  after it sent the last renewal that succeeded, which is earlier. And it renews the lifetime of
  the address only while the address would be gone in time even if this process never ran again
  (`wanes_at`): a frozen holder's address is no longer there when another one may claim.
- A write names the `resourceVersion` that it replaces. Of two that claim one succeeds, and a
  write that was delayed, or decided before a pause, is refused if anything has happened since.
- A Lease that somebody deleted is not free before the record that was there has run out.
- Nobody takes what is held. A holder that is about to leave offers it, another node writes that it
  asks, and the holder then releases it as at a stop: where nobody can do better, nobody asks.
- A record that names this node counts as its own only with its MAC: a second node of the same
  name is another one.

What this cannot see: a machine that a hypervisor stopped with its clock. It goes on as if no time
had passed, until its next renewal is refused, which takes `leaseRetryPeriod` at most.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from havip.core import timers
from havip.core.actions import Counter, ReadLease, WriteLease
from havip.core.config import LeaseConfig
from havip.core.events import LeaseFailed, LeaseRead, LeaseWritten
from havip.core.outbox import Outbox
from havip.core.reasons import Reason
from havip.core.record import MOST, LeaseRecord
from havip.core.view import LeaseView

JITTER: Final = 0.2
"""Those who wait look apart from one another (client-go's JitterFactor 1.2)."""
TIMEOUT_FACTOR: Final = 0.8
"""Of the retry period: a request has ended when the next one is due."""
LONGEST_TIMEOUT_S: Final = 5.0
HOLDERS_KNOWN: Final = 16
LATEST_US: Final = 253_402_300_798_000_000
"""Just before the end of the year 9999, however wrong a clock may be."""
CONFLICT, NOT_FOUND = 409, 404

Answer = LeaseRead | LeaseWritten | LeaseFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is in flight, as it was decided."""

    number: int
    at: float
    config: LeaseConfig
    writes: LeaseRecord | None = None


class Lease:
    """What one node knows of a Lease. At most one request is in flight."""

    def __init__(
        self,
        config: LeaseConfig,
        identity: str,
        out: Outbox,
        *,
        numbers: Iterator[int],
        random: Callable[[], float],
    ) -> None:
        """
        Args:
            identity: the node's name.
            numbers: gives each request of the node its own.
            random: uniform in [0, 1).
        """
        self.config = config
        self.mac = b""
        """Of this node's interface."""
        self.utc_offset_s = 0.0
        self.offers = False
        """What this node writes says that it gives way."""
        self.held_until = -math.inf
        """This node may have the VIP until then, and not longer."""
        self.wanes_at = -math.inf
        """From then on the lifetime of an address must not be renewed."""
        self._holder_macs: deque[bytes] = deque(maxlen=HOLDERS_KNOWN)
        self._identity = identity
        self._out = out
        self._numbers = numbers
        self._random = random
        self._record: LeaseRecord | None = None
        """As last read or written; also of a Lease that was deleted since."""
        self._written: LeaseRecord | None = None
        """As this node, in this life, has written it last."""
        self._is_absent = False
        self._changed_at = math.inf
        self._request: _Request | None = None
        self._needs_reading = True
        self._is_hurried = False
        self._hint = ""
        self._poll_at = -math.inf
        self._problem = ""

    # What is known ------------------------------------------------------------------------

    @property
    def is_mine(self) -> bool:
        """Whether the record names this node, in this life or an earlier one."""
        record = self._record
        return record is not None and self._names_me(record)

    @property
    def is_let_go(self) -> bool:
        """Whether it is known that the record does not name this node, and soon will not."""
        is_known = not self._needs_reading and not self._is_writing
        return is_known and (self._is_absent or not self.is_mine)

    @property
    def may_be_mine(self) -> bool:
        """Whether the record names this node, or a write is under way that will."""
        return self.is_mine or self._is_writing

    @property
    def holder(self) -> str:
        """Whom the record names; empty for nobody."""
        return "" if self._record is None or self._is_absent else self._record.holder

    @property
    def asked_by(self) -> str:
        """Who wants what this node offers; empty for nobody."""
        record = self._record
        return record.asked_by if record is not None and record.is_offered else ""

    @property
    def offered_at(self) -> float:
        """Since when another holder is seen to offer what nobody has asked for; else infinity."""
        record = self._record
        is_offered = record is not None and record.is_offered and not record.asked_by
        if is_offered and self.holder and not self.is_mine:
            return self._changed_at
        return math.inf

    def free(self) -> tuple[float, Reason]:
        """From when on this node may claim, by what is known now, and why."""
        record = self._record
        if record is None:
            return (self._changed_at if self._is_absent else math.inf), Reason.LEASE_ABSENT
        if self.is_mine:
            return self._changed_at, Reason.LEASE_RESUMED
        if not record.holder:
            return self._changed_at, Reason.LEASE_RELEASED
        lasts_s = record.duration_s if record.duration_s > 0 else self.config.duration_s
        return self._changed_at + lasts_s, Reason.LEASE_EXPIRED

    @property
    def lacks(self) -> str:
        """Why nothing is known of the Lease at all; empty once it was read."""
        if self._record is not None or self._is_absent:
            return ""
        why = f": {self._problem}" if self._problem else ""
        return f"no answer yet for Lease {self.config.namespace}/{self.config.name}{why}"

    @property
    def is_known(self) -> bool:
        """Whether there is nothing that must be read before the next write."""
        return not self._needs_reading

    @property
    def is_busy(self) -> bool:
        return self._request is not None

    @property
    def holder_macs(self) -> Collection[bytes]:
        """Of nodes that the Lease has named lately: no strangers, whatever they do."""
        return self._holder_macs

    @property
    def due_at(self) -> float:
        """When to look or to renew; infinity while a request is in flight."""
        return math.inf if self.is_busy else self._poll_at

    # What to do ---------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Read, if that is due."""
        if now >= self.due_at:
            self._read(now)

    def claim(self, now: float) -> None:
        """Write this node into a Lease that is free."""
        assert not self.is_busy and self.is_known
        self._write(now, self._claiming(now))

    def renew(self, now: float) -> None:
        """Write the Lease that this node holds anew, if that is due."""
        if now < self.due_at:
            return
        if self._needs_reading:
            self._read(now)
        else:
            self._write(now, self._claiming(now))

    def ask_for_it(self, now: float) -> None:
        """Ask a holder that offers it: it releases the Lease then, and nobody else does."""
        assert not self.is_busy and self.is_known and self._record is not None
        self._write(now, replace(self._record, asked_by=self._identity))

    def release(self, now: float) -> None:
        """Write that nobody holds it, as client-go's ReleaseOnCancel; until it `is_let_go`."""
        if now < self.due_at:
            return
        if self._needs_reading:
            self._read(now)
        else:
            assert self._record is not None and not self.is_let_go
            self._write(now, self._releasing(now, self._record))

    def look_by(self, at: float) -> None:
        """Look or renew no later than that."""
        self._poll_at = min(self._poll_at, at)

    def doubt(self, now: float) -> None:
        """Something speaks against what is known: read before anything is written."""
        self._needs_reading = True
        self.look_by(now)

    def forget_holding(self) -> None:
        """This node has let go."""
        self.held_until = self.wanes_at = -math.inf

    def hear(self, now: float, version: str) -> None:
        """Somebody has written this version, or an older one."""
        if self.is_busy:
            self._hint = version
        elif self._record is None or version != self._record.version:
            self.doubt(now)

    # Answers ------------------------------------------------------------------------------

    def take(self, now: float, answer: Answer) -> bool:
        """Note an answer; false if it is not for this Lease."""
        request = self._request
        if request is None or answer.request != request.number:
            return False
        self._request = None
        match answer:
            case LeaseRead():
                self._problem = ""
                self._see(now, request, answer.record)
            case LeaseWritten():
                self._problem = ""
                self._note_written(now, request, answer.version)
            case LeaseFailed():
                self._note_failed(now, request, answer)
        hint, self._hint = self._hint, ""
        if hint and (self._record is None or hint != self._record.version):
            self.look_by(now)
        return True

    def _see(self, now: float, request: _Request, record: LeaseRecord | None) -> None:
        self._needs_reading = False
        if record is None:
            if self._record is None and not self._is_absent:
                self._changed_at = now
            self._is_absent = True
        else:
            if self._record is None or record != self._record:
                self._changed_at = now
                if record.holder_mac and record.holder_mac not in self._holder_macs:
                    self._holder_macs.append(record.holder_mac)
            self._is_absent = False
            self._record = record
            if record.holder == self._identity and not self._names_me(record):
                self._tell_namesake(now, record)
        if not self.is_mine:
            self.forget_holding()
        if self.held_until > now:
            self._poll_at = now
        else:
            jitter = 1 + JITTER * self._random()
            self._poll_at = max(now, request.at + request.config.retry_period_s * jitter)

    def _note_written(self, now: float, request: _Request, version: str) -> None:
        assert request.writes is not None
        config = request.config
        self._record = self._written = replace(request.writes, version=version)
        self._changed_at = now
        self._is_absent = self._is_hurried = False
        self._poll_at = max(now, request.at + config.retry_period_s)
        self._out.count(Counter.LEASE_WRITES)
        if self.is_mine:
            self.held_until = request.at + config.renew_deadline_s
            self.wanes_at = request.at + config.duration_s - timers.OUTLIVES_S
        else:
            self.forget_holding()

    def _note_failed(self, now: float, request: _Request, failed: LeaseFailed) -> None:
        is_write = request.writes is not None
        outdated = (CONFLICT, NOT_FOUND) if self._version else (CONFLICT,)
        is_outdated = is_write and failed.status in outdated
        is_held = self.held_until > now
        if is_write and (is_outdated or not is_held):
            self._needs_reading = True
        if is_outdated and not self._is_hurried:
            self._is_hurried = True
            self._poll_at = now
        else:
            self._is_hurried = False
            # A holder has until its deadline, and tries twice as often.
            patience_s = request.config.retry_period_s / (2 if is_held else 1)
            self._poll_at = max(now, request.at + patience_s)
        if is_outdated:
            return
        self._problem = failed.detail
        self._out.count(Counter.LEASE_FAILURES, str(failed.status or failed.result.value))
        self._out.alarm(
            now,
            Reason.LEASE_FAILED,
            lambda: {
                "lease": f"{self.config.namespace}/{self.config.name}",
                "result": failed.result.value,
                "detail": failed.detail,
            },
        )

    def _tell_namesake(self, now: float, record: LeaseRecord) -> None:
        self._out.alarm(
            now,
            Reason.NAME_IN_USE,
            lambda: {
                "name": self._identity,
                "mac": record.holder_mac.hex(":"),
                "remedy": "give each node its own nodeName",
            },
        )

    # Requests -----------------------------------------------------------------------------

    def _read(self, now: float) -> None:
        request = self._ask(now, None)
        self._out.do(
            ReadLease(
                request=request.number,
                namespace=self.config.namespace,
                name=self.config.name,
                timeout_s=self._timeout_s,
            )
        )

    def _write(self, now: float, record: LeaseRecord) -> None:
        request = self._ask(now, record)
        self._out.do(
            WriteLease(
                request=request.number,
                namespace=self.config.namespace,
                name=self.config.name,
                record=record,
                timeout_s=self._timeout_s,
            )
        )

    def _ask(self, now: float, writes: LeaseRecord | None) -> _Request:
        self._request = _Request(
            number=next(self._numbers), at=now, config=self.config, writes=writes
        )
        self._poll_at = math.inf
        return self._request

    @property
    def _is_writing(self) -> bool:
        return self._request is not None and self._request.writes is not None

    @property
    def _timeout_s(self) -> float:
        return min(TIMEOUT_FACTOR * self.config.retry_period_s, LONGEST_TIMEOUT_S)

    def _names_me(self, record: LeaseRecord) -> bool:
        return record.holder == self._identity and (
            record.holder_mac == self.mac or record == self._written
        )

    def _claiming(self, now: float) -> LeaseRecord:
        old, us = self._record, self._utc_us(now)
        is_same = old is not None and old.holder == self._identity
        return LeaseRecord(
            holder=self._identity,
            holder_mac=self.mac,
            duration_s=self.config.duration_s,
            acquired_us=old.acquired_us if old is not None and is_same else us,
            renewed_us=us,
            transitions=0 if old is None else min(old.transitions + (not is_same), MOST),
            is_offered=self.offers,
            version=self._version,
        )

    def _releasing(self, now: float, old: LeaseRecord) -> LeaseRecord:
        us = self._utc_us(now)
        return LeaseRecord(
            holder="",
            # Until somebody succeeds it this node still has the address, and is no stranger.
            holder_mac=self.mac,
            duration_s=1,
            acquired_us=us,
            renewed_us=us,
            transitions=old.transitions,
            version=self._version,
        )

    @property
    def _version(self) -> str:
        return "" if self._record is None or self._is_absent else self._record.version

    def _utc_us(self, now: float) -> int:
        """For people; but never what the record says already, or nobody would see a renewal."""
        us = min(max(int((now + self.utc_offset_s) * 1e6), 0), LATEST_US)
        return us + (self._record is not None and us == self._record.renewed_us)

    def view(self, now: float) -> LeaseView:
        """This Lease as `/status` shows it."""
        record = self._record
        return LeaseView(
            namespace=self.config.namespace,
            name=self.config.name,
            holder=self.holder,
            transitions=0 if record is None else record.transitions,
            changed_at=self._changed_at if self._changed_at < math.inf else None,
            held_until_at=self.held_until if self.held_until > now else None,
            problem=self._problem,
        )
