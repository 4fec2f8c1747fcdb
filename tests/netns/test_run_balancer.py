"""The load balancer with a real HAProxy: clients ask through the VIP while things go wrong.

With real API servers it is tests/e2e's. What is asserted is order and outcome, never a time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from api_clients import TIMEOUT_S
from balanced import (
    API_PORT,
    PORT,
    Balanced,
    backends,
    balancer,
    healthy,
    link_certificates,
    now,
    place,
    readiness,
)
from cluster import HANG_S, holder, metric, reasons

from havip.netlab import Host, Lab
from havip.netlab.host import plain_address
from havip.netlab.namespace import inside


@pytest.fixture
def make(make_lab: Any, certificates: Any) -> Callable[..., Balanced]:
    def made(**options: Any) -> Balanced:
        lab: Lab = make_lab(capture=False, **options)
        return Balanced(lab, link_certificates(certificates, lab.directory / "pki"))

    return made


def test_load_is_spread_and_a_dead_api_server_costs_nothing(make: Callable[..., Balanced]) -> None:
    it = make(hosts=3)
    lab = it.lab
    it.start()
    first = holder(lab)
    client, watch = it.requests(), it.watch()
    client.wait_for(60, 0.0, servers={host.name for host in lab.hosts})
    assert client.failures() == []
    assert {tuple(line["user"]) for line in client.since(0.0)} == {("server",)}, (
        "of its certificate"
    )

    server = watch.wait_for_watch(1)
    dead = lab[server]
    it.api_servers[dead.name].kill()
    daemon = it.daemons[first.name]
    daemon.wait_for(lambda: dead.name not in healthy(first), HANG_S, "does not see it")
    checked_at = now()
    others = {host.name for host in lab.hosts if host is not dead}
    assert watch.wait_for_watch(2) in others
    client.wait_for(50, checked_at, servers=others)
    assert client.failures(checked_at) == []
    assert lab.watch.holders(lab.vip_address) == (first.name,)
    assert reasons(it.daemons[dead.name], "moved")[-1] != "check_failed", "it may hold all the same"
    assert metric(first, "havip_balancer_backend_healthy") == 2

    it.serve(dead)
    daemon.wait_for(lambda: dead.name in healthy(first), HANG_S, "does not see it again")
    back_at = now()
    client.wait_for(30, back_at, servers={dead.name})
    assert client.failures(checked_at) == []


def test_failed_checks_that_do_not_count_yet_move_nothing(make: Callable[..., Balanced]) -> None:
    """HAProxy sends connections on until `loadBalancerCheckFailAfter` have failed in a row."""
    it = make(hosts=2)
    lab = it.lab
    it.start(load_balancer_check_fail_after=100)
    first = holder(lab)
    daemon = it.daemons[first.name]
    client, watch = it.requests(), it.watch()
    client.wait_for(20, 0.0)
    watch.wait_for_watch(1)

    it.say_ready(500, *lab.hosts)

    def failing() -> list[str]:
        return [e["status"] for e in backends(first).values() if e["check"].startswith("L7STS")]

    daemon.wait_for(lambda: len(failing()) == 2, HANG_S, "no check has failed")
    assert all(status.startswith("UP ") for status in failing())
    assert len(healthy(first)) == 2
    failed_at = now()
    client.wait_for(20, failed_at)
    it.say_ready(200, *lab.hosts)
    daemon.wait_for(
        lambda: all(each["check"].startswith("L7OK") for each in backends(first).values()),
        HANG_S,
        "does not recover",
    )
    assert lab.watch.holders(lab.vip_address) == (first.name,)
    assert client.failures() == []
    assert watch.ends() == []


def test_the_vip_follows_the_balancer(make: Callable[..., Balanced]) -> None:
    it = make(hosts=2)
    lab = it.lab
    it.start()
    first = holder(lab)
    (second,) = (host for host in lab.hosts if host is not first)
    client, watch = it.requests(), it.watch()
    client.wait_for(20, 0.0)
    watch.wait_for_watch(1)

    it.haproxies[first.name].kill()
    lab.watch.wait_for_holder(lab.vip_address, second.name, timeout_s=HANG_S)
    moved_at = now()
    client.wait_for(50, moved_at)
    assert client.failures(moved_at) == []
    watch.wait_for_watch(2)
    assert balancer(first)["answers"] is False
    assert "does not run" in balancer(first)["problem"]

    # It comes back, and the VIP with it once the other one goes: a planned move, by whose end
    # the silent watch has ended too, at both ends of the balancer.
    it.run_haproxy(first)
    daemon = it.daemons[first.name]
    daemon.wait_for(lambda: "recovered" in str(reasons(daemon, "check")), HANG_S, "unhealthy still")
    ended = _watches_ended(it)
    # As a pod ends: both are told at once.
    os.kill(it.haproxies[second.name].pid, signal.SIGUSR1)
    it.daemons[second.name].stop()
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    watch.wait_for_watch(3)
    watch.process.wait_for(
        lambda: _watches_ended(it) > ended, HANG_S, "the API server's end of the watch is open"
    )
    assert it.haproxies[second.name].wait(HANG_S) == 0

    gone_at = first.power_off()
    it.run_haproxy(second)
    it.hold(second)
    lab.watch.wait_for_holder(lab.vip_address, second.name, timeout_s=HANG_S)
    again_at = now()
    assert again_at > gone_at
    it.daemons[second.name].wait_for(
        lambda: healthy(second) == {second.name}, HANG_S, "counts on the dead API server"
    )
    only_at = now()
    client.wait_for(50, only_at, servers={second.name})
    assert client.failures(only_at) == []


def test_a_watch_of_the_successor_itself_begins_anew(make: Callable[..., Balanced]) -> None:
    """As the kubelet of the next holder has one, through the VIP."""
    it = make(hosts=2)
    lab = it.lab
    it.start()
    first = holder(lab)
    (second,) = (host for host in lab.hosts if host is not first)
    watch = it.watch(by=second)
    watch.wait_for_watch(1)
    it.daemons[first.name].stop()
    watch.wait_for_watch(2)
    assert watch.ends(), "it was told"


def test_a_haproxy_that_is_told_to_stop_refuses_nobody(make: Callable[..., Balanced]) -> None:
    """Restarted alone, as by an upgrade: the VIP has moved before the port is closed."""
    it = make(hosts=2)
    lab = it.lab
    it.start()
    first = holder(lab)
    (second,) = (host for host in lab.hosts if host is not first)
    client = it.requests()
    client.wait_for(20, 0.0)
    os.kill(it.haproxies[first.name].pid, signal.SIGUSR1)
    lab.watch.wait_for_holder(lab.vip_address, second.name, timeout_s=HANG_S)
    assert it.haproxies[first.name].wait(HANG_S) == 0
    ended_at = now()
    client.wait_for(20, ended_at)
    assert [each for each in client.failures() if "refused" in each["error"].lower()] == []


def _watches_ended(it: Balanced) -> int:
    return sum(each.log_text().count('"watch": "ended"') for each in it.api_servers.values())


def test_backends_come_and_go_by_the_api_without_a_lost_request(
    make: Callable[..., Balanced],
) -> None:
    it = make(hosts=3)
    lab = it.lab
    first, second, third = lab.hosts
    listed = it.certificates / "backends.json"
    listed.write_text(json.dumps([first.ipv4, second.ipv4]))
    for host in lab.hosts:
        it.serve(host)
    access = {
        "load_balancer_backends": "auto",
        "kube_api_server": f"https://{first.ipv4}:{API_PORT}",
        "kube_ca_file": it.certificates / "ca.pem",
        "kube_token": "t0ken",
    }
    # The stand-in's certificate names nothing but `kubernetes`, as on the loopback.
    first.ip("address add 127.0.0.2/8 dev lo")
    access["kube_api_server"] = "https://127.0.0.2:6444"
    relay = first.popen(("haproxy", "-db", "-f", _relay(it, first.ipv4)), name="relay")
    it.balance(first, **access)
    daemon = it.hold(first, **access)
    daemon.wait_for(first.is_ready, HANG_S, "is not ready")
    assert relay.is_running
    names = {host.name: f"{host.ipv4}:{API_PORT}" for host in lab.hosts}
    daemon.wait_for(
        lambda: healthy(first) == {names["h1"], names["h2"]}, HANG_S, "does not know them"
    )
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    process = balancer(first)["process"]
    client, watch = it.requests(), it.watch()
    client.wait_for(20, 0.0, servers={"h1", "h2"})
    old = watch.wait_for_watch(1)
    leaving = lab[old]

    staying = [host.ipv4 for host in (first, second) if host is not leaving]
    listed.write_text(json.dumps([*staying, third.ipv4]))
    daemon.wait_for(
        lambda: (
            names["h3"] in healthy(first)
            and backends(first)[names[old]]["status"].startswith("DRAIN")
        ),
        HANG_S,
        "does not change over",
    )
    changed_at = now()
    client.wait_for(50, changed_at, servers={"h3"})
    assert {line["server"] for line in client.since(changed_at)} == {"h1", "h2", "h3"} - {old}
    assert watch.ends() == [], "what a leaving backend has goes on"
    watch.process.kill()
    daemon.wait_for(lambda: names[old] not in backends(first), HANG_S, "does not let it go")
    assert client.failures() == []
    assert balancer(first)["process"] == process, "no reload"
    assert balancer(first)["backends_known_by"] == "api"
    assert {"backend_listed", "backend_unlisted", "backend_drained"} <= set(
        reasons(daemon, "backend")
    )

    # Both start again while no API server says who there is: the kept list is enough.
    daemon.stop()
    relay.kill()
    it.haproxies[first.name].stop()
    it.balance(first, **access)
    daemon = it.hold(first, **access)
    daemon.wait_for(first.is_ready, HANG_S, "is not ready")
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    assert balancer(first)["backends_known_by"] == "kept"


def test_a_new_backend_gets_nothing_before_it_is_ready(make: Callable[..., Balanced]) -> None:
    it = make(hosts=3)
    lab = it.lab
    first, second, third = lab.hosts
    for host in lab.hosts:
        it.serve(host)
    it.say_ready(500, third)
    it.start_listing(first, place(first), place(second), load_balancer_balance="roundrobin")
    daemon = it.daemons[first.name]
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    client = it.requests()
    client.wait_for(20, 0.0, servers={"h1", "h2"})

    it.list_backends(first, *map(place, lab.hosts))
    daemon.wait_for(
        lambda: "L7STS" in backends(first)["h3"]["check"], HANG_S, "does not ask the new one"
    )
    asked_at = now()
    client.wait_for(20, asked_at)
    assert backends(first)["h3"]["sessions_total"] == 0
    it.say_ready(200, third)
    client.wait_for(20, asked_at, servers={"h1", "h2", "h3"})
    assert client.failures() == []


def test_a_list_that_is_replaced_as_a_whole_costs_nothing(make: Callable[..., Balanced]) -> None:
    """What is listed no more serves on until one that is listed is healthy."""
    it = make(hosts=2)
    lab = it.lab
    first, second = lab.hosts
    for host in lab.hosts:
        it.serve(host)
    it.start_listing(first, *map(place, lab.hosts))
    daemon = it.daemons[first.name]
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    client, watch = it.requests(), it.watch()
    client.wait_for(20, 0.0, servers={"h1", "h2"})
    watch.wait_for_watch(1)

    it.list_backends(first, place(first, "renamed-1"), place(second, "renamed-2"))
    daemon.wait_for(
        lambda: healthy(first) == {"renamed-1", "renamed-2"}, HANG_S, "does not go over"
    )
    it.say_ready(500, second)
    daemon.wait_for(lambda: healthy(first) == {"renamed-1"}, HANG_S, "does not see it fail")
    it.list_backends(first, place(second, "moved"))
    daemon.wait_for(
        lambda: "L7STS" in backends(first).get("moved", {"check": ""})["check"], HANG_S, "no check"
    )
    failed_at = now()
    client.wait_for(20, failed_at, servers={"h1"})
    assert healthy(first) == {"renamed-1"}
    assert "backend_kept" in reasons(daemon, "backend")
    it.say_ready(200, second)
    client.wait_for(20, failed_at, servers={"h2"})
    daemon.wait_for(lambda: healthy(first) == {"moved"}, HANG_S, "does not drain the old one")
    assert lab.watch.holders(lab.vip_address) == (first.name,)
    assert reasons(daemon, "moved")[-1] != "check_failed"
    assert watch.ends() == []
    assert client.failures() == []


def test_a_host_that_is_gone_costs_its_watches_and_no_request(
    make: Callable[..., Balanced],
) -> None:
    """HAProxy makes a connection elsewhere that it cannot make; havip ends what waits in vain."""
    it = make(hosts=3)
    lab = it.lab
    first, _, third = lab.hosts
    for host in lab.hosts:
        it.serve(host)
    it.balance(first, load_balancer_balance="roundrobin")
    daemon = it.hold(first, load_balancer_balance="roundrobin")
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    daemon.wait_for(lambda: len(healthy(first)) == 3, HANG_S, "not all are healthy")
    watch = it.watch(count=6)
    watch.wait_for_watch(6)
    client = it.requests()
    client.wait_for(20, 0.0, servers={"h1", "h2", "h3"})

    third.cut()
    cut_at = now()
    watch.process.wait_for(watch.ends, HANG_S, "no watch has ended")
    watch.wait_for_watch(7)
    assert "backend_silent" in reasons(daemon, "backend")
    # By then every request that began before has been told of, the unanswered ones as well.
    client.wait_for(20, now() + TIMEOUT_S, servers={"h1", "h2"})
    assert client.failures(cut_at) == []
    assert backends(first)["h3"]["redispatches_total"] > 0


def _relay(it: Balanced, address: str) -> str:
    path = it.lab.directory / "relay.cfg"
    path.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
        f"listen relay\n bind 127.0.0.2:6444\n server api {address}:{API_PORT}\n"
    )
    return str(path)


def test_mistakes_are_told_and_the_vip_is_not_taken(make: Callable[..., Balanced]) -> None:
    it = make(hosts=1)
    lab = it.lab
    (host,) = lab.hosts
    it.serve(host)

    taken = inside(host.namespace, lambda: socket.create_server(("0.0.0.0", PORT)))
    with taken:
        refused = it.prepare(host)
        assert refused.returncode == 2
        assert "loadBalancerPort" in refused.stderr
        assert "something else on this node has that port" in refused.stderr
        assert "loadBalancerBind: vip" in refused.stderr
        assert not (it.directory(host) / "haproxy.cfg").exists()

    same = it.prepare(host, load_balancer_port=API_PORT)
    assert same.returncode == 2
    assert "is where the balancer itself listens" in same.stderr

    daemon = it.hold(host)
    daemon.wait_for(lambda: "check balancer has never passed" in readiness(host), HANG_S, "ready")
    assert "start it after `havip load-balancer`" in readiness(host)
    assert lab.watch.holders(lab.vip_address) == ()

    # A HAProxy with somebody else's configuration is not asked to change anything.
    it.balance(host, load_balancer_balance="roundrobin")
    daemon.wait_for(lambda: "another configuration" in readiness(host), HANG_S, "content")
    assert lab.watch.holders(lab.vip_address) == ()
    it.haproxies[host.name].stop()
    it.balance(host)
    lab.watch.wait_for_holder(lab.vip_address, host.name, timeout_s=HANG_S)


def test_a_port_that_two_haproxies_are_to_have_is_the_firsts(
    make: Callable[..., Balanced],
) -> None:
    """Both prepared before either listens, as when a host starts; the kernel would let both."""
    it = make(hosts=1)
    lab = it.lab
    (host,) = lab.hosts
    it.serve(host)
    second = lab.directory / "second"
    assert it.prepare(host).returncode == 0
    assert it.prepare(host, load_balancer_directory=second).returncode == 0
    it.run_haproxy(host)
    it.hold(host)
    it.daemons[host.name].wait_for(host.is_ready, HANG_S, "is not ready")

    late = host.popen(("haproxy", "-W", "-db", "-f", str(second / "haproxy.cfg")), name="late")
    assert late.wait(HANG_S) != 0
    assert f"cannot bind socket (Address already in use) for [0.0.0.0:{PORT}]" in late.log_text()

    it.haproxies[host.name].stop()
    former = balancer(host)["process"]
    it.run_haproxy(host)
    it.daemons[host.name].wait_for(
        lambda: host.is_ready() and balancer(host)["process"] not in {0, former},
        HANG_S,
        "does not start again",
    )


def test_the_port_of_the_api_server_at_the_vip_alone(make: Callable[..., Balanced]) -> None:
    """`loadBalancerBind: vip` shares 6443 with an API server that listens on the node's address."""
    it = make(hosts=1)
    lab = it.lab
    (host,) = lab.hosts
    it.start(load_balancer_bind="vip", load_balancer_port=API_PORT)
    lab.watch.wait_for_holder(lab.vip_address, host.name, timeout_s=HANG_S)
    assert healthy(host) == {host.name}


