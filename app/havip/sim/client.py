"""Somebody who uses the VIP: sends to the MAC it believes in, right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from random import Random

from havip.sim import neighbours
from havip.sim.host import Host, IPNetworkAddress
from havip.sim.network import Frame, IPAddress, Network
from havip.sim.timeline import Timeline

LOCKTIME_S = 1.0
"""For so long Linux keeps an ARP entry against an answer that is no announcement (arp(7))."""
ASK_AGAIN_S = 0.1


@dataclass(slots=True)
class Entry:
    mac: bytes
    learnt_at: float


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which what the client sent to a VIP reached nobody who has it."""

    vip: IPAddress
    began_at: float
    ended_at: float


class Client(Host):
    """A machine whose neighbour cache has an entry for each VIP.

    It asks until it has an answer, and after that believes announcements alone: what Linux
    does for as long as an entry counts as reachable.
    """

    def __init__(
        self,
        name: str,
        mac: bytes,
        addresses: tuple[IPNetworkAddress, ...],
        vips: tuple[IPAddress, ...],
        *,
        timeline: Timeline,
        network: Network,
        rng: Random,
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(
            name,
            mac,
            addresses,
            timeline=timeline,
            network=network,
            rng=rng,
            on_change=on_change,
        )
        self.cache: dict[IPAddress, Entry] = {}
        self.outages: list[Outage] = []
        """Ended ones. The time before the first answer is none."""
        self.cut_since: dict[IPAddress, float] = {}
        for vip in vips:
            self._ask(vip)

    def note(self, vip: IPAddress, *, is_reached: bool) -> None:
        """Tell the client whether what it sends to `vip` arrives from now on."""
        now = self._timeline.now
        if is_reached and vip in self.cut_since:
            began_at = self.cut_since.pop(vip)
            if now > began_at:
                self.outages.append(Outage(vip, began_at, now))
        elif not is_reached and vip in self.cache:
            self.cut_since.setdefault(vip, now)

    def cut_off_s(self, since: float) -> float:
        """The longest time without the VIP that began or went on after `since`."""
        going_on = [Outage(vip, at, self._timeline.now) for vip, at in self.cut_since.items()]
        late = [outage for outage in self.outages + going_on if outage.ended_at > since]
        return max((o.ended_at - max(o.began_at, since) for o in late), default=0.0)

    def hear(self, heard: neighbours.Heard) -> None:
        super().hear(heard)
        if heard.subject_mac is None:
            return
        now = self._timeline.now
        entry = self.cache.get(heard.subject)
        is_believed = (
            entry is None
            or heard.is_gratuitous
            or isinstance(heard.subject, IPv6Address)
            or now - entry.learnt_at > LOCKTIME_S
        )
        if is_believed:
            self.cache[heard.subject] = Entry(heard.subject_mac, now)
            self._on_change()

    def _ask(self, vip: IPAddress) -> None:
        if vip not in self.cache:
            own = next(address for address in self.own if address.version == vip.version)
            self.send(Frame(neighbours.question(self.mac, own, vip)))
            self.later(ASK_AGAIN_S, lambda: self._ask(vip))
