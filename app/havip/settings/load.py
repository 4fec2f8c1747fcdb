"""Flags, environment and file → settings that are valid by themselves, or a ConfigError.

What depends on the host (interfaces, addresses) is `resolve`'s.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from havip.core.config import Secret
from havip.files import identity, open_regular
from havip.settings import keys, rules, sources, values
from havip.settings.errors import ConfigError, ConfigWarning, Problem
from havip.settings.kubeconfig import Kubeconfig, read_kubeconfig
from havip.settings.model import AllSettings, Election, RouterSettings, Settings
from havip.settings.sources import Found, RankedSource

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

# A secret or the file that holds it: whichever the higher source gives, hides both below.
_ALTERNATIVES = (
    ("authPassword", "authPasswordFile"),
    ("authHmacKeys", "authHmacKeysFile"),
    ("kubeToken", "kubeTokenFile"),
)
_MAY_HOLD_SECRETS = ("virtualRouters", "nodeOverrides")
_Model = TypeVar("_Model", bound=BaseModel)
_ReadSecrets = Callable[[RouterSettings, str, "_Findings"], RouterSettings]
_ROUTER_NAMES = frozenset(info.alias or "" for info in RouterSettings.model_fields.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The API server and the service account of the pod that this process runs in."""

    url: str
    token_file: str
    ca_file: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that is valid by itself."""

    settings: Settings
    node_name: str
    """As set, else the host name."""
    routers: dict[str, RouterSettings]
    """By the prefix of their settings in messages: `` or `virtualRouters[0].`; the secrets of
    files are read."""
    where: dict[str, str]
    """By setting, the flag, variable or line that gave it; what is missing is a default."""
    file: str | None
    """The file that was read."""
    cluster: Cluster | None
    why_no_cluster: str
    is_in_cluster: bool = False
    """Whether there has to be a service account."""
    kubeconfig: Kubeconfig | None = None
    awaits: Mapping[str, str] = field(default_factory=dict)
    """By setting, the files of the access to the Kubernetes API that are not there yet."""
    warnings: tuple[ConfigWarning, ...] = ()

    def traced(self, problem: Problem) -> Problem:
        """The same problem, with the place where its value was written."""
        return replace(problem, source=problem.source or _source(self.where, problem.field))


@dataclass(slots=True)
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    warnings: list[ConfigWarning] = field(default_factory=list)


def load(
    arguments: argparse.Namespace,
    environ: Mapping[str, str],
    *,
    service_account: str = SERVICE_ACCOUNT,
    before_reading: Callable[[str], None] = lambda _path: None,
    is_for_here: bool = True,
    may_wait: bool = True,
) -> Loaded:
    """Read all sources; the files anew each time, so that a reload can call it again.

    Args:
        arguments: what a parser with `add_arguments` made.
        environ: the environment.
        service_account: directory of the mounted service account.
        before_reading: called with the path of each file that says something, also if it then
            cannot be read.
        is_for_here: whether it is for this host. If not, the node has no name unless one is given,
            and files that settings name are not read: stand-ins take the place of their secrets.
        may_wait: whether a kubeconfig, and what else VRRP can do without until it is made, may be
            missing: k3s and RKE2 write theirs at their first start, which may be after havip's.

    Raises:
        ConfigError: with everything that is wrong, as far as it can be seen at once.
    """
    findings = _Findings()
    path = sources.file_of(arguments, environ)
    before_reading(path or sources.DEFAULT_FILE)
    ranked = [sources.from_arguments(arguments), sources.from_environment(environ)]
    if path:
        ranked.append(sources.from_file(path))
    node_name = _node_name(ranked, os.uname().nodename if is_for_here else "")
    if path:
        ranked.insert(-1, _override(ranked[-1], node_name, findings))
    findings.problems += (problem for found in ranked for problem in found.problems)
    findings.warnings += (warning for found in ranked for warning in found.warnings)
    findings.problems += _hide_alternatives(ranked)
    where = {name: place for found in reversed(ranked) for name, place in found.where.items()}

    settings = _validated(_ranked_model(ranked), "", where, findings)
    routers: dict[str, RouterSettings] = {}
    if settings is not None:
        findings.problems += rules.of_process(settings)
        findings.warnings += rules.advice(settings)
        read = partial(_read_secrets, before_reading) if is_for_here else _stand_in
        routers = _routers(settings, ranked, where, findings, read)
        findings.problems += rules.of_all(settings, routers)
    kubeconfig: Kubeconfig | None = None
    awaits: dict[str, str] = {}
    if settings is not None and is_for_here:
        if may_wait and settings.election is Election.VRRP:
            # Without the API, who is to discover the peers would be silent in any case.
            is_discovering = any(router.discovers_peers for router in routers.values())
            awaits = {} if is_discovering else _awaited(settings)
        if settings.kubeconfig_file:
            before_reading(settings.kubeconfig_file)
    if settings and settings.kubeconfig_file and is_for_here and "kubeconfigFile" not in awaits:
        with _noting(findings):
            kubeconfig = read_kubeconfig(settings.kubeconfig_file)
            findings.warnings += kubeconfig.warnings
    if findings.problems:
        raise ConfigError.of(
            replace(each, source=each.source or _source(where, each.field))
            for each in findings.problems
        )
    assert settings
    cluster, why_no_cluster = _cluster(environ, service_account)
    return Loaded(
        settings=settings,
        node_name=node_name,
        routers=routers,
        where=where,
        file=path,
        cluster=cluster,
        why_no_cluster=why_no_cluster,
        is_in_cluster=any(found.is_in_cluster for found in ranked),
        kubeconfig=kubeconfig,
        awaits=awaits,
        warnings=tuple(findings.warnings),
    )


def _awaited(settings: Settings) -> dict[str, str]:
    """The files that are not there. One that is there, whatever it holds, is not awaited."""
    return {
        name: path
        for name, path in (
            ("kubeconfigFile", settings.kubeconfig_file),
            ("kubeCaFile", settings.kube_ca_file),
            ("kubeTokenFile", settings.kube_token_file),
            ("kubeClientCertFile", settings.kube_client_cert_file),
            ("kubeClientKeyFile", settings.kube_client_key_file),
            ("checkKubeApiCaFile", settings.check_kube_api_ca_file),
            ("checkKubeApiTokenFile", settings.check_kube_api_token_file),
            ("checkKubeApiClientCertFile", settings.check_kube_api_client_cert_file),
            ("checkKubeApiClientKeyFile", settings.check_kube_api_client_key_file),
        )
        if path and identity(path) == errno.ENOENT
    }


def _node_name(ranked: Iterable[Found], default: str) -> str:
    named = (found.given.get("nodeName") for found in ranked)
    return next((name for name in named if isinstance(name, str)), default)


def _override(file: Found, node_name: str, findings: _Findings) -> Found:
    """What the file says for this node alone, a source above the rest of it.

    The other nodes' settings are judged too: a mistake is then found on every node, before the
    one starts that it concerns.
    """
    own = Found()
    place = file.where.get("nodeOverrides", "")
    try:
        by_node = values.node_overrides(file.given.get("nodeOverrides", {}))
    except PydanticCustomError:
        return own  # the model refuses it too, in the same words as any other value
    for node, override in by_node.items():
        prefix = f"nodeOverrides.{node}."
        unknown = sources.unknown_in_override(override)
        findings.problems += (
            Problem(field=prefix + key, value=None, problem="is unknown here", remedy=remedy)
            for key, remedy in unknown
        )
        refused = {key for key, _ in unknown}
        given = {
            key: value
            for key, value in override.items()
            if key not in refused and value is not None and value != ""
        }
        judge = partial(AllSettings.model_validate, given)
        is_valid = _validated(judge, prefix, file.where, findings) is not None
        if node == node_name and is_valid:
            where = dict.fromkeys(given, f"{place}, nodeOverrides.{node}")
            own = Found(given=given, where=where)
    return own


def _ranked_model(ranked: list[Found]) -> type[Settings]:
    """`Settings` that reads these sources, the highest first."""

    class Ranked(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(RankedSource(settings_cls, found) for found in ranked)

    return Ranked


def _validated(
    make: Callable[[], _Model], prefix: str, where: Mapping[str, str], findings: _Findings
) -> _Model | None:
    try:
        return make()
    except ValidationError as error:
        for details in error.errors(include_url=False):
            findings.problems.append(_problem(details, prefix, where))
        return None


def _problem(details: ErrorDetails, prefix: str, where: Mapping[str, str]) -> Problem:
    name = str(details["loc"][0])
    context = details.get("ctx", {})
    value = context.get("value")
    if not value and name not in _MAY_HOLD_SECRETS:
        value = details["input"]
    if details["type"] == "refused":
        problem, remedy = str(context["problem"]), str(context["remedy"])
    else:
        problem, remedy = _in_words(details["type"], context, details["msg"])
    return Problem(
        field=prefix + name,
        value="***" if name in sources.SECRETS else value,
        problem=problem,
        remedy=remedy,
        source=_source(where, prefix + name),
    )


def _in_words(kind: str, context: Mapping[str, Any], message: str) -> tuple[str, str]:
    """Problem and remedy for what pydantic itself refuses."""
    match kind:
        case "greater_than_equal":
            return f"is less than {context['ge']:g}", f"set {context['ge']:g} or more"
        case "greater_than":
            return f"is not more than {context['gt']:g}", f"set more than {context['gt']:g}"
        case "less_than_equal":
            return f"is more than {context['le']:g}", f"set {context['le']:g} or less"
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return "is no whole number", "write a whole number"
        case "float_parsing" | "float_type" | "finite_number":
            return "is no number", "write a number"
        case "bool_parsing" | "bool_type":
            return "is neither true nor false", "write true or false"
        case "enum" | "literal_error":
            return f"is not {context['expected']}", "write one of these"
        case "tuple_type" | "dict_type":
            return "is not a list of mappings", "write a list with a mapping for each router"
        case _:
            return message[:1].lower() + message[1:], "see `havip check-config --help`"


def _hide_alternatives(ranked: list[Found]) -> list[Problem]:
    problems = []
    for pair in _ALTERNATIVES:
        is_given = False
        for found in ranked:
            here = [name for name in pair if name in found.given]
            if is_given:
                for name in here:
                    del found.given[name], found.where[name]
            elif len(here) > 1:
                problems.append(
                    Problem(
                        field=pair[0],
                        value="***",
                        source=found.where[pair[0]],
                        problem=f"is given beside {pair[1]}",
                        remedy="leave one of them out",
                    )
                )
            is_given = is_given or bool(here)
    return problems


def _routers(
    settings: Settings,
    ranked: list[Found],
    where: Mapping[str, str],
    findings: _Findings,
    read: _ReadSecrets,
) -> dict[str, RouterSettings]:
    common = {
        name: value
        for found in reversed(ranked)
        for name, value in found.given.items()
        if name in _ROUTER_NAMES
    }
    entries: dict[str, dict[str, Any]] = {"": {}}
    if settings.virtual_routers:
        entries = {
            f"virtualRouters[{index}].": {
                name: value for name, value in entry.items() if value is not None and value != ""
            }
            for index, entry in enumerate(settings.virtual_routers)
        }
        if "vipAddressCidr" in common:
            findings.problems.append(
                Problem(
                    field="vipAddressCidr",
                    value=common["vipAddressCidr"],
                    problem="is given beside virtualRouters, whose entries have their own",
                    remedy="make it an entry of virtualRouters",
                )
            )
    routers = {}
    for prefix, entry in entries.items():
        unknown = sources.unknown_in_entry(entry)
        findings.problems += (
            Problem(field=prefix + key, value=None, problem="is unknown here", remedy=remedy)
            for key, remedy in unknown
        )
        if unknown:
            continue
        merged = dict(common)
        for pair in _ALTERNATIVES:
            if any(name in entry for name in pair):
                for name in pair:
                    merged.pop(name, None)
        merged |= entry
        router = _validated(partial(RouterSettings.model_validate, merged), prefix, where, findings)
        if router is None:
            continue
        router = read(router, prefix, findings)
        findings.problems += (
            replace(problem, field=prefix + problem.field)
            for problem in rules.of_router(router, merged.keys())
        )
        routers[prefix] = router
    return routers


def _read_secrets(
    before_reading: Callable[[str], None],
    router: RouterSettings,
    prefix: str,
    findings: _Findings,
) -> RouterSettings:
    """The router with the secrets of its files."""
    for named in (router.auth_password_file, router.auth_hmac_keys_file):
        if named:
            before_reading(named)
    update: dict[str, Any] = {}
    if path := router.auth_password_file:
        with _noting(findings):
            password, warnings = keys.read_password(f"{prefix}authPasswordFile", path)
            update["auth_password"] = password
            findings.warnings += warnings
    if path := router.auth_hmac_keys_file:
        with _noting(findings):
            file, warnings = keys.read_hmac_keys(f"{prefix}authHmacKeysFile", path)
            update["auth_hmac_keys"] = file.keys
            findings.warnings += warnings
            if file.active is not None:
                update["auth_hmac_active_key"] = file.active
                findings.problems += rules.of_key_file(router, file.active, prefix)
    return router.model_copy(update=update) if update else router


def _stand_in(router: RouterSettings, _prefix: str, _findings: _Findings) -> RouterSettings:
    """The router with some secrets or other where it has files, so that the rules find them."""
    update: dict[str, Any] = {}
    if router.auth_password_file:
        update["auth_password"] = Secret(b"stand-in")
    if router.auth_hmac_keys_file:
        update["auth_hmac_keys"] = {router.auth_hmac_active_key or 1: Secret(bytes(32))}
    return router.model_copy(update=update) if update else router


@contextmanager
def _noting(findings: _Findings) -> Iterator[None]:
    """One file that is wrong does not hide what else is."""
    try:
        yield
    except ConfigError as error:
        findings.problems += error.problems


def _source(where: Mapping[str, str], field_name: str) -> str:
    setting = re.split(r"[.[]", field_name, maxsplit=1)[0]
    return where.get(setting, "")


def _cluster(environ: Mapping[str, str], service_account: str) -> tuple[Cluster | None, str]:
    """The cluster, or why there is none."""
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "") or "443"
    token_file = Path(service_account, "token")
    if not host:
        return None, "KUBERNETES_SERVICE_HOST is not set: this is no pod"
    if not token_file.exists():
        return None, f"no service account is mounted (there is no {token_file})"
    cluster = Cluster(
        url=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        token_file=str(token_file),
        ca_file=str(Path(service_account, "ca.crt")),
        namespace=_namespace(Path(service_account, "namespace")),
    )
    return cluster, ""


def _namespace(file: Path) -> str:
    """The namespace of the pod; where its file is amiss, that of Kubernetes' own parts."""
    try:
        with open_regular(str(file)) as opened:
            return values.namespace(opened.read(64).decode("ascii").strip())
    except (OSError, ValueError, PydanticCustomError):
        return "kube-system"
