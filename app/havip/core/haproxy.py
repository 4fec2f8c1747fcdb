"""HAProxy's language: its configuration, the commands of its Runtime API, and its answers.

Connections are passed through as they are (layer 4), so that client certificates reach the API
server. The only TLS that HAProxy speaks is that of its checks.

Backends come and go by `add server` and `del server`, which HAProxy has since 2.6 with all that a
check needs. Rejected: spare slots (`server-template`), since their number must be known before,
and a slot's name says nothing in the statistics. A dynamic server takes nothing from
`default-server`, so both forms of a server are made here, of the same words.

A server that leaves `MAINT` counts as up until its first check, and would be sent connections
meanwhile. So one that is added goes from `MAINT` to `DRAIN`, in which it is checked and gets none,
and is taken for down; `ready` is said to it once HAProxy has found it up. Whatever is left half
done shows in the next answer as one of these states. Rejected: `state ready; health down` in one
line, since HAProxy's other threads accept connections between the two.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from havip.core.config import Backend, BalancerConfig, endpoint

FRONTEND: Final = "clients"
"""HAProxy 3.3 no longer takes two of one name."""
BACKEND: Final = "apiserver"
OLDEST: Final = (2, 6)
GRACE_S: Final = 5
"""How long HAProxy serves on when it is told to stop."""
HARD_STOP_S: Final = 3
"""How long the connections that are left then may go on: all in less than a pod's ten seconds."""
CA_BYTES: Final = 1 << 20
"""Of CA certificates, most."""
_ROWS: Final = 256
"""Of `show stat`, most: 64 backends, and as many and more that are drained."""
_FIELDS: Final = 512
"""Of a row, and of `show info`; HAProxy has some hundred of each."""
_UNASKED: Final = frozenset({"", "INI", "UNK", "SOCKERR"})
"""Last checks by which HAProxy neither raises nor lowers its opinion of a server."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]+", re.ASCII)
"""What HAProxy takes for a server's name. Anything else could end the word, or the command."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")


