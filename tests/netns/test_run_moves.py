"""How the VIP moves between real daemons: who holds it, what the client sees, what is on the wire.

No test asserts a time, except as protection against a hang: the figures are `ci/bench.py`'s.
"""

from __future__ import annotations

import itertools
import time

import pytest
from cluster import (
    HANG_S,
    SERVICE_URL,
    adverts,
    announcements,
    claimed,
    decisions,
    holder,
    others,
    priorities,
    reasons,
    router,
    settled,
    start,
    wait_for_adverts,
)
from patience import becomes

from havip.netlab import Host, IdleConnection, Lab


def lifetime_s(host: Host) -> int:
    """What the kernel still gives the VIP."""
    vip = str(host.lab.vip_address)
    return max((a["valid_life_time"] for a in host.addresses() if a["local"] == vip), default=0)


def serve(lab: Lab) -> None:
    for host in lab.hosts:
        host.serve()


def test_a_cold_start_ends_with_one_holder_that_a_client_reaches(lab: Lab) -> None:
    serve(lab)
    prober = lab.client.probe(str(lab.vip_address))
    daemons = start(lab, check_service_url=SERVICE_URL)
    first = settled(lab)

    assert prober.wait_for_answer(first.name) > 0
    wait_for_adverts(lab, first, 10, time.monotonic())
    assert lab.watch.holders(lab.vip_address) == (first.name,)
    # The others never claimed: not the address, and not on the wire.
    for name in others(lab, first):
        assert not announcements(lab, name)
        becomes(lambda name=name: router(lab[name])["state"], "backup")
        becomes(lambda name=name: reasons(daemons[name], "moved"), ["started"])
    becomes(lambda: router(first)["is_holding"], True)
    becomes(lambda: reasons(daemons[first.name], "moved"), ["started", "active_silent"])


def test_the_announcement_goes_out_after_the_address_is_there(make_lab) -> None:
    lab = make_lab(hosts=1)
    for _ in range(5):
        since_at = time.monotonic()
        daemon = lab["h1"].havip(wait=False, vip_address_cidr=lab.vip)
        becomes(lambda: lab["h1"].has_vip(lab.vip_address), True)
        wait_for_adverts(lab, "h1", 4, time.monotonic())
        came = lab.watch.vip_events(lab.vip_address)[-1]
        told = announcements(lab, "h1", since_at)
        assert len(told) >= 2, "the first announcement is repeated"
        claim = adverts(lab, "h1", since_at)[0]
        assert claim.at < told[0].at, "the claim is advertised before it is announced"
        # The instant of an address is that of its reading, some tenths of a millisecond after the
        # fact: whoever has read it late has seen nothing, and looks again.
        if told[0].at > came.at - 0.05:
            return
        assert daemon.stop() == 0
    raise AssertionError("always announced before it is there")


def test_a_killed_service_moves_the_vip_to_a_host_that_serves(lab: Lab) -> None:
    services = {host.name: host.serve() for host in lab.hosts}
    daemons = start(lab, check_service_url=SERVICE_URL, check_service_interval=0.5)
    first = settled(lab)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first.name)

    killed_at = time.monotonic()
    services[first.name].kill()
    lab.watch.wait_for_holder(lab.vip_address, *others(lab, first), timeout_s=HANG_S)
    prober.wait_for_answer(*others(lab, first), since_at=killed_at)

    def failure() -> list[dict[str, object]]:
        return [d for d in decisions(daemons[first.name]) if d.get("reason") == "check_failed"]

    becomes(lambda: len(failure()), 2)
    failed, left = failure()
    assert (failed["event"], failed["check"], failed["result"]) == ("check", "service", "refused")
    assert (left["event"], left["check"], left["state"]) == ("moved", "service", "backup")
    becomes(lambda: router(first)["blocked_by"], "check_failed")
    assert 0 in priorities(adverts(lab, first, killed_at))
    second = holder(lab)
    becomes(lambda: reasons(daemons[second.name], "moved")[-1], "active_left")

    # Once it serves again it may hold again, and does not take what another one has.
    lab[first.name].serve()
    daemons[first.name].wait_for(
        lambda: router(first)["may_hold"], HANG_S, "may not hold after recovery"
    )
    assert lab.watch.holders(lab.vip_address) == (second.name,)


