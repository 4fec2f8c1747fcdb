"""What a node has: its interfaces, addresses and gateways, as values.

`sense.host.read_host` takes the picture; `settings` chooses interfaces from it, and
`act.addresses` finds leftovers in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import Final

HAVIP_MARK: Final = 0x48
"""IFA_PROTO of every address that havip installs ("H").

The kernel's own marks are 1–3 (linux/if_addr.h, IFAPROT_*); it leaves all others to user space.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAddress:
    """One address on one interface."""

    interface: IPv4Interface | IPv6Interface
    """The address with its prefix length."""
    is_permanent: bool = True
    """Its lifetime has no end."""
    is_deprecated: bool = False
    """Its preferred lifetime has ended."""
    is_ours: bool = False
    """Marked as put there by havip."""
    is_tentative: bool = False
    """IPv6: duplicate address detection has not ended, or has failed."""
    is_secondary: bool = False
    """IPv4: another address of the same subnet came first; the kernel may delete this one
    together with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface; `mac` is empty where the link layer has none."""

    name: str
    index: int
    mac: bytes
    is_up: bool
    """Administratively up and with carrier."""
    is_loopback: bool = False
    addresses: tuple[HostAddress, ...] = ()
    """In the kernel's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A default gateway that is reached on-link by this interface."""

    interface: str
    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The node's network at one moment."""

    interfaces: tuple[Interface, ...]
    gateways: tuple[Gateway, ...] = ()
    """Best metric first."""
    default_route_interfaces: dict[int, str] = field(default_factory=dict)
    """By address family (4 or 6), the interface of the default route with the best metric."""

    def interface(self, name: str) -> Interface | None:
        """The interface of this name, None if the node has none."""
        return next((each for each in self.interfaces if each.name == name), None)
