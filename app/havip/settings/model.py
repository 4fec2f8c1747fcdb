"""Every setting: its name, default, range and meaning. Documentation and flags come from here.

The attribute `vip_address_cidr` is `vipAddressCidr` in the file, `HAVIP_VIP_ADDRESS_CIDR` in the
environment and `--vip-address-cidr` on the command line. Numbers of time are seconds.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict

from havip.core.config import AllUnhealthy, Backend, Balance, HmacMode, ReplayMode, Secret
from havip.settings import keys, values
from havip.settings.values import Address, Endpoint, refusal


class Election(StrEnum):
    """How the holder is elected."""

    VRRP = "vrrp"
    LEASE = "lease"


def _no_bool(raw: object) -> object:
    if isinstance(raw, bool):
        raise refusal("is yes or no, and a number is needed", "write a number")
    return raw


def _text(raw: object) -> object:
    if not isinstance(raw, str):
        kinds = {bool: "yes or no", int: "a number", float: "a number", list: "a list"}
        kind = kinds.get(type(raw), "something else")
        raise refusal(f"was read as {kind}, not as text", "put it in quotes")
    if not raw.isprintable():
        raise refusal("contains a control character or is no valid text", "write it anew")
    return raw


def _url(raw: str) -> str:
    return values.check_url(raw, ("http", "https", "tcp"))


def _api_url(raw: str) -> str:
    return raw if raw == values.AUTO else values.check_url(raw, ("https", "http"))


def _floating_priority(raw: object) -> object:
    if raw in (255, "255"):
        raise refusal(
            "is for the owner of an address, and a VIP that moves has no owner",
            "set a number from 1 to 254",
        )
    return raw


def _election(raw: object) -> object:
    if raw not in tuple(Election):
        raise refusal("is no way to elect a holder", "set vrrp or lease, or leave it out")
    return raw


Integer = Annotated[int, BeforeValidator(_no_bool)]
Text = Annotated[str, BeforeValidator(_text)]
Token = Annotated[Secret, BeforeValidator(keys.token)]
Password = Annotated[Secret, BeforeValidator(keys.password)]
HmacKeys = Annotated[dict[int, Secret], BeforeValidator(keys.hmac_keys)]
Path = Annotated[Text, Field(min_length=1)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=3600, allow_inf_nan=False)]
# Each probe is a new connection, made by the loop that also sends the adverts.
CheckInterval = Annotated[
    float, BeforeValidator(_no_bool), Field(ge=0.1, le=3600, allow_inf_nan=False)
]
CheckTimeout = Annotated[
    float, BeforeValidator(_no_bool), Field(ge=0.01, le=3600, allow_inf_nan=False)
]
SecondsOrZero = Annotated[
    float, BeforeValidator(_no_bool), Field(ge=0, le=1000, allow_inf_nan=False)
]
Count = Annotated[Integer, Field(ge=1, le=1000)]
Weight = Annotated[Integer, Field(ge=-253, le=253)]
Vips = Annotated[
    tuple[IPv4Interface | IPv6Interface, ...], BeforeValidator(values.vips), Field(min_length=1)
]
Peers = Annotated[tuple[Address, ...] | Literal["auto"], BeforeValidator(values.peers)]
InterfaceName = Annotated[Text, AfterValidator(values.interface_name)]
Url = Annotated[Text, AfterValidator(_url)]
ApiUrl = Annotated[Text, AfterValidator(_api_url)]
ApiServers = Annotated[tuple[str, ...], BeforeValidator(values.api_servers)]
Namespace = Annotated[Text, AfterValidator(values.namespace)]
LeaseName = Annotated[Text, AfterValidator(values.object_name)]
Service = Annotated[Text, AfterValidator(values.service)]
Selector = Annotated[Text, AfterValidator(values.selector)]
Port = Annotated[Integer, Field(ge=1, le=65535)]
Backends = Annotated[tuple[Backend, ...] | Literal["auto"], BeforeValidator(values.backends)]
Directory = Annotated[Text, AfterValidator(values.directory)]
HostName = Annotated[Text, AfterValidator(values.host_name)]
IdleTimeout = Annotated[
    float, BeforeValidator(_no_bool), Field(ge=60, le=604_800, allow_inf_nan=False)
]
Listen = Annotated[Endpoint, BeforeValidator(values.endpoint)]
NodeOverrides = Annotated[dict[str, dict[str, Any]], BeforeValidator(values.node_overrides)]
StatusRanges = Annotated[tuple[tuple[int, int], ...], BeforeValidator(values.status_ranges)]

_TIMEOUT = "0.9 × interval, at most 5"


def _setting(default: Any, description: str, *, shown: str = "") -> Any:
    """A field. `shown` is its default in words, where the default depends on something."""
    return Field(default, description=description, json_schema_extra={"shown": shown})


class RouterSettings(BaseModel):
    """The settings that each entry of `virtualRouters` may have for itself."""

    model_config = SettingsConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    vip_address_cidr: Vips | None = _setting(
        None,
        "The address that follows the healthy node, with prefix length; comma-separated for "
        "several, IPv4 and IPv6. At most 20 of a family.",
        shown="required",
    )
    vrrp_interface_name: InterfaceName | None = _setting(
        None,
        "Interface on which VRRP is spoken.",
        shown="the interface whose subnet contains the VIP, else the default route's",
    )
    vip_interface_name: InterfaceName | None = _setting(
        None, "Interface on which the VIP is put.", shown="as `vrrpInterfaceName`"
    )
    virtual_router_id: Annotated[Integer, Field(ge=1, le=255)] = _setting(
        10, "VRID. The same on all nodes of one VIP, and used by nobody else on the network."
    )
    vrrp_version: Annotated[Integer, Field(ge=2, le=3)] = _setting(
        3, "VRRP version; 2 only to share a VIP with routers that know no other."
    )
    vrrp_advert_interval: Annotated[Seconds, Field(le=255)] | None = _setting(
        None,
        "Seconds between adverts. A dead node is replaced after about two of them. Version 3: "
        "0.01–40.95 in steps of 0.01; version 2: whole seconds, 1–255.",
        shown="0.1; with version 2: 1",
    )
    vrrp_priority: Annotated[Integer, BeforeValidator(_floating_priority), Field(ge=1, le=254)] = (
        _setting(100, "Higher is preferred; 1 counts as 2. Failed checks with a weight lower it.")
    )
    vrrp_no_preempt: bool = _setting(
        False,
        "Do not take the VIP back for preference alone. A holder that has become worse than this "
        "node is replaced all the same.",
    )
    vrrp_preempt_delay: SecondsOrZero = _setting(
        5.0, "Seconds that a better node waits before it takes the VIP from a worse one."
    )
    vrrp_fast_detect: bool = _setting(
        True,
        "Ask the kernel of a holder that is late by ARP or neighbour discovery, and take over at "
        "once if it is dead. Turn it off where pauses of 0.2–0.4 s should not move the VIP.",
    )
    vrrp_unicast_peers: Peers = _setting(
        (),
        "Addresses of the nodes, comma-separated, where multicast does not pass. The node's own "
        "may be among them, so that all nodes have the same list. `auto`: those that the "
        "Kubernetes API lists, see `kubePeersService` and `kubePeersSelector`.",
        shown="none: multicast",
    )
    lease_name: LeaseName | None = _setting(
        None,
        "Name of the Lease that elects the holder, or shows it. The same on all nodes of one VIP, "
        "and used by nothing else.",
        shown="`havip-` and `virtualRouterId`",
    )
    vip_take_over: bool = _setting(
        False, "Take the VIP even if it is on this node already, put there by someone else."
    )
    auth_password: Password | None = _setting(
        None, "Password of VRRPv2 (PASS), 1–8 characters. It travels in clear.", shown="none"
    )
    auth_password_file: Path | None = _setting(
        None, "File that holds `authPassword`.", shown="none"
    )
    auth_hmac_keys: HmacKeys | None = _setting(
        None,
        "HMAC-SHA-256 keys by id: a mapping of ids (1–255) to 64–128 hexadecimal digits.",
        shown="none",
    )
    auth_hmac_keys_file: Path | None = _setting(
        None,
        "File that holds the HMAC keys, a line `<id>: <64–128 hexadecimal digits>` for each; a "
        "line `active: <id>` says which of them signs; `#` starts a comment.",
        shown="none",
    )
    auth_hmac_active_key: Annotated[Integer, Field(ge=1, le=255)] | None = _setting(
        None,
        "Id of the key that signs; all keys verify.",
        shown="what the file of the keys says, else the only key",
    )
    auth_hmac_mode: HmacMode = _setting(
        HmacMode.ENFORCE,
        "`receive-only` sends unsigned and accepts both, `permissive` signs and accepts both, "
        "`enforce` signs and accepts only signed adverts.",
    )
    auth_hmac_replay: ReplayMode = _setting(
        ReplayMode.MONOTONIC,
        "Protection against replayed adverts: `monotonic` needs no synchronised clocks, `time` "
        "also suspects a time that is off by more than `authHmacTimeWindow`.",
    )
    auth_hmac_time_window: Seconds | None = _setting(
        None,
        "Seconds that a signed advert's time may differ from this node's.",
        shown="3 advert intervals, at least 5",
    )

    auth_rotation_delay: SecondsOrZero = _setting(
        180.0,
        "Seconds within which every node is given a changed password or changed keys. A daemon "
        "that runs sends with the former one for as long, and accepts it three times as long. 0: a "
        "change counts at once.",
    )

    @property
    def discovers_peers(self) -> bool:
        return self.vrrp_unicast_peers == values.AUTO

    @property
    def listed_peers(self) -> tuple[Address, ...]:
        """Those that the configuration names."""
        peers = self.vrrp_unicast_peers
        return () if isinstance(peers, str) else peers

    @property
    def advert_interval_s(self) -> float:
        """What was set, else 0.1 s; VRRPv2 carries whole seconds, so there it is 1 s."""
        if self.vrrp_advert_interval is not None:
            return self.vrrp_advert_interval
        return 0.1 if self.vrrp_version == 3 else 1.0


class AllSettings(RouterSettings):
    """Every setting of one process; as such it judges what a file says for single nodes."""

    # Few start with such a file, and whoever does needs one validator for all its nodes.
    model_config = SettingsConfigDict(defer_build=True)

    virtual_routers: tuple[dict[str, Any], ...] = _setting(
        (),
        "Several virtual routers in one process: a list (in the environment: JSON) whose entries "
        "override the settings above.",
        shown="one, of the settings above",
    )
    check_service_url: Url | None = _setting(
        None, "Health of the workload on this node: an http, https or tcp URL.", shown="no check"
    )
    check_service_interval: CheckInterval = _setting(2.0, "Seconds between probes; at least 0.1.")
    check_service_timeout: CheckTimeout | None = _setting(
        None, "Seconds for one probe, at least 0.01; less than the interval.", shown=_TIMEOUT
    )
    check_service_fail_after: Count = _setting(2, "Failed probes in a row until it failed.")
    check_service_recover_after: Count = _setting(2, "Good probes in a row until it recovered.")
    check_service_weight: Weight = _setting(
        0, "Added to the priority while it fails; 0: must not hold the VIP."
    )
    check_service_expected_status: StatusRanges = _setting(
        ((200, 299),), "HTTP statuses that pass: codes and ranges, comma-separated."
    )
    check_service_insecure: bool = _setting(
        False, "Do not verify the certificate. On a loopback address it is not verified anyway."
    )
    check_service_ca_file: Path | None = _setting(
        None,
        "CA certificates (PEM) to verify the certificate with, on a loopback address too.",
        shown="the system's",
    )
    check_service_fast_fail: bool = _setting(
        True, "Confirm at once, not after the interval, that nothing listens any more."
    )
    check_kubelet: bool = _setting(False, "Probe the kubelet of this node.")
    check_kubelet_url: Url = _setting(
        "http://127.0.0.1:10248/healthz", "Health of the kubelet: an http, https or tcp URL."
    )
    check_kubelet_interval: CheckInterval = _setting(5.0, "Seconds between probes; at least 0.1.")
    check_kubelet_timeout: CheckTimeout | None = _setting(
        None, "Seconds for one probe, at least 0.01; less than the interval.", shown=_TIMEOUT
    )
    check_kubelet_fail_after: Count = _setting(5, "Failed probes in a row until it failed.")
    check_kubelet_recover_after: Count = _setting(2, "Good probes in a row until it recovered.")
    check_kubelet_weight: Weight = _setting(
        0, "Added to the priority while it fails; 0: must not hold the VIP."
    )
    check_kubelet_insecure: bool = _setting(
        False, "Do not verify the certificate. On a loopback address it is not verified anyway."
    )
    check_kubelet_ca_file: Path | None = _setting(
        None,
        "CA certificates (PEM) to verify the certificate with, on a loopback address too.",
        shown="the system's",
    )
    check_kube_api: bool = _setting(False, "Probe the Kubernetes API server.")
    check_kube_api_url: ApiUrl = _setting(
        values.AUTO,
        "API server; without a path, `/readyz` is asked. `auto`: the first of `kubeApiServer`, "
        "with its CA and credential; else `https://127.0.0.1:6443`.",
    )
    check_kube_api_interval: CheckInterval = _setting(5.0, "Seconds between probes; at least 0.1.")
    check_kube_api_timeout: CheckTimeout | None = _setting(
        None, "Seconds for one probe, at least 0.01; less than the interval.", shown=_TIMEOUT
    )
    check_kube_api_fail_after: Count = _setting(5, "Failed probes in a row until it failed.")
    check_kube_api_recover_after: Count = _setting(2, "Good probes in a row until it recovered.")
    check_kube_api_weight: Weight = _setting(
        -40,
        "Added to the priority while it fails; 0: must not hold the VIP. Unless 0, the holder "
        "counts a failure an interval, a timeout and a second later than the others, and they its "
        "end: an outage that all see moves nothing.",
    )
    check_kube_api_stability: SecondsOrZero = _setting(
        5.0, "Seconds that it must go on passing before it counts as recovered."
    )
    check_kube_api_token_file: Path | None = _setting(
        None,
        "Bearer token, read again when the file changes. Sent over verified TLS only.",
        shown="with `auto`: as `kubeApiServer` has it, else none",
    )
    check_kube_api_ca_file: Path | None = _setting(
        None,
        "CA certificates (PEM) that the API server is verified with. Without them the probe is "
        "anonymous.",
        shown="with `auto`: as `kubeApiServer` has it, else none",
    )
    check_kube_api_client_cert_file: Path | None = _setting(
        None,
        "Client certificate (PEM), in place of a token.",
        shown="with `auto`: as `kubeApiServer` has it, else none",
    )
    check_kube_api_client_key_file: Path | None = _setting(
        None,
        "Key of the client certificate (PEM).",
        shown="with `auto`: as `kubeApiServer` has it, else none",
    )
    kube_api_server: ApiServers = _setting(
        (values.AUTO,),
        "API servers that havip itself uses: URLs `https://host:port`, comma-separated, tried in "
        "this order. `auto`: the kubeconfig's, else with a service account the cluster's, else "
        "`https://127.0.0.1:6443` if there is a credential for it, else none.",
    )
    kubeconfig_file: Path | None = _setting(
        None,
        "kubeconfig, of which the current context's server, CA, token and client certificate "
        "count.",
        shown="none",
    )
    kube_token: Token | None = _setting(
        None, "Bearer token for the API servers; better in a file.", shown="none"
    )
    kube_token_file: Path | None = _setting(
        None,
        "File that holds the bearer token, read again when it changes.",
        shown="the kubeconfig's, else the service account's, else none",
    )
    kube_ca_file: Path | None = _setting(
        None,
        "CA certificates (PEM) that the API servers are verified with. Nothing is sent to a "
        "server that is not verified.",
        shown="the kubeconfig's, else the service account's, else none",
    )
    kube_client_cert_file: Path | None = _setting(
        None,
        "Client certificate (PEM), in place of a token.",
        shown="the kubeconfig's, else none",
    )
    kube_client_key_file: Path | None = _setting(
        None, "Key of the client certificate (PEM).", shown="the kubeconfig's, else none"
    )
    kube_namespace: Namespace | None = _setting(
        None,
        "Namespace of what havip keeps in the cluster.",
        shown="the service account's, else `kube-system`",
    )
    kube_peers_service: Service | None = _setting(
        None,
        "With `vrrpUnicastPeers: auto`: a headless Service in `kubeNamespace`, with "
        "`publishNotReadyAddresses`; the nodes of its pods are the peers.",
        shown="none",
    )
    kube_peers_selector: Selector | None = _setting(
        None,
        "With `vrrpUnicastPeers: auto`: labels of the nodes that are the peers, such as "
        "`node-role.kubernetes.io/control-plane`.",
        shown="none",
    )
    kube_holder_lease: bool = _setting(
        False,
        "Show who holds in a Lease: `leaseName` in `leaseNamespace`. With `election: lease` the "
        "Lease that elects shows it anyway.",
    )
    kube_events: bool = _setting(
        False,
        "Tell of each change of state, with its reason, by an Event of the Node, in the namespace "
        "`default`.",
    )
    kube_holder_label: bool = _setting(
        False, "Label the Node while it holds: `havip.io/holder-` and `virtualRouterId`."
    )
    kube_node_watch: bool = _setting(
        False,
        "Lower the priority by `kubeNodeWeight` while Kubernetes has this node leave: cordoned, "
        "shutting down, tainted for deletion, or annotated `havip.io/step-down=true`.",
    )
    kube_node_weight: Annotated[Integer, Field(ge=-253, le=0)] = _setting(
        -30,
        "Added to the priority while Kubernetes has this node leave; more than the priorities of "
        "the nodes differ by.",
    )
    state_directory: Path = _setting(
        "/var/lib/havip",
        "Directory for what is to outlast a restart: the discovered peers, so that they are known "
        "while the API is down.",
    )
    all_unhealthy: AllUnhealthy = _setting(
        AllUnhealthy.DROP,
        "When no node is healthy: `drop`, nobody holds the VIP; `hold`, the best of them keeps it.",
    )
    election: Annotated[Election, BeforeValidator(_election)] = _setting(
        Election.VRRP,
        "How the holder is elected: `vrrp`, or `lease`, by a Lease of the Kubernetes API. The same "
        "on all nodes of one VIP.",
    )
    lease_namespace: Namespace | None = _setting(
        None, "Namespace of the Lease.", shown="as `kubeNamespace`"
    )
    lease_duration: Annotated[Integer, Field(ge=1, le=3600)] = _setting(
        15,
        "Seconds that the others leave the Lease of a silent holder alone; whole seconds.",
    )
    lease_renew_deadline: Seconds = _setting(
        10.0,
        "Seconds after which a holder that cannot renew its Lease gives the VIP up; less than "
        "`leaseDuration`.",
    )
    lease_retry_period: Annotated[Seconds, Field(ge=0.2)] = _setting(
        2.0,
        "Seconds between renewals, and between looks of the others; 1.2 times as much is less than "
        "`leaseRenewDeadline`, and 4 seconds more are no more than `leaseDuration`.",
    )
    load_balancer: bool = _setting(
        False,
        "Look after a HAProxy on this node that spreads connections over the API servers, and hold "
        "the VIP only while it answers and has a healthy backend; see `docs/load-balancer.md`.",
    )
    load_balancer_port: Port = _setting(
        8443, "Port of the balancer. Next to an API server on 6443, another one than that."
    )
    load_balancer_redirect_port: Port | None = _setting(
        None,
        "Another port of the VIPs that leads to the balancer, such as 6443 where an API server has "
        "it on all addresses; for clients of the network and on the nodes. Linux 5.12 or later.",
        shown="none",
    )
    load_balancer_bind: Literal["all", "vip"] = _setting(
        "all",
        "Where the balancer listens: on `all` addresses of the VIPs' families, or on each `vip` "
        "alone, where the port is an API server's that listens on the node's address.",
    )
    load_balancer_backends: Backends = _setting(
        "auto",
        "API servers: `NAME ADDRESS:PORT`, comma-separated; or `auto`, as the EndpointSlice "
        "`kubernetes` in the namespace `default` lists them.",
    )
    load_balancer_balance: Balance = _setting(
        Balance.LEASTCONN,
        "Which backend gets the next connection: `leastconn`, the one with the fewest, or "
        "`roundrobin`, each in its turn.",
    )
    load_balancer_check_interval: CheckInterval = _setting(
        2.0, "Seconds between HAProxy's checks of a backend (`GET /readyz`); at least 0.1."
    )
    load_balancer_check_timeout: CheckTimeout | None = _setting(
        None, "Seconds for one check, at least 0.01; less than the interval.", shown=_TIMEOUT
    )
    load_balancer_check_fail_after: Count = _setting(
        2, "Failed checks in a row until a backend gets no more connections."
    )
    load_balancer_check_recover_after: Count = _setting(
        2, "Good checks in a row until it gets connections again."
    )
    load_balancer_check_expected_status: StatusRanges = _setting(
        ((200, 200),),
        "HTTP statuses that pass: codes and ranges, comma-separated. `200,401` where the API "
        "servers answer nobody without a credential (k3s, RKE2).",
    )
    load_balancer_check_host: HostName = _setting(
        "kubernetes",
        "Host that the checks ask for, and the DNS name that certificates are verified for.",
    )
    load_balancer_ca_file: Path | None = _setting(
        None,
        "CA certificates (PEM) that HAProxy's checks verify the API servers with. Clients verify "
        "them anyway, since their TLS passes through.",
        shown="none: the checks verify nothing",
    )
    load_balancer_slow_start: SecondsOrZero = _setting(
        10.0, "Seconds within which a backend that has recovered gets its full share."
    )
    load_balancer_connect_timeout: Seconds = _setting(
        3.0, "Seconds until a connection that a backend does not answer goes to another one."
    )
    load_balancer_idle_timeout: IdleTimeout = _setting(
        86_400.0,
        "Seconds that a connection may be silent, 60–604800. Watches and `kubectl exec` are silent "
        "for hours; ends that are gone are found by TCP keep-alive within 30 seconds.",
    )
    load_balancer_max_connections: Annotated[Integer, Field(ge=100, le=500_000)] = _setting(
        8000,
        "Connections of clients at once; further ones wait. HAProxy needs twice as many file "
        "descriptors.",
    )
    load_balancer_proxy_protocol: bool = _setting(
        False,
        "Tell backends the client's address by the PROXY protocol (version 2), which API servers "
        "do not understand.",
    )
    load_balancer_directory: Directory = _setting(
        "/run/havip-haproxy",
        "Directory shared with HAProxy: `haproxy.cfg`, which havip writes, and `haproxy.sock`.",
    )
    node_name: Text | None = _setting(
        None,
        "Name of this node in logs, metrics and status, and in `nodeOverrides`.",
        shown="the host name",
    )
    node_overrides: NodeOverrides = _setting(
        {},
        "Settings of single nodes: a mapping of node names to mappings, which override the rest of "
        "the file on that node.",
        shown="none",
    )
    listen: Listen = _setting(
        Endpoint("127.0.0.1", 9650),
        "Address and port of `/healthz`, `/readyz`, `/metrics` and `/status`.",
    )
    metrics_listen: Listen | None = _setting(
        None,
        "Another address and port that serve `/metrics` and nothing else, such as the node's, "
        "for a scraper that is elsewhere.",
        shown="none: on `listen` only",
    )
    log_format: Literal["auto", "text", "json"] = _setting(
        "auto", "`text`, `json`, or `auto`: text on a terminal, else JSON."
    )
    debug: bool = _setting(
        False, "Log each event and each action too, such as every probe; packets are not logged."
    )


class Settings(AllSettings, BaseSettings):
    """Every setting of one process, from ranked sources."""

    # The defaults are this module's own, values already.
    model_config = SettingsConfigDict(validate_default=False)
