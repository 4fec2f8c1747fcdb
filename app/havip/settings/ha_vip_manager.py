"""What a configuration file of HA VIP Manager says, in havip's own settings.

Its `k8s:` block may stand in a file of havip's too. What it implies (`/readyz` decides, asked
every two seconds) is said only where the file does not say otherwise by havip's own name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from havip.settings.errors import ConfigWarning, Problem

_BLOCK = "k8s"
_ITS_OWN = ("node_id", "heartbeat_interval", "election_timeout", "tls_cert", "tls_key")
"""Keys that nobody else writes: by these the file is known."""
_KEYS = (_BLOCK, *_ITS_OWN, "priority", "interface", "vip", "peers", "port")
_K8S_KEYS = ("enabled", "in_cluster", "api_server", "token", "ca_cert")
_IMPLIED = {
    "checkKubeApiInterval": 2,
    "checkKubeApiFailAfter": 2,
    "checkKubeApiRecoverAfter": 2,
    "checkKubeApiStability": 5,
    "checkKubeApiWeight": 0,
    "allUnhealthy": "hold",
}
_BEST_PRIORITY = 201
"""What its priority 0 comes to; each one more is one less."""
_LAST_PRIORITY = 185
"""The last that leaves 16, below which `allUnhealthy: hold` ranks unhealthy nodes."""
_WITH_PORT = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+)):\d{1,5}")
_IGNORED = {
    "port": (
        "is ignored: VRRP is IP protocol 112 and has no port",
        "remove it, and let protocol 112 pass",
    ),
    "election_timeout": (
        "is ignored: three missed adverts are the longest that a holder may be silent",
        "remove it; vrrpAdvertInterval sets how fast that is",
    ),
    "tls_cert": (
        "is ignored, as HA VIP Manager did, whose heartbeats were never encrypted",
        "remove it; authHmacKeysFile signs adverts",
    ),
    "tls_key": ("is ignored, as tls_cert is", "remove it"),
}

Line = tuple[Any, int]
"""A value and the line of the file on which it stands."""


@dataclass(slots=True)
class Translation:
    """havip's settings, and what is left of the file."""

    rest: dict[str, Line]
    given: dict[str, tuple[Any, str, int]] = field(default_factory=dict)
    """Value, the key that it comes from, and its line."""
    problems: list[tuple[Problem, int]] = field(default_factory=list)
    warnings: list[ConfigWarning] = field(default_factory=list)
    is_in_cluster: bool = False
    """Only a service account will do."""


def translated(mapping: Mapping[str, Line]) -> Translation:
    """The file's top level, with the keys of HA VIP Manager replaced by havip's.

    A file without a key that is HA VIP Manager's alone is left as it is.
    """
    found = Translation(rest=dict(mapping))
    if not any(key in mapping for key in (_BLOCK, *_ITS_OWN)):
        return found
    for key in _KEYS:
        value, line = found.rest.pop(key, (None, 0))
        if value is None or value in ("", [], {}):
            continue
        if key in _IGNORED:
            problem, remedy = _IGNORED[key]
            found.warnings.append(ConfigWarning(field=key, problem=problem, remedy=remedy))
        elif key == _BLOCK:
            _translate_block(value, line, found)
        else:
            name, translate = _TRANSLATED[key]
            value = translate(value)
            if isinstance(value, Problem):
                found.problems.append((value, line))
            else:
                _give(found, name, value, key, line)
    return found


def _give(found: Translation, name: str, value: object, key: str, line: int) -> None:
    if name in found.rest:
        problem = Problem(
            field=key,
            value=None,
            problem=f"is given beside {name}, which means the same",
            remedy="leave one of them out",
        )
        found.problems.append((problem, line))
    else:
        found.given[name] = (value, key, line)


def _translate_block(block: object, line: int, found: Translation) -> None:
    if not isinstance(block, Mapping):
        remedy = f"write {', '.join(_K8S_KEYS)} below it, indented"
        about = Problem(field=_BLOCK, value=None, problem="is no mapping", remedy=remedy)
        found.problems.append((about, line))
        return
    for key, value in block.items():
        if key not in _K8S_KEYS:
            about = Problem(
                field=f"{_BLOCK}.{key}",
                value=None,  # a token may have got there
                problem="is unknown here",
                remedy=f"the keys are {', '.join(_K8S_KEYS)}",
            )
            found.problems.append((about, line))
        elif key in ("enabled", "in_cluster") and not isinstance(value, bool):
            about = Problem(
                field=f"{_BLOCK}.{key}",
                value=None,  # here too
                problem="is neither true nor false",
                remedy="write true or false",
            )
            found.problems.append((about, line))
    if block.get("enabled") is not True:
        return
    _give(found, "checkKubeApi", True, f"{_BLOCK}.enabled", line)
    for name, value in _IMPLIED.items():
        if name not in found.rest:
            found.given[name] = (value, _BLOCK, line)
    if block.get("in_cluster") is True:
        found.is_in_cluster = True
        return
    for key, name in (
        ("api_server", "kubeApiServer"),
        ("token", "kubeToken"),
        ("ca_cert", "kubeCaFile"),
    ):
        if block.get(key) not in (None, ""):
            _give(found, name, block[key], f"{_BLOCK}.{key}", line)


def _priority(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number and 0 <= value <= _LAST_PRIORITY:  # type: ignore[operator]
        return _BEST_PRIORITY - value  # type: ignore[operator]
    return Problem(
        field="priority",
        value=value,
        problem=(
            f"has no place in vrrpPriority, which it becomes as {_BEST_PRIORITY} - priority"
            if is_number
            else "is no whole number"
        ),
        remedy=f"use 0 to {_LAST_PRIORITY}, or set vrrpPriority, where the higher one wins",
    )


def _vip(value: object) -> object:
    """Without a prefix length it means the address alone there, and here."""
    if not isinstance(value, str) or "/" in value:
        return value
    return f"{value}/{128 if ':' in value else 32}"


def _peers(value: object) -> object:
    if not isinstance(value, list):
        return value
    matches = [(each, _WITH_PORT.fullmatch(str(each))) for each in value]
    return [(found[1] or found[2]) if found else each for each, found in matches]


def _same(value: object) -> object:
    return value


_TRANSLATED: dict[str, tuple[str, Callable[[object], object]]] = {
    "node_id": ("nodeName", _same),
    "priority": ("vrrpPriority", _priority),
    "interface": ("vrrpInterfaceName", _same),
    "vip": ("vipAddressCidr", _vip),
    "peers": ("vrrpUnicastPeers", _peers),
    "heartbeat_interval": ("vrrpAdvertInterval", _same),
}
