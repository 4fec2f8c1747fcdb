"""What PacketSockets hear and Transmitter sends, on a real wire."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from edge_pair import (
    A4,
    A6,
    B4,
    B6,
    MAC_A,
    MAC_B,
    VIP4,
    VIP6,
    VRID,
    Netns,
    is_readable,
    join,
    leg,
    pair,
    read_until,
    router,
    send_frame,
    send_raw,
    witness,
)
from patience import wait_until
from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether

from havip.act.transmit import Transmitter
from havip.core.actions import SendFrame, SendVrrp
from havip.core.config import RouterConfig
from havip.core.events import ActionFailed, FrameReceived, VrrpReceived
from havip.sense.packets import GROUP_IPV4, GROUP_IPV6, PacketSockets

BROADCAST = "ff:ff:ff:ff:ff:ff"
STRANGER = "02:00:00:00:0c:01"
STACKED = "02:00:00:00:0b:77"
"""Of a device on top of B's interface, as a container has it."""
OTHER4, OTHER6 = "10.9.0.77", "fd09::77"
SENTINEL = b"the last foreign frame"
ADVERT = bytes([0x31, VRID, 100, 1, 0, 10, 0, 0, 10, 9, 0, 100])


@pytest.fixture
def hosts() -> Iterator[tuple[Netns, Netns]]:
    with pair() as made:
        yield made


@contextmanager
def listening(host: Netns, *routers: RouterConfig) -> Iterator[PacketSockets]:
    with closing(host.run(lambda: PacketSockets(routers or (router(),)))) as sockets:
        # Both namespaces live in this process: neighbours may have met before.
        sockets.read_all()
        yield sockets


def receive(sockets: PacketSockets, count: int = 1) -> list[VrrpReceived | FrameReceived]:
    return read_until(sockets, sockets.filenos(), lambda events: len(events) >= count)


def build(packet: Ether) -> bytes:
    return bytes(packet)


def arp(
    sender: str,
    target: str,
    *,
    operation: int = 1,
    destination: str = BROADCAST,
    source: str = STRANGER,
) -> bytes:
    return build(
        Ether(src=source, dst=destination)
        / ARP(op=operation, hwsrc=source, psrc=sender, hwdst=destination, pdst=target)
    )


def solicitation(target: str, *, destination: str = "33:33:ff:00:00:01") -> bytes:
    return build(
        Ether(src=STRANGER, dst=destination)
        / IPv6(src="fe80::c:1", dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt=target)
    )


def advertisement(target: str, *, destination: str = "33:33:00:00:00:01") -> bytes:
    return build(
        Ether(src=STRANGER, dst=destination)
        / IPv6(src="fe80::c:1", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=target, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=STRANGER)
    )


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        pytest.param(A4, "224.0.0.18", id="IPv4 multicast"),
        pytest.param(A4, str(B4), id="IPv4 unicast"),
        pytest.param(A6, "ff02::12", id="IPv6 multicast"),
        pytest.param(A6, str(B6), id="IPv6 unicast"),
    ],
)
@pytest.mark.parametrize("hops", [255, 254])
def test_adverts_arrive_with_their_header(
    hosts: tuple[Netns, Netns],
    source: IPv4Address | IPv6Address,
    destination: str,
    hops: int,
) -> None:
    a, b = hosts
    with listening(b) as sockets:
        send_raw(a, source, destination, ADVERT, hops)
        assert receive(sockets) == [
            VrrpReceived(
                interface="e0",
                source=source,
                destination=ip_address(destination),
                hop_limit=hops,
                payload=ADVERT,
            )
        ]


