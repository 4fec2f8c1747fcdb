"""Whether the daemon will reach the Kubernetes API: judged as by `havip run`, without its files.

What is missing would show on the nodes otherwise, where the daemon refuses to start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from havip.commands.manifest.plan import Plan, refuse
from havip.core.config import KubeAccess, TlsConfig
from havip.settings.balancer import balancer_on, lacks_for_balancer, with_balancer
from havip.settings.errors import ConfigWarning, Problem
from havip.settings.kube import LOCAL_API, Reach, access_of
from havip.settings.lease import lacks_for_lease, lacks_to_show
from havip.settings.values import AUTO

_OF_THE_KUBECONFIG = "the kubeconfig's"
_OF_THE_CLUSTER = "the cluster's"


def judge_access(plan: Plan) -> tuple[ConfigWarning, ...]:
    """What will have no effect, of a pod or a host that has no service account.

    Raises:
        ConfigError: a Lease elects, or the API lists the backends, and there is no way to it.
    """
    reach = _reach(plan)
    access, about_access = access_of(plan.loaded, reach)
    balancer = balancer_on(plan.loaded, ())
    if access is not None and reach.is_derived:
        access = replace(access, servers=with_balancer(access.servers, balancer))
    lacks_backends = lacks_for_balancer(balancer, access)
    refuse([*lacks_for_lease(plan.loaded, reach, access, about_access), *lacks_backends])
    return (*about_access, *lacks_to_show(plan.loaded, access))


def lacks_for_pods(plan: Plan) -> Iterator[Problem]:
    """What pods lack to learn the backends, which have a service account wherever nothing is named.

    Raises:
        ConfigError: a backend is the balancer.
    """
    balancer = balancer_on(plan.loaded, ())
    servers = plan.given.get("kube_api_server", (AUTO,))
    if servers == (AUTO,):
        servers = with_balancer((_OF_THE_CLUSTER,), balancer)
    yield from lacks_for_balancer(balancer, KubeAccess(servers=servers, tls=TlsConfig()))


def _reach(plan: Plan) -> Reach:
    """As far as it is known without reading the files, which the nodes have."""
    given = plan.given
    kubeconfig = given.get("kubeconfig_file")
    has_own = bool(given.get("kube_token_file") or given.get("kube_client_cert_file"))
    servers = given.get("kube_api_server", (AUTO,))
    if servers == (AUTO,):
        servers = (_OF_THE_KUBECONFIG,) if kubeconfig else (LOCAL_API,) if has_own else ()
    return Reach(
        servers=servers,
        tls=TlsConfig(
            ca_file=given.get("kube_ca_file") or kubeconfig,
            client_cert_file=given.get("kube_client_cert_file"),
        ),
        token_file=given.get("kube_token_file") or kubeconfig,
        token=None,
        is_derived="kube_api_server" not in given,
        is_asked_for=has_own or bool(kubeconfig or servers or given.get("kube_ca_file")),
    )
