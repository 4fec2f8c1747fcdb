"""The segment does to packets what it is told to, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from random import Random

import pytest

from havip.sim.network import Datagram, Frame, Network, Packet
from havip.sim.timeline import Timeline

MULTICAST = IPv4Address("224.0.0.18")


@dataclass(eq=False)
class Station:
    number: int
    network: Network
    timeline: Timeline
    is_linked: bool = True
    got: list[tuple[float, Packet]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"s{self.number}"

    @property
    def mac(self) -> bytes:
        return bytes((2, 0, 0, 0, 0, self.number))

    @property
    def address(self) -> IPv4Address:
        return IPv4Address("10.0.0.0") + self.number

    def has_address(self, address: object) -> bool:
        return address == self.address

    def receive(self, packet: Packet) -> None:
        self.got.append((self.timeline.now, packet))

    def say(self, number: int, to: IPv4Address = MULTICAST) -> None:
        self.network.send(self, Datagram(self.address, to, bytes([number])))

    @property
    def heard(self) -> list[int]:
        return [p.payload[0] for _, p in self.got if isinstance(p, Datagram)]


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture
def network(timeline: Timeline) -> Network:
    return Network(timeline, Random(1), lambda: None)


@pytest.fixture
def stations(network: Network, timeline: Timeline) -> list[Station]:
    made = [Station(number, network, timeline) for number in range(3)]
    for station in made:
        network.plug(station)
    return made


def run(timeline: Timeline, until: float = 100.0) -> None:
    while timeline.step(until):
        pass


def test_equal_instants_keep_their_order_and_a_cancelled_timer_does_not_happen(
    timeline: Timeline,
) -> None:
    happened: list[str] = []
    for name in "abc":
        timer = timeline.at(1.0, lambda name=name: happened.append(name))
        if name == "b":
            timer.cancel()
    run(timeline)
    assert happened == ["a", "c"]
    assert timeline.now == 100.0


def test_multicast_reaches_all_others_and_unicast_its_owner(
    timeline: Timeline, stations: list[Station]
) -> None:
    stations[0].say(1)
    stations[0].say(2, to=stations[2].address)
    run(timeline)
    assert [station.heard for station in stations] == [[], [1], [1, 2]]


def test_a_frame_goes_to_its_mac_or_to_all(
    timeline: Timeline, network: Network, stations: list[Station]
) -> None:
    unicast = Frame(stations[1].mac + stations[0].mac + b"x")
    broadcast = Frame(b"\xff" * 6 + stations[0].mac + b"y")
    network.send(stations[0], unicast)
    network.send(stations[0], broadcast)
    run(timeline)
    assert [packet for _, packet in stations[1].got] == [unicast, broadcast]
    assert [packet for _, packet in stations[2].got] == [broadcast]


def test_a_cut_is_one_way_and_a_partition_is_both(
    timeline: Timeline, network: Network, stations: list[Station]
) -> None:
    network.cut("s0", "s1")
    stations[0].say(1)
    stations[1].say(2)
    run(timeline)
    assert [station.heard for station in stations] == [[2], [], [1, 2]]

    network.heal()
    network.partition(["s0"], ["s1"])
    stations[0].say(3)
    stations[1].say(4)
    run(timeline, 200.0)
    assert [station.heard for station in stations] == [[2], [], [1, 2, 3, 4]]


def test_who_loses_the_link_on_the_way_gets_nothing(
    timeline: Timeline, stations: list[Station]
) -> None:
    stations[0].say(1)
    stations[1].is_linked = False
    run(timeline)
    assert [station.heard for station in stations] == [[], [], [1]]


def test_jitter_does_not_reorder_but_reordering_does(
    timeline: Timeline, network: Network, stations: list[Station]
) -> None:
    network.quality.jitter_s = 0.05
    for number in range(100):
        timeline.at(number * 0.001, lambda number=number: stations[0].say(number))
    run(timeline)
    assert stations[1].heard == list(range(100))

    network.quality.reordering = 0.3
    for number in range(100):
        timeline.at(100 + number * 0.001, lambda number=number: stations[0].say(number))
    run(timeline, 200.0)
    later = stations[1].heard[100:]
    assert later != list(range(100))
    assert sorted(later) == list(range(100))


def test_loss_and_duplication_are_as_frequent_as_they_were_ordered(
    timeline: Timeline, network: Network, stations: list[Station]
) -> None:
    network.quality.loss = 0.1
    network.quality.duplication = 0.2
    for _ in range(10_000):
        stations[0].say(1)
    run(timeline)
    heard = len(stations[1].heard)
    assert heard == pytest.approx(10_000 * 0.9 * 1.2, rel=0.02)
    assert heard != len(stations[2].heard), "each receiver loses for itself"
