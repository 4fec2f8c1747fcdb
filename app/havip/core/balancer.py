"""HAProxy beside havip: which backends it should have, and whether it is fit to get the VIP.

The VIP follows the balancer: a node whose HAProxy does not answer, or has no healthy backend, must
not hold. The balancer follows the backends: one that fails costs no move, since the others are
reached through every node alike.

What HAProxy has is compared with what it should have at each of its answers, and only the
difference is said. So it does not matter which of them was lost, refused or undone, nor whether
HAProxy has been started anew meanwhile. A list without a backend is not believed: no list of the
API servers of a cluster that answers can be empty.

Make before break: what is listed no more serves on until one that is listed is healthy. Whoever
renames all, or moves the only one, would cut off every client else; and of a list of which nothing
works, the one before is the better guess. What was drained already stays so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Final

from havip.core.actions import (
    Action,
    ChangeBalancer,
    KeepBackends,
    Report,
    Topic,
)
from havip.core.announce import Restraint
from havip.core.config import Backend, BalancerConfig, CheckConfig, NodeConfig
from havip.core.events import (
    BackendsListed,
    BackendsUnlisted,
    BalancerAnswered,
    BalancerCaOutdated,
    BalancerSilent,
    ProbeFinished,
    ProbeResult,
)
from havip.core.haproxy import (
    FRONTEND,
    Answer,
    Change,
    Server,
    called,
    fingerprint,
    is_old,
    server_of,
)
from havip.core.outbox import LONGEST_S
from havip.core.reasons import Reason
from havip.core.view import BackendView, BalancerView

BALANCER: Final = "balancer"
"""Name of the check."""
BACKENDS: Final = 64
"""Of one list; each is probed by each node."""

CHOICES: Final = (
    "set loadBalancerPort to one that is free, such as 8443; or have the API server listen on the "
    "node's address alone (--bind-address) and set loadBalancerBind: vip"
)
"""What to do where the port is an API server's."""

_START = (
    "start it after `havip load-balancer` has written its configuration; what keeps it from "
    "running stands in its own log"
)

_ROOM: Final = 0.9
"""Below this share of its connections a balancer that was full is so no more: one that ends makes
room for one that waits, and a balancer that is as good as full would be told of each time."""

_REDISPATCHED_S: Final = 2
"""HAProxy counts up to one second too many, and needs a moment for all of them."""

_LEAVING: Final = BACKENDS
"""As many that are listed no more keep their connections."""
_SERVERS: Final = 160
"""With as many, HAProxy gets no more until some have left. A list that waits to be added may come
on top: an answer can have some 250."""

_INTERVAL_S: Final = 1.0
_TIMEOUT_S: Final = 0.9


def check_of(config: BalancerConfig) -> CheckConfig:
    """The check that the balancer amounts to. A HAProxy that dies is heard of at once."""
    return CheckConfig(
        name=BALANCER,
        url=f"unix:{config.socket_file}",
        interval_s=_INTERVAL_S,
        timeout_s=_TIMEOUT_S,
        fail_after=2,
        recover_after=2,
        fast_fail=True,
        remedy="see docs/load-balancer.md",
    )


def carried_over(old: BalancerConfig | None, new: BalancerConfig | None) -> BalancerConfig | None:
    """What a reload makes of it: a running HAProxy takes other backends, and nothing else."""
    if old is None or new is None or (old.backends is None) != (new.backends is None):
        return old
    return replace(old, backends=new.backends)


def unheard(config: NodeConfig) -> str:
    """Why HAProxy would not answer at a VIP of this configuration, and what to do; or empty.

    Args:
        config: with the balancer as HAProxy was started.
    """
    if config.balancer is None:
        return ""
    binds = config.balancer.binds
    families = {each.version for each in binds if each.is_unspecified}
    lacking = [
        each for each in config.vip_addresses if each not in binds and each.version not in families
    ]
    if not lacking:
        return ""
    return (
        f"HAProxy was started without {', '.join(map(str, lacking))}, and would refuse connections "
        "there: restart HAProxy, after `havip load-balancer`, and havip"
    )


