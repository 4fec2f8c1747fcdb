"""What single values cannot show: settings that do not go together."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_address
from itertools import combinations
from urllib.parse import urlsplit

from havip.core import timers
from havip.core.config import AllUnhealthy, Backend, is_loopback
from havip.core.lease import JITTER
from havip.settings.errors import ConfigWarning, Problem
from havip.settings.model import Election, RouterSettings, Settings
from havip.settings.sources import as_text

_ADDRESS_S = timers.OUTLIVES_S + timers.RENEW_S
"""What an address may outlive its daemon by, and the time to its renewal."""
_API_PORT = 6443
LOWEST_PRIORITY_UNDER_HOLD = 16
"""Below it lie the effective priorities by which unhealthy nodes elect the best of them."""


def of_router(router: RouterSettings, given: Collection[str]) -> Iterator[Problem]:
    """Problems within one virtual router; `given` names the settings that a user wrote."""
    vips = router.vip_address_cidr or ()
    if not vips:
        yield Problem(
            field="vipAddressCidr",
            value=None,
            problem="no VIP is given",
            remedy="set it to an address with prefix length, such as 192.0.2.10/24 (flag "
            "--vip-address-cidr, environment HAVIP_VIP_ADDRESS_CIDR)",
        )
    if router.vrrp_version == 2 and (ipv6 := [vip for vip in vips if vip.version == 6]):
        yield Problem(
            field="vipAddressCidr",
            value=str(ipv6[0]),
            problem="VRRPv2 knows IPv4 only (RFC 3768)",
            remedy="set vrrpVersion: 3",
        )
    yield from _advert_interval(router)
    yield from _authentication(router, given)
    yield from _peers(router)


def _advert_interval(router: RouterSettings) -> Iterator[Problem]:
    interval_s = router.advert_interval_s
    problem = remedy = ""
    if router.vrrp_version == 2:
        if interval_s != int(interval_s):
            problem = "VRRPv2 carries whole seconds (RFC 3768 §5.3.7)"
            remedy = f"set {max(1, round(interval_s))}, or vrrpVersion: 3"
    elif not 0.01 <= interval_s <= 40.95:
        problem = "VRRPv3 carries 0.01 to 40.95 seconds (RFC 9568 §5.2.7)"
        remedy = "set 0.01" if interval_s < 0.01 else "set 40.95 or less"
    elif abs(interval_s * 100 - round(interval_s * 100)) > 1e-6:
        problem = "VRRPv3 carries whole hundredths of a second (RFC 9568 §5.2.7)"
        remedy = f"set {round(interval_s, 2):g}"
    if problem:
        yield Problem(
            field="vrrpAdvertInterval", value=as_text(interval_s), problem=problem, remedy=remedy
        )


def _authentication(router: RouterSettings, given: Collection[str]) -> Iterator[Problem]:
    if router.vrrp_version == 3 and router.auth_password is not None:
        yield Problem(
            field="authPasswordFile" if router.auth_password_file else "authPassword",
            value="***",
            problem="VRRPv3 has no passwords (RFC 9568 §9)",
            remedy="use authHmacKeysFile, or set vrrpVersion: 2",
        )
    keys = router.auth_hmac_keys
    active = router.auth_hmac_active_key
    if keys is None:
        for name in (
            "authHmacMode",
            "authHmacActiveKey",
            "authHmacReplay",
            "authHmacTimeWindow",
        ):
            if name in given:
                yield Problem(
                    field=name,
                    value=None,
                    problem="there are no HMAC keys for it",
                    remedy="set authHmacKeysFile, or leave it out",
                )
    elif active is None and len(keys) > 1:
        # No rule could choose: nodes restart one by one while keys are exchanged, and one that
        # signs with a key that the others do not have yet would become a second holder.
        yield Problem(
            field="authHmacActiveKey",
            value=None,
            problem=f"there are several HMAC keys ({_ids(keys)}), and none is said to sign",
            remedy="name the one that signs now, here or by a line `active: <id>` in their file",
        )
    elif active is not None and active not in keys:
        yield Problem(
            field="authHmacActiveKey",
            value=active,
            problem=f"there is no HMAC key of that id, only {_ids(keys)}",
            remedy="name one of them, or add the key",
        )


def of_key_file(router: RouterSettings, active: int, prefix: str) -> Iterator[Problem]:
    """Problems of a router with a key file that says which key is `active`."""
    if router.auth_hmac_active_key is not None:
        yield Problem(
            field=f"{prefix}authHmacActiveKey",
            value=router.auth_hmac_active_key,
            problem=f"is given beside `active: {active}` in {router.auth_hmac_keys_file}",
            remedy="leave one of them out",
        )


def _peers(router: RouterSettings) -> Iterator[Problem]:
    vips = router.vip_address_cidr or ()
    peers = router.listed_peers
    for peer in peers:
        if any(peer == vip.ip for vip in vips):
            yield Problem(
                field="vrrpUnicastPeers",
                value=str(peer),
                problem="is a VIP",
                remedy="list the other nodes' own addresses",
            )
    if not peers or not vips:
        return
    for family in (4, 6):
        has_vip = any(vip.version == family for vip in vips)
        has_peer = any(peer.version == family for peer in peers)
        if has_vip != has_peer:
            missing = "peer" if has_vip else "VIP"
            there = "VIP" if has_vip else "peer"
            yield Problem(
                field="vrrpUnicastPeers",
                value=as_text(peers),
                problem=f"there is an IPv{family} {there} and no IPv{family} {missing}",
                remedy=(
                    f"add the peers' IPv{family} addresses"
                    if has_vip
                    else f"leave the IPv{family} addresses out"
                ),
            )
            return


def of_process(settings: Settings) -> Iterator[Problem]:
    """Problems among the settings that hold for the whole process."""
    for check, interval_s, timeout_s in (
        ("checkService", settings.check_service_interval, settings.check_service_timeout),
        ("checkKubelet", settings.check_kubelet_interval, settings.check_kubelet_timeout),
        ("checkKubeApi", settings.check_kube_api_interval, settings.check_kube_api_timeout),
        (
            "loadBalancerCheck",
            settings.load_balancer_check_interval,
            settings.load_balancer_check_timeout,
        ),
    ):
        if timeout_s is not None and timeout_s >= interval_s:
            yield Problem(
                field=f"{check}Timeout",
                value=as_text(timeout_s),
                problem=f"is not less than {check}Interval ({interval_s:g}), so that probes would "
                "overlap",
                remedy=f"set less than {interval_s:g}, or leave it out",
            )
    for check, is_insecure, ca_file in (
        ("checkService", settings.check_service_insecure, settings.check_service_ca_file),
        ("checkKubelet", settings.check_kubelet_insecure, settings.check_kubelet_ca_file),
    ):
        if is_insecure and ca_file:
            yield Problem(
                field=f"{check}Insecure",
                value=True,
                problem=f"contradicts {check}CaFile",
                remedy="leave one of them out",
            )
    for start, certificate, key in (
        (
            "checkKubeApi",
            settings.check_kube_api_client_cert_file,
            settings.check_kube_api_client_key_file,
        ),
        ("kube", settings.kube_client_cert_file, settings.kube_client_key_file),
    ):
        if bool(certificate) != bool(key):
            given, missing = f"{start}ClientCertFile", f"{start}ClientKeyFile"
            if key:
                given, missing = missing, given
            yield Problem(
                field=given,
                value=certificate or key,
                problem="is of no use alone",
                remedy=f"set {missing} too",
            )
    yield from _lease(settings)
    yield from _load_balancer(settings)
    if settings.metrics_listen and settings.metrics_listen.overlaps(settings.listen):
        yield Problem(
            field="metricsListen",
            value=str(settings.metrics_listen),
            problem=f"takes the port of listen ({settings.listen}), which serves /metrics already",
            remedy="choose another port, or leave it out",
        )


def _load_balancer(settings: Settings) -> Iterator[Problem]:
    redirect = settings.load_balancer_redirect_port
    if redirect is not None and not settings.load_balancer:
        yield Problem(
            field="loadBalancerRedirectPort",
            value=redirect,
            problem="leads to the load balancer, and there is none",
            remedy="set loadBalancer: true, or leave it out",
        )
    if not settings.load_balancer:
        return
    if redirect == settings.load_balancer_port:
        yield Problem(
            field="loadBalancerRedirectPort",
            value=redirect,
            problem="is the balancer's own port (loadBalancerPort)",
            remedy="leave it out",
        )
    if settings.load_balancer_ca_file and _is_address(settings.load_balancer_check_host):
        yield Problem(
            field="loadBalancerCheckHost",
            value=settings.load_balancer_check_host,
            problem="is an address, and HAProxy verifies certificates for DNS names alone "
            "(loadBalancerCaFile)",
            remedy="write a name that they have, such as kubernetes",
        )
    for name, listen in (("listen", settings.listen), ("metricsListen", settings.metrics_listen)):
        if listen is not None and listen.port == settings.load_balancer_port:
            yield Problem(
                field="loadBalancerPort",
                value=settings.load_balancer_port,
                problem=f"is the port of {name} ({listen})",
                remedy="choose another one, such as 8443",
            )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def advice(settings: Settings) -> Iterator[ConfigWarning]:
    """What goes together, and may not be what was meant."""
    if not settings.load_balancer or settings.load_balancer_port == _API_PORT:
        return
    for check, url, weight in (
        ("checkService", settings.check_service_url or "", settings.check_service_weight),
        (
            "checkKubeApi",
            settings.check_kube_api_url if settings.check_kube_api else "",
            settings.check_kube_api_weight,
        ),
    ):
        is_api_server = url.startswith("https://") and urlsplit(url).port == _API_PORT
        if is_api_server and is_loopback(url) and weight == 0:
            yield ConfigWarning(
                field=f"{check}Url",
                problem=f"{url} is this node's own API server, whose end then moves the VIP "
                "although the load balancer reaches the others",
                remedy=f"leave it out, or set a {check}Weight below 0",
            )


def lease_name(router: RouterSettings) -> str:
    """The Lease's name; virtual routers move apart from one another, so each has its own."""
    return router.lease_name or f"havip-{router.virtual_router_id}"


