"""What is to be written: settings that are valid by themselves, and what is said of the pods."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, Final

from havip.settings import ConfigError, Loaded, RouterSettings, Settings, sources
from havip.settings.errors import ConfigWarning, Problem
from havip.settings.load import SERVICE_ACCOUNT
from havip.settings.model import Election
from havip.settings.sources import SECRETS, as_text, name_of, variable_of
from havip.settings.values import AUTO, Endpoint

VERSION: Final = version("havip")
CONFIG_DIRECTORY: Final = PurePosixPath("/etc/havip")
_SERVICE_ACCOUNTS: Final = (SERVICE_ACCOUNT, SERVICE_ACCOUNT.removeprefix("/var"))
NAME: Final = "havip"
"""What it is called, unless there are several."""
_PORT_OF_VRID: Final = 9640
"""Pods that share a node have different VRIDs, and so different ports; 10 has the usual one."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,51}[a-z0-9])?")
_IMAGE = re.compile(
    r"(?P<repository>[a-z0-9][a-z0-9._-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|Ki|Mi|Gi|)", re.ASCII)
_FACTORS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9} | {
    f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMG", start=1)
}
# The kubelet's probes and the scraper know one port; the rest is read at the start only.
_OF_ALL_PODS: Final = frozenset({"listen", "metricsListen", "logFormat", "debug"})
_RESOURCES: Final = {
    "requests": {"cpu": "50m", "memory": "64Mi"},
    "limits": {"memory": "128Mi"},
}
_LEAST_MEMORY: Final = 96 * 1024**2
_LEAST_CPU: Final = 0.1
# A directory that is mounted hides what the image has there.
_OF_THE_SYSTEM = frozenset({"bin", "dev", "lib", "lib64", "proc", "sbin", "sys", "usr"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    repository: str
    tag: str
    digest: str

    def __str__(self) -> str:
        """As a container runtime takes it: a digest counts in place of the tag."""
        return (
            f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"
        )


BALANCER_IMAGE: Final = Image(repository="docker.io/library/haproxy", tag="3.0", digest="")
"""The public image; the tests run that version in pods, of Debian 13."""
PULL_POLICY: Final = "IfNotPresent"
"""Of every image, unless one is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPlan:
    """What is said of pods beside the daemon's settings."""

    image: Image
    pull_policy: str
    resources: dict[str, dict[str, str]]
    realtime: bool
    metrics: bool
    balancer_image: Image
    """HAProxy's; of no meaning without a load balancer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    name: str
    namespace: str
    loaded: Loaded
    given: dict[str, Any]
    """By the attributes' names, what was set and what follows from the VRID."""
    routers: tuple[RouterSettings, ...]
    warnings: tuple[ConfigWarning, ...]
    is_in_cluster: bool
    """Only a service account will do."""
    pod: PodPlan
    """Of no meaning where there is no pod."""
    host_config: str
    """The daemon's file on hosts, or empty: the usual one, if it is there."""
    backends_are_in_file: bool
    """Whether the daemon of a host finds the list of backends in its file."""

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @property
    def listen(self) -> Endpoint:
        listen = self.given["listen"]
        assert isinstance(listen, Endpoint)
        return listen

    @property
    def grace_period_s(self) -> int:
        """A leaver waits for its successor for two adverts and a skew, at most 20 s.

        With a Lease, as long as it may hold without the API server.
        """
        needs_s = max(3 * router.advert_interval_s for router in self.routers)
        if self.settings.election is Election.LEASE:
            needs_s = self.settings.lease_renew_deadline + 2
        return min(30, max(10, math.ceil(needs_s)))

    @property
    def lease_namespace(self) -> str:
        """Of the Leases, as the daemon in a pod of this namespace finds it."""
        settings = self.settings
        return settings.lease_namespace or settings.kube_namespace or self.namespace

    @property
    def discovers_peers(self) -> bool:
        """Whether a virtual router, on whatever node, discovers its peers."""
        overrides = self.settings.node_overrides.values()
        return any(router.discovers_peers for router in self.routers) or any(
            str(override.get("vrrpUnicastPeers", "")).strip() == AUTO for override in overrides
        )

    @property
    def secret_files(self) -> dict[str, str]:
        """The files of keys and passwords, each with the attribute of the setting that names it."""
        return {
            path: attribute
            for router in self.routers
            for attribute in _SECRET_FILES
            if (path := getattr(router, attribute))
        }

    @property
    def other_files(self) -> dict[str, str]:
        """By the attributes' names, what else the daemon reads: certificates and tokens."""
        return {
            name: value
            for name, value in self.given.items()
            if name.endswith("_file") and name not in _SECRET_FILES
        }

    @property
    def keeps_backends(self) -> bool:
        """Whether a list of backends has to outlast a restart."""
        return self.settings.load_balancer and self.settings.load_balancer_backends == AUTO


_SECRET_FILES = tuple(
    name
    for name in RouterSettings.model_fields
    if name.startswith("auth_") and name.endswith("_file")
)


SHOWN: Final = (
    "kube_holder_lease",
    "kube_events",
    "kube_holder_label",
    "kube_node_watch",
    "kube_node_weight",
)
"""What is done with the Kubernetes API, not how to get there."""


def uses_api(settings: Settings) -> bool:
    """Whether the daemon itself speaks to the Kubernetes API, beside its checks."""
    shows = settings.kube_holder_lease or settings.kube_events or settings.kube_holder_label
    discovers = settings.kube_peers_service or settings.kube_peers_selector
    return bool(
        settings.election is Election.LEASE or shows or settings.kube_node_watch or discovers
    )


def is_of_service_account(path: str) -> bool:
    """Whether the kubelet puts it into a pod that has the token of a service account."""
    return path.startswith(tuple(f"{directory}/" for directory in _SERVICE_ACCOUNTS))


def plan(loaded: Loaded, arguments: argparse.Namespace) -> Plan:
    """What the command line asks for.

    Raises:
        ConfigError: with everything about it that is wrong in any kind of manifest.
    """
    problems: list[Problem] = []
    settings = loaded.settings
    host_config: str = getattr(arguments, "host_config", "")
    given = {
        attribute: getattr(settings, attribute)
        for attribute in Settings.model_fields
        if name_of(attribute) in loaded.where
    }
    if "listen" not in given:
        lowest = min(router.virtual_router_id for router in loaded.routers.values())
        given["listen"] = Endpoint("127.0.0.1", _PORT_OF_VRID + lowest)
    problems += _inline_secrets(given)
    problems += _names(arguments)
    problems += _files_of_hosts(arguments)
    image, about_image = _image(
        "--image",
        getattr(arguments, "image", None),
        Image(repository="localhost/havip", tag=VERSION, digest=""),
    )
    balancer_image, about_balancer_image = _image(
        "--load-balancer-image", getattr(arguments, "balancer_image", None), BALANCER_IMAGE
    )
    resources, about_resources = _resources(arguments)
    problems += [*about_image, *about_balancer_image, *about_resources]
    made = Plan(
        name=arguments.name,
        namespace=getattr(arguments, "namespace", ""),
        loaded=loaded,
        given=given,
        routers=tuple(loaded.routers.values()),
        is_in_cluster=loaded.is_in_cluster,
        warnings=(*loaded.warnings, *_advice(settings)),
        pod=PodPlan(
            image=image,
            pull_policy=getattr(arguments, "image_pull_policy", ""),
            resources=resources,
            realtime=getattr(arguments, "realtime", False),
            metrics=getattr(arguments, "metrics", False),
            balancer_image=balancer_image,
        ),
        host_config=host_config,
        backends_are_in_file=(host_config != "" or loaded.file == sources.DEFAULT_FILE)
        and loaded.where.get("loadBalancerBackends", "").startswith("file "),
    )
    problems += _paths(made)
    if made.pod.metrics and settings.metrics_listen is not None:
        problems.append(
            Problem(
                field="metricsListen",
                value=str(settings.metrics_listen),
                problem="is given beside --metrics",
                remedy="leave one of them out",
            )
        )
    refuse(problems)
    return made


def refuse(problems: Iterable[Problem]) -> None:
    """Raise a ConfigError of them, if there is one."""
    if found := tuple(problems):
        raise ConfigError.of(found)


def without_overrides(made: Plan) -> Plan:
    """Of one node: what the settings of single nodes have for it is among the others already."""
    if made.settings.node_overrides and made.settings.node_name is None:
        refuse(
            [
                Problem(
                    field="nodeOverrides",
                    value=None,
                    problem="are settings of single nodes, and this is for one of them",
                    remedy="say for which: --node-name",
                )
            ]
        )
    given = {name: value for name, value in made.given.items() if name != "node_overrides"}
    return replace(made, given=given)


def load_balancer_of(made: Plan) -> Iterator[Problem]:
    """What HAProxy beside havip needs, and pods or units do not give."""
    settings = made.settings
    if "load_balancer_directory" in made.given and settings.load_balancer:
        yield Problem(
            field="loadBalancerDirectory",
            value=settings.load_balancer_directory,
            problem="is chosen by the manifest, where havip and HAProxy share it",
            remedy="leave it out",
        )


def no_service_account(made: Plan) -> Iterator[Problem]:
    """It is in no static pod, and on no host."""
    if made.is_in_cluster:
        yield Problem(
            field="k8s.in_cluster",
            value=True,
            problem="there is no service account where there is no API server",
            remedy="set in_cluster: false with api_server and ca_cert, or kubeconfigFile",
        )
    for attribute, path in made.other_files.items():
        if is_of_service_account(path):
            yield Problem(
                field=name_of(attribute),
                value=path,
                problem="is a service account's, and without the API server there is none",
                remedy="name a file of the node, or leave it out",
            )


def of_all_nodes(made: Plan) -> Iterator[Problem]:
    """What pods that are alike cannot have."""
    if made.settings.node_name is not None:
        yield Problem(
            field="nodeName",
            value=made.settings.node_name,
            problem="would be the name of every node",
            remedy="leave it out: each pod takes that of its node",
        )
    for node, override in made.settings.node_overrides.items():
        for name in override:
            if name.endswith("File") or name in _OF_ALL_PODS:
                yield Problem(
                    field=f"nodeOverrides.{node}.{name}",
                    value=str(override[name]),
                    problem="concerns the pod, and the pods of all nodes are alike",
                    remedy="set it outside nodeOverrides",
                )


def _inline_secrets(given: Mapping[str, Any]) -> Iterator[Problem]:
    """A manifest is copied, kept in git, shown by kubectl: no place for a secret."""
    places: list[tuple[str, Mapping[str, Any]]] = [
        ("", {name_of(attribute): value for attribute, value in given.items()})
    ]
    places += (
        (f"virtualRouters[{index}].", entry)
        for index, entry in enumerate(given.get("virtual_routers", ()))
    )
    places += (
        (f"nodeOverrides.{node}.", entry) for node, entry in given.get("node_overrides", {}).items()
    )
    for prefix, entry in places:
        for name in sorted(SECRETS & entry.keys()):
            yield Problem(
                field=prefix + name,
                value="***",
                problem="would stand in the manifest for everybody to read",
                remedy=f"put it into a file of mode 0600 on each node, and name that by {name}File",
            )


def _names(arguments: argparse.Namespace) -> Iterator[Problem]:
    for flag in ("name", "namespace"):
        value = getattr(arguments, flag, None)
        if value is not None and not _NAME.fullmatch(value):
            yield Problem(
                field=f"--{flag}",
                value=value,
                problem="is no name that Kubernetes takes",
                remedy="use at most 53 lower-case letters, digits and hyphens, a letter first",
            )


def _files_of_hosts(arguments: argparse.Namespace) -> Iterator[Problem]:
    """What stands in a unit, in which a line break would begin another setting of systemd's."""
    for attribute in ("host_config", "program", "haproxy"):
        path: str = getattr(arguments, attribute, "")
        problem = ""
        if not path.isprintable():
            problem = "contains a control character or is no valid text"
            remedy = "write it anew"
        elif attribute == "host_config" and path and not PurePosixPath(path).is_absolute():
            problem = "is no absolute path"
            name = arguments.name
            remedy = f"name a file of the hosts, such as {CONFIG_DIRECTORY}/{name}.yaml"
        if problem:
            field = f"--{attribute.replace('_', '-')}"
            yield Problem(field=field, value=path, problem=problem, remedy=remedy)


def _image(flag: str, text: str | None, default: Image) -> tuple[Image, list[Problem]]:
    found = _IMAGE.fullmatch(text) if text else None
    if found and (found["tag"] or found["digest"]):
        parts = (found[part] or "" for part in ("repository", "tag", "digest"))
        return Image(**dict(zip(("repository", "tag", "digest"), parts, strict=True))), []
    if text is None:
        return default, []
    problem = Problem(
        field=flag,
        value=text,
        problem="has neither tag nor digest" if found else "is no name of an image",
        remedy=f"write it like {default}",
    )
    return default, [problem]


def _resources(
    arguments: argparse.Namespace,
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """The usual ones, with what was said of single amounts."""
    problems = []
    resources = {kind: dict(amounts) for kind, amounts in _RESOURCES.items()}
    for kind, amounts in resources.items():
        for part in filter(None, (getattr(arguments, kind, None) or "").split(",")):
            name, _, text = part.partition("=")
            quantity = _quantity(text)
            problem = ""
            if name not in {"cpu", "memory"} or quantity is None:
                problem, remedy = "is no amount", "write it like cpu=50m,memory=128Mi"
            elif (kind, name) == ("limits", "memory") and quantity < _LEAST_MEMORY:
                problem = "would kill the process, which takes some 60Mi"
                remedy = "set 128Mi, or at least 96Mi"
            elif (kind, name) == ("limits", "cpu") and quantity < _LEAST_CPU:
                problem = "would hold adverts back for longer than backups wait"
                remedy = "leave it out, or set 100m or more"
            if problem:
                problems.append(
                    Problem(field=f"--{kind}", value=part, problem=problem, remedy=remedy)
                )
            amounts[name] = text
    return resources, problems


def _quantity(text: str) -> float | None:
    found = _QUANTITY.fullmatch(text)
    return float(found[1]) * _FACTORS[found[2]] if found else None


def _paths(made: Plan) -> Iterator[Problem]:
    """Files are named as they are on the node, and seen in a pod under the same name."""
    secret = ((attribute, path) for path, attribute in made.secret_files.items())
    for attribute, path in (*made.other_files.items(), *secret):
        if not path.startswith("/") or ".." in PurePosixPath(path).parts:
            yield Problem(
                field=name_of(attribute),
                value=path,
                problem="is no absolute path",
                remedy="name the file as the daemon will find it, from / on",
            )


def own_directories(made: Plan) -> Iterator[Problem]:
    """Of keys a whole directory is mounted, since a file that is replaced would not be seen."""
    for path, attribute in made.secret_files.items():
        directory = PurePosixPath(path).parent
        parts = directory.parts
        if directory == CONFIG_DIRECTORY or len(parts) < 3 or parts[1] in _OF_THE_SYSTEM:
            yield Problem(
                field=name_of(attribute),
                value=path,
                problem=f"{directory} as a whole would be mounted into the pod, and is not for "
                "keys alone",
                remedy=f"give them a directory, such as {CONFIG_DIRECTORY}/auth/",
            )


def _advice(settings: Settings) -> Iterator[ConfigWarning]:
    checks = (settings.check_service_url, settings.check_kubelet, settings.check_kube_api)
    if not (any(checks) or settings.load_balancer):
        yield ConfigWarning(
            field="checkServiceUrl",
            problem="nothing is checked, so that a node holds the VIP whatever works on it",
            remedy="for the API server of kubeadm: --check-service-url "
            "https://127.0.0.1:6443/readyz",
        )


def texts(made: Plan) -> dict[str, str]:
    """The settings by their environment variables."""
    found = {}
    for attribute, value in made.given.items():
        variable = variable_of(attribute)
        assert variable, attribute
        found[variable] = (
            json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            if attribute == "virtual_routers"
            else as_text(value)
        )
    return found