def test_another_port_of_the_vip_leads_to_the_balancer(make: Callable[..., Balanced]) -> None:
    """`loadBalancerRedirectPort`: though an API server has that port on all addresses."""
    it = make(hosts=2)
    lab = it.lab
    first, second = lab.hosts
    it.serve(first, "::")
    it.serve(second)
    given = {
        "vip_address_cidr": f"{lab.vip},{lab.vip6}",
        "load_balancer_backends": f"h2 {second.ipv4}:{API_PORT}",
        "load_balancer_redirect_port": API_PORT,
    }
    for host in lab.hosts:
        host.run(("nft", "add", "table", "ip", "other"))
        it.balance(host, **given)
    for host in lab.hosts:
        it.hold(host, **given).wait_for(host.is_ready, HANG_S, "is not ready")
        lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    lab.watch.wait_for_holder(lab.vip6_address, first.name, timeout_s=HANG_S)
    assert balancer(first)["redirect_port"] == API_PORT

    # A firewall that is set anew takes everything else away.
    first.run(("nft", "flush", "ruleset"))
    assert _tables(first) == ["inet havip-eth0-10"]
    for vip in (lab.vip_address, lab.vip6_address):
        for host in (lab.client, first, second):
            client = it.requests(API_PORT, by=host, vip=vip)
            client.wait_for(3, 0.0)
            client.process.kill()
            assert {line["server"] for line in client.lines()} == {"h2"}, (host, vip)
    apart = it.requests(API_PORT, vip=ip_address(first.ipv4))
    apart.wait_for(3, 0.0, servers={"h1"})
    apart.process.kill()

    # A backup's daemon that ends takes its table along, and cuts off nobody there.
    place = (str(lab.vip_address), API_PORT)
    connection = inside(second.namespace, lambda: socket.create_connection(place, HANG_S))
    it.daemons[second.name].kill()
    assert _tables(second) == ["ip other"]
    context = ssl.create_default_context(cafile=str(it.certificates / "ca.pem"))
    context.check_hostname = False
    with context.wrap_socket(connection) as secured:
        assert secured.version()
    it.hold(second, **given).wait_for(second.is_ready, HANG_S, "is not ready")

    # Where the VIP leaves, what came by the redirect ends too.
    watches = [it.watch(API_PORT, by=host) for host in (lab.client, first)]
    for watch in watches:
        watch.wait_for_watch(1)
    it.daemons[first.name].stop()
    assert _tables(first) == []
    for watch in watches:
        assert watch.wait_for_watch(2) == "h2"


