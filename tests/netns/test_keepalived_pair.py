"""havip and Debian's keepalived as one virtual router: every way in which the VIP can move."""

from __future__ import annotations

import time

import keepalived_pair as pair
import pytest
from keepalived_pair import PATIENCE_S, Dialect, dialects
from patience import becomes, wait_until

from havip.netlab import Lab

VERSION_3 = (
    pair.V3,
    pair.V3_UNICAST,
    pair.V3_IPV6,
    pair.V3_IPV6_UNICAST,
    pair.V3_SEVERAL,
    pair.V3_DUAL,
)
HOLDERS = pytest.mark.parametrize("holder", ["havip", "keepalived"])
BETTER = pytest.mark.parametrize("better", ["havip", "keepalived"])


@pytest.fixture
def lab(make_lab) -> Lab:
    lab = make_lab(hosts=2)
    for host in lab.hosts:
        host.serve()
    return lab


def settle(lab: Lab, dialect: Dialect, holder: str) -> None:
    """The holder on h1, the other daemon as its Backup on h2."""
    dialect.start(holder, lab["h1"], pair.BETTER)
    dialect.start(pair.other(holder), lab["h2"], pair.WORSE)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    if holder == "keepalived":
        # What havip has to have seen of its holder before it can judge its silence.
        becomes(lambda: pair.router(lab["h2"])["fast_detect"], "armed")
    else:
        lab["h2"].processes[-1].wait_for_log("Entering BACKUP STATE")
        lab.capture.wait_for(lambda f: f.is_vrrp and f.port == "h1", PATIENCE_S, time.monotonic())


def assert_only(lab: Lab, dialect: Dialect, host: str) -> None:
    """Exactly this host has every VIP of the group."""
    for vip in dialect.vips:
        lab.watch.wait_for_holder(pair.plain_address(vip), host, timeout_s=PATIENCE_S)


@BETTER
@dialects(*VERSION_3)
def test_the_better_one_takes_over_and_gives_back_when_it_stops(
    lab: Lab, dialect: Dialect, better: str
) -> None:
    dialect.start(pair.other(better), lab["h1"], pair.WORSE)
    assert_only(lab, dialect, "h1")
    prober = lab.client.probe(str(dialect.vip))
    prober.wait_for_answer("h1")

    began_at = time.monotonic()
    daemon = dialect.start(better, lab["h2"], pair.BETTER)
    assert_only(lab, dialect, "h2")
    prober.wait_for_answer("h2", since_at=began_at)
    if better == "havip":
        pair.becomes_because(lab["h2"], "preempted")
    else:
        pair.becomes_because(lab["h1"], "higher_priority")

    pair.assert_silenced(lab, dialect, "h1", "h2", began_at)

    stopped_at = time.monotonic()
    assert daemon.stop() == 0
    assert_only(lab, dialect, "h1")
    prober.wait_for_answer("h1", since_at=stopped_at)
    assert 0 in [priority for _, priority in pair.priorities(lab, "h2", stopped_at)]
    if better == "keepalived":
        pair.becomes_because(lab["h1"], "active_left")
    pair.assert_silenced(lab, dialect, "h2", "h1", stopped_at)
    # Never two but for a handover, once in each direction.
    events = pair.came_and_went(lab, dialect.vip, began_at)
    assert sorted(events[:2]) == [("h1", False), ("h2", True)]
    assert sorted(events[2:]) == [("h1", True), ("h2", False)]


@HOLDERS
@dialects(*VERSION_3, pair.V2)
def test_a_host_without_power_is_replaced(lab: Lab, dialect: Dialect, holder: str) -> None:
    settle(lab, dialect, holder)
    prober = lab.client.probe(str(dialect.vip))
    prober.wait_for_answer("h1")

    off_at = lab["h1"].power_off()
    assert_only(lab, dialect, "h2")
    prober.wait_for_answer("h2", since_at=off_at)
    if holder == "keepalived":
        # On a crowded machine the RFC's timer may win; both are right.
        wait_until(
            lambda: pair.reason(lab["h2"]) in ("active_unreachable", "active_silent"),
            "the holder is gone",
        )
    assert not lab.watch.held(dialect.vip, off_at).two_s


@HOLDERS
@dialects(pair.V3, pair.V3_IPV6)
def test_a_killed_daemon_is_replaced(lab: Lab, dialect: Dialect, holder: str) -> None:
    settle(lab, dialect, holder)
    prober = lab.client.probe(str(dialect.vip))
    prober.wait_for_answer("h1")

    killed_at = time.monotonic()
    lab["h1"].processes[-1].kill()
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    prober.wait_for_answer("h2", since_at=killed_at)
    if holder == "keepalived":
        # Its kernel answers: the host lives, so the RFC's timer decides.
        pair.becomes_because(lab["h2"], "active_silent")
        assert lab["h1"].has_vip(dialect.vip)
    else:
        lab.watch.wait_until_gone(dialect.vip, "h1")
