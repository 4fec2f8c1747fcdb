"""`havip check-config`: what would `havip run` do with this configuration, on this host?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from havip.commands.here import lacking_capabilities, taken_by_another, unusable_port
from havip.commands.table import table
from havip.core.config import Leg, NodeConfig, Secret
from havip.sense.host import read_host
from havip.settings import (
    ConfigError,
    ConfigWarning,
    Loaded,
    RouterSettings,
    add_arguments,
    load,
    resolve,
)
from havip.settings.checks import timeout_s
from havip.settings.sources import SECRETS, as_text, default_of, name_of

OK, WRONG = 0, 2
_EPILOG = """\
examples:
  havip check-config --config /etc/havip/config.yaml
  havip check-config --vip-address-cidr 192.0.2.10/24 --output json

exit status:
  0  the configuration is valid (there may be warnings)
  2  it is not, or not here; each problem is named with its remedy
"""


def add_parser(subparsers: Any) -> None:
    """Add `check-config` and its flags."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "check-config",
        help="show the effective configuration, and what is wrong with it",
        description="Show the effective configuration, where each value came from, and what is "
        "wrong with it. Changes nothing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="do not look at this host: interfaces, addresses, ports, and what this user may",
    )
    add_arguments(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration or its problems; the exit status says which."""
    is_json = arguments.output == "json"
    try:
        loaded = load(arguments, os.environ)
        config: NodeConfig | None = None
        warnings = list(loaded.warnings)
        if not arguments.offline:
            config, warnings = resolve(loaded, read_host())
            settings = loaded.settings
            problems = [*lacking_capabilities(), *unusable_port("listen", settings.listen)]
            if settings.metrics_listen is not None:
                problems += unusable_port("metricsListen", settings.metrics_listen)
            if config.balancer is not None:
                problems += taken_by_another(config.balancer)
            if problems:
                raise ConfigError.of(map(loaded.traced, problems))
    except ConfigError as error:
        if is_json:
            told = [dataclasses.asdict(problem) for problem in error.problems]
            print(json.dumps({"problems": told}, indent=2, default=str))
        else:
            print(*error.problems, sep="\n", file=sys.stderr)
        return WRONG
    if is_json:
        print(json.dumps(_document(loaded, config, warnings), indent=2))
    else:
        print("\n\n".join(_paragraphs(loaded, config, warnings)))
    return OK


def _paragraphs(
    loaded: Loaded, config: NodeConfig | None, warnings: list[ConfigWarning]
) -> Iterator[str]:
    yield f"# file: {loaded.file or 'none'}"
    yield table(
        (name, value["value"], value["source"]) for name, value in _settings(loaded, config).items()
    )
    for prefix, router in loaded.routers.items():
        if prefix:
            yield f"# {prefix.rstrip('.')}\n" + table(_entry(router).items())
    if config:
        yield f"# on this host, {config.node_name}\n" + "\n".join(
            f"{router.name}: VRID {router.virtual_router_id}, version {router.version}, from "
            f"{leg.source} on {router.vrrp_interface}"
            f" to {_destination(leg, config)}: "
            f"{', '.join(str(vip.interface) for vip in leg.vips)} on {router.vip_interface}"
            for router in config.routers
            for leg in router.legs
        )
        if config.checks:
            yield "# checks\n" + table(
                (
                    check.name,
                    check.url,
                    f"each {check.interval_s:g} s",
                    f"timeout {check.timeout_s:g} s",
                    f"fails after {check.fail_after}",
                    f"weight {check.weight}",
                    "certificate verified" if _is_verified(check.url, check.tls.verify) else "",
                )
                for check in config.checks
            )
    if warnings:
        yield "\n".join(f"warning: {warning}" for warning in warnings)


def _document(
    loaded: Loaded, config: NodeConfig | None, warnings: list[ConfigWarning]
) -> dict[str, Any]:
    return {
        "file": loaded.file,
        "settings": _settings(loaded, config),
        "virtualRouters": [_entry(router) for prefix, router in loaded.routers.items() if prefix],
        "resolved": _plain(config),
        "warnings": [dataclasses.asdict(warning) for warning in warnings],
    }


def _settings(loaded: Loaded, config: NodeConfig | None) -> dict[str, dict[str, str]]:
    """Each setting outside `virtualRouters`, as text, and its origin."""
    settings = loaded.settings
    derived = _derived(loaded, config)
    shown = {}
    for attribute, info in type(settings).model_fields.items():
        name = name_of(attribute)
        if name == "virtualRouters" and settings.virtual_routers:
            value = f"{len(settings.virtual_routers)}, below"
        elif name in loaded.where:
            value = _text(name, getattr(settings, attribute))
        elif name == "vipAddressCidr":
            value = "by virtualRouters"
        else:
            value = derived.get(name) or default_of(info)
        shown[name] = {"value": value, "source": loaded.where.get(name, "default")}
    return shown


def _derived(loaded: Loaded, config: NodeConfig | None) -> dict[str, str]:
    """What defaults that depend on something come to."""
    settings = loaded.settings
    found = {
        "nodeName": loaded.node_name,
        "vrrpAdvertInterval": as_text(settings.advert_interval_s),
        "checkServiceTimeout": as_text(timeout_s(None, settings.check_service_interval)),
        "checkKubeletTimeout": as_text(timeout_s(None, settings.check_kubelet_interval)),
        "checkKubeApiTimeout": as_text(timeout_s(None, settings.check_kube_api_interval)),
        "loadBalancerCheckTimeout": as_text(timeout_s(None, settings.load_balancer_check_interval)),
    }
    if config:
        for check in config.checks:
            if check.name == "kube_api":
                found["checkKubeApiUrl"] = check.url
        if config.kube:
            found["kubeApiServer"] = ", ".join(config.kube.servers)
            found["kubeNamespace"] = config.kube.namespace
        if not settings.virtual_routers:
            (router,) = config.routers
            found["vrrpInterfaceName"] = router.vrrp_interface
            found["vipInterfaceName"] = router.vip_interface
    return found


def _entry(router: RouterSettings) -> dict[str, str]:
    """What one entry of `virtualRouters` comes to, the common settings included."""
    return {
        info.alias or attribute: _text(info.alias or attribute, getattr(router, attribute))
        for attribute, info in RouterSettings.model_fields.items()
        if attribute in router.model_fields_set
    }


def _text(name: str, value: object) -> str:
    return "***" if name in SECRETS else as_text(value)


def _destination(leg: Leg, config: NodeConfig) -> str:
    if leg.discovers_peers:
        return f"the peers by {config.peer_source}"
    return ", ".join(map(str, leg.peers)) or "multicast"


def _is_verified(url: str, verify: bool) -> bool:
    return verify and url.startswith("https:")


def _plain(value: object) -> Any:
    """The core's configuration as JSON values; a Secret stays `***`."""
    if isinstance(value, Secret):
        return "***"
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else str(value)
