"""A person and a daemon: start, stop, reload, refuse, and what it says about itself."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from cluster import (
    HANG_S,
    SERVICE_URL,
    adverts,
    decisions,
    holder,
    metric,
    others,
    priorities,
    reasons,
    router,
    settled,
    start,
    wait_for_adverts,
    wait_for_announcement,
)
from patience import becomes, wait_until
from prometheus_client.parser import text_string_to_metric_families

from havip.netlab import Host, Lab, Process, namespace
from havip.netlab.namespace import inside

HAVIP = (sys.executable, "-m", "havip")
VIP = Lab.vip.partition("/")[0]


@pytest.fixture
def one(make_lab) -> Lab:
    return make_lab(hosts=1)


@pytest.fixture
def pair(make_lab) -> Lab:
    return make_lab(hosts=2)


class Configured:
    """A daemon with a file."""

    def __init__(self, host: Host, directory: Path, text: str) -> None:
        self.host = host
        self.file = directory / f"{host.name}.yaml"
        self.file.write_text(text)
        self.daemon = host.havip(wait=False, args=("--config", str(self.file)))

    def reload(self, text: str, expect: str = "configuration reloaded") -> None:
        """Write the file, SIGHUP, and wait until its log says what is expected once more."""
        before = self.daemon.log_text().count(expect)
        self.file.write_text(text)
        self.daemon.send(signal.SIGHUP)
        self.daemon.wait_for(
            lambda: self.daemon.log_text().count(expect) > before, HANG_S, f"no {expect!r}"
        )


def refusal(process: Process) -> str:
    """What it said when it ended with status 2."""
    assert process.wait(HANG_S) == 2, process.log_text()
    return process.log_text()


# Stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0_and_priority_0(one: Lab, number: signal.Signals) -> None:
    daemon = start(one)["h1"]
    holder(one)
    stopped_at = time.monotonic()
    daemon.send(number)
    assert daemon.wait(HANG_S) == 0
    assert 0 in priorities(adverts(one, "h1", stopped_at))
    assert not one["h1"].has_vip(VIP)
    assert reasons(daemon, "moved")[-1] == "stopped"
    assert "Traceback" not in daemon.log_text()


def test_a_signal_to_a_backup_says_nothing_on_the_wire(pair: Lab) -> None:
    daemons = start(pair)
    first = settled(pair)
    (second,) = others(pair, first)
    stopped_at = time.monotonic()
    assert daemons[second].stop() == 0
    wait_for_adverts(pair, first, 5, time.monotonic())
    assert adverts(pair, second, stopped_at) == []
    assert pair.watch.holders(pair.vip_address) == (first.name,)


def test_a_signal_during_the_start_ends_it_with_status_0(one: Lab) -> None:
    """PID 1 of a container has no default action; here the moments are told by the log."""
    for _ in range(3):
        daemon = one["h1"].havip(wait=False, vip_address_cidr=one.vip)
        daemon.wait_for_log('"started"')
        assert daemon.stop() == 0
    assert not one["h1"].has_vip(VIP)


# Reload


def test_a_hangup_during_the_start_is_a_reload_after_it(one: Lab, tmp_path: Path) -> None:
    """By default it would end the process; ignored, a file that changed would not count."""
    h1 = stopped_in_its_start(one["h1"], tmp_path)
    for _ in range(3):
        h1.daemon.send(signal.SIGHUP)
    assert waits(h1.daemon, "ShdPnd")
    h1.daemon.send(signal.SIGCONT)
    h1.daemon.wait_for_log("configuration reloaded")
    holder(one)
    assert h1.daemon.stop() == 0
    assert h1.daemon.log_text().count("configuration reloaded") == 1


def waits(process: Process, field: str) -> bool:
    """Whether SIGHUP is among these signals of the process, as the kernel lists them."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    signals = int(status.partition(f"{field}:")[2].split()[0], 16)
    return bool(signals & 1 << signal.SIGHUP - 1)