def test_a_reload_leads_there_from_the_new_vips(make: Callable[..., Balanced]) -> None:
    it = make(hosts=1)
    lab = it.lab
    (host,) = lab.hosts
    it.serve(host)
    settings = it.settings(host, load_balancer_redirect_port=API_PORT)
    del settings["vip_address_cidr"]
    file = lab.directory / "havip.yaml"
    file.write_text(f"vipAddressCidr: {lab.vip}\n")
    it.balance(host)
    daemon = host.havip(args=(f"--config={file}",), **settings)
    lab.watch.wait_for_holder(lab.vip_address, host.name, timeout_s=HANG_S)
    file.write_text(f"vipAddressCidr: {lab.other_vip}\nvirtualRouterId: 11\n")
    other = plain_address(lab.other_vip)
    lab.watch.wait_for_holder(other, host.name, timeout_s=HANG_S)
    it.requests(API_PORT, vip=other).wait_for(3, 0.0, servers={host.name})
    assert _tables(host) == ["inet havip-eth0-11"]
    daemon.wait_for(lambda: str(lab.vip_address) not in _ruleset(host), HANG_S, "has the old VIP")
    assert "configuration reloaded" in daemon.log_text()

    # What is in the way of the next one is told as at the start.
    host.run(("nft", "add", "table", "inet", "havip-eth0-12"))
    file.write_text(f"vipAddressCidr: {lab.other_vip}\nvirtualRouterId: 12\n")
    refused = (
        "loadBalancerRedirectPort 6443: somebody else has made an nftables table havip-eth0-12; "
        "run: nft delete table inet havip-eth0-12"
    )
    daemon.wait_for(lambda: refused in daemon.log_text(), HANG_S, "does not say why")
    assert "the new configuration is refused, the old one stays" in daemon.log_text()
    assert set(_tables(host)) == {"inet havip-eth0-11", "inet havip-eth0-12"}