@dataclass(slots=True)
class _Noted:
    """What was told of a server, so that it is told once."""

    is_healthy: bool | None = None
    standing: Reason | None = None
    """Whether it is listed, kept or unlisted."""
    is_cut: bool = False
    endpoint: str = ""


class Balancer:
    """Decides for one HAProxy."""

    def __init__(self, config: BalancerConfig) -> None:
        self._config = config
        self._wanted: tuple[Backend, ...] = ()
        self._known_by = ""
        self._answer: Answer | None = None
        self._problem = "it has not answered yet"
        self._noted: dict[str, _Noted] = {}
        self._drained: set[str] = set()
        """Told so while they are down, when HAProxy does not show it."""
        self._kept: tuple[Backend, ...] = ()
        self._missing = ""
        self._is_full = False
        self._itself: Backend | None = None
        self._at_vips: frozenset[Backend] = frozenset()
        self._alarm = Restraint(free=1, longest_s=LONGEST_S)
        self._ca_alarm = Restraint(free=1, longest_s=LONGEST_S)
        self._use_configured()

    @property
    def config(self) -> BalancerConfig:
        return self._config

    def reconfigure(self, config: BalancerConfig) -> list[Action]:
        """Go over to other backends of the configuration."""
        self._config = config
        self._use_configured()
        return self._keep()

    def handle_listed(self, event: BackendsListed) -> list[Action]:
        """The API has named the backends, or did so in an earlier life."""
        if self._config.backends is not None or (event.is_kept and self._wanted):
            return []
        if not event.is_kept:
            self._missing = ""
        found = self._others(event.backends)
        told = self._note_vips(event.backends)
        if not found:
            self._missing = self._missing or _no_other(event.backends)
            return told
        self._wanted = tuple(sorted(found))
        self._known_by = "kept" if event.is_kept else "api"
        if event.is_kept:
            self._kept = self._wanted
        return [*told, *self._keep()]

    def handle_unlisted(self, now: float, event: BackendsUnlisted) -> list[Action]:
        """The API was asked in vain."""
        self._missing = event.detail
        if not self._alarm.allows(now):
            return []
        fields: dict[str, str | int | float] = {"detail": event.detail}
        return [Report(topic=Topic.ALARM, reason=Reason.BACKENDS_MISSING, fields=fields)]

    def handle_outdated_ca(self, now: float, event: BalancerCaOutdated) -> list[Action]:
        """An alarm in time: once API servers have certificates of a new CA, no backend passes."""
        if not self._ca_alarm.allows(now):
            return []
        fields: dict[str, str | int | float] = {
            "file": event.file,
            "detail": "HAProxy verifies backends by the CA certificates it was started with",
            "remedy": "run `havip load-balancer`, then restart HAProxy, one node after the other",
        }
        return [Report(topic=Topic.ALARM, reason=Reason.BALANCER_CA_OUTDATED, fields=fields)]

    def handle_answer(
        self, event: BalancerAnswered | BalancerSilent
    ) -> tuple[ProbeFinished, list[Action]]:
        """What HAProxy said, or that it says nothing: as a result of the check, and what to do."""
        if isinstance(event, BalancerSilent):
            self._answer = None
            self._problem = event.detail
            if event.result is ProbeResult.REFUSED:
                self._problem += f": {_START}"
            finished = ProbeFinished(
                check=BALANCER,
                result=event.result,
                detail=self._problem,
                duration_s=event.duration_s,
                is_unasked=event.is_unasked,
            )
            return finished, []
        self._answer = event.answer
        self._problem = self._unfit(event.answer)
        finished = ProbeFinished(
            check=BALANCER,
            result=ProbeResult.FAILED if self._problem else ProbeResult.PASSED,
            detail=self._problem,
            duration_s=event.duration_s,
        )
        if self._is_foreign(event.answer):
            self._is_full = False
            return finished, []
        actions = list(self._reconcile(event.answer))
        return finished, [*self._note_full(event.answer), *self._note(event.answer), *actions]

    def view(self) -> BalancerView:
        answer = self._answer
        return BalancerView(
            answers=answer is not None,
            version=answer.version if answer else "",
            process=answer.process if answer else 0,
            uptime_s=answer.uptime_s if answer else 0,
            problem=self._problem,
            port=self._config.port,
            redirect_port=self._config.redirect_port,
            sessions=answer.sessions if answer else 0,
            sessions_limit=answer.sessions_limit if answer else 0,
            full=answer is not None and self._is_full,
            sessions_total=answer.sessions_total if answer else 0,
            backends_known_by=self._known_by,
            backends=tuple(self._views(answer.servers if answer else ())),
        )

    def _views(self, servers: Collection[Server]) -> Iterator[BackendView]:
        there = {each.name: each for each in servers}
        shown = set()
        for name, backend in sorted(self._servers.items()):
            shown.add(backend.name)
            yield _view(backend.name, backend, there.pop(name, None))
        for name, server in sorted(there.items()):
            # It may be the old place of one that is listed: a name stands for one row.
            short = called(name)
            yield _view(name if short in shown else short, None, server)
            shown.add(short)

    @property
    def _servers(self) -> dict[str, Backend]:
        """What HAProxy should have, by the names that it has for them."""
        return {server_of(each): each for each in self._wanted}

    def _use_configured(self) -> None:
        if self._config.backends is not None:
            self._wanted = tuple(sorted(self._others(self._config.backends)))
            self._known_by = "configuration"

    def _others(self, backends: Collection[Backend]) -> list[Backend]:
        """All but the balancer itself, or connections would go in circles, and none at a VIP.

        That is the holder's own API server, and nobody holds before a backend is healthy.
        """
        others = [each for each in backends if each.address not in self._config.vips]
        circles = [each for each in others if self._config.is_itself(each)]
        self._itself = min(circles, default=None)
        return [each for each in others if each not in circles]

    def _note_vips(self, backends: Collection[Backend]) -> list[Action]:
        """An alarm, and no reason to move: the other backends are none the worse for it."""
        at_vips = frozenset(each for each in backends if each.address in self._config.vips)
        is_new = not at_vips <= self._at_vips
        self._at_vips = at_vips
        if not is_new:
            return []
        fields: dict[str, str | int | float] = {"detail": _lists_vip(at_vips)}
        return [Report(topic=Topic.ALARM, reason=Reason.BACKENDS_MISSING, fields=fields)]

    def _keep(self) -> list[Action]:
        if self._wanted == self._kept:
            return []
        self._kept = self._wanted
        return [KeepBackends(backends=self._wanted)]

    def _is_foreign(self, answer: Answer) -> bool:
        """Whether what it was started with is not what havip would have it do."""
        return is_old(answer.version) or answer.description != f"havip {fingerprint(self._config)}"

    def _unfit(self, answer: Answer) -> str:
        """Why this node must not hold the VIP; empty if nothing is in the way."""
        if is_old(answer.version):
            return f"HAProxy is of version {answer.version}, and 2.6 is the oldest that will do"
        if self._is_foreign(answer):
            return (
                "HAProxy was started with another configuration than this one: run `havip "
                "load-balancer`, then restart HAProxy"
            )
        if answer.is_stopping:
            # Believed while it serves on: that time is there to hand the VIP over in.
            return "HAProxy was told to stop, and soon takes no new connections"
        if answer.frontend != "OPEN":
            return (
                f"HAProxy takes no new connections (frontend {FRONTEND}: "
                f"{answer.frontend or 'not there'}): say `enable frontend {FRONTEND}` to it, "
                "or restart it"
            )
        if self._itself is not None:
            return self._explain_clash(self._itself)
        if not self._wanted:
            return f"no backend is known: {self._missing or 'none is listed yet'}"
        wanted = self._servers
        listed = [each for each in answer.servers if each.name in wanted]
        # Or one that is listed no more: it is drained only when a listed one is healthy.
        if any(each.is_healthy for each in answer.servers):
            return ""
        told = ", ".join(
            f"{called(each.name)}: {_check(each) or each.status}" for each in listed[:5]
        )
        return f"none of {len(self._wanted)} backends is healthy ({told or 'none is added yet'})"

    def _explain_clash(self, backend: Backend) -> str:
        return (
            f"backend {backend.name} is at port {self._config.port} of this node, where "
            f"HAProxy itself would listen: {CHOICES}"
        )

    def _split(self, answer: Answer) -> tuple[list[Server], list[Server]]:
        """The servers that are listed, and those that are not, or stand elsewhere."""
        wanted = self._servers
        listed: list[Server] = []
        unlisted: list[Server] = []
        for server in answer.servers:
            backend = wanted.get(server.name)
            is_listed = backend is not None and backend.endpoint == server.endpoint
            (listed if is_listed else unlisted).append(server)
        return listed, unlisted

    def _reconcile(self, answer: Answer) -> Iterator[Action]:
        there = {each.name: each for each in answer.servers}
        wanted = self._servers
        room = _SERVERS - len(there)
        for name, backend in wanted.items():
            server = there.get(name)
            if server is None:
                if room > 0:
                    yield ChangeBalancer(change=Change.ADD, name=name, backend=backend)
                room -= 1
            elif server.endpoint != backend.endpoint:
                continue
            elif server.status.startswith(("MAINT", "no check")):
                yield ChangeBalancer(change=Change.PROVE, name=name)
            elif server.status.startswith("DRAIN") and server.is_asked:
                yield ChangeBalancer(change=Change.ENABLE, name=name)
        listed, unlisted = self._split(answer)
        surplus = _surplus(unlisted)
        # One that was moved by hand is in the way of the listed one of its name.
        leaving = surplus | wanted.keys()
        if any(each.is_healthy for each in listed):
            leaving |= there.keys()
        yield from self._let_go(unlisted, leaving)
        for server in answer.servers:
            if self._is_lost(server) or (server.sessions > 0 and server.name in surplus):
                yield ChangeBalancer(change=Change.CUT, name=server.name)

    def _is_lost(self, server: Server) -> bool:
        """Whether connections of it wait in vain.

        Not as soon as it is silent: those that are just being made would be closed with the rest,
        and HAProxy makes them elsewhere once `timeout connect` is over.
        """
        since_s = server.changed_s - _REDISPATCHED_S
        is_silent = server.is_silent and since_s >= self._config.connect_timeout_s
        return is_silent and server.sessions > 0

    def _let_go(self, unlisted: list[Server], leaving: set[str]) -> Iterator[Action]:
        down = {each.name for each in unlisted if each.status.startswith("DOWN")}
        self._drained &= down
        for server in unlisted:
            name = server.name
            if name not in leaving and not server.is_disabled:
                continue
            if server.sessions == 0:
                yield ChangeBalancer(change=Change.REMOVE, name=name)
            elif not server.is_disabled and name not in self._drained:
                yield ChangeBalancer(change=Change.DRAIN, name=name)
                self._drained |= down & {name}

    def _note_full(self, answer: Answer) -> Iterator[Report]:
        """An alarm, and no reason to move: the clients would all come along."""
        limit = answer.sessions_limit
        if limit and answer.sessions >= limit and not self._is_full:
            self._is_full = True
            yield Report(
                topic=Topic.ALARM,
                reason=Reason.BALANCER_FULL,
                fields={
                    "sessions": answer.sessions,
                    "limit": limit,
                    "detail": "new clients wait for one of them to end",
                    "remedy": "raise loadBalancerMaxConnections, then restart HAProxy and havip",
                },
            )
        elif answer.sessions < limit * _ROOM:
            self._is_full = False

    def _note(self, answer: Answer) -> Iterator[Report]:
        """Tell what has changed since the answer before."""
        there = {each.name for each in answer.servers}
        listed, _ = self._split(answer)
        has_healthy = any(each.is_healthy for each in listed)
        names = {each.name for each in listed}
        for server in answer.servers:
            noted = self._noted.setdefault(server.name, _Noted(endpoint=server.endpoint))
            standing = Reason.BACKEND_LISTED
            if server.name not in names:
                is_kept = server.is_healthy and not has_healthy
                standing = Reason.BACKEND_KEPT if is_kept else Reason.BACKEND_UNLISTED
            if standing is not noted.standing:
                noted.standing = standing
                is_new = standing is Reason.BACKEND_LISTED
                yield _told(server, standing, **({} if is_new else {"sessions": server.sessions}))
            if standing is not Reason.BACKEND_LISTED or server.is_disabled:
                continue
            # One that proves itself is down too, and no check of it has failed.
            is_down = server.status.startswith("DOWN") and server.check != "L7OK"
            if server.is_healthy and noted.is_healthy is not True:
                noted.is_healthy = True
                yield _told(server, Reason.BACKEND_HEALTHY)
            elif is_down and noted.is_healthy is not False and server.check != "INI":
                noted.is_healthy = False
                yield _told(server, Reason.BACKEND_FAILED, detail=_check(server))
            is_cut = self._is_lost(server)
            if is_cut and not noted.is_cut:
                yield _told(server, Reason.BACKEND_SILENT, sessions=server.sessions)
            noted.is_cut = is_cut
        for name in self._noted.keys() - there:
            gone = self._noted.pop(name)
            if gone.standing is not Reason.BACKEND_LISTED:
                yield Report(
                    topic=Topic.BACKEND,
                    reason=Reason.BACKEND_DRAINED,
                    fields={"backend": called(name), "endpoint": gone.endpoint},
                )


