"""A daemon on a virtual host: its sockets, its turn on the processor, its effect on the world.

It keeps the edge's promise: what was received is delivered in order, and before `Woken`.
A frozen process reads nothing and its sockets fill; a late one reads everything, later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from havip.core.actions import (
    Action,
    Count,
    Finished,
    InstallAddress,
    ReadLease,
    RemoveAddress,
    Report,
    ResetConnections,
    ResetFormerConnections,
    SendFrame,
    SendVrrp,
    StartProbe,
    WriteLease,
)
from havip.core.config import CheckConfig, NodeConfig
from havip.core.events import (
    ActionFailed,
    Event,
    ProbeFinished,
    ProbeResult,
    Started,
    StopRequested,
    Woken,
)
from havip.sim.api_server import ApiServer
from havip.sim.host import INTERFACE, Host
from havip.sim.network import Datagram, Frame
from havip.sim.timeline import Timeline, Timer

SOCKET_BUFFER = 600
"""Events kept for a process that does not read; further ones are lost."""
TURN_S = 0.0002
"""Until a process that has something to do runs, at most, on an idle host."""
TURNS_WITHOUT_TIME = 50
"""A process that wants to be woken again at once more often than this spins."""


class Brain(Protocol):
    """Whatever decides: the core's node, or a router of another make."""

    def handle(self, now: float, event: Event) -> list[Action]: ...

    @property
    def wake_at(self) -> float: ...


MakeBrain = Callable[[NodeConfig, Callable[[], float]], Brain]


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a recorded life, and what followed from it."""

    at: float
    """The host's monotonic clock."""
    event: Event
    actions: tuple[Action, ...]


@dataclass(slots=True, kw_only=True)
class Lateness:
    """How badly a host's scheduler treats its daemon."""

    share: float = 0.0
    """Of its turns that come late."""
    most_s: float = 0.0
    """A late turn comes late by up to this."""


@dataclass(slots=True)
class Services:
    """What the probes of one host find: by check, passed unless said otherwise."""

    results: dict[str, ProbeResult] = field(default_factory=dict)

    def result(self, check: str) -> ProbeResult:
        return self.results.get(check, ProbeResult.PASSED)