def test_a_vip_that_a_reload_takes_away_is_redirected_until_it_has_left(
    make: Callable[..., Balanced],
) -> None:
    """Nobody who asks meanwhile comes to the node's own API server, which is no backend."""
    it = make(hosts=2)
    lab = it.lab
    first, second = lab.hosts
    it.serve(first, "::")
    it.serve(second)
    given = {
        "load_balancer_backends": f"h2 {second.ipv4}:{API_PORT}",
        "load_balancer_redirect_port": API_PORT,
        # The successor takes its time.
        "vrrp_advert_interval": 1,
    }
    file = lab.directory / "havip.yaml"
    file.write_text(f"vipAddressCidr: {lab.vip}\n")
    settings = it.settings(first, **given)
    del settings["vip_address_cidr"]
    for host in lab.hosts:
        it.balance(host, **given)
    daemon = first.havip(args=(f"--config={file}",), **settings)
    lab.watch.wait_for_holder(lab.vip_address, first.name, timeout_s=HANG_S)
    it.hold(second, **given, vrrp_priority=1).wait_for(second.is_ready, HANG_S, "is not ready")
    client = it.requests(API_PORT)
    client.wait_for(3, 0.0)
    file.write_text(f"vipAddressCidr: {lab.other_vip}\nvirtualRouterId: 11\n")
    lab.watch.wait_for_holder(lab.vip_address, second.name, timeout_s=HANG_S)
    client.wait_for(3, now())
    client.process.kill()
    assert {line["server"] for line in client.lines() if "error" not in line} == {"h2"}
    daemon.wait_for(lambda: str(lab.vip_address) not in _ruleset(first), HANG_S, "has the old VIP")


