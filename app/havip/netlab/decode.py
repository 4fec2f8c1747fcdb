"""Captured frames as lines for people. Imports scapy, so it is imported only when needed."""

from __future__ import annotations

from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vrrp import VRRP, VRRPv3

from havip.netlab.capture import Frame


def line(frame: Frame) -> str:
    """One frame: time, the host that sent it, and what it says."""
    ether = Ether(frame.data)
    return f"{frame.at:.6f} {frame.port:<6} {ether.src} > {ether.dst} {_told(ether)}"


def _told(ether: Ether) -> str:
    if ARP in ether:
        arp = ether[ARP]
        if arp.op == 2:
            return f"ARP {arp.psrc} is-at {arp.hwsrc} to {arp.pdst}"
        told = "announce" if arp.psrc == arp.pdst else "who-has"
        return f"ARP {told} {arp.pdst} from {arp.psrc} ({arp.hwsrc})"
    for network in (IP, IPv6):
        for version in (VRRP, VRRPv3):
            if network in ether and version in ether:
                advert = ether[version]
                unit = "s" if advert.version == 2 else "cs"
                return (
                    f"VRRPv{advert.version} {ether[network].src} > {ether[network].dst} "
                    f"vrid {advert.vrid} prio {advert.priority} "
                    f"interval {advert.adv} {unit} {','.join(advert.addrlist)}"
                )
    if ICMPv6ND_NS in ether:
        return f"NS who-has {ether[ICMPv6ND_NS].tgt} from {ether[IPv6].src}"
    if ICMPv6ND_NA in ether:
        advertisement = ether[ICMPv6ND_NA]
        flags = "".join(n for n, f in (("S", advertisement.S), ("O", advertisement.O)) if f)
        mac = ether[ICMPv6NDOptDstLLAddr].lladdr if ICMPv6NDOptDstLLAddr in ether else "?"
        return f"NA {advertisement.tgt} is-at {mac} flags {flags or '-'}"
    return str(ether.summary())
