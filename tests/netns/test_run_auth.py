"""HMAC between real daemons: wrong clocks, replays, roll-out and rotation without a move."""

from __future__ import annotations

import signal
import socket
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
from cluster import (
    HANG_S,
    adverts,
    decisions,
    holder,
    message,
    metric,
    others,
    priorities,
    reasons,
    router,
    settled,
    start,
    wait_for_adverts,
)
from patience import becomes

from havip.netlab import Frame, Host, Lab, Process
from havip.netlab.namespace import inside

KEY_1 = "5f" * 32
KEY_2 = "a7" * 48
TRAILER = 28
HOUR_S = 3600

# CLOCK_REALTIME has no namespace, so a wrong clock is put into the daemon: the file's number of
# seconds is added to what time.time() says, from before its first line runs.
# It looks at its clock ten times as often as by default, which is no setting.
WRONG_CLOCK = """\
import sys, time
real = time.time
path = sys.argv.pop(1)
time.time = lambda: real() + float(open(path).read())
from havip import daemon
from havip.__main__ import main
daemon.CLOCK_CHECK_S = 0.1
sys.exit(main())
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"1: {KEY_1}\n")
    path.chmod(0o600)
    return path


def start_with_clock(lab: Lab, host: Host, clock: Path, **settings: object) -> Process:
    """As `start`, with a clock that is off by as many seconds as the file says."""
    settings.setdefault("vip_address_cidr", lab.vip)
    env = {f"HAVIP_{name.upper()}": str(value) for name, value in settings.items()}
    process = host.popen(
        (sys.executable, "-c", WRONG_CLOCK, str(clock), "run"),
        name="havip",
        env=env,
        is_daemon=True,
    )
    process.wait_for(host.is_ready, HANG_S, "is not ready")
    return process


def key_id(frame: Frame) -> int | None:
    """Of an IPv4 advert of version 3; None: unsigned."""
    told = message(frame)
    trailer = told[8 + 4 * told[3] :]
    return trailer[1] if len(trailer) == TRAILER else None


def moves(lab: Lab, since_at: float) -> list[str]:
    return [e.host for e in lab.watch.vip_events(lab.vip_address) if e.at > since_at]


def put(host: Host, *frames: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as link:
            for frame in frames:
                link.sendto(frame, ("eth0", 0))

    inside(host.namespace, send)


def test_signed_adverts_elect_and_hand_over(make_lab, keys: Path) -> None:
    lab = make_lab(hosts=2)
    for host in lab.hosts:
        host.serve()
    daemons = start(lab, auth_hmac_keys_file=keys)
    first = settled(lab)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first.name)
    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(lab)
    answered_at = prober.wait_for_answer(second.name, since_at=stopped_at)
    assert prober.seen(stopped_at, answered_at + 0.3).lost == 0
    assert {key_id(f) for host in lab.hosts for f in adverts(lab, host)} == {1}
    for text in (second.get("/status")[1], second.metrics(), *lab.logs().values()):
        assert KEY_1 not in text


@pytest.mark.parametrize("off_s", [-HOUR_S, HOUR_S], ids=["an hour behind", "an hour ahead"])
@pytest.mark.parametrize("replay", ["monotonic", "time"])
def test_a_clock_that_is_wrong_makes_no_second_holder(
    make_lab, keys: Path, tmp_path: Path, off_s: int, replay: str
) -> None:
    lab = make_lab(hosts=2)
    clock = tmp_path / "clock"
    clock.write_text(str(off_s))
    wrong, right = lab.hosts
    options = {"auth_hmac_keys_file": keys, "auth_hmac_replay": replay}
    daemon = start_with_clock(lab, wrong, clock, **options)
    start(lab, right, **options)
    first = settled(lab)
    (second,) = others(lab, first)
    since_at = time.monotonic()
    wait_for_adverts(lab, first, 20, since_at)
    assert moves(lab, since_at) == []
    assert adverts(lab, second, since_at) == []
    told_at = datetime.fromisoformat(decisions(daemon)[0]["time"]).timestamp()
    assert abs(told_at - time.time()) > HOUR_S / 2, "its clock is wrong indeed"
    if replay == "time":
        # Only here the two can go on disagreeing: otherwise one lifts its stamps to the other's.
        assert metric(lab[second], "havip_clock_alarms_total") > 0
        lab[second].processes[-1].wait_for_log("clock of the peer is off")

    # Each succeeds the other when that is gone.
    first.power_off()
    lab.watch.wait_for_holder(lab.vip_address, second, timeout_s=HANG_S)
    assert KEY_1 not in daemon.log_text()


def test_a_clock_that_is_set_right_moves_nothing(make_lab, keys: Path, tmp_path: Path) -> None:
    """NTP arrives an hour late, or takes an hour back: on the holder, then on the backup."""
    lab = make_lab(hosts=2)
    clocks = {host.name: tmp_path / host.name for host in lab.hosts}
    for host in lab.hosts:
        clocks[host.name].write_text("0")
        start_with_clock(lab, host, clocks[host.name], auth_hmac_keys_file=keys)
    first = settled(lab)
    (second,) = others(lab, first)
    since_at = time.monotonic()
    for name, off_s in ((first.name, -HOUR_S), (second, HOUR_S), (first.name, HOUR_S)):
        replace(clocks[name], str(off_s))
        # In which the daemon looks at its clock again and again.
        wait_for_adverts(lab, first, 10, time.monotonic())
    assert moves(lab, since_at) == []
    assert adverts(lab, second, since_at) == []
    stamps = [message(frame)[16:24] for frame in adverts(lab, first, since_at)]
    assert stamps == sorted(stamps), "a sender's stamps never fall"


def replace(path: Path, text: str) -> None:
    """In one step: the daemon may read at any moment."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_replayed_adverts_dethrone_nobody(make_lab, keys: Path) -> None:
    lab = make_lab(hosts=2)
    options = {"auth_hmac_keys_file": keys}
    better = start(lab, lab["h1"], vrrp_priority=150, **options)["h1"]
    holder(lab)
    start(lab, lab["h2"], vrrp_priority=100, **options)
    settled(lab)
    recorded = [frame.data for frame in adverts(lab, "h1")]
    assert better.stop() == 0
    lab.watch.wait_for_holder(lab.vip_address, "h2")
    since_at = time.monotonic()
    put(lab.client, *recorded)
    wait_for_adverts(lab, "h2", 10, time.monotonic())
    assert moves(lab, since_at) == []
    assert metric(lab["h2"], "havip_adverts_dropped_total", reason="auth_replay") == len(recorded)


