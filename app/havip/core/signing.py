"""HMAC of adverts: whose signature counts, which stamp is too old (draft-cassen-vrrp-auth-hmac).

A node whose clock is wrong, before NTP at boot, must not reject its peers and become a second
holder. So the default protection needs only order: each sender's stamps must rise. And a
sender that meets a rival lifts its own stamps to the highest it has verified: a node that
restarts with its clock an hour behind is believed again as soon as it has heard one. Both sides
do so. Whose clock was once an hour ahead and is right now is rejected by those who remember; it
cannot know why, but they know, and what they say next tells it.

Protection by time wants more, that a recording of last year does not count. What is outside the
window is a sign of life that dethrones nobody. But two holders whose clocks differ must be
parted, and can be: the one behind lifts its stamps for as long as the other speaks, so that the
other believes it; and it believes the other, since a time that is yet to come, and newer than
all that was ever heard, is no recording of the past.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core.config import HmacConfig, HmacMode, ReplayMode
from havip.core.rotation import Rotation
from havip.wire import auth
from havip.wire.auth import SigningKey, Stamp
from havip.wire.drop import Drop
from havip.wire.vrrp import Advert

SENDERS: Final = 64
"""Verified senders that are remembered; only a correct signature makes an entry."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An advert whose signature is right, or which needs none."""

    is_suspect: bool = False
    """Right signature, wrong time: a sign of life that dethrones nobody."""
    is_to_come: bool = False
    """It is suspect, but no recording of the past: another holder may heed it."""
    is_clock_off: bool = False


class Signing:
    """Stamps and signs what one virtual router sends, verifies what it receives."""

    def __init__(
        self, config: HmacConfig, *, advert_interval_s: float, rotation_delay_s: float
    ) -> None:
        self._config = config
        self._window_s = config.time_window_s or max(3 * advert_interval_s, 5.0)
        keys = {
            key_id: SigningKey(key_id=key_id, secret=secret.value)
            for key_id, secret in config.keys.items()
        }
        self.keys = Rotation(
            sends=keys[config.active_key], accepts=keys.values(), delay_s=rotation_delay_s
        )
        self._floor = Stamp(seconds=0, fraction=0, counter=0)
        self._has_floor = False
        self._marks: dict[IPv4Address | IPv6Address, Stamp] = {}
        self._heard: Stamp | None = None
        """The highest stamp that was verified."""
        self._lifted_until = -math.inf
        """In time mode, until when own stamps may be ahead of the own clock."""
        self.utc_offset_s = 0.0

    def adopt(self, now: float, older: Signing) -> None:
        """Keep the memory of an older configuration, so that a new key opens no door to replays."""
        self.keys.succeed(now, older.keys)
        self._floor, self._has_floor = older._floor, older._has_floor
        self._marks, self._heard = older._marks, older._heard
        self._lifted_until = older._lifted_until
        self.utc_offset_s = older.utc_offset_s

    def stamp(self, now: float) -> tuple[SigningKey, Stamp] | None:
        """Key and stamp for the next advert; None while only receiving is switched on."""
        if self._config.mode is HmacMode.RECEIVE_ONLY:
            return None
        utc_s = now + self.utc_offset_s
        stamp = Stamp.from_utc(utc_s, counter=0)
        if self._has_floor and not stamp.is_after(self._floor):
            # A clock that was set right is right for everyone who goes by the time, and for them
            # alone: to all others its stamps would be old.
            is_ahead = self._floor.utc_s - utc_s > self._window_s and now > self._lifted_until
            if self._config.replay is ReplayMode.MONOTONIC or not is_ahead:
                stamp = _next(self._floor)
            else:
                self._floor = stamp
        self._raise_floor(stamp)
        return self.keys.sends(now), stamp

    def key_id(self, now: float) -> int | None:
        """Of the key that signs now; None while only receiving is switched on."""
        is_signing = self._config.mode is not HmacMode.RECEIVE_ONLY
        return self.keys.sends(now).key_id if is_signing else None

    def verify(
        self, now: float, advert: Advert, payload: bytes, source: IPv4Address | IPv6Address
    ) -> Verdict | Drop:
        if not advert.trailer:
            return Drop.AUTH_MISSING if self._config.mode is HmacMode.ENFORCE else Verdict()
        stamp = self._stamp_of(advert, payload, source, self.keys.known)
        for key in self.keys.former(now):
            # One by one: a key that was replaced may have left its id to the next.
            if not isinstance(stamp, Drop):
                break
            former = self._stamp_of(advert, payload, source, (key,))
            stamp = stamp if isinstance(former, Drop) else former
        if isinstance(stamp, Drop):
            return stamp
        ahead_s = stamp.utc_s - (now + self.utc_offset_s)
        is_clock_off = abs(ahead_s) > self._window_s
        is_news = self._heard is None or stamp.is_after(self._heard)
        if is_news:
            self._heard = stamp
        if is_clock_off and self._config.replay is ReplayMode.TIME:
            # No mark: when its clock is set right, its stamps are lower, and it is no replay.
            return Verdict(is_suspect=True, is_to_come=is_news and ahead_s > 0, is_clock_off=True)
        mark = self._marks.get(source)
        if mark is not None and not stamp.is_after(mark) and not self._is_void(now, mark):
            return Drop.AUTH_REPLAY
        self._marks.pop(source, None)
        self._marks[source] = stamp
        if len(self._marks) > SENDERS:
            del self._marks[next(iter(self._marks))]
        return Verdict(is_clock_off=is_clock_off)

    def _stamp_of(
        self,
        advert: Advert,
        payload: bytes,
        source: IPv4Address | IPv6Address,
        keys: Iterable[SigningKey],
    ) -> Stamp | Drop:
        return auth.verify(
            payload,
            version=advert.version,
            virtual_router_id=advert.virtual_router_id,
            source=source,
            keys={key.key_id: key.secret for key in keys},
        )

    def _is_void(self, now: float, mark: Stamp) -> bool:
        """Whether this mark was made by a wrong clock, as the own clock, set right, shows."""
        ahead_s = mark.utc_s - (now + self.utc_offset_s)
        return self._config.replay is ReplayMode.TIME and ahead_s > self._window_s

    def catch_up(self, now: float) -> None:
        """Another one speaks as if this router had not: it may take its stamps for old ones.

        Only then are they lifted, so that one wrong clock does not become everybody's; in time
        mode only for as long as it speaks.
        """
        if self._heard is not None:
            self._raise_floor(self._heard)
            self._lifted_until = now + self._window_s

    def _raise_floor(self, stamp: Stamp) -> None:
        if not self._has_floor or stamp.is_after(self._floor):
            self._floor = stamp
            self._has_floor = True


def _next(stamp: Stamp) -> Stamp:
    """The smallest stamp after this one."""
    counter = (stamp.counter + 1) & 0xFFFF
    fraction = (stamp.fraction + (counter == 0)) & 0xFFFF
    carried = counter == 0 and fraction == 0
    return Stamp(seconds=(stamp.seconds + carried) & 0xFFFFFFFF, fraction=fraction, counter=counter)
