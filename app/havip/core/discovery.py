"""Who the unicast peers are where the Kubernetes API lists them (`vrrpUnicastPeers: auto`).

Lists come late, differ for a while from node to node, and stop while the API is down. Two nodes
that do not know each other would both hold. So of any two at least one knows the other, and to be
spoken to is to know:

- A node takes part once a list named it, the API's or the one it kept. The API's list is changed
  one entry after the other: whoever is named in it sees all that were named before.
- Whoever is added counts at once, and so does whoever speaks without being listed, if its advert
  is signed or came over no router (RFC 5082: nobody beyond one can send with a hop limit of 255).
  A node that hears no holder introduces itself to everybody it knows (`Router`).
- Nobody is removed but by the API, in a list that names this node, and a minute after it was last
  listed or heard. While the API is down, nobody is. One who was removed and is there still claims
  after Active_Down_Interval, is heard, and is known again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core.actions import Action, KeepPeers, Report, Topic
from havip.core.announce import Restraint
from havip.core.config import PeerSource
from havip.core.events import PeersListed, PeersUnlisted
from havip.core.outbox import LONGEST_S
from havip.core.reasons import Reason

Address = IPv4Address | IPv6Address

GRACE_S: Final = 60.0
"""How long somebody still counts whom the API lists no more. A pod that is replaced is back
sooner."""
STRANGERS: Final = 16
"""Unlisted ones that are known at once. They can be made up where adverts are not signed."""
LISTED: Final = 128
"""Addresses of one list, each of which gets every advert."""


class Discovery:
    """The nodes that one virtual router knows, this one among them."""

    def __init__(self) -> None:
        self._until: dict[Address, float] = {}
        """Until when each counts; infinity unless the API lists it no more."""
        self._strangers: set[Address] = set()
        """Those of them that no list has named."""

    def __contains__(self, address: Address) -> bool:
        return address in self._until

    def admits(self, address: Address) -> bool:
        """Whether an advert from there may count: known, or there is room for it."""
        return address in self._until or len(self._strangers) < STRANGERS

    @property
    def listed(self) -> frozenset[Address]:
        """Those whom a list has named and who count still."""
        return frozenset(self._until.keys() - self._strangers)

    def add(self, addresses: Iterable[Address]) -> None:
        """These count from now on, whatever said so: a list, or the configuration before."""
        for address in addresses:
            self._until[address] = math.inf
            self._strangers.discard(address)

    def miss(self, now: float, addresses: Collection[Address], own: Collection[Address]) -> None:
        """The API lists these and no others; of a family in which it names no address of `own`,
        the list is not finished, or not this node's.
        """
        for family in {address.version for address in own if address in addresses}:
            for address, until in list(self._until.items()):
                if address.version != family or address in addresses:
                    continue
                if now >= until:
                    del self._until[address]
                    self._strangers.discard(address)
                elif until == math.inf:
                    self._until[address] = now + GRACE_S

    def hear(self, now: float, address: Address) -> bool:
        """Somebody has spoken as a peer; whether it was unknown before."""
        until = self._until.get(address)
        if until is None:
            self._until[address] = math.inf
            self._strangers.add(address)
        elif until < math.inf:
            self._until[address] = now + GRACE_S
        return until is None

    def me(self, family: int, own: Iterable[Address]) -> Address | None:
        """The address by which the others know this node."""
        listed = self.listed
        found = (a for a in own if a.version == family and a in listed)
        return min(found, key=int, default=None)

    def peers(self, family: int, none_of: Collection[Address]) -> tuple[Address, ...]:
        """The others, in the order of their addresses."""
        found = (a for a in self._until if a.version == family and a not in none_of)
        return tuple(sorted(found, key=int))


class PeerLists:
    """The lists that a node was given, for all its virtual routers."""

    def __init__(self) -> None:
        self.last: PeersListed | None = None
        self.problem = ""
        """Why the API does not say who the peers are."""
        self._kept: frozenset[Address] = frozenset()
        self._alarm = Restraint(free=1, longest_s=LONGEST_S)

    def note(self, event: PeersListed) -> None:
        if not event.is_kept:
            self.problem = ""
        elif self.last is not None:
            return
        else:
            self._kept = event.addresses
        self.last = event

    def keep(self, known: Collection[frozenset[Address] | None]) -> list[Action]:
        """What the file should say, if it does not.

        Args:
            known: those whom each virtual router knows by lists; None: no list names this node.
        """
        if not known or None in known:
            return []
        wanted = frozenset[Address]().union(*filter(None, known))
        if wanted == self._kept:
            return []
        self._kept = wanted
        ordered = sorted(wanted, key=lambda address: (address.version, int(address)))
        return [KeepPeers(addresses=tuple(ordered))]

    def miss(self, now: float, event: PeersUnlisted) -> list[Action]:
        """The API was asked in vain."""
        self.problem = event.detail
        if not self._alarm.allows(now):
            return []
        fields: dict[str, str | int | float] = {"detail": event.detail}
        return [Report(topic=Topic.ALARM, reason=Reason.PEERS_UNLISTED, fields=fields)]

    def lacks(self, source: PeerSource, interface: str) -> str:
        """Why a router there still knows no peers, for people."""
        if self.problem:
            return self.problem
        if self.last is None:
            return f"{source}: not listed yet"
        return (
            f"{source}: none of the {len(self.last.addresses)} addresses listed is this node's "
            f"on {interface}"
        )
