"""Which Lease elects the holder of which virtual router, and what that needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from havip.core.config import KubeAccess, LeaseConfig
from havip.settings.errors import ConfigWarning, Problem
from havip.settings.kube import Reach, leads_to_the_vip
from havip.settings.load import Loaded
from havip.settings.model import Election, RouterSettings
from havip.settings.rules import lease_name


def lease_of(loaded: Loaded, router: RouterSettings, access: KubeAccess) -> LeaseConfig | None:
    """The Lease of one virtual router, None where VRRP elects."""
    settings = loaded.settings
    if settings.election is Election.VRRP:
        return None
    return LeaseConfig(
        namespace=settings.lease_namespace or access.namespace,
        name=lease_name(router),
        duration_s=settings.lease_duration,
        renew_deadline_s=settings.lease_renew_deadline,
        retry_period_s=settings.lease_retry_period,
    )


def holder_lease_of(
    loaded: Loaded, router: RouterSettings, access: KubeAccess
) -> tuple[str, str] | None:
    """Namespace and name of the Lease that shows who holds, where another way elects."""
    settings = loaded.settings
    if settings.election is Election.LEASE or not settings.kube_holder_lease:
        return None
    return settings.lease_namespace or access.namespace, lease_name(router)


def lacks_to_show(loaded: Loaded, access: KubeAccess | None) -> Iterator[ConfigWarning]:
    """What was asked for and cannot be had: the VIP moves without it as well."""
    settings = loaded.settings
    for name, is_on in (
        ("kubeHolderLease", settings.kube_holder_lease),
        ("kubeEvents", settings.kube_events),
        ("kubeHolderLabel", settings.kube_holder_label),
        ("kubeNodeWatch", settings.kube_node_watch),
    ):
        if is_on and access is None and "kubeconfigFile" not in loaded.awaits:
            yield ConfigWarning(
                field=name,
                problem="there is no access to the Kubernetes API, so it has no effect",
                remedy="set kubeconfigFile, or kubeApiServer with kubeCaFile and kubeTokenFile, or "
                "leave it out",
            )


def lacks_for_lease(
    loaded: Loaded, reach: Reach, access: KubeAccess | None, about_access: Iterable[ConfigWarning]
) -> Iterator[Problem]:
    """What is missing of the way to the API server.

    Args:
        about_access: why there is no access, if the user has asked for it.
    """
    if loaded.settings.election is Election.VRRP:
        return
    if access is None:
        why = next(iter(about_access), None)
        yield Problem(
            field=why.field if why else "election",
            value=None if why else "lease",
            problem=why.problem if why else "there is no access to the Kubernetes API",
            remedy=why.remedy
            if why
            else "set kubeconfigFile, or kubeApiServer, kubeCaFile and kubeTokenFile, or give the "
            "pod a service account",
        )
    elif all(leads_to_the_vip(server, loaded) for server in reach.servers):
        yield Problem(
            field="kubeApiServer",
            value=", ".join(reach.servers),
            problem="is the VIP, which leads to nobody until somebody has the Lease",
            remedy="name this node's own first, such as https://127.0.0.1:6443",
        )