def test_a_holder_powered_off_is_replaced_once(lab: Lab) -> None:
    serve(lab)
    daemons = start(lab)
    first = settled(lab)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first.name)
    for name in others(lab, first):
        daemons[name].wait_for(
            lambda name=name: router(lab[name])["fast_detect"] == "armed", HANG_S, "is not armed"
        )

    off_at = first.power_off()
    second = holder(lab)
    prober.wait_for_answer(second.name, since_at=off_at)
    wait_for_adverts(lab, second, 10, time.monotonic())

    held = lab.watch.held(lab.vip_address, off_at)
    assert held.holders == (second.name,)
    assert held.two_s == 0
    (third,) = set(others(lab, second)) - {first.name}
    assert not announcements(lab, third, off_at)
    daemons[second.name].wait_for_log('"state": "active"')
    (moved,) = (d for d in decisions(daemons[second.name]) if d.get("state") == "active")
    # On a crowded machine the RFC's timer may win; both are right.
    assert moved["reason"] in ("active_unreachable", "active_silent")
    assert moved["peer"] == first.ipv4


@pytest.mark.parametrize("takes_back", [True, False], ids=["preempt", "no_preempt"])
def test_a_preferred_holder_that_comes_back(make_lab, takes_back: bool) -> None:
    lab = make_lab(hosts=2)
    serve(lab)
    better, lesser = lab.hosts
    options = {"vrrp_no_preempt": not takes_back, "vrrp_preempt_delay": 0.2}
    start(lab, better, vrrp_priority=150, **options)
    holder(lab)
    start(lab, lesser, vrrp_priority=100, **options)
    settled(lab)
    better.power_off()
    lab.watch.wait_for_holder(lab.vip_address, lesser.name)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(lesser.name)

    back_at = time.monotonic()
    better.power_on()
    better.serve()
    daemon = start(lab, better, vrrp_priority=150, **options)[better.name]
    if not takes_back:
        # Longer than the preempt delay that the other case waits for.
        wait_for_adverts(lab, lesser, 20, time.monotonic())
        assert lab.watch.holders(lab.vip_address) == (lesser.name,)
        assert not announcements(lab, better, back_at)
        assert not adverts(lab, better, back_at)
        return
    came_at = lab.watch.wait_for_holder(lab.vip_address, better.name)
    becomes(lambda: reasons(daemon, "moved"), ["started", "preempted"])
    answered_at = prober.wait_for_answer(better.name, since_at=back_at)
    seen = prober.seen(back_at, max(came_at, answered_at) + 0.3)
    assert seen.answered_by[0] == lesser.name
    assert seen.answered_by[-1] == better.name
    assert seen.lost == 0, "a planned move loses no datagram"


def test_no_preempt_still_replaces_a_holder_that_became_worse(make_lab) -> None:
    """The classic trap of nopreempt with weights."""
    lab = make_lab(hosts=2)
    service = lab["h1"].serve()
    options = {"vrrp_no_preempt": True, "check_service_url": SERVICE_URL}
    options |= {"check_service_weight": -50, "check_service_interval": 0.2}
    start(lab, lab["h1"], vrrp_priority=120, **options)
    holder(lab)
    lab["h2"].serve()
    daemon = start(lab, lab["h2"], vrrp_priority=100, **options)["h2"]
    settled(lab)
    service.kill()
    lab.watch.wait_for_holder(lab.vip_address, "h2", timeout_s=HANG_S)
    becomes(lambda: reasons(daemon, "moved")[-1], "active_degraded")
    becomes(lambda: router(lab["h1"])["effective_priority"], 70)


