"""VRRP adverts, version 2 (RFC 3768 §5) and 3 (RFC 9568 §5): bytes to values and back.

Both versions begin alike::

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-------+-------+---------------+---------------+---------------+
    |Version| Type  | Virtual Rtr ID|   Priority    |Count IP Addrs |
    +-------+-------+---------------+---------------+---------------+
    | v2: auth type | interval in s |           Checksum            |
    | v3: rsvd, 12 bits interval cs |                               |
    +-------------------------------+-------------------------------+
    |  addresses; v2 only: 8 bytes of authentication data           |

A signed advert is followed by the trailer of `wire.auth`, which its count does not mention.

**The checksum of version 3 over IPv4** has two readings. keepalived and FRR read RFC 5798 §5.2.8
as covering an IPv4 pseudo header; Cisco did not, and RFC 9568 §5.2.8 settles for the message
alone, from its version field to its last address. Sent here is keepalived's form, because a fleet
migrates from keepalived node by node; both are accepted. The trailer is covered over IPv6 alone,
where the kernel may write the checksum of all that is sent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from havip.wire import auth
from havip.wire.checksum import internet_checksum, is_intact, pseudo_header
from havip.wire.drop import Drop

PROTOCOL = 112
MULTICAST_V4 = IPv4Address("224.0.0.18")
MULTICAST_V6 = IPv6Address("ff02::12")
MAX_ADDRESSES = 20
"""What an advert carries at most; keepalived neither sends nor reads more."""

_ADVERTISEMENT = 1
_HEADER = struct.Struct("!BBBBHH")
_CHECKSUM = slice(6, 8)
_AUTH_DATA_LENGTH = 8
_MAX_INTERVAL_CS = 0xFFF


class AuthType(IntEnum):
    """The two types of version 2 that are in use (RFC 2338 §5.3.6); version 3 has none."""

    NONE = 0
    PASS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """An ADVERTISEMENT, the only VRRP message there is."""

    version: int
    virtual_router_id: int
    """1–255."""
    priority: int
    """0 (the holder leaves) to 255 (address owner)."""
    advert_interval_s: float
    """v2: whole seconds, 1–255. v3: 0.01–40.95, to the hundredth."""
    addresses: tuple[IPv4Address | IPv6Address, ...]
    auth_type: int = AuthType.NONE
    """v2 only; as received, also where it is no AuthType."""
    password: bytes = field(default=b"", repr=False)
    """v2 only: the authentication data without its zero padding, at most 8 bytes."""
    trailer: bytes = b""
    """What follows the message where that is 28 bytes: a signature that is yet to be verified."""

    @property
    def addresses_text(self) -> str:
        """For people, separated by commas."""
        return ",".join(map(str, self.addresses))


def encode(
    advert: Advert,
    *,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
    key: auth.SigningKey | None = None,
    stamp: auth.Stamp | None = None,
) -> bytes:
    """The IP payload for an advert, signed when `key` and `stamp` are given.

    Without a key, `advert.trailer` is sent as it is.
    """
    assert 0 < len(advert.addresses) <= MAX_ADDRESSES
    assert all(address.version == source.version for address in advert.addresses)
    is_v2 = advert.version == 2
    message = bytearray(
        _HEADER.pack(
            advert.version << 4 | _ADVERTISEMENT,
            advert.virtual_router_id,
            advert.priority,
            len(advert.addresses),
            _encode_v2_auth_and_interval(advert) if is_v2 else _encode_interval_cs(advert),
            0,
        )
    )
    for address in advert.addresses:
        message += address.packed
    if is_v2:
        assert len(advert.password) <= _AUTH_DATA_LENGTH
        message += advert.password.ljust(_AUTH_DATA_LENGTH, b"\0")

    trailer = advert.trailer
    if key is not None:
        assert stamp is not None
        trailer = auth.sign(
            bytes(message),
            version=advert.version,
            virtual_router_id=advert.virtual_router_id,
            source=source,
            key=key,
            stamp=stamp,
        )
    covered = bytes(message + trailer) if source.version == 6 else bytes(message)
    if not is_v2:
        covered = pseudo_header(source, destination, PROTOCOL, len(covered)) + covered
    message[_CHECKSUM] = internet_checksum(covered).to_bytes(2)
    return bytes(message) + trailer


def decode(
    payload: bytes,
    *,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
) -> Advert | Drop:
    """The advert in an IP payload of protocol 112, or the first reason not to use it.

    Makes the checks of RFC 9568 §7.1 and RFC 3768 §7.1 that need no configuration, in this
    order: TRUNCATED (shorter than the header), VERSION (neither 2 nor 3, or 2 over IPv6), TYPE,
    ADDRESS_COUNT (no address, or more than an advert carries), TRUNCATED (shorter than the count
    says), LENGTH (longer, but not by a trailer), CHECKSUM, VRID (0), INTERVAL (0).

    Never raises. The four reserved bits of version 3 are ignored (RFC 9568 §5.2.6).
    """
    if len(payload) < _HEADER.size:
        return Drop.TRUNCATED
    version_type, virtual_router_id, priority, count, interval, _ = _HEADER.unpack_from(payload)
    version = version_type >> 4
    if version not in (2, 3) or (version == 2 and source.version == 6):
        return Drop.VERSION
    if version_type & 0x0F != _ADVERTISEMENT:
        return Drop.TYPE
    # Before anything that costs by the address: a flood of adverts with 255 each would.
    if not 0 < count <= MAX_ADDRESSES:
        return Drop.ADDRESS_COUNT

    addresses_end = _HEADER.size + count * (4 if source.version == 4 else 16)
    length = addresses_end + (_AUTH_DATA_LENGTH if version == 2 else 0)
    if len(payload) < length:
        return Drop.TRUNCATED
    if len(payload) not in (length, length + auth.TRAILER_LENGTH):
        return Drop.LENGTH
    if not _is_checksum_right(payload, length, version, source, destination):
        return Drop.CHECKSUM
    if virtual_router_id == 0:
        return Drop.VRID

    auth_type, advert_interval_s = AuthType.NONE, (interval & _MAX_INTERVAL_CS) / 100
    if version == 2:
        auth_type, advert_interval_s = interval >> 8, float(interval & 0xFF)
    if advert_interval_s == 0:
        return Drop.INTERVAL
    return Advert(
        version=version,
        virtual_router_id=virtual_router_id,
        priority=priority,
        advert_interval_s=advert_interval_s,
        addresses=_decode_addresses(payload[_HEADER.size : addresses_end], source.version),
        auth_type=auth_type,
        password=payload[addresses_end:length].rstrip(b"\0"),
        trailer=payload[length:],
    )


def _encode_v2_auth_and_interval(advert: Advert) -> int:
    seconds = int(advert.advert_interval_s)
    assert seconds == advert.advert_interval_s
    assert 1 <= seconds <= 255
    return advert.auth_type << 8 | seconds


def _encode_interval_cs(advert: Advert) -> int:
    interval_cs = round(advert.advert_interval_s * 100)
    assert 1 <= interval_cs <= _MAX_INTERVAL_CS
    return interval_cs


def _is_checksum_right(
    payload: bytes,
    length: int,
    version: int,
    source: IPv4Address | IPv6Address,
    destination: IPv4Address | IPv6Address,
) -> bool:
    if source.version == 6:
        return is_intact(pseudo_header(source, destination, PROTOCOL, len(payload)) + payload)
    message = payload[:length]
    if is_intact(message):
        return True
    return version == 3 and is_intact(
        pseudo_header(source, destination, PROTOCOL, length) + message
    )


def _decode_addresses(data: bytes, family: int) -> tuple[IPv4Address | IPv6Address, ...]:
    if family == 4:
        return tuple(IPv4Address(data[at : at + 4]) for at in range(0, len(data), 4))
    return tuple(IPv6Address(data[at : at + 16]) for at in range(0, len(data), 16))
