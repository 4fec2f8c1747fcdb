"""From a received packet to an advert that counts: the checks that need the configuration.

What can be said of the bytes alone is in `wire.vrrp`. The order is that of RFC 9568 §7.1 and
RFC 3768 §7.1, with what costs least and what concerns most foreign traffic first.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from havip.core.config import Leg, RouterConfig, Secret
from havip.core.discovery import Discovery
from havip.core.events import VrrpReceived
from havip.core.rotation import Rotation
from havip.core.signing import Signing, Verdict
from havip.wire import vrrp
from havip.wire.drop import Drop
from havip.wire.vrrp import Advert, AuthType

PRIORITY_OWNER = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """An advert of a peer of this virtual router."""

    advert: Advert
    source: IPv4Address | IPv6Address
    leg: Leg
    is_suspect: bool = False
    is_to_come: bool = False
    is_clock_off: bool = False
    has_other_addresses: bool = False
    """The lists overlap but differ, as while a VIP is added node by node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """An advert that uses this VRID for other addresses."""

    advert: Advert
    source: IPv4Address | IPv6Address


def receive(
    now: float,
    event: VrrpReceived,
    config: RouterConfig,
    own_sources: frozenset[IPv4Address | IPv6Address],
    *,
    signing: Signing | None,
    passwords: Rotation[Secret | None],
    discovery: Discovery | None = None,
) -> Heard | Foreign | Drop:
    """Check one packet against one virtual router's configuration.

    Args:
        discovery: the peers of the legs that discover theirs.

    Returns:
        `Heard` if it counts, `Foreign` if the VRID is used by somebody else (RFC 9568 §7.1: a
        misconfiguration to be told), otherwise the `Drop` that names why not.
    """
    leg = next((leg for leg in config.legs if leg.family == event.source.version), None)
    if leg is None:
        return Drop.FAMILY
    if event.source in own_sources:
        return Drop.OWN
    is_stranger = False
    if event.destination.is_multicast:
        if event.hop_limit != 255:
            return Drop.TTL
        if leg.is_unicast:
            return Drop.DESTINATION
    elif not leg.is_unicast:
        return Drop.DESTINATION
    elif leg.discovers_peers and discovery is not None:
        if not discovery.admits(event.source) or not _can_be_a_peer(event.source, config, leg):
            return Drop.UNKNOWN_PEER
        is_stranger = event.source not in discovery
    elif event.source not in leg.peers:
        return Drop.UNKNOWN_PEER

    advert = vrrp.decode(event.payload, source=event.source, destination=event.destination)
    if isinstance(advert, Drop):
        return advert
    if advert.version != config.version:
        return Drop.VERSION
    if advert.virtual_router_id != config.virtual_router_id:
        return Drop.VRID

    verdict = Verdict()
    if signing is not None:
        verified = signing.verify(now, advert, event.payload, event.source)
        if isinstance(verified, Drop):
            return verified
        verdict = verified
    is_signed = signing is not None and bool(advert.trailer)
    if is_stranger and not is_signed and event.hop_limit != 255:
        return Drop.UNKNOWN_PEER
    if advert.version == 2 and (problem := _check_v2(now, advert, config, passwords)):
        return problem

    mine = {vip.address for vip in leg.vips}
    theirs = set(advert.addresses)
    if not theirs & mine:
        return Foreign(advert=advert, source=event.source)
    # RFC 3768 §7.1 wants a drop, unless the owner of the address sent it; v3 lets it pass, so
    # that two nodes with old and new lists do not both hold the address that the lists share.
    if theirs != mine and advert.version == 2 and advert.priority != PRIORITY_OWNER:
        return Drop.ADDRESS_LIST
    return Heard(
        advert=advert,
        source=event.source,
        leg=leg,
        is_suspect=verdict.is_suspect,
        is_to_come=verdict.is_to_come,
        is_clock_off=verdict.is_clock_off,
        has_other_addresses=theirs != mine,
    )


def _can_be_a_peer(source: IPv4Address | IPv6Address, config: RouterConfig, leg: Leg) -> bool:
    """Whether adverts could go back there: not to a VIP, nor to an address of one link alone."""
    is_vip = any(source == vip.address for each in config.legs for vip in each.vips)
    return not is_vip and source.is_link_local == leg.source.is_link_local


def _check_v2(
    now: float, advert: Advert, config: RouterConfig, passwords: Rotation[Secret | None]
) -> Drop | None:
    """RFC 3768 §7.1: authentication as RFC 2338 had it, and the interval must be the same."""
    of_its_type = [
        b"" if password is None else password.value
        for password in (*passwords.known, *passwords.former(now))
        if advert.auth_type == (AuthType.NONE if password is None else AuthType.PASS)
    ]
    if not of_its_type:
        return Drop.AUTH_TYPE
    if advert.auth_type == AuthType.PASS and not any(
        hmac.compare_digest(advert.password, password) for password in of_its_type
    ):
        return Drop.AUTH_PASSWORD
    if advert.advert_interval_s != config.advert_interval_s:
        return Drop.INTERVAL
    return None
