"""What an attacker, a broken host or a sick service can send: it costs no move and no traceback."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from cluster import (
    HANG_S,
    adverts,
    announcements,
    metric,
    others,
    priorities,
    router,
    settled,
    start,
    wait_for_adverts,
)
from patience import becomes, wait_until

from havip.netlab import Host, Lab, Process
from havip.netlab.namespace import inside
from havip.wire import vrrp
from havip.wire.vrrp import MULTICAST_V4, Advert

VIP = IPv4Address("10.77.0.100")
ATTACKER = IPv4Address("10.77.0.66")
ATTACKER_MAC = bytes.fromhex("0277000000aa")
GROUP_MAC = bytes.fromhex("01005e000012")
BROADCAST_MAC = b"\xff" * 6

# Sends the frames of a file over and over, at a pace, so many in all.
FLOOD = """\
import os, socket, sys, time
# An attacker has a machine of his own: below the daemons, above whatever else runs here.
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
path, per_second, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = open(path, "rb").read()
frames = []
while data:
    size = int.from_bytes(data[:2])
    frames.append(data[2 : 2 + size])
    data = data[2 + size :]
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
begun_at = time.monotonic()
tried = sent = 0
while tried < count:
    due = min(int((time.monotonic() - begun_at) * per_second), count)
    for _ in range(min(due - tried, 500)):
        try:
            link.sendto(frames[tried % len(frames)], ("eth0", 0))
            sent += 1
        except OSError:
            pass
        tried += 1
    time.sleep(0.005)
