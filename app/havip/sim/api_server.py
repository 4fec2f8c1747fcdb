"""A Kubernetes API server that keeps Leases, as far from each node as the run wants it.

It does what the real one promises: reads are of the latest state, and a write that names another
`resourceVersion` than the present one is refused. All else it may do wrong: be slow, down, cut
off from some, lose requests or their answers, and do what was given up long ago.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from havip.core.actions import ReadLease, WriteLease
from havip.core.events import (
    LeaseChanged,
    LeaseFailed,
    LeaseRead,
    LeaseWritten,
    ProbeResult,
)
from havip.core.record import LeaseRecord
from havip.sim.host import Host
from havip.sim.timeline import Timeline

Answer = LeaseRead | LeaseWritten | LeaseFailed
Key = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class Weather:
    """How a request and its answer fare, each for itself; times in seconds."""

    latency_s: float = 0.004
    jitter_s: float = 0.004
    loss: float = 0.0
    stall: float = 0.0
    """This share is held up by up to `stall_s`: it arrives when nobody waits any more."""
    stall_s: float = 20.0
    conflicts: float = 0.0
    """This share of writes is refused although nobody has written."""
    watched: bool = True
    """Whether nodes are told of changes; otherwise they only look."""


class ApiServer:
    """The store, and the ways to it.

    Args:
        note: told of each change of a Lease, by who made it.
    """

    def __init__(self, timeline: Timeline, rng: Random, note: Callable[[str, str], None]) -> None:
        self.weather = Weather()
        self.is_up = True
        self.cut_off: set[str] = set()
        """Hosts that do not reach it, and get no answer."""
        self.leases: dict[Key, LeaseRecord] = {}
        self._timeline = timeline
        self._rng = rng
        self._note = note
        self._version = 0
        self._watchers: dict[str, Callable[[LeaseChanged], None]] = {}

    def watch(self, host: Host, tell: Callable[[LeaseChanged], None]) -> None:
        """Tell the daemon on this host of changes, instead of an earlier daemon there."""
        self._watchers[host.name] = tell

    def ask(
        self, host: Host, action: ReadLease | WriteLease, answer: Callable[[Answer], None]
    ) -> None:
        """Do what a daemon asks; exactly one answer comes, by the clock of its host."""
        is_answered = False

        def once(event: Answer) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                answer(event)

        def fail(result: ProbeResult, status: int | None = None) -> LeaseFailed:
            return LeaseFailed(
                request=action.request, result=result, status=status, detail=result.value
            )

        host.later(action.timeout_s, lambda: once(fail(ProbeResult.TIMED_OUT)))

        def arrive() -> None:
            if host.name in self.cut_off:
                return
            event = self._do(host.name, action) if self.is_up else fail(ProbeResult.REFUSED)
            self._carry(lambda: self._return(host, lambda: once(event)))

        if host.is_linked:
            self._carry(arrive)

    def delete(self, key: Key) -> None:
        """Somebody deletes a Lease."""
        del self.leases[key]
        self._note("api", f"somebody deletes the Lease {key[1]}")

    def _return(self, host: Host, deliver: Callable[[], None]) -> None:
        if host.is_linked and host.name not in self.cut_off:
            host.later(0.0, deliver)

    def _carry(self, arrive: Callable[[], None]) -> None:
        weather, rng = self.weather, self._rng
        if weather.loss and rng.random() < weather.loss:
            return
        delay_s = weather.latency_s + rng.random() * weather.jitter_s
        if weather.stall and rng.random() < weather.stall:
            delay_s += rng.random() * weather.stall_s
        self._timeline.after(delay_s, arrive)

    def _do(self, who: str, action: ReadLease | WriteLease) -> Answer:
        key = (action.namespace, action.name)
        present = self.leases.get(key)
        if isinstance(action, ReadLease):
            return LeaseRead(request=action.request, record=present)
        if present is None and action.record.version:
            return self._refuse(action, 404)
        version = "" if present is None else present.version
        is_unlucky = self.weather.conflicts and self._rng.random() < self.weather.conflicts
        if action.record.version != version or is_unlucky:
            return self._refuse(action, 409)
        self._version += 1
        record = replace(action.record, version=str(self._version))
        self.leases[key] = record
        if present is None or record.holder != present.holder:
            self._note("api", f"{who} makes {record.holder or 'nobody'} the holder")
        changed = LeaseChanged(namespace=key[0], name=key[1], version=record.version)
        for name, tell in self._watchers.items():
            if self.weather.watched and name not in self.cut_off:
                self._carry(lambda tell=tell: tell(changed))  # type: ignore[misc]
        return LeaseWritten(request=action.request, version=record.version)

    def _refuse(self, action: WriteLease, status: int) -> LeaseFailed:
        return LeaseFailed(
            request=action.request,
            result=ProbeResult.WRONG_STATUS,
            status=status,
            detail="the object has been modified",
        )
