"""What the kernel is to do where another port of the VIPs leads to the balancer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from havip.core.config import NodeConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    table: str
    """The name of an nftables table. No other process here serves that virtual router, so none has
    a table of that name."""
    vips: tuple[IPv4Address | IPv6Address, ...]
    port: int
    to_port: int

    def beside(self, former: Redirect) -> Redirect:
        """This one, and what `former` has beside it: VIPs that are still to be handed over."""
        return replace(self, vips=tuple(dict.fromkeys([*self.vips, *former.vips])))


def redirect_of(config: NodeConfig) -> Redirect | None:
    """The redirect of all VIPs, None where none is wanted."""
    balancer = config.balancer
    if balancer is None or balancer.redirect_port is None:
        return None
    return Redirect(
        table=f"havip-{config.routers[0].name.replace('/', '-')}",
        vips=config.vip_addresses,
        port=balancer.redirect_port,
        to_port=balancer.port,
    )