def stopped_in_its_start(host: Host, directory: Path) -> Configured:
    """A daemon that holds SIGHUP back, as it does until it has started.

    Who looks too late finds it started, and looks at another one.
    """
    for _ in range(20):
        found = Configured(host, directory, "vipAddressCidr: 10.77.0.100/24\n")
        found.daemon.wait_for(
            lambda daemon=found.daemon: waits(daemon, "SigBlk") or host.is_ready(),
            HANG_S,
            "does not start",
        )
        found.daemon.send(signal.SIGSTOP)
        if waits(found.daemon, "SigBlk"):
            return found
        found.daemon.kill()
    raise AssertionError("always too late to say anything about the start")


def test_a_new_priority_counts_without_a_restart(pair: Lab, tmp_path: Path) -> None:
    text = "vipAddressCidr: 10.77.0.100/24\nvrrpPreemptDelay: 0.2\nvrrpPriority: {}\n"
    h1 = Configured(pair["h1"], tmp_path, text.format(120))
    pair.watch.wait_for_holder(pair.vip_address, "h1")
    h2 = Configured(pair["h2"], tmp_path, text.format(110))
    settled(pair)
    # Still the best: no move, told at once.
    since_at = time.monotonic()
    h1.reload(text.format(125))
    wait_for_adverts(pair, "h1", 5, since_at, priority=125)
    assert [e for e in pair.watch.vip_events(pair.vip_address) if e.at > since_at] == []
    # A backup that is better now takes it.
    h2.reload(text.format(130))
    pair.watch.wait_for_holder(pair.vip_address, "h2")
    becomes(lambda: reasons(h2.daemon, "moved"), ["started", "preempted"])
    becomes(lambda: router(pair["h2"])["priority"], 130)
    assert h1.daemon.is_running
    assert h2.daemon.is_running


def test_a_bad_file_is_refused_and_the_old_configuration_stays(one: Lab, tmp_path: Path) -> None:
    text = "vipAddressCidr: 10.77.0.100/24\nvrrpPriority: {}\n"
    h1 = Configured(one["h1"], tmp_path, text.format(120))
    holder(one)
    since_at = time.monotonic()
    refused = "the new configuration is refused"
    for bad, told in (
        (text.format(300), "vrrpPriority"),
        ("vipAddressCidr: [", "is not YAML"),
        ("", "vipAddressCidr"),
        (text.format(100) + "vrrpInterfaceName: eth7\n", "eth7"),
    ):
        h1.reload(bad, expect=refused)
        problem = [d["problem"] for d in decisions(h1.daemon) if d["event"].startswith(refused)]
        assert told in problem[-1]
    h1.file.unlink()
    h1.daemon.send(signal.SIGHUP)
    h1.daemon.wait_for(
        lambda: h1.daemon.log_text().count(refused) == 5, HANG_S, "the missing file is no problem"
    )
    wait_for_adverts(one, "h1", 5, time.monotonic(), priority=120)
    becomes(lambda: router(one["h1"])["priority"], 120)
    h1.reload(text.format(110))
    wait_for_adverts(one, "h1", 2, time.monotonic(), priority=110)
    assert [e for e in one.watch.vip_events(one.vip_address) if e.at > since_at] == []


def test_a_vip_is_added_and_removed_live(pair: Lab, tmp_path: Path) -> None:
    for host in pair.hosts:
        host.serve()
    text = "vipAddressCidr: {}\n"
    files = [Configured(host, tmp_path, text.format(pair.vip)) for host in pair.hosts]
    first = settled(pair)
    since_at = time.monotonic()
    for each in files:
        each.reload(text.format(f"{pair.vip},{pair.other_vip}"))
    other = ip_address("10.77.0.101")
    pair.watch.wait_for_holder(other, first.name)
    prober = pair.client.probe(str(other))
    prober.wait_for_answer(first.name)
    wait_for_announcement(pair, first, since_at, other)
    # It moves with the first one, to a node that was told of it by reload alone, and is heard.
    stopping = next(each for each in files if each.host is first)
    assert stopping.daemon.stop() == 0
    second = holder(pair)
    assert second is not first
    pair.watch.wait_for_holder(other, second.name)
    prober.wait_for_answer(second.name, since_at=time.monotonic())
    since_at = time.monotonic()
    staying = next(each for each in files if each.host is second)
    staying.reload(text.format(pair.vip))
    pair.watch.wait_until_gone(other)
    wait_for_adverts(pair, second, 5, time.monotonic())
    assert second.has_vip(VIP)
    assert [e for e in pair.watch.vip_events(pair.vip_address) if e.at > since_at] == []