print("sent", sent, file=sys.stderr)
"""


@pytest.fixture
def pair(make_lab) -> Lab:
    return make_lab(hosts=2)


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2)


def packet(
    payload: bytes,
    *,
    source: IPv4Address = ATTACKER,
    destination: IPv4Address = MULTICAST_V4,
    ttl: int = 255,
    mac: bytes = ATTACKER_MAC,
) -> bytes:
    """A frame with an IPv4 packet of protocol 112."""
    head = bytearray(20)
    head[0], head[8], head[9] = 0x45, ttl, 112
    head[2:4] = (20 + len(payload)).to_bytes(2)
    head[12:16], head[16:20] = source.packed, destination.packed
    head[10:12] = checksum(bytes(head))
    return GROUP_MAC + mac + b"\x08\x00" + bytes(head) + payload


def advert(priority: int = 100, vip: IPv4Address = VIP, source: IPv4Address = ATTACKER) -> bytes:
    return vrrp.encode(
        Advert(
            version=3,
            virtual_router_id=10,
            priority=priority,
            advert_interval_s=0.1,
            addresses=(vip,),
        ),
        source=source,
        destination=MULTICAST_V4,
    )


def malformed() -> list[bytes]:
    """Frames of the right VRID, so that no filter in the kernel stops them."""
    good = advert()
    bad_sum = good[:6] + bytes((good[6] ^ 0xFF, good[7])) + good[8:]
    chance = random.Random(7)
    frames = [
        packet(good, ttl=254),
        packet(bad_sum),
        packet(good[:5]),
        packet(good[:9]),
        packet(good + b"\0" * 5),
        packet(bytes((0x51,)) + good[1:]),
        packet(bytes((0x3F,)) + good[1:]),
        packet(good[:3] + b"\0" + good[4:]),
        packet(good[:3] + b"\xff" + good[4:]),
        packet(b"\x21\x0a"),
    ]
    for _ in range(40):
        size = chance.randrange(2, 200)
        frames.append(packet(bytes((chance.randrange(256), 10)) + chance.randbytes(size)))
    return frames


def flood(lab: Lab, frames: list[bytes], *, per_second: int, count: int) -> Process:
    """From the client, in a process of its own."""
    path = lab.directory / f"flood-{len(lab.client.processes)}"
    path.write_bytes(b"".join(len(frame).to_bytes(2) + frame for frame in frames))
    return lab.client.popen(
        (sys.executable, "-I", "-S", "-c", FLOOD, str(path), str(per_second), str(count)),
        name="flood",
    )


def sent_by(process: Process) -> int:
    assert process.wait(HANG_S) == 0
    return int(process.log_text().split()[-1])


def put(host: Host, *frames: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
            for frame in frames:
                link.sendto(frame, ("eth0", 0))

    inside(host.namespace, send)


def assert_unmoved(lab: Lab, first: Host, since_at: float) -> None:
    """The holder kept it through everything, and no daemon stumbled."""
    events = [e for e in lab.watch.vip_events(lab.vip_address) if e.at > since_at]
    assert events == []
    assert lab.watch.holders(lab.vip_address) == (first.name,)
    for host in lab.hosts:
        assert host.get("/healthz")[0] == 200
    for text in lab.logs().values():
        assert "Traceback" not in text


def test_a_flood_of_malformed_adverts_costs_no_move(make_lab) -> None:
    # The recorder would store 30,000 frames and take part of the cores.
    lab = make_lab(hosts=2, capture=False)
    for host in lab.hosts:
        host.serve()
    daemons = start(lab)
    first = settled(lab)
    since_at = time.monotonic()
    sent = sent_by(flood(lab, malformed(), per_second=10_000, count=30_000))
    assert sent > 27_000, "they left indeed"
    for host in lab.hosts:
        daemons[host.name].wait_for(
            lambda host=host: metric(host, "havip_adverts_dropped_total") > 0.9 * sent,
            HANG_S,
            "counts few drops",
        )
    assert_unmoved(lab, first, since_at)
    for host in lab.hosts:
        for reason in ("ttl", "checksum", "truncated", "length", "version", "type"):
            assert metric(host, "havip_adverts_dropped_total", reason=reason) > 0, reason
        assert metric(host, "havip_adverts_dropped_total", reason="address_count") > 0
    (second,) = others(lab, first)
    becomes(lambda: router(lab[second])["state"], "backup")


def test_a_flood_of_priority_0_from_a_stranger_is_not_multiplied(make_lab) -> None:
    """RFC 9568 §6.4.3 answers each at once: an attacker must not set the holder's pace."""
    lab = make_lab(hosts=2)
    start(lab)
    first = settled(lab)
    since_at = time.monotonic()
    attack = flood(lab, [packet(advert(0))], per_second=2000, count=2000)
    sent = sent_by(attack)
    wait_for_adverts(lab, first, 5, time.monotonic())
    assert_unmoved(lab, first, since_at)
    answered = len(adverts(lab, first, since_at))
    assert answered < sent / 4, f"{answered} adverts for {sent}"


@pytest.mark.parametrize("priorities_sent", [(1,), (50,), (50, 1)], ids=str)
def test_a_flood_of_lesser_adverts_is_not_multiplied(
    make_lab, priorities_sent: tuple[int, ...]
) -> None:
    """50 and then 1 is how a healed partition's loser speaks, which deserves an answer."""
    lab = make_lab(hosts=2)
    start(lab)
    first = settled(lab)
    since_at = time.monotonic()
    attack = flood(lab, [packet(advert(p)) for p in priorities_sent], per_second=2000, count=2000)
    sent = sent_by(attack)
    wait_for_adverts(lab, first, 5, time.monotonic())
    assert_unmoved(lab, first, since_at)
    assert len(adverts(lab, first, since_at)) < sent / 4
    assert len(announcements(lab, first, since_at)) < sent / 4


def test_adverts_spoofed_as_the_holder_itself_take_nothing_from_it(pair: Lab) -> None:
    """Its kernel takes them for martians; the backup follows whom it followed before."""
    start(pair, vrrp_no_preempt=True)
    first = settled(pair)
    since_at = time.monotonic()
    source = IPv4Address(first.ipv4)
    put(pair.client, *[packet(advert(255, source=source), source=source)] * 20)
    wait_for_adverts(pair, first, 20, since_at)
    assert_unmoved(pair, first, since_at)


