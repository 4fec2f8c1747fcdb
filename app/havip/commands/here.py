"""What `havip run` needs of this place beside its configuration: capabilities and a free port."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from havip.core.balancer import CHOICES
from havip.core.config import BalancerConfig, endpoint
from havip.core.haproxy import files_of, fingerprint, read_answer
from havip.files import open_regular
from havip.haproxy import RuntimeApi, RuntimeApiError
from havip.sense.capabilities import may_raise_limits, missing_capabilities
from havip.settings.errors import Problem
from havip.settings.values import Endpoint

_TIMEOUT_S = 3.0
_MAX_BYTES = 1 << 20
_OWN_FILES = 20
"""Of HAProxy, at least."""
_FEWEST_CONNECTIONS = 100
"""As the setting has it."""
_IP_FREEBIND = 15
"""linux/in.h; it holds for IPv6 too."""


def lacking_capabilities() -> Iterator[Problem]:
    """At most one problem that names them all."""
    if missing := missing_capabilities():
        yield Problem(
            field="capabilities",
            value=", ".join(missing),
            problem="missing: raw sockets and addresses need them",
            remedy="run as root, or add them (pod: securityContext.capabilities.add, "
            "systemd: AmbientCapabilities=)",
        )


def unusable_port(field: str, listen: Endpoint) -> Iterator[Problem]:
    """At most one: that a daemon cannot listen there, unless one that runs does already."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(listen)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _is_havip(listen):
                return
            yield refused_port(field, str(listen), error.strerror or str(error))


def taken_by_another(balancer: BalancerConfig) -> Iterator[Problem]:
    """At most one: that HAProxy cannot listen there, unless it does already."""
    for address in balancer.binds:
        error = _refusal(address, balancer.port)
        # Ports below 1024 are HAProxy's to bind, which may; havip before it may not, in a pod, and
        # so cannot tell whose they are.
        if error is None or error.errno in {errno.EACCES, errno.EPERM}:
            continue
        is_in_use = error.errno == errno.EADDRINUSE
        if is_in_use and _is_its_haproxys(balancer, address):
            continue
        yield Problem(
            field="loadBalancerPort",
            value=endpoint(address, balancer.port),
            problem="something else on this node has that port, such as an API server"
            if is_in_use
            else error.strerror or str(error),
            remedy=CHOICES,
        )
        return


def too_few_files(balancer: BalancerConfig) -> Iterator[Problem]:
    """At most one: that HAProxy, if it is started as this was, may not open the files it needs.

    `haproxy -c` takes such a configuration; HAProxy then ends as soon as it is started.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = balancer.max_connections
    # Where it depends on threads and backends HAProxy is left to judge.
    is_enough = limit == resource.RLIM_INFINITY or limit >= 2 * connections + _OWN_FILES
    if is_enough or may_raise_limits():
        return
    more = f"allow {files_of(connections)} (LimitNOFILE= of the container runtime or of the unit)"
    fewer = (limit - files_of(0)) // 2
    yield Problem(
        field="loadBalancerMaxConnections",
        value=connections,
        problem=f"HAProxy opens two files for each connection, and may open {limit} here",
        remedy=f"set {fewer} or fewer, or {more}" if fewer >= _FEWEST_CONNECTIONS else more,
    )


def _refusal(address: IPv4Address | IPv6Address, port: int) -> OSError | None:
    """What the kernel says if one wants to listen there, as HAProxy would; None if it is free."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The VIP is not here before it is held.
        probe.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        if address.version == 6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((str(address), port))
        except OSError as error:
            return error
    return None


def _is_its_haproxys(balancer: BalancerConfig, address: IPv4Address | IPv6Address) -> bool:
    """Whether the HAProxy of this directory listens there, perhaps by an earlier configuration.

    It does not tell its ports; but it says which configuration it was started with, and the file
    says where that one listens.
    """
    try:
        description = asyncio.run(_description(balancer))
        if description == f"havip {fingerprint(balancer)}":
            return True
        with open_regular(balancer.configuration_file) as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, RuntimeApiError, ValueError):
        return False
    lines = [line.split() for line in text.splitlines()]
    if not description or ["description", *f'"{description}"'.split()] not in lines:
        return False
    binds = {line[1] for line in lines if line[:1] == ["bind"] and len(line) > 1}
    every = ip_address("0.0.0.0" if address.version == 4 else "::")  # noqa: S104
    if not binds.isdisjoint(endpoint(each, balancer.port) for each in (address, every)):
        return True
    if not address.is_unspecified:
        return False
    # It listens at the VIPs alone, which are some of the addresses that are asked for: nobody else
    # is in the way if the others are free.
    loopback = ip_address("127.0.0.1" if address.version == 4 else "::1")
    here = {each for each in (loopback, *balancer.own) if each.version == address.version}
    its = {each for each in here if endpoint(each, balancer.port) in binds}
    refusals = (_refusal(each, balancer.port) for each in here - its)
    return bool(its) and not any(each and each.errno == errno.EADDRINUSE for each in refusals)


async def _description(balancer: BalancerConfig) -> str:
    api = RuntimeApi(balancer.socket_file)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            (info,) = await api.ask("show info")
    finally:
        api.close()
    return read_answer(info, "").description


def refused_port(field: str, listen: str, problem: str) -> Problem:
    """The daemon cannot listen there."""
    return Problem(
        field=field,
        value=listen,
        problem=problem,
        remedy="choose a free port of an address of this node",
    )


def _is_havip(listen: Endpoint) -> bool:
    """Whether a daemon answers there, by what it serves on each of its ports."""
    import httpx  # only where a port is in use

    host = ip_address(listen.host)
    if host.is_unspecified:
        host = ip_address("127.0.0.1" if host.version == 4 else "::1")
    body = b""
    try:
        with (
            httpx.Client(trust_env=False, timeout=_TIMEOUT_S) as client,
            client.stream("GET", f"http://{Endpoint(str(host), listen.port)}/metrics") as response,
        ):
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    break
    except httpx.HTTPError:
        return False
    return b"\nhavip_" in body
