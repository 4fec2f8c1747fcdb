"""One set of VIPs whose holder a Kubernetes Lease elects: a `core.router` without adverts.

    DOWN ──► BACKUP ──► ACTIVE ──► LEAVING ──► BACKUP or DOWN

- BACKUP looks at the Lease, and claims once it is free and others had their turn by priority.
- ACTIVE renews the Lease, and the address as long as the Lease lets it. The address goes before
  the Lease can be another's (`core.lease` says why that is so).
- LEAVING releases the Lease *first* and keeps the address until the successor announces it: make
  before break, as with VRRP. The wait is bounded, by the Lease until its release is known, and
  then by what a successor takes. A leaver whose VIP is of no use (its link is down, the kernel
  refused the address) removes it at once and only releases.

A Lease knows no better holder: a higher priority claims earlier and never preempts. But a holder
that Kubernetes has leave offers the Lease, and hands over once a node that stays has asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core import timers
from havip.core.actions import Action, Counter, InstallAddress, Topic
from havip.core.announce import Restraint
from havip.core.config import RouterConfig
from havip.core.conflict import Conflicts
from havip.core.custody import Custody
from havip.core.eligibility import HIGHEST, Standing
from havip.core.events import (
    ActionFailed,
    AddressAdded,
    AddressRemoved,
    LeaseChanged,
    LeaseFailed,
    LeaseRead,
    LeaseWritten,
    Removal,
)
from havip.core.lease import JITTER, Lease
from havip.core.leave import Leave
from havip.core.outbox import Outbox
from havip.core.presence import Presence
from havip.core.reasons import Reason, State
from havip.core.view import RouterView
from havip.core.voice import Voice
from havip.wire.neighbour import Neighbour

SKEW_S: Final = 0.25
"""The lowest priority claims so much later than the highest."""
PROBE_S: Final = 0.5
"""Before a first claim somebody who has the address already has so long to say so."""
LOOK_S: Final = 0.5
"""How often a leaver looks for a successor that it may not hear."""
TAKE_OVER_S: Final = 1.0
"""From a look at a free Lease to the announcement, when the API server is slow."""
OVERLAP_S: Final = 3.0
"""After a move the former holder may still use the address without being a foreign host."""
OFFER_AGAIN_S: Final = 300.0
"""Who asked once and did not take over is not believed again so soon: each time there is a gap."""
LATE_S: Final = 1.0
"""Who wakes so late has slept through something, and asks before it goes on."""

Address = IPv4Address | IPv6Address
LeaseEvent = LeaseRead | LeaseWritten | LeaseFailed | LeaseChanged


class Phase(Enum):
    DOWN = "down"
    BACKUP = "backup"
    ACTIVE = "active"
    LEAVING = "leaving"


class Tenant:
    """Decides for one set of VIPs. `handle_*` note and decide, `take` gives what to do."""

    def __init__(
        self,
        config: RouterConfig,
        standing: Standing,
        *,
        identity: str,
        numbers: Iterator[int],
        random: Callable[[], float],
    ) -> None:
        """
        Args:
            standing: what the node's checks say at the start.
            identity: the node's name, which the Lease will show.
            numbers: gives each request of the node its own.
            random: uniform in [0, 1).
        """
        assert config.lease is not None
        self.config = config
        self._standing = standing
        self._out = Outbox(config.name)
        self._phase = Phase.DOWN
        self._state = State.INITIALIZE
        self._reason = Reason.STARTED
        self._since_at = 0.0

        self._presence = Presence(config)
        self._voice = Voice(config, self._presence, self._out)
        self._custody = Custody(config, self._presence, self._voice, self._out)
        self._conflicts = Conflicts()
        self._lease = Lease(config.lease, identity, self._out, numbers=numbers, random=random)
        self._leave = Leave()
        self._has_released = False
        self._is_waning = False
        """The Lease is too old, or in doubt: what is on the interface is left to expire."""
        self._not_before = -math.inf
        self._no_offer_before = -math.inf
        self._was_asked_anew = False
        self._claims_because = Reason.LEASE_RESUMED
        self._was_blocked = False
        self._ran_at = -math.inf
        self._stops_because: Reason | None = None
        self._defence = Restraint()
        self._is_disputed = False

    # What the node asks ------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """Monotonic seconds of the next timer; infinity if there is none."""
        match self._phase:
            case Phase.DOWN:
                return math.inf
            case Phase.BACKUP:
                due_at = min(self._lease.due_at, self._claim_at, self._ask_at)
                return min(self._conflicts.wake_at, due_at)
            case Phase.ACTIVE:
                wake_at = min(self._lease.due_at, self._lease.held_until)
                if not self._is_waning:
                    wake_at = min(wake_at, self._lease.wanes_at, self._custody.wake_at)
                return wake_at
            case Phase.LEAVING:
                wake_at = min(self._leave.wake_at, self._lease.due_at)
                if not self._is_waning and self._custody.held:
                    wake_at = min(wake_at, self._custody.wake_at)
                return wake_at

    @property
    def is_active(self) -> bool:
        return self._phase is Phase.ACTIVE

    @property
    def is_stopped(self) -> bool:
        """Whether a requested stop is complete: nothing is held."""
        return self._stops_because is not None and self._phase is Phase.DOWN

    def take(self) -> list[Action]:
        """The actions decided since the last call, in order."""
        return self._out.take()

    # Facts --------------------------------------------------------------------------------

    def handle_clock(self, now: float, utc_offset_s: float) -> None:
        self._lease.utc_offset_s = utc_offset_s
        if self._phase is Phase.ACTIVE:
            # Perhaps this machine stood still, and only UTC has noticed.
            self._lease.doubt(now)

    def handle_link(self, now: float, interface: str, is_up: bool, mac: bytes) -> None:
        had_mac = self._presence.is_own_mac(interface, mac)
        was_up = self._presence.set_link(interface, is_up, mac)
        if interface == self.config.vip_interface:
            self._lease.mac = mac
        self._reconsider(now, Reason.LINK_UP if was_up is False else Reason.STARTED)
        if interface == self.config.vip_interface and not had_mac and self._is_firm:
            self._custody.start_announcing(now)

    def handle_gateways(self, interface: str, gateways: tuple[Address, ...]) -> None:
        """Of no use here: nobody's host is suspected."""

    def handle_standing(
        self, now: float, standing: Standing, because: Reason | None = None
    ) -> None:
        """The checks' summary has perhaps changed.

        Args:
            because: what changed it, if not a check.
        """
        was = self._standing
        if standing == was:
            return
        self._standing = standing
        if standing.effective_priority != was.effective_priority:
            self._out.report_priority(standing.effective_priority, was.effective_priority, because)
        if standing.leaving != was.leaving and self._phase is Phase.ACTIVE:
            self._lease.look_by(now)
        self._reconsider(now, standing.blocked_by or Reason.CHECK_RECOVERED)

    def handle_lateness(self, now: float) -> None:
        """Before any fact: did this process run when a timer was due?"""
        # What an answer made due is due since then.
        late_s = now - max(self.wake_at, self._ran_at)
        self._ran_at = now
        if late_s < LATE_S:
            return
        self._lease.doubt(now)
        if self._phase is Phase.ACTIVE:
            if now >= self._lease.held_until:
                self._drop(now, Reason.FROZEN, late_s=round(late_s, 3))
            else:
                self._wane()
        elif self._phase is Phase.LEAVING:
            # Somebody may have claimed meanwhile what was released.
            self._leave.begin(now, 0.0)

    def handle_stop(self, now: float, because: Reason = Reason.STOPPED) -> None:
        """Hand over and end; `is_stopped` says when that is done."""
        self._stops_because = because
        if self._phase is Phase.ACTIVE:
            self._hand_over(now, because)
        elif self._phase is not Phase.LEAVING:
            self._go_down(now, because)

    def handle_action_failed(self, now: float, event: ActionFailed) -> None:
        """The kernel refused an address: this node cannot hold."""
        if event.action != InstallAddress.__name__ or not self._is_firm:
            return
        # A failed renewal is no verdict yet: the next may succeed, or the address expires.
        if event.subject in self._custody.unconfirmed:
            self._refuse(now)
            self._drop(now, Reason.INSTALL_FAILED, errno=event.errno, detail=event.message)

    def handle_address_added(self, now: float, event: AddressAdded) -> None:
        is_news = self._presence.add_address(event)
        vip = self._presence.vip(event.interface, event.address.ip)
        if vip is None:
            if is_news and not event.is_ours:
                self._reconsider(now, Reason.STARTED)
                self._stand_behind(event.interface, event.address.version)
        elif event.is_ours or not event.is_permanent:
            is_confirmed = event.address == vip.interface and self._custody.confirm(now, vip)
            if is_confirmed and self._is_firm:
                self._custody.start_announcing(now, [vip])
            self._reconsider(now, Reason.STARTED)
        elif is_news:
            self._custody.meet(now, event.address)
            self._reconsider(now, Reason.ADDRESS_OCCUPIED)

    def handle_address_removed(self, now: float, event: AddressRemoved) -> None:
        known = self._presence.remove_address(event.interface, event.address)
        vip = self._presence.vip(event.interface, event.address.ip)
        if known is not None and not known.is_ours:
            self._reconsider(now, Reason.NO_ADDRESS if vip is None else Reason.STARTED)
            if vip is None:
                self._stand_behind(event.interface, event.address.version)
        if vip is None or event.address != vip.interface:
            return
        self._custody.miss(vip)
        if event.by is Removal.OURS and self._custody.has_reseated(vip):
            return
        if self._phase is Phase.LEAVING:
            is_gone = not self._custody.held and self._leave.is_gone(vip)
            if is_gone and self._has_released:
                self._finish_leaving(now)
        elif self._is_firm and vip in self._custody.held:
            if event.by is Removal.EXPIRED:
                self._refuse(now)
                self._drop(now, Reason.ADDRESS_EXPIRED, address=str(vip.address))
            else:
                self._custody.lose(now, vip)

    def handle_neighbour(self, now: float, interface: str, heard: Neighbour) -> None:
        """A host on the link bound an address to its MAC, by ARP or ND."""
        if self._presence.is_own_mac(interface, heard.mac):
            return
        if heard.asks is not None and heard.asks != heard.claims:
            asked = self._presence.vip(interface, heard.asks)
            if asked is not None and self._is_firm:
                self._custody.hasten(now, asked)
        if heard.claims is None:
            return
        vip = self._presence.vip(interface, heard.claims)
        if vip is None:
            return
        if heard.mac not in self._lease.holder_macs:
            self._conflicts.claimed(now, heard.claims, heard.mac)
        if self._phase is Phase.LEAVING:
            if self._leave.hear_announcement(now, vip, self._custody.held):
                self._have_it_announced()
        elif self._is_firm and self._custody.refuse_claimed(now, vip, heard.mac):
            pass
        elif self._phase is Phase.ACTIVE and self._custody.has(vip):
            self._out.count(Counter.ADDRESS_CONFLICTS)
            if self._defence.allows(now):
                # Who is right, the Lease knows; this machine may have stood still.
                self._is_disputed = True
                self._lease.doubt(now)
                if now - self._since_at > OVERLAP_S:
                    claims, mac = heard.claims, heard.mac
                    self._out.alarm(
                        now,
                        Reason.ADDRESS_IN_USE,
                        lambda: {"address": str(claims), "mac": mac.hex(":")},
                    )

    def handle_lease(self, now: float, event: LeaseEvent) -> None:
        """What the API server said."""
        lease = self._lease
        if isinstance(event, LeaseChanged):
            if (event.namespace, event.name) == (lease.config.namespace, lease.config.name):
                lease.hear(now, event.version)
            return
        if not lease.take(now, event):
            return
        for mac in lease.holder_macs:
            self._conflicts.excuse(mac)
        match self._phase:
            case Phase.BACKUP:
                self._answered_as_backup(now)
            case Phase.ACTIVE:
                self._answered_as_active(now, event)
            case Phase.LEAVING:
                self._answered_as_leaver(now, event)

    def handle_woken(self, now: float) -> None:
        """Timers; all that had arrived has been delivered."""
        match self._phase:
            case Phase.DOWN:
                pass
            case Phase.BACKUP:
                self._run_backup(now)
            case Phase.ACTIVE:
                self._run_active(now)
            case Phase.LEAVING:
                self._run_leaving(now)

    def reconfigure(self, now: float, config: RouterConfig) -> None:
        """Take a configuration with the same name, interfaces, families and Lease."""
        assert config.lease is not None
        old = self.config
        old_occupants = self._presence.occupants
        self.config = config
        self._lease.config = config.lease
        self._presence.reconfigure(config)
        self._voice.reconfigure(now, config)
        self._custody.reconfigure(now, config, old_occupants)
        if config != old:
            fields: dict[str, str | int | float] = {
                "priority": config.priority,
                "vips": ",".join(str(vip.interface) for vip in self._custody.vips),
                "vips_were": ",".join(str(vip.interface) for leg in old.legs for vip in leg.vips),
            }
            self._out.report(Topic.CONFIGURED, Reason.RECONFIGURED, fields)
        self._reconsider(now, Reason.RECONFIGURED)
        if self._is_firm:
            self._custody.join(now)

    # Backup ------------------------------------------------------------------------------

    @property
    def _claim_at(self) -> float:
        """When to claim, by what is known now."""
        if self._lease.is_busy or not self._lease.is_known or self._blocked is not None:
            return math.inf
        free_at, reason = self._lease.free()
        claim_at = max(free_at, self._not_before)
        if reason is Reason.LEASE_RESUMED:
            # Its own is nobody else's to claim.
            return claim_at
        return claim_at + self._skew_s

    @property
    def _ask_at(self) -> float:
        """When to ask a holder for what it offers, by what is known now."""
        if self._lease.is_busy or not self._lease.is_known or self._blocked is not None:
            return math.inf
        if self._standing.leaving is not None:
            return math.inf
        return max(self._lease.offered_at, self._not_before) + self._skew_s

    @property
    def _skew_s(self) -> float:
        """Who is better is first."""
        return SKEW_S * (HIGHEST - self._standing.effective_priority) / HIGHEST

    def _run_backup(self, now: float) -> None:
        if self._conflicts.is_due(now):
            for vip in self._custody.vips:
                self._voice.probe(vip)
        if now >= self._claim_at:
            conflict = self._conflicts.found(now, 0.0)
            if conflict is None:
                _, self._claims_because = self._lease.free()
                self._lease.offers = self._gives_way(now)
                self._lease.claim(now)
                return
            self._was_asked_anew = not self._was_asked_anew
            if self._was_asked_anew:
                # Perhaps it is a holder's of whom the Lease will tell.
                self._lease.doubt(now)
            else:
                self._out.repeat(now, Topic.REFUSED, conflict.reason, conflict.fields)
                self._reason = conflict.reason
                self._refuse(now)
                self._conflicts.start(now + timers.REFUSE_S - PROBE_S, PROBE_S)
        if now >= self._ask_at:
            if self._conflicts.found(now, 0.0) is None:
                self._lease.ask_for_it(now)
            else:
                self._refuse(now)
        self._lease.look(now)

    def _answered_as_backup(self, now: float) -> None:
        if not self._lease.is_mine:
            return
        if self._blocked not in (None, Reason.CHECK_PENDING):
            # Claimed just before, or the answer to the claim was lost.
            self._begin_leaving(now)
        elif now < min(self._lease.held_until, self._lease.wanes_at):
            self._become_active(now)

    def _refuse(self, now: float) -> None:
        """No claim before others had their turn."""
        self._not_before = max(self._not_before, now + timers.REFUSE_S)

    # Active ------------------------------------------------------------------------------

    @property
    def _is_firm(self) -> bool:
        """Whether addresses may be installed, put back and announced."""
        return self._phase is Phase.ACTIVE and not self._is_waning

    def _become_active(self, now: float) -> None:
        self._phase = Phase.ACTIVE
        self._is_waning = self._is_disputed = False
        self._conflicts.prove()
        self._defence = Restraint()
        self._custody.take(now)
        self._moved(
            now,
            State.ACTIVE,
            self._claims_because,
            lease=f"{self._lease.config.namespace}/{self._lease.config.name}",
            priority=self._standing.effective_priority,
        )

    def _answered_as_active(self, now: float, event: LeaseEvent) -> None:
        lease = self._lease
        if now >= lease.held_until:
            if not lease.is_mine:
                self._drop(now, Reason.LEASE_TAKEN, holder=lease.holder)
            else:
                self._drop(now, Reason.LEASE_NOT_RENEWED)
            return
        if lease.asked_by and self._gives_way(now):
            assert self._standing.leaving is not None
            self._no_offer_before = now + OFFER_AGAIN_S
            self._hand_over(now, self._standing.leaving, successor=lease.asked_by)
            return
        if not isinstance(event, LeaseWritten) or now >= lease.wanes_at:
            return
        if self._is_waning:
            self._is_waning = False
            self._custody.renew_by(now)
            self._custody.start_announcing(now)
        elif self._is_disputed:
            # RFC 5227 §2.4 (b), but never against whom the Lease names.
            self._custody.start_announcing(now)
        self._is_disputed = False

    def _gives_way(self, now: float) -> bool:
        return self._standing.leaving is not None and now >= self._no_offer_before

    def _wane(self) -> None:
        """Leave the address to its lifetime, until a renewal of the Lease succeeds."""
        self._is_waning = True
        self._custody.rest()

    def _run_active(self, now: float) -> None:
        if now >= self._lease.held_until:
            self._drop(now, Reason.LEASE_NOT_RENEWED)
            return
        if not self._is_waning and now >= self._lease.wanes_at:
            self._wane()
        if not self._is_waning:
            if self._custody.renew(now):
                self._out.count(Counter.ADDRESS_RENEWALS)
            silent_s = self._custody.unconfirmed_s(now)
            if silent_s > timers.CONFIRMED_WITHIN_S:
                self._refuse(now)
                self._drop(now, Reason.ADDRESS_EXPIRED, silent_s=round(silent_s, 3))
                return
            self._custody.put_back(now)
            self._custody.go_on_joining(now)
            self._custody.announce_due(now)
        self._lease.offers = self._gives_way(now)
        self._lease.renew(now)

    def _stand_behind(self, interface: str, family: int) -> None:
        """An own address, before or behind the VIPs, has come or gone."""
        if self._is_firm and (interface, family) == (self.config.vip_interface, 4):
            self._custody.stand_behind()

    # Leaving -----------------------------------------------------------------------------

    def _hand_over(self, now: float, reason: Reason, **fields: str) -> None:
        """Release the Lease, and keep the VIP until a successor has it or none comes."""
        self._custody.rest()
        self._begin_leaving(now)
        state = State.BACKUP if self._stops_because is None else State.INITIALIZE
        self._moved(now, state, reason, **fields)

    def _drop(self, now: float, reason: Reason, **fields: str | int | float) -> None:
        """Let go at once, and release the Lease if it is this node's."""
        self._custody.let_go()
        self._begin_leaving(now)
        is_down = self._presence.hard_block is not None or self._stops_because is not None
        self._moved(now, State.INITIALIZE if is_down else State.BACKUP, reason, **fields)

    def _begin_leaving(self, now: float) -> None:
        self._phase = Phase.LEAVING
        self._conflicts.stop()
        self._has_released = self._lease.is_let_go
        if self._custody.held:
            bound_s = min(self._lease.held_until - now, timers.LEAVE_LONGEST_S)
        elif self._has_released:
            bound_s = 0.0
        else:
            # The Lease is all there is to let go of, and it ends by itself.
            bound_s = self._lease.config.retry_period_s
        self._leave.begin(now, bound_s)
        self._lease.look_by(now)

    def _answered_as_leaver(self, now: float, event: LeaseEvent) -> None:
        lease = self._lease
        if not self._has_released and lease.is_let_go:
            self._has_released = True
            if not self._custody.held:
                self._finish_leaving(now)
                return
            if not self._leave.has_successor:
                self._leave.begin(now, self._take_over_s)
            self._is_waning = False
        if not self._has_released:
            if not isinstance(event, LeaseFailed):
                lease.look_by(now)
            return
        if lease.holder and not self._leave.has_successor:
            # Its announcement was lost, or is on the way.
            self._leave.begin_after(now)
        lease.look_by(now + LOOK_S)

    @property
    def _take_over_s(self) -> float:
        """How long a successor may take that hears of the release by looking."""
        return self._lease.config.retry_period_s * (1 + JITTER) + SKEW_S + TAKE_OVER_S

    def _run_leaving(self, now: float) -> None:
        if self._leave.is_due(now):
            if self._custody.held:
                self._leave.let_go(now, self._custody.held)
                self._custody.let_go()
            else:
                self._finish_leaving(now)
            return
        if not self._has_released:
            self._is_waning = self._is_waning or now >= self._lease.wanes_at
            self._lease.release(now)
        else:
            self._lease.look(now)
        if self._custody.held and not self._is_waning:
            self._custody.renew(now)

    def _have_it_announced(self) -> None:
        """A new holder announces at once to whoever asks (`custody.hasten`), and so to all clients.

        Those that asked in the overlap may have got this node's answer.
        """
        for vip in self._custody.vips:
            self._voice.probe(vip)

    def _finish_leaving(self, now: float) -> None:
        if self._leave.has_successor and self._presence.hard_block is None:
            self._have_it_announced()
        self._leave.end()
        self._lease.forget_holding()
        self._phase = Phase.DOWN
        if not (self._stops_because or self._presence.hard_block):
            self._reconsider(now, self._reason)

    def _go_down(self, now: float, reason: Reason) -> None:
        """This node cannot take part: let go at once."""
        match self._phase:
            case Phase.DOWN:
                self._reason = reason
            case Phase.ACTIVE:
                self._drop(now, reason)
            case Phase.LEAVING:
                self._custody.let_go()
                self._moved(now, State.INITIALIZE, reason)
            case Phase.BACKUP if self._lease.may_be_mine:
                self._begin_leaving(now)
                self._moved(now, State.INITIALIZE, reason)
            case Phase.BACKUP:
                self._phase = Phase.DOWN
                self._conflicts.stop()
                self._moved(now, State.INITIALIZE, reason)

    # Common ------------------------------------------------------------------------------

    def _reconsider(self, now: float, reason: Reason) -> None:
        """Whether this node may take part, and hold, has perhaps changed."""
        hard = self._presence.hard_block
        blocked = self._blocked
        was_blocked, self._was_blocked = self._was_blocked, blocked is not None
        if hard is not None:
            self._go_down(now, hard)
        elif self._stops_because is not None:
            if self._phase is not Phase.LEAVING:
                self._go_down(now, self._stops_because)
        elif self._phase is Phase.DOWN:
            self._phase = Phase.BACKUP
            self._lease.doubt(now)
            self._watch_out(now)
            self._moved(now, State.BACKUP, reason)
        elif blocked is not None:
            if self._phase is Phase.ACTIVE:
                check = self._standing.blocked_check
                fields = {"check": check} if check and blocked is self._standing.blocked_by else {}
                self._hand_over(now, blocked, **fields)
        elif was_blocked and self._phase is Phase.BACKUP:
            self._watch_out(now)

    def _watch_out(self, now: float) -> None:
        """Before a first claim, look for others that use the VIP."""
        if not self._conflicts.is_proven:
            self._conflicts.start(now, PROBE_S)
            self._not_before = max(self._not_before, now + PROBE_S)

    @property
    def host_block(self) -> Reason | None:
        """What keeps this node from taking part at all: a link, an address."""
        return self._presence.hard_block

    @property
    def lacks(self) -> str:
        """What it takes to claim and was never there; empty if nothing."""
        return self._lease.lacks

    @property
    def _blocked(self) -> Reason | None:
        """Why this node may not hold the VIP now; None if it may."""
        if (hard := self._presence.hard_block) is not None:
            return hard
        if self._presence.occupants and not self.config.take_over_address:
            return Reason.ADDRESS_OCCUPIED
        blocked_by = None if self._standing.may_hold else self._standing.blocked_by
        if blocked_by is Reason.CHECK_PENDING and self._phase is Phase.ACTIVE:
            # A check that a reload brought: no answer yet is no reason to move.
            return None
        return blocked_by

    # What people see ---------------------------------------------------------------------

    def _moved(self, now: float, state: State, reason: Reason, **fields: str | int | float) -> None:
        was, self._state = self._state, state
        if (state, reason) == (was, self._reason):
            return
        self._reason = reason
        self._since_at = now
        self._out.report(Topic.MOVED, reason, fields, state=state, was=was)

    def view(self, now: float) -> RouterView:
        """This set of VIPs as `/status` shows it."""
        config = self.config
        blocked = self._blocked
        return RouterView(
            name=config.name,
            virtual_router_id=config.virtual_router_id,
            version=config.version,
            vrrp_interface=config.vrrp_interface,
            vip_interface=config.vip_interface,
            vips=tuple(str(vip.interface) for vip in self._custody.vips),
            state=self._state.value,
            reason=self._reason.value,
            since_at=self._since_at,
            may_hold=blocked is None,
            blocked_by="" if blocked is None else blocked.value,
            priority=config.priority,
            effective_priority=self._standing.effective_priority,
            advert_interval_s=config.advert_interval_s,
            is_holding=self._custody.is_there,
            hmac_key=None,
            fast_detect="off",
            peers=(),
            lease=self._lease.view(now),
        )
