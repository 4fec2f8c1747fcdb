"""What runs on the hosts: keepalived, as a fleet would be migrating from it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_interface


def keepalived_config(
    vips: str | Sequence[str],
    *,
    version: int = 3,
    advert_interval_s: float | None = None,
    priority: int = 100,
    virtual_router_id: int = 10,
    interface: str = "eth0",
    password: str | None = None,
    no_preempt: bool = False,
    preempt_delay_s: float | None = None,
    unicast_source: str | None = None,
    unicast_peers: Sequence[str] = (),
    name: str = "VI_1",
) -> str:
    """A `keepalived.conf` with one instance, which starts as a backup.

    Args:
        vips: with prefix length, all of one family.
        advert_interval_s: default 0.1 with version 3, 1 with version 2.
    """
    addresses = [vips] if isinstance(vips, str) else list(vips)
    for address in addresses:
        ip_interface(address)
    if advert_interval_s is None:
        advert_interval_s = 0.1 if version == 3 else 1
    lines = [
        "global_defs {",
        f"  vrrp_version {version}",
        "}",
        f"vrrp_instance {name} {{",
        "  state BACKUP",
        f"  interface {interface}",
        f"  virtual_router_id {virtual_router_id}",
        f"  priority {priority}",
        f"  advert_int {advert_interval_s:g}",
    ]
    if no_preempt:
        lines.append("  nopreempt")
    if preempt_delay_s is not None:
        lines.append(f"  preempt_delay {preempt_delay_s:g}")
    if password is not None:
        lines += ["  authentication {", "    auth_type PASS", f"    auth_pass {password}", "  }"]
    if unicast_source is not None:
        lines.append(f"  unicast_src_ip {unicast_source}")
    if unicast_peers:
        lines += ["  unicast_peer {", *(f"    {peer}" for peer in unicast_peers), "  }"]
    lines += ["  virtual_ipaddress {", *(f"    {vip} dev {interface}" for vip in addresses), "  }"]
    return "\n".join([*lines, "}", ""])
