"""HMAC of adverts: modes, keys, replays, and clocks that are wrong (design §3)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from driver import UTC, V4, Driver, advert_from, decode, router

from havip.core.actions import Counter, SendVrrp, Topic
from havip.core.config import HmacConfig, HmacMode, ReplayMode, Secret
from havip.core.events import ClockStepped, Reconfigured
from havip.core.reasons import Reason, State
from havip.core.signing import SENDERS, Signing, Verdict
from havip.wire import auth
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop

NOW = 1000.0
OFFSET_S = UTC - NOW
OLD = SigningKey(key_id=1, secret=b"1" * 32)
NEW = SigningKey(key_id=2, secret=b"2" * 64)
WRONG = SigningKey(key_id=1, secret=b"x" * 32)
SECRETS = {1: Secret(OLD.secret), 2: Secret(NEW.secret)}
INTERVAL_S = 0.1
HOUR_S = 3600.0
TIME, MONOTONIC = ReplayMode.TIME, ReplayMode.MONOTONIC


def hmac(active_key: int = 1, **changes) -> HmacConfig:
    return HmacConfig(keys=SECRETS, active_key=active_key, **changes)


def signing(**changes) -> Signing:
    made = Signing(hmac(**changes), advert_interval_s=INTERVAL_S, rotation_delay_s=0.0)
    made.utc_offset_s = OFFSET_S
    return made


def verify(made: Signing, stamp: Stamp | None, *, key=OLD, source=V4.higher, now=NOW):
    """What becomes of an advert of a peer; None: it is not signed."""
    config = router()
    signed = {} if stamp is None else {"key": key, "stamp": stamp}
    event = advert_from(source, 100, config, **signed)
    advert = decode(
        SendVrrp(
            interface=event.interface,
            source=event.source,
            destination=event.destination,
            payload=event.payload,
        )
    )
    return made.verify(now, advert, event.payload, source)


def at(seconds: float, counter: int = 0) -> Stamp:
    """The stamp of a peer whose clock is right, so many seconds from the start."""
    return Stamp.from_utc(UTC + seconds, counter)


# Modes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "unsigned", "signs"),
    [
        pytest.param(HmacMode.RECEIVE_ONLY, Verdict(), False, id="receive-only"),
        pytest.param(HmacMode.PERMISSIVE, Verdict(), True, id="permissive"),
        pytest.param(HmacMode.ENFORCE, Drop.AUTH_MISSING, True, id="enforce"),
    ],
)
def test_modes(mode, unsigned, signs):
    made = signing(mode=mode)
    assert (made.stamp(NOW) is not None) == signs
    assert verify(made, None) == unsigned
    assert verify(made, at(0)) == Verdict()
    assert verify(made, at(1), key=WRONG) is Drop.AUTH_TAG
    assert verify(made, at(1), key=SigningKey(key_id=3, secret=b"3" * 32)) is Drop.AUTH_KEY


@pytest.mark.parametrize("key", [OLD, NEW])
def test_each_configured_key_verifies(key):
    assert verify(signing(), at(0), key=key) == Verdict()


@pytest.mark.parametrize(("active", "key"), [(1, OLD), (2, NEW)])
def test_the_active_key_signs(active, key):
    signed = signing(active_key=active).stamp(NOW)
    assert signed is not None
    assert signed[0] == key


# Replays -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("replay", [TIME, MONOTONIC])
def test_a_replay_is_dropped(replay):
    made = signing(replay=replay)
    assert verify(made, at(0)) == Verdict()
    assert verify(made, at(0)) is Drop.AUTH_REPLAY
    assert verify(made, at(-0.1)) is Drop.AUTH_REPLAY
    assert verify(made, at(0, counter=1)) == Verdict()
    assert verify(made, at(0.05)) == Verdict()


@pytest.mark.parametrize("replay", [TIME, MONOTONIC])
def test_each_sender_has_its_own_mark(replay):
    made = signing(replay=replay)
    assert verify(made, at(3)) == Verdict()
    assert verify(made, at(1), source=V4.lower) == Verdict()


def test_a_wrong_tag_raises_no_mark():
    made = signing()
    assert verify(made, at(HOUR_S), key=WRONG) is Drop.AUTH_TAG
    assert verify(made, at(0)) == Verdict()


def test_stamps_wrap_in_2106():
    made = signing()
    made.utc_offset_s = 2**32 - NOW
    assert verify(made, Stamp(2**32 - 1, 0xFFFF, 0xFFFF)).is_suspect is False
    assert verify(made, Stamp(0, 0, 0)).is_suspect is False
    assert verify(made, Stamp(2**32 - 1, 0xFFFF, 0xFFFF)) is Drop.AUTH_REPLAY


def test_only_so_many_senders_are_remembered():
    made = signing()
    for n in range(SENDERS + 1):
        verify(made, at(0), source=type(V4.me)(f"10.0.0.{n}"))
    assert verify(made, at(0), source=type(V4.me)("10.0.0.64")) is Drop.AUTH_REPLAY
    assert verify(made, at(0), source=type(V4.me)("10.0.0.0")) == Verdict(), "the oldest went"


def test_a_sender_that_is_heard_is_not_forgotten():
    made = signing()
    for n in range(SENDERS):
        verify(made, at(0), source=type(V4.me)(f"10.0.0.{n}"))
    verify(made, at(1), source=type(V4.me)("10.0.0.0"))
    verify(made, at(1), source=V4.higher)
    assert verify(made, at(1), source=type(V4.me)("10.0.0.0")) is Drop.AUTH_REPLAY
    assert verify(made, at(0), source=type(V4.me)("10.0.0.1")) == Verdict(), "the quietest went"


# Clocks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "is_off"),
    [(0, False), (4.9, False), (-4.9, False), (5.1, True), (-5.1, True), (HOUR_S, True)],
)
@pytest.mark.parametrize("replay", [TIME, MONOTONIC])
def test_a_time_outside_the_window_is_an_alarm(replay, seconds, is_off):
    verdict = verify(signing(replay=replay), at(seconds))
    is_suspect = is_off and replay is TIME
    assert verdict == Verdict(
        is_suspect=is_suspect, is_to_come=is_suspect and seconds > 0, is_clock_off=is_off
    )


@pytest.mark.parametrize(
    ("interval_s", "configured_s", "window_s"),
    [
        pytest.param(0.1, None, 5.0, id="at least 5 s"),
        pytest.param(10.0, None, 30.0, id="three adverts"),
        pytest.param(0.1, 60.0, 60.0, id="configured"),
    ],
)
def test_the_window(interval_s, configured_s, window_s):
    made = Signing(
        hmac(time_window_s=configured_s), advert_interval_s=interval_s, rotation_delay_s=0.0
    )
    made.utc_offset_s = OFFSET_S
    assert verify(made, at(window_s - 0.1)) == Verdict()
    assert verify(made, at(window_s + 0.1)) == Verdict(is_clock_off=True)


def test_own_stamps_rise_whatever_the_clock_does():
    made = signing()
    stamps = []
    for step, now in enumerate((0, 0, 0.001, 0.002, 0.1, 0.1, 0.2)):
        if step == 3:
            made.utc_offset_s -= HOUR_S
        stamps.append(made.stamp(NOW + now)[1])
    for before, after in itertools.pairwise(stamps):
        assert after.is_after(before)


def test_the_counter_carries():
    made = signing()
    made.stamp(NOW)
    made.utc_offset_s -= HOUR_S
    stamps = [made.stamp(NOW)[1] for _ in range(70_000)]
    assert all(b.is_after(a) for a, b in itertools.pairwise(stamps))
    assert len(set(stamps)) == len(stamps)
    assert stamps[-1].fraction == stamps[0].fraction + 1


def test_a_node_with_a_slow_clock_lifts_its_stamps_to_its_peers():
    """Restarted before NTP with its clock an hour behind, it is believed at once."""
    peer = signing()
    assert verify(peer, at(0)) == Verdict(), "its stamps of the life before"
    restarted = signing()
    restarted.utc_offset_s = OFFSET_S - HOUR_S
    assert verify(peer, restarted.stamp(NOW + 1)[1]) is Drop.AUTH_REPLAY

    restarted = signing()
    restarted.utc_offset_s = OFFSET_S - HOUR_S
    heard = peer.stamp(NOW + 1)[1]
    assert verify(restarted, heard, source=V4.lower).is_clock_off
    assert restarted.stamp(NOW + 1)[1] == at(1 - HOUR_S), "no rival yet: its own clock"
    restarted.catch_up(NOW + 1)
    assert verify(peer, restarted.stamp(NOW + 1)[1]) == Verdict()


def test_a_wrong_signature_lifts_nothing():
    made = signing()
    verify(made, at(HOUR_S), key=WRONG)
    made.catch_up(NOW)
    assert made.stamp(NOW)[1] == at(0)


def test_in_time_mode_stamps_are_the_own_clocks_but_to_a_rival():
    """Lifted for longer to a peer whose clock is wrong, they would be wrong for everyone."""
    made = signing(replay=TIME)
    verify(made, at(HOUR_S))
    assert made.stamp(NOW)[1] == at(0)
    made.catch_up(NOW)
    lifted = made.stamp(NOW + 4.9)[1]
    assert lifted.is_after(at(HOUR_S))
    assert lifted.utc_s == at(HOUR_S).utc_s
    assert made.stamp(NOW + 5.1)[1] == at(5.1)


def test_in_time_mode_stamps_follow_a_clock_that_is_set_right():
    made = signing(replay=TIME)
    made.utc_offset_s += HOUR_S
    made.stamp(NOW)
    made.utc_offset_s -= HOUR_S
    assert made.stamp(NOW + 1)[1] == at(1)
    made.utc_offset_s -= 2
    assert made.stamp(NOW + 1.1)[1].is_after(at(1)), "a small step is no reason to go back"


def test_in_time_mode_a_mark_that_a_wrong_clock_made_is_void():
    """The whole segment was an hour ahead, and is right now."""
    made = signing(replay=TIME)
    made.utc_offset_s += HOUR_S
    assert verify(made, at(HOUR_S)) == Verdict()
    made.utc_offset_s -= HOUR_S
    assert verify(made, at(1)) == Verdict()
    assert verify(made, at(0.9)) is Drop.AUTH_REPLAY


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S])
def test_in_time_mode_a_clock_that_is_set_right_is_no_replay(off_s):
    made = signing(replay=TIME)
    assert verify(made, at(off_s)).is_suspect
    assert verify(made, at(1)) == Verdict()


# In the router -----------------------------------------------------------------------------------


def driver(**changes) -> Driver:
    return Driver((router(hmac=hmac(**changes)),))


def key_ids(d: Driver) -> set[int]:
    trailers = [auth.parse(advert.trailer) for _, advert in d.adverts]
    return {trailer.key_id for trailer in trailers if not isinstance(trailer, Drop)}


def stamps(d: Driver) -> list[Stamp]:
    return [auth.parse(advert.trailer).stamp for _, advert in d.adverts]


def test_what_one_node_signs_another_believes():
    ours = driver().become_active()
    ours.run_for(1)
    theirs = signing()
    for when, action in ours.timed(SendVrrp):
        verdict = theirs.verify(when, decode(action), action.payload, action.source)
        assert verdict == Verdict()


def test_keys_are_rotated_without_a_move():
    """Both keys everywhere, then the other one signs, then the old one goes."""
    d = driver().become_active()
    d.run_for(0.1)
    assert key_ids(d) == {1}
    d.done.clear()
    d.reconfigure(hmac=hmac(active_key=2))
    d.run_for(0.1)
    assert key_ids(d) == {2}
    d.done.clear()
    d.reconfigure(hmac=replace(hmac(active_key=2), keys={2: SECRETS[2]}))
    d.run_for(1)
    assert key_ids(d) == {2}
    assert not d.moves


def test_a_backup_stays_a_backup_while_keys_are_rotated():
    d = driver()
    d.start()
    for n in range(60):
        if n == 20:
            d.reconfigure(hmac=hmac(active_key=2))
        d.hear(150, key=OLD if n < 40 else NEW, stamp=at(d.now - NOW))
        d.run_for(0.05)
    assert not d.adverts


@pytest.mark.parametrize("mode", list(HmacMode))
def test_hmac_is_rolled_out_without_a_move(mode):
    d = Driver((router(),)).become_active()
    d.reconfigure(hmac=hmac(mode=mode))
    d.run_for(1)
    assert not d.moves
    assert bool(d.adverts[-1][1].trailer) == (mode is not HmacMode.RECEIVE_ONLY)
    assert d.view.hmac_key == (None if mode is HmacMode.RECEIVE_ONLY else 1)


def test_marks_survive_a_reload():
    """A new key, mode or interval opens no door to what was recorded before."""
    d = driver().become_active()
    recorded = advert_from(V4.lower, 50, d.routers[0], key=OLD, stamp=at(6))
    d.tell(recorded)
    d.reconfigure(hmac=hmac(active_key=2, mode=HmacMode.PERMISSIVE))
    d.reconfigure(advert_interval_s=0.2)
    d.tell(recorded)
    assert d.count(Counter.ADVERTS_DROPPED, "auth_replay") == 1


def test_own_stamps_survive_a_reload_with_a_step_back():
    d = driver().become_active()
    d.run_for(1)
    d.tell(ClockStepped(utc_offset_s=OFFSET_S - HOUR_S))
    d.reconfigure(hmac=hmac(active_key=2))
    d.run_for(1)
    sent = stamps(d)
    assert all(b.is_after(a) for a, b in itertools.pairwise(sent))


def test_a_stepped_clock_is_used():
    d = driver().become_active()
    d.tell(ClockStepped(utc_offset_s=OFFSET_S + HOUR_S))
    d.done.clear()
    d.run_for(0.1)
    assert stamps(d)[-1].utc_s == pytest.approx(UTC + d.now - NOW + HOUR_S, abs=0.1)


@pytest.mark.parametrize("replay", [TIME, MONOTONIC])
@pytest.mark.parametrize("off_s", [-HOUR_S, HOUR_S])
def test_a_backup_with_a_wrong_clock_makes_no_second_holder(replay, off_s):
    """Before NTP at boot: its peers look wrong to it, and yet they live."""
    d = driver(replay=replay)
    d.start()
    d.tell(ClockStepped(utc_offset_s=OFFSET_S + off_s))
    for priority in (50, 150):
        for _ in range(40):
            d.hear(priority, key=OLD, stamp=at(d.now - NOW))
            d.run_for(0.05)
        if replay is TIME:
            assert not d.adverts, "a sign of life, of whatever priority"
    assert d.count(Counter.CLOCK_ALARMS) == 80
    assert d.reports(Topic.ALARM)[0][1].fields["peer"] == str(V4.higher)


def test_a_suspect_advert_dethrones_nobody():
    d = driver(replay=TIME).become_active()
    d.hear(200, key=OLD, stamp=at(-HOUR_S))
    assert d.state is State.ACTIVE
    assert not d.moves


def test_a_suspect_advert_of_a_time_to_come_dethrones_once():
    d = driver(replay=TIME).become_active()
    takeover = advert_from(V4.higher, 200, d.routers[0], key=OLD, stamp=at(HOUR_S))
    d.tell(takeover)
    assert d.moves[-1][1:] == (State.BACKUP, Reason.HIGHER_PRIORITY)
    d.run_for(2)
    assert d.state is State.ACTIVE, "the other one has gone again"
    d.done.clear()
    d.tell(takeover)
    assert not d.moves, "it was recorded"


def test_a_suspect_priority_zero_starts_no_claim():
    d = driver(replay=TIME)
    d.start()
    d.hear(150, key=OLD, stamp=at(0))
    d.hear(0, key=OLD, stamp=at(HOUR_S))
    d.run_for(0.2)
    assert not d.adverts


def test_a_recorded_takeover_is_not_replayed():
    d = driver().become_active()
    takeover = advert_from(V4.higher, 200, d.routers[0], key=OLD, stamp=at(6))
    d.tell(takeover)
    d.run_for(2)
    assert d.state is State.ACTIVE, "the other one has gone again"
    d.done.clear()
    d.tell(takeover)
    assert not d.moves
    assert d.count(Counter.ADVERTS_DROPPED, "auth_replay") == 1


def test_a_holder_that_rejects_a_rival_lifts_its_stamps_above_what_it_remembers():
    """The rival's clock was an hour ahead, is right now, and it was restarted since."""
    d = driver().start()
    d.hear(150, key=OLD, stamp=at(HOUR_S))
    d.run_for(2)
    assert d.state is State.ACTIVE
    assert stamps(d)[-1].utc_s < UTC + HOUR_S, "nobody else speaks: its own clock"
    d.hear(150, key=OLD, stamp=at(2))
    assert d.count(Counter.ADVERTS_DROPPED, "auth_replay") == 1
    d.run_to_advert()
    assert stamps(d)[-1].is_after(at(HOUR_S))


def test_no_secret_is_shown():
    config = Driver((router(hmac=hmac(), password=Secret(b"pa55word")),)).config
    for shown in (repr(config), repr(Reconfigured(config=config)), repr(OLD)):
        assert "pa55word" not in shown
        assert "1111" not in shown
