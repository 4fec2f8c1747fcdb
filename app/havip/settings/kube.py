"""How this node speaks to the Kubernetes API: which servers, whose CA, which credential.

A credential is shown only to a server that a CA vouches for, and only a CA that the user, the
kubeconfig or the service account names. The system's CAs do not count, they would vouch for
anybody. Each thing comes from the highest of: its own setting, the kubeconfig, the service
account; token and client certificate are one thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from havip.core.config import KubeAccess, Secret, TlsConfig, is_loopback
from havip.settings.errors import ConfigError, ConfigWarning
from havip.settings.load import Loaded
from havip.settings.model import Election
from havip.settings.pem import has_certificate, require_certificate, require_readable, require_token
from havip.settings.values import AUTO, Address

LOCAL_API = "https://127.0.0.1:6443"
_NAMESPACE = "kube-system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What is known of the API servers, enough for `KubeAccess` or not."""

    servers: tuple[str, ...]
    """Empty: none is known."""
    tls: TlsConfig
    token_file: str | None
    token: Secret | None
    is_derived: bool
    """The user has not named the servers: the kubeconfig or the service account has."""
    is_asked_for: bool
    """The user has written something of it, so that what is missing is worth a warning."""

    @property
    def has_ca(self) -> bool:
        return bool(self.tls.ca_file or self.tls.ca_data)

    @property
    def has_credential(self) -> bool:
        tls = self.tls
        return bool(self.token_file or self.token or tls.client_cert_file or tls.client_cert_data)


def reach_of(loaded: Loaded) -> Reach:
    """What the settings, the kubeconfig and the service account say together.

    Raises:
        ConfigError: a file that is named cannot be read, or a server must not be trusted.
    """
    settings, kubeconfig, cluster = loaded.settings, loaded.kubeconfig, loaded.cluster
    if loaded.is_in_cluster and cluster is None:
        raise ConfigError(
            field="k8s.in_cluster",
            value=True,
            problem=f"the in-cluster configuration cannot be built: {loaded.why_no_cluster}",
            remedy="mount one (serviceAccountName, automountServiceAccountToken: true), or set "
            "in_cluster: false with api_server, token and ca_cert",
        )
    for name, path, require in (
        ("kubeCaFile", settings.kube_ca_file, require_certificate),
        ("kubeClientCertFile", settings.kube_client_cert_file, require_certificate),
        ("kubeTokenFile", settings.kube_token_file, require_token),
        ("kubeClientKeyFile", settings.kube_client_key_file, require_readable),
    ):
        if path and name not in loaded.awaits:
            require(name, path)

    tls = TlsConfig()
    token, token_file = settings.kube_token, settings.kube_token_file
    has_own = bool(token or token_file or settings.kube_client_cert_file)
    server = LOCAL_API if has_own else None
    if kubeconfig:
        server, tls = kubeconfig.server, kubeconfig.tls
        if kubeconfig.is_insecure and not settings.kube_ca_file:
            raise ConfigError(
                field="kubeconfigFile",
                value=settings.kubeconfig_file,
                problem="has insecure-skip-tls-verify, and a credential goes to no server that "
                "is not verified",
                remedy="give it certificate-authority, or set kubeCaFile",
            )
        if not has_own:
            token, token_file = kubeconfig.token, kubeconfig.token_file
    elif cluster:
        server = cluster.url
        ca_file = cluster.ca_file if has_certificate(cluster.ca_file) else None
        tls = TlsConfig(ca_file=ca_file)
        if not has_own:
            token_file = cluster.token_file
    if settings.kube_ca_file:
        tls = replace(tls, ca_file=settings.kube_ca_file, ca_data=None)
    if has_own:
        tls = replace(
            tls,
            client_cert_file=settings.kube_client_cert_file,
            client_cert_data=None,
            client_key_file=settings.kube_client_key_file,
            client_key_data=None,
        )
    servers = settings.kube_api_server
    if servers == (AUTO,):
        servers = _before_the_vip(server, loaded) if server else ()
    else:
        # The name is that of the kubeconfig's own server.
        tls = replace(tls, server_name=None)
    return Reach(
        servers=servers,
        tls=tls,
        token_file=token_file,
        token=token,
        is_derived=settings.kube_api_server == (AUTO,),
        is_asked_for=any(
            name in loaded.where for name in ("kubeApiServer", "kubeconfigFile", "kubeCaFile")
        )
        or has_own,
    )


