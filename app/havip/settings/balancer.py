"""HAProxy beside havip as configured, and whether it can be on this host.

A port that something else has is found in three places: here, where a backend of the configuration
is at the balancer's own place; in `havip load-balancer`, which tries the port before HAProxy
starts; and while the daemon runs, where the API lists such a backend (`core.balancer`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from urllib.parse import urlsplit

from havip.core.balancer import CHOICES
from havip.core.config import BalancerConfig, KubeAccess, is_loopback
from havip.core.host import Host
from havip.settings.checks import timeout_s
from havip.settings.errors import ConfigError, Problem
from havip.settings.kube import LOCAL_API
from havip.settings.load import Loaded
from havip.settings.model import Settings
from havip.settings.pem import require_certificate
from havip.settings.sources import name_of
from havip.settings.values import AUTO, Address

_EVERY: dict[int, Address] = {4: IPv4Address(0), 6: IPv6Address(0)}


def balancer_of(loaded: Loaded, host: Host) -> BalancerConfig | None:
    """The balancer, or None if it is not asked for.

    Raises:
        ConfigError: a file that is named holds no certificate, or a backend is the balancer.
    """
    settings = loaded.settings
    if not settings.load_balancer:
        return None
    if settings.load_balancer_ca_file:
        require_certificate("loadBalancerCaFile", settings.load_balancer_ca_file)
    vips = [vip.ip for each in loaded.routers.values() for vip in each.vip_address_cidr or ()]
    binds_all = settings.load_balancer_bind == "all"
    own = {each.interface.ip for one in host.interfaces for each in one.addresses}
    listed = settings.load_balancer_backends
    interval_s = settings.load_balancer_check_interval
    balancer = BalancerConfig(
        port=settings.load_balancer_port,
        binds=tuple(
            [_EVERY[family] for family in sorted({vip.version for vip in vips})]
            if binds_all
            else vips
        ),
        own=frozenset([*vips, *own]) if binds_all else frozenset(vips),
        vips=frozenset(vips),
        redirect_port=settings.load_balancer_redirect_port,
        backends=None if isinstance(listed, str) else listed,
        balance=settings.load_balancer_balance,
        check_interval_s=interval_s,
        check_timeout_s=timeout_s(settings.load_balancer_check_timeout, interval_s),
        fail_after=settings.load_balancer_check_fail_after,
        recover_after=settings.load_balancer_check_recover_after,
        expected_status=settings.load_balancer_check_expected_status,
        check_host=settings.load_balancer_check_host,
        ca_file=settings.load_balancer_ca_file,
        slow_start_s=settings.load_balancer_slow_start,
        connect_timeout_s=settings.load_balancer_connect_timeout,
        idle_timeout_s=settings.load_balancer_idle_timeout,
        max_connections=settings.load_balancer_max_connections,
        proxy_protocol=settings.load_balancer_proxy_protocol,
        directory=settings.load_balancer_directory,
        kept_file=str(PurePath(settings.state_directory, "backends.json")),
    )
    for backend in balancer.backends or ():
        if balancer.is_itself(backend):
            raise ConfigError(
                field="loadBalancerBackends",
                value=f"{backend.name} {backend.endpoint}",
                problem=f"is where the balancer itself listens (loadBalancerPort {balancer.port}, "
                f"loadBalancerBind {settings.load_balancer_bind})"
                if backend.port == balancer.port
                else f"leads to the balancer itself (loadBalancerRedirectPort {backend.port})",
                remedy="list the API servers' own addresses"
                if backend.address in vips
                else CHOICES,
            )
    return balancer


def lacks_for_balancer(
    balancer: BalancerConfig | None, access: KubeAccess | None
) -> Iterator[Problem]:
    """What is missing to know the backends."""
    if balancer is None or balancer.backends is not None:
        return
    if access is None:
        yield Problem(
            field="loadBalancerBackends",
            value=AUTO,
            problem="the Kubernetes API lists the backends, and there is no access to it",
            remedy="set kubeconfigFile, or kubeApiServer with kubeCaFile and kubeTokenFile; or "
            "list them, like cp-1 192.0.2.11:6443",
        )
    elif all(_waits_for(balancer, server) for server in access.servers):
        yield Problem(
            field="loadBalancerBackends",
            value=AUTO,
            problem=f"the API that lists the backends is asked at {', '.join(access.servers)}, "
            "where nobody answers before HAProxy at the VIP has a backend (loadBalancerPort "
            f"{balancer.port}, loadBalancerBind vip)",
            remedy="list them, like cp-1 192.0.2.11:6443; or name the nodes' own addresses by "
            "kubeApiServer, like https://192.0.2.11:6443",
        )


def _waits_for(balancer: BalancerConfig, server: str) -> bool:
    """Whether the server is the balancer, or an API server that leaves this port of the VIP to it.

    Such a one listens on its node's address alone, and so not on the loopback.
    """
    url = urlsplit(server)
    if url.port != balancer.port or any(each.is_unspecified for each in balancer.binds):
        return False
    return is_loopback(server) or url.hostname in {str(each) for each in balancer.binds}


def with_balancer(
    access: KubeAccess, balancer: BalancerConfig | None, loaded: Loaded
) -> KubeAccess:
    """The access, by the balancer and by this node's own API server too, if nobody chose it.

    The address of the cluster may be the VIP: then this node's own API server is the only one
    that can name the first backends. And once there are others, the balancer reaches them.
    """
    if balancer is None or loaded.settings.kube_api_server != (AUTO,):
        return access
    more = [LOCAL_API]
    if _EVERY[4] in balancer.binds:
        more.insert(0, f"https://127.0.0.1:{balancer.port}")
    servers = [*access.servers, *(each for each in more if each not in access.servers)]
    return replace(access, servers=tuple(servers))


def started_with(old: Settings, new: Settings) -> list[str]:
    """The settings that differ, and that a running HAProxy does not take over."""
    return [
        name_of(attribute)
        for attribute in Settings.model_fields
        if attribute.startswith("load_balancer")
        and getattr(old, attribute) != getattr(new, attribute)
        and not (
            attribute == "load_balancer_backends"
            and AUTO not in (old.load_balancer_backends, new.load_balancer_backends)
        )
    ]
