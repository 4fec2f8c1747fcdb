"""`havip watch` on real packets: what it names, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from patience import HANG_S
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from havip.netlab import Lab, keepalived_config
from havip.netlab.host import Host, Process
from havip.netlab.namespace import inside
from havip.wire import arp, ndp, vrrp
from havip.wire.auth import SigningKey, Stamp
from havip.wire.vrrp import MULTICAST_V4, MULTICAST_V6, Advert, AuthType

HAVIP = (sys.executable, "-m", "havip")
SENDER = "02:aa:00:00:00:01"
MAC = bytes.fromhex(SENDER.replace(":", ""))
NODE4, VIP4 = IPv4Address("10.77.0.33"), IPv4Address("10.77.0.100")
NODE6, VIP6 = IPv6Address("fe80::33"), IPv6Address("fd77::100")


@pytest.fixture
def lab(make_lab) -> Lab:
    return make_lab(hosts=2, clients=0)


def watch(host: Host, *args: str, stdout: int | None = None) -> Process:
    """Start it, and wait until it listens."""
    process = host.popen((*HAVIP, "watch", *args), name="watch", stdout=stdout)
    process.wait_for_log("watching")
    return process


def send(host: Host, *frames: object, interface: str = "eth0") -> None:
    def put() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
            for frame in frames:
                link.sendto(bytes(frame), (interface, 0))

    inside(host.namespace, put)


def records(process: Process) -> list[dict[str, object]]:
    """What it printed about the sender of these tests; the lab's hosts talk too."""
    lines = (line for line in process.log_text().splitlines(keepends=True) if line[0] == "{")
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in told if record["mac"] == SENDER]


def in_ethernet(layer: object) -> object:
    return Ether(src=SENDER, dst="ff:ff:ff:ff:ff:ff") / layer


def advert(version: int = 3, *, ttl: int = 255, damaged: bool = False, signed: bool = False):
    message = Advert(
        version=version,
        virtual_router_id=10,
        priority=100,
        advert_interval_s=1.0,
        addresses=(VIP4,),
        auth_type=AuthType.PASS if version == 2 else AuthType.NONE,
        password=b"s3cret" if version == 2 else b"",
    )
    key = SigningKey(7, b"k" * 32) if signed else None
    payload = vrrp.encode(
        message,
        source=NODE4,
        destination=MULTICAST_V4,
        key=key,
        stamp=Stamp.from_utc(1_700_000_000, 0),
    )
    if damaged:
        payload = payload[:2] + b"\xfe" + payload[3:]
    return in_ethernet(
        IP(src=str(NODE4), dst=str(MULTICAST_V4), ttl=ttl, proto=vrrp.PROTOCOL) / payload
    )


def advert6():
    message = Advert(
        version=3,
        virtual_router_id=10,
        priority=100,
        advert_interval_s=1.0,
        addresses=(VIP6,),
    )
    payload = vrrp.encode(message, source=NODE6, destination=MULTICAST_V6)
    header = IPv6(src=str(NODE6), dst=str(MULTICAST_V6), hlim=255, nh=vrrp.PROTOCOL)
    return in_ethernet(header / payload)


EXPECTED = [
    (advert(2), "vrrp", "v2", "ok", {"auth": "pass", "addresses": ["10.77.0.100"]}),
    (advert(), "vrrp", "v3", "ok", {"auth": "none", "priority": 100, "advert_interval_s": 1.0}),
    (advert(signed=True), "vrrp", "v3", "ok", {"auth": "hmac", "key_id": 7}),
    (advert6(), "vrrp", "v3", "ok", {"source": "fe80::33", "addresses": ["fd77::100"]}),
    (advert(damaged=True), "vrrp", "v3", "checksum", {"priority": 254, "virtual_router_id": 10}),
    (advert(ttl=64), "vrrp", "v3", "ttl", {"hop_limit": 64}),
    (
        arp.request(mac=MAC, source=NODE4, target=VIP4),
        *("arp", "request", "ok", {"claims": "10.77.0.33", "asks": "10.77.0.100", "at": SENDER}),
    ),
    (arp.probe(mac=MAC, target=VIP4), "arp", "probe", "ok", {"claims": None}),
    (
        arp.announcement(mac=MAC, address=VIP4),
        *("arp", "announcement", "ok", {"claims": "10.77.0.100"}),
    ),
    (
        in_ethernet(ARP(op=2, hwsrc=SENDER, psrc=str(VIP4), pdst="10.77.0.11")),
        *("arp", "reply", "ok", {"claims": "10.77.0.100"}),
    ),
    (
        in_ethernet(ARP(op=9, hwsrc=SENDER, psrc=str(VIP4), pdst="10.77.0.11")),
        *("arp", "operation 9", "malformed", {}),
    ),
    (
        ndp.solicit(mac=MAC, source=NODE6, target=VIP6),
        *("nd", "solicitation", "ok", {"claims": "fe80::33", "asks": "fd77::100"}),
    ),
    (ndp.probe(mac=MAC, target=VIP6), "nd", "probe", "ok", {"asks": "fd77::100"}),
    (
        ndp.announcement(mac=MAC, address=VIP6),
        *("nd", "announcement", "ok", {"claims": "fd77::100", "at": SENDER}),
    ),
    (
        in_ethernet(
            IPv6(src=str(VIP6), dst="ff02::1", hlim=64)
            / ICMPv6ND_NA(S=0, tgt=str(VIP6))
            / ICMPv6NDOptDstLLAddr(lladdr=SENDER)
        ),
        *("nd", "announcement", "malformed", {}),
    ),
]
FOREIGN = (
    in_ethernet(IP(src=str(NODE4), dst="10.77.0.255") / UDP(sport=9, dport=9) / bytes(60)),
    in_ethernet(IPv6(src=str(NODE6), dst="ff02::1", hlim=255) / ICMPv6EchoRequest()),
    in_ethernet(Dot1Q(vlan=5) / ARP(op=1, hwsrc=SENDER, psrc=str(NODE4), pdst=str(VIP4))),
)


