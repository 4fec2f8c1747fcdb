"""What a node was told to do, complete and checked: what `settings` makes and the core reads.

Every field is final: names are resolved to interfaces, texts to addresses, and whatever could
be wrong has been refused before. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address
from urllib.parse import urlsplit


class AllUnhealthy(StrEnum):
    """What happens to the VIP when no node deserves it."""

    DROP = "drop"
    HOLD = "hold"


class HmacMode(StrEnum):
    """How far the roll-out of HMAC has come (draft-cassen-vrrp-auth-hmac).

    `receive-only` sends unsigned and accepts both, `permissive` signs and accepts both,
    `enforce` signs and accepts signed adverts only. A wrong signature is dropped in all three.
    """

    RECEIVE_ONLY = "receive-only"
    PERMISSIVE = "permissive"
    ENFORCE = "enforce"


class ReplayMode(StrEnum):
    """What makes a correctly signed advert suspect: its age by the clock, or its order alone."""

    TIME = "time"
    MONOTONIC = "monotonic"


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A password or key that no log, traceback or view can show."""

    value: bytes

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class HmacConfig:
    keys: dict[int, Secret]
    """By key id (1–255), each 32–64 bytes. All of them verify; `active_key` signs."""
    active_key: int
    mode: HmacMode = HmacMode.ENFORCE
    replay: ReplayMode = ReplayMode.MONOTONIC
    time_window_s: float | None = None
    """None: max(3 advert intervals, 5 s)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """One virtual address as it is put on the interface."""

    interface: IPv4Interface | IPv6Interface
    """/32 or /128, or with the user's prefix when `has_connected_route`."""
    has_connected_route: bool = False
    """The VIP lies outside every subnet of the node, so it brings its own connected route."""

    @property
    def address(self) -> IPv4Address | IPv6Address:
        return self.interface.ip


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One address family of a virtual router. Legs of one router move together."""

    source: IPv4Address | IPv6Address
    """The node's own primary address on the VRRP interface: IPv4, or IPv6 link-local for
    multicast; for unicast an address that the peers can reach."""
    vips: tuple[Vip, ...]
    peers: tuple[IPv4Address | IPv6Address, ...] = ()
    """Unicast peers; empty means multicast."""
    discovers_peers: bool = False
    """The peers are those that `core.discovery` knows; `peers` is empty."""

    @property
    def is_unicast(self) -> bool:
        return self.discovers_peers or bool(self.peers)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.source.version


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseConfig:
    """Election by a Kubernetes Lease; the times are those of client-go's `leaderelection`."""

    namespace: str
    name: str
    duration_s: int = 15
    """How long others leave a Lease alone that nobody renews: whole seconds."""
    renew_deadline_s: float = 10.0
    """A holder lets go so long after it sent the last renewal that succeeded."""
    retry_period_s: float = 2.0
    """Between renewals, and between looks of those who wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """One virtual router: one VRID on one interface, with a leg for each address family.

    The first leg leads: its adverts run the election. Those of the other legs are signs of life,
    dethrone a holder of lower priority, and part equals whom the first leg does not part.
    """

    name: str
    """`<vrrp interface>/<vrid>`, as it appears in logs, metrics and status."""
    virtual_router_id: int
    version: int
    vrrp_interface: str
    vip_interface: str
    legs: tuple[Leg, ...]
    priority: int = 100
    advert_interval_s: float = 0.1
    no_preempt: bool = False
    preempt_delay_s: float = 5.0
    fast_detect: bool = True
    take_over_address: bool = False
    """Take a permanent address that is not marked as havip's (`vipTakeOver`)."""
    password: Secret | None = None
    hmac: HmacConfig | None = None
    rotation_delay_s: float = 180.0
    """Within which every node is told of a new password or key (`core.rotation`)."""
    lease: LeaseConfig | None = None
    """None: elected by VRRP."""
    holder_lease: tuple[str, str] | None = None
    """Namespace and name of a Lease that only shows who holds; None: none does, or `lease`."""

    @property
    def interfaces(self) -> tuple[str, str]:
        """Where VRRP is spoken and where the VIPs stand; often the same."""
        return self.vrrp_interface, self.vip_interface


