"""A pod that the kubelet starts by itself: before the API server, and without it.

A static pod cannot refer to any other object (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/):
its settings are in its environment, its keys in files of the node.
"""

from __future__ import annotations

from dataclasses import replace

from havip.commands.manifest.access import judge_access
from havip.commands.manifest.document import Document, key_steps
from havip.commands.manifest.places import Distribution, with_own_api_server
from havip.commands.manifest.plan import (
    Plan,
    load_balancer_of,
    no_service_account,
    own_directories,
    refuse,
    texts,
    uses_api,
    without_overrides,
)
from havip.commands.manifest.pod import (
    Object,
    balancer_containers,
    balancer_volumes,
    common_spec,
    container,
    directories,
    directory_mounts,
    environment,
    file_volumes,
    haproxy_image,
    pod_labels,
    state_volumes,
)
from havip.commands.manifest.text import comment, to_yaml
from havip.settings import Settings
from havip.settings.errors import Problem
from havip.settings.values import AUTO


def static_pod(plan: Plan, distribution: Distribution, *, is_init: bool) -> Document:
    """The manifest for the kubelet's directory.

    Args:
        is_init: it is for the first node, before there is a cluster.

    Raises:
        ConfigError: the settings need something that a static pod cannot have.
    """
    plan = _with_kubeconfig(without_overrides(plan), distribution, is_init=is_init)
    plan = distribution.with_its_answers(with_own_api_server(plan))
    refuse([*no_service_account(plan), *own_directories(plan), *load_balancer_of(plan)])
    about_access = judge_access(plan)
    file = f"{distribution.static_pods}/{plan.name}.yaml"
    steps: tuple[str, ...] = (
        f"the image: {distribution.import_image}",
        *((haproxy_image(plan),) if plan.settings.load_balancer else ()),
        *key_steps(plan),
        f"the VIP in the API server's certificate: {distribution.certificate}",
        f"this file: {file}",
    )
    if is_init:
        steps = (*steps, "after `kubeadm init`: make it anew, without --init")
    head = (
        "Made by `havip manifest static-pod`; to change it, make it anew.",
        "On each control-plane node, in this order:",
        *(f"  {step}" for step in steps),
        "The kubelet starts it without the API server, and anew whenever this file changes.",
    )
    return Document(
        text=comment(head) + to_yaml(_pod(plan)),
        steps=steps,
        warnings=(*about_access, *distribution.warnings(plan.settings)),
    )


def _with_kubeconfig(plan: Plan, distribution: Distribution, *, is_init: bool) -> Plan:
    """With the distribution's kubeconfig, if something needs one and none is named.

    It is an administrator's: who has no use for it is not given it.
    """
    needs_it = _needs_kubeconfig(plan.settings, distribution, keeps_backends=plan.keeps_backends)
    if not is_init:
        path = distribution.kubeconfig if needs_it else None
    elif distribution.init_kubeconfig and needs_it:
        path = distribution.init_kubeconfig
    else:
        why = "kubeconfigFile names one" if plan.settings.kubeconfig_file else "nothing needs one"
        refuse(
            [
                Problem(
                    field="--init",
                    value=None,
                    problem="chooses the kubeconfig of kubeadm's first node, and "
                    + (why if distribution.init_kubeconfig else "this is not for kubeadm"),
                    remedy="leave it out",
                )
            ]
        )
    return replace(plan, given={**plan.given, "kubeconfig_file": path}) if path else plan


def _needs_kubeconfig(
    settings: Settings, distribution: Distribution, *, keeps_backends: bool
) -> bool:
    """Whether the API server has to know who asks, and no setting says how."""
    has_own = settings.kubeconfig_file or settings.kube_token_file or settings.kube_client_cert_file
    asks_health = (
        settings.check_kube_api
        and settings.check_kube_api_url == AUTO
        and not distribution.lets_everybody_ask
        and not (settings.check_kube_api_token_file or settings.check_kube_api_client_cert_file)
    )
    return not has_own and (asks_health or keeps_backends or uses_api(settings))


def _pod(plan: Plan) -> Object:
    volumes, mounts = file_volumes(plan)
    shared, shared_mounts = balancer_volumes(plan)
    states, state_mounts = state_volumes(plan)
    mounts = [*directory_mounts(plan), *shared_mounts, *state_mounts, *mounts]
    preparing, running = balancer_containers(plan, _environment(plan), mounts)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": plan.name,
            "namespace": plan.namespace,
            "labels": pod_labels(plan),
        },
        "spec": {
            **common_spec(plan),
            # Names of the cluster are not found without it; those of the node are.
            "dnsPolicy": "Default",
            "automountServiceAccountToken": False,
            # The kubelet, which ends pods in this order at a shutdown, does not look classes up.
            "priority": 2000001000,
            "priorityClassName": "system-node-critical",
            **({"initContainers": preparing} if preparing else {}),
            "containers": [container(plan, _environment(plan), mounts), *running],
            "volumes": [
                *(
                    {"name": name, "hostPath": {"path": str(directory), "type": "Directory"}}
                    for name, directory in directories(plan)
                ),
                *shared,
                *states,
                *volumes,
            ],
        },
    }


def _environment(plan: Plan) -> list[Object]:
    """Those of every pod, and the settings; one of the same name replaces ours."""
    settings = {
        # Kubernetes would put another variable's value in place of $(…).
        name: text.replace("$", "$$")
        for name, text in texts(plan).items()
    }
    ours = (each for each in environment(plan) if each["name"] not in settings)
    return [*ours, *({"name": name, "value": text} for name, text in settings.items())]
