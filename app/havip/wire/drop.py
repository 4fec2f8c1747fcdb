"""Why received bytes are not used: a peer's error is a value, counted by name."""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """Why a received VRRP packet was not used (RFC 9568 §7.1, RFC 3768 §7.1)."""

    TTL = "ttl"
    VERSION = "version"
    TYPE = "type"
    TRUNCATED = "truncated"
    LENGTH = "length"
    """More bytes than the packet's own count explains."""
    CHECKSUM = "checksum"
    VRID = "vrid"
    FAMILY = "family"
    OWN = "own"
    """Sent from an address of this node."""
    INTERVAL = "interval"
    ADDRESS_COUNT = "address_count"
    ADDRESS_LIST = "address_list"
    UNKNOWN_PEER = "unknown_peer"
    """Unicast from an address that is not among the peers."""
    DESTINATION = "destination"
    AUTH_TYPE = "auth_type"
    AUTH_PASSWORD = "auth_password"  # noqa: S105
    AUTH_MISSING = "auth_missing"
    AUTH_KEY = "auth_key"
    AUTH_TAG = "auth_tag"
    AUTH_FORMAT = "auth_format"
    AUTH_REPLAY = "auth_replay"