def test_a_virtual_router_is_added_and_removed_live(one: Lab, tmp_path: Path) -> None:
    entry = "  - vipAddressCidr: 10.77.0.10{0}/24\n    virtualRouterId: {1}\n"
    head = "virtualRouters:\n"
    h1 = Configured(one["h1"], tmp_path, head + entry.format(0, 10))
    holder(one)
    other = ip_address("10.77.0.101")
    since_at = time.monotonic()
    h1.reload(head + entry.format(0, 10) + entry.format(1, 11))
    one.watch.wait_for_holder(other, "h1")
    becomes(lambda: router(one["h1"], 11)["state"], "active")
    h1.reload(head + entry.format(0, 10))
    one.watch.wait_until_gone(other)
    assert priorities(adverts(one, "h1", vrid=11))[-1] == 0
    assert [e for e in one.watch.vip_events(one.vip_address) if e.at > since_at] == []
    # Its lock is free again.
    second = one["h1"].havip(
        wait=False, vip_address_cidr=one.other_vip, virtual_router_id=11, listen="127.0.0.1:9651"
    )
    one.watch.wait_for_holder(other, "h1")
    assert second.stop() == 0


def test_a_check_is_added_and_removed_live(one: Lab, tmp_path: Path) -> None:
    text = "vipAddressCidr: 10.77.0.100/24\n"
    h1 = Configured(one["h1"], tmp_path, text)
    holder(one)
    h1.reload(text + f"checkServiceUrl: {SERVICE_URL}\ncheckServiceInterval: 0.2\n")
    # Nothing serves there.
    one.watch.wait_until_gone(one.vip_address)
    becomes(lambda: router(one["h1"])["blocked_by"], "check_failed")
    h1.reload(text)
    one.watch.wait_for_holder(one.vip_address, "h1")
    becomes(lambda: one["h1"].status()["checks"], [])


def test_many_signals_at_once_are_one_reload_after_another(one: Lab, tmp_path: Path) -> None:
    text = "vipAddressCidr: 10.77.0.100/24\nvrrpPriority: {}\n"
    h1 = Configured(one["h1"], tmp_path, text.format(100))
    holder(one)
    since_at = time.monotonic()
    for priority in range(101, 121):
        h1.file.with_suffix(".new").write_text(text.format(priority))
        h1.file.with_suffix(".new").rename(h1.file)
        h1.daemon.send(signal.SIGHUP)
    # The last file is the one that counts, however many signals were merged.
    wait_for_adverts(one, "h1", 2, since_at, priority=120)
    assert [e for e in one.watch.vip_events(one.vip_address) if e.at > since_at] == []


def test_a_reload_on_a_node_with_many_pods_delays_no_advert(pair: Lab, tmp_path: Path) -> None:
    """To ask for 500 links and their addresses takes 200 ms and more: too long for the loop."""
    host = pair["h1"]
    namespace.run(
        ("ip", "-netns", host.namespace, "-batch", "-"),
        "".join(
            f"link add pod{n} type veth peer name eth-{n}\nlink set pod{n} up\n"
            f"link set eth-{n} up\naddress add 10.1{n // 250}.{n % 250}.1/24 dev pod{n}\n"
            for n in range(250)
        ),
    )
    text = "vipAddressCidr: 10.77.0.100/24\nvrrpPriority: 120\n"
    h1 = Configured(host, tmp_path, text)
    pair.watch.wait_for_holder(pair.vip_address, "h1", timeout_s=HANG_S)
    start(pair, pair["h2"])
    settled(pair)
    since_at = time.monotonic()
    for _ in range(3):
        h1.reload(text)
    # With another interface to watch, the kernel is asked.
    h1.reload(
        "virtualRouters:\n"
        "  - {vipAddressCidr: 10.77.0.100/24, vrrpPriority: 120}\n"
        "  - {vipAddressCidr: 10.10.0.100/24, virtualRouterId: 11}\n"
    )
    becomes(lambda: router(host, 11)["state"], "active")
    # What the reload has locked while it asked the kernel stays locked.
    second = host.havip(
        wait=False,
        vip_address_cidr="10.11.0.100/24",
        virtual_router_id=11,
        listen="127.0.0.1:9651",
        vrrp_interface_name="pod0",
    )
    assert "VRID 11 on pod0" in refusal(second)
    # A holder that was kept from its adverts for three intervals would have stepped down.
    assert [e for e in pair.watch.vip_events(pair.vip_address) if e.at > since_at] == []