def test_a_holder_outlives_a_burst_of_priority_255(pair: Lab) -> None:
    """VRRP without HMAC must believe a better router; once that falls silent, one holds again."""
    start(pair)
    first = settled(pair)
    since_at = time.monotonic()
    sent = sent_by(flood(pair, [packet(advert(255))], per_second=1000, count=1000))
    assert sent
    pair.watch.wait_for_holder(pair.vip_address, timeout_s=HANG_S)
    last = pair.watch.vip_events(pair.vip_address)[-1]
    assert last.present
    assert last.at > since_at
    (daemon,) = first.processes
    daemon.wait_for_log("higher_priority")
    for text in pair.logs().values():
        assert "Traceback" not in text


def test_a_flood_of_foreign_addresses_is_an_alarm_not_a_move(pair: Lab) -> None:
    daemons = start(pair)
    first = settled(pair)
    since_at = time.monotonic()
    frames = [packet(advert(254, IPv4Address(f"10.77.0.{n}"))) for n in range(120, 140)]
    assert sent_by(flood(pair, frames, per_second=2000, count=2000))
    daemons[first.name].wait_for_log("vrid_collision")
    wait_for_adverts(pair, first, 10, time.monotonic())
    assert_unmoved(pair, first, since_at)
    # An alarm repeats rarely, however often its cause does.
    assert daemons[first.name].log_text().count("vrid_collision") < 10


def arp(
    *, op: int = 1, sender: IPv4Address = VIP, target: IPv4Address = VIP, mac: bytes = ATTACKER_MAC
) -> bytes:
    head = b"\0\1\x08\0\6\4" + op.to_bytes(2)
    return BROADCAST_MAC + mac + b"\x08\x06" + head + mac + sender.packed + bytes(6) + target.packed


def test_spoofed_announcements_are_answered_with_restraint(pair: Lab) -> None:
    for host in pair.hosts:
        host.serve()
    start(pair)
    first = settled(pair)
    prober = pair.client.probe(str(pair.vip_address))
    prober.wait_for_answer(first.name)
    since_at = time.monotonic()
    stolen = [arp(), arp(op=2), arp(mac=bytes.fromhex(first.mac.replace(":", "")))]
    sent = sent_by(flood(pair, stolen, per_second=2000, count=2000))
    wait_for_adverts(pair, first, 20, time.monotonic())
    assert_unmoved(pair, first, since_at)
    assert len(announcements(pair, first, since_at)) < sent / 20
    wait_until(lambda: metric(first, "havip_address_conflicts_total") > 0, "counts none")
    prober.wait_for_answer(first.name, since_at=time.monotonic())


def test_malformed_arp_and_neighbour_frames_are_counted(make_lab) -> None:
    lab = make_lab(hosts=2)
    start(lab, vip_address_cidr=f"{lab.vip},{lab.vip6}")
    first = settled(lab)
    settled(lab, lab.vip6_address)
    since_at = time.monotonic()
    chance = random.Random(3)
    vip6 = lab.vip6_address.packed
    neighbour = bytes.fromhex("333300000001") + ATTACKER_MAC + b"\x86\xdd"
    frames = []
    for size in range(0, 60, 3):
        whole = arp()
        frames.append(whole[: 14 + size])
        frames.append(whole[:14] + whole[14:20] + chance.randbytes(2) + whole[22:])
        body = b"\x88\0\0\0\x20\0\0\0" + vip6 + chance.randbytes(size)
        header = b"\x60\0\0\0" + len(body).to_bytes(2) + b"\x3a\xff" + vip6 + vip6
        frames.append(neighbour + header + body)
        frames.append((neighbour + header + body)[: 14 + size])
        # An option of length zero must not be walked for ever.
        frames.append(
            neighbour + header[:5] + b"\x20" + header[6:] + body[:24] + b"\2\0" + bytes(6)
        )
    put(lab.client, *[frame.ljust(14, b"\0") for frame in frames] * 5)
    wait_for_adverts(lab, first, 20, since_at)
    assert_unmoved(lab, first, since_at)
    wait_until(lambda: metric(first, "havip_frames_malformed_total") > 0, "counts none")


