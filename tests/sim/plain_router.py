"""A VRRPv3 router of another make: RFC 9568 to the letter, with keepalived's announcements.

It knows neither spare adverts, suspicion nor make before break, leaves without waiting for a
successor, and its address does not expire.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from havip.core.actions import (
    Action,
    Finished,
    InstallAddress,
    RemoveAddress,
    Report,
    SendFrame,
    SendVrrp,
    Topic,
)
from havip.core.config import NodeConfig
from havip.core.events import (
    AddressAdded,
    Event,
    LinkChanged,
    Started,
    StopRequested,
    VrrpReceived,
    Woken,
)
from havip.core.reasons import Reason, State
from havip.sim import neighbours
from havip.wire.drop import Drop
from havip.wire.vrrp import MULTICAST_V4, Advert, decode, encode

FOREVER_S = 10**9
ANNOUNCEMENTS = 5
ANNOUNCE_AGAIN_S = 5.0


class PlainRouter:
    """One virtual router, IPv4, multicast (RFC 9568 §6.4)."""

    def __init__(self, config: NodeConfig, random: Callable[[], float]) -> None:
        self.config = config.routers[0]
        self.leg = self.config.legs[0]
        self.vip = self.leg.vips[0]
        self.state = State.INITIALIZE
        self.mac = b""
        self.down_at = self.advert_at = self.again_at = math.inf
        self.active_interval_s = self.config.advert_interval_s

    @property
    def wake_at(self) -> float:
        return min(self.down_at, self.advert_at, self.again_at)

    @property
    def skew_s(self) -> float:
        return (256 - self.config.priority) * self.active_interval_s / 256

    def handle(self, now: float, event: Event) -> list[Action]:
        match event:
            case LinkChanged(mac=mac):
                self.mac = mac
            case Started():
                self.down_at = now + 3 * self.active_interval_s + self.skew_s
                return [self.move(State.BACKUP, Reason.STARTED)]
            case AddressAdded(address=added) if added == self.vip.interface:
                return self.announce()
            case VrrpReceived():
                return self.receive(now, event)
            case Woken():
                return self.wake(now)
            case StopRequested():
                was_active = self.state is State.ACTIVE
                return [*([self.advert(0), self.remove()] if was_active else []), Finished()]
        return []

    def receive(self, now: float, event: VrrpReceived) -> list[Action]:
        advert = decode(event.payload, source=event.source, destination=event.destination)
        assert not isinstance(advert, Drop), advert
        mine = self.config.priority
        if self.state is State.BACKUP:
            if advert.priority == 0:
                self.down_at = now + self.skew_s
            elif self.config.no_preempt or advert.priority >= mine:
                self.active_interval_s = advert.advert_interval_s
                self.down_at = now + 3 * self.active_interval_s + self.skew_s
            return []
        if advert.priority == 0:
            return [self.advert(mine)]
        if (advert.priority, int(event.source)) > (mine, int(self.leg.source)):
            self.advert_at = self.again_at = math.inf
            self.down_at = now + 3 * advert.advert_interval_s + self.skew_s
            # Without a word: whoever believed this node goes on believing it.
            return [self.remove(), self.move(State.BACKUP, Reason.HIGHER_PRIORITY)]
        return [self.advert(mine), *self.announce()]

    def wake(self, now: float) -> list[Action]:
        if now >= self.down_at:
            self.down_at = math.inf
            self.advert_at = now + self.config.advert_interval_s
            self.again_at = now + ANNOUNCE_AGAIN_S
            install = InstallAddress(
                interface=self.config.vip_interface,
                address=self.vip.interface,
                valid_s=FOREVER_S,
            )
            moved = self.move(State.ACTIVE, Reason.ACTIVE_SILENT)
            return [self.advert(self.config.priority), install, moved]
        actions: list[Action] = []
        if now >= self.advert_at:
            self.advert_at = now + self.config.advert_interval_s
            actions.append(self.advert(self.config.priority))
        if now >= self.again_at:
            self.again_at = math.inf
            actions += self.announce()
        return actions

    def advert(self, priority: int) -> Action:
        advert = Advert(
            version=3,
            virtual_router_id=self.config.virtual_router_id,
            priority=priority,
            advert_interval_s=self.config.advert_interval_s,
            addresses=(self.vip.address,),
        )
        payload = encode(advert, source=self.leg.source, destination=MULTICAST_V4)
        return SendVrrp(
            interface=self.config.vrrp_interface,
            source=self.leg.source,
            destination=MULTICAST_V4,
            payload=payload,
        )

    def announce(self) -> list[Action]:
        frame = neighbours.claim(self.mac, self.vip.address)
        return [SendFrame(interface=self.config.vip_interface, frame=frame)] * ANNOUNCEMENTS

    def remove(self) -> Action:
        return RemoveAddress(interface=self.config.vip_interface, address=self.vip.interface)

    def move(self, state: State, reason: Reason) -> Action:
        was, self.state = self.state, state
        return Report(
            topic=Topic.MOVED, router=self.config.name, state=state, was=was, reason=reason
        )
