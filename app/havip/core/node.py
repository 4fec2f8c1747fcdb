"""The whole node: routes events to its virtual routers and checks, and joins what they say.

The checks say who deserves the VIP, the routers who has it. Between them stands one value,
`Standing`: may this node hold, and with which priority.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Final, assert_never

from havip import __version__
from havip.core.actions import Action, Count, Counter, Finished, Report, Topic
from havip.core.announce import Restraint
from havip.core.balancer import BALANCER, Balancer, check_of
from havip.core.check import Check, Verdict
from havip.core.config import NodeConfig, RouterConfig, interfaces_of
from havip.core.discovery import PeerLists
from havip.core.eligibility import Standing, standing
from havip.core.events import (
    ActionFailed,
    AddressAdded,
    AddressRemoved,
    BackendsListed,
    BackendsUnlisted,
    BalancerAnswered,
    BalancerCaOutdated,
    BalancerSilent,
    ClockStepped,
    Event,
    FrameReceived,
    GatewaysChanged,
    LeaseChanged,
    LeaseFailed,
    LeaseRead,
    LeaseWritten,
    LinkChanged,
    NodeSeen,
    NodeUnseen,
    PeersListed,
    PeersUnlisted,
    ProbeFinished,
    Reconfigured,
    Started,
    StopRequested,
    VrrpReceived,
    Woken,
)
from havip.core.node_state import NodeState
from havip.core.reasons import Reason
from havip.core.router import Router
from havip.core.tenant import Tenant
from havip.core.view import NodeView, TransitionView
from havip.wire import neighbour
from havip.wire.drop import Drop

TRANSITIONS: Final = 100
_REPEATED: Final = (Topic.PUT_BACK, Topic.REFUSED)

_Fact = LinkChanged | GatewaysChanged | AddressAdded
_Elector = Router | Tenant
"""Elected by VRRP, or by a Lease."""


class Node:
    """Decides for one node. The edge delivers events, does the actions, and wakes it on time.

    The first event is `Started`; then the state of links, gateways and addresses; then what
    happens. Before each `Woken` everything that had arrived must have been delivered.
    """

    def __init__(self, config: NodeConfig, *, random: Callable[[], float]) -> None:
        """
        Args:
            random: uniform in [0, 1).
        """
        self._config = config
        self._random = random
        self._checks: dict[str, Check] = {}
        self._routers: dict[str, _Elector] = {}
        self._leaving: list[_Elector] = []
        self._facts: dict[tuple[type, object], _Fact] = {}
        self._failure_alarms: dict[tuple[str, int], Restraint] = {}
        self._lease_requests = count(1)
        self._peer_lists = PeerLists()
        self._state = NodeState()
        self._balancer: Balancer | None = None
        self._utc_offset_s = 0.0
        self._is_started = False
        self._is_stopping = False
        self._is_finished = False
        self._transitions: deque[TransitionView] = deque(maxlen=TRANSITIONS)

    @property
    def wake_at(self) -> float:
        """When to deliver `Woken`, monotonic seconds; infinity for never."""
        routers = (router.wake_at for router in self._all_routers)
        checks = () if self._is_stopping else (check.wake_at for check in self._checks.values())
        return min((*routers, *checks), default=math.inf)

    def handle(self, now: float, event: Event) -> list[Action]:
        """Take one fact, return what to do about it.

        Args:
            now: monotonic seconds, never less than at the call before.
        """
        if self._is_finished:
            return []
        for router in self._all_routers:
            router.handle_lateness(now)
        out = [action for router in self._all_routers for action in router.take()]
        out += self._dispatch(now, event)
        self._note(now, out)
        if self._is_stopping and not self._is_finished:
            self._leaving = [router for router in self._leaving if not router.is_stopped]
            if all(router.is_stopped for router in self._all_routers):
                self._is_finished = True
                out.append(Finished())
        return out

    def view(self, now: float) -> NodeView:
        """The node as `/status` shows it."""
        not_ready_because = self._not_ready_because()
        weight = self._config.node_weight
        return NodeView(
            node_name=self._config.node_name,
            version=__version__,
            at=now,
            ready=not not_ready_because,
            not_ready_because=not_ready_because,
            routers=tuple(router.view(now) for router in self._routers.values()),
            checks=tuple(check.view(now) for check in self._checks.values()),
            transitions=tuple(self._transitions),
            node_object=None if weight is None else self._state.view(weight),
            balancer=self._balancer.view() if self._balancer else None,
        )

    def _dispatch(self, now: float, event: Event) -> list[Action]:
        out: list[Action] = []
        match event:
            case Started():
                self._utc_offset_s = event.utc_offset_s
                self._is_started = True
                if not self._is_stopping:
                    out += self._configure(now, self._config)
            case Woken():
                for check in self._checks.values():
                    if not self._is_stopping and now >= check.wake_at:
                        out += check.handle(now, event)
                out += self._judge(now)
                for router in self._all_routers:
                    if now >= router.wake_at:
                        router.handle_woken(now)
            case ProbeFinished():
                if event.check in self._checks and not self._is_stopping:
                    out += self._checks[event.check].handle(now, event)
                    out += self._judge(now)
            case ClockStepped():
                self._utc_offset_s = event.utc_offset_s
                for router in self._all_routers:
                    router.handle_clock(now, event.utc_offset_s)
            case LeaseRead() | LeaseWritten() | LeaseFailed() | LeaseChanged():
                for router in self._all_routers:
                    if isinstance(router, Tenant):
                        router.handle_lease(now, event)
            case StopRequested():
                self._is_stopping = True
                for router in self._routers.values():
                    router.handle_stop(now)
            case Reconfigured():
                # A daemon that is on its way out begins nothing new.
                if not self._is_stopping:
                    out += self._configure(now, event.config)
            case FrameReceived():
                heard = neighbour.decode(event.frame)
                if heard is None:
                    out.append(Count(counter=Counter.FRAMES_MALFORMED))
                else:
                    for router in self._all_routers:
                        router.handle_neighbour(now, event.interface, heard)
            case VrrpReceived():
                self._receive(now, event, out)
            case ActionFailed():
                out += self._tell_failure(now, event)
                for router in self._all_routers:
                    router.handle_action_failed(now, event)
            case LinkChanged() | GatewaysChanged() | AddressAdded() | AddressRemoved():
                self._remember_fact(event)
                for router in self._all_routers:
                    self._tell_fact(router, now, event)
            case PeersListed():
                self._peer_lists.note(event)
                self._tell_peers(now, event)
                out += self._peer_lists.keep([each.listed_peers for each in self._discovering])
            case PeersUnlisted():
                out += self._peer_lists.miss(now, event)
            case NodeSeen():
                if self._config.node_weight is not None:
                    out += self._state.see(now, event)
                    out += self._judge(now, self._state.reason)
            case NodeUnseen():
                out += self._state.miss(now, event)
            case BackendsListed() | BackendsUnlisted() | BalancerAnswered() | BalancerSilent():
                out += self._balance(now, event)
            case BalancerCaOutdated():
                if self._balancer is not None:
                    out += self._balancer.handle_outdated_ca(now, event)
            case _:
                assert_never(event)
        for router in self._all_routers:
            out += router.take()
        return out

    def _receive(self, now: float, event: VrrpReceived, out: list[Action]) -> None:
        """Adverts carry their VRID in the second byte; nobody's VRID is counted, not decoded."""
        virtual_router_id = event.payload[1] if len(event.payload) > 1 else None
        on_interface = [
            router
            for router in self._all_routers
            if isinstance(router, Router) and router.config.vrrp_interface == event.interface
        ]
        addressed = [
            router
            for router in on_interface
            if virtual_router_id in (None, router.config.virtual_router_id)
        ]
        for router in addressed:
            router.handle_vrrp(now, event)
        if not addressed:
            out.append(Count(counter=Counter.ADVERTS_DROPPED, reason=Drop.VRID))

    def _balance(
        self,
        now: float,
        event: BackendsListed | BackendsUnlisted | BalancerAnswered | BalancerSilent,
    ) -> list[Action]:
        if self._balancer is None or self._is_stopping:
            return []
        match event:
            case BackendsListed():
                return self._balancer.handle_listed(event)
            case BackendsUnlisted():
                return self._balancer.handle_unlisted(now, event)
        finished, out = self._balancer.handle_answer(event)
        return self._checks[BALANCER].handle(now, finished) + self._judge(now) + out

    def _configure_balancer(self, config: NodeConfig) -> list[Action]:
        if config.balancer is None:
            self._balancer = None
        elif self._balancer is None:
            self._balancer = Balancer(config.balancer)
        elif config.balancer != self._balancer.config:
            return self._balancer.reconfigure(config.balancer)
        return []

    def _configure(self, now: float, config: NodeConfig) -> list[Action]:
        """Go over to a configuration: what is the same stays, what can change in place does."""
        out: list[Action] = []
        # The edge watches the interfaces of both configurations; of others it tells no more.
        watched = interfaces_of((*self._config.routers, *config.routers))
        self._facts = {k: fact for k, fact in self._facts.items() if fact.interface in watched}
        if config.peer_source != self._config.peer_source:
            self._peer_lists = PeerLists()
        if config.node_weight is None:
            self._state = NodeState()
        self._config = config
        wanted_checks = {check.name: check for check in config.checks}
        out += self._configure_balancer(config)
        if config.balancer is not None:
            wanted_checks[BALANCER] = check_of(config.balancer)
        for name in self._checks.keys() - wanted_checks.keys():
            del self._checks[name]
        for name, check_config in wanted_checks.items():
            if name in self._checks:
                self._checks[name].reconfigure(check_config)
            else:
                self._checks[name] = Check(check_config, now)

        wanted = {router.name: router for router in config.routers}
        for name in list(self._routers):
            if name not in wanted or not _can_change_in_place(
                self._routers[name].config, wanted[name]
            ):
                router = self._routers.pop(name)
                router.handle_stop(now, Reason.RECONFIGURED)
                self._leaving.append(router)
                out += router.take()
        for name, router_config in wanted.items():
            if name in self._routers:
                self._routers[name].reconfigure(now, router_config)
                continue
            router = self._elector(router_config)
            router.handle_clock(now, self._utc_offset_s)
            self._routers[name] = router
            for fact in self._facts.values():
                self._tell_fact(router, now, fact)
        if self._peer_lists.last is not None:
            self._tell_peers(now, self._peer_lists.last)
        return out + self._judge(now, Reason.RECONFIGURED)

    def _elector(self, config: RouterConfig) -> _Elector:
        standing_now = self._standing(config, is_active=False)
        if config.lease is None:
            return Router(config, standing_now, random=self._random)
        return Tenant(
            config,
            standing_now,
            identity=self._config.node_name,
            numbers=self._lease_requests,
            random=self._random,
        )

    def _judge(self, now: float, because: Reason | None = None) -> list[Action]:
        """Tell every router what the checks say now."""
        out: list[Action] = []
        for router in self._routers.values():
            mine = self._standing(router.config, is_active=router.is_active)
            router.handle_standing(now, mine, because)
            out += router.take()
        self._leaving = [router for router in self._leaving if not router.is_stopped]
        return out

    def _standing(self, router: RouterConfig, *, is_active: bool) -> Standing:
        checks = [
            (c.name, c.config.weight, c.verdict_for(holder=is_active))
            for c in self._checks.values()
        ]
        weight = self._config.node_weight or 0
        checks += self._state.check(weight)
        found = standing(
            priority=router.priority,
            checks=checks,
            all_unhealthy=self._config.all_unhealthy,
        )
        return replace(found, leaving=self._state.leaving(weight))

    def _remember_fact(self, event: _Fact | AddressRemoved) -> None:
        """Keep what a router that is configured later must know."""
        match event:
            case LinkChanged() | GatewaysChanged():
                self._facts[type(event), event.interface] = event
            case AddressAdded():
                self._facts[AddressAdded, (event.interface, event.address)] = event
            case AddressRemoved():
                self._facts.pop((AddressAdded, (event.interface, event.address)), None)

    def _tell_fact(self, router: _Elector, now: float, event: Event) -> None:
        match event:
            case LinkChanged():
                router.handle_link(now, event.interface, event.is_up, event.mac)
            case GatewaysChanged():
                router.handle_gateways(event.interface, event.gateways)
            case AddressAdded():
                router.handle_address_added(now, event)
            case AddressRemoved():
                router.handle_address_removed(now, event)

    def _tell_peers(self, now: float, listed: PeersListed) -> None:
        # The kubelet may take a VIP on its interface for an address of the node.
        vips = {
            vip.address
            for router in self._config.routers
            for leg in router.legs
            for vip in leg.vips
        }
        reason = Reason.PEERS_KEPT if listed.is_kept else Reason.PEERS_LISTED
        for router in self._discovering:
            router.handle_peers(now, listed.addresses - vips, reason, may_remove=not listed.is_kept)

    @property
    def _discovering(self) -> list[Router]:
        return [
            router
            for router in self._routers.values()
            if isinstance(router, Router) and any(leg.discovers_peers for leg in router.config.legs)
        ]

    def _tell_failure(self, now: float, failed: ActionFailed) -> list[Action]:
        """The world refused something: count it, and say so now and then."""
        out: list[Action] = [Count(counter=Counter.ACTIONS_FAILED, reason=failed.action)]
        restraint = self._failure_alarms.setdefault(
            (failed.action, failed.errno), Restraint(free=1)
        )
        if restraint.allows(now):
            out.append(
                Report(
                    topic=Topic.ALARM,
                    reason=Reason.ACTION_FAILED,
                    fields={
                        "action": failed.action,
                        "interface": failed.interface,
                        "subject": failed.subject,
                        "errno": failed.errno,
                        "detail": failed.message,
                    },
                )
            )
        return out

    @property
    def is_handing_over(self) -> bool:
        """Whether a router that was configured away has yet to let go."""
        return any(not router.is_stopped for router in self._leaving)

    @property
    def _all_routers(self) -> list[_Elector]:
        return [*self._routers.values(), *self._leaving]

    def _note(self, now: float, out: list[Action]) -> None:
        for action in out:
            if not isinstance(action, Report) or action.topic is Topic.ALARM:
                continue
            if action.topic in _REPEATED:
                self._forget_same(action)
            self._transitions.append(
                TransitionView(
                    at=now,
                    router=action.router,
                    topic=action.topic.value,
                    reason=action.reason.value if action.reason else "",
                    state=action.state.value if action.state else "",
                    was=action.was.value if action.was else "",
                    fields=action.fields,
                )
            )

    def _forget_same(self, report: Report) -> None:
        """What goes on for ever stands there once, or it would push the moves out."""
        address = report.fields.get("address")
        for old in list(self._transitions):
            if (old.router, old.topic, old.reason, old.fields.get("address")) == (
                report.router,
                report.topic.value,
                report.reason.value if report.reason else "",
                address,
            ):
                self._transitions.remove(old)

    def _not_ready_because(self) -> str:
        if not self._is_started:
            return "not started"
        checks = self._checks.values()
        if pending := [c for c in checks if c.verdict is Verdict.PENDING]:
            asked = ", ".join(f"{check.name} ({check.config.url})" for check in pending)
            return f"no result yet of check {asked}"
        # A check with a weight only lowers the priority: this node may hold all the same.
        never = [c.never_passed_because for c in checks if c.config.weight == 0]
        if never := list(filter(None, never)):
            return ". ".join(never)
        for router in self._routers.values():
            if router.host_block is not None:
                return f"{router.config.name}: {router.host_block.value}"
            if isinstance(router, Tenant) and router.lacks:
                return f"{router.config.name}: {router.lacks}"
            is_lacking = isinstance(router, Router) and router.lacks_peers
            if is_lacking and (source := self._config.peer_source):
                lacks = self._peer_lists.lacks(source, router.config.vrrp_interface)
                return f"{router.config.name}: {Reason.NO_PEERS.value}: {lacks}"
        return ""


def _can_change_in_place(old: RouterConfig, new: RouterConfig) -> bool:
    return (
        old.version == new.version
        and old.vrrp_interface == new.vrrp_interface
        and old.vip_interface == new.vip_interface
        and old.virtual_router_id == new.virtual_router_id
        and [leg.family for leg in old.legs] == [leg.family for leg in new.legs]
        and _lease_of(old) == _lease_of(new)
    )


def _lease_of(config: RouterConfig) -> tuple[str, str] | None:
    return None if config.lease is None else (config.lease.namespace, config.lease.name)
