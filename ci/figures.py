"""What a bench hands over, and the table of it."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field


@dataclass
class Figure:
    """One measured quantity of one daemon."""

    bench: str
    what: str
    daemon: str
    unit: str
    values: list[float]
    target: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def worst(self) -> float:
        return max(self.values)


def progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def show(figures: list[Figure]) -> str:
    rows = [("bench", "what", "daemon", "median", "worst", "n", "keepalived/havip", "target")]
    by = {(f.bench, f.what, f.daemon): f for f in figures}
    for figure in figures:
        ratio = ""
        rival = by.get((figure.bench, figure.what, "keepalived"))
        if figure.daemon == "havip" and rival and figure.median > 0:
            ratio = f"{rival.median / figure.median:.2g}"
        rows.append(
            (
                figure.bench,
                figure.what,
                figure.daemon,
                f"{figure.median:.4g} {figure.unit}".strip(),
                f"{figure.worst:.4g} {figure.unit}".strip(),
                str(len(figure.values)),
                ratio,
                figure.target if figure.daemon == "havip" else "",
            )
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"{figure.what}: {note}" for figure in figures for note in figure.notes]
    return "\n".join(lines)
