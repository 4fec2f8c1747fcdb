"""Where settings come from: command line, environment and file, and what is unknown in each.

pydantic-settings ranks the sources; reading them is done here, because each value has to be
traceable to the flag, the variable or the line that gave it, and an unknown name has to be
refused with the known one that it resembles. A value that is empty counts as not given, so that
a template can write every setting.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from havip.settings.errors import ConfigWarning, Problem
from havip.settings.model import RouterSettings, Settings

DEFAULT_FILE = "/etc/havip/config.yaml"
ENVIRONMENT_PREFIX = "HAVIP_"
CONFIG_VARIABLE = "HAVIP_CONFIG"

# What would be seen by every user of the host in the list of processes, or fits no flag.
_NO_FLAG = frozenset(
    {"auth_password", "auth_hmac_keys", "kube_token", "virtual_routers", "node_overrides"}
)
_NO_VARIABLE = frozenset({"auth_hmac_keys", "node_overrides"})
# One node that has another of these is none of the group, or nobody knows which it is.
_SAME_ON_ALL_NODES = frozenset(
    {
        *("vip_address_cidr", "virtual_router_id", "vrrp_version", "vrrp_advert_interval"),
        *(name for name in RouterSettings.model_fields if name.startswith("auth_")),
        *(name for name in Settings.model_fields if name.startswith("lease_")),
        *("virtual_routers", "node_overrides", "all_unhealthy", "election"),
        *("load_balancer", "load_balancer_port", "load_balancer_redirect_port"),
    }
)
SECRETS = frozenset({"authPassword", "authHmacKeys", "kubeToken"})

# What Kubernetes puts into the environment of a pod for a Service called havip or havip-…
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).
_INJECTED = re.compile(
    r"HAVIP(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?"
    r"|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)

_A_SERVICE = re.compile(r"(tcp|udp|sctp)://")


@dataclass(slots=True)
class Found:
    """What one source gives: values by the settings' names, and where exactly each stood."""

    given: dict[str, Any] = field(default_factory=dict)
    where: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    """What it says and nobody understands."""
    warnings: list[ConfigWarning] = field(default_factory=list)
    is_in_cluster: bool = False
    """It wants a service account."""


def name_of(attribute: str) -> str:
    """The setting's name in the file, such as `vipAddressCidr`."""
    alias = Settings.model_fields[attribute].alias
    assert alias
    return alias


def flag_of(attribute: str) -> str | None:
    """The setting's flag, or None where it has none."""
    return None if attribute in _NO_FLAG else f"--{attribute.replace('_', '-')}"


def variable_of(attribute: str) -> str | None:
    """The setting's environment variable, or None where it has none."""
    return None if attribute in _NO_VARIABLE else f"{ENVIRONMENT_PREFIX}{attribute.upper()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and a flag for each setting.

    Flags take their text as it is; `load` judges it, so that a flag, a variable and a line of the
    file are refused in the same words.
    """
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"YAML file (default: ${CONFIG_VARIABLE}, or {DEFAULT_FILE} if it exists)",
    )
    group = parser.add_argument_group("settings (also in the environment and in the file)")
    for attribute, info in Settings.model_fields.items():
        if not (flag := flag_of(attribute)):
            continue
        is_switch = info.annotation is bool
        group.add_argument(
            flag,
            dest=_destination(attribute),
            metavar="true|false" if is_switch else "VALUE",
            nargs="?" if is_switch else None,
            const="true" if is_switch else None,
            help=f"{(info.description or '').replace('%', '%%')} [{default_of(info)}]",
        )


def default_of(info: FieldInfo) -> str:
    """A setting's default, in words."""
    extra = info.json_schema_extra
    shown = extra.get("shown") if isinstance(extra, dict) else None
    return str(shown) if shown else as_text(info.default)