def test_unsigned_and_damaged_adverts_are_not_believed(make_lab, keys: Path) -> None:
    lab = make_lab(hosts=1)
    start(lab, auth_hmac_keys_file=keys)
    first = holder(lab)
    genuine = adverts(lab, first)[-1].data
    # Another source, since the holder drops its own; a priority that would win.
    ip = bytearray(genuine[14:34])
    ip[15] = 99
    ip[10:12] = checksum(bytes(ip[:10]) + b"\0\0" + bytes(ip[12:]))
    body = bytearray(genuine[34:])
    body[2] = 254
    body[6:8] = b"\0\0"
    body[6:8] = checksum(bytes(body[:12]))
    signed = genuine[:14] + bytes(ip) + bytes(body)
    ip[2:4] = (20 + 12).to_bytes(2)
    ip[10:12] = b"\0\0"
    ip[10:12] = checksum(bytes(ip))
    unsigned = genuine[:14] + bytes(ip) + bytes(body[:12])
    since_at = time.monotonic()
    put(lab.client, signed, unsigned)
    wait_for_adverts(lab, first, 10, since_at)
    assert moves(lab, since_at) == []
    assert set(priorities(adverts(lab, first, since_at))) == {100}
    assert metric(first, "havip_adverts_dropped_total", reason="auth_tag") == 1
    assert metric(first, "havip_adverts_dropped_total", reason="auth_missing") == 1


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2)