# Refused starts


def test_a_second_daemon_of_the_same_router_names_the_first(one: Lab) -> None:
    first = start(one)["h1"]
    holder(one)
    before = one["h1"].addresses()
    second = one["h1"].havip(wait=False, vip_address_cidr=one.other_vip, listen="127.0.0.1:9651")
    told = refusal(second)
    assert f"process {first.pid} " in told
    assert "VRID 10 on eth0" in told
    assert [a["local"] for a in one["h1"].addresses()] == [a["local"] for a in before]
    # Another VRID is not enough: each would remove the other's address.
    same_vip = one["h1"].havip(
        wait=False, vip_address_cidr=one.vip, virtual_router_id=11, listen="127.0.0.1:9651"
    )
    told = refusal(same_vip)
    assert f"process {first.pid} already serves VIP {VIP} on eth0" in told
    assert [a["local"] for a in one["h1"].addresses()] == [a["local"] for a in before]
    # Another VRID and VIP is another matter.
    start_other = one["h1"].havip(
        wait=False, vip_address_cidr=one.other_vip, virtual_router_id=11, listen="127.0.0.1:9651"
    )
    start_other.wait_for(lambda: one["h1"].is_ready(9651), HANG_S, "is not ready")
    one.watch.wait_for_holder(ip_address("10.77.0.101"), "h1")
    assert one["h1"].has_vip(VIP)


def test_two_releases_run_side_by_side(pair: Lab) -> None:
    """Two daemons on each node, with a VRID and a port of their own: neither touches the other."""
    first = start(pair)
    other = {"virtual_router_id": 11, "vip_address_cidr": pair.other_vip}
    second = {
        host.name: host.havip(wait=False, listen="127.0.0.1:9651", **other) for host in pair.hosts
    }
    for host in pair.hosts:
        second[host.name].wait_for(lambda h=host: h.is_ready(9651), HANG_S, "is not ready")
    one, two = settled(pair), holder(pair, ip_address("10.77.0.101"))
    for host in pair.hosts:
        for port, vrid in ((9650, 10), (9651, 11)):
            (told,) = host.status(port)["routers"]
            assert told["virtual_router_id"] == vrid
            assert told["may_hold"]

    # A third one takes nobody's port, and takes nothing with it.
    third = one.havip(wait=False, virtual_router_id=12, vip_address_cidr="10.77.0.102/24")
    told = refusal(third)
    assert "listen 127.0.0.1:9650: Address already in use; choose a free port" in told

    # One release moves, is killed and comes back with a leftover; the other one stays where it is.
    since_at = time.monotonic()
    assert first[one.name].stop() == 0
    (successor,) = (pair[name] for name in others(pair, one))
    pair.watch.wait_for_holder(pair.vip_address, successor.name)
    first[successor.name].kill()
    start(pair, successor)
    pair.watch.wait_for_holder(pair.vip_address, successor.name)
    moved = pair.watch.vip_events(ip_address("10.77.0.101"))
    assert [event for event in moved if event.at > since_at] == []
    assert two.has_vip("10.77.0.101")
    assert adverts(pair, one, since_at, vrid=11) or adverts(pair, successor, since_at, vrid=11)


def test_a_killed_daemons_lock_is_free(one: Lab) -> None:
    start(one)["h1"].kill()
    start(one)
    holder(one)


@pytest.mark.parametrize("missing", ["NET_RAW", "NET_ADMIN"])
def test_a_missing_capability_is_named(one: Lab, missing: str) -> None:
    drop = f"-{missing.lower()}"
    process = one["h1"].popen(
        ("setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", *HAVIP, "run"),
        name="havip",
        env={"HAVIP_VIP_ADDRESS_CIDR": one.vip},
    )
    told = refusal(process)
    assert f"CAP_{missing}" in told
    other = {"NET_RAW": "NET_ADMIN", "NET_ADMIN": "NET_RAW"}[missing]
    assert f"CAP_{other}" not in told
    assert "securityContext.capabilities.add" in told
    assert adverts(one, "h1") == []


