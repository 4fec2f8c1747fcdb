"""The VIPs that a virtual router keeps on its interface, from the first request to the last.

An address is installed for two seconds and lives on only by being renewed: a process that hangs
or dies lets go of it without a word. What the kernel confirms is announced; what something else
deletes is put back; what stands in front of the node's own address is put behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from havip.core import timers
from havip.core.actions import (
    InstallAddress,
    RemoveAddress,
    ResetConnections,
    ResetFormerConnections,
    Topic,
)
from havip.core.announce import Announcer
from havip.core.config import RouterConfig, Vip
from havip.core.conflict import address_in_use
from havip.core.joining import Joining
from havip.core.outbox import Outbox
from havip.core.presence import Presence
from havip.core.reasons import Reason
from havip.core.voice import Voice


class Custody:
    """Holds, renews, announces and lets go. When to do which, the virtual router decides."""

    def __init__(self, config: RouterConfig, presence: Presence, voice: Voice, out: Outbox) -> None:
        self._config = config
        self._presence = presence
        self._voice = voice
        self._out = out
        self._held: list[Vip] = []
        self._installed: set[IPv4Address | IPv6Address] = set()
        self._claimed: set[Vip] = set()
        """VIPs that another node may have had until now, and that were not announced yet."""
        self._renew_at = math.inf
        self._put_back_at: dict[Vip, float] = {}
        self._last_put_back_at: dict[Vip, float] = {}
        self._reseated: set[Vip] = set()
        """VIPs whose removal by this router is no loss."""
        self._announcers = {vip: Announcer() for vip in self.vips}
        self._joining = Joining()
        self._familiar: set[Vip] = set()
        """VIPs whose address this router held until a reload, if with another prefix."""
        self._unanswered_at: dict[Vip, float] = {}
        """When the first request was made of which the kernel has not told since."""

    @property
    def wake_at(self) -> float:
        """When to renew, to put back, to announce or to ask."""
        return min(
            self._renew_at,
            self._joining.wake_at,
            *self._put_back_at.values(),
            *(announcer.wake_at for announcer in self._announcers.values()),
        )

    @property
    def vips(self) -> tuple[Vip, ...]:
        """What there is to hold."""
        return tuple(vip for leg in self._config.legs for vip in leg.vips)

    @property
    def held(self) -> tuple[Vip, ...]:
        """What this router keeps on the interface now."""
        return tuple(self._held)

    @property
    def is_there(self) -> bool:
        """Whether a VIP is on the interface, as far as the kernel has told."""
        return bool(self._installed)

    def has(self, vip: Vip) -> bool:
        """Whether the kernel has confirmed this VIP."""
        return vip.address in self._installed

    @property
    def unconfirmed(self) -> set[str]:
        """What was asked for and is not there yet, as the edge names it."""
        return {str(vip.interface) for vip in self._held if vip.address not in self._installed}

    def reconfigure(
        self,
        now: float,
        config: RouterConfig,
        old_occupants: frozenset[IPv4Interface | IPv6Interface],
    ) -> None:
        """Let go of what the new configuration does not have; `join` adds what is new.

        Args:
            old_occupants: of VIPs, as the old configuration saw them: they were met before.
        """
        may_take = config.take_over_address and not self._config.take_over_address
        self._config = config
        addresses = {vip.address for vip in self._held}
        self._familiar = {vip for vip in self.vips if vip.address in addresses}
        self._release([vip for vip in self._held if vip not in self.vips])
        self._announcers = {vip: self._announcers.get(vip, Announcer()) for vip in self.vips}
        for occupant in self._presence.occupants - (frozenset() if may_take else old_occupants):
            self.meet(now, occupant)

    # On the interface ---------------------------------------------------------------------

    def take(self, now: float) -> None:
        """Put every VIP on the interface."""
        # What an earlier life left there is announced like a new one: once it is confirmed.
        self._installed.clear()
        self._joining.end()
        self._held = list(self.vips)
        self._claimed = set(self.vips)
        self._unanswered_at.clear()
        self._install_held(now)

    def join(self, now: float) -> None:
        """Take what the configuration has more, each once nobody answers for it."""
        missing = [vip for vip in self.vips if vip not in self._held]
        for vip in missing:
            if vip in self._familiar:
                self._hold(now, vip)
        self._joining.begin(now, (vip for vip in missing if vip not in self._familiar))
        self.go_on_joining(now)

    def go_on_joining(self, now: float) -> None:
        """Ask for new VIPs, and take those that are free."""
        probe, free = self._joining.step(now)
        for vip in probe:
            self._voice.probe(vip)
        for vip in free:
            self._hold(now, vip)

    def _hold(self, now: float, vip: Vip) -> None:
        self._held.append(vip)
        self._claimed.add(vip)
        self._unanswered_at[vip] = now
        self._install(vip)

    def refuse_claimed(self, now: float, vip: Vip, mac: bytes) -> bool:
        """Another host answers for a VIP that was being asked for; whether it was."""
        if not self._joining.claimed(now, vip, timers.REFUSE_S):
            return False
        conflict = address_in_use(str(vip.address), mac.hex(":"))
        self._out.repeat(now, Topic.REFUSED, conflict.reason, conflict.fields)
        return True

    def unconfirmed_s(self, now: float) -> float:
        """How long the kernel has not answered the oldest request for a VIP."""
        return max((now - at for at in self._unanswered_at.values()), default=0.0)

    def renew(self, now: float) -> bool:
        """Renew the lifetimes; whether that was due."""
        if now < self._renew_at:
            return False
        self._install_held(now)
        return True

    def renew_by(self, at: float) -> None:
        """Renew the lifetimes no later than that."""
        self._renew_at = min(self._renew_at, at)

    def let_go(self) -> None:
        """Take every VIP off the interface, and reset what clients have open to it."""
        self.rest()
        self._release(list(self._held))
        self._renew_at = math.inf

    def confirm(self, now: float, vip: Vip) -> bool:
        """The kernel says that a VIP is there; whether that is news."""
        self._unanswered_at.pop(vip, None)
        if vip.address in self._installed:
            return False
        self._installed.add(vip.address)
        return True

    def miss(self, vip: Vip) -> None:
        """The kernel says that a VIP is gone."""
        self._installed.discard(vip.address)

    def has_reseated(self, vip: Vip) -> bool:
        """Whether the removal that the kernel tells of belongs to a reseat; asked once for each."""
        is_reseated = vip in self._reseated
        self._reseated.discard(vip)
        return is_reseated

    def lose(self, now: float, vip: Vip) -> None:
        """Something else deleted a VIP: put it back, at once unless that was done just now."""
        self._announcers[vip].stop()
        last_at = self._last_put_back_at.get(vip, -math.inf)
        self._put_back_at[vip] = max(now, last_at + timers.PUT_BACK_SPACING_S)
        self.put_back(now)

    def put_back(self, now: float) -> None:
        """Put back what is due."""
        for vip in [vip for vip, at in self._put_back_at.items() if at <= now]:
            del self._put_back_at[vip]
            self._last_put_back_at[vip] = now
            if vip in self._held and vip.address not in self._installed:
                self._install(vip)
                self._out.repeat(now, Topic.PUT_BACK, None, {"address": str(vip.interface)})

    def stand_behind(self) -> None:
        """Put the VIPs behind the node's own addresses, one of which has come or gone.

        The kernel takes the first IPv4 address for its own traffic, and ignores that the VIP is
        deprecated.
        """
        for vip in self.vips:
            if vip.address.version == 4 and vip.address in self._installed:
                self._reseat(vip)

    def meet(self, now: float, occupant: IPv4Interface | IPv6Interface) -> None:
        """A VIP stands there permanently and without havip: take it over if told to."""
        interface = self._config.vip_interface
        if not self._config.take_over_address:
            self._out.repeat(
                now,
                Topic.REFUSED,
                Reason.ADDRESS_OCCUPIED,
                {
                    "address": str(occupant),
                    "interface": interface,
                    "remedy": "remove it, or set vipTakeOver: true",
                },
            )
            return
        vip = self._presence.vip(interface, occupant.ip)
        if vip in self._held and occupant == vip.interface:
            self._reseat(vip)
        else:
            self._remove(occupant)

    # Announced ----------------------------------------------------------------------------

    def start_announcing(self, now: float, vips: Iterable[Vip] | None = None) -> None:
        """Announce these VIPs, or all, as far as they are there, now and again.

        What this node had open to the former holder of one ends once that is announced.
        """
        chosen = self.vips if vips is None else vips
        there = [vip for vip in chosen if vip.address in self._installed]
        for vip in there:
            self._announcers[vip].start(now)
        self.announce_due(now)
        for vip in there:
            # Not when it is put back: what is open to it by then leads here.
            if vip in self._claimed:
                self._claimed.remove(vip)
                self._out.do(ResetFormerConnections(address=vip.address))

    def hasten(self, now: float, vip: Vip) -> None:
        """A client has just asked for this VIP."""
        self._announcers[vip].hasten(now)
        self.announce_due(now)

    def announce_due(self, now: float) -> None:
        for vip, announcer in self._announcers.items():
            if announcer.is_due(now):
                self._voice.announce(vip)

    def rest(self) -> None:
        """Keep and renew what is held, but announce nothing and put nothing back."""
        self._put_back_at.clear()
        self._joining.end()
        for announcer in self._announcers.values():
            announcer.stop()

    # Requests to the kernel ---------------------------------------------------------------

    def _install_held(self, now: float) -> None:
        self._renew_at = now + timers.RENEW_S
        for vip in self._held:
            self._unanswered_at.setdefault(vip, now)
            self._install(vip)

    def _install(self, vip: Vip) -> None:
        self._out.do(
            InstallAddress(
                interface=self._config.vip_interface,
                address=vip.interface,
                valid_s=timers.VALID_LIFETIME_S,
                has_connected_route=vip.has_connected_route,
            )
        )

    def _reseat(self, vip: Vip) -> None:
        """Put a VIP that stands on the interface there anew."""
        self._reseated.add(vip)
        self._remove(vip.interface)
        self._install(vip)

    def _release(self, vips: Iterable[Vip]) -> None:
        for vip in vips:
            self._announcers[vip].stop()
            self._installed.discard(vip.address)
            # Sockets first: the reset tells clients to connect again, to the successor.
            self._out.do(ResetConnections(address=vip.address))
            self._remove(vip.interface)
            self._held.remove(vip)
            self._unanswered_at.pop(vip, None)

    def _remove(self, address: IPv4Interface | IPv6Interface) -> None:
        self._out.do(RemoveAddress(interface=self._config.vip_interface, address=address))
