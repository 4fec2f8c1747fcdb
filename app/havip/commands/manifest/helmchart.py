"""A HelmChart, which k3s and RKE2 install by themselves while the first server starts."""

from __future__ import annotations

import base64
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from havip.commands.manifest import archive
from havip.commands.manifest.daemonset import native
from havip.commands.manifest.document import Document, secret_steps
from havip.commands.manifest.places import Distribution
from havip.commands.manifest.plan import (
    BALANCER_IMAGE,
    PULL_POLICY,
    SHOWN,
    VERSION,
    Plan,
    load_balancer_of,
    of_all_nodes,
    refuse,
)
from havip.commands.manifest.pod import (
    CONTROL_PLANE_AFFINITY,
    CONTROL_PLANE_TOLERATIONS,
    Object,
    file_volumes,
)
from havip.commands.manifest.text import comment, to_yaml
from havip.settings.errors import ConfigError, Problem
from havip.settings.sources import name_of

SERVED: Final = f"https://%{{KUBERNETES_API}}%/static/charts/havip-{VERSION}.tgz"
"""The chart, as the server itself serves what lies in its directory."""
_NAMESPACE: Final = "kube-system"
"""Where k3s and RKE2 keep their own."""
_METHODS: Final = {
    "auth_hmac_keys_file": ("hmac", "/var/run/secrets/havip/hmac-keys"),
    "auth_password_file": ("password", "/var/run/secrets/havip/password"),
}
"""What the chart calls the authentication, and where its pods have the file."""
_CHARTS_OWN: Final[dict[str, Any]] = {
    "checkServiceUrl": "",
    "checkKubelet": False,
    "checkKubeApi": False,
    "kubeHolderLease": False,
    "kubeEvents": False,
    "kubeNodeWatch": False,
}
"""What the chart does unasked; here only what is set counts, as in every kind of manifest."""


def helmchart(
    plan: Plan,
    distribution: Distribution,
    *,
    chart: str | None,
    secret: str,
    on_control_plane: bool,
) -> Document:
    """The manifest for the server's directory.

    Args:
        chart: a directory or an archive that is to stand within it; None: served by the server.
        secret: name of the Secret with the keys or the password, if the settings name a file.

    Raises:
        ConfigError: the chart cannot be told that, or there is no chart.
    """
    refuse([*of_all_nodes(plan), *load_balancer_of(plan), *_unknown_to_the_chart(plan)])
    plan = distribution.with_its_answers(plan)
    content = _packed(chart) if chart else None
    assert distribution.manifests
    served = PurePosixPath(distribution.manifests).parent / "static/charts" / f"havip-{VERSION}.tgz"
    values = _values(plan, secret=secret, on_control_plane=on_control_plane)
    steps = (
        f"the image: {distribution.import_image}",
        *(() if chart else (f"the chart, by `helm package`: {served}",)),
        *secret_steps(plan, secret),
        f"the VIP in the API server's certificate: {distribution.certificate}",
        f"this file: {distribution.manifests}/{plan.name}.yaml",
    )
    head = (
        "Made by `havip manifest helmchart`; to change it, make it anew.",
        "On each server:",
        *(f"  {step}" for step in steps),
    )
    made: Object = {
        "apiVersion": "helm.cattle.io/v1",
        "kind": "HelmChart",
        "metadata": {"name": plan.name, "namespace": _NAMESPACE},
        "spec": {
            # The job that installs it runs in the host's network, on a server that is not ready.
            "bootstrap": True,
            **({"chartContent": encoded(content)} if content else {"chart": SERVED}),
            "targetNamespace": plan.namespace,
            # The default, reinstall, would take the VIP away to begin with.
            "failurePolicy": "retry",
            "valuesContent": to_yaml(values),
        },
    }
    return Document(
        text=comment(head) + to_yaml(made),
        steps=steps,
        warnings=(*distribution.warnings(plan.settings),),
    )


def encoded(content: bytes) -> str:
    """As `chartContent`, in lines that an editor can show."""
    return "\n".join(textwrap.wrap(base64.b64encode(content).decode(), 96))