def test_a_graceful_stop_costs_clients_nothing(lab: Lab) -> None:
    serve(lab)
    daemons = start(lab)
    first = settled(lab)
    vip = str(lab.vip_address)
    prober = lab.client.probe(vip)
    connector = lab.client.connector(vip)
    prober.wait_for_answer(first.name)
    idle = lab.client.idle_connection(vip)
    assert idle.server == first.name

    stopped_at = time.monotonic()
    assert daemons[first.name].stop() == 0
    second = holder(lab)
    answered_at = prober.wait_for_answer(second.name, since_at=stopped_at)
    seen = prober.seen(stopped_at, answered_at + 0.5)
    attempts = connector.seen(stopped_at, answered_at + 0.5)

    assert seen.lost == 0
    # Clients cross over once or, in the overlap, back and forth; they end at the successor.
    assert set(seen.answered_by) == {first.name, second.name}
    assert seen.answered_by[-1] == second.name
    assert [each for each in attempts if not each.is_answered] == []
    assert {each.who for each in attempts} >= {second.name}
    assert idle.wait_until_ended(5), "an established connection must end, not hang"
    assert idle_connection_reaches(lab, second.name)

    # Make before break: priority 0, then the successor has it, then the leaver lets go.
    goodbye = next(f for f in adverts(lab, first, stopped_at) if priorities([f]) == [0])
    events = [e for e in lab.watch.vip_events(lab.vip_address) if e.at > stopped_at]
    assert [(e.host, e.present) for e in events] == [(second.name, True), (first.name, False)]
    told = announcements(lab, second, stopped_at)
    assert goodbye.at < told[0].at
    # The leaver's last word makes any VRRP winner announce again.
    last_word = adverts(lab, first, stopped_at)[-1]
    assert priorities([last_word]) == [1]
    assert told[-1].at > last_word.at
    assert not announcements(lab, first, goodbye.at)


@pytest.mark.parametrize("crashes", [False, True], ids=["planned", "crash"])
def test_what_the_successor_itself_has_open_ends_too(make_lab, crashes: bool) -> None:
    """Its kernel believes no reset that comes from an address of its own."""
    lab = make_lab(hosts=2)
    serve(lab)
    first, second = lab.hosts
    daemons = {}
    for host in lab.hosts:
        daemons |= start(lab, host, vip_address_cidr=f"{lab.vip},{lab.vip6}")
        settled(lab)
        settled(lab, lab.vip6_address)
    vips = [str(lab.vip_address), str(lab.vip6_address)]
    idle = [second.idle_connection(vip) for vip in vips]
    assert {each.server for each in idle} == {first.name}

    if crashes:
        first.power_off()
    else:
        assert daemons[first.name].stop() == 0
    for vip in (lab.vip_address, lab.vip6_address):
        lab.watch.wait_for_holder(vip, second.name, timeout_s=HANG_S)
    assert [each.wait_until_ended(HANG_S) for each in idle] == [True, True]
    for vip in vips:
        with IdleConnection(second, vip) as connection:
            assert connection.server == second.name


def idle_connection_reaches(lab: Lab, name: str) -> bool:
    with IdleConnection(lab.client, str(lab.vip_address)) as connection:
        return connection.server == name


def test_a_graceful_stop_of_the_last_one_leaves_nothing(make_lab) -> None:
    lab = make_lab(hosts=1)
    daemon = start(lab)["h1"]
    holder(lab)
    stopped_at = time.monotonic()
    assert daemon.stop() == 0
    lab.watch.wait_until_gone(lab.vip_address)
    assert priorities(adverts(lab, "h1", stopped_at))[-1] == 0
    (gone,) = [e for e in lab.watch.vip_events(lab.vip_address) if not e.present]
    assert gone.port_id != 0, "deleted, not expired"