def test_every_kind_of_packet_is_named_and_judged(lab: Lab) -> None:
    process = watch(lab["h1"], "--interface", "eth0", "--output", "json")
    send(lab["h2"], *FOREIGN, *(frame for frame, *_ in EXPECTED))
    process.wait_for(
        lambda: len(records(process)) >= len(EXPECTED), HANG_S, "has not shown all packets"
    )

    told = records(process)
    for record, (_, protocol, kind, verdict, details) in zip(told, EXPECTED, strict=True):
        assert (record["protocol"], record["kind"], record["verdict"]) == (protocol, kind, verdict)
        assert record.items() >= details.items()
        assert (record["interface"], record["direction"]) == ("eth0", "in")
    assert "s3cret" not in process.log_text()
    assert [record["time"] for record in told] == sorted(record["time"] for record in told)


@pytest.mark.parametrize(
    ("watcher", "vip", "options", "expected"),
    [
        pytest.param("h2", Lab.vip, {"version": 3}, ("in ", "VRRP v3", "each 0.1 s"), id="v3"),
        pytest.param(
            "h2",
            Lab.vip,
            {"version": 2, "password": "s3cret"},
            ("in ", "VRRP v2", "each 1 s", "auth pass"),
            id="v2 PASS",
        ),
        pytest.param("h2", Lab.vip6, {"version": 3}, ("in ", "VRRP v3", "fd77::100"), id="IPv6"),
        pytest.param("h1", Lab.vip, {"version": 3}, ("out", "VRRP v3"), id="v3, its own host"),
        pytest.param("h1", Lab.vip6, {"version": 3}, ("out", "VRRP v3"), id="IPv6, its own host"),
    ],
)
def test_keepalived_is_read(lab: Lab, watcher, vip, options, expected) -> None:
    process = watch(lab[watcher])
    lab["h1"].keepalived(keepalived_config(vip, priority=150, **options))

    def adverts() -> list[str]:
        return [line for line in process.log_text().splitlines() if "VRRP" in line]

    process.wait_for(lambda: len(adverts()) >= 2, HANG_S, "no adverts")
    line = adverts()[0]
    assert all(words in line for words in (*expected, "vrid 10", "priority 150", "[ok]")), line
    assert "s3cret" not in process.log_text()


def test_count_ends_it(lab: Lab) -> None:
    process = watch(lab["h1"], "--count", "3", "--output", "json")
    send(lab["h2"], *[advert()] * 5)
    assert process.wait(HANG_S) == 0
    assert sum(line.startswith("{") for line in process.log_text().splitlines()) == 3


def test_ctrl_c_ends_it_cleanly(lab: Lab) -> None:
    process = watch(lab["h1"])
    process.send(signal.SIGINT)
    assert process.wait(HANG_S) == 0
    assert "Traceback" not in process.log_text()


def test_it_ends_with_the_reader_of_its_pipe(lab: Lab) -> None:
    """Without waiting for a packet that may never come."""
    reader, writer = os.pipe()
    try:
        process = watch(lab["h1"], "--interface", "eth0", stdout=writer)
    finally:
        os.close(writer)
        os.close(reader)
    assert process.wait(HANG_S) == 0
    assert "Traceback" not in process.log_text()
    assert "BrokenPipe" not in process.log_text()


def test_it_outlives_a_link_that_goes_down_but_not_one_that_is_removed(lab: Lab) -> None:
    host = lab["h1"]
    host.ip("link add w0 type veth peer name w1")
    host.ip("link set w1 up")
    host.ip("link set w0 up")
    process = watch(host, "--interface", "w0", "--output", "json")
    host.ip("link set w0 down")
    host.ip("link set w0 up")
    send(host, advert(), interface="w0")
    process.wait_for(
        lambda: len(records(process)) == 1, HANG_S, "saw nothing after the link came up"
    )
    assert records(process)[0]["direction"] == "out"
    host.ip("link delete w0")
    assert process.wait(HANG_S) == 1
    assert "w0 is gone" in process.log_text()
    assert "Traceback" not in process.log_text()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(("--interface", "eth7"), ("'eth7'", "lo, eth0"), id="unknown interface"),
        pytest.param(("--count", "0"), ("--count", "'0'"), id="count 0"),
        pytest.param(("--count", "many"), ("--count", "'many'"), id="count in words"),
        pytest.param(("--output", "xml"), ("--output", "xml"), id="unknown output"),
    ],
)
def test_bad_arguments(lab: Lab, args, expected) -> None:
    done = lab["h1"].run((*HAVIP, "watch", *args), check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(words in done.stderr for words in expected), done.stderr


def test_without_cap_net_raw_it_names_the_remedy(lab: Lab) -> None:
    without = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--")
    done = lab["h1"].run((*without, *HAVIP, "watch"), check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "CAP_NET_RAW" in done.stderr
    assert "NET_RAW]" in done.stderr
