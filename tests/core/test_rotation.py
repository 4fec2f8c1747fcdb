"""A secret is replaced on nodes that are told of it up to two minutes apart."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from driver import UTC, Driver, router
from hypothesis import given
from hypothesis import strategies as st

from havip.core.actions import Counter, Topic
from havip.core.config import HmacConfig, RouterConfig, Secret
from havip.core.reasons import State
from havip.core.rotation import Rotation
from havip.wire import auth
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop

DELAY_S = 180.0
OLD = SigningKey(key_id=1, secret=b"1" * 32)
NEW = SigningKey(key_id=2, secret=b"2" * 32)


def rotation(sends: str, *accepts: str, delay_s: float = DELAY_S) -> Rotation[str]:
    return Rotation(sends=sends, accepts=accepts, delay_s=delay_s)


def after(older: Rotation[str], now: float, newer: Rotation[str]) -> Rotation[str]:
    newer.succeed(now, older)
    return newer


def accepts(made: Rotation[str], now: float) -> str:
    return "".join(sorted({*made.known, *made.former(now)}))


def test_who_starts_does_as_he_is_told():
    made = rotation("b", "a")
    assert (made.sends(0.0), accepts(made, 0.0), made.sends_new_in_s(0.0)) == ("b", "ab", 0.0)


def test_a_new_secret_is_accepted_at_once_and_sent_when_everybody_has_it():
    made = after(rotation("a"), 1000.0, rotation("b"))
    assert accepts(made, 1000.0) == "ab"
    assert (made.sends(1000.0), made.sends_new_in_s(1000.0)) == ("a", DELAY_S)
    assert (made.sends(1179.9), made.sends(1180.0)) == ("a", "b")


def test_a_secret_that_is_gone_is_accepted_for_three_delays():
    made = after(rotation("a"), 1000.0, rotation("b"))
    assert (accepts(made, 1539.9), accepts(made, 1540.0)) == ("ab", "b")


def test_a_secret_that_everybody_has_is_sent_at_once():
    """Added in one step, made the active one in another."""
    made = after(rotation("a"), 1000.0, rotation("a", "b"))
    assert made.sends(1100.0) == "a"
    early = after(made, 1100.0, rotation("b", "a"))
    assert (early.sends(1100.0), early.sends_new_in_s(1100.0)) == ("a", 80.0)
    late = after(made, 1300.0, rotation("b", "a"))
    assert late.sends(1300.0) == "b"
    assert accepts(after(late, 1400.0, rotation("b")), 1500.0) == "ab"


def test_a_second_change_before_the_first_is_through():
    made = after(rotation("a"), 0.0, rotation("b"))
    made = after(made, 100.0, rotation("c"))
    assert [made.sends(now) for now in (100.0, 279.0, 280.0)] == ["a", "a", "c"]
    assert accepts(made, 280.0) == "abc"
    assert accepts(made, 640.0) == "c"


def test_a_change_that_is_taken_back():
    made = after(rotation("a"), 0.0, rotation("b"))
    made = after(made, 100.0, rotation("a"))
    assert [made.sends(now) for now in (100.0, 200.0, 900.0)] == ["a", "a", "a"]
    assert accepts(made, 200.0) == "ab"


def test_a_reload_without_a_change_changes_nothing():
    made = after(rotation("a"), 0.0, rotation("b"))
    for now in range(10, 170, 10):
        made = after(made, float(now), rotation("b"))
    assert (made.sends(179.0), made.sends(180.0)) == ("a", "b")
    made = after(made, 400.0, rotation("b"))
    assert accepts(made, 180.0 + 3 * DELAY_S) == "b"


@pytest.mark.parametrize("at_once", [0.0, 500.0])
def test_without_a_delay_everything_is_at_once(at_once):
    made = after(rotation("a"), 0.0, rotation("b"))
    made = after(made, at_once, rotation("b", delay_s=0.0))
    assert (made.sends(at_once), accepts(made, at_once)) == ("b", "b")


@given(
    told_at=st.lists(st.floats(0.0, DELAY_S), min_size=2, max_size=5),
    steps=st.lists(
        st.sampled_from([("b",), ("b", "a"), ("a", "b"), ("c", "b")]), min_size=1, max_size=3
    ),
    gap_s=st.floats(3 * DELAY_S, 5 * DELAY_S),
    tick_s=st.floats(1.0, 20.0),
)
def test_every_node_accepts_what_every_other_sends(told_at, steps, gap_s, tick_s):
    """However late each is told of each step, as long as it is within the delay."""
    nodes = [rotation("a") for _ in told_at]
    changes = sorted(
        (step * gap_s + at, node, secrets)
        for step, secrets in enumerate(steps)
        for node, at in enumerate(told_at)
    )
    now = 0.0
    while now < len(steps) * gap_s:
        while changes and changes[0][0] <= now:
            at, node, (sends, *others) = changes.pop(0)
            nodes[node] = after(nodes[node], at, rotation(sends, *others))
        for one, other in itertools.permutations(nodes, 2):
            assert one.sends(now) in accepts(other, now)
        now += tick_s
    assert {node.sends(now) for node in nodes} == {steps[-1][0]}


# In the router -----------------------------------------------------------------------------------


def hmac(*keys: SigningKey) -> HmacConfig:
    """The first key signs."""
    secrets = {key.key_id: Secret(key.secret) for key in keys}
    return HmacConfig(keys=secrets, active_key=keys[0].key_id)


def signed_by(d: Driver) -> int:
    trailer = auth.parse(d.adverts[-1][1].trailer)
    assert not isinstance(trailer, Drop)
    return trailer.key_id


def test_a_holder_signs_with_the_old_key_until_everybody_has_the_new_one():
    d = Driver((router(hmac=hmac(OLD)),)).become_active()
    d.reconfigure(hmac=hmac(NEW, OLD))
    (told,) = [r for _, r in d.reports(Topic.CONFIGURED)]
    assert told.fields["sends_new_secret_in_s"] == DELAY_S
    d.run_for(DELAY_S - 1)
    assert (signed_by(d), d.view.hmac_key) == (1, 1)
    d.run_for(2)
    assert (signed_by(d), d.view.hmac_key) == (2, 2)
    assert not d.moves


@pytest.mark.parametrize("new", [NEW, replace(NEW, key_id=1)], ids=["its own id", "the same id"])
def test_a_backup_that_was_told_first_follows_a_holder_that_was_told_last(new):
    d = Driver((router(hmac=hmac(OLD)),))
    d.start()
    told_at = d.now
    changes = {0.0: hmac(new)}
    while d.now < told_at + 4 * DELAY_S:
        since_s = d.now - told_at
        if since_s in changes:
            d.reconfigure(hmac=changes.pop(since_s))
        key = OLD if since_s < 2 * DELAY_S else new
        d.hear(150, key=key, stamp=Stamp.from_utc(UTC + since_s, 0))
        d.run_for(0.125)
    assert not d.adverts
    assert not d.count(Counter.ADVERTS_DROPPED)


def test_the_old_key_is_not_believed_for_ever():
    d = Driver((router(hmac=hmac(OLD)),)).become_active()
    d.reconfigure(hmac=hmac(NEW))
    d.run_for(3 * DELAY_S)
    d.hear(200, key=OLD, stamp=Stamp.from_utc(UTC + 3 * DELAY_S + 10, 0))
    assert d.state is State.ACTIVE
    assert d.count(Counter.ADVERTS_DROPPED, "auth_key") == 1


def v2(password: bytes | None) -> RouterConfig:
    return router(
        version=2,
        advert_interval_s=1.0,
        password=None if password is None else Secret(password),
        rotation_delay_s=10.0,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"old", b"new", id="another password"),
        pytest.param(None, b"new", id="a first password"),
        pytest.param(b"old", None, id="no password any more"),
    ],
)
def test_a_password_is_rotated_too(old, new):
    d = Driver((v2(old),)).become_active()
    d.reconfigure(password=v2(new).password)
    d.run_for(9)
    assert d.adverts[-1][1].password == (old or b"")
    d.run_for(2)
    assert d.adverts[-1][1].password == (new or b"")
    assert d.view.hmac_key is None
    told_at = d.now - 11
    for password, after_s, dropped in ((old, 29, 0), (new, 29, 0), (old, 31, 1), (new, 31, 0)):
        d.run_until(told_at + after_s)
        d.done.clear()
        # Whom it hears has this password.
        d.routers = (replace(d.routers[0], password=v2(password).password),)
        d.hear(50)
        assert d.count(Counter.ADVERTS_DROPPED) == dropped
    assert not d.moves