@pytest.mark.parametrize("while_stale", [True, False], ids=["address still there", "expired"])
def test_a_frozen_holder_that_is_resumed_neither_steals_nor_announces(
    make_lab, while_stale: bool
) -> None:
    lab = make_lab(hosts=2)
    serve(lab)
    daemons = start(lab)
    first = settled(lab)
    frozen = daemons[first.name]
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first.name)

    frozen_at = time.monotonic()
    frozen.freeze()
    # So the promise of three seconds is the kernel's from here on.
    assert lifetime_s(first) <= 2
    lab.watch.wait_for_holder(lab.vip_address, *others(lab, first))
    second = holder(lab)
    prober.wait_for_answer(second.name, since_at=frozen_at)
    if not while_stale:
        lab.watch.wait_until_gone(lab.vip_address, first.name)
        (gone,) = (
            e
            for e in lab.watch.vip_events(lab.vip_address)
            if e.host == first.name and not e.present
        )
        assert gone.port_id == 0, "the kernel let it expire"
    thawed_at = time.monotonic()
    frozen.thaw()
    becomes(lambda: router(first)["state"], "backup")
    if while_stale:
        lab.watch.wait_until_gone(lab.vip_address, first.name)
    wait_for_adverts(lab, second, 20, time.monotonic())

    assert adverts(lab, first, thawed_at) == []
    assert announcements(lab, first, thawed_at) == []
    events = [e for e in lab.watch.vip_events(lab.vip_address) if e.at > thawed_at and e.present]
    assert events == [], "nobody took the address anew"
    frozen.wait_for(
        lambda: reasons(frozen, "moved")[-1] in ("frozen", "address_expired"), HANG_S, "says why"
    )
    assert prober.seen(thawed_at, time.monotonic()).answered_by == (second.name,)


def test_a_killed_daemon_leaves_no_vip(make_lab) -> None:
    """Nobody succeeds it, and the address still leaves: the kernel's lifetime does that."""
    lab = make_lab(hosts=1)
    daemon = start(lab)["h1"]
    holder(lab)
    wait_for_adverts(lab, "h1", 40, time.monotonic())  # renewed at least once
    daemon.kill()
    assert lifetime_s(lab["h1"]) <= 2
    lab.watch.wait_until_gone(lab.vip_address)
    (gone,) = (e for e in lab.watch.vip_events(lab.vip_address) if not e.present)
    assert gone.port_id == 0


def test_a_killed_holder_is_replaced_and_its_restart_takes_nothing(lab: Lab) -> None:
    serve(lab)
    daemons = start(lab)
    first = settled(lab)
    daemons[first.name].kill()
    killed_at = time.monotonic()
    # Its address is still there, stale: the new life cleans it up and becomes a backup.
    stale = "valid_lft 60 preferred_lft 0 noprefixroute"
    first.ip(f"address replace {lab.vip_address}/32 dev eth0 {stale}")
    lab.watch.wait_for_holder(lab.vip_address, *others(lab, first))
    second = holder(lab)
    again = start(lab, first)[first.name]
    lab.watch.wait_until_gone(lab.vip_address, first.name)
    wait_for_adverts(lab, second, 20, time.monotonic())
    assert lab.watch.holders(lab.vip_address) == (second.name,)
    assert adverts(lab, first, killed_at) == []
    becomes(lambda: reasons(again, "moved"), ["started"])


def test_five_equal_nodes_agree_on_one_holder_each_time(make_lab) -> None:
    lab = make_lab(hosts=5)
    start(lab)
    gone: list[str] = []
    first = settled(lab)
    for _ in range(4):
        off_at = first.power_off()
        gone.append(first.name)
        survivors = [host.name for host in lab.hosts if host.name not in gone]
        lab.watch.wait_for_holder(lab.vip_address, *survivors, timeout_s=HANG_S)
        second = holder(lab)
        wait_for_adverts(lab, second, 10, time.monotonic())
        came = [
            e.host for e in lab.watch.vip_events(lab.vip_address) if e.present and e.at > off_at
        ]
        assert came == [second.name], "one new holder, not several that fight it out"
        assert lab.watch.held(lab.vip_address, off_at).two_s == 0
        first = second


