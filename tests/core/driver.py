"""One node in virtual time: the kernel's part played, everything said written down.

`Driver` keeps the edge's promise (what arrived is delivered before `Woken`), confirms addresses
as the kernel does, and refuses a core that wants to be woken in the past: that would be a loop
that spins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_interface,
)

from havip.core.actions import (
    Action,
    Count,
    Counter,
    Finished,
    InstallAddress,
    RemoveAddress,
    Report,
    ResetConnections,
    ResetFormerConnections,
    SendFrame,
    SendVrrp,
    StartProbe,
    Topic,
)
from havip.core.balancer import BALANCER
from havip.core.config import (
    AllUnhealthy,
    BalancerConfig,
    CheckConfig,
    Leg,
    NodeConfig,
    PeerSource,
    RouterConfig,
    Vip,
)
from havip.core.events import (
    ActionFailed,
    AddressAdded,
    AddressRemoved,
    BalancerAnswered,
    BalancerSilent,
    Event,
    FrameReceived,
    GatewaysChanged,
    LinkChanged,
    ProbeFinished,
    ProbeResult,
    Reconfigured,
    Removal,
    Started,
    VrrpReceived,
    Woken,
)
from havip.core.node import Node
from havip.core.reasons import Reason, State
from havip.core.view import RouterView
from havip.wire import arp, ethernet, ndp, neighbour, vrrp
from havip.wire.auth import SigningKey, Stamp
from havip.wire.neighbour import Kind, Neighbour
from havip.wire.vrrp import Advert, AuthType

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

ETH = "eth0"
MAC = bytes.fromhex("02000000000a")
UTC = 1_700_000_000.0
SETTLE_S = 0.008
CHECK_S = 0.04


def mac_of(address: Address) -> bytes:
    """The hardware address of a host on this virtual segment."""
    return b"\x02\0\0\0\0" + address.packed[-1:]


@dataclass(frozen=True)
class Net:
    """The addresses of one family: this node, two peers around it, gateway and VIP."""

    me: Address
    lower: Address
    higher: Address
    gateway: Address
    vip: Vip
    second: Vip
    multicast: Address
    length: int

    def vips(self, count: int = 1) -> tuple[Vip, ...]:
        return (self.vip, self.second)[:count]

    def leg(self, *, peers: tuple[Address, ...] = (), vips: int = 1) -> Leg:
        return Leg(source=self.me, vips=self.vips(vips), peers=peers)


def vip(text: str) -> Vip:
    return Vip(interface=ip_interface(text))


V4 = Net(
    me=IPv4Address("192.0.2.10"),
    lower=IPv4Address("192.0.2.5"),
    higher=IPv4Address("192.0.2.15"),
    gateway=IPv4Address("192.0.2.1"),
    vip=vip("192.0.2.100/32"),
    second=vip("192.0.2.101/32"),
    multicast=vrrp.MULTICAST_V4,
    length=24,
)
V6 = Net(
    me=IPv6Address("fe80::10"),
    lower=IPv6Address("fe80::5"),
    higher=IPv6Address("fe80::15"),
    gateway=IPv6Address("fe80::1"),
    vip=vip("2001:db8::100/128"),
    second=vip("2001:db8::101/128"),
    multicast=vrrp.MULTICAST_V6,
    length=64,
)


def router(net: Net = V4, **changes: object) -> RouterConfig:
    """A virtual router with VRID 10 and priority 100; without delays, so that RFC times show."""
    config = RouterConfig(
        name="eth0/10",
        virtual_router_id=10,
        version=3,
        vrrp_interface=ETH,
        vip_interface=ETH,
        legs=(net.leg(),),
        preempt_delay_s=0.0,
        fast_detect=False,
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def check(name: str = "service", *, weight: int = 0) -> CheckConfig:
    """A check that probes often, and whose every probe decides."""
    return CheckConfig(
        name=name,
        url="http://127.0.0.1/",
        interval_s=CHECK_S,
        timeout_s=CHECK_S / 2,
        fail_after=1,
        recover_after=1,
        weight=weight,
    )


@dataclass
class Driver:
    """Drives one node. `random` is what its source of chance gives, each time."""

    routers: tuple[RouterConfig, ...] = field(default_factory=lambda: (router(),))
    checks: tuple[CheckConfig, ...] = ()
    all_unhealthy: AllUnhealthy = AllUnhealthy.DROP
    node_weight: int | None = None
    random: float = 0.0
    net: Net = V4
    now: float = 1000.0
    kernel_s: float | None = 0.0
    """How long the kernel takes to confirm an address; None: it never does by itself."""
    done: list[tuple[float, Action]] = field(default_factory=list)
    on_interface: set[Interface] = field(default_factory=set)
    """VIPs that the kernel has."""
    results: dict[str, ProbeResult | None] = field(default_factory=dict)
    """How probes end, by check; PASSED where nothing is said, None: not yet."""
    balancer: BalancerConfig | None = None
    balancer_says: BalancerAnswered | BalancerSilent | None = None
    """What comes of the question to HAProxy; None: nothing yet."""

    def __post_init__(self) -> None:
        self.node = Node(self.config, random=lambda: self.random)
        self._pending: list[tuple[float, Event]] = []

    @property
    def config(self) -> NodeConfig:
        return NodeConfig(
            node_name="a",
            routers=self.routers,
            checks=self.checks,
            all_unhealthy=self.all_unhealthy,
            peer_source=PeerSource(service="havip-peers", file="peers.json"),
            node_weight=self.node_weight,
            balancer=self.balancer,
        )

    # Time and facts ----------------------------------------------------------------------

    def tell(self, event: Event) -> list[Action]:
        """Deliver one event now, and what the kernel answers at once."""
        actions = self.node.handle(self.now, event)
        for action in actions:
            self.done.append((self.now, action))
            self._act(action)
        self._answer()
        return actions

    def run_for(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    def run_until(self, end: float) -> None:
        """Let time pass, waking the node whenever it asked for that."""
        while True:
            at = min(self.node.wake_at, *(at for at, _ in self._pending), end + 1)
            if at > end:
                break
            self.now = max(self.now, at)
            self._answer()
            if self.node.wake_at <= self.now:
                self.wake()
        self.now = max(self.now, end)

    def run_to_advert(self) -> None:
        """Until this node has just advertised."""
        self.done.clear()
        while not self.adverts:
            self.run_until(self.node.wake_at)

    def wake(self) -> list[Action]:
        """Deliver `Woken` now; the node must soon be content to wait."""
        actions = self.tell(Woken())
        for _ in range(2):
            if self.node.wake_at <= self.now:
                actions += self.tell(Woken())
        assert self.node.wake_at > self.now, "the node goes on asking to be woken in the past"
        return actions

    def freeze_for(self, seconds: float) -> None:
        """Time passes and the process does not run."""
        self.now += seconds

    def _act(self, action: Action) -> None:
        if isinstance(action, StartProbe) and action.check == BALANCER:
            if self.balancer_says is not None:
                self._pending.append((self.now, self.balancer_says))
        elif isinstance(action, StartProbe):
            result = self.results.get(action.check, ProbeResult.PASSED)
            if result is not None:
                self._pending.append((self.now, ProbeFinished(check=action.check, result=result)))
        if self.kernel_s is None:
            return
        at = self.now + self.kernel_s
        match action:
            case InstallAddress():
                self._pending.append(
                    (
                        at,
                        AddressAdded(
                            interface=action.interface,
                            address=action.address,
                            is_ours=True,
                            is_permanent=False,
                        ),
                    )
                )
            case RemoveAddress():
                self._pending.append(
                    (
                        at,
                        AddressRemoved(
                            interface=action.interface, address=action.address, by=Removal.OURS
                        ),
                    )
                )

    def _answer(self) -> None:
        while due := [item for item in self._pending if item[0] <= self.now]:
            self._pending.remove(due[0])
            event = due[0][1]
            if isinstance(event, AddressAdded):
                self.on_interface.add(event.address)
            elif isinstance(event, AddressRemoved):
                if event.address not in self.on_interface:
                    continue
                self.on_interface.discard(event.address)
            self.tell(event)

    # The usual facts ---------------------------------------------------------------------

    def start(self, *, links: bool = True) -> Driver:
        """Started, with the interface up, a gateway and the node's addresses."""
        self.tell(Started(utc_offset_s=UTC - self.now))
        if links:
            for net in self.nets:
                self.own_address(net)
            self.link()
            self.tell(
                GatewaysChanged(interface=ETH, gateways=tuple(net.gateway for net in self.nets))
            )
        return self

    def become_active(self) -> Driver:
        """Start, hold the VIP, have it confirmed, and forget what that took."""
        self.start()
        self.run_for(6.0)
        assert self.state is State.ACTIVE
        self.done.clear()
        return self

    @property
    def nets(self) -> tuple[Net, ...]:
        families = {leg.family for config in self.routers for leg in config.legs}
        return tuple(net for net in (V4, V6) if net.me.version in families)

    def link(self, *, is_up: bool = True, interface: str = ETH, mac: bytes = MAC) -> list[Action]:
        return self.tell(LinkChanged(interface=interface, is_up=is_up, mac=mac))

    def own_address(self, net: Net = V4, address: str = "") -> list[Action]:
        interface = ip_interface(address or f"{net.me}/{net.length}")
        return self.tell(AddressAdded(interface=ETH, address=interface, is_ours=False))

    def kernel_leftover(self, address: Vip) -> list[Action]:
        """An address of an earlier life of havip is still on the interface."""
        self.on_interface.add(address.interface)
        return self.tell(
            AddressAdded(interface=ETH, address=address.interface, is_ours=True, is_permanent=False)
        )

    def lose_address(self, address: Interface | str, by: Removal = Removal.FOREIGN) -> list[Action]:
        """An address leaves the interface without having been asked to."""
        interface = ip_interface(str(address))
        self.on_interface.discard(interface)
        return self.tell(AddressRemoved(interface=ETH, address=interface, by=by))

    def judge(self, result: ProbeResult | None, name: str = "service") -> None:
        """From now on probes of this check end so; wait until the next one has."""
        self.results[name] = result
        self.run_for(CHECK_S)

    def fail_install(self, address: Vip, errno: int = 13) -> list[Action]:
        return self.tell(
            ActionFailed(
                action="InstallAddress",
                interface=ETH,
                subject=str(address.interface),
                errno=errno,
                message="Permission denied",
            )
        )

    def fail_sends(self, seconds: float, errno: int = 1, to: Iterable[Address] = ()) -> None:
        """For so long the kernel refuses the adverts, or those to some destinations."""
        end = self.now + seconds
        while self.node.wake_at <= end:
            before = len(self.done)
            self.run_until(self.node.wake_at)
            sent = [a for _, a in self.done[before:] if isinstance(a, SendVrrp)]
            for action in sent:
                if not to or action.destination in to:
                    self.tell(
                        ActionFailed(
                            action="SendVrrp",
                            interface=action.interface,
                            subject=str(action.destination),
                            errno=errno,
                            message="Operation not permitted",
                            virtual_router_id=action.payload[1],
                        )
                    )
        self.run_until(end)

    def reconfigure(self, *routers: RouterConfig, **changes: object) -> list[Action]:
        """Go over to other routers, or change fields of the one there is."""
        if changes:
            routers = (replace(self.routers[0], **changes),)  # type: ignore[arg-type]
        self.routers = routers
        return self.tell(Reconfigured(config=self.config))

    def hear(self, priority: int, source: Address | None = None, **changes: object) -> list[Action]:
        """An advert of a peer arrives; by default of the one with the higher address."""
        return self.tell(
            advert_from(
                source or self.net.higher,
                priority,
                self.routers[0],
                **changes,  # type: ignore[arg-type]
            )
        )

    def announce_from(self, source: Address | None = None, of: Vip | None = None) -> list[Action]:
        """A peer announces the VIP as its own."""
        mac = mac_of(source or self.net.higher)
        return self.tell(announcement(mac, (of or self.net.vip).address))

    def answer_from(self, address: Address) -> list[Action]:
        """A host's kernel answers a question for its own address."""
        return self.tell(answer(mac_of(address), address))

    # What was said -----------------------------------------------------------------------

    def since(self, at: float) -> list[Action]:
        return [action for when, action in self.done if when >= at]

    def timed(self, kind: type) -> list[tuple[float, Action]]:
        return [(at, action) for at, action in self.done if isinstance(action, kind)]

    @property
    def adverts(self) -> list[tuple[float, Advert]]:
        """What VRRP said, when."""
        return [(at, decode(action)) for at, action in self.done if isinstance(action, SendVrrp)]

    @property
    def frames(self) -> list[tuple[float, Neighbour]]:
        return [(at, frame(action)) for at, action in self.done if isinstance(action, SendFrame)]

    @property
    def announcements(self) -> list[tuple[float, Address]]:
        """When which address was announced as this node's."""
        return [
            (at, heard.claims)
            for at, heard in self.frames
            if heard.claims is not None
            and heard.mac == MAC
            and (heard.asks == heard.claims or heard.kind is Kind.ANSWER)
        ]

    @property
    def questions(self) -> list[tuple[float, Address]]:
        """Whom this node asked for its own address, when: calibration and suspicion."""
        return [
            (at, heard.asks)
            for at, heard in self.frames
            if heard.asks is not None and heard.claims not in (None, heard.asks)
        ]

    @property
    def probes(self) -> list[tuple[float, Address]]:
        """Which address this node asked for without claiming one, when."""
        return [
            (at, heard.asks)
            for at, heard in self.frames
            if heard.asks is not None and heard.claims is None
        ]

    @property
    def moves(self) -> list[tuple[float, State, Reason]]:
        return [(at, r.state, r.reason) for at, r in self.reports(Topic.MOVED)]  # type: ignore[misc]

    def reports(self, topic: Topic) -> list[tuple[float, Report]]:
        return [
            (at, action)
            for at, action in self.done
            if isinstance(action, Report) and action.topic is topic
        ]

    def count(self, counter: Counter, reason: str = "") -> int:
        return sum(
            isinstance(action, Count)
            and action.counter is counter
            and (not reason or str(action.reason) == reason)
            for _, action in self.done
        )

    @property
    def view(self) -> RouterView:
        return self.node.view(self.now).routers[0]

    @property
    def state(self) -> State:
        return State(self.view.state)

    @property
    def is_finished(self) -> bool:
        return any(isinstance(action, Finished) for _, action in self.done)