def interfaces_of(routers: Iterable[RouterConfig]) -> frozenset[str]:
    """Every interface that these virtual routers have to do with."""
    return frozenset(name for router in routers for name in router.interfaces)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Whom to trust and what to show; each thing by a file, or as `…_data` by its text (PEM)."""

    verify: bool = True
    ca_file: str | None = None
    ca_data: str | None = None
    server_name: str | None = None
    """The name the certificate is verified for, where it differs from the URL's host."""
    client_cert_file: str | None = None
    client_cert_data: Secret | None = None
    client_key_file: str | None = None
    client_key_data: Secret | None = None


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this node for certain."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_to_verify(tls: TlsConfig, url: str) -> str | None:
    """The name that an API server's certificate is verified for, where it is not the URL's host.

    kubeadm's names the service and the node, not 127.0.0.1.
    """
    return tls.server_name or ("kubernetes" if is_loopback(url) else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeAccess:
    """How this node speaks to the Kubernetes API: always by TLS that proves the server."""

    servers: tuple[str, ...]
    """`https://host:port` without a path, tried in this order."""
    tls: TlsConfig
    token_file: str | None = None
    """Bearer token, re-read when the file changes."""
    token: Secret | None = None
    namespace: str = "kube-system"
    """Where this node keeps its own objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSource:
    """Whose list of nodes names the unicast peers: one of the two."""

    service: str = ""
    """A headless Service; its pods' nodes are the peers."""
    namespace: str = ""
    """Of the Service."""
    selector: str = ""
    """Labels of the nodes that are peers, as kubectl takes them."""
    file: str
    """Where the last list is kept, for a start without the API."""

    def __str__(self) -> str:
        if self.service:
            return f"Service {self.namespace}/{self.service}"
        return f"nodes with {self.selector}"


class Balance(StrEnum):
    """Which backend gets the next connection."""

    LEASTCONN = "leastconn"
    ROUNDROBIN = "roundrobin"


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """One API server behind the balancer."""

    name: str
    """As HAProxy, `/status` and the metrics call it."""
    address: IPv4Address | IPv6Address
    port: int

    @classmethod
    def at(cls, address: IPv4Address | IPv6Address, port: int) -> Backend:
        """One that has no name but its place; in brackets, HAProxy would not take it."""
        return cls(f"{address}:{port}", address, port)

    def __str__(self) -> str:
        """As the settings have it."""
        is_nameless = self == Backend.at(self.address, self.port)
        return self.endpoint if is_nameless else f"{self.name} {self.endpoint}"

    @property
    def endpoint(self) -> str:
        return endpoint(self.address, self.port)


def endpoint(address: IPv4Address | IPv6Address, port: int) -> str:
    """`192.0.2.1:6443` or `[2001:db8::1]:6443`."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerConfig:
    """HAProxy beside havip, and what it is to do."""

    port: int = 8443
    binds: tuple[IPv4Address | IPv6Address, ...]
    """Where it listens: every address of a family, or the VIPs."""
    own: frozenset[IPv4Address | IPv6Address] = frozenset()
    """Addresses at which this port is the balancer itself, and so no backend."""
    vips: frozenset[IPv4Address | IPv6Address] = frozenset()
    redirect_port: int | None = None
    """Another port of the VIPs that leads to the balancer; None: no other does."""
    backends: tuple[Backend, ...] | None = None
    """None: those that the Kubernetes API lists."""
    balance: Balance = Balance.LEASTCONN
    check_interval_s: float = 2.0
    check_timeout_s: float = 1.8
    fail_after: int = 2
    recover_after: int = 2
    expected_status: tuple[tuple[int, int], ...] = ((200, 200),)
    """Ranges of HTTP status codes that pass, ends included."""
    check_host: str = "kubernetes"
    """The `Host` of the check's request, and the name that a certificate is verified for."""
    ca_file: str | None = None
    """None: certificates are not verified by the check; clients do that for themselves."""
    slow_start_s: float = 10.0
    connect_timeout_s: float = 3.0
    idle_timeout_s: float = 86_400.0
    max_connections: int = 8000
    proxy_protocol: bool = False
    directory: str = "/run/havip-haproxy"
    """Shared with HAProxy: its configuration and its socket."""
    ca_name: str = "ca.crt"
    """What the CA certificates are called there."""
    kept_file: str = "/var/lib/havip/backends.json"
    """Where the last list is kept, for a start without the API."""

    @property
    def binds_all(self) -> bool:
        """Whether it listens at every address of the node, of the VIPs' families."""
        return any(each.is_unspecified for each in self.binds)

    def is_itself(self, backend: Backend) -> bool:
        """Whether connections to that backend would be the balancer's own again."""
        address, port = backend.address, backend.port
        return (port == self.port and address in self.own) or (
            port == self.redirect_port and address in self.vips
        )

    @property
    def configuration_file(self) -> str:
        return f"{self.directory}/haproxy.cfg"

    @property
    def socket_file(self) -> str:
        return f"{self.directory}/haproxy.sock"

    @property
    def ca_copy(self) -> str:
        """The CA certificates where HAProxy can read them."""
        return f"{self.directory}/{self.ca_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """One health check. Weight 0 means that a failed check forbids holding."""

    name: str
    """`service`, `kubelet` or `kube_api`."""
    url: str
    """http, https or tcp."""
    interval_s: float
    timeout_s: float
    fail_after: int
    recover_after: int
    weight: int = 0
    expected_status: tuple[tuple[int, int], ...] = ((200, 299),)
    """Ranges of HTTP status codes that pass, ends included."""
    stability_s: float = 0.0
    """How long a recovered check must go on passing before it counts as recovered."""
    fast_fail: bool = False
    """Confirm "nothing listens" by quick re-probes instead of waiting for the interval."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    token_file: str | None = None
    """Bearer token, re-read when the file changes; sent over verified TLS only."""
    token: Secret | None = None

    ca_setting: str = ""
    """The setting that names its CA, where that is not its own `…CaFile`."""
    remedy: str = ""
    """What to do where nothing has ever answered; empty: as for a URL."""
    awaits: str = ""
    """What has to come before there is anything to ask; until then it fails, for that reason."""

    def setting(self, suffix: str) -> str:
        """The name of one of its settings, for a remedy: `checkKubeApiUrl` of `Url`."""
        return "check" + "".join(part.capitalize() for part in self.name.split("_")) + suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    node_name: str
    routers: tuple[RouterConfig, ...]
    checks: tuple[CheckConfig, ...] = ()
    all_unhealthy: AllUnhealthy = AllUnhealthy.DROP
    kube: KubeAccess | None = None
    """None: the Kubernetes API is not used, but perhaps by a check."""
    peer_source: PeerSource | None = None
    """None: no leg discovers its peers."""
    node_weight: int | None = None
    """Added to the priorities while Kubernetes has this node leave (−253…0); None: its Node object
    is not watched."""
    shows_events: bool = False
    """Each change of a virtual router's state becomes an Event of the Node."""
    shows_label: bool = False
    """The Node is labelled while it holds."""
    balancer: BalancerConfig | None = None
    """None: no HAProxy is looked after."""

    @property
    def vip_addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Of all virtual routers, in their order."""
        return tuple(vip.address for each in self.routers for leg in each.legs for vip in leg.vips)

    @property
    def shows_anything(self) -> bool:
        """Whether Kubernetes is told who holds, beside an election by Lease."""
        has_lease = any(router.holder_lease is not None for router in self.routers)
        return has_lease or self.shows_events or self.shows_label
