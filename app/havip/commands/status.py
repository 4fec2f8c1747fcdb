"""`havip status`: what does the daemon on this node hold, and why?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from havip.commands.table import table

READY, UNREACHABLE, NOT_READY = 0, 1, 3
_TIMEOUT_S = 3.0
_MAX_BYTES = 4 << 20
_TRANSITIONS_SHOWN = 10
_DEFAULT_LISTEN = "127.0.0.1:9650"
_EPILOG = """\
examples:
  havip status
  havip status --url http://192.0.2.1:9650 --output json

exit status:
  0  the daemon answers and is ready
  1  it does not answer, or what answers is not havip
  2  wrong usage
  3  it answers and is not ready (the output says why)
"""


def add_parser(subparsers: Any) -> None:
    """Add `status` and its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "status",
        help="show what the daemon on this node holds, and why",
        description="Show what the daemon on this node holds, and why.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--url",
        help=f"where the daemon listens (default: by $HAVIP_LISTEN or the file, else http://{_DEFAULT_LISTEN})",
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the daemon's status; the exit status says whether it is ready."""
    url = arguments.url or default_url(os.environ)
    try:
        document = _fetch(f"{url.rstrip('/')}/status")
    except ConnectionError as error:
        print(
            f"havip status: {url}: {error}; is `havip run` there? --url names another place",
            file=sys.stderr,
        )
        return UNREACHABLE
    if arguments.output == "json":
        print(json.dumps(document, indent=2))
    else:
        print("\n\n".join(_paragraphs(document)))
    return READY if document.get("ready") is True else NOT_READY


def default_url(environ: Mapping[str, str]) -> str:
    """Where a daemon with this environment listens, seen from its own node."""
    listen = environ.get("HAVIP_LISTEN") or _listen_of_file(environ) or _DEFAULT_LISTEN
    host, _, port = listen.rpartition(":")
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "[::1]"
    return f"http://{host}:{port}"


def _listen_of_file(environ: Mapping[str, str]) -> str:
    """What the daemon's file says, if there is one that can be read."""
    from havip.settings import ConfigError
    from havip.settings.sources import DEFAULT_FILE
    from havip.settings.yaml_file import read_mapping

    path = environ.get("HAVIP_CONFIG") or DEFAULT_FILE
    if not Path(path).exists():
        return ""
    try:
        mapping, _ = read_mapping(path)
        value, _ = mapping.get("listen", ("", 0))
    except ConfigError:
        return ""
    return str(value)


