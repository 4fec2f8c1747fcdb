"""The HMAC trailer of signed adverts, as keepalived >= 2.4 speaks it (draft-cassen-vrrp-auth-hmac).

The trailer follows the VRRP message and is 28 bytes long::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------+---------------+-------------------------------+
    |   Type (1)    |    Key id     |         Reserved (0)          |
    +---------------+---------------+-------------------------------+
    |                         Seconds (UTC)                         |
    +-------------------------------+-------------------------------+
    |     Fraction (1/65536 s)      |            Counter            |
    +-------------------------------+-------------------------------+
    |          Tag: first 16 bytes of HMAC-SHA-256 ...              |

The tag covers a pseudo header (address family, VRRP version, VRID, source), the message with its
checksum field zeroed, and the trailer with its tag zeroed. The destination is left out, so one
signature serves all unicast peers; the checksum is left out, because a kernel may write it.
"""

from __future__ import annotations

import hmac
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from havip.wire.drop import Drop

TRAILER_LENGTH = 28
HMAC_SHA256_128 = 1
"""The only type of trailer that is defined."""

_TAG_LENGTH = 16
_PREFIX = struct.Struct("!BBHIHH")
_CHECKSUM = slice(6, 8)
_SHORTEST_MESSAGE = 8


@dataclass(frozen=True, slots=True)
class Stamp:
    """What makes each signed advert of a sender unique: its UTC time and a counter.

    There is no `<`: the seconds wrap in 2106, so `is_after` says which of two is newer.
    """

    seconds: int
    """32 bits of UTC."""
    fraction: int
    """1/65536 s, 16 bits."""
    counter: int
    """16 bits."""

    @classmethod
    def from_utc(cls, utc_s: float, counter: int) -> Self:
        """The stamp for a moment (seconds since 1970, UTC) and a counter; both wrap."""
        seconds = math.floor(utc_s)
        fraction = math.floor((utc_s - seconds) * 0x10000)
        return cls(seconds & 0xFFFFFFFF, fraction & 0xFFFF, counter & 0xFFFF)

    @property
    def utc_s(self) -> float:
        """Seconds since 1970, UTC, without the counter; right until the seconds wrap in 2106."""
        return self.seconds + self.fraction / 0x10000

    def is_after(self, other: Stamp) -> bool:
        """Whether this stamp is newer, by serial-number arithmetic on 64 bits (RFC 1982 §3.2)."""
        return 0 < (self._serial - other._serial) % (1 << 64) < 1 << 63

    @property
    def _serial(self) -> int:
        return self.seconds << 32 | self.fraction << 16 | self.counter


@dataclass(frozen=True, slots=True)
class SigningKey:
    key_id: int
    """1–255."""
    secret: bytes = field(repr=False)
    """32–64 bytes."""


@dataclass(frozen=True, slots=True)
class Trailer:
    """A well-formed trailer; nothing says yet that its tag is right."""

    key_id: int
    stamp: Stamp
    tag: bytes


def sign(
    message: bytes,
    *,
    version: int,
    virtual_router_id: int,
    source: IPv4Address | IPv6Address,
    key: SigningKey,
    stamp: Stamp,
) -> bytes:
    """The trailer to append to a VRRP message, whose checksum field may hold anything."""
    prefix = _PREFIX.pack(
        HMAC_SHA256_128, key.key_id, 0, stamp.seconds, stamp.fraction, stamp.counter
    )
    pseudo = _pseudo_header(version, virtual_router_id, source)
    return prefix + _tag(key.secret, pseudo, message, prefix)


def parse(trailer: bytes) -> Trailer | Drop:
    """The fields of a trailer, or AUTH_FORMAT. The tag is not checked."""
    if len(trailer) != TRAILER_LENGTH:
        return Drop.AUTH_FORMAT
    kind, key_id, reserved, seconds, fraction, counter = _PREFIX.unpack_from(trailer)
    if kind != HMAC_SHA256_128 or key_id == 0 or reserved != 0:
        return Drop.AUTH_FORMAT
    return Trailer(key_id, Stamp(seconds, fraction, counter), trailer[_PREFIX.size :])


def verify(
    payload: bytes,
    *,
    version: int,
    virtual_router_id: int,
    source: IPv4Address | IPv6Address,
    keys: Mapping[int, bytes],
) -> Stamp | Drop:
    """The stamp of a signed advert whose tag is right, else why it is not to be believed.

    Says nothing about replay: that takes the sender's last stamp.

    Args:
        payload: the whole IP payload, message and trailer.
        version: of VRRP, as received; with `virtual_router_id` and `source` it ties the tag to
            one sender and one virtual router.
        keys: secrets by key id.

    Returns:
        The stamp, or AUTH_MISSING (no room for a trailer), AUTH_FORMAT, AUTH_KEY (unknown key
        id) or AUTH_TAG.
    """
    if len(payload) < _SHORTEST_MESSAGE + TRAILER_LENGTH:
        return Drop.AUTH_MISSING
    message, raw_trailer = payload[:-TRAILER_LENGTH], payload[-TRAILER_LENGTH:]
    trailer = parse(raw_trailer)
    if isinstance(trailer, Drop):
        return trailer
    secret = keys.get(trailer.key_id)
    if secret is None:
        return Drop.AUTH_KEY
    pseudo = _pseudo_header(version, virtual_router_id, source)
    expected = _tag(secret, pseudo, message, raw_trailer[: _PREFIX.size])
    if not hmac.compare_digest(expected, trailer.tag):
        return Drop.AUTH_TAG
    return trailer.stamp


def _pseudo_header(
    version: int, virtual_router_id: int, source: IPv4Address | IPv6Address
) -> bytes:
    return bytes((source.version, version, virtual_router_id, 0)) + source.packed.ljust(16, b"\0")


def _tag(secret: bytes, pseudo: bytes, message: bytes, prefix: bytes) -> bytes:
    covered = bytearray(message)
    covered[_CHECKSUM] = bytes(2)
    data = pseudo + covered + prefix + bytes(_TAG_LENGTH)
    return hmac.digest(secret, data, "sha256")[:_TAG_LENGTH]