def test_an_ipv4_header_with_options_is_skipped(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with listening(b) as sockets:
        packet = Ether(src=MAC_A, dst="01:00:5e:00:00:12") / IP(
            src=str(A4), dst="224.0.0.18", ttl=255, proto=112, options=b"\x94\x04\0\0"
        )
        send_frame(a, build(packet / ADVERT))
        (event,) = receive(sockets)
        assert isinstance(event, VrrpReceived)
        assert event.payload == ADVERT


FOREIGN = [
    pytest.param(arp(OTHER4, "10.9.0.78"), id="ARP between others"),
    pytest.param(arp(OTHER4, "10.9.0.78", operation=2), id="broadcast ARP reply of others"),
    pytest.param(
        arp(OTHER4, "10.9.0.78", operation=2, destination=STRANGER),
        id="ARP reply to another MAC",
    ),
    pytest.param(arp(OTHER4, str(B4), destination=MAC_B), id="ARP request to this host"),
    pytest.param(
        arp(OTHER4, "10.9.0.78", operation=2, destination=STACKED), id="ARP reply to a container"
    ),
    pytest.param(advertisement(OTHER6, destination=STACKED), id="NA to a container"),
    pytest.param(solicitation(OTHER6), id="NS for another address"),
    pytest.param(solicitation("fe80::b:1", destination=MAC_B), id="NS to this host"),
    pytest.param(advertisement(OTHER6), id="NA of another address"),
    pytest.param(advertisement("fd09::1:100"), id="NA of an address that ends like the VIP"),
    pytest.param(
        build(
            Ether(src=STRANGER, dst=MAC_B)
            / IPv6(src="fe80::c:1", dst=str(B6), hlim=255)
            / ICMPv6EchoRequest(data=VIP6.packed)
        ),
        id="IPv6 that is no neighbour discovery",
    ),
    pytest.param(
        build(
            Ether(src=STRANGER, dst=BROADCAST)
            / Dot1Q(vlan=7)
            / ARP(op=1, hwsrc=STRANGER, psrc=str(VIP4), pdst=str(VIP4))
        ),
        id="ARP for the VIP in a VLAN of its own",
    ),
    pytest.param(
        build(
            Ether(src=STRANGER, dst="01:00:5e:00:00:12")
            / IP(src=OTHER4, dst="224.0.0.18", ttl=255, proto=112)
            / bytes([0x31, VRID + 1, 100, 1, 0, 10, 0, 0])
        ),
        id="IPv4 VRRP of another VRID",
    ),
    pytest.param(
        build(
            Ether(src=STRANGER, dst="33:33:00:00:00:12")
            / IPv6(src="fe80::c:1", dst="ff02::12", hlim=255, nh=112)
            / bytes([0x31, VRID + 1, 100, 1, 0, 10, 0, 0])
        ),
        id="IPv6 VRRP of another VRID",
    ),
    pytest.param(
        build(
            Ether(src=STRANGER, dst="01:00:5e:00:00:05")
            / IP(src=OTHER4, dst="224.0.0.5", ttl=1, proto=89)
            / bytes(2)
            / bytes([VRID])
        ),
        id="another protocol",
    ),
]


@pytest.mark.parametrize("frame", FOREIGN)
def test_foreign_traffic_wakes_nobody(hosts: tuple[Netns, Netns], frame: bytes) -> None:
    a, b = hosts
    b.ip(f"link add link e0 name stacked address {STACKED} type macvlan mode private")
    b.ip("link set stacked up")
    with listening(b) as sockets, witness(b) as seen:
        for _ in range(3):
            send_frame(a, frame)
        send_frame(a, build(Ether(src=STRANGER, dst=BROADCAST, type=0x88B5) / SENTINEL))
        seen(SENTINEL)
        assert not is_readable(*sockets.filenos()), sockets.read_all()
        # The sockets do hear.
        send_frame(a, arp(str(VIP4), str(VIP4)))
        assert len(receive(sockets)) == 1


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(str(VIP4), str(VIP4)), id="gratuitous ARP for the VIP"),
        pytest.param(arp("0.0.0.0", str(VIP4)), id="5227 probe for the VIP"),
        pytest.param(arp(str(VIP4), OTHER4), id="ARP from the VIP"),
        pytest.param(
            arp(OTHER4, str(B4), operation=2, destination=MAC_B), id="ARP reply to this host"
        ),
        pytest.param(solicitation(str(VIP6)), id="NS for the VIP"),
        pytest.param(advertisement(str(VIP6)), id="NA of the VIP"),
        pytest.param(advertisement(OTHER6, destination=MAC_B), id="NA to this host"),
    ],
)
def test_what_concerns_the_vip_or_answers_us_is_heard(
    hosts: tuple[Netns, Netns], frame: bytes
) -> None:
    a, b = hosts
    with listening(b) as sockets:
        send_frame(a, frame)
        assert receive(sockets) == [FrameReceived(interface="e0", frame=frame)]


