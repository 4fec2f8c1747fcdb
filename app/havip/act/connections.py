"""The end of the TCP connections of an address that leaves (sock_diag(7)).

The kernel picks them by a small program (linux/inet_diag.h, INET_DIAG_REQ_BYTECODE), so that a
node with 100,000 connections of its own does not have to list them all.
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
    SS_TIME_WAIT,
)

from havip.netlink import FAMILY, Requests

RESET_BOUND_S: Final = 1.0
"""After this the remaining connections are left alone, so that the address can go."""
RESET_PASSES: Final = 3
"""A busy service accepts new connections while the old ones are reset."""

_CONNECTED = SS_ALL & ~(1 << SS_TIME_WAIT) & ~(1 << SS_LISTEN)
_JUMP, _SOURCE, _DESTINATION = 1, 7, 8
_ANY_PORT = -1
_OPERATION = struct.Struct("=BBH")
_HOST = struct.Struct("=BBxxi")


def reset(address: IPv4Address | IPv6Address) -> None:
    """Destroy the TCP sockets that have this local or remote address, but for listening ones.

    Their users get ECONNABORTED, their peers a reset.

    Raises:
        OSError: ETIME if there were too many to do it in time; EOPNOTSUPP if the kernel cannot.
    """
    until_at = time.monotonic() + RESET_BOUND_S
    with Requests(NETLINK_SOCK_DIAG, {SOCK_DIAG_BY_FAMILY: _Socket}) as requests:
        for _ in range(RESET_PASSES):
            found = [
                each
                for family in _families(address)
                for each in requests.dump(_find(family, address), SOCK_DIAG_BY_FAMILY)
            ]
            for each in found:
                if time.monotonic() > until_at:
                    raise OSError(errno.ETIME, os.strerror(errno.ETIME))
                _destroy(requests, each)
            if not found:
                break


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


def _find(family: int, address: IPv4Address | IPv6Address) -> Any:
    message = _Request()
    message["sdiag_family"] = family
    message["idiag_states"] = _CONNECTED
    message["attrs"] = [("INET_DIAG_REQ_BYTECODE", _program(address))]
    return message


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


def _program(address: IPv4Address | IPv6Address) -> bytes:
    """`source is address or destination is address`.

    A jump that lands exactly on the end accepts, one that lands behind it rejects.
    """
    host = _HOST.pack(FAMILY[address.version], address.max_prefixlen, _ANY_PORT) + address.packed
    length = _OPERATION.size + len(host)
    behind = length + _OPERATION.size
    return (
        _OPERATION.pack(_SOURCE, length, behind)
        + host
        + _OPERATION.pack(_JUMP, _OPERATION.size, behind)
        + _OPERATION.pack(_DESTINATION, length, behind)
        + host
    )
