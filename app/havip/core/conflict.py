"""Before a first claim: does somebody who speaks no VRRP already use the address (RFC 5227), or
somebody else this VRID?

Asked only until the virtual router has proved itself, by a peer's advert or by holding once:
the takeover from a dead peer must not wait for an answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core.reasons import Reason
from havip.core.receive import Foreign

PROBES: Final = 3
REMEMBER_S: Final = 2.0
"""A claimant that has not been heard for this long has gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Who is in the way, for the report."""

    reason: Reason
    fields: dict[str, str | int | float]


class Conflicts:
    """Probes of one virtual router's addresses, and what was heard in answer."""

    def __init__(self) -> None:
        self._probes_left = 0
        self._spacing_s = 0.0
        self._claimant: tuple[float, str, str] | None = None
        self._collision: tuple[float, Foreign] | None = None
        self.wake_at = math.inf
        self.is_proven = False
        """Whether the virtual router has proved itself, so that nothing is asked any more."""

    def prove(self) -> None:
        """A peer's advert was heard, or this node held."""
        self.is_proven = True
        self.stop()

    def start(self, now: float, within_s: float) -> None:
        """Begin to probe, unless proven.

        All probes are out, and had time for an answer, `within_s` from now.
        """
        if self.is_proven:
            return
        self._probes_left = PROBES
        self._spacing_s = within_s / (PROBES + 1)
        self.wake_at = now

    def stop(self) -> None:
        self.wake_at = math.inf

    def is_due(self, now: float) -> bool:
        """Whether to send a round of probes now."""
        if now < self.wake_at:
            return False
        self._probes_left -= 1
        self.wake_at = now + self._spacing_s if self._probes_left > 0 else math.inf
        return True

    def claimed(self, now: float, address: IPv4Address | IPv6Address, mac: bytes) -> None:
        """Another host bound a virtual address to its MAC."""
        self._claimant = (now, str(address), mac.hex(":"))

    def excuse(self, mac: bytes) -> None:
        """This host is no stranger, as it turns out."""
        if self._claimant is not None and self._claimant[2] == mac.hex(":"):
            self._claimant = None

    def collided(self, now: float, foreign: Foreign) -> None:
        """An advert used this VRID for other addresses."""
        self._collision = (now, foreign)

    def found(self, now: float, collision_lasts_s: float) -> Conflict | None:
        """What forbids a first claim now; nothing forbids a later one.

        Args:
            collision_lasts_s: how long after its last advert another user of the VRID counts.
        """
        if self.is_proven:
            return None
        if self._collision is not None and now - self._collision[0] < collision_lasts_s:
            _, foreign = self._collision
            return Conflict(
                reason=Reason.VRID_COLLISION,
                fields={
                    "peer": str(foreign.source),
                    "addresses": foreign.advert.addresses_text,
                    "remedy": "choose another virtualRouterId",
                },
            )
        if self._claimant is not None and now - self._claimant[0] < REMEMBER_S:
            _, address, mac = self._claimant
            return address_in_use(address, mac)
        return None


def address_in_use(address: str, mac: str) -> Conflict:
    """A host that is no VRRP peer has the address."""
    return Conflict(
        reason=Reason.ADDRESS_IN_USE,
        fields={
            "address": address,
            "mac": mac,
            "remedy": "free the address, or choose another vipAddressCidr",
        },
    )