class Process:
    """One life of a daemon, from its start to its end."""

    def __init__(
        self,
        host: Host,
        config: NodeConfig,
        make_brain: MakeBrain,
        *,
        seed: str,
        timeline: Timeline,
        lateness: Lateness,
        services: Services,
        api_server: ApiServer,
        utc_offset_s: float,
        on_action: Callable[[Action], None],
        recording: bool,
    ) -> None:
        self.host = host
        self.config = config
        self.seed = seed
        self.brain = make_brain(config, Random(seed).random)
        self.is_alive = True
        self.is_frozen = False
        self.is_stopping = False
        self.started_at = timeline.now
        self.steps: list[Step] = []
        """The recorded life; empty unless `recording`."""
        self.refuses: dict[str, int] = {}
        """Errno with which the kernel refuses actions, by the name of their type."""
        self._checks = {check.name: check for check in config.checks}
        self._timeline = timeline
        self._chance = Random(f"{seed} schedule")
        self._lateness = lateness
        self._services = services
        self._api_server = api_server
        self._on_action = on_action
        self._recording = recording
        self._sockets: deque[Event] = deque()
        self._turn: Timer | None = None
        self._stalled_until = 0.0
        host.listener = self.post
        api_server.watch(host, self.post)
        for event in (Started(utc_offset_s=utc_offset_s), *host.present()):
            self.post(event)

    @property
    def decides(self) -> bool:
        """Alive and running: what it thinks can come true."""
        return self.is_alive and not self.is_frozen and not self.host.is_paused

    def post(self, event: Event) -> None:
        """Put an event into the process's sockets."""
        if len(self._sockets) < SOCKET_BUFFER:
            self._sockets.append(event)
        self._take_turn_at(self._timeline.now + self._chance.random() * TURN_S)

    def stop(self) -> None:
        self.is_stopping = True
        self.post(StopRequested())

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        self._take_turn_at(self._timeline.now)

    def end(self) -> None:
        """The process is gone, its sockets closed; the kernel keeps the addresses."""
        self.is_alive = False
        self.host.listener = None
        self._cancel_turn()

    def wake(self) -> None:
        """Look at the clock again; it may have been paused."""
        if self._turn is None:
            self._take_turn_at(self._timeline.now)

    def _cancel_turn(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _take_turn_at(self, at: float) -> None:
        if not self.is_alive or self.is_frozen or self.host.is_paused:
            return
        at = max(at, self._stalled_until)
        if self._turn is None or at < self._turn.at:
            self._cancel_turn()
            self._turn = self._timeline.at(at, self._begin_turn)

    def _begin_turn(self) -> None:
        self._turn = None
        if not self.is_alive or self.is_frozen or self.host.is_paused:
            return
        if self._lateness.share and self._chance.random() < self._lateness.share:
            late_s = self._chance.random() * self._lateness.most_s
            self._stalled_until = self._timeline.now + late_s
            self._turn = self._timeline.at(self._stalled_until, self._run)
        else:
            self._run()

    def _run(self) -> None:
        self._turn = None
        if not self.is_alive or self.is_frozen or self.host.is_paused:
            return
        now = self.host.local_now()
        while self._sockets and self.is_alive:
            self._handle(now, self._sockets.popleft())
        turns = 0
        while self.is_alive and self.host.run_time(self.brain.wake_at) <= self._timeline.now:
            # The sum of the clock's offsets may round to just before the wanted instant.
            self._handle(max(now, self.brain.wake_at), Woken())
            turns += 1
            assert turns < TURNS_WITHOUT_TIME, f"{self.host.name} spins: wake_at stays in the past"
        if self.is_alive and self.brain.wake_at < float("inf"):
            self._take_turn_at(self.host.run_time(self.brain.wake_at))

    def _handle(self, now: float, event: Event) -> None:
        actions = self.brain.handle(now, event)
        if self._recording:
            self.steps.append(Step(now, event, tuple(actions)))
        for action in actions:
            self._act(action)
            self._on_action(action)

    def _act(self, action: Action) -> None:
        errno = self.refuses.get(type(action).__name__)
        if errno is not None:
            self._refuse(action, errno)
            return
        match action:
            case SendVrrp():
                self.host.send(Datagram(action.source, action.destination, action.payload))
            case SendFrame():
                self.host.send(Frame(action.frame))
            case InstallAddress():
                self.host.install(action.address, action.valid_s)
            case RemoveAddress():
                self.host.remove(action.address)
            case StartProbe():
                self._probe(self._checks[action.check])
            case ReadLease() | WriteLease():
                self._api_server.ask(self.host, action, self.post)
            case Finished():
                self.end()
            case Report() | Count() | ResetConnections() | ResetFormerConnections():
                pass

    def _refuse(self, action: Action, errno: int) -> None:
        subject = getattr(action, "address", None) or getattr(action, "destination", "")
        failed = ActionFailed(
            action=type(action).__name__,
            interface=INTERFACE,
            subject=str(subject),
            errno=errno,
            message="refused by the simulation",
            virtual_router_id=action.payload[1] if isinstance(action, SendVrrp) else None,
        )
        self.host.later(self.host.netlink_s, lambda: self.post(failed))

    def _probe(self, check: CheckConfig) -> None:
        hangs = self._services.result(check.name) is ProbeResult.TIMED_OUT
        duration_s = check.timeout_s if hangs else 0.001 + self._chance.random() * 0.002

        def finish() -> None:
            result = ProbeResult.TIMED_OUT if hangs else self._services.result(check.name)
            if self.is_alive:
                self.post(ProbeFinished(check=check.name, result=result, duration_s=duration_s))

        self.host.later(duration_s, finish)
