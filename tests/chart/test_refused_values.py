"""Each bad input of `bad_input.txt` is refused by both majors of helm, in the words given there.

A paragraph is one: its name, values, what is given by `--set` after `$`, and the words after `>`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import MAJORS, RefusedError, render, render_ahead

SPECIFICATION = Path(__file__).with_name("bad_input.txt")
SECRETS = ("s3cret", "nine-char", "pässwörd", "5f0c2f6c")


def examples() -> list[Any]:
    found = []
    for paragraph in SPECIFICATION.read_text(encoding="utf-8").strip().split("\n\n"):
        name, *lines = paragraph.splitlines()
        values = yaml.safe_load("\n".join(line for line in lines if line[:2] not in ("> ", "$ ")))
        args = tuple(f"--set={line[2:]}" for line in lines if line[:2] == "$ ")
        wanted = [line[2:] for line in lines if line[:2] == "> "]
        found += [
            pytest.param(values, args, major, wanted, id=f"helm {major}: {name[2:]}")
            for major in MAJORS
        ]
    return found


@pytest.fixture(scope="module", autouse=True)
def _ahead() -> None:
    render_ahead(
        functools.partial(render, values, major=major, args=args)
        for values, args, major, _ in (each.values for each in examples())
    )


@pytest.mark.parametrize(("values", "args", "major", "wanted"), examples())
def test_bad_input(
    values: dict[str, Any], args: tuple[str, ...], major: int, wanted: list[str]
) -> None:
    with pytest.raises(RefusedError) as caught:
        render(values, major=major, args=args)
    assert caught.value.lines == wanted
    for secret in SECRETS:
        assert secret not in str(caught.value)
