"""Active suspicion: is the silent holder's host gone, or only its daemon late (design §3)?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from driver import SETTLE_S, V4, V6, Driver, announcement, answer, check, mac_of, router

from havip.core.actions import Counter
from havip.core.events import ProbeResult
from havip.core.reasons import Reason, State
from havip.core.suspicion import (
    CALIBRATE_S,
    LATE_FACTOR,
    REQUESTS,
    SPACING_S,
    STALE_S,
    WAIT_S,
    Ask,
    Question,
    Suspicion,
)

INTERVAL_S = 0.1
DOWN_S = 3 * INTERVAL_S + 156 / 256 * INTERVAL_S
VERDICT_S = LATE_FACTOR * INTERVAL_S + (REQUESTS - 1) * SPACING_S + WAIT_S
CLAIM_S = VERDICT_S + 156 / 256 * INTERVAL_S / 4
NETS = [pytest.param(V4, id="IPv4"), pytest.param(V6, id="IPv6")]
HOLDER, CONTROL, SPARE = V4.higher, V4.gateway, V4.lower
MACS = {HOLDER: b"holder", CONTROL: b"contro"}


# The module --------------------------------------------------------------------------------------


def calibrated(*, holder: bool = True, control: bool = True) -> Suspicion:
    """A Backup that has just heard its holder; these hosts have answered."""
    suspicion = Suspicion()
    suspicion.heard(100.0, HOLDER, INTERVAL_S, (CONTROL,))
    assert {question.address for question in suspicion.questions(100.0)} == {HOLDER, CONTROL}
    if holder:
        suspicion.answered(100.0, HOLDER, b"holder")
    if control:
        suspicion.answered(100.0, CONTROL, b"contro")
    suspicion.heard(100.0, HOLDER, INTERVAL_S, (CONTROL,))
    return suspicion


def burst(suspicion: Suspicion, *, late_s: float = 0.0) -> list[float]:
    """Ask until there is nothing more to ask; returns when it was asked."""
    at = []
    while suspicion.wake_at < 101.0:
        now = suspicion.wake_at + late_s
        if not suspicion.questions(now):
            break
        at.append(now)
    return at


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([], Ask.NOBODY_ANSWERS, id="it may be me"),
        pytest.param([CONTROL], Ask.HOLDER_GONE, id="only the control answers"),
        pytest.param([HOLDER], Ask.HOLDER_LIVES, id="the holder's kernel answers"),
        pytest.param([HOLDER, CONTROL], Ask.HOLDER_LIVES, id="both answer"),
    ],
)
def test_verdicts(answers, expected):
    suspicion = calibrated()
    asked = burst(suspicion)
    for address in answers:
        suspicion.answered(asked[-1] + 0.001, address, MACS[address])
    assert suspicion.verdict(asked[-1] + WAIT_S - 0.001) is None
    assert suspicion.verdict(asked[-1] + WAIT_S) is expected
    assert suspicion.verdict(asked[-1] + WAIT_S + 1) is None, "once"


@pytest.mark.parametrize("during_burst", [True, False])
def test_another_mac_for_the_holder_disarms(during_burst):
    """A duplicate address, or a lie: the host that is asked then may not be the holder's."""
    suspicion = calibrated()
    asked = burst(suspicion) if during_burst else [100.0]
    suspicion.answered(asked[-1] + 0.001, HOLDER, b"forged")
    suspicion.answered(asked[-1] + 0.001, CONTROL, MACS[CONTROL])
    assert suspicion.verdict(asked[-1] + WAIT_S) is None
    assert suspicion.lacks(asked[-1] + WAIT_S)


def test_the_burst_begins_when_an_advert_is_late():
    asked = burst(calibrated())
    first = 100.0 + LATE_FACTOR * INTERVAL_S
    assert asked == pytest.approx([first + n * SPACING_S for n in range(REQUESTS)])


def test_an_answer_from_before_the_burst_is_no_answer_to_it():
    suspicion = calibrated()
    asked = burst(suspicion)
    suspicion.answered(asked[0] - 0.001, HOLDER, b"holder")
    suspicion.answered(asked[0], CONTROL, b"contro")
    assert suspicion.verdict(asked[-1] + WAIT_S) is Ask.HOLDER_GONE