# The status port


@contextlib.contextmanager
def connected(host: Host, count: int) -> Iterator[list[socket.socket]]:
    """Connections to the status port."""
    with contextlib.ExitStack() as stack:

        def connect() -> list[socket.socket]:
            return [
                stack.enter_context(socket.create_connection(("127.0.0.1", 9650), timeout=5))
                for _ in range(count)
            ]

        yield inside(host.namespace, connect)


REQUESTS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\0" * 100_000, id="zeros"),
    pytest.param(bytes(range(256)) * 64, id="bytes"),
    pytest.param(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\xaa" * 500, id="TLS hello"),
    pytest.param(b"GET " + b"/a" * 50_000 + b" HTTP/1.1\r\n\r\n", id="long target"),
    pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 500_000, id="long header"),
    pytest.param(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", id="many headers"),
    pytest.param(b"GET /\xff\xfe\xc3 HTTP/1.1\r\nHost: x\r\n\r\n", id="target not UTF-8"),
    pytest.param(b"POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", id="POST"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="negative length"),
    pytest.param(
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        id="huge chunk",
    ),
    pytest.param(b"GET http://x/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", id="absolute"),
]


@pytest.fixture(scope="module")
def status_host(make_shared_lab) -> Host:
    """One daemon for all: what one request breaks, the next one finds."""
    lab = make_shared_lab(hosts=1)
    start(lab)
    settled(lab)
    return lab["h1"]


@pytest.mark.parametrize("request_bytes", REQUESTS)
def test_garbage_on_the_status_port(status_host: Host, request_bytes: bytes) -> None:
    lab = status_host.lab
    since_at = time.monotonic()
    with connected(status_host, 1) as (client,):
        with contextlib.suppress(ConnectionError):
            client.sendall(request_bytes)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while data := client.recv(65536):
                answer += data
    # Answered with an error of HTTP, or closed; never with 200, but for the odd and valid ones.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or b"havip" in answer
    assert_unmoved(lab, status_host, since_at)


def test_connections_that_say_nothing_keep_no_probe_out(status_host: Host) -> None:
    lab = status_host.lab
    since_at = time.monotonic()
    with connected(status_host, 150) as clients:
        for number, client in enumerate(clients):
            with contextlib.suppress(OSError):
                client.sendall(b"GET /sta"[: number % 8])
        assert status_host.get("/healthz") == (200, "ok\n")
        assert status_host.get("/status")[0] == 200
    assert_unmoved(lab, status_host, since_at)
    assert set(priorities(adverts(lab, status_host, since_at))) <= {100}


# Scrapes without end from many connections at once, and tells of each hundred answers.
SCRAPES = """\
import itertools, socket, sys, threading
address, port = sys.argv[1], int(sys.argv[2])
answers = itertools.count(1)
def scrape():
    while True:
        try:
            with socket.create_connection((address, port), timeout=2) as link:
                link.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
                if link.recv(65536)[:15] == b"HTTP/1.1 200 OK" and next(answers) % 100 == 0:
                    print("a hundred answers", file=sys.stderr, flush=True)
        except OSError:
            pass
for _ in range(40): threading.Thread(target=scrape).start()
"""


def test_a_flood_of_scrapes_keeps_no_probe_out_and_moves_nothing(pair: Lab) -> None:
    """`metricsListen` is where a network comes in."""
    start(pair, metrics_listen="0.0.0.0:9651")
    first = settled(pair)
    since_at = time.monotonic()
    flood = pair.client.popen((sys.executable, "-c", SCRAPES, first.ipv4, "9651"), name="scrapes")
    flood.wait_for_log("a hundred")
    for _ in range(50):
        assert first.get("/healthz") == (200, "ok\n")
    before = flood.log_text().count("a hundred")
    flood.wait_for(
        lambda: flood.log_text().count("a hundred") > before, HANG_S, "is no flood any more"
    )
    assert_unmoved(pair, first, since_at)


