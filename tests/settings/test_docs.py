"""The document of the settings says what the model says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "ci" / "generate_docs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_of_a_refusal_is_real() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    command, answer = text.partition("```console\n$ havip ")[2].splitlines()[:2]
    done = subprocess.run(
        [sys.executable, "-m", "havip", *command.split()],
        capture_output=True,
        text=True,
        check=False,
        env={},
    )
    assert (done.returncode, done.stderr) == (2, f"{answer}\n")
