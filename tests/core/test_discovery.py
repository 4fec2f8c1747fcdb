"""Discovered peers: who is known when, and what a node does before it knows anybody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from driver import V4, V6, Address, Driver, Net, advert_from, check, router

from havip.core.actions import Action, Counter, KeepPeers, Report, SendVrrp, Topic
from havip.core.config import HmacConfig, RouterConfig, Secret
from havip.core.discovery import GRACE_S, STRANGERS, Discovery
from havip.core.events import PeersListed, PeersUnlisted, ProbeResult
from havip.core.reasons import Reason, State
from havip.core.timers import LEAVE_AFTER_ADVERT_S
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop

KEY = SigningKey(key_id=1, secret=b"k" * 32)
HMAC = HmacConfig(keys={1: Secret(KEY.secret)}, active_key=1)
STRANGER = ip_address("192.0.2.77")


def discovering(net: Net = V4, **changes: object) -> RouterConfig:
    return router(net, legs=(replace(net.leg(), discovers_peers=True),), **changes)


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def net(request: pytest.FixtureRequest) -> Net:
    found: Net = request.param
    return found


def started(net: Net = V4, **changes: object) -> Driver:
    return Driver(routers=(discovering(net, **changes),), net=net).start()


def listed(driver: Driver, *addresses: Address, is_kept: bool = False) -> list[Action]:
    return driver.tell(PeersListed(addresses=frozenset(addresses), is_kept=is_kept))


def destinations(actions: Iterable[Action]) -> set[Address]:
    return {action.destination for action in actions if isinstance(action, SendVrrp)}


def reasons(actions: Iterable[Action]) -> list[Reason | None]:
    return [
        action.reason
        for action in actions
        if isinstance(action, Report) and action.topic is Topic.PEERS
    ]


def kept(actions: Iterable[Action]) -> list[tuple[Address, ...]]:
    return [action.addresses for action in actions if isinstance(action, KeepPeers)]


# Before anybody is known -------------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param(None, id="no list"),
        pytest.param((), id="an empty list"),
        pytest.param((V4.lower, V4.higher), id="a list without this node"),
        pytest.param((V4.me,), id="a list of the other family"),
    ],
)
@pytest.mark.parametrize("is_kept", [False, True], ids=["of the API", "kept"])
def test_without_a_list_that_names_it_a_node_neither_holds_nor_speaks(
    addresses: tuple[Address, ...] | None, is_kept: bool
) -> None:
    net = V6 if addresses == (V4.me,) else V4
    driver = started(net)
    if addresses is not None:
        listed(driver, *addresses, is_kept=is_kept)
    driver.run_for(60.0)
    assert driver.state is State.BACKUP
    assert driver.adverts == []
    assert driver.view.blocked_by == Reason.NO_PEERS
    view = driver.node.view(driver.now)
    assert not view.ready
    assert view.not_ready_because.startswith("eth0/10: no_peers: ")


def test_why_nobody_is_known_is_told() -> None:
    driver = started()
    told = driver.tell(PeersUnlisted(detail="HTTP 403: allow it by an RBAC rule"))
    (alarm,) = [action for action in told if isinstance(action, Report)]
    assert (alarm.topic, alarm.reason) == (Topic.ALARM, Reason.PEERS_UNLISTED)
    assert alarm.fields == {"detail": "HTTP 403: allow it by an RBAC rule"}
    assert driver.tell(PeersUnlisted(detail="again")) == [], "not each time"


def test_alone_by_the_list_of_the_api_it_holds(net: Net) -> None:
    """A first node has nobody to speak to; whoever comes sees it in the list, and speaks."""
    driver = started(net)
    listed(driver, net.me)
    driver.run_for(6.0)
    assert driver.state is State.ACTIVE
    assert driver.adverts == []


@pytest.mark.parametrize("is_kept", [False, True], ids=["of the API", "kept"])
def test_the_others_of_the_list_get_the_adverts(net: Net, is_kept: bool) -> None:
    driver = started(net)
    told = listed(driver, net.me, net.lower, net.higher, is_kept=is_kept)
    assert reasons(told) == [Reason.PEERS_KEPT if is_kept else Reason.PEERS_LISTED]
    driver.run_for(6.0)
    assert driver.state is State.ACTIVE
    assert destinations(driver.since(0)) == {net.lower, net.higher}
    assert driver.view.unicast_peers == (str(net.lower), str(net.higher))


def test_no_vip_is_a_peer() -> None:
    """The kubelet may take a VIP for the node's address, and write it into the list."""
    driver = started()
    listed(driver, V4.me, V4.vip.address, V4.higher)
    assert driver.view.unicast_peers == (str(V4.higher),)
    driver.hear(100, V4.vip.address)
    assert driver.view.unicast_peers == (str(V4.higher),)