def _lease(settings: Settings) -> Iterator[Problem]:
    """Times that contradict one another: client-go refuses the first two as well."""
    lasts_s, deadline_s = settings.lease_duration, settings.lease_renew_deadline
    retry_s = settings.lease_retry_period
    if deadline_s >= lasts_s:
        yield Problem(
            field="leaseRenewDeadline",
            value=as_text(deadline_s),
            problem=f"is not less than leaseDuration ({lasts_s}), so that another node could hold "
            "the VIP before this one gave it up",
            remedy=f"set less than {lasts_s}, such as {2 * lasts_s / 3:.3g}",
        )
    if (1 + JITTER) * retry_s >= deadline_s:
        yield Problem(
            field="leaseRetryPeriod",
            value=as_text(retry_s),
            problem=f"with the jitter of {1 + JITTER} it is not less than leaseRenewDeadline "
            f"({deadline_s:g}), so that one failed renewal would end the hold",
            remedy=f"set less than {deadline_s / (1 + JITTER):.3g}",
        )
    if retry_s + _ADDRESS_S > lasts_s:
        yield Problem(
            field="leaseDuration",
            value=lasts_s,
            problem=f"is less than leaseRetryPeriod ({retry_s:g}) and {_ADDRESS_S:g} seconds, for "
            "so long may an address outlive its daemon",
            remedy="set more; 5 with leaseRenewDeadline 3 and leaseRetryPeriod 1 is the fastest "
            "in common use",
        )
    if settings.election is Election.LEASE and settings.all_unhealthy is AllUnhealthy.HOLD:
        yield Problem(
            field="allUnhealthy",
            value="hold",
            problem="a Lease does not say who is the best of the unhealthy: whoever held it would "
            "keep it although a healthy node is there",
            remedy="set drop (a k8s: block implies hold), or election: vrrp",
        )


