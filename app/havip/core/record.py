"""What a Lease says: the election record of the Kubernetes API, as a value.

`coordination.k8s.io/v1`, Lease; its fields mean what client-go's `leaderelection` means by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

MOST: Final = 2**31 - 1
"""Of its numbers, which are of 32 bits with sign; one that is less than 0 is none either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Equal records are the same claim, whatever else was written into the object since."""

    holder: str
    """`holderIdentity`: the name of the node; empty once it was released."""
    holder_mac: bytes
    """Of the interface of the holder, or of who released it, from an annotation; empty if there
    is none. Two nodes may have one name by mistake, but not one MAC."""
    duration_s: int
    """`leaseDurationSeconds`: for how long after its last change others leave it alone."""
    acquired_us: int
    """`acquireTime`, UTC, microseconds since the epoch, by the holder's clock."""
    renewed_us: int
    """`renewTime`. Never compared with a clock: each renewal only has to differ from the last."""
    transitions: int
    """`leaseTransitions`: how often the holder has changed, up to `MOST`."""
    is_offered: bool = False
    """An annotation: the holder is about to leave, and gives way to whoever asks."""
    asked_by: str = ""
    """An annotation: the name of the node that has asked for what is offered."""
    version: str = field(default="", compare=False)
    """`resourceVersion` of the object that says this; the API server refuses a write that names
    another one than the present."""