def test_adverts_come_from_the_address_that_the_others_know() -> None:
    driver = Driver(routers=(discovering(),))
    driver.start()
    driver.own_address(V4, "192.0.2.33/24")
    listed(driver, ip_address("192.0.2.33"), V4.higher)
    driver.run_for(6.0)
    assert {a.source for _, a in driver.timed(SendVrrp)} == {ip_address("192.0.2.33")}


def test_a_list_that_came_before_the_address_counts() -> None:
    driver = Driver(routers=(discovering(),))
    driver.start(links=False)
    listed(driver, V4.me, V4.higher)
    driver.own_address()
    driver.link()
    driver.run_for(6.0)
    assert driver.state is State.ACTIVE


# Who introduces itself ---------------------------------------------------------------------


def test_a_new_node_introduces_itself_and_waits(net: Net) -> None:
    """The holder may not be told of it yet."""
    driver = started(net)
    driver.done.clear()
    told = listed(driver, net.me, net.lower, net.higher)
    assert destinations(told) == {net.lower, net.higher}
    assert [advert.priority for _, advert in driver.adverts] == [1, 1]
    driver.run_for(0.3)
    assert driver.state is State.BACKUP


def test_under_a_holder_that_is_heard_nobody_is_disturbed() -> None:
    driver = started()
    listed(driver, V4.me, V4.higher)
    driver.hear(100, V4.higher)
    assert destinations(listed(driver, V4.me, V4.higher, V4.lower)) == set()


def test_a_holder_speaks_to_a_new_peer_at_once() -> None:
    driver = started()
    listed(driver, V4.me, V4.higher)
    driver.run_for(6.0)
    told = listed(driver, V4.me, V4.higher, V4.lower)
    assert destinations(told) == {V4.lower, V4.higher}
    assert driver.state is State.ACTIVE


def test_a_holder_answers_whoever_introduces_itself(net: Net) -> None:
    driver = started(net)
    listed(driver, net.me)
    driver.run_for(6.0)
    told = driver.hear(1, net.higher)
    assert destinations(told) == {net.higher}
    assert driver.state is State.ACTIVE
    assert reasons(told) == [Reason.PEER_HEARD]


def test_an_introduction_is_no_successor_of_a_leaver() -> None:
    driver = Driver(routers=(discovering(),), checks=(check(),)).start()
    listed(driver, V4.me, V4.higher)
    driver.run_for(6.0)
    driver.judge(ProbeResult.REFUSED)
    assert driver.state is State.BACKUP
    driver.hear(1, V4.lower)
    driver.run_for(2 * LEAVE_AFTER_ADVERT_S)
    assert driver.on_interface, "it is kept for who really comes"
    driver.hear(100, V4.higher)
    driver.run_for(LEAVE_AFTER_ADVERT_S)
    assert not driver.on_interface


# Who counts without being listed -------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "source", "changes", "is_met"),
    [
        pytest.param(discovering(), STRANGER, {}, True, id="unsigned, from the link"),
        pytest.param(
            discovering(),
            STRANGER,
            {"hop_limit": 254},
            False,
            id="unsigned, over a router (RFC 5082)",
        ),
        pytest.param(
            discovering(hmac=HMAC),
            STRANGER,
            {"hop_limit": 61, "key": KEY, "stamp": Stamp(1_700_000_000, 0, 0)},
            True,
            id="signed, over routers",
        ),
        pytest.param(
            discovering(hmac=HMAC), STRANGER, {}, False, id="unsigned, where a signature is due"
        ),
        pytest.param(discovering(), V4.vip.address, {}, False, id="from the VIP"),
        pytest.param(
            discovering(), ip_address("169.254.0.7"), {}, False, id="from a link's address"
        ),
        pytest.param(
            discovering(),
            STRANGER,
            {"addresses": (ip_address("192.0.2.200"),)},
            False,
            id="for another VIP",
        ),
    ],
)
def test_an_unlisted_one_that_speaks(
    config: RouterConfig, source: Address, changes: dict[str, object], is_met: bool
) -> None:
    driver = Driver(routers=(config,)).start()
    listed(driver, V4.me, V4.higher)
    driver.tell(advert_from(source, 100, config, **changes))
    expected = {str(V4.higher)} | ({str(source)} if is_met else set())
    assert set(driver.view.unicast_peers) == expected


