"""What a virtual router hears: adverts that count. What does not count is counted and told."""

from __future__ import annotations

from havip.core.actions import Counter, Topic
from havip.core.conflict import Conflicts
from havip.core.events import VrrpReceived
from havip.core.outbox import Outbox
from havip.core.presence import Presence
from havip.core.reasons import Reason
from havip.core.receive import Foreign, Heard, receive
from havip.core.timers import LAST_WORD_PRIORITY
from havip.core.voice import Voice
from havip.wire.drop import Drop


class Ear:
    """Listens for one virtual router."""

    def __init__(
        self,
        presence: Presence,
        voice: Voice,
        conflicts: Conflicts,
        out: Outbox,
    ) -> None:
        self._presence = presence
        self._voice = voice
        self._conflicts = conflicts
        self._out = out

    def listen(self, now: float, event: VrrpReceived) -> Heard | Drop:
        """A peer's advert, or why the packet is none; a peer proves the virtual router."""
        result = receive(
            now,
            event,
            self._presence.config,
            self._presence.own_sources,
            signing=self._voice.signing,
            passwords=self._voice.passwords,
            discovery=self._presence.discovery,
        )
        if isinstance(result, Drop):
            self._out.count(Counter.ADVERTS_DROPPED, result)
            return result
        if isinstance(result, Foreign):
            self._hear_foreign(now, result)
            return Drop.ADDRESS_LIST
        self._out.count(Counter.ADVERTS_RECEIVED)
        if result.is_clock_off:
            self._out.count(Counter.CLOCK_ALARMS)
            self._out.alarm(now, "clock of the peer is off", lambda: {"peer": str(result.source)})
        if result.has_other_addresses:
            self._out.alarm(
                now,
                "the peer advertises other addresses beside the common ones",
                lambda: _who(result),
            )
        is_met = result.leg.discovers_peers and not result.is_suspect
        if is_met and self._presence.discovery.hear(now, result.source):
            self._out.report(Topic.PEERS, Reason.PEER_HEARD, {"peer": str(result.source)})
        if result.advert.priority != LAST_WORD_PRIORITY:
            # Who only introduces itself knows no more than this node of who has the address.
            self._conflicts.prove()
        return result

    def _hear_foreign(self, now: float, foreign: Foreign) -> None:
        self._out.count(Counter.ADVERTS_DROPPED, Drop.ADDRESS_LIST)
        self._conflicts.collided(now, foreign)
        if self._conflicts.is_proven:
            self._out.alarm(now, Reason.VRID_COLLISION, lambda: _who(foreign))


def _who(heard: Heard | Foreign) -> dict[str, str | int | float]:
    return {"peer": str(heard.source), "addresses": heard.advert.addresses_text}