def test_a_redirect_that_the_kernel_refuses(make: Callable[..., Balanced]) -> None:
    """The start ends, and says why, before anything is changed."""
    it = make(hosts=1)
    (host,) = it.lab.hosts
    given = it.settings(host, load_balancer_redirect_port=API_PORT)
    env = [f"HAVIP_{name.upper()}={value}" for name, value in given.items()]
    command = ("env", *env, sys.executable, "-m", "havip", "run")
    host.run(("nft", "add", "table", "inet", "havip-eth0-10"))
    refused = host.run(command, check=False)
    assert refused.returncode == 2
    assert "somebody else has made an nftables table havip-eth0-10" in refused.stderr
    assert "run: nft delete table inet havip-eth0-10" in refused.stderr
    host.run(("nft", "delete", "table", "inet", "havip-eth0-10"))

    # Root of another user namespace has every capability, and no right in this network.
    refused = host.run(("unshare", "--user", "--map-root-user", *command), check=False)
    assert refused.returncode == 2
    assert "loadBalancerRedirectPort 6443: the kernel refuses the nftables table" in refused.stderr
    assert "Linux 5.12 or later" in refused.stderr
    assert it.lab.watch.holders(it.lab.vip_address) == ()
    assert _tables(host) == []


def _ruleset(host: Host) -> str:
    return host.run(("nft", "list", "ruleset")).stdout