def of_all(settings: Settings, routers: dict[str, RouterSettings]) -> Iterator[Problem]:
    """Problems of the routers with one another and with the process, routers by their prefix."""
    yield from _discovery(settings, routers)
    yield from _backends(settings, routers)
    for prefix, router in routers.items():
        if (
            settings.all_unhealthy is AllUnhealthy.HOLD
            and router.vrrp_priority < LOWEST_PRIORITY_UNDER_HOLD
        ):
            yield Problem(
                field=f"{prefix}vrrpPriority",
                value=router.vrrp_priority,
                problem="with allUnhealthy: hold, priorities below 16 are those of unhealthy nodes",
                remedy="set 16 or more, or allUnhealthy: drop",
            )
    for (_, one), (prefix, other) in combinations(routers.items(), 2):
        elects = settings.election is Election.LEASE
        uses_leases = elects or settings.kube_holder_lease
        if uses_leases and lease_name(one) == lease_name(other):
            yield Problem(
                field=f"{prefix}leaseName",
                value=lease_name(other),
                problem=f"{'elects' if elects else 'shows'} the holder of another virtual router",
                remedy="give each its own leaseName, or its own virtualRouterId",
            )
        taken = {vip.ip for vip in one.vip_address_cidr or ()}
        for vip in other.vip_address_cidr or ():
            if vip.ip in taken:
                yield Problem(
                    field=f"{prefix}vipAddressCidr",
                    value=str(vip),
                    problem="is given in two virtual routers",
                    remedy="name each VIP once",
                )