def decode(action: SendVrrp) -> Advert:
    """What a peer reads in a packet that was sent."""
    advert = vrrp.decode(action.payload, source=action.source, destination=action.destination)
    assert isinstance(advert, Advert), advert
    return advert


def frame(action: SendFrame) -> Neighbour:
    heard = neighbour.decode(action.frame)
    assert heard is not None
    return heard


def order(actions: list[Action]) -> list[str]:
    """What was done, without what was counted and told."""
    return [type(a).__name__ for a in actions if not isinstance(a, Count | Report)]


def told(actions: list[Action], *kinds: type) -> list[Action]:
    return [action for action in actions if isinstance(action, kinds)]


def touches_the_world(actions: list[Action]) -> Iterator[Action]:
    resets = (ResetConnections, ResetFormerConnections)
    kinds = (SendVrrp, SendFrame, InstallAddress, RemoveAddress, *resets)
    return (action for action in actions if isinstance(action, kinds))


def advert_from(
    source: Address,
    priority: int,
    config: RouterConfig,
    *,
    interval_s: float | None = None,
    addresses: tuple[Address, ...] | None = None,
    version: int | None = None,
    virtual_router_id: int | None = None,
    auth_type: int | None = None,
    password: bytes | None = None,
    destination: Address | None = None,
    hop_limit: int = 255,
    key: SigningKey | None = None,
    stamp: Stamp | None = None,
) -> VrrpReceived:
    """An advert of a peer with the same configuration, but for what is said."""
    leg = next(leg for leg in config.legs if leg.family == source.version)
    if destination is None:
        multicast = vrrp.MULTICAST_V4 if source.version == 4 else vrrp.MULTICAST_V6
        destination = leg.source if leg.is_unicast else multicast
    secret = b"" if config.password is None else config.password.value
    advert = Advert(
        version=config.version if version is None else version,
        virtual_router_id=virtual_router_id or config.virtual_router_id,
        priority=priority,
        advert_interval_s=interval_s or config.advert_interval_s,
        addresses=addresses or tuple(vip.address for vip in leg.vips),
        auth_type=(AuthType.PASS if secret else AuthType.NONE) if auth_type is None else auth_type,
        password=secret if password is None else password,
    )
    return VrrpReceived(
        interface=config.vrrp_interface,
        source=source,
        destination=destination,
        hop_limit=hop_limit,
        payload=vrrp.encode(advert, source=source, destination=destination, key=key, stamp=stamp),
    )


