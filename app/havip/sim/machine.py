"""A node of the lab: a host, the lives of the daemon on it, and what can happen to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from havip.core.actions import Action, Finished, Report, Topic
from havip.core.config import NodeConfig
from havip.core.events import ClockStepped, ProbeFinished, ProbeResult, Removal
from havip.core.reasons import State
from havip.sim.api_server import ApiServer
from havip.sim.host import Host, IPNetworkAddress
from havip.sim.manners import Manners
from havip.sim.network import IPAddress, Network
from havip.sim.process import Lateness, MakeBrain, Process, Services
from havip.sim.timeline import Timeline
from havip.sim.verdict import Judged

READY_S = 3.5
"""From the start, or the return of the link, until a node must be able to take over: a refused
claim, for instance, waits 3 s."""


class Machine:
    """Host and daemon.

    Args:
        make_brain: makes what decides in each life of the daemon.
        is_promised: whether that is havip, and held to havip's promises.
        on_action: told of each action of the daemon.
        note: told of each fault, by the machine's name, for the story.
    """

    def __init__(
        self,
        host: Host,
        config: NodeConfig,
        make_brain: MakeBrain,
        *,
        is_promised: bool,
        manners: Manners,
        seed: str,
        timeline: Timeline,
        network: Network,
        api_server: ApiServer,
        on_action: Callable[[Machine, Action], None],
        on_change: Callable[[], None],
        note: Callable[[str, str], None],
        recording: bool,
    ) -> None:
        self.host = host
        self.config = config
        self.is_promised = is_promised
        self.manners = manners
        self.process: Process | None = None
        self.lives: list[Process] = []
        """Every daemon that ever ran here, the present one last."""
        self.lateness = Lateness()
        self.services = Services()
        self.utc_offset_s = 1_700_000_000.0 + Random(seed).random() * 1e6
        """UTC minus the host's monotonic clock."""
        self.states: dict[str, State] = {}
        """Of each virtual router, as last reported."""
        self.fit_from = math.inf
        self._undecided_at: float | None = None
        self._vips = [vip.address for leg in config.routers[0].legs for vip in leg.vips]
        self._make_brain = make_brain
        self._seed = seed
        self._timeline = timeline
        self._network = network
        self._api_server = api_server
        self._on_action = on_action
        self._on_change = on_change
        self._note = note
        self._recording = recording

    # What others see.

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def decides(self) -> bool:
        return self.process is not None and self.process.decides

    @property
    def runs(self) -> bool:
        return self.host.is_powered and not self.host.is_paused

    @property
    def undecided_since(self) -> float | None:
        """When the daemon was killed or frozen; a pause of the whole machine is no time to it."""
        if self._undecided_at is None or self.host.is_paused:
            return None
        return self.host.run_time(self._undecided_at)

    @property
    def is_active(self) -> bool:
        """Every virtual router here says that it is Active."""
        return bool(self.states) and all(s is State.ACTIVE for s in self.states.values())

    def has_vip(self, vip: IPAddress) -> bool:
        return self.host.has_address(vip)

    def hears(self, other: Judged) -> bool:
        assert isinstance(other, Machine)
        return self._network.passes(other.host, self.host)

    # What happens to the daemon.

    def start(self) -> None:
        """Start a daemon on a host that has none."""
        assert self.process is None
        self._note(self.name, "starts its daemon")
        for vip in self._vips:
            # The edge cleans up before the core gets to know anything.
            self.host.delete_leftover(vip)
        self.states.clear()
        self.manners.restart()
        self._undecided_at = None
        self.process = Process(
            self.host,
            self.config,
            self._make_brain,
            seed=f"{self._seed} {len(self.lives)}",
            timeline=self._timeline,
            lateness=self.lateness,
            services=self.services,
            api_server=self._api_server,
            utc_offset_s=self.utc_offset_s,
            on_action=self._take,
            recording=self._recording,
        )
        self.lives.append(self.process)
        self._weigh()

    def stop(self) -> None:
        """SIGTERM."""
        if self.process is not None:
            self._note(self.name, "is asked to stop")
            self.process.stop()
            self._weigh()

    def kill(self) -> None:
        """SIGKILL: no farewell; the kernel goes on."""
        if self.process is not None:
            self._note(self.name, "its daemon is killed")
            self.process.end()
            self._end_life()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.process is not None and not self.process.is_frozen:
            self._note(self.name, "its daemon is frozen")
            self.process.freeze()
            self._undecided_at = self.host.local_now()
            self.manners.freeze(self.host.local_now(), is_holder=self.is_active)
            self._on_change()

    def thaw(self) -> None:
        """SIGCONT."""
        if self.process is not None and self.process.is_frozen:
            self._note(self.name, "its daemon goes on")
            self._undecided_at = None
            self.manners.thaw(self.host.local_now())
            self.process.thaw()
            self._on_change()

    # What happens to the host.

    def power_off(self) -> None:
        self._note(self.name, "loses power")
        if self.process is not None:
            self.process.end()
            self.process = None
        self.states.clear()
        self._undecided_at = None
        self.fit_from = math.inf
        self.host.power_off()

    def power_on(self) -> None:
        """The host boots, and starts its daemon."""
        self.host.power_on()
        self.start()

    def pause(self) -> None:
        """The hypervisor stops the machine; its clock will show no gap."""
        self._note(self.name, "is paused")
        self.host.pause()

    def resume(self, *, keeps_packets: bool = True) -> None:
        self._note(self.name, f"is resumed, packets {'kept' if keeps_packets else 'lost'}")
        self.host.resume(keeps_packets=keeps_packets)
        if self.process is not None:
            self.process.wake()

    def set_link(self, *, is_up: bool) -> None:
        self._note(self.name, f"its link goes {'up' if is_up else 'down'}")
        self.host.set_link(is_up=is_up)
        self._weigh()

    def set_service(self, result: ProbeResult, check: str = "service") -> None:
        """From now on probes of this check end so; a service that ends closes its connections."""
        self._note(self.name, f"its {check} probes end {result} from now on")
        was = self.services.result(check)
        self.services.results[check] = result
        watched = any(c.name == check and c.fast_fail for c in self.config.checks)
        has_ended = was is ProbeResult.PASSED and result is ProbeResult.REFUSED
        if watched and has_ended and self.process is not None:
            closed = ProbeFinished(check=check, result=ProbeResult.CLOSED, is_unasked=True)
            self.process.post(closed)
        self._weigh()

    def set_clock(self, step_s: float) -> None:
        """Somebody sets the UTC clock, `step_s` further than it was."""
        self._note(self.name, f"its clock is set by {step_s:+g} s")
        self.utc_offset_s += step_s
        if self.process is not None:
            self.process.post(ClockStepped(utc_offset_s=self.utc_offset_s))

    def delete_address(self, interface: IPNetworkAddress) -> None:
        """An operator, or systemd-networkd, deletes an address."""
        self._note(self.name, f"somebody deletes {interface}")
        self.host.delete_address(interface, Removal.FOREIGN)

    def _take(self, action: Action) -> None:
        if isinstance(action, Report) and action.topic is Topic.MOVED and action.state:
            self.states[action.router] = action.state
        self._on_action(self, action)
        if isinstance(action, Finished):
            self._end_life()

    def _end_life(self) -> None:
        self.process = None
        self.states.clear()
        self._undecided_at = self.host.local_now()
        self._weigh()

    def _weigh(self) -> None:
        """Work out from when on this node must be able to hold."""
        process = self.process
        fails = any(
            self.services.result(check.name) is not ProbeResult.PASSED
            for check in self.config.checks
            if check.weight == 0
        )
        if process is None or process.is_stopping or fails or not self.host.is_linked:
            self.fit_from = math.inf
        elif self.fit_from == math.inf:
            checked_s = max(
                (
                    (check.recover_after + 1) * check.interval_s + check.stability_s
                    for check in self.config.checks
                ),
                default=0.0,
            )
            self.fit_from = self._timeline.now + READY_S + checked_s
        self._on_change()