def _values(plan: Plan, *, secret: str, on_control_plane: bool) -> dict[str, Any]:
    """What the chart is told."""
    settings = native(plan)
    settings.pop("kubePeersService", None)
    balancer: dict[str, Any] = {}
    if settings.pop("loadBalancer", False):
        balancer = {"loadBalancer": {"enabled": True}}
        its_image: Object = {}
        if plan.pod.balancer_image != BALANCER_IMAGE:
            chosen = plan.pod.balancer_image
            named = {"digest": chosen.digest} if chosen.digest else {"tag": chosen.tag}
            its_image |= {"repository": chosen.repository, **named}
        if plan.pod.pull_policy != PULL_POLICY:
            its_image["pullPolicy"] = plan.pod.pull_policy
        if its_image:
            balancer["loadBalancer"]["image"] = its_image
    for attribute, (method, _) in _METHODS.items():
        if settings.pop(name_of(attribute), None):
            settings |= {"authMethod": method, "authExistingSecret": secret}
    image = plan.pod.image
    pod: dict[str, Any] = {"resources": plan.pod.resources}
    if plan.pod.realtime:
        pod["realtime"] = True
    volumes, mounts = file_volumes(plan)
    if volumes:
        pod |= {"extraVolumes": volumes, "extraVolumeMounts": mounts}
    if on_control_plane:
        pod |= {
            "tolerateMasterTaints": True,
            "tolerations": CONTROL_PLANE_TOLERATIONS,
            "affinity": CONTROL_PLANE_AFFINITY,
        }
    return {
        **_CHARTS_OWN,
        **settings,
        **balancer,
        "kind": "DaemonSet",
        "image": {
            "repository": image.repository,
            **({"digest": image.digest} if image.digest else {"tag": image.tag}),
            "pullPolicy": plan.pod.pull_policy,
        },
        "pod": pod,
        **({"metrics": {"enabled": True}} if plan.pod.metrics else {}),
    }


def _unknown_to_the_chart(plan: Plan) -> Iterator[Problem]:
    if plan.settings.metrics_listen is not None:
        yield Problem(
            field="metricsListen",
            value=str(plan.settings.metrics_listen),
            problem="is no value of the chart",
            remedy="give --metrics in its place, which serves them on each node's address",
        )
    if "state_directory" in plan.given:
        yield Problem(
            field="stateDirectory",
            value=plan.settings.state_directory,
            problem="is no value of the chart, which keeps a directory of the node for it",
            remedy="leave it out",
        )
    for attribute in plan.given:
        # The Service of this name the chart makes, and says so itself.
        is_its_own = plan.given[attribute] == f"peers-{plan.name}"
        if attribute == "kube_peers_service" and is_its_own:
            continue
        if attribute.startswith("kube") and attribute not in SHOWN:
            yield Problem(
                field=name_of(attribute),
                value=None,
                problem="is no value of the chart, whose pods ask with their service account",
                remedy="leave it out",
            )
    for attribute, (_, path) in _METHODS.items():
        given = plan.given.get(attribute)
        if given not in (None, path):
            yield Problem(
                field=name_of(attribute),
                value=given,
                problem="is elsewhere in the chart's pods",
                remedy=f"name it {path}",
            )
    for index, entry in enumerate(plan.settings.virtual_routers):
        for name in entry:
            if name.startswith("auth"):
                yield Problem(
                    field=f"virtualRouters[{index}].{name}",
                    value=None,
                    problem="the chart has one authentication for all",
                    remedy="set it outside virtualRouters",
                )


def _packed(chart: str) -> bytes:
    """The chart's archive, whether it is one already or a directory.

    Raises:
        ConfigError: there is no chart.
    """
    path = Path(chart)
    try:
        content = archive.packed(archive.files(path)) if path.is_dir() else path.read_bytes()
        names = archive.unpacked(content)
    except (OSError, EOFError, tarfile.TarError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    else:
        if "havip/Chart.yaml" in names:
            return content
        problem = "is not the chart of havip"
    raise ConfigError(
        field="--chart",
        value=chart,
        problem=problem,
        remedy="name the directory chart/ of havip's source, or an archive of it",
    )
