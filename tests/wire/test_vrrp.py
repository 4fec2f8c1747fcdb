"""Adverts: bytes to values and back, with scapy and keepalived as the independent parties."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.vrrp import VRRP, VRRPv3
from scapy.utils import checksum

from havip.wire import vrrp
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop
from havip.wire.vrrp import MULTICAST_V4, MULTICAST_V6, Advert, AuthType, decode, encode

SOURCE_V4 = IPv4Address("192.0.2.11")
SOURCE_V6 = IPv6Address("fe80::ff:fe00:b")
VIPS_V4 = (IPv4Address("192.0.2.100"), IPv4Address("192.0.2.101"))
VIPS_V6 = (IPv6Address("fe80::100"), IPv6Address("2001:db8::100"))
TRAILER = bytes(range(28))

# Captured with tcpdump from keepalived 2.2.7 (Debian) in a network namespace, on a veth with
# 192.0.2.11/24 and fe80::ff:fe00:b, from configurations of one `vrrp_instance` that differ in
# `version`, `advert_int` (1 or 0.1), `authentication { auth_type PASS auth_pass s3cret }` and
# `unicast_peer`; VRID 51, priority 150. The second of each is what it sent on SIGTERM.
KEEPALIVED_V2_PASS = bytes.fromhex("21339602010186e4c0000264c00002657333637265740000")
KEEPALIVED_V2_PASS_LEAVES = bytes.fromhex("2133000201011ce5c0000264c00002657333637265740000")
KEEPALIVED_V3_IPV4 = bytes.fromhex("31339602000a1157c0000264c0000265")
KEEPALIVED_V3_IPV4_LEAVES = bytes.fromhex("31330002000aa757c0000264c0000265")
KEEPALIVED_V3_UNICAST = bytes.fromhex("31339601000af1c7c0000264")
KEEPALIVED_V3_IPV6 = bytes.fromhex(
    "31339602000a0d4dfe80000000000000000000000000010020010db8000000000000000000000100"
)
KEEPALIVED_V3_IPV6_LEAVES = bytes.fromhex(
    "31330002000aa34dfe80000000000000000000000000010020010db8000000000000000000000100"
)


def advert(**changes: object) -> Advert:
    fields: dict[str, object] = {
        "version": 3,
        "virtual_router_id": 51,
        "priority": 150,
        "advert_interval_s": 0.1,
        "addresses": VIPS_V4,
    }
    return Advert(**(fields | changes))  # type: ignore[arg-type]


V2_PASS = advert(version=2, advert_interval_s=1.0, auth_type=AuthType.PASS, password=b"s3cret")


@pytest.mark.parametrize(
    ("payload", "source", "destination", "expected"),
    [
        pytest.param(KEEPALIVED_V2_PASS, SOURCE_V4, MULTICAST_V4, V2_PASS, id="v2 PASS"),
        pytest.param(
            KEEPALIVED_V2_PASS_LEAVES,
            SOURCE_V4,
            MULTICAST_V4,
            advert(
                version=2,
                priority=0,
                advert_interval_s=1.0,
                auth_type=AuthType.PASS,
                password=b"s3cret",
            ),
            id="v2 PASS, priority 0",
        ),
        pytest.param(KEEPALIVED_V3_IPV4, SOURCE_V4, MULTICAST_V4, advert(), id="v3 IPv4"),
        pytest.param(
            KEEPALIVED_V3_IPV4_LEAVES,
            SOURCE_V4,
            MULTICAST_V4,
            advert(priority=0),
            id="v3 IPv4, priority 0",
        ),
        pytest.param(
            KEEPALIVED_V3_UNICAST,
            SOURCE_V4,
            IPv4Address("192.0.2.12"),
            advert(addresses=VIPS_V4[:1]),
            id="v3 IPv4 unicast",
        ),
        pytest.param(
            KEEPALIVED_V3_IPV6, SOURCE_V6, MULTICAST_V6, advert(addresses=VIPS_V6), id="v3 IPv6"
        ),
        pytest.param(
            KEEPALIVED_V3_IPV6_LEAVES,
            SOURCE_V6,
            MULTICAST_V6,
            advert(addresses=VIPS_V6, priority=0),
            id="v3 IPv6, priority 0",
        ),
    ],
)
def test_keepalived_is_understood_and_matched_to_the_byte(payload, source, destination, expected):
    assert decode(payload, source=source, destination=destination) == expected
    assert encode(expected, source=source, destination=destination) == payload


def scapy_payload(layer, source, destination) -> bytes:
    """What scapy sends as the IP payload, checksum included."""
    carrier = IP if source.version == 4 else IPv6
    packet = carrier(src=str(source), dst=str(destination)) / layer
    return bytes(packet)[20 if source.version == 4 else 40 :]


def with_checksum_over_the_message_alone(payload: bytes) -> bytes:
    """The RFC 9568 form of a v3 advert over IPv4, computed word by word (RFC 1071 §4.1)."""
    cleared = payload[:6] + b"\0\0" + payload[8:]
    total = sum(int.from_bytes(cleared[at : at + 2]) for at in range(0, len(cleared), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return payload[:6] + (~total & 0xFFFF).to_bytes(2) + payload[8:]


def scapy_v2(**changes: object) -> bytes:
    fields = {"vrid": 51, "priority": 150, "adv": 1, "addrlist": ["192.0.2.100", "192.0.2.101"]}
    return scapy_payload(VRRP(**(fields | changes)), SOURCE_V4, MULTICAST_V4)


def scapy_v3(source=SOURCE_V4, destination=MULTICAST_V4, **changes: object) -> bytes:
    vips = VIPS_V4 if source.version == 4 else VIPS_V6
    fields = {"vrid": 51, "priority": 150, "adv": 10, "addrlist": [str(vip) for vip in vips]}
    return scapy_payload(VRRPv3(**(fields | changes)), source, destination)


@pytest.mark.parametrize(
    ("payload", "source", "destination", "expected"),
    [
        pytest.param(
            scapy_v2(authtype=1, auth1=0x73336372, auth2=0x65740000),
            SOURCE_V4,
            MULTICAST_V4,
            V2_PASS,
            id="3768 §5.1 v2",
        ),
        pytest.param(
            scapy_v2(authtype=2),
            SOURCE_V4,
            MULTICAST_V4,
            advert(version=2, advert_interval_s=1.0, auth_type=2),
            id="2338 §5.3.6 an authentication type that is not ours to judge",
        ),
        pytest.param(scapy_v3(), SOURCE_V4, MULTICAST_V4, advert(), id="5798 §5.2.8 v3 IPv4"),
        pytest.param(
            with_checksum_over_the_message_alone(scapy_v3()),
            SOURCE_V4,
            MULTICAST_V4,
            advert(),
            id="9568 §5.2.8 v3 IPv4 without pseudo header",
        ),
        pytest.param(
            scapy_v3(res=0xF),
            SOURCE_V4,
            MULTICAST_V4,
            advert(),
            id="9568 §5.2.6 reserved bits are ignored",
        ),
        pytest.param(
            scapy_v3(adv=4095, priority=255),
            SOURCE_V4,
            MULTICAST_V4,
            advert(advert_interval_s=40.95, priority=255),
            id="9568 §5.2.7 longest interval",
        ),
        pytest.param(
            scapy_v3(SOURCE_V6, MULTICAST_V6),
            SOURCE_V6,
            MULTICAST_V6,
            advert(addresses=VIPS_V6),
            id="9568 §5.2.8 v3 IPv6",
        ),
        pytest.param(
            scapy_v3() + TRAILER,
            SOURCE_V4,
            MULTICAST_V4,
            advert(trailer=TRAILER),
            id="auth_hmac: over IPv4 the checksum leaves the trailer out",
        ),
        pytest.param(
            scapy_v2() + TRAILER,
            SOURCE_V4,
            MULTICAST_V4,
            advert(version=2, advert_interval_s=1.0, trailer=TRAILER),
            id="auth_hmac: trailer after the authentication data of v2",
        ),
    ],
)
def test_what_scapy_sends_is_understood(payload, source, destination, expected):
    assert decode(payload, source=source, destination=destination) == expected


@pytest.mark.parametrize(
    ("sent", "source", "destination", "expected"),
    [
        pytest.param(
            V2_PASS,
            SOURCE_V4,
            MULTICAST_V4,
            {"version": 2, "authtype": 1, "adv": 1, "auth1": 0x73336372, "auth2": 0x65740000},
            id="3768 §5.1 v2",
        ),
        pytest.param(
            advert(), SOURCE_V4, MULTICAST_V4, {"version": 3, "res": 0, "adv": 10}, id="9568 §5.1"
        ),
        pytest.param(
            advert(addresses=VIPS_V6),
            SOURCE_V6,
            MULTICAST_V6,
            {"version": 3, "res": 0, "adv": 10},
            id="9568 §5.1 IPv6",
        ),
    ],
)
def test_what_is_sent_is_understood_by_scapy(sent, source, destination, expected):
    carrier = IP if source.version == 4 else IPv6
    header = {"proto": 112} if source.version == 4 else {"nh": 112}
    payload = encode(sent, source=source, destination=destination)

    packet = carrier(bytes(carrier(src=str(source), dst=str(destination), **header) / payload))
    seen = packet.getlayer(VRRP) or packet.getlayer(VRRPv3)

    common = {
        "type": 1,
        "vrid": 51,
        "priority": 150,
        "ipcount": 2,
        "addrlist": [str(address) for address in sent.addresses],
    }
    assert {name: seen.getfieldval(name) for name in common | expected} == common | expected
    sent_checksum = seen.chksum
    del seen.chksum
    rebuilt = carrier(bytes(packet))
    assert (rebuilt.getlayer(VRRP) or rebuilt.getlayer(VRRPv3)).chksum == sent_checksum


@pytest.mark.parametrize(
    ("sent", "source", "destination", "covered_checksum"),
    [
        pytest.param(
            advert(version=2, advert_interval_s=1.0),
            SOURCE_V4,
            MULTICAST_V4,
            lambda _, payload: checksum(payload[:-28]),
            id="v2: the message alone",
        ),
        pytest.param(
            advert(),
            SOURCE_V4,
            MULTICAST_V4,
            lambda packet, payload: in4_chksum(112, packet, payload[:-28]),
            id="v3 IPv4: pseudo header and message",
        ),
        pytest.param(
            advert(addresses=VIPS_V6),
            SOURCE_V6,
            MULTICAST_V6,
            lambda packet, payload: in6_chksum(112, packet, payload),
            id="v3 IPv6: pseudo header, message and trailer",
        ),
    ],
)
def test_what_the_checksum_of_a_signed_advert_covers(sent, source, destination, covered_checksum):
    payload = encode(
        sent,
        source=source,
        destination=destination,
        key=SigningKey(1, b"k" * 32),
        stamp=Stamp(1_700_000_000, 0, 0),
    )
    packet = (IP if source.version == 4 else IPv6)(src=str(source), dst=str(destination))
    cleared = payload[:6] + bytes(2) + payload[8:]

    assert int.from_bytes(payload[6:8]) == covered_checksum(packet, cleared)
    assert decode(payload, source=source, destination=destination) == replace(
        sent, trailer=payload[-28:]
    )


@pytest.mark.parametrize(
    ("payload", "source", "expected"),
    [
        pytest.param(b"", SOURCE_V4, Drop.TRUNCATED, id="9568 §7.1 empty"),
        pytest.param(
            KEEPALIVED_V3_IPV4[:7],
            SOURCE_V4,
            Drop.TRUNCATED,
            id="9568 §7.1 shorter than the header",
        ),
        pytest.param(
            scapy_v3()[:-1], SOURCE_V4, Drop.TRUNCATED, id="9568 §7.1 shorter than its count"
        ),
        pytest.param(
            scapy_v2()[:-8], SOURCE_V4, Drop.TRUNCATED, id="3768 §7.1 no authentication data"
        ),
        pytest.param(scapy_v3(version=1), SOURCE_V4, Drop.VERSION, id="9568 §7.1 version 1"),
        pytest.param(scapy_v3(version=4), SOURCE_V4, Drop.VERSION, id="9568 §7.1 version 4"),
        pytest.param(
            scapy_v3(SOURCE_V6, MULTICAST_V6, version=2),
            SOURCE_V6,
            Drop.VERSION,
            id="3768 §5.1 version 2 over IPv6",
        ),
        pytest.param(scapy_v3(type=2), SOURCE_V4, Drop.TYPE, id="9568 §5.2.2 type 2"),
        pytest.param(scapy_v3(type=0), SOURCE_V4, Drop.TYPE, id="9568 §5.2.2 type 0"),
        pytest.param(
            scapy_v3(addrlist=[f"10.0.0.{n}" for n in range(21)]),
            SOURCE_V4,
            Drop.ADDRESS_COUNT,
            id="more addresses than an advert carries",
        ),
        pytest.param(
            bytes.fromhex("310a64ff000a0000") + bytes(4 * 255),
            SOURCE_V4,
            Drop.ADDRESS_COUNT,
            id="many addresses cost no checksum",
        ),
        pytest.param(
            scapy_v3(addrlist=[]), SOURCE_V4, Drop.ADDRESS_COUNT, id="9568 §5.2.5 no address"
        ),
        pytest.param(
            scapy_v3() + b"\0", SOURCE_V4, Drop.LENGTH, id="9568 §7.1 longer than its count"
        ),
        pytest.param(
            scapy_v3() + TRAILER + b"\0", SOURCE_V4, Drop.LENGTH, id="auth_hmac: trailer too long"
        ),
        pytest.param(
            scapy_v3() + TRAILER[:-1], SOURCE_V4, Drop.LENGTH, id="auth_hmac: trailer too short"
        ),
        pytest.param(
            scapy_v3(chksum=0x1234), SOURCE_V4, Drop.CHECKSUM, id="9568 §7.1 checksum, v3 IPv4"
        ),
        pytest.param(
            scapy_v2(chksum=0x1234), SOURCE_V4, Drop.CHECKSUM, id="3768 §7.1 checksum, v2"
        ),
        pytest.param(
            scapy_v2(
                chksum=in4_chksum(
                    112,
                    IP(src=str(SOURCE_V4), dst=str(MULTICAST_V4)),
                    scapy_v2(chksum=0),
                )
            ),
            SOURCE_V4,
            Drop.CHECKSUM,
            id="3768 §5.3.8 v2 with pseudo header",
        ),
        pytest.param(
            scapy_v3(SOURCE_V6, MULTICAST_V6, chksum=0x1234),
            SOURCE_V6,
            Drop.CHECKSUM,
            id="9568 §7.1 checksum, v3 IPv6",
        ),
        pytest.param(
            with_checksum_over_the_message_alone(scapy_v3(SOURCE_V6, MULTICAST_V6)),
            SOURCE_V6,
            Drop.CHECKSUM,
            id="9568 §5.2.8 IPv6 without pseudo header",
        ),
        pytest.param(
            scapy_v3(SOURCE_V6, MULTICAST_V6) + TRAILER,
            SOURCE_V6,
            Drop.CHECKSUM,
            id="auth_hmac: over IPv6 the checksum must cover the trailer",
        ),
        pytest.param(scapy_v3(vrid=0), SOURCE_V4, Drop.VRID, id="9568 §5.2.3 VRID 0"),
        pytest.param(scapy_v3(adv=0), SOURCE_V4, Drop.INTERVAL, id="9568 §5.2.7 interval 0"),
        pytest.param(
            scapy_v3(adv=0, res=0xF),
            SOURCE_V4,
            Drop.INTERVAL,
            id="9568 §5.2.6 reserved bits are no interval",
        ),
        pytest.param(scapy_v2(adv=0), SOURCE_V4, Drop.INTERVAL, id="3768 §5.3.7 interval 0"),
    ],
)
def test_receive_checks(payload, source, expected):
    destination = MULTICAST_V4 if source.version == 4 else MULTICAST_V6
    assert decode(payload, source=source, destination=destination) is expected


def test_the_checksum_is_tied_to_both_addresses():
    """A pseudo header that names other addresses does not fit (RFC 9568 §5.2.8)."""
    elsewhere = IPv6Address("fe80::dead")
    for source, destination in ((elsewhere, MULTICAST_V6), (SOURCE_V6, elsewhere)):
        dropped = decode(KEEPALIVED_V3_IPV6, source=source, destination=destination)
        assert dropped is Drop.CHECKSUM


def test_the_repr_hides_the_password():
    assert "s3cret" not in repr(V2_PASS)
    assert "s3cret" not in str(V2_PASS)


@pytest.mark.parametrize(
    ("payload", "source", "destination"),
    [
        pytest.param(KEEPALIVED_V2_PASS, SOURCE_V4, MULTICAST_V4, id="v2"),
        pytest.param(KEEPALIVED_V3_IPV4, SOURCE_V4, MULTICAST_V4, id="v3 IPv4"),
        pytest.param(KEEPALIVED_V3_IPV6, SOURCE_V6, MULTICAST_V6, id="v3 IPv6"),
    ],
)
def test_no_single_flipped_bit_gets_through(payload, source, destination):
    for bit in range(len(payload) * 8):
        flipped = (int.from_bytes(payload) ^ 1 << bit).to_bytes(len(payload))
        assert isinstance(decode(flipped, source=source, destination=destination), Drop), bit


ipv4 = st.ip_addresses(v=4)
ipv6 = st.ip_addresses(v=6)


@st.composite
def adverts(draw: st.DrawFn) -> tuple[Advert, IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    version = draw(st.sampled_from((2, 3)))
    address = ipv4 if version == 2 else draw(st.sampled_from((ipv4, ipv6)))
    fields: dict[str, object] = {
        "version": version,
        "virtual_router_id": draw(st.integers(1, 255)),
        "priority": draw(st.integers(0, 255)),
        "addresses": tuple(draw(st.lists(address, min_size=1, max_size=vrrp.MAX_ADDRESSES))),
        "trailer": draw(st.sampled_from((b"", TRAILER))),
    }
    if version == 2:
        fields["advert_interval_s"] = float(draw(st.integers(1, 255)))
        fields["auth_type"] = draw(st.integers(0, 255))
        fields["password"] = draw(st.binary(max_size=8)).rstrip(b"\0")
    else:
        fields["advert_interval_s"] = draw(st.integers(1, 4095)) / 100
    return Advert(**fields), draw(address), draw(address)  # type: ignore[arg-type]


@given(adverts())
def test_what_is_encoded_is_decoded(sent):
    message, source, destination = sent
    payload = encode(message, source=source, destination=destination)
    assert decode(payload, source=source, destination=destination) == message


@given(
    payload=st.binary(max_size=120)
    | st.tuples(st.sampled_from((b"\x21\x0a\x64", b"\x31\x0a\x64")), st.binary(max_size=400)).map(
        b"".join
    ),
    addresses=st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6),
)
def test_no_bytes_raise(payload, addresses):
    source, destination = addresses
    result = decode(payload, source=source, destination=destination)
    assert isinstance(result, Advert | Drop)


@given(sent=adverts(), where=st.integers(min_value=0), by=st.binary(min_size=1, max_size=3))
def test_no_damaged_advert_raises(sent, where, by):
    """Damage behind a sound beginning reaches the checks that random bytes rarely do."""
    message, source, destination = sent
    payload = encode(message, source=source, destination=destination)
    at = where % len(payload)
    for damaged in (payload[:at], payload[:at] + by + payload[at + len(by) :], payload + by):
        assert isinstance(decode(damaged, source=source, destination=destination), Advert | Drop)
