"""`havip manifest`: what starts havip on a node, from the settings of havip."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from havip.commands.manifest.document import Document
    from havip.commands.manifest.plan import Plan

OK, UNWRITABLE, WRONG = 0, 1, 2
_STATUS = """
exit status:
  0  written
  1  the file cannot be written
  2  the settings are not valid, or not possible in this kind of manifest; nothing was written
"""
_EPILOG = f"""\
examples:
  havip manifest static-pod --vip-address-cidr 192.168.1.100/24 \\
      --check-service-url https://127.0.0.1:6443/readyz \\
      --output /etc/kubernetes/manifests/havip.yaml
  havip manifest systemd --config havip.yaml --output /etc/systemd/system/havip.service

Settings are given as to `havip run`: by flags, environment or file. Where the manifest goes, and
what else the node needs, is said on standard error and at the top of the manifest.
{_STATUS}"""


def add_parser(subparsers: Any) -> None:
    """Add `manifest`, its kinds and their flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "manifest",
        help="write what starts havip on nodes: a static pod, DaemonSet, HelmChart or systemd unit",
        description="Write what starts havip on nodes, from the same settings as `havip run`.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    from havip.commands.manifest.places import DISTRIBUTIONS, HELM_DISTRIBUTIONS

    kinds = parser.add_subparsers(metavar="KIND", required=True)

    static = _add_kind(kinds, "static-pod", _static_pod, "a pod that the kubelet starts by itself")
    _add_distribution(static, DISTRIBUTIONS)
    static.add_argument(
        "--init",
        action="store_true",
        help="for the first node of kubeadm 1.29 and later, before `kubeadm init`: where a "
        "kubeconfig is needed, super-admin.conf",
    )
    _add_pod(static)

    daemonset = _add_kind(kinds, "daemonset", _daemonset, "a DaemonSet with its rights")
    _add_pod(daemonset)
    _add_workload(daemonset)

    chart = _add_kind(kinds, "helmchart", _helmchart, "a HelmChart, which k3s and RKE2 install")
    _add_distribution(chart, HELM_DISTRIBUTIONS)
    chart.add_argument(
        "--chart",
        metavar="PATH",
        help="directory or archive of the chart, to stand within the manifest (default: the server "
        "serves it)",
    )
    _add_pod(chart)
    _add_workload(chart)

    systemd = _add_kind(kinds, "systemd", _systemd, "a unit for systemd")
    _add_host(systemd)

    haproxy = _add_kind(
        kinds, "systemd-haproxy", _systemd_haproxy, "the unit of HAProxy, beside that of havip"
    )
    _add_host(haproxy)
    haproxy.add_argument(
        "--haproxy",
        metavar="PATH",
        default="/usr/sbin/haproxy",
        help="where HAProxy is on the nodes [%(default)s]",
    )


def _add_kind(
    kinds: Any, name: str, make: Callable[[Plan, argparse.Namespace], Document], what: str
) -> argparse.ArgumentParser:
    from havip.commands.manifest.plan import NAME
    from havip.settings import add_arguments

    parser: argparse.ArgumentParser = kinds.add_parser(
        name,
        help=what,
        description=f"Write {what}.",
        epilog=f"example:\n  havip manifest {name} --vip-address-cidr 192.168.1.100/24\n{_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output", metavar="FILE", help="where to write it (default: standard output)"
    )
    parser.add_argument(
        "--name", default=NAME, help="what to call it; each VIP's differs [%(default)s]"
    )
    add_arguments(parser)
    parser.set_defaults(command=run, make=make)
    return parser


def _add_host(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--program",
        metavar="PATH",
        default="/usr/local/bin/havip",
        help="where havip is on the nodes [%(default)s]",
    )
    parser.add_argument(
        "--host-config",
        metavar="FILE",
        default="",
        help="havip's file on the nodes, in place of /etc/havip/config.yaml; a list of backends "
        "that stands in --config is left to it",
    )


def _add_distribution(parser: argparse.ArgumentParser, names: Any) -> None:
    first, *_ = names
    parser.add_argument(
        "--for",
        dest="distribution",
        choices=tuple(names),
        default=first,
        help="distribution of Kubernetes [%(default)s]",
    )


