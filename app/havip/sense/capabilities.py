"""Which of the capabilities that havip needs this process lacks (capabilities(7))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NEEDED: Final = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""For the VIP's address, and for raw and packet sockets; with their bit numbers."""


def missing_capabilities() -> tuple[str, ...]:
    """Names of the capabilities that are needed and not effective; empty if all are there."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return tuple(name for name, bit in NEEDED.items() if not effective >> bit & 1)
