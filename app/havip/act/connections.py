"""The end of the TCP connections of an address that leaves, or that has come (sock_diag(7)).

The kernel picks them by a small program (linux/inet_diag.h, INET_DIAG_REQ_BYTECODE), so that a
node with 100,000 connections of its own does not have to list them all.

When an address comes, what this node itself has open to it leads to the former holder, and hangs:
what is sent to the address stays here, and IPv4 drops what comes from it, a reset too, as forged.
Such a connection has the address as its remote end alone. One that is made from then on has it as
its local end too, unless its user bound it to another; then its other end is on this node, which
tells it from the former ones at any time. That does not hold where the node leads the address
elsewhere, as kube-proxy does with a Service's: there a connection from the host's network is reset
without need, as it is when the address leaves, if it was made before, or bound and made in the
milliseconds from the kernel's notification to here.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar, Final

from pyroute2.netlink import NETLINK_SOCK_DIAG, NLM_F_ACK, nlmsg
from pyroute2.netlink.diag import (
    SOCK_DESTROY,
    SOCK_DIAG_BY_FAMILY,
    SS_ALL,
    SS_LISTEN,
    SS_SYN_SENT,
    SS_TIME_WAIT,
)

from havip.netlink import FAMILY, Requests

RESET_BOUND_S: Final = 1.0
"""After this the remaining connections are left alone, so that the address can go."""
RESET_PASSES: Final = 3
"""A busy service accepts new connections while the old ones are reset."""

_CONNECTED = SS_ALL & ~(1 << SS_TIME_WAIT) & ~(1 << SS_LISTEN)
_ESTABLISHED = _CONNECTED & ~(1 << SS_SYN_SENT)
"""What has no answer yet the kernel sends again by itself, and then this node answers."""
_JUMP, _SOURCE, _DESTINATION = 1, 7, 8
_ANY_PORT = -1
_OPERATION = struct.Struct("=BBH")
_HOST = struct.Struct("=BBxxi")
_MAPPED = bytes(10) + b"\xff\xff"
"""Begins an IPv4 address among IPv6 ones (RFC 4291 §2.5.5.2)."""


def reset(address: IPv4Address | IPv6Address) -> None:
    """Destroy the TCP sockets that have this local or remote address, but for listening ones.

    Their users get ECONNABORTED, their peers a reset.

    Raises:
        OSError: ETIME if there were too many to do it in time; EOPNOTSUPP if the kernel cannot.
    """
    until_at = time.monotonic() + RESET_BOUND_S
    with _requests() as requests:
        for _ in range(RESET_PASSES):
            found = _find(requests, address, _CONNECTED, _either_end(address))
            _destroy_all(requests, found, until_at)
            if not found:
                break


def reset_former(address: IPv4Address | IPv6Address) -> None:
    """Destroy the TCP sockets of this node that lead to a former holder of this address.

    Raises:
        OSError: as `reset`.
    """
    until_at = time.monotonic() + RESET_BOUND_S
    with _requests() as requests:
        found = _find(requests, address, _ESTABLISHED, _remote_end(address))
        if not found:
            return
        # In this order: the end that answers is there before the other one is established.
        answering = _find(requests, address, SS_ALL, _local_end(address))
        ends_here = {_remote(each) for each in answering}
        former = [each for each in found if _local(each) not in ends_here]
        _destroy_all(requests, former, until_at)


class _Socket(nlmsg):
    """What names a socket (inet_diag_msg), which is given back to the kernel as it came.

    pyroute2's own classes make six fields of the name, text of its addresses, and read what
    else is told of the socket: half the time that there is for thousands of connections.
    """

    fields = (
        ("idiag_family", "B"),
        ("idiag_state", "B"),
        ("idiag_timer", "B"),
        ("idiag_retrans", "B"),
        ("id", "48s"),
    )


class _Request(nlmsg):
    """inet_diag_req_v2, with the program to choose by that pyroute2's own class lacks."""

    fields = (
        ("sdiag_family", "B"),
        ("sdiag_protocol", "B"),
        ("idiag_ext", "B"),
        ("pad", "B"),
        ("idiag_states", "I"),
        ("id", "48s"),
    )
    defaults: ClassVar = {"sdiag_protocol": socket.IPPROTO_TCP, "id": bytes(48)}
    nla_map = ((1, "INET_DIAG_REQ_BYTECODE", "cdata"),)


def _families(address: IPv4Address | IPv6Address) -> tuple[int, ...]:
    """Address families of sockets that can have this address: IPv4 may be mapped into IPv6."""
    return (socket.AF_INET, socket.AF_INET6) if address.version == 4 else (socket.AF_INET6,)


def _requests() -> Requests:
    return Requests(NETLINK_SOCK_DIAG, {SOCK_DIAG_BY_FAMILY: _Socket})


def _find(
    requests: Requests, address: IPv4Address | IPv6Address, states: int, program: bytes
) -> list[Any]:
    found = []
    for family in _families(address):
        message = _Request()
        message["sdiag_family"] = family
        message["idiag_states"] = states
        message["attrs"] = [("INET_DIAG_REQ_BYTECODE", program)]
        found += requests.dump(message, SOCK_DIAG_BY_FAMILY)
    return found


def _local(found: Any) -> tuple[bytes, bytes]:
    """Port and address of a socket's own end, as inet_diag_sockid has them."""
    name = found["id"]
    return name[0:2], _plain(name[4:20])


def _remote(found: Any) -> tuple[bytes, bytes]:
    """Of its other end."""
    name = found["id"]
    return name[2:4], _plain(name[20:36])


def _plain(host: bytes) -> bytes:
    """The same for an IPv4 address, mapped into IPv6 or not."""
    return host[12:] + bytes(12) if host.startswith(_MAPPED) else host


def _destroy_all(requests: Requests, found: list[Any], until_at: float) -> None:
    for each in found:
        if time.monotonic() > until_at:
            raise OSError(errno.ETIME, os.strerror(errno.ETIME))
        _destroy(requests, each)


def _destroy(requests: Requests, found: Any) -> None:
    message = _Request()
    message["sdiag_family"] = found["idiag_family"]
    message["idiag_states"] = SS_ALL
    message["id"] = found["id"]
    try:
        requests.ask(message, SOCK_DESTROY, NLM_F_ACK)
    except OSError as error:
        # It has ended by itself meanwhile.
        if error.errno != errno.ENOENT:
            raise


def _either_end(address: IPv4Address | IPv6Address) -> bytes:
    """`source is address or destination is address`, for the kernel."""
    destination = _condition(_DESTINATION, address)
    return _condition(_SOURCE, address) + _jump(len(destination)) + destination


def _remote_end(address: IPv4Address | IPv6Address) -> bytes:
    """`source is not address and destination is address`."""
    destination = _condition(_DESTINATION, address)
    return _condition(_SOURCE, address) + _jump(len(destination) + _OPERATION.size) + destination


def _local_end(address: IPv4Address | IPv6Address) -> bytes:
    """`source is address`."""
    return _condition(_SOURCE, address)


def _condition(end: int, address: IPv4Address | IPv6Address) -> bytes:
    """Goes on behind itself if so, else one operation later: behind a jump, or the program's end.

    What lands exactly on the end is accepted, what lands behind it rejected.
    """
    host = _HOST.pack(FAMILY[address.version], address.max_prefixlen, _ANY_PORT) + address.packed
    length = _OPERATION.size + len(host)
    return _OPERATION.pack(end, length, length + _OPERATION.size) + host


def _jump(length: int) -> bytes:
    """Skips as many bytes."""
    return _OPERATION.pack(_JUMP, _OPERATION.size, _OPERATION.size + length)
