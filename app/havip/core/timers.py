"""Intervals of the protocol and of what havip adds to it, in seconds."""

from __future__ import annotations

from typing import Final

LAST_WORD_PRIORITY: Final = 1
"""Of the advert with which a leaver that has a successor ends."""

SPARE_FACTOR: Final = 0.5
"""An Active sends at this part of the interval that it announces. A receiver's timers only gain:
at 5 % loss the RFC's timer alone claims falsely several times an hour."""

CLAIM_SPREAD_S: Final = 0.020
"""Equal nodes start their claims within this time of one another, by rank or by chance."""

CLAIM_SETTLE_S: Final = 0.008
"""From the claiming advert to the installed address: time to hear a better claim."""

LEAVE_AFTER_ADVERT_S: Final = 0.050
"""A successor that has advertised has installed and announced within this time."""

FAREWELL_S: Final = 0.025
"""From the successor's announcement to the release: time for it to announce once more, and for
what was asked here before to be answered from the VIP."""

REMOVAL_BOUND_S: Final = 0.050
"""How long a leaver's last word waits for the kernel's word that the VIP is gone."""

LEAVE_LONGEST_S: Final = 20.0

RENEW_S: Final = 0.7
VALID_LIFETIME_S: Final = 2
"""Whole seconds; the kernel lets the address live up to 0.8 s longer (measured)."""

CONFIRMED_WITHIN_S: Final = 3.0
"""A VIP of which the kernel has not told for so long is not there."""

OUTLIVES_S: Final = 3.3
"""An address may live for so long after the decision to renew it, whatever becomes of this process:
half a second until the request is sent or dropped, its lifetime, and the kernel's lateness."""

PUT_BACK_SPACING_S: Final = 0.1
"""Something that goes on deleting the VIP must not make the daemon spin."""

REFUSE_S: Final = 3.0
"""How long a refused claim waits before it is tried again: a frozen host's stale address is
gone by then."""


def skew_time_s(version: int, priority: int, active_advert_interval_s: float) -> float:
    """How long this router lets better ones claim first.

    Args:
        version: 2 (RFC 3768 §6.1, a part of a whole second) or 3 (RFC 9568 §6.1).
        priority: effective priority, 1-254.
        active_advert_interval_s: as the Active router announced it.
    """
    unit_s = 1.0 if version == 2 else active_advert_interval_s
    return (256 - priority) * unit_s / 256


def active_down_interval_s(version: int, priority: int, active_advert_interval_s: float) -> float:
    """How long the Active router may be silent (RFC 9568 §6.1, RFC 3768 §6.1)."""
    return 3 * active_advert_interval_s + skew_time_s(version, priority, active_advert_interval_s)


def leave_bound_s(version: int, advert_interval_s: float) -> float:
    """How long a leaver waits for a successor before it releases the VIP anyway.

    Two adverts of priority 0 and the longest skew, with what a claim itself takes; but a stop
    must end within the 30 s that kubelet grants, so very long intervals are not waited out.
    """
    longest_skew_s = skew_time_s(version, 1, advert_interval_s)
    patient_s = advert_interval_s + longest_skew_s + CLAIM_SPREAD_S + CLAIM_SETTLE_S + 0.15
    return min(patient_s, LEAVE_LONGEST_S)
