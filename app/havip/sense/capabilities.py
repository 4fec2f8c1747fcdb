"""Which of the capabilities that havip needs this process lacks (capabilities(7))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NEEDED: Final = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""For the VIP's address, and for raw and packet sockets; with their bit numbers."""


_SYS_RESOURCE: Final = 24


def missing_capabilities() -> tuple[str, ...]:
    """Names of the capabilities that are needed and not effective; empty if all are there."""
    effective = _effective()
    return tuple(name for name, bit in NEEDED.items() if not effective >> bit & 1)


def may_raise_limits() -> bool:
    """Whether this process may go beyond its hard limits (CAP_SYS_RESOURCE)."""
    return bool(_effective() >> _SYS_RESOURCE & 1)


def _effective() -> int:
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)
