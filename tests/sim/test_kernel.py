"""What a virtual host does without its daemon, and what a client believes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from random import Random

import pytest

from havip.core.events import AddressAdded, AddressRemoved, Event, Removal
from havip.sim import neighbours, plan
from havip.sim.client import Client
from havip.sim.host import Host
from havip.sim.network import Frame, Network
from havip.sim.timeline import Timeline
from havip.wire import arp, ndp, neighbour

VIP4, VIP6 = (vip.ip for vip in plan.VIPS)
MAC = plan.mac(7)


class Segment:
    """A host with a listener and a client."""

    def __init__(self, seed: int = 1) -> None:
        self.timeline = Timeline()
        self.network = Network(self.timeline, Random(seed), lambda: None)
        self.events: list[Event] = []
        self.host = self.plug(Host, "host", 1)
        self.host.listener = self.events.append

    def plug(self, kind: type[Host], name: str, number: int, **more: object) -> Host:
        return kind(
            name,
            plan.mac(number),
            plan.node_addresses(number),
            **more,  # type: ignore[arg-type]
            timeline=self.timeline,
            network=self.network,
            rng=Random(1),
            on_change=lambda: None,
        )

    def client(self, number: int = 100) -> Client:
        client = self.plug(Client, f"client{number}", number, vips=(VIP4, VIP6))
        assert isinstance(client, Client)
        return client

    def run_for(self, duration_s: float) -> None:
        end = self.timeline.now + duration_s
        while self.timeline.step(end):
            pass

    def install(self, valid_s: int = 2) -> None:
        for vip in plan.VIPS:
            self.host.install(vip, valid_s)
        self.run_for(0.001)


@pytest.mark.parametrize(
    ("frame", "subject", "is_question", "is_gratuitous"),
    [
        pytest.param(
            arp.announcement(mac=MAC, address=IPv4Address("10.0.0.100")),
            VIP4, False, True, id="gratuitous ARP in request form",
        ),
        pytest.param(
            arp.probe(mac=MAC, target=IPv4Address("10.0.0.100")),
            VIP4, True, False, id="5227 §2.1.1 probe",
        ),
        pytest.param(
            arp.request(mac=MAC, source=IPv4Address("10.0.0.7"), target=IPv4Address("10.0.0.100")),
            VIP4, True, False, id="826 request",
        ),
        pytest.param(
            neighbours.claim(MAC, VIP6), VIP6, False, True, id="4861 §7.2.6 unsolicited NA",
        ),
        pytest.param(
            neighbours.question(MAC, IPv6Address("fe80::7"), VIP6),
            VIP6, True, False, id="4861 §4.3 solicitation",
        ),
    ],
)  # fmt: skip
def test_frames_are_read_as_the_rfcs_say(
    frame: bytes, subject: object, is_question: bool, is_gratuitous: bool
) -> None:
    heard = neighbours.read(frame)
    assert heard is not None
    assert (heard.subject, heard.is_question, heard.is_gratuitous) == (
        subject,
        is_question,
        is_gratuitous,
    )
    assert heard.subject_mac == (None if is_question else MAC)


@pytest.mark.parametrize("subject", [VIP4, VIP6], ids=["arp", "ndp"])
def test_the_core_understands_what_this_kernel_answers(subject: IPv4Address | IPv6Address) -> None:
    sender = plan.node_addresses(3)[0 if subject.version == 4 else 1].ip
    heard = neighbours.read(neighbours.question(plan.mac(3), sender, subject))
    assert heard is not None
    answer = neighbour.decode(neighbours.answer(MAC, heard))
    assert answer is not None
    assert (answer.kind, answer.claims, answer.mac) == (neighbour.Kind.ANSWER, subject, MAC)
    assert answer.frame_destination == plan.mac(3)


def test_a_damaged_solicitation_is_no_question() -> None:
    frame = bytearray(neighbours.question(MAC, IPv6Address("fe80::7"), VIP6))
    frame[-1] ^= 1
    assert neighbours.read(bytes(frame)) is None
    assert frame[20] == ndp.ICMPV6


def test_an_address_that_nobody_renews_expires_within_the_measured_time() -> None:
    for seed in range(20):
        segment = Segment(seed)
        segment.install()
        segment.run_for(1.0)
        segment.install()
        renewed_at = segment.timeline.now
        segment.run_for(1.95)
        assert segment.host.has_address(VIP4), "2 s after the renewal, not after the first one"
        segment.run_for(0.9)
        assert not segment.host.has_address(VIP4)
        removals = [e for e in segment.events if isinstance(e, AddressRemoved)]
        assert {removal.by for removal in removals} == {Removal.EXPIRED}
        assert segment.timeline.now - renewed_at < 2.9


def test_the_kernel_tells_the_daemon_about_its_own_addresses() -> None:
    segment = Segment()
    segment.install()
    added = [event for event in segment.events if isinstance(event, AddressAdded)]
    assert [(event.address, event.is_ours, event.is_permanent) for event in added] == [
        (vip, True, False) for vip in plan.VIPS
    ]
    segment.host.remove(plan.VIPS[0])
    segment.run_for(0.001)
    assert segment.events[-1] == AddressRemoved(
        interface="eth0", address=plan.VIPS[0], by=Removal.OURS
    )


def test_a_host_answers_for_its_vip_without_a_daemon_and_not_after_its_power_went() -> None:
    segment = Segment()
    segment.install(valid_s=100)
    segment.host.listener = None
    client = segment.client()
    segment.run_for(1.0)
    assert {vip: entry.mac for vip, entry in client.cache.items()} == {
        VIP4: segment.host.mac,
        VIP6: segment.host.mac,
    }
    segment.host.power_off()
    assert not segment.host.has_address(VIP4)
    late = segment.client(101)
    segment.run_for(1.0)
    assert not late.cache


def test_a_paused_machine_keeps_its_clock_its_lifetimes_and_its_packets() -> None:
    segment = Segment()
    segment.install()
    clock = segment.host.local_now()
    segment.host.pause()
    client = segment.client()
    segment.run_for(60.0)
    assert not client.cache
    assert segment.host.local_now() == clock
    segment.host.resume(keeps_packets=True)
    segment.run_for(0.01)
    assert client.cache[VIP4].mac == segment.host.mac
    assert segment.host.has_address(VIP4)
    segment.run_for(3.0)
    assert not segment.host.has_address(VIP4)


def test_a_client_believes_announcements_at_once_and_other_answers_after_locktime() -> None:
    segment = Segment()
    segment.install(valid_s=100)
    client = segment.client()
    segment.run_for(0.1)
    rival = segment.plug(Host, "rival", 2)
    asked = neighbours.read(neighbours.question(client.mac, IPv4Address("10.0.0.110"), VIP4))
    assert asked is not None

    rival.send(Frame(neighbours.answer(rival.mac, asked)))
    segment.run_for(0.1)
    assert client.cache[VIP4].mac == segment.host.mac, "within a second of the first answer"

    rival.send(Frame(neighbours.claim(rival.mac, VIP4)))
    segment.run_for(0.1)
    assert client.cache[VIP4].mac == rival.mac

    segment.run_for(1.0)
    segment.host.send(Frame(neighbours.answer(segment.host.mac, asked)))
    segment.run_for(0.1)
    assert client.cache[VIP4].mac == segment.host.mac


def test_only_what_is_ours_counts_as_a_leftover() -> None:
    segment = Segment()
    wide = IPv4Interface("10.0.0.100/24")
    segment.host.add_address(wide)
    segment.install()
    segment.host.delete_leftover(VIP4)
    assert [held.interface for held in segment.host.addresses if held.interface.ip == VIP4] == [
        wide
    ]
