"""One Ethernet segment that can lose, delay, double and reorder, and be cut in any direction.

It carries two things: Ethernet frames (ARP and neighbour discovery) and the IP packets of
VRRP. A station is whatever is plugged in: host, gateway, client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Protocol

from havip.sim.timeline import Timeline

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet frame without its check sequence."""

    content: bytes

    @property
    def destination(self) -> bytes:
        return self.content[:6]


@dataclass(frozen=True, slots=True)
class Datagram:
    """An IP packet of protocol 112."""

    source: IPAddress
    destination: IPAddress
    payload: bytes
    hop_limit: int = 255


Packet = Frame | Datagram


class Station(Protocol):
    """What can be plugged into the segment."""

    @property
    def name(self) -> str: ...

    @property
    def mac(self) -> bytes: ...

    @property
    def is_linked(self) -> bool:
        """Powered, and its link is up."""
        ...

    def has_address(self, address: IPAddress) -> bool: ...

    def receive(self, packet: Packet) -> None: ...


@dataclass(slots=True)
class Quality:
    """What the segment does to a packet on its way to one receiver."""

    latency_s: float = 0.0001
    jitter_s: float = 0.0001
    """Up to this is added to each latency, evenly distributed."""
    loss: float = 0.0
    """Share of packets, 0–1, independent for each receiver; so are the next two."""
    duplication: float = 0.0
    reordering: float = 0.0
    """This share is held back by up to `held_back_s`, and so overtaken."""
    held_back_s: float = 0.01


class Network:
    """The segment and its faults.

    Args:
        timeline: where deliveries are queued.
        rng: the run's source of chance.
        on_cut: called after each change of who hears whom.
    """

    def __init__(self, timeline: Timeline, rng: Random, on_cut: Callable[[], None]) -> None:
        self.quality = Quality()
        self.stations: list[Station] = []
        self.filtered: set[tuple[int, str]] = set()
        """A firewall drops VRRP of this IP version that comes to this station."""
        self._timeline = timeline
        self._rng = rng
        self._on_cut = on_cut
        self._cuts: set[tuple[str, str]] = set()
        self._last_arrival: dict[tuple[str, str], float] = {}

    def plug(self, station: Station) -> None:
        self.stations.append(station)

    def cut(self, sender: str, receiver: str) -> None:
        """Let nothing that `sender` sends reach `receiver`; the other way stays open."""
        self._cuts.add((sender, receiver))
        self._on_cut()

    def partition(self, *sides: Iterable[str]) -> None:
        """Cut all ways between stations of different sides; who is on no side hears all."""
        named = [sorted(side) for side in sides]
        for side in named:
            for other in named:
                if side is not other:
                    self._cuts.update((a, b) for a in side for b in other)
        self._on_cut()

    def heal(self) -> None:
        """Open every way again."""
        self._cuts.clear()
        self._on_cut()

    def passes(self, sender: Station, receiver: Station) -> bool:
        """Whether packets go from one to the other now, if none is lost by chance."""
        return (
            sender.is_linked
            and receiver.is_linked
            and (sender.name, receiver.name) not in self._cuts
        )

    def send(self, sender: Station, packet: Packet) -> None:
        if not sender.is_linked:
            return
        for receiver in self._receivers(sender, packet):
            if self.passes(sender, receiver):
                self._carry(sender, receiver, packet)

    def _receivers(self, sender: Station, packet: Packet) -> Sequence[Station]:
        others = [station for station in self.stations if station is not sender]
        if isinstance(packet, Frame):
            if packet.destination[0] & 1:
                return others
            return [station for station in others if station.mac == packet.destination]
        if packet.destination.is_multicast:
            return others
        return [station for station in others if station.has_address(packet.destination)]

    def _carry(self, sender: Station, receiver: Station, packet: Packet) -> None:
        quality, rng = self.quality, self._rng
        if quality.loss and rng.random() < quality.loss:
            return
        copies = 2 if quality.duplication and rng.random() < quality.duplication else 1
        for _ in range(copies):
            delay_s = quality.latency_s + rng.random() * quality.jitter_s
            way = (sender.name, receiver.name)
            if quality.reordering and rng.random() < quality.reordering:
                arrival = self._timeline.now + delay_s + rng.random() * quality.held_back_s
            else:
                # Jitter alone never reorders: a switch port is a queue.
                arrival = max(self._timeline.now + delay_s, self._last_arrival.get(way, 0.0))
                self._last_arrival[way] = arrival
            self._timeline.at(arrival, lambda: self._arrive(receiver, packet))

    def _arrive(self, receiver: Station, packet: Packet) -> None:
        version = packet.source.version if isinstance(packet, Datagram) else 0
        if receiver.is_linked and (version, receiver.name) not in self.filtered:
            receiver.receive(packet)