def awaited(loaded: Loaded) -> Iterator[ConfigWarning]:
    """Each file that is not there yet: one that is misspelt is not waited for in silence."""
    for name, path in loaded.awaits.items():
        yield ConfigWarning(
            field=name,
            problem=f"{path} is not there yet, and VRRP goes on without it",
            remedy="it is picked up once it is made; correct the path if nothing makes it",
        )


def _before_the_vip(server: str, loaded: Loaded) -> tuple[str, ...]:
    """The server, and before it this node's own if the former is at a VIP of this configuration.

    kubeadm writes the address that all share into every kubeconfig. It leads to whoever holds
    it, and to nobody while nobody does.
    """
    if leads_to_the_vip(server, loaded):
        # HAProxy, beside an IPv6 VIP alone, serves no IPv4.
        address = address_of(server)
        loopback = "[::1]" if address and address.version == 6 else "127.0.0.1"
        return f"https://{loopback}:{urlsplit(server).port}", server
    return (server,)


def leads_to_the_vip(server: str, loaded: Loaded) -> bool:
    """Whether the server is at a VIP of this configuration, as far as its URL says so."""
    address = address_of(server)
    return any(
        address == vip.ip
        for router in loaded.routers.values()
        for vip in router.vip_address_cidr or ()
    )


def address_of(server: str) -> Address | None:
    """The address in the URL of an API server, None if it names one that DNS knows."""
    try:
        return ip_address(urlsplit(server).hostname or "")
    except ValueError:
        return None


def may_depend_on_the_vip(loaded: Loaded, reach: Reach) -> Iterator[ConfigWarning]:
    """A server by a DNS name that nobody chose for havip: it is the VIP's, as a rule.

    Who elects or judges through the VIP asks whoever holds it, and nobody while nobody does. What
    the name leads to is not asked here: DNS may need the VIP too, and its answer may change.
    """
    settings = loaded.settings
    elects = settings.election is Election.LEASE
    judges = settings.check_kube_api and settings.check_kube_api_url == AUTO
    if not reach.is_derived or not (elects or judges):
        return
    for server in reach.servers:
        if address_of(server) is None and not is_loopback(server):
            who = settings.kubeconfig_file if loaded.kubeconfig else "the environment"
            what = " and ".join(["the election"] * elects + ["checkKubeApi"] * judges)
            depends = "depend" if elects and judges else "depends"
            local = f"https://127.0.0.1:{urlsplit(server).port}"
            yield ConfigWarning(
                field="kubeApiServer",
                problem=f"is {server}, by {who}; if that name leads to the VIP, {what} {depends} "
                "on whoever holds it, and on nobody while nobody does",
                remedy=f"set {local},{server} on a node with an API server, else {server}",
            )


def access_of(loaded: Loaded, reach: Reach) -> tuple[KubeAccess | None, list[ConfigWarning]]:
    """The access, or None, with a warning if the user has asked for it."""
    problem = remedy = field = ""
    if not reach.servers or "kubeconfigFile" in loaded.awaits:
        return None, []
    servers = ", ".join(reach.servers)
    if not reach.has_ca:
        field = "kubeCaFile"
        withheld = "the credential is withheld: " if reach.has_credential else ""
        problem = (
            f"{servers} cannot be verified; {withheld}havip sends nothing there but anonymous "
            "probes"
        )
        remedy = "name the cluster's CA, such as /etc/kubernetes/pki/ca.crt"
    elif not reach.has_credential:
        field = "kubeTokenFile"
        problem = f"there is no credential for {servers}; the Kubernetes API is not used"
        remedy = "set it, or kubeconfigFile, or kubeClientCertFile and kubeClientKeyFile"
    if problem:
        warning = ConfigWarning(field=field, problem=problem, remedy=remedy)
        return None, [warning] if reach.is_asked_for else []
    namespace = loaded.settings.kube_namespace or (
        loaded.cluster.namespace if loaded.cluster else _NAMESPACE
    )
    return (
        KubeAccess(
            servers=reach.servers,
            tls=reach.tls,
            token_file=reach.token_file,
            token=reach.token,
            namespace=namespace,
        ),
        [],
    )