def test_a_newcomer_with_a_wrong_key_takes_nothing(make_lab, keys: Path, tmp_path: Path) -> None:
    """It hears nobody that it may believe, but the VIP answers its ARP probes."""
    lab = make_lab(hosts=2)
    start(lab, lab["h1"], auth_hmac_keys_file=keys)
    holder(lab)
    wrong = tmp_path / "wrong"
    wrong.write_text(f"1: {KEY_2}\n")
    wrong.chmod(0o600)
    since_at = time.monotonic()
    daemon = start(lab, lab["h2"], auth_hmac_keys_file=wrong)["h2"]
    daemon.wait_for_log("address_in_use")
    assert moves(lab, since_at) == []
    assert adverts(lab, "h2") == []
    assert metric(lab["h2"], "havip_adverts_dropped_total", reason="auth_tag") > 0
    becomes(lambda: reasons(daemon, "refused"), ["address_in_use"])


class Fleet:
    """Two daemons with a file each, changed and reloaded one after the other."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self.files = {host.name: directory / f"{host.name}.yaml" for host in lab.hosts}
        self.daemons: dict[str, Process] = {}
        self.reloads = 0

    def start(self, extra: str) -> None:
        for host in self.lab.hosts:
            self.files[host.name].write_text(f"vipAddressCidr: {self.lab.vip}\n{extra}")
            args = ("--config", str(self.files[host.name]))
            self.daemons[host.name] = host.havip(wait=False, args=args)

    def reload(self, extra: str) -> None:
        """Node by node; after each, the holder goes on and the backup follows."""
        self.reloads += 1
        for host in self.lab.hosts:
            self.files[host.name].write_text(f"vipAddressCidr: {self.lab.vip}\n{extra}")
            self.daemons[host.name].send(signal.SIGHUP)
            self.daemons[host.name].wait_for(self._is_reloaded(host), HANG_S, "no reload")
            first = settled(self.lab)
            wait_for_adverts(self.lab, first, 10, time.monotonic())

    def _is_reloaded(self, host: Host):
        def told() -> bool:
            lines = decisions(self.daemons[host.name])
            told = [line for line in lines if line["event"] == "configuration reloaded"]
            # Not those that a changed file brought meanwhile.
            return [line["because"] for line in told].count("SIGHUP") == self.reloads

        return told


def test_hmac_is_rolled_out_on_running_daemons_without_a_move(
    make_lab, keys: Path, tmp_path: Path
) -> None:
    lab = make_lab(hosts=2)
    fleet = Fleet(lab, tmp_path)
    fleet.start("")
    first = settled(lab)
    since_at = time.monotonic()
    for mode, wanted in (("receive-only", None), ("permissive", 1), ("enforce", 1)):
        fleet.reload(f"authHmacKeysFile: {keys}\nauthHmacMode: {mode}\n")
        assert key_id(adverts(lab, first)[-1]) == wanted
    assert moves(lab, since_at) == []
    (second,) = others(lab, first)
    assert adverts(lab, second, since_at) == []
    becomes(lambda: router(lab[second])["state"], "backup")
    assert lab.watch.holders(lab.vip_address) == (first.name,)


def test_keys_are_rotated_on_running_daemons_without_a_move(
    make_lab, keys: Path, tmp_path: Path
) -> None:
    lab = make_lab(hosts=2)
    fleet = Fleet(lab, tmp_path)
    base = f"authHmacKeysFile: {keys}\nauthRotationDelay: 0\n"
    fleet.start(base)
    first = settled(lab)
    since_at = time.monotonic()
    keys.write_text(f"1: {KEY_1}\n2: {KEY_2}\n")
    for extra, wanted in (("authHmacActiveKey: 1\n", 1), ("authHmacActiveKey: 2\n", 2)):
        fleet.reload(base + extra)
        assert key_id(adverts(lab, first)[-1]) == wanted
    keys.write_text(f"2: {KEY_2}\n")
    fleet.reload(base)
    assert key_id(adverts(lab, first)[-1]) == 2
    assert moves(lab, since_at) == []
    (second,) = others(lab, first)
    assert adverts(lab, second, since_at) == []
    for process in fleet.daemons.values():
        assert KEY_1 not in process.log_text()
        assert KEY_2 not in process.log_text()
