"""Another port of the VIPs that leads to the balancer, by a table of nftables (`nft list ruleset`).

The table belongs to the socket that made it (NFT_TABLE_F_OWNER, Linux 5.12). So it goes with the
process, however that ends, and nobody else can change it: a firewall that is reloaded flushes every
other one.

`dnat` to the VIP, and not `redirect`: that leads to the node's own address, and connections to it
would go on hanging when the VIP leaves. What a node's own processes send to the VIP is led there
on the holder alone, where it goes by the loopback: elsewhere the holder does it, and a daemon that
ends cuts off none of them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from pyroute2.netlink import NETLINK_NETFILTER, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Cmp,
    Meta,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)

from havip.core.redirect import Redirect
from havip.netlink import Requests

PRIORITY: Final = -101
"""Just before those of kube-proxy and of port mappings (NF_IP_PRI_NAT_DST, -100)."""

_PREROUTING, _OUTPUT = "prerouting", "output"
_CHAINS: Final = {_PREROUTING: 0, _OUTPUT: 3}
"""By their hooks (linux/netfilter.h): from the network, and from the node's own processes."""
_LOOPBACK: Final = struct.pack("=I", 1)
"""Its index in every network namespace."""
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_OWNER = 0x2
_DNAT = 1
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_ADDRESS, _PORT = 1, 2
"""Registers of 16 bytes."""

Request = tuple[Any, int, int]


class Redirection:
    """The table, from the first `use` until `close` or the end of the process.

    Raises:
        OSError: the kernel has no nftables.
    """

    def __init__(self) -> None:
        self._requests = Requests(NETLINK_NETFILTER)
        self._there: Redirect | None = None

    def use(self, redirect: Redirect, *, keeps_former: bool = False) -> None:
        """Have this redirect in place of the one before, in one step. Blocks.

        Args:
            keeps_former: with the VIPs of the one before, which have yet to leave.

        Raises:
            OSError: the kernel refuses it, and all is as it was. EEXIST: somebody else has a table
                of that name.
        """
        if keeps_former and self._there is not None:
            redirect = redirect.beside(self._there)
        if redirect != self._there:
            self._requests.ask_at_once(_transaction(redirect, self._there))
            self._there = redirect

    def close(self) -> None:
        self._requests.close()


def _transaction(redirect: Redirect, old: Redirect | None) -> Iterator[Request]:
    yield _batch(_BATCH_BEGIN)
    if old is not None:
        yield _request(nft_table_msg(), NFT_MSG_DELTABLE, 0, NFTA_TABLE_NAME=old.table)
    yield _request(
        nft_table_msg(),
        NFT_MSG_NEWTABLE,
        NLM_F_CREATE | NLM_F_EXCL,
        NFTA_TABLE_NAME=redirect.table,
        NFTA_TABLE_FLAGS=_OWNER,
    )
    for chain, hook in _CHAINS.items():
        yield _request(
            nft_chain_msg(),
            NFT_MSG_NEWCHAIN,
            NLM_F_CREATE | NLM_F_EXCL,
            NFTA_CHAIN_TABLE=redirect.table,
            NFTA_CHAIN_NAME=chain,
            NFTA_CHAIN_TYPE="nat",
            NFTA_CHAIN_HOOK=_nested(NFTA_HOOK_HOOKNUM=hook, NFTA_HOOK_PRIORITY=PRIORITY),
        )
        for vip in redirect.vips:
            is_last = (chain, vip) == (_OUTPUT, redirect.vips[-1])
            rule = [*_lead(vip, redirect.port, redirect.to_port)]
            if chain == _OUTPUT:
                rule[:0] = [_load(Meta.NFT_META_OIF), _is(_LOOPBACK)]
            yield _request(
                nft_rule_msg(),
                NFT_MSG_NEWRULE,
                NLM_F_CREATE | NLM_F_APPEND | (NLM_F_ACK if is_last else 0),
                NFTA_RULE_TABLE=redirect.table,
                NFTA_RULE_CHAIN=chain,
                NFTA_RULE_EXPRESSIONS=rule,
            )
    yield _batch(_BATCH_END)


def _lead(vip: IPv4Address | IPv6Address, port: int, to_port: int) -> Iterator[Any]:
    """`ip daddr VIP tcp dport PORT dnat to VIP:TO_PORT`, as the kernel's virtual machine has it."""
    family, offset = (NFPROTO_IPV4, 16) if vip.version == 4 else (NFPROTO_IPV6, 24)
    yield _load(Meta.NFT_META_NFPROTO)
    yield _is(bytes([family]))
    yield _cut(_NETWORK_HEADER, offset, len(vip.packed))
    yield _is(vip.packed)
    yield _load(Meta.NFT_META_L4PROTO)
    yield _is(bytes([socket.IPPROTO_TCP]))
    yield _cut(_TRANSPORT_HEADER, 2, 2)
    yield _is(struct.pack("!H", port))
    yield _expression("immediate", dreg=_ADDRESS, data=_value(vip.packed))
    yield _expression("immediate", dreg=_PORT, data=_value(struct.pack("!H", to_port)))
    yield _expression("nat", type=_DNAT, family=family, reg_addr_min=_ADDRESS, reg_proto_min=_PORT)


def _load(key: Meta) -> Any:
    return _expression("meta", key=key, dreg=_ADDRESS)


def _cut(header: int, offset: int, length: int) -> Any:
    """Bytes of a packet's header."""
    return _expression("payload", base=header, offset=offset, len=length, dreg=_ADDRESS)


def _is(value: bytes) -> Any:
    """What was loaded last is this, or the rule is at its end."""
    return _expression("cmp", sreg=_ADDRESS, op=Cmp.NFT_CMP_EQ, data=_value(value))


def _value(value: bytes) -> Any:
    return _nested(NFTA_DATA_VALUE=value)


def _expression(name: str, **attributes: object) -> Any:
    named = {f"NFTA_{name}_{each}".upper(): value for each, value in attributes.items()}
    return _nested(NFTA_EXPR_NAME=name, NFTA_EXPR_DATA=_nested(**named))


def _nested(**attributes: object) -> Any:
    return {"attrs": [*attributes.items()]}


def _request(message: Any, kind: int, flags: int, **attributes: object) -> Request:
    message["nfgen_family"] = NFPROTO_INET
    message["attrs"] = [*attributes.items()]
    return message, NFNL_SUBSYS_NFTABLES << 8 | kind, flags


def _batch(kind: int) -> Request:
    """The begin or the end of what is done as a whole or not at all."""
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    return message, kind, 0
