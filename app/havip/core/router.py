"""One virtual router: the state machine of RFC 9568 §6.4 and RFC 3768 §6.4, and what havip adds.

The states of the RFCs have finer phases here:

    DOWN ──► BACKUP ──► CLAIMING ──► ACTIVE ──► LEAVING ──► BACKUP or DOWN

- CLAIMING (Backup, for people): the timer has run out. Wait a moment that differs among equals,
  advertise, listen a moment more, and only then install the address. A better claim ends it.
- LEAVING (Backup or Initialize): a better router or a stop ended the reign, but the address
  stays until the successor has announced it: make before break.

What the phases count and remember is elsewhere: for whom a Backup waits (`watch`), how it claims
(`claim`), what is on the interface (`custody`), how a leaver hands over (`leave`). What stands
here is what an event means in each phase, and which phase follows.

"Read before you act" rests on one promise of the edge: before `Woken`, everything that had
arrived has been delivered. So a timer that fires here fires knowing all that was to be known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core import timers
from havip.core.actions import Action, Counter, InstallAddress, Topic
from havip.core.announce import Pace, Restraint
from havip.core.claim import Claim, Step, tie_delay_s
from havip.core.config import RouterConfig
from havip.core.conflict import Conflicts
from havip.core.custody import Custody
from havip.core.ear import Ear
from havip.core.eligibility import Standing
from havip.core.events import ActionFailed, AddressAdded, AddressRemoved, Removal, VrrpReceived
from havip.core.leave import Leave
from havip.core.outbox import Outbox
from havip.core.peers import LAST_WORDS
from havip.core.presence import Presence
from havip.core.reasons import Reason, State
from havip.core.receive import Heard
from havip.core.standoff import Standoff
from havip.core.suspicion import LATE_FACTOR, Ask
from havip.core.view import RouterView
from havip.core.voice import Voice
from havip.core.watch import Watch
from havip.wire.drop import Drop
from havip.wire.neighbour import Kind, Neighbour

Address = IPv4Address | IPv6Address
OVERLAP_S: Final = 3.0
"""After a move the former holder may still use the address without being a foreign host."""


class Phase(Enum):
    DOWN = "down"
    BACKUP = "backup"
    CLAIMING = "claiming"
    ACTIVE = "active"
    LEAVING = "leaving"


class Router:
    """Decides for one virtual router. `handle_*` return what to do, `wake_at` says when next."""

    def __init__(
        self, config: RouterConfig, standing: Standing, *, random: Callable[[], float]
    ) -> None:
        """
        Args:
            standing: what the node's checks say at the start.
            random: uniform in [0, 1); the only chance in the core.
        """
        self.config = config
        self._random = random
        self._standing = standing
        self._out = Outbox(config.name)
        self._phase = Phase.DOWN
        self._state = State.INITIALIZE
        self._reason = Reason.STARTED
        self._since_at = 0.0

        self._presence = Presence(config)
        self._voice = Voice(config, self._presence, self._out)
        self._watch = Watch(config, self._presence, self._voice, self._out)
        self._custody = Custody(config, self._presence, self._voice, self._out)
        self._conflicts = Conflicts()
        self._ear = Ear(self._presence, self._voice, self._conflicts, self._out)
        self._claim = Claim()
        self._advert_at = math.inf
        self._leave = Leave()
        self._stops_because: Reason | None = None
        self._was_blocked = False
        self._yields_ties = False

        self._defence = Restraint()
        self._assertion = Restraint()
        self._leaver_answers, self._last_word_answers = Pace(), Pace()
        self._words_beside = Restraint(free=LAST_WORDS)
        self._standoff = Standoff()

    # What the node asks ------------------------------------------------------------------

    @property
    def wake_at(self) -> float:
        """Monotonic seconds of the next timer; infinity if there is none."""
        match self._phase:
            case Phase.DOWN:
                return math.inf
            case Phase.BACKUP:
                wake_at = min(self._conflicts.wake_at, self._watch.wake_at)
                if self._blocked is None:
                    wake_at = min(wake_at, self._claim.due_at)
                return wake_at
            case Phase.CLAIMING:
                return self._claim.wake_at
            case Phase.ACTIVE:
                return min(self._advert_at, self._custody.wake_at)
            case Phase.LEAVING:
                return min(self._leave.wake_at, self._custody.wake_at)

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
        self._voice.set_clock(utc_offset_s)

    def handle_peers(
        self,
        now: float,
        addresses: Collection[Address],
        reason: Reason,
        *,
        may_remove: bool,
    ) -> None:
        """Nodes that are peers, for the legs that discover theirs. Nothing moves for it.

        Args:
            addresses: a list that names this node too; no VIP.
            reason: who made the list.
            may_remove: whether the API lists these and no others now.
        """
        presence = self._presence
        before, lacked = self._unicast_peers, self.lacks_peers
        presence.discovery.add(addresses)
        if may_remove:
            presence.discovery.miss(now, addresses, presence.own_sources)
        peers = self._unicast_peers
        if peers != before:
            told = {"peers": ",".join(map(str, peers)), "were": ",".join(map(str, before))}
            self._out.report(Topic.PEERS, reason, told)
        self._reconsider(now, reason)
        if set(peers) <= set(before):
            return
        if self._phase is Phase.ACTIVE:
            self._advertise(now)
        elif self._phase is Phase.BACKUP and not lacked:
            self._introduce(now)

    def handle_link(self, now: float, interface: str, is_up: bool, mac: bytes) -> None:
        had_mac = self._presence.is_own_mac(interface, mac)
        was_up = self._presence.set_link(interface, is_up, mac)
        self._reconsider(now, Reason.LINK_UP if was_up is False else Reason.STARTED)
        if self._phase is Phase.ACTIVE and interface == self.config.vip_interface and not had_mac:
            self._custody.start_announcing(now)

    def handle_gateways(self, interface: str, gateways: tuple[Address, ...]) -> None:
        if interface == self.config.vrrp_interface:
            self._presence.gateways = gateways

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
            if self._phase is Phase.ACTIVE and self._blocked is None:
                self._advertise(now)
        self._reconsider(now, standing.blocked_by or Reason.CHECK_RECOVERED)

    def handle_lateness(self, now: float) -> None:
        """Before any fact: did this process run when a timer was due?

        Others suspect a holder that is silent for `LATE_FACTOR` intervals, and replace one that
        is silent for three. Silence counts from the last advert, half an interval before the
        next was due.
        """
        due_at = self._advert_at if self._phase is Phase.ACTIVE else self.wake_at
        interval_s = self.config.advert_interval_s
        silent_s = now - due_at + timers.SPARE_FACTOR * interval_s
        if silent_s < LATE_FACTOR * interval_s:
            return
        if silent_s < 3 * interval_s:
            self._yields_ties = True
        elif self._custody.held:
            self._step_down_silently(now, Reason.FROZEN, silent_s=round(silent_s, 3))
        elif self._phase in (Phase.CLAIMING, Phase.BACKUP):
            # A paused machine loses what arrives, and a frozen process reads what is long past:
            # neither an empty socket nor a full one proves anything yet.
            if self._phase is Phase.CLAIMING:
                self._abandon_claim(now)
            self._claim.listen_afresh(now, self._active_down_interval_s)

    def handle_stop(self, now: float, because: Reason = Reason.STOPPED) -> None:
        """Hand over and end; `is_stopped` says when that is done."""
        self._stops_because = because
        if self._phase is Phase.ACTIVE:
            self._hand_over(now, State.INITIALIZE, because)
        elif self._phase is not Phase.LEAVING:
            self._go_down(now, because)

    def handle_action_failed(self, now: float, event: ActionFailed) -> None:
        """The kernel refused an address, or to send: perhaps this node cannot hold."""
        own = (self.config.vrrp_interface, self.config.virtual_router_id)
        if (event.interface, event.virtual_router_id) == own:
            self._voice.reach.refuse(event)
            if self._phase is Phase.ACTIVE:
                self._expect_to_be_heard(now)
        if event.action != InstallAddress.__name__:
            return
        # A failed renewal is no verdict yet: the next may succeed, or the address expires.
        if event.subject not in self._custody.unconfirmed:
            return
        self._claim.refuse(now)
        self._step_down_silently(
            now, Reason.INSTALL_FAILED, errno=event.errno, detail=event.message
        )
        self._voice.advertise(now, 0)

    def _expect_to_be_heard(self, now: float) -> None:
        """Others claim when they have heard nothing for long enough; let go before."""
        reach = self._voice.reach
        if reach.is_unheard(now, self.config.advert_interval_s):
            self._claim.refuse(now)
            self._step_down_silently(
                now,
                Reason.SEND_FAILED,
                **_told(reach.failure),
                silent_s=round(reach.silent_s(now), 3),
            )

    def handle_address_added(self, now: float, event: AddressAdded) -> None:
        is_news = self._presence.add_address(event)
        vip = self._presence.vip(event.interface, event.address.ip)
        if vip is None:
            if is_news and not event.is_ours:
                self._reconsider(now, Reason.STARTED)
                self._stand_behind(event.interface, event.address.version)
        elif event.is_ours or not event.is_permanent:
            is_confirmed = event.address == vip.interface and self._custody.confirm(now, vip)
            if is_confirmed and self._phase is Phase.ACTIVE:
                self._custody.start_announcing(now, [vip])
            # What occupied the address may just have become ours.
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
                # A secondary address that the kernel promotes goes to the end of the list.
                self._stand_behind(event.interface, event.address.version)
        if vip is None or event.address != vip.interface:
            return
        self._custody.miss(vip)
        if event.by is Removal.OURS and self._custody.has_reseated(vip):
            return
        if vip not in self._custody.held:
            are_gone = self._leave.is_gone(vip)
            if self._phase is Phase.LEAVING and are_gone and not self._custody.held:
                self._finish_leaving(now)
        elif event.by is Removal.EXPIRED:
            if self._presence.hard_block is None:
                self._step_down_silently(now, Reason.ADDRESS_EXPIRED, address=str(vip.address))
        elif self._phase is Phase.ACTIVE:
            self._custody.lose(now, vip)

    def handle_neighbour(self, now: float, interface: str, heard: Neighbour) -> None:
        """A host on the link bound an address to its MAC, by ARP or ND."""
        if self._presence.is_own_mac(interface, heard.mac):
            return
        if heard.asks is not None and heard.asks != heard.claims:
            asked = self._presence.vip(interface, heard.asks)
            if asked is not None and self._phase is Phase.ACTIVE:
                # Both kernels answer the client, and it keeps the first for a second; only an
                # announcement overrides that.
                self._custody.hasten(now, asked)
        if heard.claims is None:
            return
        if interface == self.config.vrrp_interface and heard.kind is Kind.ANSWER:
            self._watch.answered(now, heard.claims, heard.mac)
        vip = self._presence.vip(interface, heard.claims)
        if vip is None:
            return
        self._conflicts.claimed(now, heard.claims, heard.mac)
        if self._phase is Phase.LEAVING:
            if self._leave.hear_announcement(now, vip, self._custody.held):
                # Clients that asked in the overlap hear the successor again before the VIP goes.
                self._voice.advertise(now, timers.LAST_WORD_PRIORITY)
        elif self._phase is Phase.ACTIVE and self._custody.refuse_claimed(now, vip, heard.mac):
            pass
        elif self._phase is Phase.ACTIVE and self._custody.has(vip):
            self._out.count(Counter.ADDRESS_CONFLICTS)
            if self._defence.allows(now):
                self._voice.announce(vip)
                if now - self._since_at > OVERLAP_S:
                    claims, mac = heard.claims, heard.mac
                    self._out.alarm(
                        now,
                        Reason.ADDRESS_IN_USE,
                        lambda: {"address": str(claims), "mac": mac.hex(":")},
                    )

    def handle_vrrp(self, now: float, event: VrrpReceived) -> None:
        """A packet of protocol 112 on this router's VRRP interface."""
        heard = self._ear.listen(now, event)
        # Also one that only looks old: it may be a rival who does not know how high its stamps
        # once were. It believes what it hears, and lifts its own in turn.
        is_rival = isinstance(heard, Heard) or heard is Drop.AUTH_REPLAY
        if is_rival and self._phase in (Phase.CLAIMING, Phase.ACTIVE):
            self._voice.catch_up(now)
        if isinstance(heard, Drop) or self._phase is Phase.DOWN:
            return
        if heard.leg is self.config.legs[0]:
            self._heard(now, heard)
        else:
            self._heard_beside(now, heard)

    def handle_woken(self, now: float) -> None:
        """Timers; all that had arrived has been delivered."""
        self._yields_ties = False
        match self._phase:
            case Phase.DOWN:
                pass
            case Phase.BACKUP:
                self._run_backup(now)
            case Phase.CLAIMING:
                self._run_claim(now)
            case Phase.ACTIVE:
                self._run_active(now)
            case Phase.LEAVING:
                self._run_leaving(now)

    def reconfigure(self, now: float, config: RouterConfig) -> None:
        """Take a configuration with the same name, interfaces, version and families.

        Nothing moves for it by itself: a holder advertises its new priority at once.
        """
        old = self.config
        old_occupants = self._presence.occupants
        self.config = config
        self._presence.reconfigure(config)
        self._voice.reconfigure(now, config)
        self._watch.reconfigure(config)
        self._custody.reconfigure(now, config, old_occupants)
        if config != old:
            fields: dict[str, str | int | float] = {
                "priority": config.priority,
                "vips": ",".join(str(vip.interface) for vip in self._custody.vips),
                "vips_were": ",".join(str(vip.interface) for leg in old.legs for vip in leg.vips),
            }
            if in_s := self._voice.sends_new_secret_in_s(now):
                fields["sends_new_secret_in_s"] = round(in_s, 3)
            self._out.report(Topic.CONFIGURED, Reason.RECONFIGURED, fields)
        self._reconsider(now, Reason.RECONFIGURED)
        if self._phase is Phase.ACTIVE:
            self._custody.join(now)
            self._advertise(now)
        elif self._phase in (Phase.BACKUP, Phase.CLAIMING):
            self._claim.forget_preference()

    # Adverts of the other legs -------------------------------------------------------------

    def _heard_beside(self, now: float, heard: Heard) -> None:
        """A sign of life where the leading leg is cut, by a firewall for one family say.

        Priorities count as ever. Among equals the leading leg decides, as long as it can.
        """
        priority, mine = heard.advert.priority, self._standing.effective_priority
        match self._phase:
            case Phase.ACTIVE if not heard.is_suspect or heard.is_to_come:
                self._heard_beside_as_active(now, heard)
            case Phase.CLAIMING if priority > mine or (
                priority == mine and not self._claim.has_advertised
            ):
                self._abandon_claim(now)
            case Phase.BACKUP if priority >= mine:
                self._await_active_down(now)

    def _heard_beside_as_active(self, now: float, heard: Heard) -> None:
        advert, mine = heard.advert, self._standing.effective_priority
        if advert.priority > mine:
            self._yield(now, heard, Reason.HIGHER_PRIORITY)
        elif advert.priority == mine:
            is_theirs = int(heard.source) > int(self._presence.source(heard.leg))
            if self._standoff.lasts(now, advert.advert_interval_s) and is_theirs:
                self._yield(now, heard, Reason.HIGHER_ADDRESS)
        elif (
            advert.priority == timers.LAST_WORD_PRIORITY
            and self._last_word_answers.allows(now)
            and self._words_beside.allows(now)
        ):
            self._advertise(now)
            self._custody.start_announcing(now)

    # Adverts of the leading leg --------------------------------------------------------------

    def _heard(self, now: float, heard: Heard) -> None:
        if heard.advert.priority == 0:
            self._out.count(Counter.PRIORITY_ZERO_RECEIVED)
        match self._phase:
            case Phase.BACKUP | Phase.CLAIMING:
                if heard.advert.priority == 0:
                    self._heard_leaver(now, heard)
                else:
                    self._heard_as_backup(now, heard)
            case Phase.ACTIVE:
                self._heard_as_active(now, heard)
            case Phase.LEAVING:
                # One who only introduces itself, or leaves too, is no successor.
                is_claim = heard.advert.priority > 0 and not self._watch.peers.is_last_word(
                    now, heard
                )
                if is_claim and not heard.is_suspect:
                    self._heard_successor(now, heard)
                else:
                    self._watch.peers.hear(now, heard)

    def _heard_leaver(self, now: float, heard: Heard) -> None:
        """Priority 0 (RFC 9568 §6.4.2): claim after the skew, unless another one holds."""
        holder = self._watch.peers.holder
        self._watch.peers.hear(now, heard)
        if heard.is_suspect or (
            holder is not None and holder.address != heard.source and holder.is_alive(now)
        ):
            return
        skew_s = self._watch.skew_s(self._standing.effective_priority)
        self._watch.forget_holder()
        if self._phase is Phase.BACKUP:
            self._claim.await_skew(now, skew_s)

    def _heard_as_backup(self, now: float, heard: Heard) -> None:
        priority, mine = heard.advert.priority, self._standing.effective_priority
        # Who says a last word holds no longer, even if nobody else has been heard yet.
        is_holder = not (
            self._watch.peers.holds_better(now, heard) or self._watch.peers.is_last_word(now, heard)
        )
        peer = self._watch.peers.hear(now, heard)
        if not is_holder:
            return
        if self._phase is Phase.BACKUP and self._claim.is_active_down(now):
            # Nobody held on this side of a partition that has healed, and so nobody has a last
            # word to say: the clients here go on asking a MAC of the past.
            self._voice.advertise(now, timers.LAST_WORD_PRIORITY)
        if self._phase is Phase.CLAIMING:
            if not self._loses_claim_to(heard):
                self._claim.outbid(now)
                return
            self._abandon_claim(now)
        self._watch.follow(now, peer)
        self._claim.reason = Reason.ACTIVE_SILENT
        if self._blocked is not None or priority >= mine or heard.is_suspect:
            self._claim.forget_preference()
            self._await_active_down(now)
        elif priority < peer.best_priority:
            # Worse than when it began to hold: no preference, but a defect. The timer is left
            # to run out, as RFC 9568 §6.4.2 does for any lower advert.
            self._claim.forget_preference()
            self._claim.reason = Reason.ACTIVE_DEGRADED
        elif self.config.no_preempt:
            self._await_active_down(now)
        else:
            self._claim.prefer(now, self.config.preempt_delay_s)
            self._await_active_down(now)

    def _heard_as_active(self, now: float, heard: Heard) -> None:
        advert = heard.advert
        is_last_word = self._watch.peers.is_last_word(now, heard)
        self._watch.peers.hear(now, heard)
        if heard.is_suspect and not heard.is_to_come:
            return
        if advert.priority == 0:
            if self._leaver_answers.allows(now):
                self._advertise(now)
            return
        mine = self._standing.effective_priority
        if advert.priority > mine:
            self._yield(now, heard, Reason.HIGHER_PRIORITY)
        elif advert.priority == mine and (
            self._yields_ties or int(heard.source) > int(self._presence.source(self.config.legs[0]))
        ):
            self._yield(now, heard, Reason.HIGHER_ADDRESS)
        elif (is_last_word and self._last_word_answers.allows(now)) or self._assertion.allows(now):
            # RFC 9568 §6.4.3: assert the Active state. The announcement repairs what clients
            # and switches learnt from the other one, above all after its last word.
            self._advertise(now)
            self._custody.start_announcing(now)

    def _heard_successor(self, now: float, heard: Heard) -> None:
        """Somebody claims what this node is leaving."""
        self._follow(now, heard)
        self._leave.hear_advert(now)

    # Backup ------------------------------------------------------------------------------

    def _run_backup(self, now: float) -> None:
        if self._conflicts.is_due(now):
            for vip in self._custody.vips:
                self._voice.probe(vip)
        blocked = self._blocked
        verdict = self._watch.run(now)
        if blocked is not None:
            return
        priority = self._standing.effective_priority
        if verdict is Ask.HOLDER_GONE and not self._claim.is_held_back(now):
            self._begin_claim(now, Reason.ACTIVE_UNREACHABLE, self._watch.quick_skew_s(priority))
        elif now >= self._claim.due_at:
            is_silent = self._claim.is_active_down(now)
            self._begin_claim(now, self._claim.reason if is_silent else Reason.PREEMPTED)

    def _begin_claim(self, now: float, reason: Reason, skew_s: float = 0.0) -> None:
        conflict = self._conflicts.found(now, 3 * self._watch.advert_interval_s + 2.0)
        if conflict is not None:
            self._out.repeat(now, Topic.REFUSED, conflict.reason, conflict.fields)
            self._reason = conflict.reason
            self._claim.refuse(now)
            self._claim.await_active_down(now, timers.REFUSE_S)
            within_s = min(self._active_down_interval_s, 1.0)
            self._conflicts.start(now + timers.REFUSE_S - within_s, within_s)
            return
        self._phase = Phase.CLAIMING
        leg = self.config.legs[0]
        gone = self._watch.peers.holder
        tie_s = tie_delay_s(
            self._presence.source(leg),
            self._presence.peers(leg),
            None if gone is None else gone.address,
            self._random,
        )
        self._claim.begin(reason, now + skew_s + tie_s)
        self._run_claim(now)

    def _run_claim(self, now: float) -> None:
        match self._claim.step(now):
            case Step.ADVERTISE:
                self._voice.advertise(now, self._standing.effective_priority)
            case Step.INSTALL if self._voice.reach.has_lost_claim:
                self._refuse_unheard_claim(now)
            case Step.INSTALL:
                self._become_active(now)

    def _refuse_unheard_claim(self, now: float) -> None:
        """Nobody can object to what nobody hears, and another one may hold."""
        self._out.repeat(now, Topic.REFUSED, Reason.SEND_FAILED, _told(self._voice.reach.failure))
        self._reason = Reason.SEND_FAILED
        self._claim.refuse(now)
        self._abandon_claim(now)

    def _withdraw_claim(self, now: float) -> None:
        """Whoever heard the claim would wait for a holder that never was."""
        if self._claim.has_advertised:
            self._say_goodbye(now)

    def _abandon_claim(self, now: float) -> None:
        self._phase = Phase.BACKUP
        self._claim.end()
        self._claim.reason = Reason.ACTIVE_SILENT
        self._await_active_down(now)

    def _loses_claim_to(self, heard: Heard) -> bool:
        holder = self._watch.peers.holder
        return self._claim.loses_to(
            (heard.advert.priority, int(heard.source)),
            (self._standing.effective_priority, int(self._presence.source(heard.leg))),
            is_from_holder=holder is not None and holder.address == heard.source,
        )

    # Active ------------------------------------------------------------------------------

    def _become_active(self, now: float) -> None:
        holder = self._watch.peers.holder
        self._phase = Phase.ACTIVE
        self._claim.stop()
        self._watch.forget_holder()
        self._conflicts.prove()
        self._defence, self._assertion = Restraint(), Restraint()
        self._custody.take(now)
        self._advertise(now)
        fields: dict[str, str | int | float] = {"priority": self._standing.effective_priority}
        if holder is not None:
            fields |= {"peer": str(holder.address), "silent_s": round(now - holder.heard_at, 3)}
        self._moved(now, State.ACTIVE, self._claim.reason, **fields)

    def _run_active(self, now: float) -> None:
        if self._custody.renew(now):
            self._out.count(Counter.ADDRESS_RENEWALS)
        silent_s = self._custody.unconfirmed_s(now)
        if silent_s > timers.CONFIRMED_WITHIN_S:
            # Requests that nobody answers: the address has expired, or was never there.
            self._step_down_silently(now, Reason.ADDRESS_EXPIRED, silent_s=round(silent_s, 3))
            return
        self._custody.put_back(now)
        self._custody.go_on_joining(now)
        if now >= self._advert_at:
            self._advertise(now)
        self._custody.announce_due(now)

    def _advertise(self, now: float) -> None:
        self._voice.advertise(now, self._standing.effective_priority)
        self._advert_at = now + self.config.advert_interval_s * timers.SPARE_FACTOR

    def _stand_behind(self, interface: str, family: int) -> None:
        """An own address, before or behind the VIPs, has come or gone."""
        if (self._phase, interface, family) == (Phase.ACTIVE, self.config.vip_interface, 4):
            self._custody.stand_behind()

    # Leaving -----------------------------------------------------------------------------

    def _yield(self, now: float, heard: Heard, reason: Reason) -> None:
        """A better router is Active: release the VIP once it has announced it."""
        self._phase = Phase.LEAVING
        self._advert_at = math.inf
        self._custody.rest()
        if heard.leg is self.config.legs[0]:
            self._follow(now, heard)
        else:
            self._claim.reason = Reason.ACTIVE_SILENT
            self._await_active_down(now)
        self._leave.begin_after(now)
        self._moved(
            now, State.BACKUP, reason, peer=str(heard.source), priority=heard.advert.priority
        )

    def _hand_over(self, now: float, state: State, reason: Reason, **fields: str) -> None:
        """Hand the VIP over: say so, and keep it until a successor has it or none comes."""
        self._phase = Phase.LEAVING
        self._advert_at = math.inf
        self._custody.rest()
        self._watch.forget_holder()
        self._claim.reason = Reason.ACTIVE_SILENT
        self._leave.begin(
            now, timers.leave_bound_s(self.config.version, self.config.advert_interval_s)
        )
        self._say_goodbye(now)
        self._moved(now, state, reason, **fields)

    def _say_goodbye(self, now: float) -> None:
        self._voice.advertise(now, 0)
        self._out.count(Counter.PRIORITY_ZERO_SENT)
        # Each one re-arms the skew of a Backup that follows the RFC: never faster than a skew.
        interval_s = self.config.advert_interval_s
        skew_s = timers.skew_time_s(self.config.version, 1, interval_s)
        self._leave.said_goodbye(now, max(interval_s, skew_s))

    def _run_leaving(self, now: float) -> None:
        if self._leave.is_due(now):
            if self._custody.held:
                self._leave.let_go(now, self._custody.held)
                self._custody.let_go()
            else:
                self._finish_leaving(now)
            return
        if self._leave.is_goodbye_due(now):
            self._say_goodbye(now)
        self._custody.renew(now)

    def _finish_leaving(self, now: float) -> None:
        self._leave.end()
        if self._leave.has_successor:
            # Any VRRP winner announces again upon a lower advert: that reaches the clients
            # that asked until the VIP was gone.
            self._voice.advertise(now, timers.LAST_WORD_PRIORITY)
        self._phase = Phase.BACKUP
        if self._watch.peers.holder is None:
            # Also after an announcement without an advert: it may have been no VRRP router's.
            self._await_active_down(now)
        self._reconsider(now, self._reason)

    def _go_down(self, now: float, reason: Reason) -> None:
        """This node cannot take part: let go at once."""
        if self._phase is Phase.DOWN:
            self._reason = reason
            return
        was_active = self._phase is Phase.ACTIVE
        self._custody.let_go()
        if self._presence.can_speak:
            if was_active:
                self._say_goodbye(now)
            else:
                self._withdraw_claim(now)
        self._phase = Phase.DOWN
        self._forget_timers()
        self._moved(now, State.INITIALIZE, reason)

    def _step_down_silently(self, now: float, reason: Reason, **fields: str | int | float) -> None:
        """Another one may hold by now: let go without an advert or an announcement."""
        self._custody.let_go()
        self._phase = Phase.BACKUP
        self._forget_timers()
        self._watch.forget_holder()
        self._claim.listen_afresh(now, self._active_down_interval_s)
        self._claim.reason = Reason.ACTIVE_SILENT
        self._moved(now, State.BACKUP, reason, **fields)
        self._reconsider(now, reason)

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
            self._watch.forget_holder()
            self._claim.reason = Reason.ACTIVE_SILENT
            self._watch_out(now)
            self._moved(now, State.BACKUP, reason)
        elif blocked is not None:
            if self._phase is Phase.ACTIVE:
                check = self._standing.blocked_check
                fields = {"check": check} if check and blocked is self._standing.blocked_by else {}
                self._hand_over(now, State.BACKUP, blocked, **fields)
            elif self._phase is Phase.CLAIMING:
                self._withdraw_claim(now)
                self._abandon_claim(now)
        elif was_blocked and self._phase is Phase.BACKUP:
            self._watch_out(now)

    def _watch_out(self, now: float) -> None:
        """Begin to watch for a holder, and before a first claim for others that use the VIP."""
        self._await_active_down(now)
        self._conflicts.start(now, min(self._active_down_interval_s, 1.0))
        self._introduce(now)

    def _introduce(self, now: float) -> None:
        """Speak to the discovered peers, some of which may not be told of this node yet.

        Lower than any claim, so that a holder answers and a Backup goes on waiting.
        """
        holder = self._watch.peers.holder
        is_held = holder is not None and holder.is_alive(now)
        discovers = any(leg.discovers_peers for leg in self.config.legs)
        if discovers and not is_held and self._presence.knows_peers and self._unicast_peers:
            self._voice.advertise(now, timers.LAST_WORD_PRIORITY)

    @property
    def _unicast_peers(self) -> tuple[Address, ...]:
        """Where adverts go, unless to everybody."""
        return tuple(peer for leg in self.config.legs for peer in self._presence.peers(leg))

    @property
    def listed_peers(self) -> frozenset[Address] | None:
        """What is worth keeping of the lists: None before one names this node."""
        return self._presence.discovery.listed if self._presence.knows_peers else None

    @property
    def lacks_peers(self) -> bool:
        """Whether it waits for a list that names this node."""
        return not self._presence.knows_peers

    @property
    def host_block(self) -> Reason | None:
        """What keeps this router from taking part at all: a link, an address."""
        return self._presence.hard_block

    @property
    def _blocked(self) -> Reason | None:
        """Why this node may not hold the VIP now; None if it may."""
        if (hard := self._presence.hard_block) is not None:
            return hard
        if self._presence.occupants and not self.config.take_over_address:
            return Reason.ADDRESS_OCCUPIED
        blocked_by = None if self._standing.may_hold else self._standing.blocked_by
        if self.lacks_peers:
            blocked_by = blocked_by or Reason.NO_PEERS
        if blocked_by in (Reason.CHECK_PENDING, Reason.NO_PEERS) and self._phase is Phase.ACTIVE:
            # What a reload brought: no answer yet is no reason to move.
            return None
        return blocked_by

    @property
    def _active_down_interval_s(self) -> float:
        return self._watch.active_down_interval_s(self._standing.effective_priority)

    def _await_active_down(self, now: float) -> None:
        self._claim.await_active_down(now, self._active_down_interval_s)

    def _follow(self, now: float, heard: Heard) -> None:
        """This router is the holder now."""
        self._watch.peers.follow(self._watch.peers.hear(now, heard))
        self._claim.reason = Reason.ACTIVE_SILENT
        self._await_active_down(now)

    def _forget_timers(self) -> None:
        self._claim.stop()
        self._advert_at = math.inf
        self._leave.end()
        self._watch.stop()
        self._conflicts.stop()

    # What people see ---------------------------------------------------------------------

    def _moved(self, now: float, state: State, reason: Reason, **fields: str | int | float) -> None:
        was, self._state = self._state, state
        if (state, reason) == (was, self._reason):
            return
        self._reason = reason
        self._since_at = now
        self._out.report(Topic.MOVED, reason, fields, state=state, was=was)

    def view(self, now: float) -> RouterView:
        """This virtual router as `/status` shows it."""
        config = self.config
        blocked = self._blocked
        signing = self._voice.signing
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
            hmac_key=None if signing is None else signing.key_id(now),
            fast_detect=self._fast_detect_view(now),
            peers=self._watch.peers.views(now),
            unicast_peers=tuple(map(str, self._unicast_peers)),
        )

    def _fast_detect_view(self, now: float) -> str:
        if not self.config.fast_detect:
            return "off"
        if self._phase is not Phase.BACKUP:
            return "not a backup"
        return self._watch.lacks(now) or "armed"


def _told(failure: ActionFailed | None) -> dict[str, str | int | float]:
    """What the kernel said, for a report."""
    assert failure is not None
    return {"errno": failure.errno, "detail": failure.message}
