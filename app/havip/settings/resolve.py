"""Settings and a host → what the core is told: names become interfaces, texts addresses.

Addresses that a VIP is made of say nothing about the host: neither those that havip put there
nor a VIP that another daemon left behind count as the node's own. But a VIP that is on the node
already is refused, lease or not, unless havip put it there: it may be the node's own, by DHCP or
a router's advertisement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from pathlib import PurePath

from havip.core.config import (
    BalancerConfig,
    CheckConfig,
    HmacConfig,
    KubeAccess,
    Leg,
    NodeConfig,
    PeerSource,
    RouterConfig,
    Vip,
)
from havip.core.host import Host, HostAddress, Interface
from havip.settings.balancer import balancer_of, lacks_for_balancer, with_balancer
from havip.settings.checks import checks_of
from havip.settings.errors import ConfigError, ConfigWarning, Problem
from havip.settings.kube import access_of, awaited, may_depend_on_the_vip, reach_of
from havip.settings.lease import holder_lease_of, lacks_for_lease, lacks_to_show, lease_of
from havip.settings.load import Loaded
from havip.settings.model import RouterSettings
from havip.settings.values import Address, reserved_in
from havip.settings.values import Interface as AddressWithPrefix

_ETHERNET_ADDRESS_BYTES = 6
# kube-proxy in IPVS mode puts every external address of a Service here, answering no ARP for it.
_NOT_THE_NODES_OWN = frozenset({"kube-ipvs0"})


def resolve(loaded: Loaded, host: Host) -> tuple[NodeConfig, list[ConfigWarning]]:
    """The node's configuration on this host, and what a person should know about it.

    Raises:
        ConfigError: with everything about this host that the configuration does not fit.
    """
    problems: list[Problem] = []
    warnings = list(loaded.warnings)
    every_vip = {vip.ip for router in loaded.routers.values() for vip in _vips(router)}
    routers: dict[str, RouterConfig] = {}
    for prefix, settings in loaded.routers.items():
        placing = _Placing(prefix=prefix, settings=settings, host=host, every_vip=every_vip)
        router = placing.router()
        problems += placing.problems
        warnings += placing.warnings
        if router is None:
            continue
        if router.name in routers:
            problems.append(
                Problem(
                    field=f"{prefix}virtualRouterId",
                    value=router.virtual_router_id,
                    problem=f"is given twice on {router.vrrp_interface}",
                    remedy="give each virtual router of an interface its own VRID",
                )
            )
        routers[router.name] = router
    checks: tuple[CheckConfig, ...] = ()
    access: KubeAccess | None = None
    balancer: BalancerConfig | None = None
    try:
        reach = reach_of(loaded)
        access, about_access = access_of(loaded, reach)
        problems += lacks_for_lease(loaded, reach, access, about_access)
        checks, about_checks = checks_of(loaded, reach)
        warnings += [*about_access, *about_checks, *lacks_to_show(loaded, access)]
        warnings += [*awaited(loaded), *may_depend_on_the_vip(loaded, reach)]
        balancer = balancer_of(loaded, host)
        if access is not None and reach.is_derived:
            access = replace(access, servers=with_balancer(access.servers, balancer))
        problems += lacks_for_balancer(balancer, access)
    except ConfigError as error:
        problems += error.problems
    discovering = [
        each.name for each in routers.values() if any(leg.discovers_peers for leg in each.legs)
    ]
    if discovering and access is None and not problems:
        problems.append(
            Problem(
                field="vrrpUnicastPeers",
                value="auto",
                problem="the Kubernetes API lists the peers, and there is no access to it",
                remedy="set kubeconfigFile, or kubeApiServer with kubeCaFile and kubeTokenFile",
            )
        )
    if problems:
        raise ConfigError.of(map(loaded.traced, problems))
    if access is not None:
        routers = {
            name: replace(
                router,
                lease=lease_of(loaded, settings, access),
                holder_lease=holder_lease_of(loaded, settings, access),
            )
            for (name, router), settings in zip(
                routers.items(), loaded.routers.values(), strict=True
            )
        }
    wanted = loaded.settings
    config = NodeConfig(
        node_name=loaded.node_name,
        routers=tuple(routers.values()),
        checks=checks,
        all_unhealthy=loaded.settings.all_unhealthy,
        kube=access,
        peer_source=_peer_source(loaded, discovering, access),
        node_weight=(
            wanted.kube_node_weight if access is not None and wanted.kube_node_watch else None
        ),
        shows_events=access is not None and wanted.kube_events,
        shows_label=access is not None and wanted.kube_holder_label,
        balancer=balancer,
    )
    return config, warnings


def _peer_source(
    loaded: Loaded, discovering: Sequence[str], access: KubeAccess | None
) -> PeerSource | None:
    if not discovering or access is None:
        return None
    settings = loaded.settings
    # Another process may keep its own list there; only one serves this virtual router.
    file = f"peers-{discovering[0].replace('/', '-')}.json"
    return PeerSource(
        service=settings.kube_peers_service or "",
        namespace=access.namespace if settings.kube_peers_service else "",
        selector=settings.kube_peers_selector or "",
        file=str(PurePath(settings.state_directory, file)),
    )


@dataclass(slots=True, kw_only=True)
class _Placing:
    """Finds the place of one virtual router on the host."""

    prefix: str
    settings: RouterSettings
    host: Host
    every_vip: Collection[Address]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[ConfigWarning] = field(default_factory=list)

    def router(self) -> RouterConfig | None:
        """The router, or None with problems noted."""
        self._refuse_what_the_host_is()
        if self.problems:
            return None
        vrrp_interface = self._named("vrrpInterfaceName", self.settings.vrrp_interface_name)
        vip_interface = self._named("vipInterfaceName", self.settings.vip_interface_name)
        if self.settings.vrrp_interface_name is None:
            vrrp_interface = self._found()
        if self.settings.vip_interface_name is None:
            vip_interface = vrrp_interface
        if vrrp_interface is None or vip_interface is None:
            return None
        self._refuse_other_than_ethernet(vrrp_interface, vip_interface)
        legs = self._legs(vrrp_interface, vip_interface)
        if self.problems:
            return None
        settings = self.settings
        return RouterConfig(
            name=f"{vrrp_interface.name}/{settings.virtual_router_id}",
            virtual_router_id=settings.virtual_router_id,
            version=settings.vrrp_version,
            vrrp_interface=vrrp_interface.name,
            vip_interface=vip_interface.name,
            legs=legs,
            priority=settings.vrrp_priority,
            advert_interval_s=settings.advert_interval_s,
            no_preempt=settings.vrrp_no_preempt,
            preempt_delay_s=settings.vrrp_preempt_delay,
            fast_detect=settings.vrrp_fast_detect,
            take_over_address=settings.vip_take_over,
            password=settings.auth_password,
            hmac=_hmac(settings),
            rotation_delay_s=settings.auth_rotation_delay,
        )

    def _refuse(self, name: str, value: object, problem: str, remedy: str) -> None:
        self.problems.append(
            Problem(field=self.prefix + name, value=value, problem=problem, remedy=remedy)
        )

    def _warn(self, name: str, problem: str, remedy: str) -> None:
        self.warnings.append(
            ConfigWarning(field=self.prefix + name, problem=problem, remedy=remedy)
        )

    def _refuse_what_the_host_is(self) -> None:
        vips = {vip.ip: vip for vip in _vips(self.settings)}
        for gateway in self.host.gateways:
            if gateway.address in vips:
                self._refuse(
                    "vipAddressCidr",
                    str(vips[gateway.address]),
                    f"is the gateway of this node (by {gateway.interface})",
                    "choose an address that nobody has",
                )
        for interface in self.host.interfaces:
            if interface.is_loopback or interface.name in _NOT_THE_NODES_OWN:
                continue
            for each in interface.addresses:
                address = each.interface.ip
                if each.is_ours:
                    continue
                if address in vips and not self.settings.vip_take_over:
                    self._refuse(
                        "vipAddressCidr",
                        str(vips[address]),
                        f"is an address of this node already (on {interface.name}), and not put "
                        "there by havip",
                        "choose an address that nobody has; or, if another daemon left it there, "
                        f"remove it (ip address delete {each.interface} dev {interface.name}) or "
                        "set vipTakeOver: true",
                    )
        self._refuse_peers_that_no_node_can_be()

    def _refuse_peers_that_no_node_can_be(self) -> None:
        # The kernel sends to a broadcast address for those only who ask for it, so such a peer
        # would cost every advert.
        subnets = {
            each.interface.network: interface.name
            for interface in self.host.interfaces
            if not interface.is_loopback and interface.name not in _NOT_THE_NODES_OWN
            for each in interface.addresses
        }
        for peer in self.settings.listed_peers:
            for network, name in subnets.items():
                if peer not in network:
                    continue
                if problem := reserved_in(ip_interface(f"{peer}/{network.prefixlen}")):
                    self._refuse(
                        "vrrpUnicastPeers",
                        str(peer),
                        f"{problem}, the subnet of {name}",
                        "list the other nodes' own addresses",
                    )

    def _refuse_other_than_ethernet(self, vrrp: Interface, vip: Interface) -> None:
        places = {"vrrpInterfaceName": vrrp}
        if vip != vrrp:
            places["vipInterfaceName"] = vip
        for name, interface in places.items():
            if len(interface.mac) != _ETHERNET_ADDRESS_BYTES:
                # Who has the VIP is told by ARP or neighbour discovery, in Ethernet frames.
                self._refuse(
                    name,
                    interface.name,
                    "has no Ethernet address, by which neighbours could find the VIP",
                    "name an interface of Ethernet",
                )

    def _named(self, name: str, wanted: str | None) -> Interface | None:
        if wanted is None:
            return None
        interface = self.host.interface(wanted)
        if interface is None or interface.is_loopback:
            self._refuse(
                name,
                wanted,
                "is the loopback interface, which no neighbour hears"
                if interface
                else "does not exist on this node",
                f"choose {self._any_interface}",
            )
            return None
        return interface

    def _found(self) -> Interface | None:
        """The interface whose subnet contains the VIPs, else the default route's."""
        vips = _vips(self.settings)
        by_name = {
            place.name: (vip, place) for vip in reversed(vips) if (place := self._home_of(vip))
        }
        if len(by_name) > 1:
            places = ", ".join(f"{vip} on {name}" for name, (vip, _) in sorted(by_name.items()))
            self._refuse(
                "vipAddressCidr",
                ",".join(map(str, vips)),
                f"the VIPs lie in subnets of several interfaces ({places})",
                "make each an entry of virtualRouters, or set vrrpInterfaceName",
            )
            return None
        if by_name:
            return next(iter(by_name.values()))[1]
        for family in sorted({vip.version for vip in vips}):
            name = self.host.default_route_interfaces.get(family)
            if name and (interface := self.host.interface(name)):
                return interface
        self._refuse(
            "vrrpInterfaceName",
            None,
            f"no interface has a subnet that contains {', '.join(map(str, vips))}, and there is "
            "no default route",
            f"set it to {self._any_interface}",
        )
        return None

    @property
    def _any_interface(self) -> str:
        usable = [each.name for each in self.host.interfaces if not each.is_loopback]
        return f"one of {', '.join(usable)}" if usable else "an interface; this node has none yet"

    def _home_of(self, vip: AddressWithPrefix) -> Interface | None:
        """The interface with the narrowest subnet that contains the VIP."""
        if vip.ip.is_link_local and vip.version == 6:
            return None  # every interface has fe80::/64
        homes = [
            (own.interface.network.prefixlen, -index, interface)
            for index, interface in enumerate(self.host.interfaces)
            if not interface.is_loopback
            for own in self._own(interface, vip.version)
            if vip.ip in own.interface.network
        ]
        return max(homes, key=lambda home: home[:2])[2] if homes else None

    def _own(self, interface: Interface, family: int) -> list[HostAddress]:
        """The node's own addresses on an interface, in the kernel's order."""
        return [
            each
            for each in interface.addresses
            if each.interface.version == family
            and not each.is_ours
            and each.interface.ip not in self.every_vip
        ]

    @property
    def _every_own(self) -> set[Address]:
        """The node's own addresses on all interfaces; a list for all nodes names them too."""
        return {
            each.interface.ip
            for interface in self.host.interfaces
            if not interface.is_loopback and interface.name not in _NOT_THE_NODES_OWN
            for family in (4, 6)
            for each in self._own(interface, family)
        }

    def _legs(self, vrrp_interface: Interface, vip_interface: Interface) -> tuple[Leg, ...]:
        legs = []
        for family in (4, 6):
            vips = [vip for vip in _vips(self.settings) if vip.version == family]
            if not vips:
                continue
            listed = tuple(p for p in self.settings.listed_peers if p.version == family)
            peers = tuple(peer for peer in listed if peer not in self._every_own)
            if listed and not peers:
                self._refuse(
                    "vrrpUnicastPeers",
                    ",".join(map(str, listed)),
                    "names this host alone",
                    "list the other nodes too, or leave it empty for multicast",
                )
                continue
            source = self._source(vrrp_interface, family, listed)
            if source is None:
                kind = "IPv6 link-local address" if self._is_link_local(listed) else "IPv6 address"
                self._refuse(
                    "vrrpInterfaceName",
                    vrrp_interface.name,
                    f"has no {'IPv4 address' if family == 4 else kind} of its own to speak VRRP "
                    f"from for {vips[0]}",
                    "give it one, or name another interface",
                )
                continue
            if family == 4 and not self._own(vip_interface, 4):
                # The kernel would use the VIP as source of everything that leaves by it.
                self._refuse(
                    "vipInterfaceName",
                    vip_interface.name,
                    "has no IPv4 address of its own beside the VIP",
                    "give it one, or name another interface",
                )
                continue
            legs.append(
                Leg(
                    source=source,
                    vips=tuple(self._placed(vip, vip_interface) for vip in vips),
                    peers=peers,
                    discovers_peers=self.settings.discovers_peers,
                )
            )
        return tuple(legs)

    def _source(
        self, interface: Interface, family: int, peers: Collection[Address]
    ) -> Address | None:
        """The address that adverts come from (RFC 9568 §5.1.1.1, §5.1.2.1).

        One that the list of peers names is the one that the others expect.
        """
        own = self._own(interface, family)
        if family == 6:
            link_local = self._is_link_local(peers)
            own = [each for each in own if each.interface.ip.is_link_local == link_local]

        def unfitness(each: HostAddress) -> tuple[bool, ...]:
            reaches = any(peer in each.interface.network for peer in peers)
            return (
                each.interface.ip not in peers,
                bool(peers) and not reaches,
                not each.is_permanent,
                each.is_deprecated,
                each.is_secondary,
                each.is_tentative,
            )

        return min(own, key=unfitness).interface.ip if own else None

    def _is_link_local(self, peers: Iterable[Address]) -> bool:
        """Whether IPv6 adverts come from the link-local address: multicast, or such peers only.

        A node's address in the Kubernetes API is none.
        """
        return not self.settings.discovers_peers and all(peer.is_link_local for peer in peers)

    def _placed(self, vip: AddressWithPrefix, interface: Interface) -> Vip:
        """The VIP as it is put on the interface: alone in its subnet, or bringing a route."""
        alone = ip_interface(f"{vip.ip}/{vip.max_prefixlen}")
        if vip.version == 6 and vip.ip.is_link_local:
            return Vip(interface=alone)
        home = self._home_of(vip)
        if home is not None:
            self._check_in_subnet(vip, home)
            if home.name != interface.name:
                self._warn(
                    "vipAddressCidr",
                    f"{vip} lies in the subnet of {home.name}, and is put on {interface.name}",
                    "leave vrrpInterfaceName and vipInterfaceName empty, unless you mean it",
                )
            return Vip(interface=alone)
        is_bare = vip.network.prefixlen == vip.max_prefixlen
        self._warn(
            "vipAddressCidr",
            f"{vip} lies in no subnet of this node; it is put on {interface.name}"
            + ("" if is_bare else f", with a route to {vip.network}"),
            "give it the prefix length of its network, or neighbours get no answer"
            if is_bare
            else "make sure that its network is on that link",
        )
        return Vip(interface=vip, has_connected_route=not is_bare)

    def _check_in_subnet(self, vip: AddressWithPrefix, home: Interface) -> None:
        for own in self._own(home, vip.version):
            network = own.interface.network
            if vip.ip in network:
                in_network = ip_interface(f"{vip.ip}/{network.prefixlen}")
                if problem := reserved_in(in_network):
                    self._refuse(
                        "vipAddressCidr",
                        str(vip),
                        f"{problem}, the subnet of {home.name}",
                        "choose another address of that network",
                    )


def _vips(router: RouterSettings) -> tuple[AddressWithPrefix, ...]:
    return router.vip_address_cidr or ()


def _hmac(settings: RouterSettings) -> HmacConfig | None:
    keys = settings.auth_hmac_keys
    if keys is None:
        return None
    return HmacConfig(
        keys=keys,
        active_key=settings.auth_hmac_active_key or next(iter(keys)),
        mode=settings.auth_hmac_mode,
        replay=settings.auth_hmac_replay,
        time_window_s=settings.auth_hmac_time_window,
    )
