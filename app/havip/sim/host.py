"""A virtual host: what its kernel does by itself, whether or not the daemon on it lives.

The kernel answers ARP and neighbour solicitations for every address it has, also while the
daemon is frozen or dead, and ends the lifetime of a VIP that nobody renews. That difference
between host and process is what active suspicion and promise 3 are about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from random import Random

from havip.core.events import (
    AddressAdded,
    AddressRemoved,
    Event,
    FrameReceived,
    GatewaysChanged,
    LinkChanged,
    Removal,
    VrrpReceived,
)
from havip.sim import neighbours
from havip.sim.network import Datagram, Frame, IPAddress, Network, Packet
from havip.sim.timeline import Timeline

IPNetworkAddress = IPv4Interface | IPv6Interface

INTERFACE = "eth0"
QUEUE_WHILE_PAUSED = 500
"""Packets that the hypervisor keeps for a paused machine (a tap device's queue)."""
EXPIRY_LATE_S = 0.8
"""Linux ends a lifetime up to this much late: 2.0-2.8 s were measured for `valid_lft 2`."""
NETLINK_S = 0.0003
ANSWER_S = 0.00005


@dataclass(slots=True)
class HeldAddress:
    interface: IPNetworkAddress
    is_ours: bool = False
    expires_at: float | None = None
    """Run time; None: permanent."""


class Host:
    """Kernel and network interface.

    Args:
        on_change: called after each change that somebody else can see: an address, the link,
            the power.
    """

    def __init__(
        self,
        name: str,
        mac: bytes,
        addresses: tuple[IPNetworkAddress, ...],
        *,
        timeline: Timeline,
        network: Network,
        rng: Random,
        on_change: Callable[[], None],
    ) -> None:
        self._name = name
        self._mac = mac
        self.addresses = [HeldAddress(address) for address in addresses]
        self.own = frozenset(address.ip for address in addresses)
        self.gateways: tuple[IPAddress, ...] = ()
        self.listener: Callable[[Event], None] | None = None
        """Gets what the kernel tells a daemon: packets, netlink. None: no daemon."""
        self.is_up = True
        self.is_powered = True
        self.is_paused = False
        self.paused_for_s = 0.0
        """How much run time this machine's clock has missed."""
        self.netlink_s = NETLINK_S
        """How long the kernel takes for a change of addresses."""
        self._timeline = timeline
        self._network = network
        self._rng = rng
        self._on_change = on_change
        self._queued: list[Packet] = []
        self._deferred: list[Callable[[], None]] = []
        self._paused_at = 0.0
        self._life = 0
        network.plug(self)

    @property
    def name(self) -> str:
        return self._name

    @property
    def mac(self) -> bytes:
        return self._mac

    @property
    def is_linked(self) -> bool:
        return self.is_powered and self.is_up

    def has_address(self, address: IPAddress) -> bool:
        return any(held.interface.ip == address for held in self.addresses)

    def local_now(self) -> float:
        """The machine's monotonic clock: a hypervisor's pause leaves no gap in it."""
        at = self._paused_at if self.is_paused else self._timeline.now
        return at - self.paused_for_s

    def run_time(self, local_at: float) -> float:
        """When the machine's clock will show `local_at`, if it is not paused before."""
        return local_at + self.paused_for_s

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Do something as this machine: not while it is paused, never after it lost power."""
        life = self._life

        def happen() -> None:
            if life != self._life:
                return
            if self.is_paused:
                self._deferred.append(happen)
                return
            call()

        self._timeline.after(delay_s, happen)

    # What the daemon asks of its kernel.

    def send(self, packet: Packet) -> None:
        self._network.send(self, packet)

    def install(self, interface: IPNetworkAddress, valid_s: int) -> None:
        """Add an address marked as havip's, or renew its lifetime."""
        self.later(self.netlink_s, lambda: self._install(interface, valid_s))

    def remove(self, interface: IPNetworkAddress) -> None:
        self.later(self.netlink_s, lambda: self.delete_address(interface, Removal.OURS))

    def _install(self, interface: IPNetworkAddress, valid_s: int) -> None:
        lifetime_s = valid_s + self._rng.random() * EXPIRY_LATE_S
        held = self._find(interface)
        if held is None:
            held = HeldAddress(interface)
            self.addresses.append(held)
            self.later(lifetime_s, lambda: self._expire(held))
        held.is_ours = True
        held.expires_at = self._timeline.now + lifetime_s
        self._tell_added(held)
        self._on_change()

    def _expire(self, held: HeldAddress) -> None:
        if held not in self.addresses or held.expires_at is None:
            return
        remaining_s = held.expires_at - self._timeline.now
        if remaining_s > 0:
            self.later(remaining_s, lambda: self._expire(held))
        else:
            self.delete_address(held.interface, Removal.EXPIRED)

    def _find(self, interface: IPNetworkAddress) -> HeldAddress | None:
        return next((held for held in self.addresses if held.interface == interface), None)

    # What happens to a machine.

    def add_address(self, interface: IPNetworkAddress) -> None:
        """An operator adds a permanent address."""
        held = HeldAddress(interface)
        self.addresses.append(held)
        self._tell_added(held)
        self._on_change()

    def delete_address(self, interface: IPNetworkAddress, by: Removal) -> None:
        """Remove an address, if it is there."""
        held = self._find(interface)
        if held is not None:
            self.addresses.remove(held)
            self._tell(AddressRemoved(interface=INTERFACE, address=interface, by=by))
            self._on_change()

    def delete_leftover(self, address: IPAddress) -> None:
        """Remove what an earlier life of the daemon left, with any prefix length."""
        for held in [held for held in self.addresses if held.interface.ip == address]:
            if held.is_ours:
                self.delete_address(held.interface, Removal.OURS)

    def set_link(self, *, is_up: bool) -> None:
        """Plug the cable in or out; the addresses stay."""
        if is_up != self.is_up:
            self.is_up = is_up
            self._tell(LinkChanged(interface=INTERFACE, is_up=is_up, mac=self.mac))
            self._on_change()

    def power_off(self) -> None:
        """Power and link at once; what was not written in the wall is forgotten."""
        self._life += 1
        self.is_powered = self.is_paused = False
        self.addresses = [held for held in self.addresses if held.interface.ip in self.own]
        self._queued.clear()
        self._deferred.clear()
        self._on_change()

    def power_on(self) -> None:
        self.is_powered = True
        self._on_change()

    def pause(self) -> None:
        """The hypervisor stops the machine: kernel, lifetimes and clock with it."""
        self.is_paused = True
        self._paused_at = self._timeline.now
        self._on_change()

    def resume(self, *, keeps_packets: bool) -> None:
        """Let the machine go on; the hypervisor kept its packets, or did not."""
        paused_s = self._timeline.now - self._paused_at
        self.is_paused = False
        self.paused_for_s += paused_s
        for held in self.addresses:
            if held.expires_at is not None:
                held.expires_at += paused_s
        deferred, self._deferred = self._deferred, []
        queued, self._queued = self._queued, []
        for packet in queued if keeps_packets else []:
            self.receive(packet)
        for call in deferred:
            call()
        self._on_change()

    # What the kernel does with what it gets.

    def receive(self, packet: Packet) -> None:
        if self.is_paused:
            if len(self._queued) < QUEUE_WHILE_PAUSED:
                self._queued.append(packet)
            return
        match packet:
            case Datagram():
                self._tell(
                    VrrpReceived(
                        interface=INTERFACE,
                        source=packet.source,
                        destination=packet.destination,
                        hop_limit=packet.hop_limit,
                        payload=packet.payload,
                    )
                )
            case Frame(content):
                heard = neighbours.read(content)
                if heard is not None and self._is_for_us(content, heard):
                    self.hear(heard)
                    self._tell(FrameReceived(interface=INTERFACE, frame=content))

    def hear(self, heard: neighbours.Heard) -> None:
        """Answer a question for an address that is here when the answer is due."""
        if heard.is_question and self.has_address(heard.subject):
            self.later(ANSWER_S, lambda: self._answer(heard))

    def _is_for_us(self, frame: bytes, heard: neighbours.Heard) -> bool:
        """An interface takes solicitations only on the groups of its own addresses."""
        is_for_a_group = frame[:2] == b"\x33\x33" and heard.is_question
        return not is_for_a_group or self.has_address(heard.subject)

    def _answer(self, heard: neighbours.Heard) -> None:
        if self.has_address(heard.subject):
            self.send(Frame(neighbours.answer(self.mac, heard)))

    def present(self) -> list[Event]:
        """How things are, as a starting daemon gets to know them."""
        return [
            LinkChanged(interface=INTERFACE, is_up=self.is_up, mac=self.mac),
            GatewaysChanged(interface=INTERFACE, gateways=self.gateways),
            *(self._added(held) for held in self.addresses),
        ]

    def _added(self, held: HeldAddress) -> AddressAdded:
        return AddressAdded(
            interface=INTERFACE,
            address=held.interface,
            is_ours=held.is_ours,
            is_permanent=held.expires_at is None,
        )

    def _tell_added(self, held: HeldAddress) -> None:
        self._tell(self._added(held))

    def _tell(self, event: Event) -> None:
        if self.listener is not None:
            self.listener(event)
