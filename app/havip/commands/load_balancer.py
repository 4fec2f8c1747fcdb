"""`havip load-balancer`: write what HAProxy starts with, or say what is in its way."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from havip.core.config import BalancerConfig
    from havip.settings import Loaded
    from havip.settings.errors import Problem

EPILOG = """\
examples:
  havip load-balancer --haproxy /usr/sbin/haproxy
  havip load-balancer && haproxy -W -db -f /run/havip-haproxy/haproxy.cfg

Run it before HAProxy starts; the manifests and the chart do. From then on `havip run` changes the
backends of the running HAProxy.

exit status:
  0  the configuration is written, and valid for the HAProxy that was named
  2  it is not: each problem is named with its remedy
"""
_HANG_S = 30.0
_SHOWN = 2000


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from havip.settings import add_arguments

    parser = subparsers.add_parser(
        "load-balancer",
        help="write HAProxy's configuration, before HAProxy starts",
        description="Write the configuration that HAProxy starts with, once nothing is in its way.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--haproxy",
        metavar="PROGRAM",
        help="the HAProxy that will run; it is asked for its version and validates the file",
    )
    add_arguments(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the files, or the problems; the exit status says which."""
    from havip.settings import ConfigError

    try:
        file = _prepare(arguments)
    except ConfigError as error:
        print(f"havip: {error}", file=sys.stderr)
        return 2
    print(file)
    return 0


def _prepare(arguments: argparse.Namespace) -> str:
    """The configuration that HAProxy is to start with, once it is written.

    Raises:
        ConfigError: with what is in the way; what was there before is there still.
    """
    from havip.settings import ConfigError, load

    loaded = load(arguments, os.environ)
    balancer, program = _balancer(loaded), arguments.haproxy
    if problems := [*_obstacles(balancer, program)] or _write(balancer, program):
        raise ConfigError.of(map(loaded.traced, problems))
    return balancer.configuration_file


def _balancer(loaded: Loaded) -> BalancerConfig:
    """The balancer of this node.

    Raises:
        ConfigError: there is none, or the configuration does not fit this host.
    """
    from havip.sense.host import read_host
    from havip.settings import ConfigError, resolve

    config, _ = resolve(loaded, read_host())
    if config.balancer is None:
        raise ConfigError(
            field="loadBalancer",
            value=False,
            problem="there is no load balancer to prepare",
            remedy="set loadBalancer: true",
        )
    return config.balancer


def _obstacles(balancer: BalancerConfig, program: str | None) -> Iterator[Problem]:
    """What would keep HAProxy from running, whatever its configuration says."""
    from havip.commands.here import taken_by_another, too_few_files

    yield from taken_by_another(balancer)
    yield from too_few_files(balancer)
    if program:
        yield from _unfit(program)


def _write(balancer: BalancerConfig, program: str | None) -> list[Problem]:
    """Write what HAProxy starts with. At most one problem: it cannot be, or is not taken."""
    from havip.act.haproxy import Proposal
    from havip.settings.errors import Problem

    try:
        proposal = Proposal(balancer)
        if why := proposal.kept_problem:
            print(f"havip: {balancer.kept_file} does not count, it {why}", file=sys.stderr)
        said = _refusal(program, proposal.file) if program else ""
        if not said:
            proposal.accept()
            return []
    except OSError as error:
        field, value = "loadBalancerDirectory", error.filename or balancer.directory
        problem, remedy = error.strerror or str(error), "let havip write there"
    else:
        field, value = "--haproxy", program
        problem, remedy = f"does not take {proposal.file}: {said}", "correct what it names"
    return [Problem(field=field, value=value, problem=problem, remedy=remedy)]


def _unfit(program: str) -> list[Problem]:
    """At most one: that this is no HAProxy, or too old a one."""
    from havip.core.haproxy import is_old
    from havip.settings.errors import Problem

    problem = ""
    try:
        said = _output(program, "-v")
    except OSError as error:
        problem = f"cannot be run: {error.strerror or error}"
    except subprocess.TimeoutExpired:
        problem = "does not say its version"
    else:
        version = said.partition("version ")[2].split(" ")[0]
        if is_old(version):
            problem = f"is version {version}" if version else "is no HAProxy"
    if not problem:
        return []
    remedy = "install HAProxy 2.6 or later (Debian 12: apt-get install haproxy), and name it here"
    return [Problem(field="--haproxy", value=program, problem=problem, remedy=remedy)]


def _refusal(program: str, file: str) -> str:
    """What HAProxy says against the configuration; empty if it takes it.

    Raises:
        OSError: the file is gone.
    """
    owner = Path(file).parent.stat()
    # Whoever the directory belongs to can have put another file there by now, and a configuration
    # can run programs: they are to run as that user, not as root.
    drops = os.geteuid() == 0 and owner.st_uid != 0
    try:
        done = subprocess.run(  # noqa: S603
            [program, "-c", "-f", file],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_HANG_S,
            check=False,
            user=owner.st_uid if drops else None,
            group=owner.st_gid if drops else None,
            extra_groups=[] if drops else None,
        )
    except subprocess.TimeoutExpired:
        return f"it has not said so within {_HANG_S:g} seconds"
    except OSError as error:
        return f"it cannot be run: {error.strerror or error}"
    said = " ".join((done.stdout + done.stderr).split())[:_SHOWN]
    return said or f"exit status {done.returncode}" if done.returncode else ""


def _output(program: str, *arguments: str) -> str:
    return subprocess.run(  # noqa: S603
        [program, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_HANG_S,
        check=False,
    ).stdout
