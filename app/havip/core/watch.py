"""Whom a virtual router takes for the holder, and how long that one may be silent.

Two clocks run against a holder: the RFC's, which waits for its daemon, and active suspicion
(`core.suspicion`), which asks its kernel.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from havip.core import timers
from havip.core.actions import Counter
from havip.core.config import RouterConfig
from havip.core.outbox import Outbox
from havip.core.peers import Peer, Peers
from havip.core.presence import Presence
from havip.core.suspicion import Ask, Suspicion
from havip.core.voice import Voice


class Watch:
    """The peers of one virtual router, the holder among them, and the questions to its host."""

    def __init__(self, config: RouterConfig, presence: Presence, voice: Voice, out: Outbox) -> None:
        self.peers = Peers()
        self._config = config
        self._presence = presence
        self._voice = voice
        self._out = out
        self._suspicion = Suspicion()

    @property
    def wake_at(self) -> float:
        """When to run next."""
        return self._suspicion.wake_at

    def reconfigure(self, config: RouterConfig) -> None:
        self._config = config
        if not config.fast_detect:
            self._suspicion.stop()

    def stop(self) -> None:
        """Not a Backup any more: suspect nobody."""
        self._suspicion.stop()

    def forget_holder(self) -> None:
        """Nobody is known to hold: it left, this node holds, or this node was away."""
        self.peers.holder = None
        self._suspicion.stop()

    def follow(self, now: float, peer: Peer) -> None:
        """This peer holds, and has just said so to a Backup."""
        self.peers.follow(peer)
        if self._config.fast_detect:
            self._suspicion.heard(
                now, peer.address, peer.advert_interval_s, self._controls(peer.address)
            )

    def answered(self, now: float, address: IPv4Address | IPv6Address, mac: bytes) -> None:
        """A host on the link said that this address is its own."""
        self._suspicion.answered(now, address, mac)

    def run(self, now: float) -> Ask | None:
        """Ask what is due; the verdict over the holder's host, once for each."""
        if not self._config.fast_detect:
            return None
        for question in self._suspicion.questions(now):
            self._voice.ask(question.address, question.mac)
        verdict = self._suspicion.verdict(now)
        if verdict is not None:
            self._out.count(Counter.SUSPICIONS, verdict.value)
        return verdict

    def lacks(self, now: float) -> str:
        """What keeps a silent holder from being suspected; empty when armed."""
        return self._suspicion.lacks(now)

    @property
    def advert_interval_s(self) -> float:
        """As the holder announced it; the own one if none is known."""
        holder = self.peers.holder
        return holder.advert_interval_s if holder else self._config.advert_interval_s

    def skew_s(self, priority: int) -> float:
        """Skew_Time of this node at this effective priority (1-254)."""
        return timers.skew_time_s(self._config.version, priority, self.advert_interval_s)

    def quick_skew_s(self, priority: int) -> float:
        """What orders the claimants as in the RFC, in a quarter of the time."""
        return timers.skew_time_s(3, priority, self.advert_interval_s / 4)

    def active_down_interval_s(self, priority: int) -> float:
        """Active_Down_Interval of this node at this effective priority (1-254)."""
        return timers.active_down_interval_s(self._config.version, priority, self.advert_interval_s)

    def _controls(self, holder: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
        """Hosts on the link that can tell the holder's death from this host's own deafness."""
        leg = self._config.legs[0]
        own = self._presence.own_sources
        known = (
            *self._presence.gateways,
            *self._presence.peers(leg),
            *reversed(list(self.peers)),
        )
        return tuple(
            dict.fromkeys(
                address
                for address in known
                if address.version == leg.family and address != holder and address not in own
            )
        )