def test_a_process_that_is_late_itself_waits_in_full():
    """From the moment of the last sending, not from the plan."""
    suspicion = calibrated()
    asked = burst(suspicion, late_s=0.05)
    assert asked[-1] == pytest.approx(asked[0] + (REQUESTS - 1) * (SPACING_S + 0.05))
    assert suspicion.wake_at == pytest.approx(asked[-1] + WAIT_S)
    assert suspicion.verdict(asked[-1] + WAIT_S - 0.001) is None


def test_an_advert_ends_the_burst():
    suspicion = calibrated()
    suspicion.questions(suspicion.wake_at)
    suspicion.heard(100.14, HOLDER, INTERVAL_S, (CONTROL,))
    assert suspicion.wake_at == pytest.approx(100.14 + LATE_FACTOR * INTERVAL_S)
    assert suspicion.verdict(100.5) is None
    assert len(burst(suspicion)) == REQUESTS, "and the next one is complete"


def test_an_advert_between_the_burst_and_the_verdict_takes_it_back():
    suspicion = calibrated()
    asked = burst(suspicion)
    suspicion.heard(asked[-1] + 0.001, HOLDER, INTERVAL_S, (CONTROL,))
    assert suspicion.verdict(asked[-1] + WAIT_S) is None


@pytest.mark.parametrize(
    ("holder", "control", "lack"),
    [
        pytest.param(False, True, "holder", id="the holder's host never answered"),
        pytest.param(True, False, "gateway", id="no control ever answered"),
    ],
)
def test_whoever_never_answered_proves_nothing_by_silence(holder, control, lack):
    suspicion = calibrated(holder=holder, control=control)
    assert lack in suspicion.lacks(100.0)
    assert burst(suspicion) == []
    assert suspicion.verdict(101.0) is None


def test_an_old_answer_proves_nothing():
    suspicion = calibrated()
    assert suspicion.lacks(100.0 + STALE_S) == ""
    assert suspicion.lacks(100.0 + STALE_S + 0.001) != ""


def test_calibration_is_repeated():
    suspicion = calibrated()
    for n in range(1, 60):
        suspicion.heard(100.0 + n, HOLDER, INTERVAL_S, (CONTROL,))
    assert suspicion.questions(100.0 + CALIBRATE_S + 49) != []
    assert suspicion.wake_at > 100.0 + CALIBRATE_S


def test_a_burst_that_meets_a_calibration_is_one():
    suspicion = Suspicion()
    suspicion.heard(100.0, HOLDER, INTERVAL_S, (CONTROL,))
    suspicion.questions(100.0)
    for address in (HOLDER, CONTROL):
        suspicion.answered(100.0, address, b"macmac")
    suspicion.heard(100.0 + CALIBRATE_S - 0.01, HOLDER, INTERVAL_S, (CONTROL,))
    now = 100.0 + CALIBRATE_S + 1
    assert suspicion.questions(now)
    assert suspicion.wake_at > now


def test_questions_are_unicast_once_the_mac_is_known():
    suspicion = Suspicion()
    suspicion.heard(100.0, HOLDER, INTERVAL_S, (CONTROL,))
    assert suspicion.questions(100.0) == [
        Question(address=HOLDER, mac=None),
        Question(address=CONTROL, mac=None),
    ]
    suspicion.answered(100.0, HOLDER, b"holder")
    suspicion.answered(100.0, CONTROL, b"contro")
    suspicion.heard(100.0, HOLDER, INTERVAL_S, (CONTROL,))
    assert suspicion.questions(100.2) == [
        Question(address=HOLDER, mac=b"holder"),
        Question(address=CONTROL, mac=b"contro"),
    ]


def test_the_holder_is_no_control_of_itself():
    suspicion = Suspicion()
    suspicion.heard(100.0, HOLDER, INTERVAL_S, (HOLDER, CONTROL))
    assert [q.address for q in suspicion.questions(100.0)] == [HOLDER, CONTROL]


