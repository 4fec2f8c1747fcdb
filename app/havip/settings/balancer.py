"""HAProxy beside havip as configured, and whether it can be on this host.

A port that something else has is found in three places: where a backend of the configuration is at
the balancer's own place, here, or in `rules` for a place that every node has; in `havip
load-balancer`, which tries the port before HAProxy starts; and while the daemon runs, where the API
lists such a backend (`core.balancer`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import PurePath
from urllib.parse import urlsplit

from havip.core.balancer import CHOICES
from havip.core.config import Backend, BalancerConfig, KubeAccess, endpoint, is_loopback
from havip.core.host import Host
from havip.settings.checks import timeout_s
from havip.settings.errors import ConfigError, Problem
from havip.settings.kube import LOCAL_API, address_of
from havip.settings.load import Loaded
from havip.settings.model import Settings
from havip.settings.pem import require_certificate
from havip.settings.rules import is_the_balancer
from havip.settings.sources import name_of
from havip.settings.values import AUTO, Address

_EVERY: dict[int, Address] = {4: IPv4Address(0), 6: IPv6Address(0)}


def balancer_of(loaded: Loaded, host: Host) -> BalancerConfig | None:
    """The balancer, or None if it is not asked for.

    Raises:
        ConfigError: a file that is named holds no certificate, or a backend is the balancer.
    """
    own = {each.interface.ip for one in host.interfaces for each in one.addresses}
    balancer = balancer_on(loaded, own)
    if balancer and balancer.ca_file:
        require_certificate("loadBalancerCaFile", balancer.ca_file)
    return balancer


def balancer_on(loaded: Loaded, own: Collection[Address]) -> BalancerConfig | None:
    """The balancer on a node with these addresses, whose files are not looked at.

    Raises:
        ConfigError: a backend is the balancer.
    """
    settings = loaded.settings
    if not settings.load_balancer:
        return None
    vips = [vip.ip for each in loaded.routers.values() for vip in each.vip_address_cidr or ()]
    binds_all = settings.load_balancer_bind == "all"
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
            raise ConfigError.of([is_the_balancer(settings, backend, CHOICES)])
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
            f"where nobody answers before HAProxy has a backend (loadBalancerPort {balancer.port}, "
            f"loadBalancerBind {'all' if balancer.binds_all else 'vip'})",
            remedy="list them, like cp-1 192.0.2.11:6443; or name the nodes' own addresses by "
            "kubeApiServer, like https://192.0.2.11:6443",
        )


def refused_redirect(port: int, table: str, number: int) -> Problem:
    """The kernel does not lead that port of the VIPs to the balancer; an errno says why."""
    problem = f"the kernel refuses the nftables table for it: {os.strerror(number)}"
    remedy = (
        "it takes Linux 5.12 or later with nftables and its NAT (CONFIG_NF_TABLES_INET, "
        "CONFIG_NFT_NAT); or leave it out, and have clients use loadBalancerPort"
    )
    if number == errno.EEXIST:
        problem = f"somebody else has made an nftables table {table}"
        remedy = f"run: nft delete table inet {table}"
    return Problem(field="loadBalancerRedirectPort", value=port, problem=problem, remedy=remedy)


def _waits_for(balancer: BalancerConfig, server: str) -> bool:
    """Whether the server is the balancer, or an API server that leaves this port of the VIP to it.

    Such a one listens on its node's address alone, and so not on the loopback.
    """
    port, address = urlsplit(server).port, address_of(server)
    if port == balancer.port and is_loopback(server):
        return True
    return address is not None and balancer.is_itself(Backend.at(address, port or 0))


def with_balancer(servers: Sequence[str], balancer: BalancerConfig | None) -> tuple[str, ...]:
    """The API servers that nobody chose, with the balancer and this node's own one.

    The address of the cluster may be the VIP: then this node's own API server is the only one
    that can name the first backends. And once there are others, the balancer reaches them.
    """
    if balancer is None:
        return tuple(servers)
    return tuple(dict.fromkeys([*servers, *_doors(balancer), LOCAL_API]))


def _doors(balancer: BalancerConfig) -> Iterator[str]:
    """Where this node reaches the balancer: its own by the loopback, or the holder's at the VIP."""
    addresses = balancer.binds
    if balancer.binds_all:
        is_ipv4 = _EVERY[4] in addresses
        addresses = (ip_address("127.0.0.1" if is_ipv4 else "::1"),)
    for address in addresses:
        yield f"https://{endpoint(address, balancer.port)}"


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
