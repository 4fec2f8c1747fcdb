"""`havip COMMAND`: finds the command's module and runs it.

Only the module of the command that was named is imported: `havip status` needs no packet
sockets, and a daemon that starts should not wait for what it does not use.
"""

from __future__ import annotations

import os
import signal
import sys

if sys.argv[1:2] == ["run"]:
    # PID 1 of a container has no default action: without a handler SIGTERM is lost, and the
    # container is killed a grace period later. So this comes before all that takes time to
    # import, and ends at once, since nothing has begun yet: an exception might be swallowed
    # wherever it is raised. It stands until the loop has handlers of its own. A launcher that
    # starts havip with SIGTERM blocked (`env --block-signal=TERM`) keeps also the one that comes
    # while the interpreter starts.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    # By default it ends the process. Whoever sends it has changed a file, which this start may
    # have read already: so it waits, and the daemon reloads once it can.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

COMMANDS = (
    "run",
    "check-config",
    "status",
    "watch",
    "who-has",
    "manifest",
    "load-balancer",
    "demo",
)
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as a shell reports it."""


class _Version(argparse.Action):
    """Looks the version up only when somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version  # noqa: PLC0415

        print(f"havip {version('havip')}")  # noqa: T201
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status; the commands say what theirs mean."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # The import of a command takes a moment, too.
        arguments = _parser(words).parse_args(words)
        status: int = arguments.command(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again when it flushes at
        # exit, so the stream leads nowhere from here on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="havip",
        description="A virtual IP address that always reaches a healthy Kubernetes node.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    first = words[0] if words else ""
    wanted: Sequence[str] = COMMANDS
    if first in COMMANDS:
        wanted = (first,)
    elif first == "--version":
        wanted = ()
    for name in wanted:
        module = importlib.import_module(f"havip.commands.{name.replace('-', '_')}")
        module.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