def test_only_so_many_unlisted_ones_count() -> None:
    """Without signatures they can be made up."""
    driver = started()
    listed(driver, V4.me, V4.higher)
    for number in range(STRANGERS + 5):
        driver.hear(1, ip_address(f"192.0.2.{120 + number}"))
    assert len(driver.view.unicast_peers) == 1 + STRANGERS
    assert driver.count(Counter.ADVERTS_DROPPED, Drop.UNKNOWN_PEER) == 5
    # One that a list names makes room.
    listed(driver, V4.me, V4.higher, ip_address("192.0.2.120"))
    driver.hear(1, ip_address("192.0.2.190"))
    assert "192.0.2.190" in driver.view.unicast_peers


def test_an_unlisted_holder_is_a_holder() -> None:
    driver = started()
    listed(driver, V4.me)
    for _ in range(20):
        driver.hear(100, STRANGER)
        driver.run_for(0.1)
    assert driver.state is State.BACKUP


def test_introductions_prove_nothing() -> None:
    """Two that start beside a holder that neither knows still ask the link for the address."""
    driver = started()
    listed(driver, V4.me, V4.higher)
    driver.hear(1, V4.higher)
    driver.run_for(0.2)
    driver.announce_from(STRANGER)
    driver.run_for(0.5)
    assert driver.state is State.BACKUP
    assert driver.view.reason == Reason.ADDRESS_IN_USE


# Who is forgotten ----------------------------------------------------------------------------

A, B, C = (IPv4Address(f"192.0.2.{number}") for number in (1, 2, 3))
ME = IPv4Address("192.0.2.10")
ME6, B6 = IPv6Address("2001:db8::10"), IPv6Address("2001:db8::2")


def knows(discovery: Discovery, family: int = 4) -> set[Address]:
    return set(discovery.peers(family, {ME, ME6}))


def told(discovery: Discovery, now: float, *addresses: Address) -> None:
    """The API lists these now."""
    discovery.add(addresses)
    discovery.miss(now, addresses, {ME, ME6})


def test_one_that_is_listed_no_more_counts_for_a_minute() -> None:
    discovery = Discovery()
    told(discovery, 0.0, ME, A, B)
    told(discovery, 10.0, ME, A)
    told(discovery, 10.0 + GRACE_S - 0.1, ME, A)
    assert knows(discovery) == {A, B}
    told(discovery, 10.0 + GRACE_S, ME, A)
    assert knows(discovery) == {A}


def test_one_that_is_heard_still_counts() -> None:
    discovery = Discovery()
    told(discovery, 0.0, ME, A, B)
    told(discovery, 10.0, ME, A)
    assert not discovery.hear(60.0, B)
    told(discovery, 10.0 + GRACE_S, ME, A)
    assert knows(discovery) == {A, B}
    told(discovery, 60.0 + GRACE_S, ME, A)
    assert knows(discovery) == {A}


def test_one_that_comes_back_begins_anew() -> None:
    discovery = Discovery()
    told(discovery, 0.0, ME, A, B)
    told(discovery, 10.0, ME, A)
    told(discovery, 20.0, ME, A, B)
    told(discovery, 10.0 + GRACE_S, ME, A)
    assert knows(discovery) == {A, B}


def test_an_unlisted_one_that_falls_silent_is_forgotten_too() -> None:
    discovery = Discovery()
    told(discovery, 0.0, ME, A)
    assert discovery.hear(1.0, C)
    told(discovery, 2.0, ME, A)
    assert knows(discovery) == {A, C}
    told(discovery, 2.0 + GRACE_S, ME, A)
    assert knows(discovery) == {A}
    assert discovery.listed == {ME, A}