def test_without_cap_sys_nice_it_runs_and_says_so(one: Lab) -> None:
    host = one["h1"]
    process = host.popen(
        ("setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice", *HAVIP, "run"),
        name="havip",
        env={"HAVIP_VIP_ADDRESS_CIDR": one.vip},
        is_daemon=True,
    )
    holder(one)
    assert "no real-time scheduling" in process.log_text()


def test_a_port_in_use_ends_it_before_anything_changes(one: Lab) -> None:
    """Also before it cleans up: a stale address may be another daemon's that lives."""
    host = one["h1"]
    host.serve(9650)
    host.ip(f"address add {VIP}/32 dev eth0 valid_lft 600 preferred_lft 0 noprefixroute")
    process = host.havip(wait=False, vip_address_cidr=one.vip)
    told = refusal(process)
    assert "listen" in told
    assert "127.0.0.1:9650" in told
    assert "address already in use" in told.lower()
    assert "choose a free port of an address of this node" in told
    assert "Traceback" not in told
    assert host.has_vip(VIP)
    assert adverts(one, "h1") == []


@pytest.mark.parametrize(
    ("metrics_listen", "told"),
    [
        pytest.param("10.77.0.11:9651", "address already in use", id="port in use"),
        pytest.param("10.77.0.99:9651", "cannot assign requested address", id="not this node's"),
    ],
)
def test_a_metrics_port_that_cannot_be_had_ends_it_before_anything_changes(
    one: Lab, metrics_listen: str, told: str
) -> None:
    host = one["h1"]
    host.serve(9651)
    process = host.havip(wait=False, vip_address_cidr=one.vip, metrics_listen=metrics_listen)
    text = refusal(process)
    assert f"metricsListen {metrics_listen}: " in text
    assert told in text.lower()
    assert "choose a free port of an address of this node" in text
    assert adverts(one, "h1") == []


BAD_INPUTS = [
    pytest.param({}, "vipAddressCidr", id="no VIP"),
    pytest.param({"vip_address_cidr": "10.77.0.100"}, "prefix", id="no prefix length"),
    pytest.param({"vip_address_cidr": "10.77.0.255/24"}, "broadcast", id="broadcast"),
    pytest.param(
        {"vip_address_cidr": "10.77.0.11/24"}, "is an address of this node", id="own address"
    ),
    pytest.param({"vip_address_cidr": "10.77.0.1/24"}, "gateway", id="gateway"),
    pytest.param({"vrrp_interface_name": "eth7"}, "choose one of eth0", id="no such interface"),
    pytest.param({"virtual_router_id": 256}, "virtualRouterId", id="VRID 256"),
    pytest.param({"vrrp_priority": 255}, "vrrpPriority", id="priority 255"),
    pytest.param({"vrrp_advert_interval": "0.5", "vrrp_version": 2}, "vrrpVersion: 3", id="v2"),
    pytest.param({"vrrp_unicast_peers": "10.77.0.11"}, "this host alone", id="own peer alone"),
    pytest.param({"check_service_url": "ftp://x/"}, "checkServiceUrl", id="scheme"),
    pytest.param({"vip_adress_cidr": "10.77.0.100/24"}, "VIP_ADDRESS_CIDR", id="unknown"),
]


@pytest.mark.parametrize(("settings", "told"), BAD_INPUTS)
def test_bad_input_ends_before_anything_changes(
    bad_input_lab: Lab, settings: dict[str, object], told: str
) -> None:
    host = bad_input_lab["h1"]
    if settings:
        settings = {"vip_address_cidr": bad_input_lab.vip, **settings}
    before = host.ip("-oneline address show"), host.ip("route show table all")
    since_at = time.monotonic()
    process = host.havip(wait=False, **settings)
    text = refusal(process)
    assert told in text
    assert "Traceback" not in text
    assert (host.ip("-oneline address show"), host.ip("route show table all")) == before
    assert [f for f in bad_input_lab.capture.frames(since_at) if f.port == "h1"] == []


@pytest.fixture(scope="module")
def bad_input_lab(make_shared_lab) -> Lab:
    """One for all: none of these tests may leave anything behind."""
    return make_shared_lab(hosts=1)


# What it says about itself