def test_every_vip_and_vrid_of_the_interface_is_heard_by_one_filter(
    hosts: tuple[Netns, Netns],
) -> None:
    a, b = hosts
    vips4 = [IPv4Address(f"10.9.1.{n}") for n in range(20)]
    vips6 = [IPv6Address(f"fd09::1:{n:x}") for n in range(20)]
    routers = [
        router(vrid=1, legs=(leg(B4, *vips4), leg(B6, *vips6))),
        router(vrid=2, legs=(leg(B4, VIP4), leg(B6, VIP6))),
    ]
    frames = [
        *(arp(str(vip), str(vip)) for vip in [*vips4, VIP4]),
        *(advertisement(str(vip)) for vip in [*vips6, VIP6]),
    ]
    with listening(b, *routers) as sockets:
        for frame in frames:
            send_frame(a, frame)
        for vrid in (1, 2):
            send_raw(a, A4, "224.0.0.18", bytes([0x31, vrid, 0, 0]), 255)
        events = receive(sockets, len(frames) + 2)
        assert [e.frame for e in events if isinstance(e, FrameReceived)] == frames
        assert [e.payload[1] for e in events if isinstance(e, VrrpReceived)] == [1, 2]


def test_more_vips_than_a_filter_has_room_for_are_heard(hosts: tuple[Netns, Netns]) -> None:
    """By a coarser filter: other people's ARP and neighbours wake the daemon then, no more."""
    a, b = hosts
    vips4 = [IPv4Address(f"10.9.{n // 250}.{n % 250}") for n in range(300, 900)]
    vips6 = [IPv6Address(f"fd09::1:{n:x}") for n in range(600)]
    routers = [
        router(
            vrid=vrid,
            legs=(leg(B4, *vips4[vrid * 20 - 20 :][:20]), leg(B6, *vips6[vrid * 20 - 20 :][:20])),
        )
        for vrid in range(1, 31)
    ]
    frames = [
        *(arp(str(vip), str(vip)) for vip in (vips4[0], vips4[-1])),
        *(advertisement(str(vip)) for vip in (vips6[0], vips6[-1])),
    ]
    with listening(b, *routers) as sockets:
        for frame in frames:
            send_frame(a, frame)
        events = receive(sockets, len(frames))
        assert [e.frame for e in events if isinstance(e, FrameReceived)] == frames


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x31", id="no VRID"),
        pytest.param(b"\x31\x0a", id="nothing behind the VRID"),
        pytest.param(b"\xff\x0a" + bytes(1400), id="1400 bytes"),
    ],
)
def test_malformed_packets_raise_nothing(hosts: tuple[Netns, Netns], payload: bytes) -> None:
    a, b = hosts
    with listening(b) as sockets:
        for source, group in ((A4, "224.0.0.18"), (A6, "ff02::12")):
            send_raw(a, source, group, payload, 255)
            send_raw(a, source, group, ADVERT, 255)
        events = receive(sockets, 2 if len(payload) < 2 else 4)
        heard = [event.payload for event in events if isinstance(event, VrrpReceived)]
        assert heard.count(ADVERT) == 2
        assert set(heard) <= {ADVERT, payload}


