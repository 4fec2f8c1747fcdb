"""What a virtual router says: adverts, announcements, probes, questions. Bytes, never decisions."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from havip.core.actions import Counter, SendFrame, SendVrrp
from havip.core.config import Leg, RouterConfig, Secret, Vip
from havip.core.outbox import Outbox
from havip.core.presence import Presence
from havip.core.reach import Reach
from havip.core.rotation import Rotation
from havip.core.signing import Signing
from havip.wire import arp, ndp, vrrp
from havip.wire.vrrp import Advert, AuthType


class Voice:
    """Speaks for one virtual router, from where `Presence` says that it stands."""

    def __init__(self, config: RouterConfig, presence: Presence, out: Outbox) -> None:
        self._config = config
        self._presence = presence
        self._out = out
        self._utc_offset_s = 0.0
        self.signing = _signing(config)
        """What signs the adverts, and verifies those of others; None without HMAC."""
        self.passwords = _passwords(config)
        """Those of VRRPv2; None is no password."""
        self.reach = Reach()

    def reconfigure(self, now: float, config: RouterConfig) -> None:
        self._config = config
        older, self.signing = self.signing, _signing(config)
        if self.signing is not None and older is not None:
            self.signing.adopt(now, older)
        self.set_clock(self._utc_offset_s)
        older_passwords, self.passwords = self.passwords, _passwords(config)
        self.passwords.succeed(now, older_passwords)

    def sends_new_secret_in_s(self, now: float) -> float:
        """How long adverts are still made with a secret that was replaced; 0 if none are."""
        by_key = 0.0 if self.signing is None else self.signing.keys.sends_new_in_s(now)
        return max(by_key, self.passwords.sends_new_in_s(now))

    def set_clock(self, utc_offset_s: float) -> None:
        """
        Args:
            utc_offset_s: UTC minus the monotonic clock.
        """
        self._utc_offset_s = utc_offset_s
        if self.signing is not None:
            self.signing.utc_offset_s = utc_offset_s

    def catch_up(self, now: float) -> None:
        """A rival speaks: what is signed from now on must be newer than its adverts."""
        if self.signing is not None:
            self.signing.catch_up(now)

    def advertise(self, now: float, priority: int) -> None:
        """One advert for each leg and destination; legs move together, so they say the same."""
        config, signing = self._config, self.signing
        password = self.passwords.sends(now)
        self.reach.begin_round(now, (to for leg in config.legs for to in self._destinations(leg)))
        for leg in config.legs:
            source = self._presence.source(leg)
            advert = Advert(
                version=config.version,
                virtual_router_id=config.virtual_router_id,
                priority=priority,
                advert_interval_s=config.advert_interval_s,
                addresses=tuple(vip.address for vip in leg.vips),
                auth_type=AuthType.NONE if password is None else AuthType.PASS,
                password=b"" if password is None else password.value,
            )
            for destination in self._destinations(leg):
                signed = None if signing is None else signing.stamp(now)
                key, stamp = signed or (None, None)
                payload = vrrp.encode(
                    advert, source=source, destination=destination, key=key, stamp=stamp
                )
                self._out.do(
                    SendVrrp(
                        interface=config.vrrp_interface,
                        source=source,
                        destination=destination,
                        payload=payload,
                    )
                )
        self._out.count(Counter.ADVERTS_SENT)

    def _destinations(self, leg: Leg) -> tuple[IPv4Address | IPv6Address, ...]:
        if leg.is_unicast:
            return self._presence.peers(leg)
        return (vrrp.MULTICAST_V4 if leg.family == 4 else vrrp.MULTICAST_V6,)

    def announce(self, vip: Vip) -> None:
        """A gratuitous ARP request, or an unsolicited neighbour advertisement with override."""
        mac = self._presence.mac(self._config.vip_interface)
        address = vip.address
        if isinstance(address, IPv4Address):
            frame = arp.announcement(mac=mac, address=address)
        else:
            frame = ndp.announcement(mac=mac, address=address)
        self._out.do(SendFrame(interface=self._config.vip_interface, frame=frame))
        self._out.count(Counter.ANNOUNCEMENTS)

    def probe(self, vip: Vip) -> None:
        """Ask whether anybody has the VIP (RFC 5227 §2.1.1; IPv6: RFC 4862 §5.4.2)."""
        mac = self._presence.mac(self._config.vip_interface)
        address = vip.address
        if isinstance(address, IPv4Address):
            frame = arp.probe(mac=mac, target=address)
        else:
            frame = ndp.probe(mac=mac, target=address)
        self._out.do(SendFrame(interface=self._config.vip_interface, frame=frame))

    def ask(self, target: IPv4Address | IPv6Address, target_mac: bytes | None) -> None:
        """Ask a host's kernel for its own address, unicast when its MAC is known."""
        mac = self._presence.mac(self._config.vrrp_interface)
        source = self._presence.source(self._config.legs[0])
        if isinstance(source, IPv4Address):
            assert isinstance(target, IPv4Address)
            frame = arp.request(mac=mac, source=source, target=target, target_mac=target_mac)
        else:
            assert isinstance(target, IPv6Address)
            frame = ndp.solicit(mac=mac, source=source, target=target, target_mac=target_mac)
        self._out.do(SendFrame(interface=self._config.vrrp_interface, frame=frame))


def _signing(config: RouterConfig) -> Signing | None:
    if config.hmac is None:
        return None
    return Signing(
        config.hmac,
        advert_interval_s=config.advert_interval_s,
        rotation_delay_s=config.rotation_delay_s,
    )


def _passwords(config: RouterConfig) -> Rotation[Secret | None]:
    return Rotation(sends=config.password, delay_s=config.rotation_delay_s)
