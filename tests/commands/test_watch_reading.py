"""What `havip watch` makes of single frames, without a network."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from havip.commands.watch import Seen, dissect
from havip.wire import vrrp
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop
from havip.wire.vrrp import MULTICAST_V4, Advert, AuthType

SOURCE = IPv4Address("192.0.2.11")
ADVERT = Advert(
    version=3,
    virtual_router_id=10,
    priority=100,
    advert_interval_s=0.1,
    addresses=(IPv4Address("192.0.2.100"),),
)
V2 = Advert(
    version=2,
    virtual_router_id=10,
    priority=0,
    advert_interval_s=1.0,
    addresses=(IPv4Address("192.0.2.100"),),
    auth_type=AuthType.PASS,
    password=b"s3cret",
)


def frame(payload: bytes, **header: object) -> bytes:
    fields = {"src": str(SOURCE), "dst": str(MULTICAST_V4), "ttl": 255, "proto": 112}
    return bytes(Ether(src="02:00:00:00:00:0b") / IP(**(fields | header)) / payload)


def test_an_advert_that_is_dropped_is_still_read():
    payload = vrrp.encode(ADVERT, source=SOURCE, destination=MULTICAST_V4)
    damaged = payload[:2] + bytes((payload[2] ^ 1,)) + payload[3:]
    seen = dissect(frame(damaged))
    assert seen.verdict == Drop.CHECKSUM
    assert (seen.details["virtual_router_id"], seen.details["priority"]) == (10, 101)
    assert "auth" not in seen.details


def test_padding_is_no_part_of_the_advert():
    payload = vrrp.encode(ADVERT, source=SOURCE, destination=MULTICAST_V4)
    assert dissect(frame(payload).ljust(60, b"\0")).verdict == "ok"


def test_the_password_is_not_shown():
    seen = dissect(frame(vrrp.encode(V2, source=SOURCE, destination=MULTICAST_V4)))
    assert seen.details["auth"] == "pass"
    assert "priority 0 (leaves)" in seen.text
    assert "s3cret" not in repr(seen)


def test_a_signature_tells_its_key_and_time():
    payload = vrrp.encode(
        ADVERT,
        source=SOURCE,
        destination=MULTICAST_V4,
        key=SigningKey(7, b"k" * 32),
        stamp=Stamp.from_utc(1_700_000_000.5, 0),
    )
    details = dissect(frame(payload)).details
    assert (details["auth"], details["key_id"]) == ("hmac", 7)
    assert details["signed_at"] == "2023-11-14T22:13:20.500+00:00"
    unknown_type = payload[:12] + b"\x02" + payload[13:]
    assert dissect(frame(unknown_type)).details["auth"] == "hmac (auth_format)"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param({"ttl": 254}, "ttl", id="9568 §7.1 multicast crossed a router"),
        pytest.param({"ttl": 64, "dst": "192.0.2.12"}, "ok", id="unicast may cross one"),
    ],
)
def test_the_hop_limit_counts_for_multicast(header, expected):
    destination = IPv4Address(header.get("dst", str(MULTICAST_V4)))
    payload = vrrp.encode(ADVERT, source=SOURCE, destination=destination)
    assert dissect(frame(payload, **header)).verdict == expected


ETHER = bytes(12)
STARTS = (
    ETHER + b"\x08\x06",
    ETHER + b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02",
    frame(b""),
    frame(b"\x21\x0a\x64\xff"),
    frame(b"\x31\x0a\x64\x02"),
    bytes(Ether() / IP(proto=112, ihl=15, len=9)),
    bytes(Ether() / IPv6(nh=112, plen=40)),
    bytes(Ether() / IPv6(nh=112, plen=9)) + b"\x31\x0a\x64\x02",
    bytes(Ether() / IPv6(nh=58, hlim=255, plen=32)) + b"\x87\0",
    bytes(Ether() / IPv6(nh=58, hlim=255, plen=32)) + b"\x88\0" + bytes(22),
)


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=120))
def test_no_frame_raises(start, rest):
    """Every frame that the kernel filter lets through begins like one of these."""
    assert isinstance(dissect(start + rest), Seen)


def test_without_scapy_it_names_what_to_install():
    blocked = (
        "import sys; sys.modules['scapy'] = None\n"
        "import argparse; from havip.commands import watch\n"
        "parser = argparse.ArgumentParser(); watch.add_parser(parser.add_subparsers())\n"
        "arguments = parser.parse_args(['watch']); sys.exit(arguments.command(arguments))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", blocked), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'havip[watch]'" in done.stderr
    assert "Traceback" not in done.stderr