def _tables(host: Host) -> list[str]:
    tables = host.run(("nft", "list", "tables")).stdout
    return [line.removeprefix("table ") for line in tables.splitlines()]


def test_a_list_in_the_file_changes_what_runs(make: Callable[..., Balanced]) -> None:
    """Backends in the running HAProxy; what it starts with only then, and the log says so."""
    it = make(hosts=1)
    lab = it.lab
    (host,) = lab.hosts
    it.serve(host)
    it.serve(lab.client)
    settings = it.settings(host)
    del settings["load_balancer_backends"]
    file = lab.directory / "havip.yaml"

    def listing(*backends: str, port: int) -> None:
        listed = ", ".join(backends)
        file.write_text(f"loadBalancerBackends: {listed}\nloadBalancerPort: {port}\n")

    own = f"own {host.ipv4}:{API_PORT}"
    other = f"other {lab.client.ipv4}:{API_PORT}"
    listing(own, port=PORT)
    assert it.prepare(host, load_balancer_backends=f"own {host.ipv4}:{API_PORT}").returncode == 0
    it.run_haproxy(host)
    daemon = host.havip(args=(f"--config={file}",), **settings)
    process = balancer(host)["process"]
    listing(own, other, port=7443)
    daemon.wait_for(lambda: healthy(host) == {"own", "other"}, HANG_S, "does not add it")
    assert balancer(host)["process"] == process
    assert balancer(host)["port"] == PORT
    daemon.wait_for_log("loadBalancerPort takes effect once HAProxy and havip are restarted")
    assert "other" in (it.directory(host) / "haproxy.cfg").read_text()


