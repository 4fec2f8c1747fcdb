"""Where a virtual router stands: its interfaces, the node's own addresses, what is on them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from havip.core.config import Leg, RouterConfig, Vip
from havip.core.discovery import Discovery
from havip.core.events import AddressAdded
from havip.core.reasons import Reason


class Presence:
    """Facts of the host, as one virtual router sees them: what is a VIP for one is an own
    address for another, and a new configuration can turn one into the other.
    """

    def __init__(self, config: RouterConfig) -> None:
        self.config = config
        self.discovery = Discovery()
        """Empty unless a leg discovers its peers."""
        self.gateways: tuple[IPv4Address | IPv6Address, ...] = ()
        self.own_sources: frozenset[IPv4Address | IPv6Address] = frozenset()
        """The node's own addresses on the VRRP interface."""
        self.occupants: frozenset[IPv4Interface | IPv6Interface] = frozenset()
        """VIPs that stand on this node permanently and without havip, as they stand there."""
        self._links: dict[str, bool] = {}
        self._macs: dict[str, bytes] = {}
        self._addresses: dict[tuple[str, IPv4Interface | IPv6Interface], AddressAdded] = {}

    def reconfigure(self, config: RouterConfig) -> None:
        for old, leg in zip(self.config.legs, config.legs, strict=True):
            if leg.discovers_peers and old.peers:
                # They were peers by the configuration until now, and this node one of them.
                self.discovery.add((old.source, *old.peers))
        self.config = config
        self._weigh_addresses()

    @property
    def hard_block(self) -> Reason | None:
        """What makes taking part impossible, not just holding."""
        interfaces = self.config.interfaces
        if not all(self._links.get(interface, False) for interface in interfaces):
            return Reason.LINK_DOWN
        return None if self.can_speak else Reason.NO_ADDRESS

    @property
    def can_speak(self) -> bool:
        """Whether an advert can leave this node."""
        own = self.own_sources
        return self._links.get(self.config.vrrp_interface, False) and all(
            self.source(leg) in own for leg in self.config.legs
        )

    def source(self, leg: Leg) -> IPv4Address | IPv6Address:
        """The node's primary address: the configured one, or what replaced it meanwhile; where
        peers are discovered, the one by which they know this node.
        """
        own = self.own_sources
        if leg.discovers_peers and (me := self.discovery.me(leg.family, own)):
            return me
        if leg.source in own:
            return leg.source
        alike = (
            added.address.ip
            for (interface, address), added in self._addresses.items()
            if interface == self.config.vrrp_interface
            and address.ip in own
            and address.version == leg.family
            and address.is_link_local == leg.source.is_link_local
        )
        return next(alike, leg.source)

    def peers(self, leg: Leg) -> tuple[IPv4Address | IPv6Address, ...]:
        """The unicast peers: as configured, or as discovered."""
        if not leg.discovers_peers:
            return leg.peers
        return self.discovery.peers(leg.family, self.own_sources | self._vips)

    @property
    def knows_peers(self) -> bool:
        """Whether every list of peers that is to be discovered is known: there may be none."""
        return all(
            not leg.discovers_peers or self.discovery.me(leg.family, self.own_sources) is not None
            for leg in self.config.legs
        )

    @property
    def _vips(self) -> frozenset[IPv4Address | IPv6Address]:
        return frozenset(vip.address for leg in self.config.legs for vip in leg.vips)

    def vip(self, interface: str, address: IPv4Address | IPv6Address) -> Vip | None:
        """The VIP that this address on this interface is."""
        if interface != self.config.vip_interface:
            return None
        vips = (vip for leg in self.config.legs for vip in leg.vips)
        return next((vip for vip in vips if vip.address == address), None)

    def mac(self, interface: str) -> bytes:
        return self._macs[interface]

    def is_own_mac(self, interface: str, mac: bytes) -> bool:
        return self._macs.get(interface) == mac

    def set_link(self, interface: str, is_up: bool, mac: bytes) -> bool | None:
        """Note a link's state; returns what it was, None at first."""
        was_up = self._links.get(interface)
        self._links[interface] = is_up
        self._macs[interface] = mac
        return was_up

    def add_address(self, added: AddressAdded) -> bool:
        """Note an address; whether that is news."""
        key = (added.interface, added.address)
        is_news = self._addresses.get(key) != added
        self._addresses[key] = added
        if is_news:
            self._weigh_addresses()
        return is_news

    def remove_address(
        self, interface: str, address: IPv4Interface | IPv6Interface
    ) -> AddressAdded | None:
        """Forget an address; returns what was known of it."""
        known = self._addresses.pop((interface, address), None)
        self._weigh_addresses()
        return known

    def _weigh_addresses(self) -> None:
        own = set()
        occupants = set()
        for (interface, address), added in self._addresses.items():
            if added.is_ours:
                continue
            if self.vip(interface, address.ip) is None:
                if interface == self.config.vrrp_interface:
                    own.add(address.ip)
            elif added.is_permanent:
                occupants.add(address)
        self.own_sources = frozenset(own)
        self.occupants = frozenset(occupants)
