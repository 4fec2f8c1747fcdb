"""What havip adds to VRRP, with a keepalived on the other side that knows nothing of it."""

from __future__ import annotations

import time

import keepalived_pair as pair
import pytest
from keepalived_pair import BETTER, PATIENCE_S, WORSE, Dialect, dialects
from patience import becomes, wait_until

from havip.netlab import Lab, Prober


@pytest.fixture
def lab(make_lab) -> Lab:
    lab = make_lab(hosts=2)
    for host in lab.hosts:
        host.serve()
    return lab


def hold(lab: Lab, dialect: Dialect, daemon: str, priority: int) -> Prober:
    """The daemon holds on h1, and a client knows."""
    dialect.start(daemon, lab["h1"], priority)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    prober = lab.client.probe(str(dialect.vip))
    prober.wait_for_answer("h1")
    return prober


@pytest.mark.parametrize("how", ["havip stops", "keepalived is better"])
@dialects(pair.V3, pair.V3_IPV6, pair.V2)
def test_havip_lets_go_only_after_keepalived_has_announced(
    lab: Lab, dialect: Dialect, how: str
) -> None:
    """Make before break: what a leaver can do for the clients of any VRRP successor."""
    stops = how == "havip stops"
    if stops:
        dialect.keepalived(lab["h2"], WORSE).wait_for_log("Entering BACKUP STATE")
    prober = hold(lab, dialect, "havip", BETTER if stops else WORSE)
    prober.wait_for_answer("h1")

    began_at = time.monotonic()
    if stops:
        assert lab["h1"].processes[-1].stop() == 0
    else:
        dialect.keepalived(lab["h2"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    lab.watch.wait_until_gone(dialect.vip, "h1", timeout_s=PATIENCE_S)

    def words() -> list[float]:
        return [at for at, each in pair.priorities(lab, "h1", began_at) if each == 1]

    def announced() -> list[float]:
        told = pair.announcements(lab, dialect.vip, began_at)
        return [at for at, port in told if port == "h2"]

    (gone,) = [e for e in lab.watch.vip_events(dialect.vip) if e.at >= began_at and not e.present]
    # Each word of havip makes keepalived announce itself again, the last one too.
    wait_until(lambda: announced()[-1] > words()[-1], "the last answer")
    answered_at = prober.wait_for_answer("h2", since_at=max(gone.at, announced()[-1]))

    assert pair.came_and_went(lab, dialect.vip, began_at) == [("h2", True), ("h1", False)]
    assert announced()[0] < words()[0]
    assert lab.watch.held(dialect.vip, began_at).none_s == 0
    # Not one, but for those that had reached a busy h1 and were not answered before it let go.
    assert prober.seen(gone.at, answered_at).lost == 0


@pytest.mark.parametrize("how", ["keepalived stops", "havip is better"])
@dialects(pair.V3, pair.V3_IPV6, pair.V2_UNICAST)
def test_keepalived_lets_go_before_havip_can_take(lab: Lab, dialect: Dialect, how: str) -> None:
    """It removes the address as it says so. What remains to havip is the protocol's wait."""
    stops = how == "keepalived stops"
    if stops:
        dialect.havip(lab["h2"], WORSE)
    prober = hold(lab, dialect, "keepalived", BETTER if stops else WORSE)

    began_at = time.monotonic()
    if stops:
        assert lab["h1"].processes[-1].stop() == 0
    else:
        dialect.havip(lab["h2"], BETTER)
    lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    prober.wait_for_answer("h2", since_at=began_at)

    assert pair.came_and_went(lab, dialect.vip, began_at) == [("h1", False), ("h2", True)]
    # Its word was heard, or its silence would be the reason.
    pair.becomes_because(lab["h2"], "active_left" if stops else "preempted")
    assert lab.watch.held(dialect.vip, began_at).two_s == 0


@pytest.mark.parametrize(
    ("winner", "dialect"),
    [
        pytest.param("havip", pair.V3, id=f"havip wins, {pair.V3.name}"),
        pytest.param("havip", pair.V3_IPV6, id=f"havip wins, {pair.V3_IPV6.name}"),
        pytest.param("keepalived", pair.V3, id=f"keepalived wins, {pair.V3.name}"),
        pytest.param("keepalived", pair.V3_IPV6, id=f"keepalived wins, {pair.V3_IPV6.name}"),
        pytest.param("keepalived", pair.V2, id=f"keepalived wins, {pair.V2.name}"),
    ],
)
def test_a_healed_partition_leaves_one_holder_whom_its_clients_find(
    lab: Lab, dialect: Dialect, winner: str
) -> None:
    dialect.start(winner, lab["h1"], BETTER)
    dialect.start(pair.other(winner), lab["h2"], WORSE)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    prober = lab.client.probe(str(dialect.vip))
    prober.wait_for_answer("h1")
    # The client is on the loser's side, so that it has to learn the winner again.
    split_at = lab.partition(["h1"], ["h2", "c1", "gateway"])
    prober.wait_for_answer("h2", since_at=split_at, timeout_s=PATIENCE_S)
    assert lab.watch.holders(dialect.vip) == ("h1", "h2")

    healed_at = lab.heal()
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    if winner == "keepalived":
        wait_until(
            lambda: 1 in [each for _, each in pair.priorities(lab, "h2", healed_at)], "a last word"
        )
        told_at = next(at for at, each in pair.priorities(lab, "h2", healed_at) if each == 1)
    else:
        # keepalived goes without a word, if it hears before it is heard. havip's next
        # announcement, each few seconds, is then the first that the client gets.
        told_at = healed_at
    announced_at = pair.announced_after(lab, dialect, "h1", told_at)
    answered_at = prober.wait_for_answer("h1", since_at=announced_at, timeout_s=PATIENCE_S)
    assert lab.watch.holders(dialect.vip) == ("h1",)
    # From its first answer on, it alone answers.
    assert prober.seen(answered_at, answered_at + 0.5).answered_by == ("h1",)


@dialects(pair.V3, pair.V3_IPV6)
def test_a_frozen_keepalived_is_given_the_whole_time_of_the_rfc(lab: Lab, dialect: Dialect) -> None:
    """Its kernel goes on answering, so its host is not suspected."""
    prober = hold(lab, dialect, "keepalived", BETTER)
    keepalived = lab["h1"].processes[-1]
    havip = dialect.havip(lab["h2"], WORSE)
    becomes(lambda: pair.router(lab["h2"])["fast_detect"], "armed")

    keepalived.freeze()
    frozen_at = lab.watch.wait_for_holder(dialect.vip, "h2", timeout_s=PATIENCE_S)
    prober.wait_for_answer("h2", since_at=frozen_at)
    becomes(lambda: [move["reason"] for move in pair.moves(havip)], ["started", "active_silent"])
    assert pair.moves(havip)[-1]["silent_s"] >= 3 * dialect.interval_s
    assert pair.metric(lab["h2"], "havip_suspicions_total", reason="holder_lives") >= 1
    # keepalived's address has no lifetime: only havip's announcements keep clients away from it.
    assert lab["h1"].has_vip(dialect.vip)

    thawed_at = time.monotonic()
    keepalived.thaw()
    prober.wait_for_answer("h1", since_at=thawed_at, timeout_s=PATIENCE_S)
    lab.watch.wait_for_holder(dialect.vip, "h1", timeout_s=PATIENCE_S)
    pair.becomes_because(lab["h2"], "higher_priority")
