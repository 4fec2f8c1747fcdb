"""The lab itself: it must measure right and leave nothing, or no other test here means much.

Debian's keepalived is the subject, since its behaviour is known.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import HANG_S

from havip.netlab import (
    Forgetting,
    Lab,
    LabError,
    keepalived_config,
    namespace,
    plain_address,
    sweep,
)
from havip.netlab.namespace import names

VIP = "10.77.0.100"


def start_pair(lab: Lab, vip: str = Lab.vip, **options: object) -> None:
    """keepalived on h1 (better) and h2, up to the point where h1 alone has the VIP."""
    for host, priority in ((lab["h1"], 150), (lab["h2"], 100)):
        host.keepalived(keepalived_config(vip, priority=priority, **options))
    address = vip.partition("/")[0]
    lab.watch.wait_for(
        lambda: lab["h1"].has_vip(address) and not lab["h2"].has_vip(address),
        HANG_S,
        f"{address} on h1 alone",
    )


def test_hosts_reach_each_other_and_the_gateway_over_both_families(lab: Lab) -> None:
    for host in lab.hosts:
        host.serve()
    for address in (lab["h2"].ipv4, lab["h2"].ipv6):
        for source in (lab["h1"], lab.client):
            with source.idle_connection(address) as connection:
                assert connection.server == "h2"
    told = lab["h1"].addresses()
    assert {a["local"] for a in told if a["scope"] == "global"} == {"10.77.0.11", "fd77::11"}
    assert not any(a.get("tentative") for a in told)
    assert "via 10.77.0.1 dev eth0" in lab["h1"].ip("route get 192.0.2.1")
    assert "via fd77::1 dev eth0" in lab["h1"].ip("route get 2001:db8::1")


def test_nothing_outside_the_namespaces_changes() -> None:
    def outside() -> tuple[str, ...]:
        told = [
            subprocess.run(("ip", *what), capture_output=True, text=True, check=True).stdout
            for what in (("-oneline", "link"), ("route",), ("-6", "route"), ("neigh",))
        ]
        # The machine has neighbours of its own, which come and go.
        told[-1] = "".join(
            line for line in told[-1].splitlines() if re.match("10.7[789]|fd7", line)
        )
        return tuple(told)

    before = outside()
    with Lab(second_link=True) as lab:
        lab["h1"].serve()
        assert outside() == before
    assert outside() == before


@pytest.mark.parametrize(
    ("vip", "options"),
    [
        pytest.param(Lab.vip, {"version": 3}, id="v3 IPv4 multicast 0.1 s"),
        pytest.param(Lab.vip, {"version": 2, "password": "secret"}, id="v2 PASS 1 s"),
        pytest.param(Lab.vip6, {"version": 3}, id="v3 IPv6 multicast 0.1 s"),
    ],
)
def test_power_off_moves_the_vip(lab: Lab, vip: str, options: dict[str, object]) -> None:
    address = vip.partition("/")[0]
    for host in lab.hosts:
        host.serve()
    start_pair(lab, vip, **options)
    prober = lab.client.probe(address)
    prober.wait_for_answer("h1")

    began_at = time.monotonic() - 0.1
    lab["h1"].power_off()
    done_at = time.monotonic()
    lab.watch.wait_for_holder(plain_address(vip), "h2")
    answered_at = prober.wait_for_answer("h2", since_at=began_at)
    until_at = time.monotonic()
    seen = prober.seen(began_at, until_at)
    held = lab.watch.held(plain_address(vip), began_at, until_at)

    # Both sides must tell the same story: the client's view and the kernel's.
    assert seen.answered_by == ("h1", "h2")
    assert 0 < seen.lost < seen.sent
    assert answered_at - done_at <= seen.longest_gap_s <= answered_at - began_at
    # h2 may have started first, and have had it before h1.
    came = [e for e in lab.watch.vip_events(plain_address(vip)) if e.host == "h2" and e.present][-1]
    assert came.at - done_at <= held.none_s <= came.at - began_at
    assert held.two_s == 0
    assert held.holders == ("h2",)


def test_unicast_peers(lab: Lab) -> None:
    for host, priority in ((lab["h1"], 150), (lab["h2"], 100)):
        other = lab["h2"] if host is lab["h1"] else lab["h1"]
        host.keepalived(
            keepalived_config(
                lab.vip, priority=priority, unicast_source=host.ipv4, unicast_peers=[other.ipv4]
            )
        )
    lab.watch.wait_for_holder(lab.vip_address, "h1")
    advert = lab.capture.wait_for(lambda frame: frame.is_vrrp and frame.port == "h1", 5)
    assert advert is not None
    assert advert.data[30:34] == bytes((10, 77, 0, 12))
    assert "VRRPv3 10.77.0.11 > 10.77.0.12 vrid 10 prio 150" in lab.capture.text()


def test_a_partition_gives_two_holders_and_healing_gives_one(lab: Lab) -> None:
    start_pair(lab)
    since_at = time.monotonic()
    lab.partition([lab["h1"]], [lab["h2"]])
    lab.watch.wait_for(
        lambda: lab.watch.holders(lab.vip_address) == ("h1", "h2"), HANG_S, "two holders"
    )
    lab.heal()
    lab.watch.wait_for_holder(lab.vip_address, "h1")
    came, went = (e for e in lab.watch.vip_events(lab.vip_address) if e.at > since_at)
    assert [(e.host, e.present) for e in (came, went)] == [("h2", True), ("h2", False)]
    held = lab.watch.held(lab.vip_address, since_at)
    assert held.two_s == pytest.approx(went.at - came.at)
    assert held.none_s == held.stale_s == 0


def test_a_one_way_link_blocks_one_way(lab: Lab) -> None:
    start_pair(lab)
    lab.block("h2", "h1")
    # h2 still hears the better h1, so it stays a backup; the other way round it claims.
    since_at = time.monotonic()
    lab.capture.wait_for(lambda f: f.is_vrrp and f.port == "h1" and f.at > since_at + 0.5, HANG_S)
    assert lab.watch.holders(lab.vip_address) == ("h1",)
    lab.heal()
    lab.block("h1", "h2")
    lab.watch.wait_for(
        lambda: lab.watch.holders(lab.vip_address) == ("h1", "h2"), HANG_S, "two holders"
    )


def test_a_frozen_daemons_address_is_stale_and_no_second_holder(lab: Lab) -> None:
    start_pair(lab)
    daemon = lab["h1"].processes[-1]
    since_at = time.monotonic()
    daemon.freeze()
    lab.watch.wait_for_holder(lab.vip_address, "h2")
    held = lab.watch.held(lab.vip_address, since_at)
    assert held.none_s > 0
    assert held.stale_s > 0
    assert held.two_s == 0
    # keepalived, unlike havip, keeps the address for as long as it sleeps.
    assert lab.watch.holders(lab.vip_address, with_stale=True) == ("h1", "h2")
    daemon.thaw()
    lab.watch.wait_for_holder(lab.vip_address, "h1")


def test_a_killed_service_is_lost_probes_and_failed_connections(lab: Lab) -> None:
    service = lab["h1"].serve()
    start_pair(lab)
    prober = lab.client.probe(VIP)
    connector = lab.client.connector(VIP)
    idle = lab.client.idle_connection(VIP)
    since_at = prober.wait_for_answer("h1")
    assert not idle.wait_until_ended(0.2)
    before = connector.seen(since_at)
    assert before
    assert all(c.is_answered and c.who == "h1" for c in before)

    killed_at = time.monotonic()
    service.kill()
    assert idle.wait_until_ended(5)
    lab["h1"].serve()
    prober.wait_for_answer("h1", since_at=killed_at)
    failed = [c for c in connector.seen(killed_at) if not c.is_established]
    assert failed
    assert {c.problem for c in failed} == {"Connection refused"[:16]}
    assert prober.seen(killed_at).lost > 0


def test_a_graceful_stop_ends_with_status_zero(lab: Lab) -> None:
    start_pair(lab)
    assert lab["h1"].processes[-1].stop() == 0
    lab.watch.wait_for_holder(lab.vip_address, "h2")
    assert not lab["h1"].has_vip(VIP)


def test_cut_takes_the_carrier_and_plug_brings_it_back(lab: Lab) -> None:
    start_pair(lab)
    lab["h1"].cut()
    assert "NO-CARRIER" in lab["h1"].ip("link show eth0")
    lab.watch.wait_for_holder(lab.vip_address, "h2")
    lab["h1"].plug()
    lab.watch.wait_for_holder(lab.vip_address, "h1")


def test_power_on_brings_a_host_back_without_leftovers(lab: Lab) -> None:
    host = lab["h1"]
    host.serve()
    host.ip("address add 10.77.0.100/32 dev eth0")
    lab.watch.wait_for_holder(lab.vip_address, "h1")
    host.power_off()
    host.power_on()
    host.serve()
    with lab.client.idle_connection(host.ipv4) as connection:
        assert connection.server == "h1"
    with lab.client.idle_connection(host.ipv6) as connection:
        assert connection.server == "h1"
    assert not host.has_vip(VIP)


def test_loss_hits_each_receiver_by_itself_and_ends(lab: Lab) -> None:
    lab["h1"].serve()
    prober = lab.client.probe(lab["h1"].ipv4)
    clean_at = prober.wait_for_answer("h1")
    clean = prober.seen(clean_at)
    lossy_at = lab.loss(20)
    lossy = prober.seen(lossy_at, lossy_at + 1)
    ended_at = lab.loss(0)
    after = prober.seen(ended_at + 0.05, ended_at + 0.35)
    assert clean.lost == 0
    # Request and answer each survive with 0.8: 36 % of about 1000, give or take six sigma.
    assert 0.26 < lossy.lost / lossy.sent < 0.46
    assert after.lost == 0


def test_a_client_that_forgets_resolves_again_and_loses_nothing(lab: Lab) -> None:
    lab["h1"].serve()
    prober = lab.client.probe(lab["h1"].ipv4)
    since_at = prober.wait_for_answer("h1")
    with Forgetting(lab.client, lab["h1"].ipv4) as forgetting:
        seen = prober.seen(since_at, since_at + 0.5)
    asked = [f for f in lab.capture.frames(since_at) if f.port == "c1" and f.ether_type == 0x0806]
    assert forgetting.times > 10
    assert len(asked) >= forgetting.times - 1
    assert seen.lost == 0


def test_a_second_link_is_a_network_of_its_own(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(hosts=2, second_link=True)
    lab["h2"].serve()
    with lab["h1"].idle_connection(lab["h2"].second_ipv4) as connection:
        assert connection.server == "h2"
    lab["h1"].cut()
    with lab["h1"].idle_connection(lab["h2"].second_ipv6) as connection:
        assert connection.server == "h2"
    lab["h1"].cut(second=True)
    assert "NO-CARRIER" in lab["h1"].ip("link show eth1")


def test_clients_reach_a_vip_in_another_subnet_through_the_gateway(lab: Lab) -> None:
    lab["h1"].serve()
    lab["h1"].ip(f"address add {lab.routed_vip} dev eth0")
    with lab.client.idle_connection("10.79.0.100") as connection:
        assert connection.server == "h1"


def test_waiting_for_what_does_not_happen_ends_with_the_story(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"10\.77\.0\.100 on h1 alone: not within 0\.05 s") as error:
        lab.watch.wait_for_holder(lab.vip_address, "h1", timeout_s=0.05)
    assert "h3 has 10.77.0.13" in str(error.value)


def test_a_process_that_ends_early_is_told_with_its_log(lab: Lab) -> None:
    process = lab["h1"].popen(("sh", "-c", "echo oh no >&2; exit 3"))
    with pytest.raises(LabError, match=r"(?s)sh on h1 ended with 3.*oh no"):
        process.wait_for_log("ready")


SCRIPT = """
import os, signal, sys
from havip.netlab import Lab, namespace
namespace.PREFIX = "{prefix}"
with Lab() as lab:
    lab["h1"].serve()
    lab["h2"].popen(("sleep", "1000"))
    print(lab.directory, lab["h2"].processes[0].pid, flush=True)
    {what}
    signal.pause()