class Change(StrEnum):
    """What can be done to one backend of a running HAProxy."""

    ADD = "add"
    """Make it, as one that has yet to prove itself."""
    PROVE = "prove"
    """Check it, and send it nothing: it was made, and no more."""
    ENABLE = "enable"
    """Send it connections: it has proved itself, or was on its way out."""
    DRAIN = "drain"
    """No new connections; those that it has go on."""
    REMOVE = "remove"
    CUT = "cut"
    """Close its connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A backend as HAProxy has it."""

    name: str
    """As `server_of` makes it."""
    endpoint: str
    status: str
    """`UP`, `DOWN`, `DRAIN`, `MAINT`, `no check`; in the midst of a change with a fraction."""
    check: str
    """How the last check ended, such as `L7OK`; `INI` before the first."""
    check_code: str
    """The HTTP status of the check, or empty."""
    check_detail: str
    """What the kernel said to it, such as `Connection refused`, or empty."""
    changed_s: int
    """Since it last went up or down: of whole seconds, up to one too many."""
    sessions: int
    sessions_total: int
    bytes_in: int
    bytes_out: int
    connection_errors: int
    retries: int
    redispatches: int

    @property
    def is_healthy(self) -> bool:
        """Up, and by a check; one that failed counts once HAProxy sends connections elsewhere."""
        return self.status.startswith("UP") and self.is_asked

    @property
    def is_asked(self) -> bool:
        """Whether a check has said anything: before, HAProxy takes a server for one that is up."""
        return self.check not in _UNASKED

    @property
    def is_disabled(self) -> bool:
        """It gets no new connections, healthy or not; one that is down may not show it."""
        return self.status.startswith(("DRAIN", "MAINT"))

    @property
    def is_silent(self) -> bool:
        """Down, and not even its host's kernel answers: whoever waits for it waits in vain.

        One that takes the connection and is silent then (L6TOUT, L7TOUT) may be slow, or stopped
        for a while: its watches go on when it does.
        """
        if not self.status.startswith("DOWN"):
            return False
        is_refused = "refused" in self.check_detail.lower()
        return self.check == "L4TOUT" or (self.check == "L4CON" and not is_refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What HAProxy tells of itself."""

    version: str
    description: str
    process: int
    uptime_s: int
    is_stopping: bool
    """It was told to end: it serves on for a while, and then takes no new connections."""
    frontend: str
    """`OPEN` while it takes connections; `PAUSED` or `STOP` when it does not; empty: not there."""
    sessions: int
    """Connections of clients now."""
    sessions_limit: int
    """With as many, the next ones wait in the kernel; 0 if it was not told."""
    sessions_total: int
    servers: tuple[Server, ...]


def server_of(backend: Backend) -> str:
    """What HAProxy calls a backend: one name for each place.

    Under the backend's name alone, one that moves to another address could be added only once the
    last connection to the old one has ended.
    """
    place = f"{backend.address}:{backend.port}"
    return place if backend.name == place else f"{backend.name}_{place}"


def called(server: str) -> str:
    """The name of the backend that HAProxy calls so; an address has no underscore."""
    name, _, _ = server.rpartition("_")
    return name or server


def configuration(config: BalancerConfig, backends: Iterable[Backend]) -> str:
    """The whole file, the same for the same arguments.

    Raises:
        ValueError: a backend has a name or an address that HAProxy would take for something else.
    """
    body = _configuration(config)
    lines = [
        f"    server {_name(server_of(each))} {_words(config, each)}" for each in sorted(backends)
    ]
    return "\n".join([body, *lines, ""]).replace("{fingerprint}", fingerprint(config))


def files_of(connections: int) -> int:
    """Open files that are enough for as many connections: two for each, and those of its own.

    It says that it needs 20 of its own, 3 for each thread, and one for each backend's check.
    """
    return 2 * connections + 1000


def fingerprint(config: BalancerConfig) -> str:
    """By this a running HAProxy shows whether it was started with this configuration.

    The backends are not part of it, since they change while it runs.
    """
    probe = _words(config, None)
    return hashlib.sha256(f"{_configuration(config)}\n{probe}".encode()).hexdigest()[:16]


def _configuration(config: BalancerConfig) -> str:
    binds = "\n".join(f"    bind {_bind(config, each)}" for each in config.binds)
    idle = _ms(config.idle_timeout_s)
    return f"""\
# Written by havip, and again whenever the backends change: what is changed here is lost.
global
    description "havip {{fingerprint}}"
    log stdout format raw local0 notice
    maxconn {config.max_connections}
    # Two HAProxies would share the port, each with its own backends, and neither would say so.
    noreuseport
    stats socket {config.socket_file} mode 660 level admin
    stats timeout 1h
    # On SIGUSR1 it goes on serving while havip hands the VIP over, and then ends.
    grace {GRACE_S}s
    hard-stop-after {HARD_STOP_S}s
    # Checks that all begin at once would meet all API servers in the same moment.
    spread-checks 10

defaults
    mode tcp
    log global
    option dontlog-normal
    timeout connect {_ms(config.connect_timeout_s)}
    timeout check {_ms(config.check_timeout_s)}
    timeout queue {_ms(config.connect_timeout_s)}
    # Watches and exec are silent for hours. Who is gone is found by keep-alive.
    timeout client {idle}
    timeout server {idle}
    timeout tunnel {idle}
    timeout client-fin 30s
    timeout server-fin 30s
    option clitcpka
    clitcpka-idle 15s
    clitcpka-intvl 5s
    clitcpka-cnt 3
    option srvtcpka
    srvtcpka-idle 15s
    srvtcpka-intvl 5s
    srvtcpka-cnt 3
    # A connection that one backend refuses goes to another one at once.
    retries 3
    option redispatch 1

frontend {FRONTEND}
{binds}
    default_backend {BACKEND}

backend {BACKEND}
    balance {config.balance}
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host {config.check_host} \
hdr User-Agent havip hdr Connection close
    http-check expect status {_statuses(config)}{_ca_loader(config)}"""


def _statuses(config: BalancerConfig) -> str:
    ranges = config.expected_status
    return ",".join(f"{low}-{high}" if low != high else str(low) for low, high in ranges)


def _ca_loader(config: BalancerConfig) -> str:
    """A server that is added later can only use certificates that were loaded at the start."""
    if config.ca_file is None:
        return ""
    return f"\n    default-server verify required ca-file {config.ca_copy}"


def _bind(config: BalancerConfig, address: IPv4Address | IPv6Address) -> str:
    words = [endpoint(address, config.port)]
    if address.version == 6:
        words.append("v6only")
    if not address.is_unspecified:
        # The VIP is not on this node before it is held.
        words.append("transparent")
    return " ".join(words)


def _words(config: BalancerConfig, backend: Backend | None) -> str:
    """What follows a server's name."""
    words = [_place(backend)] if backend else []
    words += ["check", "check-ssl"]
    if config.ca_file is None:
        words += ["verify", "none"]
    else:
        words += ["verify", "required", "ca-file", config.ca_copy]
        words += ["verifyhost", config.check_host]
    words += ["check-sni", config.check_host, "check-alpn", "http/1.1"]
    if config.proxy_protocol:
        words += ["send-proxy-v2", "check-send-proxy"]
    words += ["inter", _ms(config.check_interval_s)]
    words += ["fall", str(config.fail_after), "rise", str(config.recover_after)]
    if config.slow_start_s:
        words += ["slowstart", _ms(config.slow_start_s)]
    return " ".join(words)


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"no name of a server: {name!r}")
    return name


