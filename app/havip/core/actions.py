"""Everything the core can ask of the world. The outcome of an action comes back as an event."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from havip.core.config import Backend
from havip.core.haproxy import Change
from havip.core.reasons import Reason, State
from havip.core.record import LeaseRecord
from havip.wire.drop import Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class SendVrrp:
    """Send an IP packet of protocol 112, TTL or hop limit 255."""

    interface: str
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SendFrame:
    """Send a complete Ethernet frame."""

    interface: str
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallAddress:
    """Put a VIP on an interface, or renew its lifetime: one request does either.

    The kernel removes the address `valid_s` (whole seconds) after the last request. It is
    marked as havip's (IFA_PROTO), deprecated (preferred lifetime 0) and, unless
    `has_connected_route`, brings no route; an IPv6 address does no DAD (`nodad`).
    """

    interface: str
    address: IPv4Interface | IPv6Interface
    valid_s: int
    has_connected_route: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    interface: str
    address: IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetConnections:
    """Destroy TCP sockets that have this local or remote address (SOCK_DESTROY)."""

    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetFormerConnections:
    """Destroy this node's own TCP sockets whose other end is at a former holder of this address.

    Nobody else can: once the address is here, IPv4 drops what still comes from there as forged, a
    reset too, and who only listens would wait for ever.
    """

    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProbe:
    """Probe now; exactly one ProbeFinished answers, within the check's timeout."""

    check: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLease:
    """Get a Lease from the API server, from its store and no cache.

    Exactly one LeaseRead or LeaseFailed answers, within `timeout_s`.
    """

    request: int
    namespace: str
    name: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLease:
    """Write a Lease if it still is what `record.version` says; empty: if there is none.

    Exactly one LeaseWritten or LeaseFailed answers, within `timeout_s`.
    """

    request: int
    namespace: str
    name: str
    record: LeaseRecord
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepPeers:
    """Keep this list for a start without the API."""

    addresses: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBackends:
    """Keep this list for a start without the API, and for a HAProxy that starts again."""

    backends: tuple[Backend, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeBalancer:
    """Change one backend of the running HAProxy; its next answer shows what came of it."""

    change: Change
    name: str
    backend: Backend | None = None
    """The one to add."""


class Topic(StrEnum):
    """What a report is about."""

    MOVED = "moved"
    """A virtual router changed its state."""
    PRIORITY = "priority"
    CHECK = "check"
    REFUSED = "refused"
    """Holding the VIP was refused; the reason says why, `fields` who."""
    ALARM = "alarm"
    """Something a person should look at, which changed nothing by itself."""
    PUT_BACK = "put_back"
    """A VIP that something else removed was put back."""
    CONFIGURED = "configured"
    """A reload changed a virtual router in place."""
    PEERS = "peers"
    """Adverts go to others than before."""
    NODE = "node"
    """What Kubernetes plans for this node has changed."""
    BACKEND = "backend"
    """A backend of the balancer came, went, failed or recovered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One decision and its reason, for people: a log line, a transition in the status."""

    topic: Topic
    router: str = ""
    reason: Reason | None = None
    state: State | None = None
    was: State | None = None
    fields: dict[str, str | int | float] = field(default_factory=dict)
    """More of the same story, such as `peer`, `silent_s`, `priority`, `check`, `detail`."""


class Counter(StrEnum):
    """What repeats is counted, not told."""

    ADVERTS_SENT = "adverts_sent"
    ADVERTS_RECEIVED = "adverts_received"
    ADVERTS_DROPPED = "adverts_dropped"
    """Label `reason`: a Drop."""
    PRIORITY_ZERO_SENT = "priority_zero_sent"
    PRIORITY_ZERO_RECEIVED = "priority_zero_received"
    ANNOUNCEMENTS = "announcements"
    SUSPICIONS = "suspicions"
    """Label `reason`: how the question to the holder's kernel ended."""
    ADDRESS_RENEWALS = "address_renewals"
    ADDRESS_CONFLICTS = "address_conflicts"
    FRAMES_MALFORMED = "frames_malformed"
    ACTIONS_FAILED = "actions_failed"
    """Label `reason`: what the kernel refused, such as `SendVrrp`."""
    LEASE_WRITES = "lease_writes"
    LEASE_FAILURES = "lease_failures"
    """Label `reason`: the HTTP status, or how the request failed."""
    CLOCK_ALARMS = "clock_alarms"
    """Signed adverts whose time is outside the window or behind the sender's last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    counter: Counter
    router: str = ""
    reason: Drop | str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Nothing is held any more; the process may end."""


Action = (
    SendVrrp
    | SendFrame
    | InstallAddress
    | RemoveAddress
    | ResetConnections
    | ResetFormerConnections
    | StartProbe
    | ReadLease
    | WriteLease
    | KeepPeers
    | KeepBackends
    | ChangeBalancer
    | Report
    | Count
    | Finished
)
