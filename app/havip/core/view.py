"""What a node looks like from outside at one moment: the content of `/status` and the metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    name: str
    url: str
    healthy: bool | None
    """None: no result yet."""
    has_passed: bool
    """At least once since this URL is probed."""
    weight: int
    last_result: str
    detail: str
    consecutive: int
    """How many results in a row were like the last one."""
    last_at: float | None
    changed_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    address: str
    priority: int
    is_active: bool
    last_advert_at: float
    advert_interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    namespace: str
    name: str
    holder: str
    """As last read; empty while nobody holds it."""
    transitions: int
    changed_at: float | None
    """When it was first seen as it is now; None before it was read."""
    held_until_at: float | None
    """When this node lets go unless it renews before; None if it does not hold."""
    problem: str
    """Why the last request failed; empty if it was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendView:
    name: str
    endpoint: str
    listed: bool
    """False: it is being drained, or serves on while none that is listed is healthy."""
    healthy: bool
    status: str
    """As HAProxy calls it, such as `UP`, `DOWN`, `DRAIN`, `MAINT`; empty: not there yet."""
    check: str
    """The last check in HAProxy's words, such as `L7OK 200`."""
    sessions: int
    sessions_total: int
    bytes_in_total: int
    bytes_out_total: int
    connection_errors_total: int
    retries_total: int
    redispatches_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerView:
    answers: bool
    version: str
    process: int
    """Process id of HAProxy's worker, in its own process namespace; 0 before it has answered."""
    uptime_s: int
    problem: str
    """Why it is not fit, empty when it is."""
    port: int
    sessions: int
    sessions_limit: int
    """With as many, the next ones wait; 0 if HAProxy has not told."""
    full: bool
    """As many were open as may be, and not a tenth of them has ended since."""
    sessions_total: int
    backends_known_by: str
    """`configuration`, `api`, `kept`, or empty while nobody has named any."""
    backends: tuple[BackendView, ...]
    redirect_port: int | None = None
    """Another port of the VIPs that leads to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionView:
    at: float
    """Monotonic seconds; the edge adds the wall-clock time."""
    router: str
    topic: str
    reason: str
    state: str
    was: str
    fields: dict[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    name: str
    virtual_router_id: int
    version: int
    vrrp_interface: str
    vip_interface: str
    vips: tuple[str, ...]
    state: str
    reason: str
    since_at: float
    may_hold: bool
    blocked_by: str
    """Reason why this node may not hold the VIP, empty when it may."""
    priority: int
    effective_priority: int
    advert_interval_s: float
    is_holding: bool
    """The VIP is on the interface, as far as the kernel has told."""
    hmac_key: int | None
    """Id of the key that signs now; None while nothing is signed."""
    fast_detect: str
    """`armed`, `off`, or what active suspicion lacks."""
    peers: tuple[PeerView, ...]
    """Those that were heard."""
    lease: LeaseView | None = None
    """None: elected by VRRP."""
    unicast_peers: tuple[str, ...] = ()
    """Where adverts go; empty with multicast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeObjectView:
    leaving: str
    """Reason why this node is about to leave; empty while it stays."""
    detail: str
    weight: int
    """Added to the priorities while it is about to leave."""
    seen_at: float | None
    """When the Node object was seen last; None: never."""
    problem: str
    """Why it is not seen; empty when it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    node_name: str
    version: str
    at: float
    ready: bool
    not_ready_because: str
    routers: tuple[RouterView, ...]
    checks: tuple[CheckView, ...]
    transitions: tuple[TransitionView, ...]
    """The last 100, oldest first."""
    node_object: NodeObjectView | None = None
    """None: it is not watched."""
    balancer: BalancerView | None = None
