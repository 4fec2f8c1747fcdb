"""A real control plane on one host of a lab: etcd, API server, controllers and scheduler."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from pathlib import Path

from certificates import Authority

from havip.netlab import Host, LabError, Process
from havip.netlab.namespace import inside, run

SERVICES = "10.96.0.0/16"
SERVICE_HOST = "10.96.0.1"
"""The address of the `kubernetes` Service, the first of its range."""
START_S = 90.0
"""Protection against a hang: an API server fills an empty etcd before it is ready."""


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler, set up as kubeadm does.

    The namespace's loopback is theirs alone, so that every port is the usual one.
    """

    def __init__(self, host: Host, nodes: list[Host], binaries: Path) -> None:
        self.host = host
        self.server = f"https://{host.ipv4}:6443"
        self.directory = host.lab.directory / "control-plane"
        self.directory.mkdir()
        self._binaries = binaries
        self.authority = Authority(self.directory / "certificates")
        self._issue(nodes)
        self.admin = self.authority.kubeconfig("admin", self.server)

    def start(self) -> None:
        """Returns once the API server is ready and the others are healthy."""
        self.start_api()
        pki = self.authority.path
        self._start(
            "kube-controller-manager",
            kubeconfig=self.authority.kubeconfig("controller-manager", self.server),
            root_ca_file=pki("ca.crt"),
            service_account_private_key_file=pki("service-accounts.key"),
            use_service_account_credentials="true",
            leader_elect="false",
            bind_address="127.0.0.1",
            # A node counts as lost after this; the default of 50 s is only longer.
            node_monitor_grace_period="16s",
        )
        self._start(
            "kube-scheduler",
            kubeconfig=self.authority.kubeconfig("scheduler", self.server),
            leader_elect="false",
            bind_address="127.0.0.1",
        )

    def start_api(self) -> None:
        """etcd and the API server alone: objects, and nobody who acts upon them."""
        self.start_etcd()
        self.api_server = self.start_api_server()

    def start_api_server(self, host: Host | None = None) -> Process:
        """Start it, again if it was stopped; returns once `/readyz` says so.

        Args:
            host: one of the nodes, for one more API server of the same cluster.
        """
        host = host or self.host
        pki = self.authority.path
        process = self._start(
            "kube-apiserver",
            host,
            advertise_address=host.ipv4,
            allow_privileged="true",
            authorization_mode="Node,RBAC",
            client_ca_file=pki("ca.crt"),
            enable_admission_plugins="NodeRestriction",
            etcd_servers=f"http://{self.host.ipv4}:2379",
            kubelet_certificate_authority=pki("ca.crt"),
            kubelet_client_certificate=pki("api-server-client.crt"),
            kubelet_client_key=pki("api-server-client.key"),
            # Nobody resolves the names of the nodes.
            kubelet_preferred_address_types="InternalIP",
            service_account_issuer="https://kubernetes.default.svc.cluster.local",
            service_account_key_file=pki("service-accounts.pub"),
            service_account_signing_key_file=pki("service-accounts.key"),
            service_cluster_ip_range=SERVICES,
            tls_cert_file=pki("api-server.crt"),
            tls_private_key_file=pki("api-server.key"),
        )
        process.wait_for(lambda: self.is_ready(host), START_S, "/readyz does not say ok")
        return process

    def is_ready(self, host: Host | None = None) -> bool:
        """Whether `/readyz` says ok to somebody whom it does not know."""
        host = host or self.host
        context = ssl.create_default_context(cafile=self.authority.path("ca.crt"))
        connection = http.client.HTTPConnection("127.0.0.1", 6443, timeout=3)
        try:
            plain = inside(host.namespace, lambda: socket.create_connection(("127.0.0.1", 6443), 3))
            connection.sock = context.wrap_socket(plain, server_hostname="kubernetes")
            with contextlib.closing(connection):
                connection.request("GET", "/readyz")
                return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def route_service(self, node: Host) -> None:
        """What kube-proxy does for the one Service that there is: `kubernetes`."""
        rules = f"""
            table ip services {{
              chain output {{
                type nat hook output priority -100
                ip daddr {SERVICE_HOST} tcp dport 443 dnat to {self.host.ipv4}:6443
              }}
            }}
        """
        run(("ip", "netns", "exec", node.namespace, "nft", "-f", "-"), rules)

    def _issue(self, nodes: list[Host]) -> None:
        issue = self.authority.issue
        vip = self.host.lab.vip_address
        addresses = (
            *("IP:127.0.0.1", f"IP:{SERVICE_HOST}"),
            *(f"IP:{self.host.ipv4}", f"IP:{vip}"),
            *(f"IP:{node.ipv4}" for node in nodes),
        )
        names = ("", ".default", ".default.svc", ".default.svc.cluster.local")
        issue(
            "api-server",
            "kube-apiserver",
            names=(*addresses, *(f"DNS:kubernetes{name}" for name in names)),
        )
        issue("api-server-client", "kube-apiserver-kubelet-client", "system:masters")
        issue("admin", "kubernetes-admin", "system:masters")
        issue("controller-manager", "system:kube-controller-manager")
        issue("scheduler", "system:kube-scheduler")
        for node in nodes:
            named = (f"DNS:{node.name}", f"IP:{node.ipv4}")
            issue(node.name, f"system:node:{node.name}", "system:nodes", named)
        self.authority.key_pair("service-accounts")

    def start_etcd(self) -> None:
        """Returns once it is healthy."""
        self.etcd = self._start(
            "etcd",
            data_dir=self.directory / "etcd",
            listen_client_urls="http://0.0.0.0:2379",
            advertise_client_urls=f"http://{self.host.ipv4}:2379",
            # It lives as long as the test: nothing to keep safe from a power cut.
            unsafe_no_fsync="true",
        )
        self.etcd.wait_for(self._etcd_is_healthy, START_S, "/health does not say true")

    def _etcd_is_healthy(self) -> bool:
        try:
            return '"true"' in self.host.get("/health", 2379)[1]
        except (OSError, http.client.HTTPException):
            return False

    def _start(self, program: str, host: Host | None = None, **flags: object) -> Process:
        path = self._binaries / program
        if not path.exists():
            raise LabError(f"{path} is missing: run `make tools`")
        told = (f"--{name.replace('_', '-')}={value}" for name, value in flags.items())
        return (host or self.host).popen((str(path), *told))
