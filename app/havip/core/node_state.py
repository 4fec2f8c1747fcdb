"""What Kubernetes says of this node: shall it go on, or is it about to leave?

A cordon, a taint of a shutdown, the kubelet's own word that the machine shuts down, or somebody's
annotation: all say the same, "rather another node". So they lower the priority, as a failed check
with a weight does, and no more: where every node is cordoned, nobody is better, and nothing moves.
What was said last counts until something else is said; an API server that is away changes nothing.
"""

from __future__ import annotations

from typing import Final

from havip.core.actions import Action, Report, Topic
from havip.core.announce import Restraint
from havip.core.check import Verdict
from havip.core.events import NodeSeen, NodeUnseen
from havip.core.outbox import LONGEST_S
from havip.core.reasons import Reason
from havip.core.view import NodeObjectView

NAME: Final = "node"
"""As which it stands among the checks."""
LEAVING: Final = (
    Reason.NODE_SHUTS_DOWN,
    Reason.NODE_TAINTED,
    Reason.NODE_STEPS_DOWN,
    Reason.NODE_CORDONED,
)
"""Why a node is about to leave; of several the first one is told."""
SHUTDOWN_TAINTS: Final = (
    "node.kubernetes.io/out-of-service",
    "ToBeDeletedByClusterAutoscaler",
    "node.cloudprovider.kubernetes.io/shutdown",
)
_SHUTTING_DOWN: Final = "node is shutting down"
"""By which the kubelet's graceful shutdown explains Ready=False (its nodeshutdown manager)."""


class NodeState:
    """What is known of this node's Node object."""

    def __init__(self) -> None:
        self._leaving: tuple[Reason, str] | None = None
        self._seen_at: float | None = None
        self._problem = ""
        self._alarm = Restraint(free=1, longest_s=LONGEST_S)

    @property
    def reason(self) -> Reason:
        """Why the node is about to leave, or that it stays."""
        return Reason.NODE_STAYS if self._leaving is None else self._leaving[0]

    def leaving(self, weight: int) -> Reason | None:
        """Why another node is better, if that is to count."""
        return None if weight == 0 or self._leaving is None else self._leaving[0]

    def see(self, now: float, event: NodeSeen) -> list[Action]:
        """Note what the object says; a report if that changes anything."""
        self._seen_at = now
        self._problem = ""
        was, self._leaving = self._leaving, _why_leaving(event)
        if self._leaving == was:
            return []
        detail = "" if self._leaving is None else self._leaving[1]
        fields: dict[str, str | int | float] = {"detail": detail} if detail else {}
        return [Report(topic=Topic.NODE, reason=self.reason, fields=fields)]

    def miss(self, now: float, event: NodeUnseen) -> list[Action]:
        """The API was asked in vain: what it said before stays."""
        self._problem = event.detail
        if not self._alarm.allows(now):
            return []
        fields: dict[str, str | int | float] = {"detail": event.detail}
        return [Report(topic=Topic.ALARM, reason=Reason.NODE_UNKNOWN, fields=fields)]

    def check(self, weight: int) -> list[tuple[str, int, Verdict]]:
        """As a check among the others; with weight 0 none, since it forbids nothing."""
        if weight == 0:
            return []
        verdict = Verdict.HEALTHY if self._leaving is None else Verdict.UNHEALTHY
        return [(NAME, weight, verdict)]

    def view(self, weight: int) -> NodeObjectView:
        leaving = "" if self._leaving is None else self._leaving[0].value
        return NodeObjectView(
            leaving=leaving,
            detail="" if self._leaving is None else self._leaving[1],
            weight=weight,
            seen_at=self._seen_at,
            problem=self._problem,
        )


def _why_leaving(seen: NodeSeen) -> tuple[Reason, str] | None:
    """The reason and more of it; None for a node that stays."""
    if _SHUTTING_DOWN in seen.not_ready_because.lower():
        return Reason.NODE_SHUTS_DOWN, seen.not_ready_because
    if taint := next((each for each in SHUTDOWN_TAINTS if each in seen.taints), ""):
        return Reason.NODE_TAINTED, taint
    if seen.is_stepping_down:
        return Reason.NODE_STEPS_DOWN, ""
    if seen.is_unschedulable:
        return Reason.NODE_CORDONED, ""
    return None