def _place(backend: Backend) -> str:
    if backend.address.version == 6 and backend.address.scope_id is not None:
        raise ValueError(f"a backend's address has a zone: {str(backend.address)!r}")
    return backend.endpoint


def _ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def commands(
    config: BalancerConfig, change: Change, name: str, backend: Backend | None
) -> tuple[str, ...]:
    """How to do it over the Runtime API, one after the other, each if the one before succeeded.

    Args:
        name: of the server, by `server_of`.
        backend: the one to add, under this name.

    Raises:
        ValueError: as `configuration`.
    """
    server = f"{BACKEND}/{_name(name)}"
    prove = (
        f"enable health {server}",
        f"set server {server} state drain",
        f"set server {server} health down",
    )
    match change:
        case Change.ADD:
            return (f"add server {server} {_words(config, backend)}", *prove)
        case Change.PROVE:
            return prove
        case Change.ENABLE:
            return (f"set server {server} state ready",)
        case Change.DRAIN:
            return (f"set server {server} state drain",)
        case Change.CUT:
            return (f"shutdown sessions server {server}",)
        case Change.REMOVE:
            return (f"set server {server} state maint", f"del server {server}")


def closing(servers: Iterable[Server]) -> str:
    """One line that closes what all of these have."""
    return "; ".join(f"shutdown sessions server {BACKEND}/{_name(each.name)}" for each in servers)


def has_succeeded(reply: str) -> bool:
    """Whether a command was done, by what HAProxy says to it."""
    return reply.strip() in {"", "New server registered.", "Server deleted."}


def is_old(version: str) -> bool:
    """Whether this HAProxy lacks what havip asks of it; also if its version makes no sense."""
    found = _VERSION.match(version)
    return not found or (int(found[1]), int(found[2])) < OLDEST


def read_answer(info: str, statistics: str) -> Answer:
    """The answers to `show info` and `show stat`.

    Raises:
        ValueError: they are none.
    """
    lines = info.splitlines()
    rows = statistics.removeprefix("# ").splitlines()
    # Before they are read: an answer of many small ones would cost the loop its adverts.
    has_many = len(lines) > _FIELDS or len(rows) > _ROWS
    if has_many or any(row.count(",") > _FIELDS for row in rows):
        raise ValueError("the answer has more rows or columns than the HAProxy of havip can have")
    facts: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            facts.setdefault(name.strip(), value.strip())
    if "Version" not in facts:
        raise ValueError("the answer to `show info` has no version")
    servers = []
    frontend = ""
    sessions = sessions_limit = sessions_total = 0
    for row in _table(rows):
        proxy, server = row.get("pxname"), row.get("svname")
        if proxy == FRONTEND and server == "FRONTEND":
            frontend = row.get("status") or ""
            sessions, sessions_limit = _number(row, "scur"), _number(row, "slim")
            sessions_total = _number(row, "stot")
        elif proxy == BACKEND and server and server != "BACKEND":
            servers.append(_server(server, row))
    return Answer(
        version=facts["Version"],
        description=facts.get("description", ""),
        process=_number(facts, "Pid"),
        uptime_s=_number(facts, "Uptime_sec"),
        is_stopping=_number(facts, "Stopping") != 0,
        frontend=frontend,
        sessions=sessions,
        sessions_limit=sessions_limit,
        sessions_total=sessions_total,
        servers=tuple(servers),
    )


def _table(rows: list[str]) -> Iterator[dict[str, str]]:
    try:
        yield from csv.DictReader(rows)
    except csv.Error as error:
        raise ValueError(f"the answer to `show stat` is no table: {error}") from error


def _server(name: str, row: dict[str, str]) -> Server:
    return Server(
        name=name,
        endpoint=row.get("addr") or "",
        status=row.get("status") or "",
        # "* " before it: the next check is under way.
        check=(row.get("check_status") or "").removeprefix("* "),
        check_code=row.get("check_code") or "",
        check_detail=row.get("last_chk") or "",
        changed_s=_number(row, "lastchg"),
        sessions=_number(row, "scur"),
        sessions_total=_number(row, "stot"),
        bytes_in=_number(row, "bin"),
        bytes_out=_number(row, "bout"),
        connection_errors=_number(row, "econ"),
        retries=_number(row, "wretr"),
        redispatches=_number(row, "wredis"),
    )


def _number(row: dict[str, str], name: str) -> int:
    text = row.get(name) or ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0