"""


def left_by(pid: int, directory: str, sleeper: str) -> list[str]:
    left = names(pid)
    left += [directory] if Path(directory).exists() else []
    # Who was killed may wait for its parent to ask how it ended.
    stat = Path("/proc", sleeper, "stat")
    left += [sleeper] if stat.exists() and stat.read_text().split()[2] != "Z" else []
    return left


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGINT, -signal.SIGINT, id="SIGINT"),
        pytest.param(signal.SIGTERM, 128 + signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGHUP, 128 + signal.SIGHUP, id="SIGHUP"),
        pytest.param(None, 1, id="an exception"),
    ],
)
def test_nothing_is_left_behind(number: signal.Signals | None, status: int) -> None:
    what = "raise RuntimeError" if number is None else ""
    with subprocess.Popen(
        (sys.executable, "-c", SCRIPT.format(what=what, prefix=namespace.PREFIX)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        directory, sleeper = process.stdout.readline().split()
        if number is not None:
            assert len(names(process.pid)) == 5
            # A second signal, as of someone who is impatient, must not stop the cleaning.
            process.send_signal(number)
            process.send_signal(number)
        assert process.wait(HANG_S) == status
    assert left_by(process.pid, directory, sleeper) == []


def test_the_next_lab_sweeps_up_after_one_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Or that of another test, which runs at the same time, would.
    monkeypatch.setattr(namespace, "PREFIX", "havip_swept-")
    with subprocess.Popen(
        (sys.executable, "-c", SCRIPT.format(what="", prefix=namespace.PREFIX)),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        directory, sleeper = process.stdout.readline().split()
        process.kill()
        process.wait()
    assert len(names(process.pid)) == 5
    swept = sweep()
    assert len([name for name in swept if name.startswith(f"havip_swept-{process.pid}-")]) == 5
    assert left_by(process.pid, directory, sleeper) == []


def test_what_a_process_writes_to_its_end_goes_too() -> None:
    with Lab(hosts=1, clients=0, capture=False) as lab:
        script = "n=0; while :; do n=$((n + 1)); : >$n; done"
        writer = lab["h1"].popen(("sh", "-c", script), name="writer")
        # So many that it writes while they are removed, if it is let.
        writer.wait_for((lab.directory / "5000").exists, HANG_S, "does not write")
    assert not lab.directory.exists()


def test_a_lab_of_a_living_process_is_not_swept(lab: Lab) -> None:
    assert not [name for name in sweep() if name.startswith(f"havip-{os.getpid()}-")]
    assert lab["h1"].addresses()


def test_a_failing_test_prints_the_wire_and_the_logs(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = netns\n")
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            from havip.netlab import keepalived_config
            def test_it(lab):
                lab["h1"].keepalived(keepalived_config(lab.vip))
                lab.watch.wait_for_holder(lab.vip_address, "h1")
                lab.capture.wait_for(lambda frame: frame.ether_type == 0x0806, 5)
                assert lab["h2"].has_vip(lab.vip)
            """
        )
    )
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout
    assert "h1 has 10.77.0.100" in done.stdout
    assert "VRRPv3 10.77.0.11 > 224.0.0.18 vrid 10 prio 100" in done.stdout
    assert "ARP announce 10.77.0.100 from 10.77.0.100 (02:77:00:00:00:0b)" in done.stdout
    assert "Entering MASTER STATE" in done.stdout