def _no_other(backends: Collection[Backend]) -> str:
    if not backends:
        return "the Kubernetes API lists no backend"
    return _lists_vip(backends)


def _lists_vip(backends: Collection[Backend]) -> str:
    return (
        f"the Kubernetes API lists {min(backends)}, which is the VIP: have the API servers "
        "advertise their nodes' own addresses (--advertise-address)"
    )


def _surplus(unlisted: Collection[Server]) -> set[str]:
    """Of more than may leave at a time: first what is not healthy, then what has few connections.

    Without a bound, the answer with all of them would be too long to be read.
    """
    count = max(0, len(unlisted) - _LEAVING)
    chosen = sorted(unlisted, key=lambda each: (each.is_healthy, each.sessions))
    return {each.name for each in chosen[:count]}


def _told(server: Server, reason: Reason, **fields: str | int) -> Report:
    return Report(
        topic=Topic.BACKEND,
        reason=reason,
        fields={"backend": called(server.name), "endpoint": server.endpoint, **fields},
    )


def _check(server: Server) -> str:
    """The last check in HAProxy's words."""
    return " ".join(filter(None, (server.check, server.check_code, server.check_detail)))


def _view(name: str, backend: Backend | None, server: Server | None) -> BackendView:
    return BackendView(
        name=name,
        endpoint=server.endpoint if server else backend.endpoint if backend else "",
        listed=backend is not None,
        healthy=server is not None and server.is_healthy,
        status=server.status if server else "",
        check=_check(server) if server else "",
        sessions=server.sessions if server else 0,
        sessions_total=server.sessions_total if server else 0,
        bytes_in_total=server.bytes_in if server else 0,
        bytes_out_total=server.bytes_out if server else 0,
        connection_errors_total=server.connection_errors if server else 0,
        retries_total=server.retries if server else 0,
        redispatches_total=server.redispatches if server else 0,
    )
