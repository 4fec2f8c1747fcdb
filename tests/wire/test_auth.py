"""The HMAC trailer, against tags computed here from the description of the format alone."""

from __future__ import annotations

import hashlib
import hmac
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havip.wire.auth import SigningKey, Stamp, parse, sign, verify
from havip.wire.drop import Drop
from havip.wire.vrrp import MULTICAST_V4, MULTICAST_V6, Advert, decode, encode

SECRET = bytes(range(32))
OTHER_SECRET = bytes(range(64))
KEYS = {7: SECRET, 8: OTHER_SECRET}
KEY = SigningKey(7, SECRET)
STAMP = Stamp(seconds=0x65F00000, fraction=0x8000, counter=0x0102)

V4 = (IPv4Address("192.0.2.11"), MULTICAST_V4, (IPv4Address("192.0.2.100"),))
V6 = (IPv6Address("fe80::b"), MULTICAST_V6, (IPv6Address("fe80::100"), IPv6Address("2001:db8::1")))


def expected_trailer(
    message: bytes,
    pseudo_header: bytes,
    *,
    key_id: int = 7,
    secret: bytes = SECRET,
    kind: int = 1,
    reserved: int = 0,
) -> bytes:
    """As the draft puts it: 12 bytes of type, key id, zero and stamp, then 16 bytes of tag."""
    prefix = struct.pack(">BBHIHH", kind, key_id, reserved, 0x65F00000, 0x8000, 0x0102)
    zeroed = message[:6] + b"\x00\x00" + message[8:]
    digest = hmac.new(secret, pseudo_header + zeroed + prefix + b"\x00" * 16, hashlib.sha256)
    return prefix + digest.digest()[:16]


def signed(version: int, family: tuple, key: SigningKey = KEY) -> bytes:
    source, destination, vips = family
    advert = Advert(
        version=version,
        virtual_router_id=51,
        priority=150,
        advert_interval_s=1.0,
        addresses=vips,
    )
    return encode(advert, source=source, destination=destination, key=key, stamp=STAMP)


PSEUDO_V4 = bytes.fromhex("04 03 33 00  c000020b 00000000 00000000 00000000")
PSEUDO_V4_V2 = bytes.fromhex("04 02 33 00  c000020b 00000000 00000000 00000000")
PSEUDO_V6 = bytes.fromhex("06 03 33 00  fe800000 00000000 00000000 0000000b")


@pytest.mark.parametrize(
    ("version", "family", "pseudo_header"),
    [
        pytest.param(2, V4, PSEUDO_V4_V2, id="v2"),
        pytest.param(3, V4, PSEUDO_V4, id="v3 IPv4, source left-aligned"),
        pytest.param(3, V6, PSEUDO_V6, id="v3 IPv6"),
    ],
)
@pytest.mark.parametrize(("key_id", "secret"), KEYS.items(), ids=["32-byte key", "64-byte key"])
def test_the_trailer_is_as_described(version, family, pseudo_header, key_id, secret):
    payload = signed(version, family, SigningKey(key_id, secret))
    message, trailer = payload[:-28], payload[-28:]

    assert trailer == expected_trailer(message, pseudo_header, key_id=key_id, secret=secret)
    assert (
        verify(payload, version=version, virtual_router_id=51, source=family[0], keys=KEYS) == STAMP
    )


MESSAGE = signed(3, V4)[:-28]
GOOD = expected_trailer(MESSAGE, PSEUDO_V4)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(MESSAGE + GOOD, STAMP, id="right"),
        pytest.param(
            MESSAGE[:6] + b"\xab\xcd" + MESSAGE[8:] + GOOD,
            STAMP,
            id="the checksum is not covered: a kernel may write it",
        ),
        pytest.param(MESSAGE, Drop.AUTH_MISSING, id="no trailer"),
        pytest.param(GOOD, Drop.AUTH_MISSING, id="a trailer without a message"),
        pytest.param(b"", Drop.AUTH_MISSING, id="nothing"),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4, kind=2), Drop.AUTH_FORMAT, id="type 2"
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4, reserved=1),
            Drop.AUTH_FORMAT,
            id="reserved bytes not zero",
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4, key_id=0),
            Drop.AUTH_FORMAT,
            id="key id 0",
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4, key_id=9),
            Drop.AUTH_KEY,
            id="unknown key id",
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4, secret=OTHER_SECRET),
            Drop.AUTH_TAG,
            id="another key under a known id",
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V6),
            Drop.AUTH_TAG,
            id="spliced from another family and source",
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4_V2),
            Drop.AUTH_TAG,
            id="spliced from another version",
        ),
        pytest.param(
            MESSAGE + expected_trailer(MESSAGE, PSEUDO_V4[:2] + b"\x34" + PSEUDO_V4[3:]),
            Drop.AUTH_TAG,
            id="spliced from another virtual router",
        ),
    ],
)
def test_verify(payload, expected):
    result = verify(payload, version=3, virtual_router_id=51, source=V4[0], keys=KEYS)
    assert result == expected