def test_ca_certificates_that_are_replaced_are_told_of_in_time(
    make: Callable[..., Balanced],
) -> None:
    it = make(hosts=1)
    (host,) = it.lab.hosts
    it.start()
    file = it.certificates / "ca.pem"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content + content)
    daemon = it.daemons[host.name]
    daemon.wait_for_log("balancer_ca_outdated")
    assert host.is_ready(), "and nothing is lost yet"
    assert it.prepare(host).returncode == 0
    assert (it.directory(host) / "ca.crt").read_bytes() == file.read_bytes()


def test_a_reload_to_a_vip_that_haproxy_does_not_serve(make: Callable[..., Balanced]) -> None:
    it = make(hosts=1)
    lab = it.lab
    (host,) = lab.hosts
    settings = it.settings(host, load_balancer_bind="vip")
    del settings["vip_address_cidr"]
    file = lab.directory / "havip.yaml"
    file.write_text(f"vipAddressCidr: {lab.vip}\n")
    it.serve(host)
    it.balance(host, load_balancer_bind="vip")
    daemon = host.havip(args=(f"--config={file}",), **settings)
    lab.watch.wait_for_holder(lab.vip_address, host.name, timeout_s=HANG_S)
    other = f"{lab.vip_address + 1}"
    file.write_text(f"vipAddressCidr: {other}/24\n")
    daemon.wait_for_log(f"HAProxy was started without {other}")
    assert "the new configuration is refused, the old one stays" in daemon.log_text()
    assert lab.watch.holders(lab.vip_address) == (host.name,)


@pytest.mark.parametrize("load_balancer", ["loadBalancerBackends: cp-1 192.0.2.11:6443", ""])
def test_a_reload_without_the_api_that_named_the_backends(
    load_balancer: str, make: Callable[..., Balanced]
) -> None:
    """HAProxy goes on as it was started, and so does the daemon."""
    it = make(hosts=1)
    (host,) = it.lab.hosts
    settings = it.settings(host)
    for name in ("load_balancer", "load_balancer_backends"):
        del settings[name]
    file = it.lab.directory / "havip.yaml"
    pki = it.certificates
    file.write_text(
        "loadBalancer: true\nloadBalancerBackends: auto\nkubeApiServer: https://127.0.0.2:6444\n"
        f"kubeCaFile: {pki / 'ca.pem'}\nkubeToken: t0ken\n"
    )
    daemon = host.havip(wait=False, args=(f"--config={file}",), **settings)
    daemon.wait_for_log("backends_missing")
    file.write_text(f"loadBalancer: true\n{load_balancer}\n" if load_balancer else "debug: false\n")
    daemon.wait_for_log("configuration reloaded")
    file.write_text(file.read_text() + "vrrpPriority: 90\n")
    daemon.wait_for(lambda: daemon.log_text().count("configuration reloaded") == 2, HANG_S, "ended")
    assert daemon.is_running
