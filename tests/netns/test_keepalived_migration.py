"""A fleet of keepalived becomes one of havip, node by node, and back again."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import keepalived_pair as pair
import pytest
from keepalived_pair import BETTER, PATIENCE_S, WORSE, Dialect, dialects
from patience import becomes

from havip.netlab import Host, Lab, Process, keepalived_config

PRIORITY = 100

OLD_CHART = """
global_defs {
  router_id %(router_id)s
  vrrp_version 2
  vrrp_garp_master_delay 1
  vrrp_garp_master_repeat 5
  vrrp_garp_master_refresh 30
  vrrp_garp_master_refresh_repeat 2
}
vrrp_instance VI_1 {
  state BACKUP
  interface eth0
  virtual_router_id 10
  priority 100
  advert_int 1
  authentication {
    auth_type PASS
    auth_pass s3cret
  }
  virtual_ipaddress {
    10.77.0.100/24 dev eth0
  }
}
"""


def old(host: Host) -> Process:
    """keepalived as the keepalived-ingress-vip chart configures it, the same on each node."""
    return host.keepalived(OLD_CHART % {"router_id": host.name})


def new(host: Host) -> Process:
    return pair.V2.havip(host, PRIORITY)


def replace(host: Host, start: Callable[[Host], Process]) -> Process:
    """What an operator does on one node: stop the one daemon, start the other."""
    running = next(
        process for process in host.processes if process.is_daemon and process.is_running
    )
    assert running.stop() == 0
    started = start(host)
    if start is old:
        started.wait_for_log("Entering BACKUP STATE")
    return started


def test_three_nodes_go_over_one_by_one_and_back(lab: Lab) -> None:
    """First the Backups, last the holder: the VIP moves once in each direction."""
    address = lab.vip_address
    for host in reversed(lab.hosts):
        host.serve()
        old(host).wait_for_log("Entering BACKUP STATE")
    # Of equals the first one holds, or the one of the highest address.
    lab.watch.wait_for_holder(address, "h3", timeout_s=PATIENCE_S)
    prober = lab.client.probe(str(address))
    began_at = prober.wait_for_answer("h3")

    for host in (lab["h1"], lab["h2"]):
        replace(host, new)
    assert lab.watch.holders(address) == ("h3",)
    assert prober.seen(began_at).answered_by == ("h3",)
    left_at = time.monotonic()
    replace(lab["h3"], new)
    lab.watch.wait_for_holder(address, "h1", "h2", timeout_s=PATIENCE_S)
    (holder,) = lab.watch.holders(address)
    prober.wait_for_answer(holder, since_at=left_at)
    assert pair.came_and_went(lab, address, began_at) == [("h3", False), (holder, True)]
    # The holder's stop costs the skew of priority 100, not the time of its silence.
    pair.becomes_because(lab[holder], "active_left")

    back_at = time.monotonic()
    for host in lab.hosts:
        if host.name != holder:
            replace(host, old)
    assert lab.watch.holders(address) == (holder,)
    replace(lab[holder], old)
    lab.watch.wait_for_holder(address, timeout_s=PATIENCE_S)
    (last,) = lab.watch.holders(address)
    assert last != holder
    prober.wait_for_answer(last, since_at=time.monotonic())
    # Make before break: nobody was ever without the VIP on the way back.
    assert lab.watch.held(address, back_at).none_s == 0
    events = pair.came_and_went(lab, address, back_at)
    assert [each for each in events if each[0] == holder] == [(holder, False)]
    assert all(
        "address_occupied" not in text for name, text in lab.logs().items() if "havip" in name
    )


def test_the_address_of_a_killed_keepalived_is_refused_with_the_remedy(lab: Lab) -> None:
    """It is permanent, with keepalived's prefix, and answers ARP for as long as it is there."""
    dialect = pair.V3
    dialect.keepalived(lab["h1"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    lab["h1"].processes[-1].kill()

    refused = dialect.havip(lab["h1"], BETTER, wait=False)
    assert refused.wait(PATIENCE_S) == 2
    remedy = f"ip address delete {Lab.vip} dev eth0"
    assert remedy in refused.log_text()
    assert "vipTakeOver" in refused.log_text()
    assert [a["prefixlen"] for a in pair.vips_on(lab["h1"], dialect)] == [24]

    lab["h1"].run(remedy.split())
    dialect.havip(lab["h1"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    assert [a["prefixlen"] for a in pair.vips_on(lab["h1"], dialect)] == [32]


def test_a_keepalived_started_beside_havip_by_mistake_keeps_it_from_holding(lab: Lab) -> None:
    """Both of one VRID on one node: havip sees the address of the other one, and waits."""
    dialect = pair.V3
    dialect.keepalived(lab["h2"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    havip = dialect.havip(lab["h1"], WORSE)
    intruder = dialect.keepalived(lab["h1"], BETTER + 1)
    havip.wait_for_log("address_occupied")
    assert "vipTakeOver" in havip.log_text()
    becomes(lambda: pair.router(lab["h1"])["blocked_by"], "address_occupied")

    # It takes part again as soon as the other one has gone.
    assert intruder.stop() == 0
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    becomes(lambda: pair.router(lab["h1"])["may_hold"], True)
    lab["h2"].power_off()
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    assert [a["prefixlen"] for a in pair.vips_on(lab["h1"], dialect)] == [32]


def test_the_address_of_a_killed_keepalived_is_taken_over_when_told_so(lab: Lab) -> None:
    dialect = pair.V3
    dialect.keepalived(lab["h1"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    lab["h1"].processes[-1].kill()

    dialect.havip(lab["h1"], BETTER, vip_take_over="true")
    becomes(lambda: pair.router(lab["h1"])["state"], "active")
    lab.watch.wait_for_holder(dialect.vip, "h1")
    (address,) = pair.vips_on(lab["h1"], dialect)
    assert address["prefixlen"] == 32
    assert address["valid_life_time"] <= 2


def test_a_stopped_keepalived_leaves_nothing_that_confuses_havip(lab: Lab) -> None:
    dialect = pair.V3
    keepalived = dialect.keepalived(lab["h1"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    assert keepalived.stop() == 0
    havip = dialect.havip(lab["h1"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    becomes(lambda: [move["reason"] for move in pair.moves(havip)], ["started", "active_silent"])
    # And the other way round: keepalived starts where havip was killed a moment ago.
    havip.kill()
    dialect.keepalived(lab["h1"], BETTER).wait_for_log("Entering MASTER STATE")
    # Its own /24 alone.
    becomes(lambda: [a["prefixlen"] for a in pair.vips_on(lab["h1"], dialect)], [24])


def hosts_that_changed(lab: Lab, address: IPv4Address | IPv6Address, since_at: float) -> set[str]:
    return {event.host for event in lab.watch.vip_events(address) if event.at >= since_at}


def test_havip_and_keepalived_share_a_node_with_two_routers(lab: Lab) -> None:
    """Each sees the other's adverts, of another VRID, and minds its own."""
    host = lab["h1"]
    host.serve()
    keepalived = host.keepalived(
        keepalived_config(lab.other_vip, virtual_router_id=11, priority=BETTER)
    )
    havip = pair.V3.havip(host, BETTER)
    peer = lab["h2"]
    peer.serve()
    pair.V3.havip(peer, WORSE)
    peer.keepalived(keepalived_config(lab.other_vip, virtual_router_id=11, priority=WORSE))
    other_vip = pair.plain_address(lab.other_vip)
    lab.watch.wait_for_holder(pair.V3.vip, "h1", timeout_s=PATIENCE_S)
    lab.watch.wait_for_holder(other_vip, "h1", timeout_s=PATIENCE_S)

    # Each moves alone.
    began_at = time.monotonic()
    havip.stop()
    lab.watch.wait_for_holder(pair.V3.vip, "h2", timeout_s=PATIENCE_S)
    assert hosts_that_changed(lab, other_vip, began_at) == set()
    pair.V3.havip(host, BETTER)
    lab.watch.wait_for_holder(pair.V3.vip, "h1", timeout_s=PATIENCE_S)
    began_at = time.monotonic()
    keepalived.stop()
    lab.watch.wait_for_holder(other_vip, "h2", timeout_s=PATIENCE_S)
    # havip puts its VIP behind the addresses that remain, within microseconds, on the same node.
    assert hosts_that_changed(lab, pair.V3.vip, began_at) <= {"h1"}
    assert lab.watch.holders(pair.V3.vip) == ("h1",)
    becomes(lambda: pair.router(peer)["state"], "backup")
    assert "vrid_collision" not in peer.processes[-2].log_text()


@pytest.fixture
def keys(lab: Lab) -> Path:
    path = lab.directory / "keys"
    path.write_text(f"1: {'5a' * 32}\n")
    path.chmod(0o600)
    return path


@dialects(pair.V3, pair.V3_IPV6)
def test_receive_only_is_understood_by_a_keepalived_without_hmac(
    lab: Lab, dialect: Dialect, keys: Path
) -> None:
    """The stage that can be reached while one such keepalived is in the group."""
    keepalived = dialect.keepalived(lab["h2"], WORSE)
    dialect.havip(lab["h1"], BETTER, auth_hmac_keys_file=keys, auth_hmac_mode="receive-only")
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    keepalived.wait_for_log("Entering BACKUP STATE")
    off_at = lab["h1"].power_off()
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    assert lab.watch.held(dialect.vip, off_at).two_s == 0


@dialects(pair.V3, pair.V2)
def test_a_keepalived_without_hmac_drops_what_is_signed_and_holds_too(
    lab: Lab, dialect: Dialect, keys: Path
) -> None:
    """So `permissive` needs keepalived 2.4 or later everywhere: a limit, told by an alarm."""
    havip = dialect.havip(lab["h1"], BETTER, auth_hmac_keys_file=keys, auth_hmac_mode="permissive")
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    keepalived = dialect.keepalived(lab["h2"], WORSE)
    keepalived.wait_for_log("vrrp packet too long")
    lab.watch.wait_for(
        lambda: lab.watch.holders(dialect.vip) == ("h1", "h2"), PATIENCE_S, "two holders"
    )
    havip.wait_for_log("address_in_use", PATIENCE_S)


def test_the_list_of_vips_must_be_the_same(lab: Lab) -> None:
    """keepalived drops another list, and is then silenced by each advert that it drops."""
    dialect = pair.V3
    keepalived = lab["h2"].keepalived(keepalived_config([lab.vip, lab.other_vip], priority=WORSE))
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    havip = dialect.havip(lab["h1"], BETTER)
    havip.wait_for_log("the peer advertises other addresses")
    keepalived.wait_for_log("unexpected ip number count 1, expected 2")
    lab.watch.wait_for(
        lambda: lab.watch.holders(dialect.vip) == ("h1", "h2"), PATIENCE_S, "two holders"
    )