def test_status_pages_of_a_holder_and_a_backup(pair: Lab) -> None:
    for host in pair.hosts:
        host.serve()
    start(pair, check_service_url=SERVICE_URL, node_name="n")
    first = settled(pair)
    (second,) = (pair[name] for name in others(pair, first))
    assert first.get("/healthz") == (200, "ok\n")
    assert first.get("/readyz") == (200, "ok\n")
    assert first.get("/nothing")[0] == 404

    becomes(lambda: router(first)["is_holding"], True)
    told = first.status()
    assert told["node_name"] == "n"
    assert told["ready"]
    mine = router(first)
    assert (mine["state"], mine["is_holding"], mine["may_hold"]) == ("active", True, True)
    assert mine["vips"] == [f"{VIP}/32"]
    (check,) = told["checks"]
    assert (check["name"], check["healthy"], check["last_result"]) == ("service", True, "passed")
    assert [t["state"] for t in told["transitions"] if t["topic"] == "moved"] == [
        "backup",
        "active",
    ]
    theirs = router(second)
    assert (theirs["state"], theirs["is_holding"]) == ("backup", False)
    (peer,) = (p for p in theirs["peers"] if p["is_active"])
    assert (peer["address"], peer["priority"]) == (first.ipv4, 100)

    names = {family.name for family in text_string_to_metric_families(first.metrics())}
    assert {"havip_router_state", "havip_adverts_sent", "havip_check_healthy"} <= names
    assert metric(first, "havip_router_state", state="active") == 1
    assert metric(second, "havip_router_state", state="backup") == 1
    assert metric(first, "havip_router_holding") == 1
    assert metric(second, "havip_router_holding") == 0
    assert metric(first, "havip_adverts_sent_total") > 0
    assert metric(second, "havip_adverts_received_total") > 0
    assert metric(first, "havip_moves_total", state="active", reason="active_silent") == 1
    assert metric(first, "havip_ready") == 1


def test_metrics_alone_are_served_to_the_network(one: Lab) -> None:
    host = one["h1"]
    start(one, metrics_listen=f"{host.ipv4}:9651")
    holder(one)
    url = f"http://{host.ipv4}:{{}}{{}}"

    def fetch(port: int, path: str) -> subprocess.CompletedProcess[str]:
        code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        return one.client.run((sys.executable, "-c", code, url.format(port, path)), check=False)

    assert "havip_router_holding" in fetch(9651, "/metrics").stdout
    assert "404" in fetch(9651, "/status").stderr
    assert "refused" in fetch(9650, "/metrics").stderr
    # Who asks on the loopback finds everything there, as without it.
    assert metric(host, "havip_router_holding") == 1
    assert host.get("/readyz") == (200, "ok\n")


def test_havip_status_reads_a_running_daemon(pair: Lab) -> None:
    start(pair)
    first = settled(pair)
    shown = first.run((*HAVIP, "status"))
    assert VIP in shown.stdout
    assert "active" in shown.stdout
    document = json.loads(first.run((*HAVIP, "status", "--output", "json")).stdout)
    assert document["routers"][0]["state"] == "active"
    (second,) = (pair[name] for name in others(pair, first))
    assert "backup" in second.run((*HAVIP, "status")).stdout
    for process in second.processes:
        process.kill()
    assert second.run((*HAVIP, "status"), check=False).returncode == 1


def test_it_is_not_ready_before_the_first_check(one: Lab) -> None:
    """A service that accepts and never answers: pending until the timeout."""
    host = one["h1"]
    listener = inside(host.namespace, lambda: socket.create_server(("127.0.0.1", 8081)))
    with listener:
        daemon = host.havip(
            wait=False,
            vip_address_cidr=one.vip,
            check_service_url="http://127.0.0.1:8081/",
            check_service_interval=60,
            check_service_timeout=50,
        )
        becomes(lambda: router(host)["blocked_by"], "check_pending")
        status, body = host.get("/readyz")
        assert status == 503
        assert "no result yet of check service (http://127.0.0.1:8081/)" in body
        assert host.get("/healthz")[0] == 200
        shown = host.run((*HAVIP, "status"), check=False)
        assert shown.returncode == 3
        assert "service" in shown.stdout
        # A stop does not wait for a probe.
        assert daemon.stop() == 0