def test_a_new_holder_must_answer_for_itself():
    suspicion = calibrated()
    suspicion.heard(100.1, SPARE, INTERVAL_S, (CONTROL,))
    assert "holder" in suspicion.lacks(100.1)
    assert {q.address for q in suspicion.questions(100.1)} == {SPARE, CONTROL}
    suspicion.answered(100.1, SPARE, b"spare ")
    assert suspicion.lacks(100.1) == "", "the control has not been forgotten"


def test_strangers_are_not_remembered():
    suspicion = calibrated()
    suspicion.answered(100.0, SPARE, b"spare ")
    suspicion.heard(100.1, SPARE, INTERVAL_S, (CONTROL,))
    assert suspicion.lacks(100.1) != ""


def test_stopped():
    suspicion = calibrated()
    suspicion.stop()
    assert suspicion.wake_at > 1e9
    assert suspicion.lacks(100.0) == "no holder"
    assert suspicion.verdict(1e9) is None


# In the router -----------------------------------------------------------------------------------


def armed(net=V4, checks=(), **changes) -> Driver:
    """A Backup that hears its holder, whose hosts have answered; an advert has just come."""
    d = Driver((router(net, fast_detect=True, **changes),), checks=checks, net=net)
    d.start()
    d.run_for(0.01)
    d.hear(150)
    d.run_for(0.01)
    d.answer_from(net.higher)
    d.answer_from(net.gateway)
    d.hear(150)
    assert d.view.fast_detect == "armed"
    d.done.clear()
    return d


def ask_then_answer(d: Driver, *answers) -> float:
    """Let the burst pass, with these hosts answering; returns when the last advert came."""
    heard_at = d.now
    d.run_for(VERDICT_S - WAIT_S / 2)
    for address in answers:
        d.answer_from(address)
    return heard_at


@pytest.mark.parametrize("net", NETS)
def test_a_dead_host_is_replaced_before_the_rfcs_timer(net):
    d = armed(net)
    heard_at = ask_then_answer(d, net.gateway)
    d.run_for(1)
    assert d.adverts[0][0] == pytest.approx(heard_at + CLAIM_S)
    assert d.moves[0][0] == pytest.approx(heard_at + CLAIM_S + SETTLE_S)
    assert d.moves[0][0] - heard_at < 0.2 < DOWN_S, "promise 2"
    assert d.moves[0][1:] == (State.ACTIVE, Reason.ACTIVE_UNREACHABLE)
    assert d.count(Counter.SUSPICIONS, "holder_gone") == 1


@pytest.mark.parametrize("net", NETS)
def test_the_holders_kernel_is_asked_unicast(net):
    d = armed(net)
    heard_at = d.now
    d.run_for(VERDICT_S)
    asked = [at - heard_at for at, address in d.questions if address == net.higher]
    first = LATE_FACTOR * INTERVAL_S
    assert asked == pytest.approx([first + n * SPACING_S for n in range(REQUESTS)])
    assert {f.frame_destination for _, f in d.frames if f.asks == net.higher} == {
        mac_of(net.higher)
    }
    assert {f.frame_destination for _, f in d.frames if f.asks == net.gateway} == {
        mac_of(net.gateway)
    }


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        pytest.param([], "nobody_answers", id="control silent"),
        pytest.param([V4.higher], "holder_lives", id="holder answers"),
        pytest.param([V4.higher, V4.gateway], "holder_lives", id="both answer"),
    ],
)
def test_otherwise_the_rfcs_timer_decides(answers, verdict):
    d = armed()
    heard_at = ask_then_answer(d, *answers)
    d.run_for(1)
    assert d.adverts[0][0] == pytest.approx(heard_at + DOWN_S)
    assert d.moves[0][2] is Reason.ACTIVE_SILENT
    assert d.count(Counter.SUSPICIONS, verdict) == 1
    assert d.count(Counter.SUSPICIONS) == 1, "it is asked once"


def test_switched_off_nothing_is_asked():
    d = Driver((router(fast_detect=False),))
    d.start()
    d.hear(150)
    heard_at = d.now
    d.run_for(1)
    assert not d.questions
    assert d.adverts[0][0] == pytest.approx(heard_at + DOWN_S)


def test_switched_off_live():
    d = armed()
    d.reconfigure(fast_detect=False)
    d.run_for(1)
    assert not d.questions