def test_a_tag_does_not_move_to_another_sender():
    payload = signed(3, V4)
    thief = IPv4Address("192.0.2.12")
    result = verify(payload, version=3, virtual_router_id=51, source=thief, keys=KEYS)
    assert result is Drop.AUTH_TAG


def test_a_trailer_is_of_one_length():
    assert parse(GOOD[:-1]) is Drop.AUTH_FORMAT
    assert parse(GOOD + b"\0") is Drop.AUTH_FORMAT


@pytest.mark.parametrize(("version", "family"), [(2, V4), (3, V4), (3, V6)])
def test_no_single_flipped_bit_verifies(version, family):
    """Outside the checksum field the tag notices, inside it the checksum does."""
    payload = signed(version, family)
    source, destination, _ = family
    for bit in range(len(payload) * 8):
        flipped = (int.from_bytes(payload) ^ 1 << bit).to_bytes(len(payload))
        verdict = verify(flipped, version=version, virtual_router_id=51, source=source, keys=KEYS)
        in_checksum = 6 <= len(payload) - 1 - bit // 8 < 8
        if in_checksum:
            assert decode(flipped, source=source, destination=destination) is Drop.CHECKSUM
        else:
            assert isinstance(verdict, Drop), bit


def test_the_repr_hides_the_key():
    assert repr(SigningKey(7, b"s3cret" * 6)) == "SigningKey(key_id=7)"


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        pytest.param(Stamp(2, 0, 0), Stamp(1, 0xFFFF, 0xFFFF), id="seconds first"),
        pytest.param(Stamp(1, 1, 0), Stamp(1, 0, 0xFFFF), id="then the fraction"),
        pytest.param(Stamp(1, 1, 1), Stamp(1, 1, 0), id="then the counter"),
        pytest.param(Stamp(0, 0, 0), Stamp(0xFFFFFFFF, 0xFFFF, 0xFFFF), id="1982 §3.2 wraps"),
        pytest.param(Stamp(0x7FFFFFFF, 0, 0), Stamp(0, 0, 0), id="1982 §3.2 almost half way"),
    ],
)
def test_which_stamp_is_newer(newer, older):
    assert newer.is_after(older)
    assert not older.is_after(newer)
    assert not newer.is_after(newer)


def test_half_way_round_neither_stamp_is_newer():
    """RFC 1982 §3.2 leaves it open; undecided must not count as newer."""
    assert not Stamp(0x80000000, 0, 0).is_after(Stamp(0, 0, 0))
    assert not Stamp(0, 0, 0).is_after(Stamp(0x80000000, 0, 0))


@pytest.mark.parametrize(
    ("utc_s", "counter", "expected"),
    [
        pytest.param(1_700_000_000.5, 3, Stamp(1_700_000_000, 0x8000, 3), id="half a second"),
        pytest.param(0.0, 0x10001, Stamp(0, 0, 1), id="the counter wraps"),
        pytest.param(2.0**32 + 9, 0, Stamp(9, 0, 0), id="the seconds wrap in 2106"),
        pytest.param(-0.25, 0, Stamp(0xFFFFFFFF, 0xC000, 0), id="a clock before 1970"),
    ],
)
def test_stamp_of_a_moment(utc_s, counter, expected):
    assert Stamp.from_utc(utc_s, counter) == expected


@given(st.floats(min_value=0, max_value=2**32 - 1))
def test_a_stamp_keeps_the_time(utc_s):
    assert 0 <= utc_s - Stamp.from_utc(utc_s, 0).utc_s < 1 / 65536


stamps = st.builds(
    Stamp,
    seconds=st.integers(0, 2**32 - 1),
    fraction=st.integers(0, 2**16 - 1),
    counter=st.integers(0, 2**16 - 1),
)


@given(
    message=st.binary(min_size=8, max_size=400),
    source=st.ip_addresses(),
    key_id=st.integers(1, 255),
    secret=st.binary(min_size=32, max_size=64),
    stamp=stamps,
)
def test_what_is_signed_verifies(message, source, key_id, secret, stamp):
    key = SigningKey(key_id, secret)
    who = {"version": 3, "virtual_router_id": 10, "source": source}
    trailer = sign(message, key=key, stamp=stamp, **who)
    assert verify(message + trailer, keys={key_id: secret}, **who) == stamp


@given(
    payload=st.binary(max_size=100)
    | st.binary(max_size=60).map(lambda tail: bytes(8) + b"\x01\x07" + bytes(2) + tail),
    source=st.ip_addresses(),
)
def test_no_bytes_raise_and_none_verify(payload, source):
    verdict = verify(payload, version=3, virtual_router_id=51, source=source, keys=KEYS)
    assert isinstance(verdict, Drop)