def announcement(mac: bytes, address: Address) -> FrameReceived:
    """A host announces an address: gratuitous ARP, or an unsolicited advertisement."""
    if isinstance(address, IPv4Address):
        return FrameReceived(interface=ETH, frame=arp.announcement(mac=mac, address=address))
    return FrameReceived(interface=ETH, frame=ndp.announcement(mac=mac, address=address))


def question(source: Address, target: Address) -> FrameReceived:
    """A host asks everybody for an address: ARP request, or a solicitation."""
    mac = mac_of(source)
    if isinstance(source, IPv4Address) and isinstance(target, IPv4Address):
        return FrameReceived(
            interface=ETH, frame=arp.request(mac=mac, source=source, target=target)
        )
    assert isinstance(source, IPv6Address)
    assert isinstance(target, IPv6Address)
    return FrameReceived(interface=ETH, frame=ndp.solicit(mac=mac, source=source, target=target))


def answer(mac: bytes, address: Address) -> FrameReceived:
    """A host answers this node's question for an address: ARP reply, or an advertisement."""
    if isinstance(address, IPv6Address):
        # To all instead of to the asker: to the core that is the same.
        return announcement(mac, address)
    message = arp.MESSAGE.pack(
        *arp.ETHERNET_IPV4, arp.REPLY, mac, address.packed, MAC, V4.me.packed
    )
    return FrameReceived(
        interface=ETH,
        frame=ethernet.frame(destination=MAC, source=mac, ethertype=ethernet.ARP, payload=message),
    )