def _fetch(url: str) -> dict[str, Any]:
    """The status document at a URL.

    Raises:
        ConnectionError: nobody answers, or the answer is no status.
    """
    import httpx  # only here: `--help` does without

    try:
        with (
            httpx.Client(trust_env=False, timeout=_TIMEOUT_S) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ConnectionError("the answer is too large for a status")
        document = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ConnectionError(str(error) or type(error).__name__) from None
    except ValueError:
        raise ConnectionError("the answer is not a status of havip") from None
    if not isinstance(document, dict) or "routers" not in document:
        raise ConnectionError("the answer is not a status of havip")
    return document


def _paragraphs(document: Mapping[str, Any]) -> Iterator[str]:
    ready = "ready" if document.get("ready") else f"not ready: {document.get('not_ready_because')}"
    node = document.get("node_object")
    leaving = node.get("leaving") if isinstance(node, dict) else ""
    plan = (f"about to leave: {leaving}",) if leaving else ()
    head = (f"node {document.get('node_name')}", f"havip {document.get('version')}", ready)
    yield table([(*head, *plan)])
    routers = _mappings(document, "routers")
    yield table(
        [
            ("ROUTER", "VIP", "STATE", "SINCE", "REASON", "PRIORITY", "HOLDS", "BLOCKED BY"),
            *(
                (
                    router.get("name"),
                    ",".join(map(str, router.get("vips") or ())),
                    router.get("state"),
                    _age(router.get("since_age_s")),
                    router.get("reason"),
                    _priority(router),
                    "yes" if router.get("is_holding") else "no",
                    router.get("blocked_by") or "-",
                )
                for router in routers
            ),
        ]
    )
    checks = _mappings(document, "checks")
    if checks:
        yield table(
            [
                ("CHECK", "HEALTH", "SINCE", "WEIGHT", "LAST RESULT", "URL", "DETAIL"),
                *(
                    (
                        check.get("name"),
                        _health(check),
                        _age(check.get("changed_age_s")),
                        check.get("weight"),
                        f"{check.get('last_result') or '-'} ×{check.get('consecutive', 0)}",
                        check.get("url"),
                        check.get("detail"),
                    )
                    for check in checks
                ),
            ]
        )
    peers = [(router, peer) for router in routers for peer in _mappings(router, "peers")]
    if peers:
        yield table(
            [
                ("PEER", "OF", "ROLE", "PRIORITY", "LAST ADVERT"),
                *(
                    (
                        peer.get("address"),
                        router.get("name"),
                        "active" if peer.get("is_active") else "backup",
                        peer.get("priority"),
                        f"{_age(peer.get('last_advert_age_s'))} ago",
                    )
                    for router, peer in peers
                ),
            ]
        )
    leases = [(r, r["lease"]) for r in routers if isinstance(r.get("lease"), dict)]
    if leases:
        yield table(
            [
                ("LEASE", "OF", "HOLDER", "CHANGED", "TRANSITIONS", "PROBLEM"),
                *(
                    (
                        f"{lease.get('namespace')}/{lease.get('name')}",
                        router.get("name"),
                        lease.get("holder") or "-",
                        f"{_age(lease.get('changed_age_s'))} ago",
                        lease.get("transitions"),
                        lease.get("problem") or "-",
                    )
                    for router, lease in leases
                ),
            ]
        )
    if isinstance(balancer := document.get("balancer"), dict):
        yield from _balancer(balancer)
    transitions = _mappings(document, "transitions")[-_TRANSITIONS_SHOWN:]
    if transitions:
        yield table(
            [
                ("TIME", "ROUTER", "WHAT", "STATE", "REASON", "MORE"),
                *(
                    (
                        each.get("time"),
                        each.get("router") or "-",
                        each.get("topic"),
                        _change(each),
                        each.get("reason"),
                        " ".join(f"{k}={v}" for k, v in (each.get("fields") or {}).items()),
                    )
                    for each in transitions
                ),
            ]
        )


def _balancer(balancer: Mapping[str, Any]) -> Iterator[str]:
    haproxy = f"HAProxy {balancer.get('version')}" if balancer.get("answers") else "no HAProxy"
    limit = f" of {limit}" if (limit := balancer.get("sessions_limit")) else ""
    is_full = ", full" if balancer.get("full") else ""
    sessions = f"{balancer.get('sessions')}{limit} connections{is_full}"
    is_fit = balancer.get("problem") or "fit"
    redirect = balancer.get("redirect_port")
    ports = f":{balancer.get('port')}" + (f", :{redirect} leads there" if redirect else "")
    yield table([(f"balancer {ports}", haproxy, sessions, is_fit)])
    yield table(
        [
            ("BACKEND", "AT", "HEALTH", "STATUS", "CHECK", "CONNECTIONS"),
            *(
                (
                    backend.get("name"),
                    backend.get("endpoint"),
                    _health_of_backend(backend),
                    (backend.get("status") or "-") + ("" if backend.get("listed") else " unlisted"),
                    backend.get("check") or "-",
                    backend.get("sessions"),
                )
                for backend in _mappings(balancer, "backends")
            ),
        ]
    )


def _mappings(document: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of the document, without what a newer daemon may have put into it."""
    found = document.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _priority(router: Mapping[str, Any]) -> str:
    configured, effective = router.get("priority"), router.get("effective_priority")
    return f"{effective}" if configured == effective else f"{effective} of {configured}"


def _health(check: Mapping[str, Any]) -> str:
    if check.get("healthy") is None:
        return "?"
    if check["healthy"]:
        return "good"
    return "never passed" if check.get("has_passed") is False else "failed"


def _health_of_backend(backend: Mapping[str, Any]) -> str:
    """One that gets no connections may have failed no check: it leaves, or has to prove itself."""
    if backend.get("healthy"):
        return "good"
    check, status = str(backend.get("check") or "INI"), str(backend.get("status") or "")
    if not check.startswith(("L7OK", "INI", "UNK")):
        return "failed"
    is_leaving = not backend.get("listed") and status.startswith(("DRAIN", "MAINT"))
    return "drained" if is_leaving else "proving"


def _change(transition: Mapping[str, Any]) -> str:
    was, state = transition.get("was"), transition.get("state")
    return f"{was} → {state}" if was and was != state else str(state or "")


def _age(seconds: object) -> str:
    """A duration in the two units that say most."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_min = divmod(minutes, 60)
    days, rest_h = divmod(hours, 24)
    for large, unit, small, small_unit in (
        (days, "d", rest_h, "h"),
        (hours, "h", rest_min, "min"),
        (minutes, "min", rest_s, "s"),
    ):
        if large:
            return f"{large} {unit} {small} {small_unit}"
    return f"{rest_s} s"