def test_priority_zero_cancels_it():
    d = armed()
    heard_at = d.now
    d.run_for(LATE_FACTOR * INTERVAL_S + SPACING_S)
    d.hear(0)
    left_at = d.now
    d.answer_from(V4.gateway)
    d.run_for(1)
    assert not d.count(Counter.SUSPICIONS)
    claimed_at = d.adverts[0][0]
    assert claimed_at == pytest.approx(left_at + 156 / 256 * INTERVAL_S)
    assert claimed_at != pytest.approx(heard_at + CLAIM_S)
    assert d.moves[0][2] is Reason.ACTIVE_LEFT


def test_an_advert_after_the_verdict_still_ends_the_claim():
    """The sockets are read once more before the claim is made."""
    d = armed(no_preempt=True)
    heard_at = ask_then_answer(d, V4.gateway)
    d.run_until(heard_at + CLAIM_S - 0.001)
    assert d.count(Counter.SUSPICIONS, "holder_gone") == 1
    d.hear(150)
    d.run_for(DOWN_S - 0.001)
    assert not d.adverts


def test_a_claimant_with_higher_priority_goes_first():
    claims = {}
    for priority in (2, 50, 100, 149):
        d = armed(priority=priority)
        heard_at = ask_then_answer(d, V4.gateway)
        d.run_for(0.1)
        claims[priority] = d.adverts[0][0] - heard_at
    assert [claims[p] for p in (149, 100, 50, 2)] == sorted(claims.values())
    for priority, claim_s in claims.items():
        assert claim_s == pytest.approx(VERDICT_S + (256 - priority) / 256 * INTERVAL_S / 4)


def test_a_blocked_node_suspects_but_does_not_claim():
    d = armed(checks=(check(),))
    d.results["service"] = ProbeResult.REFUSED
    for _ in range(4):
        d.run_for(INTERVAL_S / 2)
        d.hear(150)
    ask_then_answer(d, V4.gateway)
    d.run_for(5)
    assert d.count(Counter.SUSPICIONS, "holder_gone") == 1
    assert not d.adverts


def test_a_holder_that_never_answered_is_never_suspected():
    """`arp_ignore`, or a routed unicast peer."""
    d = Driver((router(fast_detect=True),))
    d.start()
    for _ in range(100):
        d.run_for(INTERVAL_S / 2)
        d.hear(150)
        d.answer_from(V4.gateway)
    assert "holder" in d.view.fast_detect
    heard_at = d.now
    d.run_for(1)
    assert d.adverts[0][0] == pytest.approx(heard_at + DOWN_S)
    assert not d.count(Counter.SUSPICIONS)


def test_an_announcement_is_no_answer():
    """It may be sent by anybody on behalf of the holder, and proves nothing about its kernel."""
    d = Driver((router(fast_detect=True),))
    d.start()
    d.hear(150)
    d.run_for(0.01)
    d.tell(announcement(mac_of(V4.higher), V4.higher))
    d.tell(replace(answer(mac_of(V4.higher), V4.higher), interface="eth1"))
    d.answer_from(V4.gateway)
    assert "holder" in d.view.fast_detect


def test_other_peers_are_controls_too():
    peers = (V4.higher, V4.lower)
    d = Driver((replace(router(fast_detect=True), legs=(V4.leg(peers=peers),)),))
    d.start()
    d.hear(150)
    d.run_for(0.01)
    d.answer_from(V4.higher)
    d.answer_from(V4.lower)
    d.hear(150)
    assert d.view.fast_detect == "armed"
    heard_at = ask_then_answer(d, V4.lower)
    d.run_for(1)
    assert d.adverts[0][0] < heard_at + VERDICT_S + INTERVAL_S / 4 + 0.02


def test_a_late_backup_waits_in_full_before_its_verdict():
    d = armed()
    d.run_for(LATE_FACTOR * INTERVAL_S + (REQUESTS - 1) * SPACING_S - 0.001)
    d.freeze_for(0.15)
    woken_at = d.now
    d.wake()
    d.run_for(WAIT_S / 2)
    d.answer_from(V4.higher)
    d.run_until(woken_at + WAIT_S + 0.001)
    assert d.count(Counter.SUSPICIONS, "holder_lives") == 1
