"""What a kind of manifest comes to: a text, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from havip.commands.manifest.plan import Plan
from havip.settings.errors import ConfigWarning


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    text: str
    steps: tuple[str, ...]
    """For people: what to do with it."""
    warnings: tuple[ConfigWarning, ...] = ()
    mode: int = 0o600
    """Of the file."""


def key_steps(plan: Plan) -> Iterator[str]:
    """How to make the files of keys and passwords on a node."""
    for path, attribute in plan.secret_files.items():
        what = "password" if attribute == "auth_password_file" else "key"
        make = 'echo "1: $(openssl rand -hex 32)"' if what == "key" else "openssl rand -hex 4"
        yield f"the {what}, made on one node and copied to the others:"
        yield f"  install -d -m 0700 {PurePosixPath(path).parent}"
        yield f"  (umask 077; {make} >{path})"


def secret_steps(plan: Plan, secret: str) -> Iterator[str]:
    """How to make the Secret that has these files."""
    names = sorted({PurePosixPath(path).name for path in plan.secret_files})
    if names:
        files = " ".join(f"--from-file={name}" for name in names)
        yield (
            "the Secret, once: "
            f"kubectl --namespace {plan.namespace} create secret generic {secret} {files}"
        )