def test_a_check_target_that_never_answered_is_told(one: Lab) -> None:
    """The headline command where another ingress controller runs: nobody holds, and says why."""
    host = one["h1"]
    url = "http://127.0.0.1:10254/healthz"
    daemon = host.havip(
        wait=False, vip_address_cidr=one.vip, check_service_url=url, check_service_interval=0.2
    )
    daemon.wait_for_log("check_never_passed")
    wait_until(lambda: "never passed" in host.get("/readyz")[1], "does not say so")
    status, body = host.get("/readyz")
    problem = (
        f"check service has never passed: {url}: nothing listens on 127.0.0.1:10254 (connection "
        "refused); start what answers there, or set checkServiceUrl to a health URL of this node"
    )
    assert (status, body) == (503, f"not ready: {problem}\n")
    becomes(lambda: host.status()["not_ready_because"], problem)
    assert metric(host, "havip_ready") == 0
    shown = host.run((*HAVIP, "status"), check=False)
    assert shown.returncode == 3
    assert "never passed" in shown.stdout
    told = [line for line in decisions(daemon) if line.get("reason") == "check_never_passed"]
    assert [(t["level"], t["url"]) for t in told] == [("warning", url)]
    assert "checkServiceUrl" in told[0]["remedy"]
    service = host.serve(10254)
    daemon.wait_for(host.is_ready, HANG_S, "is not ready")
    holder(one)
    service.kill()
    daemon.wait_for(lambda: not host.status()["checks"][0]["healthy"], HANG_S, "is healthy")
    assert host.is_ready(), "a service that is down is no mistake in the configuration"
    assert daemon.log_text().count("check_never_passed") == 1


def test_havip_watch_sees_the_daemons(pair: Lab) -> None:
    watcher = pair.client.popen(
        (*HAVIP, "watch", "--interface", "eth0", "--output", "json"), name="watch"
    )
    watcher.wait_for_log("watching")
    start(pair)
    first = settled(pair)

    def told(protocol: str) -> list[dict[str, object]]:
        lines = (line for line in watcher.log_text().splitlines(keepends=True) if line[0] == "{")
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [r for r in records if r["protocol"] == protocol and r["mac"] == first.mac]

    watcher.wait_for(
        lambda: (
            any(r["verdict"] == "ok" and r["addresses"] == [VIP] for r in told("vrrp"))
            and any(r["kind"] == "announcement" and r["claims"] == VIP for r in told("arp"))
        ),
        HANG_S,
        "shows no advert and no announcement of the holder",
    )


def test_debug_logs_what_comes_in_and_goes_out(one: Lab) -> None:
    h1 = one["h1"]
    h1.serve()
    checks = {"check_service_url": SERVICE_URL, "check_service_interval": 0.2}
    quiet = start(one, **checks)["h1"]
    holder(one)
    assert quiet.stop() == 0
    assert {line["level"] for line in decisions(quiet)} == {"info"}
    checks |= {"auth_password": "s3cret", "vrrp_version": 2, "vrrp_priority": 250}
    chatty = start(one, debug=True, **checks)["h1"]
    holder(one)
    assert chatty.stop() == 0
    details = [line for line in decisions(chatty) if line["level"] == "debug"]
    assert {"Started", "LinkChanged", "ProbeFinished", "InstallAddress", "StopRequested"} <= {
        line["event"] for line in details
    }
    probed = next(line for line in details if line["event"] == "ProbeFinished")
    assert (probed["check"], probed["result"]) == ("service", "passed")
    assert "s3cret" not in chatty.log_text()


def test_logs_are_json_lines_or_text(pair: Lab) -> None:
    h1, h2 = pair.hosts
    as_json = start(pair, h1, vrrp_priority=120)["h1"]
    settled(pair)
    as_text = start(pair, h2, log_format="text")["h2"]
    settled(pair)
    as_json.wait_for_log('"state": "active"')
    for line in as_json.log_text().splitlines():
        told = json.loads(line)
        assert {"time", "level", "event"} <= told.keys()
    (moved,) = (d for d in decisions(as_json) if d.get("state") == "active")
    assert (moved["event"], moved["reason"], moved["router"]) == (
        "moved",
        "active_silent",
        "eth0/10",
    )
    as_text.wait_for_log("moved router=eth0/10 state=backup was=initialize reason=started")
    assert "{" not in as_text.log_text()
