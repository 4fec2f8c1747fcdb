"""Nodes, a gateway and clients on one segment, in virtual time, from one seed.

    lab = Lab(nodes=5, priority=100, seed=7)
    lab.settle()
    lab.holder.power_off()
    lab.run_for(0.4)
    assert len(lab.holders) == 1, lab.story()

The same arguments and the same faults give the same run, to the byte. Every step is judged
(`verdict`, `manners`); a broken promise ends the run with its story.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from havip.core.actions import (
    Action,
    Finished,
    InstallAddress,
    ReadLease,
    RemoveAddress,
    Report,
    ResetConnections,
    ResetFormerConnections,
    SendFrame,
    SendVrrp,
    WriteLease,
)
from havip.core.config import CheckConfig, LeaseConfig, NodeConfig, RouterConfig
from havip.core.lease import JITTER, TIMEOUT_FACTOR
from havip.core.node import Node
from havip.core.tenant import PROBE_S, SKEW_S
from havip.core.timers import FAREWELL_S, LEAVE_AFTER_ADVERT_S, active_down_interval_s, skew_time_s
from havip.sim import neighbours, plan
from havip.sim.api_server import ApiServer
from havip.sim.client import Client
from havip.sim.host import Host, IPNetworkAddress
from havip.sim.machine import Machine
from havip.sim.manners import Manners, Rules
from havip.sim.network import IPAddress, Network
from havip.sim.process import MakeBrain
from havip.sim.story import Story
from havip.sim.timeline import Timeline
from havip.sim.verdict import Bounds, BrokenPromiseError, Judged, Verdict

BOOT_SPREAD_S = 0.02
"""Daemons that are started together start within this time."""


class Lab:
    """A run.

    Args:
        priority: of every node, or of each.
        families: address families of the virtual router's legs, the leading one first.
        boots: false leaves every host on and every daemon unstarted.
        makes: what runs on a node (by number, from 1) instead of havip.
        bounds: what the judge allows; None: what havip promises at these timers.
        node, router: further fields of every `NodeConfig` and `RouterConfig`; a callable gets
            the node's number and gives its fields.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        priority: int | Sequence[int] = 100,
        seed: int = 0,
        families: Sequence[int] = (4,),
        is_unicast: bool = False,
        clients: int = 1,
        checks: Sequence[CheckConfig] = (),
        boots: bool = True,
        recording: bool = False,
        makes: Mapping[int, MakeBrain] | None = None,
        bounds: Bounds | None = None,
        node: Mapping[str, Any] | None = None,
        router: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        self._story = Story()
        self.rng = Random(seed)
        self.timeline = Timeline()
        self.network = Network(self.timeline, Random(f"{seed} network"), self._changed)
        self.api_server = ApiServer(self.timeline, Random(f"{seed} api"), self.note)
        self.vips = tuple(vip.ip for vip in plan.vips(families))
        self.vip_interfaces = plan.vips(families)
        self.machines: list[Machine] = []
        self.clients: list[Client] = []
        self.takeovers: list[tuple[float, str]] = []
        """When a VIP came to a node, and to which."""
        self._seed = seed
        self._is_changed = True
        self._has: set[tuple[str, IPAddress]] = set()

        priorities = [priority] * nodes if isinstance(priority, int) else list(priority)
        self._gateway = self._host("gateway", 1, plan.GATEWAY)
        for number in range(1, nodes + 1):
            own = router(number) if callable(router) else router or {}
            config = plan.node_config(
                number,
                nodes,
                families=families,
                is_unicast=is_unicast,
                checks=checks,
                node=dict(node or {}),
                router={"priority": priorities[number - 1], **own},
            )
            host = self._host(config.node_name, 10 + number, plan.node_addresses(number))
            host.gateways = tuple(address.ip for address in plan.GATEWAY)
            make = (makes or {}).get(number)
            manners = Manners(config.node_name, rules(config.routers[0], min(priorities)))
            self.machines.append(
                Machine(
                    host,
                    config,
                    make or make_node,
                    is_promised=make is None,
                    manners=manners,
                    seed=f"{seed} {config.node_name}",
                    timeline=self.timeline,
                    network=self.network,
                    api_server=self.api_server,
                    on_action=self._tell,
                    on_change=self._changed,
                    note=self.note,
                    recording=recording,
                )
            )
        timers = self.machines[0].config.routers[0]
        self.verdict = Verdict(
            self.timeline,
            bounds or promised_to(timers),
            self.vips,
            self._changed,
        )
        for _ in range(clients):
            self.add_client()
        if boots:
            for machine in self.machines:
                self.timeline.after(self.rng.random() * BOOT_SPREAD_S, machine.start)

    # Who holds.

    @property
    def holders(self) -> list[Machine]:
        """Nodes whose daemon decides, says Active, and whose kernel has every VIP."""
        return [machine for machine in self.machines if machine.decides and self._holds(machine)]

    @property
    def holder(self) -> Machine:
        """The one holder."""
        holders = self.holders
        assert len(holders) == 1, f"{len(holders)} holders\n{self.story()}"
        return holders[0]

    @property
    def backups(self) -> list[Machine]:
        """Nodes whose daemon decides and that hold nothing."""
        return [
            machine for machine in self.machines if machine.decides and not self._holds(machine)
        ]

    def _holds(self, machine: Machine) -> bool:
        return machine.is_active and all(machine.has_vip(vip) for vip in self.vips)

    # Time.

    def run_for(self, duration_s: float) -> None:
        """Let time pass.

        Raises:
            BrokenPromiseError: a promise was not kept meanwhile; the text ends with the story.
        """
        self.run_until(lambda: False, duration_s)

    def run_until(self, is_done: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until `is_done`, at most `limit_s`; whether it was.

        Raises:
            BrokenPromiseError: as `run_for`.
        """
        end = self.timeline.now + limit_s
        try:
            self._look()
            while not is_done():
                if not self.timeline.step(end):
                    return is_done()
                self._look()
        except AssertionError as problem:
            raise BrokenPromiseError(f"{problem}\nseed {self._seed}\n{self.story()}") from problem
        return True

    def settle(self, limit_s: float = 20.0) -> None:
        """Run until one node holds and everything that follows a move is over.

        Ends at a random phase of the adverts. Raises as `run_for`, and when there is no one holder.
        """
        self.run_until(lambda: len(self.holders) == 1, limit_s)
        self.run_for(1.0 + self.rng.random())
        assert len(self.holders) == 1, f"no one holder\n{self.story()}"

    def _changed(self) -> None:
        self._is_changed = True

    def _look(self) -> None:
        if not self._is_changed:
            return
        self._is_changed = False
        self._note_addresses()
        for client in self.clients:
            for vip in self.vips:
                client.note(vip, is_reached=self.reaches(client, vip))
        self.verdict.look(self.machines, [_Customer(self, client) for client in self.clients])

    def _note_addresses(self) -> None:
        has = {
            (machine.name, vip)
            for machine in self.machines
            for vip in self.vips
            if machine.has_vip(vip)
        }
        if has == self._has:
            return
        for name, vip in sorted(has - self._has, key=str):
            self.takeovers.append((self.now, name))
            self.note(name, f"has {vip}")
        for name, vip in sorted(self._has - has, key=str):
            self.note(name, f"has no {vip} any more")
        self._has = has

    # Clients.

    def add_client(self) -> Client:
        """Plug in one more client, who asks for every VIP at once."""
        number = len(self.clients) + 1
        client = Client(
            f"client{number}",
            plan.mac(200 + number),
            plan.client_addresses(number),
            self.vips,
            timeline=self.timeline,
            network=self.network,
            rng=self.rng,
            on_change=self._changed,
        )
        self.clients.append(client)
        return client

    def reaches(self, client: Client, vip: IPAddress) -> bool:
        """Whether what the client sends to the VIP now is answered by somebody who has it."""
        entry = client.cache.get(vip)
        return entry is not None and any(
            machine.host.mac == entry.mac and machine.has_vip(vip) and self.meets(client, machine)
            for machine in self.machines
        )

    def meets(self, client: Client, machine: Machine) -> bool:
        """Whether packets pass between them both ways and both run."""
        host = machine.host
        return (
            not host.is_paused
            and self.network.passes(client, host)
            and self.network.passes(host, client)
        )

    # Faults that are the network's; those of a node are `Machine`'s.

    def partition(self, *sides: Sequence[Machine | Client]) -> None:
        """Cut the segment; whoever is not named hears all sides."""
        self.note("network", " | ".join(" ".join(s.name for s in side) for side in sides))
        self.network.partition(*([station.name for station in side] for side in sides))

    def heal(self) -> None:
        self.note("network", "healed")
        self.network.heal()

    def add_stranger(self, number: int = 99) -> Host:
        """Plug in a host that has the VIPs and speaks no VRRP."""
        self.note("network", "a stranger has the VIPs")
        return self._host("stranger", number, self.vip_interfaces)

    # The story.

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.timeline.now

    def story(self, last: int = 400) -> str:
        """The last lines of what happened."""
        return self._story.text(last)

    @property
    def fingerprint(self) -> str:
        """Of the whole story: equal runs have equal ones."""
        return self._story.fingerprint

    def note(self, who: str, what: str) -> None:
        """Add a line to the story."""
        self._story.tell(self.now, who, what)

    def _tell(self, machine: Machine, action: Action) -> None:
        match action:
            case Report():
                self.note(machine.name, told(action))
            case SendVrrp():
                vrid, priority = action.payload[1], action.payload[2]
                machine.manners.advert(machine.host.local_now(), vrid, priority, action.destination)
                text = f"advert of priority {priority}"
                kind = f"advert {vrid} {action.destination}"
                self._story.tell_repeating(self.now, machine.name, kind, text)
            case SendFrame():
                self._tell_frame(machine, action.frame)
            case ResetConnections():
                self.note(machine.name, f"resets connections of {action.address}")
            case ResetFormerConnections():
                self.note(machine.name, f"resets its connections to a former {action.address}")
            case RemoveAddress():
                self.note(machine.name, f"removes {action.address}")
            case ReadLease():
                self._story.tell_repeating(self.now, machine.name, "lease", "reads the Lease")
            case WriteLease(record=record):
                text = f"writes the Lease: held by {record.holder or 'nobody'}"
                self._story.tell_repeating(self.now, machine.name, "lease", text)
            case Finished():
                self.note(machine.name, "finished")
                self.timeline.after(0.01, lambda: self._expect_nothing_left(machine))
            case InstallAddress():
                text = f"installs {action.address}"
                self._story.tell_repeating(self.now, machine.name, text, text)

    def _tell_frame(self, machine: Machine, frame: bytes) -> None:
        heard = neighbours.read(frame)
        assert heard is not None, f"{machine.name} sent a frame that no kernel understands"
        if heard.is_gratuitous:
            machine.manners.announcement(machine.host.local_now(), heard.subject)
            self.note(machine.name, f"announces {heard.subject}")
        else:
            text = f"asks for {heard.subject}"
            self._story.tell_repeating(self.now, machine.name, text, text)

    def _expect_nothing_left(self, machine: Machine) -> None:
        left = [str(vip) for vip in self.vips if machine.has_vip(vip) and machine.process is None]
        assert not left, f"{machine.name} ended and left {left}"

    # Making.

    def _host(self, name: str, number: int, addresses: tuple[IPNetworkAddress, ...]) -> Host:
        return Host(
            name,
            plan.mac(number),
            addresses,
            timeline=self.timeline,
            network=self.network,
            rng=self.rng,
            on_change=self._changed,
        )


def rules(config: RouterConfig, lowest_priority: int) -> Rules:
    """What is asked of a node's sends at these timers."""
    if config.lease is not None:
        # Nothing is said that has not been asked for first.
        return Rules(priority_zero_spacing_s=0.0, freeze_s=math.inf, silent_s=0.0)
    timers = (config.version, lowest_priority, config.advert_interval_s)
    down_s = active_down_interval_s(*timers)
    return Rules(
        priority_zero_spacing_s=skew_time_s(*timers),
        freeze_s=down_s,
        silent_s=config.advert_interval_s,
    )


class _Customer:
    """A client as the judge sees it."""

    def __init__(self, lab: Lab, client: Client) -> None:
        self._lab = lab
        self._client = client
        self.name = client.name

    def reaches(self, vip: IPAddress) -> bool:
        return self._lab.reaches(self._client, vip)

    def could_reach(self, node: Judged) -> bool:
        assert isinstance(node, Machine)
        return bool(self._client.cache) and self._lab.meets(self._client, node)


def make_node(config: NodeConfig, random: Callable[[], float]) -> Node:
    return Node(config, random=random)


def told(report: Report) -> str:
    """One line, as the journal of a real node writes it."""
    words = {
        "router": report.router,
        "state": report.state or "",
        "was": report.was or "",
        "reason": report.reason or "",
        **report.fields,
    }
    pairs = (
        f"{word}={value:.3f}" if isinstance(value, float) else f"{word}={value}"
        for word, value in words.items()
        if value != ""
    )
    return " ".join((report.topic, *pairs))


def promised_to(config: RouterConfig) -> Bounds:
    """What havip promises to a network without losses."""
    if config.lease is not None:
        return promised_by_lease(config.lease)
    return promised(config.version, config.advert_interval_s)


def promised_by_lease(lease: LeaseConfig) -> Bounds:
    """What election by a Lease promises while the API server answers everybody soon."""
    seen_late_s = (1 + JITTER + TIMEOUT_FACTOR) * lease.retry_period_s
    return Bounds(
        two_holders_s=FAREWELL_S + 0.015,
        beside_stale_s=FAREWELL_S + 0.015,
        no_holder_s=lease.duration_s + seen_late_s + SKEW_S + PROBE_S,
        cut_off_s=0.1,
    )


def promised(version: int, advert_interval_s: float, *, loss: float = 0.0) -> Bounds:
    """What havip promises at these timers.

    Args:
        loss: with lost packets everything may take as many adverts more as are lost in a row
            about once in a million; 0 asks for the figures of the promises.
    """
    spare_s = advert_interval_s / 2
    more_s = 0.0
    if loss:
        more_s = math.log(1e-6) / math.log(loss) * spare_s
    longest_skew_s = 1.0 if version == 2 else advert_interval_s
    return Bounds(
        two_holders_s=spare_s + LEAVE_AFTER_ADVERT_S + 0.01 + more_s,
        no_holder_s=3 * advert_interval_s + longest_skew_s + 0.1 + more_s,
        cut_off_s=0.1 + more_s,
    )
