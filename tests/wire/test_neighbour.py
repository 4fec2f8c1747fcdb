"""ARP and neighbour discovery, with scapy as the independent encoder and decoder."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether

from havip.wire import arp, ndp
from havip.wire.neighbour import Kind, Neighbour, decode

MINE = "02:00:00:00:00:0a"
THEIRS = "02:00:00:00:00:0b"
EVERYONE = "ff:ff:ff:ff:ff:ff"
NODE4, VIP4 = "192.0.2.11", "192.0.2.100"
NODE6, VIP6, SOLICITED_NODE = "fe80::b", "2001:db8::1:100", "ff02::1:ff01:100"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ether(source: str = THEIRS, destination: str = EVERYONE) -> Ether:
    return Ether(src=source, dst=destination)


def icmp(source: str = NODE6, destination: str = SOLICITED_NODE, **header: int) -> Ether:
    return ether() / IPv6(src=source, dst=destination, **({"hlim": 255} | header))


def said(
    kind: Kind,
    *,
    claims: str | None,
    asks: str | None = None,
    by: str = THEIRS,
    frame_source: str = THEIRS,
    frame_destination: str = EVERYONE,
) -> Neighbour:
    def address(text: str | None) -> IPv4Address | IPv6Address | None:
        if text is None:
            return None
        return IPv6Address(text) if ":" in text else IPv4Address(text)

    return Neighbour(
        kind=kind,
        mac=mac(by),
        claims=address(claims),
        asks=address(asks),
        frame_source=mac(frame_source),
        frame_destination=mac(frame_destination),
    )


ARP_REQUEST = ARP(op=1, hwsrc=THEIRS, psrc=NODE4, pdst=VIP4)
ARP_REPLY = ARP(op=2, hwsrc=THEIRS, psrc=VIP4, hwdst=MINE, pdst=NODE4)
SOLICITATION = ICMPv6ND_NS(tgt=VIP6) / ICMPv6NDOptSrcLLAddr(lladdr=THEIRS)
ADVERTISEMENT = ICMPv6ND_NA(R=0, S=0, O=1, tgt=VIP6) / ICMPv6NDOptDstLLAddr(lladdr=THEIRS)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(
            ether() / ARP_REQUEST, said(Kind.ASK, claims=NODE4, asks=VIP4), id="826 request"
        ),
        pytest.param(
            ether(destination=MINE) / ARP_REPLY,
            said(Kind.ANSWER, claims=VIP4, frame_destination=MINE),
            id="826 reply",
        ),
        pytest.param(
            ether() / ARP(op=1, hwsrc=THEIRS, psrc="0.0.0.0", pdst=VIP4),
            said(Kind.ASK, claims=None, asks=VIP4),
            id="5227 §2.1.1 a probe claims nothing",
        ),
        pytest.param(
            ether() / ARP(op=1, hwsrc=THEIRS, psrc=VIP4, pdst=VIP4),
            said(Kind.ASK, claims=VIP4, asks=VIP4),
            id="5227 §2.3 announcement",
        ),
        pytest.param(
            ether() / ARP(op=2, hwsrc=THEIRS, psrc=VIP4, hwdst=EVERYONE, pdst=VIP4),
            said(Kind.ANSWER, claims=VIP4),
            id="5227 §3 announcement in reply form",
        ),
        pytest.param(
            ether() / ARP(op=2, hwsrc=MINE, psrc=VIP4, hwdst=MINE, pdst=NODE4),
            said(Kind.ANSWER, claims=VIP4, by=MINE),
            id="826 sender and frame differ (proxy)",
        ),
        pytest.param(
            bytes(ether() / ARP_REQUEST).ljust(60, b"\xaa"),
            said(Kind.ASK, claims=NODE4, asks=VIP4),
            id="894 padded to the shortest frame",
        ),
        pytest.param(
            icmp() / SOLICITATION,
            said(Kind.ASK, claims=NODE6, asks=VIP6),
            id="4861 §4.3 solicitation",
        ),
        pytest.param(
            icmp() / ICMPv6ND_NS(tgt=VIP6),
            said(Kind.ASK, claims=NODE6, asks=VIP6),
            id="4861 §4.3 solicitation without option",
        ),
        pytest.param(
            icmp(source="::") / ICMPv6ND_NS(tgt=VIP6),
            said(Kind.ASK, claims=None, asks=VIP6),
            id="4862 §5.4.2 a probe claims nothing",
        ),
        pytest.param(
            icmp(VIP6, "ff02::1") / ADVERTISEMENT,
            said(Kind.ANSWER, claims=VIP6),
            id="4861 §7.2.6 unsolicited advertisement",
        ),
        pytest.param(
            icmp(NODE6, "fe80::a") / ICMPv6ND_NA(R=1, S=1, O=0, tgt=VIP6),
            said(Kind.ANSWER, claims=VIP6),
            id="4861 §4.4 solicited advertisement without option",
        ),
        pytest.param(
            icmp(NODE6, "fe80::a")
            / ICMPv6ND_NA(tgt=VIP6)
            / ICMPv6NDOptMTU()
            / ICMPv6NDOptDstLLAddr(lladdr=MINE),
            said(Kind.ANSWER, claims=VIP6, by=MINE),
            id="4861 §4.6 other options are skipped, the option beats the frame",
        ),
        pytest.param(
            bytes(icmp() / ICMPv6ND_NS(tgt=VIP6)) + bytes(7),
            said(Kind.ASK, claims=NODE6, asks=VIP6),
            id="8200 §3 padding after the payload",
        ),
    ],
)
def test_what_a_neighbour_says(frame, expected):
    assert decode(bytes(frame)) == expected


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(ether() / ARP_REQUEST)[:13], id="894 shorter than a header"),
        pytest.param(ether() / IP() / UDP(), id="894 IPv4"),
        pytest.param(ether() / Dot1Q(vlan=5) / ARP_REQUEST, id="802.1Q tag"),
        pytest.param(bytes(ether() / ARP_REQUEST)[:-1], id="826 truncated"),
        pytest.param(
            ether() / ARP(hwtype=6, op=1, hwsrc=THEIRS, psrc=NODE4, pdst=VIP4),
            id="826 other hardware",
        ),
        pytest.param(
            ether() / ARP(ptype=0x86DD, op=1, hwsrc=THEIRS, psrc=NODE4, pdst=VIP4),
            id="826 other protocol",
        ),
        pytest.param(
            ether() / ARP(hwlen=8, op=1, hwsrc=THEIRS, psrc=NODE4, pdst=VIP4),
            id="826 other address length",
        ),
        pytest.param(
            ether() / ARP(op=3, hwsrc=THEIRS, psrc=NODE4, pdst=VIP4), id="903 reverse ARP"
        ),
        pytest.param(
            ether() / ARP(op=2, hwsrc=EVERYONE, psrc=VIP4, hwdst=MINE, pdst=NODE4),
            id="1812 §3.3.2 claims to be at the broadcast address",
        ),
        pytest.param(icmp() / ICMPv6EchoRequest(), id="4443 echo request"),
        pytest.param(icmp(nh=17) / UDP(), id="8200 UDP"),
        pytest.param(icmp() / IPv6ExtHdrHopByHop() / SOLICITATION, id="8200 §4.3 extension header"),
        pytest.param(icmp(version=5) / SOLICITATION, id="8200 §3 version"),
        pytest.param(icmp(plen=500) / SOLICITATION, id="8200 §3 longer than the frame"),
        pytest.param(
            bytes(icmp() / ICMPv6ND_NS(tgt=VIP6) / bytes(476))[:78],
            id="8200 §3 cut off where the checksum cannot tell: behind it come zeros",
        ),
        pytest.param(icmp(plen=16) / SOLICITATION, id="4861 §7.1.1 shorter than 24 bytes"),
        pytest.param(bytes(icmp() / SOLICITATION)[:60], id="4861 §7.1.1 truncated"),
        pytest.param(icmp(hlim=254) / SOLICITATION, id="4861 §7.1.1 hop limit"),
        pytest.param(icmp(hlim=64) / ADVERTISEMENT, id="4861 §7.1.2 hop limit"),
        pytest.param(icmp() / ICMPv6ND_NS(tgt=VIP6, cksum=0x1234), id="4861 §7.1.1 ICMP checksum"),
        pytest.param(icmp() / ICMPv6ND_NS(tgt=VIP6, code=1), id="4861 §7.1.1 ICMP code"),
        pytest.param(icmp() / ICMPv6ND_NS(tgt="ff02::1"), id="4861 §7.1.1 multicast target"),
        pytest.param(icmp() / ICMPv6ND_NA(tgt="ff02::1"), id="4861 §7.1.2 multicast target"),
        pytest.param(
            icmp() / ICMPv6ND_NS(tgt=VIP6) / ICMPv6NDOptSrcLLAddr(len=0, lladdr=THEIRS),
            id="4861 §7.1.1 option of length 0",
        ),
        pytest.param(
            icmp() / ICMPv6ND_NS(tgt=VIP6) / ICMPv6NDOptSrcLLAddr(len=2, lladdr=THEIRS),
            id="4861 §4.6 option longer than the message",
        ),
        pytest.param(
            icmp() / ICMPv6ND_NS(tgt=VIP6) / ICMPv6NDOptSrcLLAddr(len=2, lladdr=THEIRS) / bytes(8),
            id="4861 §4.6.1 a link-layer address that is no Ethernet address",
        ),
        pytest.param(
            icmp() / ICMPv6ND_NS(tgt=VIP6) / b"\x01", id="4861 §4.6 half an option header"
        ),
        pytest.param(
            icmp(source="::") / SOLICITATION, id="4861 §7.1.1 a probe with a link-layer address"
        ),
        pytest.param(
            icmp("::", NODE6) / ICMPv6ND_NS(tgt=VIP6),
            id="4861 §7.1.1 a probe that is not sent to the solicited-node group",
        ),
        pytest.param(
            icmp(VIP6, "ff02::1") / ICMPv6ND_NA(S=1, tgt=VIP6),
            id="4861 §7.1.2 solicited, yet multicast",
        ),
        pytest.param(
            icmp() / ICMPv6ND_NA(S=0, tgt=VIP6) / ICMPv6NDOptDstLLAddr(lladdr=EVERYONE),
            id="1812 §3.3.2 advertises the broadcast address",
        ),
    ],
)
def test_what_is_malformed_or_other_traffic(frame):
    assert decode(bytes(frame)) is None


@pytest.mark.parametrize(
    ("frame", "frame_destination", "fields"),
    [
        pytest.param(
            arp.request(mac=mac(MINE), source=IPv4Address(NODE4), target=IPv4Address(VIP4)),
            EVERYONE,
            {"op": 1, "psrc": NODE4, "pdst": VIP4, "hwdst": "00:00:00:00:00:00"},
            id="826 question to everyone",
        ),
        pytest.param(
            arp.request(
                mac=mac(MINE),
                source=IPv4Address(NODE4),
                target=IPv4Address(VIP4),
                target_mac=mac(THEIRS),
            ),
            THEIRS,
            {"op": 1, "psrc": NODE4, "pdst": VIP4},
            id="1122 §2.3.2.1 question to one",
        ),
        pytest.param(
            arp.probe(mac=mac(MINE), target=IPv4Address(VIP4)),
            EVERYONE,
            {"op": 1, "psrc": "0.0.0.0", "pdst": VIP4, "hwdst": "00:00:00:00:00:00"},
            id="5227 §2.1.1 probe",
        ),
        pytest.param(
            arp.announcement(mac=mac(MINE), address=IPv4Address(VIP4)),
            EVERYONE,
            {"op": 1, "psrc": VIP4, "pdst": VIP4},
            id="5227 §2.3 announcement",
        ),
    ],
)
def test_scapy_reads_our_arp(frame, frame_destination, fields):
    seen = Ether(frame)
    assert (seen.src, seen.dst, seen.type) == (MINE, frame_destination, 0x0806)
    message = seen[ARP]
    expected = {"hwtype": 1, "ptype": 0x0800, "hwlen": 6, "plen": 4, "hwsrc": MINE} | fields
    assert {name: message.getfieldval(name) for name in expected} == expected
    assert len(frame) == 42


@pytest.mark.parametrize(
    ("frame", "frame_destination", "source", "destination", "expected"),
    [
        pytest.param(
            ndp.solicit(mac=mac(MINE), source=IPv6Address(NODE6), target=IPv6Address(VIP6)),
            "33:33:ff:01:01:00",
            NODE6,
            SOLICITED_NODE,
            ICMPv6ND_NS(tgt=VIP6) / ICMPv6NDOptSrcLLAddr(lladdr=MINE),
            id="4861 §4.3 question to everyone",
        ),
        pytest.param(
            ndp.solicit(
                mac=mac(MINE),
                source=IPv6Address(NODE6),
                target=IPv6Address(VIP6),
                target_mac=mac(THEIRS),
            ),
            THEIRS,
            NODE6,
            VIP6,
            ICMPv6ND_NS(tgt=VIP6) / ICMPv6NDOptSrcLLAddr(lladdr=MINE),
            id="4861 §4.3 question to one",
        ),
        pytest.param(
            ndp.probe(mac=mac(MINE), target=IPv6Address(VIP6)),
            "33:33:ff:01:01:00",
            "::",
            SOLICITED_NODE,
            ICMPv6ND_NS(tgt=VIP6),
            id="4862 §5.4.2 probe",
        ),
        pytest.param(
            ndp.announcement(mac=mac(MINE), address=IPv6Address(VIP6)),
            "33:33:00:00:00:01",
            VIP6,
            "ff02::1",
            ICMPv6ND_NA(R=0, S=0, O=1, tgt=VIP6) / ICMPv6NDOptDstLLAddr(lladdr=MINE),
            id="4861 §7.2.6 announcement",
        ),
    ],
)
def test_scapy_builds_the_same_neighbour_discovery(
    frame, frame_destination, source, destination, expected
):
    built = (
        Ether(src=MINE, dst=frame_destination)
        / IPv6(src=source, dst=destination, hlim=255)
        / expected
    )
    assert frame == bytes(built)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(bytes(icmp() / SOLICITATION), id="solicitation"),
        pytest.param(bytes(icmp(VIP6, "ff02::1") / ADVERTISEMENT), id="advertisement"),
    ],
)
def test_no_single_flipped_bit_in_the_message_is_believed(frame):
    """Everything that the ICMPv6 checksum covers: addresses and message (RFC 4443 §2.3)."""
    start = 14 + 8
    for bit in range((len(frame) - start) * 8):
        flipped = (int.from_bytes(frame) ^ 1 << bit).to_bytes(len(frame))
        assert decode(flipped) is None, bit


macs = st.binary(min_size=6, max_size=6).map(lambda raw: bytes((raw[0] & 0xFE,)) + raw[1:])
own4 = st.ip_addresses(v=4).filter(lambda address: int(address) != 0)
own6 = st.ip_addresses(v=6).filter(lambda address: int(address) and not address.is_multicast)


@given(mac=macs, source=own4, target=st.ip_addresses(v=4), target_mac=st.none() | macs)
def test_our_arp_is_decoded(mac, source, target, target_mac):
    seen = decode(arp.request(mac=mac, source=source, target=target, target_mac=target_mac))
    assert seen == Neighbour(
        kind=Kind.ASK,
        mac=mac,
        claims=source,
        asks=target,
        frame_source=mac,
        frame_destination=target_mac or b"\xff" * 6,
    )


@given(mac=macs, source=own6, target=own6)
def test_our_neighbour_discovery_is_decoded(mac, source, target):
    asked = decode(ndp.solicit(mac=mac, source=source, target=target))
    probed = decode(ndp.probe(mac=mac, target=target))
    announced = decode(ndp.announcement(mac=mac, address=target))
    assert asked and probed and announced
    assert (asked.kind, asked.mac, asked.claims, asked.asks) == (Kind.ASK, mac, source, target)
    assert (probed.kind, probed.claims, probed.asks) == (Kind.ASK, None, target)
    assert (announced.kind, announced.mac, announced.claims) == (Kind.ANSWER, mac, target)


@given(
    st.binary(max_size=120)
    | st.binary(max_size=60).map(lambda rest: bytes(12) + b"\x08\x06\0\x01\x08\0\x06\x04" + rest)
)
def test_no_bytes_raise(frame):
    assert isinstance(decode(frame), Neighbour | None)


@given(options=st.binary(max_size=60), kind=st.sampled_from((135, 136)), flags=st.integers(0, 7))
def test_no_options_raise(options, kind, flags):
    """Behind a sound header and checksum, where random bytes alone never come."""
    header = IPv6(src=NODE6, dst="ff02::1", hlim=255, nh=58)
    body = bytes((kind, 0, 0, 0, flags << 5, 0, 0, 0)) + IPv6Address(VIP6).packed + options
    body = body[:2] + in6_chksum(58, header, body).to_bytes(2) + body[4:]
    assert isinstance(decode(bytes(ether() / header / body)), Neighbour | None)
