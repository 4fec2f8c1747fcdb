"""A kubeconfig file: the server, the CA and the credential of its current context.

What stands in the file itself (`…-data`, `token`) stays in memory. What would have havip run a
program, go through a proxy or trust a server that nobody vouches for is refused by name.
https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from havip.core.config import Secret, TlsConfig
from havip.settings.errors import ConfigError, ConfigWarning, Problem
from havip.settings.pem import (
    certificate_problem,
    require_certificate,
    require_readable,
    require_token,
)
from havip.settings.values import api_server

FIELD = "kubeconfigFile"
_OF_THE_CLUSTER = {"proxy-url": "havip asks the API server directly: remove it"}
_OF_THE_USER = {
    "exec": "havip runs no programs: use a token file or a client certificate",
    "auth-provider": "havip knows no providers: use a token file or a client certificate",
    "username": "Kubernetes 1.19 has ended passwords: use a token file or a client certificate",
    "as": "havip does not act for others: use the credential of the account itself",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubeconfig:
    """The current context of a kubeconfig."""

    server: str
    """`https://host:port`."""
    tls: TlsConfig
    """With the client certificate, if there is one."""
    is_insecure: bool
    """It says that the server is not to be verified."""
    token_file: str | None
    token: Secret | None
    warnings: tuple[ConfigWarning, ...] = ()


def read_kubeconfig(path: str) -> Kubeconfig:
    """What the file says, and everything that it names readable.

    Raises:
        ConfigError: it cannot be read, is no kubeconfig, or wants what havip does not do.
    """
    # Only here, so that a daemon that is configured by its environment does without.
    from havip.settings.yaml_file import read_mapping  # noqa: PLC0415

    try:
        mapping, is_exposed = read_mapping(path)
    except ConfigError as error:
        raise ConfigError.of(_about_the_kubeconfig(path, each) for each in error.problems) from None
    whole = _Part(path, "", {key: value for key, (value, _) in mapping.items()})
    context = whole.named("contexts", whole.text("current-context"), "context", "current-context")
    cluster_name, user_name = context.text("cluster"), context.text("user")
    cluster = whole.named("clusters", cluster_name, "cluster", f"{context.place}cluster")
    user = whole.named("users", user_name, "user", f"{context.place}user")
    for part, refused in ((cluster, _OF_THE_CLUSTER), (user, _OF_THE_USER)):
        for key, remedy in refused.items():
            if part.given.get(key):
                raise part.refused(key, "is not supported", remedy)
    token_file = user.file("tokenFile")
    if token_file:
        require_token(FIELD, token_file)
    token = None if token_file else user.text("token", is_optional=True)
    tls = _tls(cluster, user)
    warnings = []
    if is_exposed and (token or tls.client_key_data):
        warnings.append(
            ConfigWarning(
                field=FIELD,
                problem=f"{path} holds a credential, and every user of this host can read it",
                remedy=f"chmod 0600 {path}",
            )
        )
    return Kubeconfig(
        server=_server(cluster),
        tls=tls,
        is_insecure=cluster.given.get("insecure-skip-tls-verify") is True,
        token_file=token_file,
        token=Secret(token.encode()) if token else None,
        warnings=tuple(warnings),
    )


def _about_the_kubeconfig(path: str, problem: Problem) -> Problem:
    """What the reader of YAML says of havip's own file, said of this one."""
    if problem.field == "config":
        return replace(problem, field=FIELD, remedy="name a kubeconfig")
    said = f"{problem.field} {problem.problem}"
    return replace(problem, field=FIELD, value=path, problem=said, source="")


def _server(cluster: _Part) -> str:
    text = cluster.text("server")
    try:
        return api_server(text)
    except PydanticCustomError as error:
        context = error.context or {}
        shown = "" if context.get("value") == "***" else f" {text}"
        raise cluster.refused(f"server{shown}", context["problem"], context["remedy"]) from None


def _tls(cluster: _Part, user: _Part) -> TlsConfig:
    ca_data = cluster.data("certificate-authority-data")
    ca_file = None if ca_data else cluster.file("certificate-authority")
    if ca_file:
        require_certificate(FIELD, ca_file)
    elif ca_data and (problem := certificate_problem(ca_data.encode())):
        raise cluster.refused("certificate-authority-data", problem, "put the CA's there")
    certificate, key = user.data("client-certificate-data"), user.data("client-key-data")
    certificate_file = None if certificate else user.file("client-certificate")
    key_file = None if key else user.file("client-key")
    if bool(certificate or certificate_file) != bool(key or key_file):
        raise user.refused(
            "client-certificate",
            "and client-key are of no use without each other",
            "give both, or neither",
        )
    if certificate_file:
        require_certificate(FIELD, certificate_file)
    if key_file:
        require_readable(FIELD, key_file)
    return TlsConfig(
        ca_file=ca_file,
        ca_data=ca_data,
        server_name=cluster.text("tls-server-name", is_optional=True) or None,
        client_cert_file=certificate_file,
        client_cert_data=Secret(certificate.encode()) if certificate else None,
        client_key_file=key_file,
        client_key_data=Secret(key.encode()) if key else None,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One mapping of the file, and where in the file it stands."""

    path: str
    place: str
    given: Mapping[str, Any]

    def refused(self, key: str, problem: str, remedy: str) -> ConfigError:
        """The refusal of one key; its value is not shown, it may be a secret."""
        return ConfigError(
            field=FIELD, value=self.path, problem=f"{self.place}{key} {problem}", remedy=remedy
        )

    def text(self, key: str, *, is_optional: bool = False) -> str:
        value = self.given.get(key)
        if value in (None, "") and is_optional:
            return ""
        if value in (None, ""):
            raise self.refused(key, "is missing", "name a complete kubeconfig")
        if not isinstance(value, str) or not value.isprintable():
            raise self.refused(key, "is no text", "put it in quotes")
        return value

    def file(self, key: str) -> str | None:
        """The path of a file; a relative one is relative to the kubeconfig."""
        text = self.text(key, is_optional=True)
        return str(Path(self.path).parent / text) if text else None

    def data(self, key: str) -> str | None:
        """PEM in base64."""
        text = self.text(key, is_optional=True)
        if not text:
            return None
        try:
            return base64.b64decode(text, validate=True).decode("ascii")
        except ValueError:
            raise self.refused(key, "is not PEM in base64", "write it anew") from None

    def named(self, key: str, name: str, inner: str, wanted_by: str) -> _Part:
        """The mapping under `inner` of the entry of a list that has this name."""
        entries = self.given.get(key)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, Mapping) and entry.get("name") == name:
                found = entry.get(inner)
                if not isinstance(found, Mapping):
                    break
                return _Part(self.path, f"{key}[{name}].{inner}.", found)
        raise self.refused(
            key,
            f"has no {inner} {name}, which {wanted_by} names",
            f"name one that is there (kubectl config get-contexts --kubeconfig {self.path})",
        )