def as_text(value: object) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        if value and all(isinstance(part, tuple) for part in value):
            return ",".join(f"{low}-{high}" if low != high else str(low) for low, high in value)
        return ",".join(map(as_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def from_arguments(arguments: argparse.Namespace) -> Found:
    """What the flags of `add_arguments` say."""
    found = Found()
    for attribute in Settings.model_fields:
        text = getattr(arguments, _destination(attribute), None)
        if text is not None and text != "":
            found.given[name_of(attribute)] = text
            found.where[name_of(attribute)] = f"flag {flag_of(attribute)}"
    return found


def from_environment(environ: Mapping[str, str]) -> Found:
    """What `HAVIP_*` says."""
    found = Found()
    known = {
        variable: attribute
        for attribute in Settings.model_fields
        if (variable := variable_of(attribute))
    }
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        attribute = known.get(variable)
        if attribute is not None and _INJECTED.fullmatch(variable) and _A_SERVICE.match(text):
            continue  # of a Service called havip-load-balancer, or havip-load-balancer-redirect
        if attribute is None:
            if not _INJECTED.fullmatch(variable):
                found.problems.append(
                    Problem(
                        field=variable,
                        value=None,
                        problem="is no variable that havip knows",
                        remedy=_nearest(variable, [*known, CONFIG_VARIABLE]),
                    )
                )
            continue
        if text == "":
            continue
        name = name_of(attribute)
        found.where[name] = f"environment {variable}"
        if name != "virtualRouters":
            found.given[name] = text
            continue
        try:
            found.given[name] = json.loads(text)
        except ValueError as error:
            found.problems.append(
                Problem(
                    field=name,
                    value=None,  # there may be a password in it
                    source=f"environment {variable}",
                    problem=f"is not JSON: {error}",
                    remedy="write a JSON list of objects, or use the file",
                )
            )
    return found


def from_file(path: str) -> Found:
    """What a YAML file says.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    # Only here, so that a daemon that is configured by its environment does without.
    from havip.settings.ha_vip_manager import translated  # noqa: PLC0415
    from havip.settings.yaml_file import read_mapping  # noqa: PLC0415

    found = Found()
    known = [name_of(attribute) for attribute in Settings.model_fields]
    mapping, is_exposed = read_mapping(path)
    translation = translated(mapping)
    found.is_in_cluster = translation.is_in_cluster
    found.warnings.extend(translation.warnings)
    for problem, line in translation.problems:
        found.problems.append(replace(problem, source=f"file {path}:{line}"))
    for name, (value, key, line) in translation.given.items():
        found.given[name] = value
        found.where[name] = f"file {path}:{line}, {key}"
    for key, (value, line) in translation.rest.items():
        where = f"file {path}:{line}"
        if key not in known:
            found.problems.append(
                Problem(
                    field=key,
                    value=None,
                    source=where,
                    problem="is no setting that havip knows",
                    remedy=_nearest(key, known),
                )
            )
        elif value is not None and value != "":
            found.given[key] = value
            found.where[key] = where
    if is_exposed:
        found.warnings.extend(
            ConfigWarning(
                field=name,
                problem=f"stands in {path}, which every user of this host can read",
                remedy=f"chmod 0600 {path}, or name a file that holds it by {name}File",
            )
            for name in _secrets_in(found.given)
        )
    return found


def _secrets_in(given: Mapping[str, Any]) -> list[str]:
    entries = given.get("virtualRouters")
    entries = entries if isinstance(entries, list) else []
    return sorted(
        name
        for name in SECRETS
        if any(isinstance(each, Mapping) and each.get(name) for each in (given, *entries))
    )


def file_of(arguments: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """Path of the file to read: the one that was named, else the default one if it exists."""
    named: str | None = getattr(arguments, "config", None) or environ.get(CONFIG_VARIABLE)
    if named:
        return named
    return DEFAULT_FILE if Path(DEFAULT_FILE).exists() else None


def unknown_in_entry(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys that no entry of `virtualRouters` may have, each with a remedy."""
    known = [info.alias or "" for info in RouterSettings.model_fields.values()]
    everywhere = [name_of(attribute) for attribute in Settings.model_fields]
    return [
        (
            str(key),
            "it holds for the whole process: set it outside virtualRouters"
            if key in everywhere
            else _nearest(str(key), known),
        )
        for key in entry
        if key not in known
    ]


def unknown_in_override(override: Iterable[str]) -> list[tuple[str, str]]:
    """Keys that no node of `nodeOverrides` may have, each with a remedy."""
    common = {name_of(attribute) for attribute in _SAME_ON_ALL_NODES}
    chooses, secret = name_of("node_name"), name_of("kube_token")
    known = [name_of(attribute) for attribute in Settings.model_fields]
    known = [name for name in known if name not in common and name not in (chooses, secret)]
    remedies = {
        secret: f"the whole mapping is shown: name a file by {secret}File",
        **dict.fromkeys(common, "it has to be the same on all nodes: set it outside nodeOverrides"),
        chooses: "it says which of them counts: set it outside nodeOverrides",
    }
    return [
        (key, remedies.get(key) or _nearest(key, known)) for key in override if key not in known
    ]


class RankedSource(PydanticBaseSettingsSource):
    """One source, read already, in the form in which pydantic-settings ranks it."""

    def __init__(self, settings_cls: type[BaseSettings], found: Found) -> None:
        super().__init__(settings_cls)
        self._given = found.given

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        key = field.alias or field_name
        return self._given.get(key), key, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._given)


def _destination(attribute: str) -> str:
    return f"setting_{attribute}"


def _nearest(name: str, known: Iterable[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return f"did you mean {by_lower[close[0]]}? Otherwise remove it"
