"""What is wrong with a configuration, said so that the reader can mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    `field` is the name a user writes in the file, `value` what he wrote (`***` for a secret),
    `source` where he wrote it, such as `environment HAVIP_VRRP_PRIORITY`.
    """

    field: str
    value: object
    problem: str
    remedy: str
    source: str = ""

    def __str__(self) -> str:
        shown = "" if self.value is None else f" {_short(self.value)}"
        origin = f" ({self.source})" if self.source else ""
        return _printable(f"{self.field}{shown}{origin}: {self.problem}; {self.remedy}")


class ConfigError(Exception):
    """The user's error: raised before anything changes, ends the process with exit status 2.

    One error may carry several problems, so that a user mends them all in one round.
    """

    problems: tuple[Problem, ...]

    def __init__(
        self, *, field: str, value: object, problem: str, remedy: str, source: str = ""
    ) -> None:
        self._carry(
            (Problem(field=field, value=value, problem=problem, remedy=remedy, source=source),)
        )

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> ConfigError:
        """One error of one or more problems."""
        error = cls.__new__(cls)
        error._carry(tuple(problems))
        return error

    def _carry(self, problems: tuple[Problem, ...]) -> None:
        assert problems
        self.problems = problems
        Exception.__init__(self, "\n".join(map(str, problems)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigWarning:
    """Something that works, but that a person should know about."""

    field: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return _printable(f"{self.field}: {self.problem}; {self.remedy}")


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not text:
        return '""'
    return text if len(text) <= 120 else f"{text[:117]}..."


def _printable(text: str) -> str:
    """The text on one line: names and values may come from anywhere."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