@pytest.mark.parametrize(
    "addresses",
    [
        pytest.param((), id="an empty list"),
        pytest.param((C,), id="a list without this node"),
        pytest.param((ME6, B6), id="a list of the other family"),
    ],
)
def test_such_a_list_removes_nobody(addresses: tuple[Address, ...]) -> None:
    """It is not finished, or not this node's."""
    discovery = Discovery()
    told(discovery, 0.0, ME, A, B)
    told(discovery, 10.0, *addresses)
    told(discovery, 1000.0, *addresses)
    assert {A, B} <= knows(discovery)
    assert knows(discovery, 6) == {B6} & set(addresses)


def test_while_the_api_is_silent_nobody_is_forgotten() -> None:
    driver = started()
    listed(driver, V4.me, V4.higher, V4.lower)
    driver.tell(PeersUnlisted(detail="refused"))
    driver.run_for(5 * GRACE_S)
    assert driver.view.unicast_peers == (str(V4.lower), str(V4.higher))


def test_one_that_was_forgotten_and_is_there_is_known_again_when_it_claims() -> None:
    driver = started()
    listed(driver, V4.me, V4.lower)
    driver.run_for(6.0)
    listed(driver, V4.me)
    driver.run_for(GRACE_S)
    listed(driver, V4.me)
    assert driver.view.unicast_peers == ()
    told = driver.hear(100, V4.lower)
    assert destinations(told) == {V4.lower}, "and is told at once that there is a holder"
    assert driver.state is State.ACTIVE


# What is kept for the next start --------------------------------------------------------------


def test_a_list_that_names_this_node_is_kept() -> None:
    driver = started()
    assert kept(listed(driver, V4.me, V4.higher)) == [(V4.me, V4.higher)]
    assert kept(listed(driver, V4.me, V4.higher)) == [], "once"
    assert kept(listed(driver, V4.lower, V4.me, V4.higher)) == [(V4.lower, V4.me, V4.higher)]


@pytest.mark.parametrize(
    ("addresses", "is_kept"),
    [
        pytest.param((), False, id="an empty list"),
        pytest.param((V4.lower, V4.higher), False, id="a list without this node"),
        pytest.param((V4.me, V4.higher), True, id="what is kept already"),
    ],
)
def test_what_is_not_kept(addresses: tuple[Address, ...], is_kept: bool) -> None:
    assert kept(listed(started(), *addresses, is_kept=is_kept)) == []


def test_who_may_come_back_is_kept_and_an_unlisted_one_is_not() -> None:
    driver = started()
    listed(driver, V4.me, V4.lower, V4.higher)
    driver.hear(1, STRANGER)
    assert kept(listed(driver, V4.me, V4.lower)) == []
    driver.run_for(GRACE_S)
    assert kept(listed(driver, V4.me, V4.lower)) == [(V4.lower, V4.me)]


def test_the_list_of_the_api_counts_over_the_kept_one() -> None:
    driver = started()
    listed(driver, V4.me, V4.lower)
    listed(driver, V4.me, V4.higher, is_kept=True)
    driver.reconfigure(priority=120)
    assert driver.node.view(driver.now).ready


# Changes of the configuration ------------------------------------------------------------------


def test_going_over_to_discovery_moves_nothing() -> None:
    peers = (V4.lower, V4.higher)
    driver = Driver(routers=(router(legs=(V4.leg(peers=peers),)),)).become_active()
    driver.reconfigure(discovering())
    assert driver.state is State.ACTIVE
    assert driver.view.unicast_peers == tuple(map(str, peers))
    driver.run_for(1.0)
    assert destinations(driver.since(0)) == set(peers)
    listed(driver, V4.me, V4.higher)
    assert driver.state is State.ACTIVE


def test_a_router_that_a_reload_brings_knows_the_list() -> None:
    driver = started()
    listed(driver, V4.me, V4.higher)
    second = discovering(name="eth0/20", virtual_router_id=20)
    second = replace(second, legs=(replace(second.legs[0], vips=(V4.second,)),))
    driver.reconfigure(driver.routers[0], second)
    views = driver.node.view(driver.now).routers
    assert [view.unicast_peers for view in views] == [(str(V4.higher),)] * 2


def test_a_list_moves_nothing_where_peers_are_configured() -> None:
    driver = Driver(routers=(router(legs=(V4.leg(peers=(V4.higher,)),)),)).become_active()
    assert listed(driver, V4.me, V4.lower) == []
    assert driver.view.unicast_peers == (str(V4.higher),)
