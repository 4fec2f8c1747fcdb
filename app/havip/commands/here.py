"""What `havip run` needs of this place beside its configuration: capabilities and a free port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from havip.sense.capabilities import missing_capabilities
from havip.settings.errors import Problem
from havip.settings.values import Endpoint

_TIMEOUT_S = 3.0
_MAX_BYTES = 1 << 20


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