def _add_pod(parser: argparse.ArgumentParser) -> None:
    from havip.commands.manifest.plan import BALANCER_IMAGE, PULL_POLICY, VERSION

    group = parser.add_argument_group("the pod (names and defaults are the chart's)")
    group.add_argument("--namespace", default="kube-system", help="[%(default)s]")
    group.add_argument("--image", metavar="NAME", help=f"[localhost/havip:{VERSION}]")
    group.add_argument(
        "--load-balancer-image",
        dest="balancer_image",
        metavar="NAME",
        help=f"HAProxy's, with --load-balancer [{BALANCER_IMAGE}]",
    )
    group.add_argument(
        "--image-pull-policy",
        choices=("Always", "IfNotPresent", "Never"),
        default=PULL_POLICY,
        help="[%(default)s]",
    )
    group.add_argument(
        "--requests", metavar="AMOUNTS", help="such as cpu=100m [cpu=50m,memory=64Mi]"
    )
    group.add_argument("--limits", metavar="AMOUNTS", help="such as memory=256Mi [memory=128Mi]")
    group.add_argument(
        "--realtime", action="store_true", help="send adverts with real-time priority (SYS_NICE)"
    )
    group.add_argument(
        "--metrics", action="store_true", help="serve /metrics on the node's address too"
    )


def _add_workload(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the workload")
    group.add_argument(
        "--nodes",
        choices=("all", "control-plane"),
        default="all",
        help="on which nodes it runs [%(default)s]",
    )
    group.add_argument(
        "--auth-secret",
        metavar="NAME",
        default="havip-auth",
        help="Secret with the files that auth…File settings name, by their last part [%(default)s]",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the manifest; the exit status says whether."""
    from havip.commands.manifest.plan import plan
    from havip.settings import ConfigError, load

    loaded = None
    try:
        loaded = load(arguments, os.environ, is_for_here=False)
        made = plan(loaded, arguments)
        document: Document = arguments.make(made, arguments)
    except ConfigError as error:
        problems = map(loaded.traced, error.problems) if loaded else error.problems
        print(*problems, sep="\n", file=sys.stderr)
        return WRONG
    if arguments.output:
        try:
            _write(Path(arguments.output), document)
        except OSError as error:
            print(
                f"havip manifest: {arguments.output}: {error.strerror}; name a file in a directory "
                "that is there, or leave --output out",
                file=sys.stderr,
            )
            return UNWRITABLE
    else:
        print(document.text, end="")
    for warning in (*made.warnings, *document.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    for step in document.steps:
        print(step, file=sys.stderr)
    return OK


def _write(path: Path, document: Document) -> None:
    """Put it there as a whole, unless it is there: a kubelet starts the pod anew at each change."""
    content = document.text.encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            path.chmod(document.mode)
            return
    # The kubelet passes by what begins with a dot.
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".havip-", delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(content)
            temporary.chmod(document.mode)
            temporary.replace(path)
        except OSError:
            temporary.unlink()
            raise


def _static_pod(made: Plan, arguments: argparse.Namespace) -> Document:
    from havip.commands.manifest.places import DISTRIBUTIONS
    from havip.commands.manifest.static_pod import static_pod

    return static_pod(made, DISTRIBUTIONS[arguments.distribution], is_init=arguments.init)


def _daemonset(made: Plan, arguments: argparse.Namespace) -> Document:
    from havip.commands.manifest.daemonset import daemonset

    return daemonset(
        made,
        secret=arguments.auth_secret,
        on_control_plane=arguments.nodes == "control-plane",
    )


def _helmchart(made: Plan, arguments: argparse.Namespace) -> Document:
    from havip.commands.manifest.helmchart import helmchart
    from havip.commands.manifest.places import DISTRIBUTIONS

    return helmchart(
        made,
        DISTRIBUTIONS[arguments.distribution],
        chart=arguments.chart,
        secret=arguments.auth_secret,
        on_control_plane=arguments.nodes == "control-plane",
    )


def _systemd(made: Plan, arguments: argparse.Namespace) -> Document:
    from havip.commands.manifest.unit import unit

    return unit(made, arguments.program)


def _systemd_haproxy(made: Plan, arguments: argparse.Namespace) -> Document:
    from havip.commands.manifest.haproxy_unit import haproxy_unit

    return haproxy_unit(made, arguments.program, arguments.haproxy)