def _backends(settings: Settings, routers: dict[str, RouterSettings]) -> Iterator[Problem]:
    """The VIP comes once a backend is healthy, so none of them may wait for the VIP."""
    listed = settings.load_balancer_backends
    if not settings.load_balancer or isinstance(listed, str):
        return
    vips = {vip.ip for router in routers.values() for vip in router.vip_address_cidr or ()}
    # What of the balancer's own addresses every node has; the host's others, the host knows.
    loops = {vip.version for vip in vips if settings.load_balancer_bind == "all"}
    for backend in listed:
        if backend.address in vips:
            yield Problem(
                field="loadBalancerBackends",
                value=str(backend),
                problem="is at a VIP, which nobody has before a backend is healthy",
                remedy="list the API servers' own addresses",
            )
        elif (
            backend.port == settings.load_balancer_port
            and backend.address.is_loopback
            and backend.address.version in loops
        ):
            yield is_the_balancer(settings, backend, "list the API servers' own addresses and port")


def is_the_balancer(settings: Settings, backend: Backend, remedy: str) -> Problem:
    """Connections to it would be the balancer's own again."""
    return Problem(
        field="loadBalancerBackends",
        value=str(backend),
        problem="is where the balancer itself listens (loadBalancerPort "
        f"{settings.load_balancer_port}, loadBalancerBind {settings.load_balancer_bind})",
        remedy=remedy,
    )


def _discovery(settings: Settings, routers: dict[str, RouterSettings]) -> Iterator[Problem]:
    """Of peers that are to be discovered, one list must say who they are."""
    service, selector = settings.kube_peers_service, settings.kube_peers_selector
    if service and selector:
        yield Problem(
            field="kubePeersSelector",
            value=selector,
            problem=f"is given beside kubePeersService ({service})",
            remedy="leave one of them out",
        )
    prefix = next((prefix for prefix, each in routers.items() if each.discovers_peers), None)
    if prefix is not None and not (service or selector):
        yield Problem(
            field=f"{prefix}vrrpUnicastPeers",
            value="auto",
            problem="nothing says which list names the peers",
            remedy="set kubePeersSelector, such as node-role.kubernetes.io/control-plane, or "
            "kubePeersService",
        )


def _ids(keys: Collection[int]) -> str:
    return ", ".join(map(str, sorted(keys)))
