"""The promises of havip as a judge who sees everything, at every step of a run.

A *group* is a set of nodes that all hear one another, and whose daemons decide: alive, not
frozen, not paused. Who is cut off in one direction only belongs to no group and is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from havip.sim.network import IPAddress
from havip.sim.timeline import Timeline

ROUNDING_S = 1e-6


class BrokenPromiseError(AssertionError):
    """A promise was not kept; the text says which, when, and how it came to that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long what must not be may last, seconds."""

    two_holders_s: float
    """Within one group: until the holders of a healed partition have heard each other and one
    of them has let go. A planned move takes less."""
    no_holder_s: float
    """In a group with a node that is fit to hold: what detection takes without suspicion."""
    stale_s: float = 3.0
    """An address on the host of a daemon that does not decide."""
    beside_stale_s: float | None = None
    """Two addresses on running hosts, whether or not their daemons decide. A number says that a
    Lease elects: one holder for all nodes, whoever hears whom. None: by VRRP, for each group."""
    cut_off_s: float
    """A client that hears the one holder of its group, and is heard by it, but sends elsewhere."""


class Judged(Protocol):
    """What the judge sees of a node."""

    @property
    def name(self) -> str: ...

    @property
    def decides(self) -> bool: ...

    @property
    def runs(self) -> bool:
        """Its kernel does: it answers for the addresses that it has."""
        ...

    @property
    def is_promised(self) -> bool:
        """Runs havip: a router of another make has promised nothing."""
        ...

    @property
    def undecided_since(self) -> float | None:
        """When the daemon was killed or frozen; None while it decides, and while its whole
        machine stands still."""
        ...

    @property
    def fit_from(self) -> float:
        """From when on nothing keeps this node from holding; infinite while something does."""
        ...

    def has_vip(self, vip: IPAddress) -> bool: ...

    def hears(self, other: Judged) -> bool: ...


class Customer(Protocol):
    """What the judge sees of a client."""

    @property
    def name(self) -> str: ...

    def reaches(self, vip: IPAddress) -> bool:
        """Whether what it sends to the VIP arrives at somebody who has it."""
        ...

    def could_reach(self, node: Judged) -> bool:
        """Whether it hears this node, is heard, and has asked for the VIP with success."""
        ...


@dataclass(frozen=True, slots=True)
class Condition:
    """What must not last, and in which group."""

    what: str
    members: str = ""
    is_overlap: bool = False
    """Two holders."""


class Verdict:
    """Watches conditions that may not last, and raises BrokenPromiseError when one did.

    Args:
        on_due: called when `look` is to be called although nothing has changed.
    """

    def __init__(
        self,
        timeline: Timeline,
        bounds: Bounds,
        vips: Sequence[IPAddress],
        on_due: Callable[[], None],
    ) -> None:
        self.bounds = bounds
        self.vips = tuple(vips)
        self.groups: list[tuple[Judged, ...]] = []
        self._timeline = timeline
        self._on_due = on_due
        self._since: dict[Condition, float] = {}
        self.overlaps: list[tuple[float, float]] = []
        """When two nodes of one group held, from and to; ended ones."""

    def look(self, nodes: Sequence[Judged], clients: Sequence[Customer]) -> None:
        """Judge the present; to be called after each change.

        Raises:
            BrokenPromiseError: a condition has lasted for longer than its bound.
        """
        present: dict[Condition, tuple[float, float]] = {}
        if self.bounds.beside_stale_s is None:
            self.groups = groups(nodes)
        else:
            self.groups = [tuple(node for node in nodes if node.decides)]
        for vip in self.vips:
            if self.bounds.beside_stale_s is not None:
                present |= self._judge_addresses(nodes, vip, self.bounds.beside_stale_s)
            for group in self.groups:
                present |= self._judge_group(group, vip, clients)
            for node in nodes:
                since = node.undecided_since
                if node.is_promised and since is not None and node.has_vip(vip):
                    what = f"{node.name} still has {vip}, but its daemon does not decide"
                    present[Condition(what)] = (since, self.bounds.stale_s)
        self._keep(present)

    def _judge_addresses(
        self, nodes: Sequence[Judged], vip: IPAddress, bound_s: float
    ) -> dict[Condition, tuple[float, float]]:
        having = [node.name for node in nodes if node.runs and node.has_vip(vip)]
        if len(having) < 2:
            return {}
        what = f"{', '.join(having)} have {vip}, whoever decides"
        return {Condition(what): (self._timeline.now, bound_s)}

    def _judge_group(
        self, group: tuple[Judged, ...], vip: IPAddress, clients: Sequence[Customer]
    ) -> dict[Condition, tuple[float, float]]:
        now = self._timeline.now
        members = " ".join(node.name for node in group)
        holders = [node for node in group if node.has_vip(vip)]
        if len(holders) > 1:
            what = f"{', '.join(node.name for node in holders)} hold {vip}"
            return {Condition(what, members, True): (now, self.bounds.two_holders_s)}
        if holders:
            return {
                Condition(f"{client.name} misses {vip}, held by {holders[0].name}", members): (
                    now,
                    self.bounds.cut_off_s,
                )
                for client in clients
                if client.could_reach(holders[0]) and not client.reaches(vip)
            }
        fit_from = min((node.fit_from for node in group), default=math.inf)
        if fit_from == math.inf:
            return {}
        what = f"nobody of {members} holds {vip}"
        return {Condition(what, members): (max(now, fit_from), self.bounds.no_holder_s)}

    def _keep(self, present: dict[Condition, tuple[float, float]]) -> None:
        now = self._timeline.now
        for gone in [condition for condition in self._since if condition not in present]:
            since = self._since.pop(gone)
            if gone.is_overlap:
                self.overlaps.append((since, now))
        for condition, (since, bound_s) in present.items():
            if condition not in self._since:
                self._since[condition] = since
                self._timeline.at(since + bound_s + 2 * ROUNDING_S, self._on_due)
            lasted_s = now - self._since[condition]
            if lasted_s > bound_s + ROUNDING_S:
                raise BrokenPromiseError(
                    f"for {lasted_s:.3f} s, more than {bound_s:.3f} s: {condition.what}"
                )


def groups(nodes: Iterable[Judged]) -> list[tuple[Judged, ...]]:
    """Sets of deciding nodes that all hear one another and nobody else."""
    deciding = [node for node in nodes if node.decides]
    heard = {
        node.name: [o for o in deciding if o is node or o.hears(node) or node.hears(o)]
        for node in deciding
    }
    found = []
    for node in deciding:
        group = heard[node.name]
        is_clique = all(
            [other.name for other in heard[member.name]] == [other.name for other in group]
            and all(member is other or member.hears(other) for other in group)
            for member in group
        )
        if is_clique and group[0] is node:
            found.append(tuple(group))
    return found
