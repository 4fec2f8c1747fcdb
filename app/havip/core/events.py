"""Everything that can happen to a node, as the core sees it.

An event carries bytes where the world gave bytes, so that a recorded run replays parser and
decision together. The edge promises one order: before it delivers `Woken`, it has read every
socket dry and delivered what it found. All decisions "read before you act" rest on that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from havip.core.config import Backend, NodeConfig
from havip.core.haproxy import Answer
from havip.core.record import LeaseRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The sockets are open; the first event of a life.

    `utc_offset_s` is UTC minus the monotonic clock, seconds.
    """

    utc_offset_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Woken:
    """Time has passed, and every socket was read dry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStepped:
    """The UTC clock was set; `utc_offset_s` is UTC minus the monotonic clock, seconds."""

    utc_offset_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VrrpReceived:
    """An IP packet of protocol 112, without its IP header."""

    interface: str
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    hop_limit: int
    """IPv4 TTL or IPv6 hop limit as received."""
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameReceived:
    """An Ethernet frame that carries ARP, or a neighbour solicitation or advertisement."""

    interface: str
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """State of an interface, at start and whenever it changes."""

    interface: str
    is_up: bool
    """Administratively up and with carrier."""
    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaysChanged:
    """On-link default gateways by this interface, at start and whenever they change."""

    interface: str
    gateways: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressAdded:
    """An address is on an interface: a new one, or one of ours whose lifetime was renewed."""

    interface: str
    address: IPv4Interface | IPv6Interface
    is_ours: bool
    """Marked as put there by havip (IFA_PROTO)."""
    is_permanent: bool = True


class Removal(StrEnum):
    """Who removed an address, by the port id of the netlink message."""

    OURS = "ours"
    EXPIRED = "expired"
    """Port id 0: the kernel, because the lifetime ended."""
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRemoved:
    interface: str
    address: IPv4Interface | IPv6Interface
    by: Removal


class ProbeResult(StrEnum):
    """What a probe found: the machine-readable half of a check's reason."""

    PASSED = "passed"
    REFUSED = "refused"
    RESET = "reset"
    CLOSED = "closed"
    """A watched idle connection was closed by the service."""
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    NAME_NOT_FOUND = "name_not_found"
    WRONG_STATUS = "wrong_status"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    CERTIFICATE_INVALID = "certificate_invalid"
    TLS_FAILED = "tls_failed"
    MALFORMED = "malformed"
    FAILED = "failed"


NOTHING_LISTENS = frozenset({ProbeResult.REFUSED, ProbeResult.RESET, ProbeResult.CLOSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFinished:
    check: str
    result: ProbeResult
    detail: str = ""
    """For people: status line, errno, certificate error, remedy. Never a credential."""
    duration_s: float = 0.0
    is_unasked: bool = False
    """Not the answer to a StartProbe: a watched idle connection was closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRead:
    """The answer to a `ReadLease`."""

    request: int
    record: LeaseRecord | None
    """None: there is no such Lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWritten:
    """The answer to a `WriteLease`: the record is in force."""

    request: int
    version: str
    """`resourceVersion` from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFailed:
    """A `ReadLease` or `WriteLease` was refused, or has no answer: then it may be done yet."""

    request: int
    result: ProbeResult
    status: int | None
    """Of HTTP, where there was one. 409: somebody else has written meanwhile."""
    detail: str
    """For people, with the remedy. Never a credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseChanged:
    """Somebody has written the Lease, perhaps this node: a hint to look, and nothing more."""

    namespace: str
    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFailed:
    """The world refused an action."""

    action: str
    """Name of the action's type."""
    interface: str
    subject: str
    """Address or destination."""
    errno: int
    message: str
    virtual_router_id: int | None = None
    """Of an advert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersListed:
    """The nodes that are peers, this one among them: what the API says, or said last."""

    addresses: frozenset[IPv4Address | IPv6Address]
    is_kept: bool = False
    """From an earlier life: the API has not been asked since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersUnlisted:
    """The API does not say who the peers are; it is asked again."""

    detail: str
    """For people, with a remedy. Never a credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSeen:
    """What this node's Node object says of its future; what is malformed says nothing."""

    is_unschedulable: bool = False
    taints: frozenset[str] = frozenset()
    """Their keys."""
    not_ready_because: str = ""
    """Of a condition Ready=False: its reason and message."""
    is_stepping_down: bool = False
    """By the annotation for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUnseen:
    """The API does not show this node's Node object; it is asked again."""

    detail: str
    """For people, with a remedy. Never a credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendsListed:
    """The API servers behind the balancer: what the API says, or said last."""

    backends: frozenset[Backend]
    is_kept: bool = False
    """From an earlier life: the API has not been asked since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendsUnlisted:
    """The API does not say who the backends are; it is asked again."""

    detail: str
    """For people, with a remedy. Never a credential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerAnswered:
    """HAProxy has told of itself and of its servers: the answer to a `StartProbe`."""

    answer: Answer
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerSilent:
    """HAProxy has not answered, or its end was heard."""

    result: ProbeResult
    detail: str
    duration_s: float = 0.0
    is_unasked: bool = False
    """Not the answer to a StartProbe: it closed the connection that is kept open to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerCaOutdated:
    """The CA certificates are not those that HAProxy was started with; it is said again and again.

    A HAProxy that runs verifies backends by those for good: of the Runtime API's `commit ssl
    ca-file` only servers that are added later take notice (2.6 to 3.4).
    """

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """SIGTERM or SIGINT: hand the VIPs over, then say Finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    """SIGHUP brought a new, valid configuration."""

    config: NodeConfig


Event = (
    Started
    | Woken
    | ClockStepped
    | VrrpReceived
    | FrameReceived
    | LinkChanged
    | GatewaysChanged
    | AddressAdded
    | AddressRemoved
    | ProbeFinished
    | LeaseRead
    | LeaseWritten
    | LeaseFailed
    | LeaseChanged
    | ActionFailed
    | PeersListed
    | PeersUnlisted
    | NodeSeen
    | NodeUnseen
    | BackendsListed
    | BackendsUnlisted
    | BalancerAnswered
    | BalancerSilent
    | BalancerCaOutdated
    | StopRequested
    | Reconfigured
)
