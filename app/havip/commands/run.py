"""`havip run`: hold the VIP while this node deserves it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from havip.core.config import NodeConfig

EXAMPLE = """\
example:
  havip run --vip-address-cidr 192.168.1.100/24
  HAVIP_VIP_ADDRESS_CIDR=192.168.1.100/24 havip run --check-service-url http://127.0.0.1/healthz

SIGTERM and SIGINT hand the VIP over and end with status 0. A file that changes (the configuration,
keys, a password) is read again within seconds, on SIGHUP at once.

exit status:
  0  stopped as asked
  1  ended by an error of its own: the VIP expires within 3 seconds
  2  the configuration, the permissions or the host do not allow it; nothing was changed
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from havip.settings import add_arguments

    parser = subparsers.add_parser(
        "run",
        help="hold the virtual IP while this node deserves it",
        description="Speak VRRP and hold the virtual IP while this node deserves it.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop; returns the exit status."""
    # What a start allocates, it keeps: to look for garbage meanwhile is a tenth of its time. The
    # daemon turns the collector on once it runs.
    gc.disable()

    from havip.act.journal import Journal
    from havip.act.lock import LockHeldError
    from havip.commands.here import lacking_capabilities, refused_port
    from havip.daemon import Daemon, ListenError, RedirectError
    from havip.sense.files import FileWatch
    from havip.sense.host import read_host
    from havip.sense.names import Loop
    from havip.settings import ConfigError, load, resolve
    from havip.settings.balancer import started_with
    from havip.settings.sources import name_of

    files = FileWatch()
    try:
        loaded = load(arguments, os.environ, before_reading=files.note)
        settings = loaded.settings
        if lacking := [*lacking_capabilities()]:
            raise ConfigError.of(lacking)
        host = read_host()
        config, warnings = resolve(loaded, host)
    except ConfigError as error:
        print(f"havip: {error}", file=sys.stderr)
        return 2

    journal = Journal(settings.log_format, sys.stderr, debug=settings.debug)
    for warning in warnings:
        journal.warning(str(warning))

    may_wait = bool(loaded.awaits)

    def reload(files: FileWatch) -> NodeConfig:
        nonlocal may_wait
        # What was there once and goes is no reason to go on without it: the old access stays.
        reloaded = load(arguments, os.environ, before_reading=files.note, may_wait=may_wait)
        new, new_warnings = resolve(reloaded, read_host())
        may_wait = bool(reloaded.awaits)
        for each in new_warnings:
            warn(str(each))
        for name in ("listen", "metrics_listen", "log_format", "debug"):
            if getattr(reloaded.settings, name) != getattr(settings, name):
                setting = name_of(name)
                warn(f"{setting} takes effect at the next start", field=setting)
        for setting in started_with(settings, reloaded.settings):
            warn(f"{setting} takes effect once HAProxy and havip are restarted", field=setting)
        return new

    def warn(message: str, **fields: str) -> None:
        """From the reload's thread: the journal is the loop's alone."""
        runner.get_loop().call_soon_threadsafe(partial(journal.warning, message, **fields))

    runner = asyncio.Runner(loop_factory=Loop)
    try:
        daemon = Daemon(
            config,
            host,
            listen=str(settings.listen),
            metrics_listen=str(settings.metrics_listen) if settings.metrics_listen else None,
            journal=journal,
            files=files,
            reload=reload,
        )
        runner.run(daemon.run())
        status = 0
    except LockHeldError as error:
        print(f"havip: {error}", file=sys.stderr)
        status = 2
    except ListenError as error:
        problem = refused_port(error.field, error.listen, str(error))
        print(f"havip: {problem}", file=sys.stderr)
        status = 2
    except RedirectError as error:
        print(f"havip: {error}", file=sys.stderr)
        status = 2
    except Exception:
        traceback.print_exc()
        status = 1
    # Nothing is held any more, and a name look-up that hangs in a thread must not keep the
    # process: an orderly end would wait for it.
    sys.stderr.flush()
    os._exit(status)
