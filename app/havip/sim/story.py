"""What happened in a run, line by line, for the person who has to find out why it failed."""

from __future__ import annotations

import hashlib
from collections import deque

LINES_KEPT = 3000


class Story:
    """The last lines of a run, and a fingerprint of all of them.

    Lines that repeat themselves (`tell_repeating`) are folded: an advert that is like the
    host's last one adds to a count, which is told when something changes.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=LINES_KEPT)
        self._repeated: dict[tuple[str, str], tuple[str, int]] = {}
        self._hash = hashlib.sha256()

    def tell(self, at: float, who: str, what: str) -> None:
        self._lines.append((at, who, what))
        self._hash.update(f"{at!r} {who} {what}\n".encode())

    def tell_repeating(self, at: float, who: str, kind: str, what: str) -> None:
        """Tell `what` unless it is what `who` told last time in this `kind`."""
        last, times = self._repeated.get((who, kind), ("", 0))
        if what == last:
            self._repeated[who, kind] = (last, times + 1)
            return
        self._repeated[who, kind] = (what, 1)
        self.tell(at, who, f"{what}  [before: {last} ×{times}]" if times > 1 else what)

    @property
    def fingerprint(self) -> str:
        """Equal for two runs that told the same, whatever was forgotten since."""
        return self._hash.hexdigest()

    def text(self, last: int = LINES_KEPT) -> str:
        lines = list(self._lines)[-last:]
        return "\n".join(f"{at:12.4f}  {who:<8} {what}" for at, who, what in lines)