# A sick service


Durations = queue.SimpleQueue[tuple[float, float]]


class Service:
    """Answers well, or in a sick way, on a port of the host's loopback."""

    def __init__(self, host: Host, port: int) -> None:
        self._listener = inside(
            host.namespace, lambda: socket.create_server(("127.0.0.1", port), backlog=50)
        )
        self._illness: tuple[str, Durations] = ("", queue.SimpleQueue())
        self._stopped = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        # Wakes accept() and recv(), which close() alone does not.
        for each in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def fall_ill(self, sickness: str) -> Durations:
        """Returns where it tells from when until when each probe lasted, once that is over."""
        probes: Durations = queue.SimpleQueue()
        self._illness = sickness, probes
        return probes

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection, *self._illness))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket, sickness: str, probes: Durations) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            # The daemon also watches an idle connection, over which it asks nothing.
            if not connection.recv(4096):
                return
            asked_at = time.monotonic()
            with contextlib.suppress(OSError):
                self._answer(connection, sickness)
                # Until whoever asked has enough.
                connection.recv(1)
            probes.put((asked_at, time.monotonic()))

    def _answer(self, connection: socket.socket, sickness: str) -> None:
        match sickness:
            case "":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            case "hangs":
                pass
            case "drips":
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200:
                    connection.sendall(bytes((byte,)))
                    if self._stopped.wait(0.02):
                        return
            case "floods":
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while not self._stopped.is_set():
                    connection.sendall(b"y" * 65536)
            case "headers":
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not self._stopped.is_set():
                    connection.sendall(b"X: " + b"y" * 65536 + b"\r\n")
            case "garbage":
                connection.sendall(b"\0\xff" * 5000)
            case "redirects":
                connection.sendall(
                    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )


@pytest.fixture(scope="module")
def sick_lab(make_shared_lab) -> Iterator[tuple[Lab, Service]]:
    """A holder that checks a service which the tests make ill, and a backup without a check."""
    lab = make_shared_lab(hosts=2, clients=0)
    with Service(lab["h1"], 8081) as service:
        start(
            lab,
            lab["h1"],
            vrrp_priority=150,
            check_service_url="http://127.0.0.1:8081/",
            check_service_interval=0.4,
            check_service_timeout=0.3,
            check_service_fail_after=1000,
        )
        lab.watch.wait_for_holder(lab.vip_address, "h1")
        start(lab, lab["h2"])
        settled(lab)
        yield lab, service


@pytest.mark.parametrize(
    "sickness", ["hangs", "drips", "floods", "headers", "garbage", "redirects"]
)
def test_a_sick_service_delays_no_advert(sick_lab: tuple[Lab, Service], sickness: str) -> None:
    """The check fails later, as configured; until then the adverts go on as if nothing were."""
    lab, service = sick_lab
    host = lab["h1"]
    probes = service.fall_ill(sickness)
    since_at = time.monotonic()
    for _ in range(2):
        asked_at, ended_at = probes.get(timeout=HANG_S)
        if sickness in ("hangs", "drips"):
            # It lasts as long as its timeout, and so would a check that blocked the loop.
            during = [f for f in adverts(lab, host, asked_at) if f.at < ended_at]
            assert len(during) >= 2
    wait_for_adverts(lab, host, 10, time.monotonic())
    assert_unmoved(lab, host, since_at)
    # A body without an end is no sickness: the status is good, and no more is read than needed.
    becomes(lambda: host.status()["checks"][0]["last_result"] == "passed", sickness == "floods")
    (told,) = host.status()["checks"]
    assert told["healthy"], "it fails after 1000"
