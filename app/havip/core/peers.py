"""Who else speaks for a virtual router, and who of them holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core.receive import Heard
from havip.core.suspicion import LATE_FACTOR
from havip.core.timers import LAST_WORD_PRIORITY
from havip.core.view import PeerView

REMEMBERED: Final = 64
LAST_WORDS: Final = 2
"""A leaver says its last word when its successor has announced, and when the VIP is gone."""


@dataclass(slots=True)
class Peer:
    """Another router of the same virtual router, as its adverts show it."""

    address: IPv4Address | IPv6Address
    priority: int
    best_priority: int
    """The highest since it became the holder: below it, the holder is degraded."""
    advert_interval_s: float
    heard_at: float
    last_words: int = 0
    """Adverts of LAST_WORD_PRIORITY in a row."""

    def is_alive(self, now: float) -> bool:
        """Heard within Active_Down_Interval without the skew."""
        return now - self.heard_at < 3 * self.advert_interval_s

    def is_late(self, now: float) -> bool:
        """So long without an advert that it is suspected."""
        return now - self.heard_at > LATE_FACTOR * self.advert_interval_s

    @property
    def rank(self) -> tuple[int, int]:
        """Who wins: the higher priority, among equals the higher address (RFC 9568 §6.4.3)."""
        return self.priority, int(self.address)


class Peers:
    """The peers heard lately, the latest last, and the holder among them."""

    def __init__(self) -> None:
        self._by_address: dict[IPv4Address | IPv6Address, Peer] = {}
        self.holder: Peer | None = None

    def __iter__(self) -> Iterator[IPv4Address | IPv6Address]:
        return iter(self._by_address)

    def hear(self, now: float, heard: Heard) -> Peer:
        """Note an advert; it does not make its sender the holder."""
        advert = heard.advert
        peer = self._by_address.pop(heard.source, None)
        if peer is None:
            peer = Peer(heard.source, advert.priority, advert.priority, 0.0, now)
        if advert.priority != LAST_WORD_PRIORITY or not peer.is_alive(now):
            peer.last_words = 0
        peer.last_words += advert.priority == LAST_WORD_PRIORITY
        peer.priority = advert.priority
        peer.advert_interval_s = advert.advert_interval_s
        peer.heard_at = now
        self._by_address[heard.source] = peer
        if len(self._by_address) > REMEMBERED:
            del self._by_address[next(iter(self._by_address))]
        return peer

    def is_last_word(self, now: float, heard: Heard) -> bool:
        """Whether this advert, not yet noted, ends its sender's reign.

        Its priority says so, unless the sender goes on with it: then it is its own.
        """
        peer = self._by_address.get(heard.source)
        return heard.advert.priority == LAST_WORD_PRIORITY and (
            peer is None or not peer.is_alive(now) or peer.last_words < LAST_WORDS
        )

    def follow(self, peer: Peer) -> None:
        """This peer holds the VIP; a new holder's priority is measured from here."""
        if self.holder is not peer:
            peer.best_priority = peer.priority
        peer.best_priority = max(peer.best_priority, peer.priority)
        self.holder = peer

    def holds_better(self, now: float, heard: Heard) -> bool:
        """Whether a holder that is heard in time outranks the sender of this advert.

        So it is with a leaver's last word and with the loser of a claim: neither is the holder.
        Against a holder that is late the advert counts, or every equal Backup of a dead holder
        with a high address would take the first claim for a loser's, and claim too.
        """
        holder = self.holder
        return (
            holder is not None
            and holder.address != heard.source
            and not holder.is_late(now)
            and (heard.advert.priority, int(heard.source)) < holder.rank
        )

    def views(self, now: float) -> tuple[PeerView, ...]:
        return tuple(
            PeerView(
                address=str(peer.address),
                priority=peer.priority,
                is_active=peer is self.holder and peer.is_alive(now),
                last_advert_at=peer.heard_at,
                advert_interval_s=peer.advert_interval_s,
            )
            for peer in self._by_address.values()
        )
