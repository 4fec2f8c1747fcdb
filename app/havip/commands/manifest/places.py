"""Where the distributions of Kubernetes look for what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from havip.commands.manifest.plan import VERSION, Plan
from havip.settings import Settings
from havip.settings.balancer import balancer_on, with_balancer
from havip.settings.errors import ConfigWarning
from havip.settings.kube import LOCAL_API

_API_PORT: Final = 6443

ARCHIVE: Final = f"havip-{VERSION}-*.tar"
"""Of the image, for whichever architecture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    static_pods: str
    """Directory from which the kubelet starts pods without being told by the API server."""
    import_image: str
    kubeconfig: str
    """Of an administrator, on each node of the control plane."""
    certificate: str
    """How the certificate of the API server comes to name the VIP."""
    manifests: str | None = None
    """Directory from which objects are applied, where there is one."""
    init_kubeconfig: str | None = None
    """The one that has its rights before the cluster is set up."""
    lets_everybody_ask: bool = False
    """Whether the API server tells its health to whoever shows no credential."""

    def warnings(self, settings: Settings) -> Iterator[ConfigWarning]:
        """What it makes of checks that would be right elsewhere."""
        if self.lets_everybody_ask:
            return
        problem = "this API server answers 401 to a probe without a credential"
        url = settings.check_service_url or ""
        is_api = url.startswith("https:") and urlsplit(url).port == _API_PORT
        if is_api and not _accepts_401(settings.check_service_expected_status):
            yield ConfigWarning(
                field="checkServiceExpectedStatus",
                problem=problem,
                remedy="count that as an answer: --check-service-expected-status 200-299,401",
            )
        is_given = "load_balancer_check_expected_status" in settings.model_fields_set
        if (
            settings.load_balancer
            and is_given
            and not _accepts_401(settings.load_balancer_check_expected_status)
        ):
            yield ConfigWarning(
                field="loadBalancerCheckExpectedStatus",
                problem=problem,
                remedy="leave it out, or count that as an answer: 200,401",
            )

    def with_its_answers(self, plan: Plan) -> Plan:
        """With what its API servers say to HAProxy, which shows no credential, unless it is set."""
        name = "load_balancer_check_expected_status"
        if self.lets_everybody_ask or not plan.settings.load_balancer or name in plan.given:
            return plan
        return replace(plan, given={**plan.given, name: ((200, 200), (401, 401))})


def _accepts_401(expected: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= HTTPStatus.UNAUTHORIZED <= high for low, high in expected)


DISTRIBUTIONS: Final = {
    "kubeadm": Distribution(
        static_pods="/etc/kubernetes/manifests",
        import_image=f"ctr --namespace k8s.io images import {ARCHIVE}",
        kubeconfig="/etc/kubernetes/admin.conf",
        init_kubeconfig="/etc/kubernetes/super-admin.conf",
        certificate="controlPlaneEndpoint, or apiServer.certSANs",
        lets_everybody_ask=True,
    ),
    "k3s": Distribution(
        static_pods="/var/lib/rancher/k3s/agent/pod-manifests",
        import_image=f"cp {ARCHIVE} /var/lib/rancher/k3s/agent/images/",
        kubeconfig="/etc/rancher/k3s/k3s.yaml",
        certificate="tls-san",
        manifests="/var/lib/rancher/k3s/server/manifests",
    ),
    "rke2": Distribution(
        static_pods="/var/lib/rancher/rke2/agent/pod-manifests",
        import_image=f"cp {ARCHIVE} /var/lib/rancher/rke2/agent/images/",
        kubeconfig="/etc/rancher/rke2/rke2.yaml",
        certificate="tls-san",
        manifests="/var/lib/rancher/rke2/server/manifests",
    ),
}
_KUBECONFIGS: Final = frozenset(
    path
    for each in DISTRIBUTIONS.values()
    for path in (each.kubeconfig, each.init_kubeconfig)
    if path
)
HELM_DISTRIBUTIONS: Final = tuple(name for name, each in DISTRIBUTIONS.items() if each.manifests)


def with_own_api_server(plan: Plan) -> Plan:
    """With the node's own API server first, where a distribution's kubeconfig says how to ask.

    The server in that file is the address that all nodes share: the VIP, or a name of it, which
    leads to nobody while nobody holds it. The VIP is asked next, or the balancer: on the holder,
    the API server's port of the VIP is that of its own API server again, even if that is dead.
    """
    if "kube_api_server" in plan.given or plan.given.get("kubeconfig_file") not in _KUBECONFIGS:
        return plan
    if balancer := balancer_on(plan.loaded, ()):
        servers = with_balancer((LOCAL_API,), balancer)
        return replace(plan, given={**plan.given, "kube_api_server": servers})
    vips = (vip.ip for router in plan.routers[:1] for vip in router.vip_address_cidr or ())
    shared = (f"https://{f'[{ip}]' if ip.version == 6 else ip}:{_API_PORT}" for ip in vips)
    return replace(plan, given={**plan.given, "kube_api_server": (LOCAL_API, *shared)})