def test_a_partition_ends_with_one_holder_and_no_client_cut_off(make_lab) -> None:
    lab = make_lab(hosts=2)
    serve(lab)
    start(lab)
    first = settled(lab)
    (second,) = (lab[name] for name in others(lab, first))
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first.name)

    lab.partition([first, lab.client, "gateway"], [second])
    lab.watch.wait_for(lambda: len(lab.watch.holders(lab.vip_address)) == 2, HANG_S, "two holders")
    healed_at = lab.heal()
    lab.watch.wait_for_holder(lab.vip_address)
    winner = holder(lab)
    (loser,) = (lab[name] for name in others(lab, winner))
    answered_at = prober.wait_for_answer(winner.name, since_at=healed_at)
    wait_for_adverts(lab, winner, 10, time.monotonic())

    # The higher address wins among equals, and announces after the loser's last word.
    assert winner.name == "h2"
    last_word = adverts(lab, loser, healed_at)[-1]
    assert priorities([last_word]) == [1]
    assert any(f.at > last_word.at for f in announcements(lab, winner, healed_at))
    assert not any(f.at > last_word.at for f in announcements(lab, loser, healed_at))
    until_at = time.monotonic()
    assert prober.seen(answered_at, until_at).answered_by[-1] == winner.name
    assert prober.seen(until_at - 0.2, until_at).lost == 0
    changes = [e for e in lab.watch.vip_events(lab.vip_address) if e.at > healed_at]
    assert [(e.host, e.present) for e in changes] == [(loser.name, False)]


def test_a_healed_partition_reaches_a_client_on_the_losers_side(make_lab) -> None:
    """It has the loser's MAC in its cache and asks nobody."""
    lab = make_lab(hosts=2)
    serve(lab)
    start(lab)
    holder(lab)
    lab.partition([lab["h1"], lab.client], [lab["h2"], "gateway"])
    lab.watch.wait_for(lambda: len(lab.watch.holders(lab.vip_address)) == 2, HANG_S, "two holders")
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer("h1")
    healed_at = lab.heal()
    lab.watch.wait_for_holder(lab.vip_address, "h2")
    prober.wait_for_answer("h2", since_at=healed_at, timeout_s=3)


def test_a_one_way_link_makes_no_second_holder_for_long(make_lab) -> None:
    """h1 does not hear h2: h1 claims, h2 hears that and, being better, goes on asserting."""
    lab = make_lab(hosts=2)
    start(lab, lab["h2"], vrrp_priority=120)
    holder(lab)
    start(lab, lab["h1"], vrrp_priority=100)
    settled(lab)
    cut_at = lab.block("h2", "h1")
    lab.watch.wait_for(
        lambda: len(lab.watch.holders(lab.vip_address)) == 2, HANG_S, "the deaf one claims"
    )
    wait_for_adverts(lab, "h2", 10, time.monotonic())
    assert lab["h2"].has_vip(lab.vip_address), "the better one stays"
    healed_at = lab.heal()
    lab.watch.wait_for_holder(lab.vip_address, "h2")
    # Rivals restrain themselves: a second of dispute makes no storm of announcements.
    for host in lab.hosts:
        told = announcements(lab, host, cut_at)
        assert len(told) < 10 + 20 * (healed_at - cut_at)


def test_packet_loss_alone_moves_nothing(lab: Lab) -> None:
    """Spare adverts: 10 % loss, and the timer of no backup runs out."""
    start(lab, vrrp_fast_detect=False)
    first = settled(lab)
    since_at = lab.loss(10)
    wait_for_adverts(lab, first, 50, since_at)
    lab.loss(0)
    assert [e for e in lab.watch.vip_events(lab.vip_address) if e.at > since_at] == []


def test_claims_and_answers_name_the_holder_alone(lab: Lab) -> None:
    """Through a graceful move, every frame that binds the VIP carries its sender's own MAC."""
    serve(lab)
    daemons = start(lab)
    first = settled(lab)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first.name)
    daemons[first.name].stop()
    second = holder(lab)
    wait_for_adverts(lab, second, 10, time.monotonic())
    bindings = [
        (frame.port, frame.data[22:28].hex(":"))
        for frame in lab.capture.frames()
        if claimed(frame) == lab.vip_address
    ]
    assert bindings
    for port, mac in bindings:
        assert mac == lab[port].mac
    order = [port for port, _ in itertools.groupby(p for p, _ in bindings)]
    assert order[0] == first.name
    assert order[-1] == second.name