def test_a_flood_is_read_in_order(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    count = 3000
    with listening(b) as sockets, closing(a.run(Transmitter)) as transmitter:
        # The transmitter sends as fast as it can; nothing reads meanwhile.
        failures = a.run(
            lambda: [
                transmitter.send_vrrp(
                    SendVrrp(
                        interface="e0",
                        source=A4,
                        destination=GROUP_IPV4,
                        payload=ADVERT[:2] + struct.pack("!I", number),
                    )
                )
                for number in range(count)
            ]
        )
        assert failures == [None] * count
        events = receive(sockets, count)
        numbers = [struct.unpack("!I", event.payload[2:])[0] for event in events]
        assert numbers == list(range(count))


def test_sockets_survive_the_link_going_down_and_up(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with listening(b) as sockets:
        filenos = sockets.filenos()
        b.ip("link set e0 down")
        sockets.read_all()
        b.ip("link set e0 up")
        b.ip(f"address add {B6}/64 dev e0 nodad")
        assert not b.run(lambda: sockets.reopen("e0"))
        assert sockets.filenos() == filenos
        wait_for_carrier(a, b)
        send_raw(a, A4, "224.0.0.18", ADVERT, 255)
        send_raw(a, A6, "ff02::12", ADVERT, 255)
        send_frame(a, arp(str(VIP4), str(VIP4)))
        send_frame(a, advertisement(str(VIP6)))
        kinds = [type(event) for event in receive(sockets, 4)]
        assert kinds == [VrrpReceived, VrrpReceived, FrameReceived, FrameReceived]


def wait_for_carrier(a: Netns, b: Netns) -> None:
    for host in (a, b):
        wait_until(lambda host=host: '"UP"' in host.ip("-json link show e0"), "carrier")


def test_reopen_follows_an_interface_that_was_created_anew(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with listening(b) as sockets:
        b.ip("link delete e0")
        assert b.run(lambda: sockets.reopen("e0"))
        assert sockets.filenos() == ()
        assert not b.run(lambda: sockets.reopen("e0"))
        join(a, b)
        a.ip(f"address add {A4}/24 dev e0")
        assert b.run(lambda: sockets.reopen("e0"))
        assert len(sockets.filenos()) == 4
        send_raw(a, A4, "224.0.0.18", ADVERT, 255)
        assert [event.interface for event in receive(sockets)] == ["e0"]


def test_a_missing_interface_is_waited_for(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with listening(b, router(interface="e1")) as sockets:
        assert sockets.filenos() == ()
        assert sockets.read_all() == []
        assert not b.run(lambda: sockets.reopen("e0")), "not among the routers' interfaces"
    del a


@pytest.mark.parametrize(
    ("source", "destination", "source_mac_group"),
    [
        pytest.param(A4, GROUP_IPV4, "01005e000012", id="IPv4 multicast"),
        pytest.param(A4, B4, MAC_B.replace(":", ""), id="IPv4 unicast"),
        pytest.param(A6, GROUP_IPV6, "333300000012", id="IPv6 multicast"),
        pytest.param(A6, B6, MAC_B.replace(":", ""), id="IPv6 unicast"),
    ],
)
def test_adverts_leave_with_the_rfc_header(
    hosts: tuple[Netns, Netns],
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    source_mac_group: str,
) -> None:
    a, b = hosts
    with (
        closing(a.run(Transmitter)) as transmitter,
        listening(a, router(legs=(leg(A4, VIP4), leg(A6, VIP6)))) as own_ears,
        witness(b) as seen,
    ):
        action = SendVrrp(interface="e0", source=source, destination=destination, payload=ADVERT)
        assert a.run(lambda: transmitter.send_vrrp(action)) is None
        frame = Ether(seen(ADVERT))
        assert frame.src == MAC_A
        assert frame.dst.replace(":", "") == source_mac_group
        packet = frame.payload
        assert (packet.src, packet.dst) == (str(source), str(destination))
        if source.version == 4:
            assert (packet.ttl, packet.proto, packet.tos) == (255, 112, 0xC0)
            checksum = packet.chksum
            del packet.chksum
            assert IP(bytes(packet)).chksum == checksum
            assert bytes(packet)[20:] == ADVERT
        else:
            assert (packet.hlim, packet.nh, packet.tc) == (255, 112, 0xC0)
            assert bytes(packet)[40:] == ADVERT
        # Unicast asked for the peer's MAC, and that answer is heard.
        assert not any(isinstance(event, VrrpReceived) for event in own_ears.read_all())


def test_an_advert_may_leave_from_an_address_that_is_not_the_first(
    hosts: tuple[Netns, Netns],
) -> None:
    a, b = hosts
    a.ip("address add 10.9.0.3/24 dev e0")
    action = SendVrrp(
        interface="e0", source=IPv4Address("10.9.0.3"), destination=GROUP_IPV4, payload=ADVERT
    )
    with closing(a.run(Transmitter)) as transmitter, listening(b) as sockets:
        assert a.run(lambda: transmitter.send_vrrp(action)) is None
        (event,) = receive(sockets)
        assert isinstance(event, VrrpReceived)
        assert event.source == action.source


def test_frames_leave_unchanged_and_are_not_heard_by_the_sender(
    hosts: tuple[Netns, Netns],
) -> None:
    a, b = hosts
    announcement = arp(str(VIP4), str(VIP4), source=MAC_A)
    own = router(legs=(leg(A4, VIP4), leg(A6, VIP6)))
    with (
        closing(a.run(Transmitter)) as transmitter,
        listening(a, own) as own_ears,
        listening(b) as sockets,
    ):
        action = SendFrame(interface="e0", frame=announcement)
        assert a.run(lambda: transmitter.send_frame(action)) is None
        assert receive(sockets) == [FrameReceived(interface="e0", frame=announcement)]
        assert not is_readable(*own_ears.filenos())


def break_nothing(host: Netns) -> None:
    del host


@pytest.mark.parametrize(
    ("interface", "break_it"),
    [
        pytest.param("e9", break_nothing, id="no such interface"),
        pytest.param("e0", lambda host: host.ip("link set e0 down"), id="link down"),
    ],
)
@pytest.mark.parametrize("source", [A4, A6])
def test_what_cannot_be_sent_is_a_value(
    hosts: tuple[Netns, Netns],
    interface: str,
    break_it: Callable[[Netns], None],
    source: IPv4Address | IPv6Address,
) -> None:
    a, _ = hosts
    break_it(a)
    group = GROUP_IPV4 if source.version == 4 else GROUP_IPV6
    advert = SendVrrp(interface=interface, source=source, destination=group, payload=ADVERT)
    frame = SendFrame(interface=interface, frame=arp(str(VIP4), str(VIP4)))
    with closing(a.run(Transmitter)) as transmitter:
        for failed in (
            a.run(lambda: transmitter.send_vrrp(advert)),
            a.run(lambda: transmitter.send_frame(frame)),
        ):
            assert isinstance(failed, ActionFailed)
            assert failed.errno > 0
            assert failed.interface == interface
        assert failed.subject == BROADCAST


def test_sending_sockets_receive_nothing(hosts: tuple[Netns, Netns]) -> None:
    a, b = hosts
    with closing(b.run(Transmitter)) as transmitter, listening(b) as sockets:
        send_raw(a, A4, "224.0.0.18", ADVERT, 255)
        send_raw(a, A6, "ff02::12", ADVERT, 255)
        receive(sockets, 2)
        own = [sock for sock in vars(transmitter).values() if isinstance(sock, socket.socket)]
        assert len(own) == 3
        assert not is_readable(*(sock.fileno() for sock in own))
