"""The health of a real API server, as havip explains it: each failure is made to happen.

etcd, the API server and the daemon share one host, as on a node of the control plane. Rights and
commands are those of docs/kubernetes-api.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from control_plane import ControlPlane
from kube_cluster import BINARIES, HANG_S, ROOT

from havip.core.config import KubeAccess, Secret, TlsConfig
from havip.core.events import ProbeResult
from havip.kube import KubeApi, KubeError
from havip.netlab import Host, Lab, Process
from havip.netlab.namespace import inside
from havip.settings.kubeconfig import read_kubeconfig

pytestmark = pytest.mark.kubernetes

ACCOUNT = "system:serviceaccount:kube-system:havip"
DOCUMENT = (ROOT / "docs" / "kubernetes-api.md").read_text(encoding="utf-8")
EVERYBODY = ("system:public-info-viewer", "system:discovery")
"""Bindings by which every API server lets everybody, or everybody with a token, ask `/readyz`."""


@dataclass
class Place:
    """A node of the control plane."""

    lab: Lab
    host: Host
    control_plane: ControlPlane

    def kubectl(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("kubectl", *args, check=check)

    def run(self, program: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        config = f"KUBECONFIG={self.control_plane.admin}"
        return self.host.run(("env", config, str(BINARIES / program), *args), check=check)

    def start_api_server(self) -> None:
        self.control_plane.api_server = self.control_plane.start_api_server()

    def apply(self, text: str) -> None:
        path = self.lab.directory / "apply.yaml"
        path.write_text(text)
        self.kubectl("apply", f"--filename={path}")

    def token(self) -> str:
        return self.kubectl("create", "token", "havip", "--namespace=kube-system").stdout.strip()

    def signed_token(self, lasts_s: int) -> str:
        """A token like that of TokenRequest, which would give none for less than ten minutes."""
        account = json.loads(
            self.kubectl(
                *("get", "serviceaccount", "havip", "--namespace=kube-system", "--output=json")
            ).stdout
        )
        issuer = "https://kubernetes.default.svc.cluster.local"
        now = int(time.time())
        claims = {
            "iss": issuer,
            "sub": ACCOUNT,
            "aud": [issuer],
            "iat": now - 7200,
            "nbf": now - 7200,
            "exp": now + lasts_s,
            "kubernetes.io": {
                "namespace": "kube-system",
                "serviceaccount": {"name": "havip", "uid": account["metadata"]["uid"]},
            },
        }
        signed = ".".join(
            _base64url(json.dumps(part).encode()) for part in ({"alg": "ES256"}, claims)
        )
        key = self.control_plane.authority.path("service-accounts.key")
        der = subprocess.run(
            ("openssl", "dgst", "-sha256", "-sign", str(key)),
            input=signed.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return f"{signed}.{_base64url(_joined(der))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _joined(der: bytes) -> bytes:
    """Both numbers of an ECDSA signature side by side (RFC 7518 §3.4)."""
    found = b""
    rest = der[2:]
    for _ in range(2):
        length = rest[1]
        found += rest[2 : 2 + length].lstrip(b"\0").rjust(32, b"\0")
        rest = rest[2 + length :]
    return found


def manifest() -> str:
    """The manifest of the document: its YAML that holds a ClusterRole."""
    (found,) = (
        block
        for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
        if "ClusterRole" in block
    )
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab(hosts=1, clients=1) as lab:
        host = lab.hosts[0]
        control_plane = ControlPlane(host, [], BINARIES)
        control_plane.start()
        place = Place(lab, host, control_plane)
        # Its controllers look around before they work, and must not find their rights gone then.
        place.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s")
        place.apply(manifest())
        yield place


@dataclass
class Daemon:
    """A daemon that asks the API server of its node five times a second."""

    place: Place
    process: Process
    token_file: Path
    ca_file: Path

    def check(self) -> dict[str, Any]:
        checks = self.place.host.status()["checks"]
        (found,) = (each for each in checks if each["name"] == "kube_api")
        assert isinstance(found, dict)
        return found

    def wait_until(self, question: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        seen: list[dict[str, Any]] = []

        def ask() -> bool:
            seen.append(self.check())
            return question(seen[-1])

        try:
            self.process.wait_for(ask, HANG_S, "the check does not say so")
        except Exception as error:
            error.add_note(str(seen[-1:]))
            raise
        return seen[-1]

    def says(self, result: str, words: str) -> str:
        """Wait for the check to find this, and to count as failed; what it says."""
        found = self.wait_until(
            lambda check: check["healthy"] is False and check["last_result"] == result
        )
        assert words in found["detail"], found["detail"]
        return str(found["detail"])

    def recovers(self) -> None:
        self.wait_until(lambda check: check["healthy"] is True)


@pytest.fixture(scope="module")
def daemon(place: Place) -> Iterator[Daemon]:
    directory = place.lab.directory / "havip"
    directory.mkdir()
    token_file, ca_file = directory / "token", directory / "ca.crt"
    token_file.write_text(place.token())
    ca_file.write_bytes(place.control_plane.authority.path("ca.crt").read_bytes())
    process = place.host.havip(
        vip_address_cidr=place.lab.vip,
        check_kube_api="true",
        check_kube_api_interval=0.2,
        check_kube_api_timeout=0.19,
        check_kube_api_stability=0,
        check_kube_api_weight=0,
        kube_token_file=token_file,
        kube_ca_file=ca_file,
        all_unhealthy="hold",
    )
    daemon = Daemon(place, process, token_file, ca_file)
    daemon.recovers()
    yield daemon
    assert process.stop() == 0


@pytest.fixture(autouse=True)
def _as_it_was(daemon: Daemon) -> Iterator[None]:
    """Each test begins with a check that passes, and leaves the means for it."""
    daemon.recovers()
    yield
    if not daemon.place.control_plane.api_server.is_running:
        daemon.place.start_api_server()
    daemon.ca_file.write_bytes(daemon.place.control_plane.authority.path("ca.crt").read_bytes())
    daemon.token_file.write_text(daemon.place.token())


@pytest.fixture
def nobody_else(place: Place) -> Iterator[None]:
    """What every account may ask by default is taken away, as careful administrators do."""
    kept = place.kubectl("get", "clusterrolebinding", *EVERYBODY, "--output=json").stdout
    place.kubectl("delete", "clusterrolebinding", *EVERYBODY)
    yield
    place.apply(kept)
    place.apply(manifest())


def commands() -> list[tuple[str, str]]:
    """Each command of the document's console, and what it answers."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", DOCUMENT, re.DOTALL):
        for part in block.split("$ ")[1:]:
            command, _, answer = part.partition("\n")
            found.append((command, answer))
    return found


@pytest.mark.usefixtures("nobody_else")
@pytest.mark.parametrize(("command", "answer"), commands(), ids=str)
def test_the_rights_of_the_document(command: str, answer: str, place: Place) -> None:
    program, *args = shlex.split(command)
    assert place.run(program, *args, check=False).stdout == answer


def test_the_tokens_of_the_document(place: Place) -> None:
    """Both ways to get one, run as they stand there; each is the account's."""
    (script,) = (
        block
        for block in re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
        if "create token" in block
    )
    directory = place.lab.directory / "by the document"
    directory.mkdir()
    script = script.replace("/etc/havip/token", f"'{directory}/token'")
    first, second = script.partition("# one that")[0], script.partition("# one that")[2]
    for number, part in enumerate((first, f"# {second}")):
        path = directory / f"{number}.sh"
        # The controller that fills the Secret may be slower than the next line.
        wait = "until kubectl get secret havip-token -n kube-system -o yaml | grep -q ' token:'\n"
        wait += "do :; done\n"
        path.write_text(part.replace("kubectl get secret", wait + "kubectl get secret", 1))
        place.host.run(
            (
                *("env", f"KUBECONFIG={place.control_plane.admin}"),
                *(f"PATH={BINARIES}:/usr/bin:/bin", "timeout", "60", "sh", "-eu", str(path)),
            ),
            timeout_s=90,
        )
        token = (directory / "token").read_text()
        server = f"--server={place.control_plane.server}"
        whoami = place.host.run(
            (
                *(str(BINARIES / "kubectl"), "--kubeconfig=/dev/null", f"--token={token}", server),
                f"--certificate-authority={place.control_plane.authority.path('ca.crt')}",
                *("auth", "whoami"),
            )
        )
        assert ACCOUNT in whoami.stdout


@pytest.mark.usefixtures("nobody_else")
def test_a_right_that_is_revoked(daemon: Daemon, place: Place) -> None:
    daemon.recovers()
    place.kubectl("delete", "clusterrolebinding", "havip-readyz")
    detail = daemon.says("forbidden", f"HTTP 403: {ACCOUNT} may not get /readyz")
    assert 'allow it by an RBAC rule nonResourceURLs ["/readyz"], verbs ["get"]' in detail
    question = shlex.split(detail.partition("see kubectl ")[2])
    assert place.kubectl(*question, check=False).stdout == "no\n"
    place.apply(manifest())
    assert place.kubectl(*question).stdout == "yes\n"
    daemon.recovers()


def test_a_token_that_expired(daemon: Daemon, place: Place) -> None:
    daemon.token_file.write_text(place.signed_token(lasts_s=-3600))
    detail = daemon.says("unauthorized", "HTTP 401: the token expired at 20")
    assert f"renew it in {daemon.token_file}" in detail
    # The same but for its end is accepted, and at once.
    daemon.token_file.write_text(place.signed_token(lasts_s=3600))
    daemon.recovers()


def test_a_token_of_another_cluster(daemon: Daemon, place: Place) -> None:
    token = place.token()
    daemon.token_file.write_text(f"{token[:-8]}AAAAAAAA")
    detail = daemon.says("unauthorized", "HTTP 401: the token is not accepted: renew it")
    assert token[:40] not in detail
    assert token[:40] not in daemon.process.log_text()


def test_a_wrong_ca(daemon: Daemon, place: Place) -> None:
    other = Authority(place.lab.directory / "other-authority")
    daemon.ca_file.write_bytes(other.path("ca.crt").read_bytes())
    daemon.says("certificate_invalid", "set kubeCaFile to the CA that signed it")


def test_a_ca_file_that_is_gone(daemon: Daemon) -> None:
    """Whether it is ready the API server tells everybody, so the node keeps its VIP."""
    daemon.ca_file.unlink()
    found = daemon.wait_until(lambda check: "credentials withheld" in check["detail"])
    assert (found["healthy"], found["last_result"]) == (True, "passed")


def test_an_api_server_that_is_stopped(daemon: Daemon, place: Place) -> None:
    place.control_plane.api_server.kill()
    daemon.says("refused", "nothing listens on 127.0.0.1:6443 (connection refused): start the API")
    place.start_api_server()
    daemon.recovers()


def test_an_api_server_that_hangs(daemon: Daemon, place: Place) -> None:
    place.control_plane.api_server.send(signal.SIGSTOP)
    try:
        daemon.says("timed_out", "connected, but no TLS handshake within 0.19 s: it is overloaded")
    finally:
        place.control_plane.api_server.send(signal.SIGCONT)
    daemon.recovers()


def test_an_api_server_without_etcd(daemon: Daemon, place: Place) -> None:
    (etcd,) = (each for each in place.host.processes if each.name.startswith("etcd"))
    etcd.send(signal.SIGSTOP)
    try:
        daemon.says("wrong_status", "HTTP 500: failed etcd")
        # No node is better off, and so the VIP stays (allUnhealthy: hold).
        assert place.host.has_vip(place.lab.vip)
    finally:
        etcd.send(signal.SIGCONT)
    daemon.recovers()


@pytest.mark.parametrize("way", ["in its own words", "by a kubeconfig"])
def test_a_second_daemon_that_is_configured_otherwise(way: str, place: Place) -> None:
    """The file of HA VIP Manager, and kubeadm's kubeconfig with the VIP as its server."""
    vip = "10.77.0.250/24"
    path = place.lab.directory / "other.yaml"
    common = "virtualRouterId: 99\nlisten: 127.0.0.1:9651\n"
    if way == "in its own words":
        path.write_text(
            f"{common}k8s:\n  enabled: true\n  in_cluster: false\n"
            f"  api_server: https://127.0.0.1:6443\n  token: {place.token()}\n"
            f"  ca_cert: {place.control_plane.authority.path('ca.crt')}\n"
            f"node_id: node1\npriority: 1\ninterface: eth0\nvip: {vip}\n"
            f"peers: ['{place.host.ipv4}:9999', '10.77.0.77:9999']\nport: 9999\n"
            "heartbeat_interval: 1\nelection_timeout: 2\n"
        )
    else:
        kubeconfig = place.lab.directory / "admin.conf"
        admin = place.control_plane.admin.read_text()
        kubeconfig.write_text(admin.replace(place.host.ipv4, "10.77.0.250"))
        kubeconfig.chmod(0o600)
        path.write_text(
            f"{common}vipAddressCidr: {vip}\ncheckKubeApi: true\ncheckKubeApiStability: 0\n"
            f"checkKubeApiWeight: 0\nkubeconfigFile: {kubeconfig}\ncheckKubeApiInterval: 0.5\n"
        )
    path.chmod(0o600)
    process = place.host.havip(wait=False, args=[f"--config={path}"])
    try:
        process.wait_for(lambda: place.host.is_ready(9651), HANG_S, "is not ready")
        (check,) = place.host.status(9651)["checks"]
        assert (check["url"], check["weight"]) == ("https://127.0.0.1:6443/readyz", 0)
        assert (check["last_result"], check["detail"]) == ("passed", "HTTP 200")
        process.wait_for(lambda: place.host.has_vip(vip), HANG_S, "does not hold")
    finally:
        process.stop()


# The client, at the same server


def access(place: Place, **more: Any) -> KubeAccess:
    tls = TlsConfig(ca_file=str(place.control_plane.authority.path("ca.crt")))
    fields: dict[str, Any] = {"servers": ("https://127.0.0.1:6443",), "tls": tls, **more}
    return KubeAccess(**fields)


def ask(place: Place, with_access: KubeAccess, use: Callable[[KubeApi], Awaitable[Any]]) -> Any:
    """What `use` gives on the host."""

    async def main() -> Any:
        async with asyncio.timeout(HANG_S):
            return await use(KubeApi(with_access))

    return inside(place.host.namespace, lambda: asyncio.run(main()))


def as_admin(place: Place) -> KubeAccess:
    config = read_kubeconfig(str(place.control_plane.admin))
    return KubeAccess(servers=(config.server,), tls=config.tls)


LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


def test_a_lease_by_the_administrators_kubeconfig(place: Place) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "lab"},
        "spec": {"holderIdentity": "a"},
    }

    async def use(api: KubeApi) -> list[Any]:
        seen: list[Any] = []
        made = await api.send("POST", LEASES, lease, timeout_s=5)
        version = made["metadata"]["resourceVersion"]
        path = f"{LEASES}?fieldSelector=metadata.name%3Dlab&resourceVersion={version}"
        async with aclosing(api.watch(path, timeout_s=30)) as events:
            following = asyncio.ensure_future(anext(events))
            body = {"spec": {"holderIdentity": "b"}}
            kind = "application/merge-patch+json"
            await api.send("PATCH", f"{LEASES}/lab", body, timeout_s=5, content_type=kind)
            event = await following
            seen.append((event["type"], event["object"]["spec"]["holderIdentity"]))
        for method, path, body in (
            ("PUT", f"{LEASES}/lab", made | {"spec": {"holderIdentity": "c"}}),
            ("POST", LEASES, lease),
            ("DELETE", f"{LEASES}/other", {}),
        ):
            try:
                await api.send(method, path, body, timeout_s=5)
            except KubeError as error:
                seen.append((error.status, error.detail))
        await api.send("DELETE", f"{LEASES}/lab", {}, timeout_s=5)
        return seen

    watched, conflict, exists, missing = ask(place, as_admin(place), use)
    assert watched == ("MODIFIED", "b")
    assert (conflict[0], "the object has been modified" in conflict[1]) == (409, True)
    assert (exists[0], "already exists" in exists[1]) == (409, True)
    assert (missing[0], 'leases.coordination.k8s.io "other" not found' in missing[1]) == (404, True)


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        (
            "GET",
            f"{LEASES}/x",
            "get leases.coordination.k8s.io in namespace kube-system: allow it by an RBAC rule "
            'apiGroups ["coordination.k8s.io"], resources ["leases"], resourceNames ["x"], verbs '
            '["get"]',
        ),
        ("PATCH", "/api/v1/nodes/x", 'patch nodes: allow it by an RBAC rule apiGroups [""]'),
        ("PATCH", "/api/v1/nodes/x/status", "patch nodes/status: allow it by an RBAC rule"),
        ("GET", "/metrics", 'get /metrics: allow it by an RBAC rule nonResourceURLs ["/metrics"]'),
    ],
)
def test_a_missing_right_is_told_with_a_question_that_kubectl_takes(
    method: str, path: str, words: str, place: Place
) -> None:
    async def use(api: KubeApi) -> str:
        try:
            if method == "GET":
                await api.get(path, timeout_s=5)
            kind = "application/merge-patch+json"
            await api.send(method, path, {}, timeout_s=5, content_type=kind)
        except KubeError as error:
            assert error.status == 403
            return error.detail
        return ""

    token = Secret(place.token().encode())
    detail = ask(place, access(place, token=token), use)
    assert f"HTTP 403: {ACCOUNT} may not {words}" in detail
    question = shlex.split(detail.partition("see kubectl ")[2])
    assert place.kubectl(*question, check=False).stdout == "no\n"


def test_a_watch_from_long_ago(place: Place) -> None:
    """A version that the server no longer has."""

    async def use(api: KubeApi) -> KubeError | None:
        try:
            async for _ in api.watch(f"{LEASES}?resourceVersion=1", timeout_s=1):
                pass
        except KubeError as error:
            return error
        return None

    error = ask(place, as_admin(place), use)
    assert error is not None
    assert (error.status, error.result) == (410, ProbeResult.WRONG_STATUS)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        pytest.param("https://[::1]:6443", None, id="loopback, by the name kubernetes"),
        pytest.param("https://[fd77::11]:6443", "is not for fd77::11", id="an address without"),
        pytest.param("https://127.0.0.1:2379", "does it speak TLS?", id="etcd, which does not"),
    ],
)
def test_at_other_addresses(server: str, words: str | None, place: Place) -> None:
    server = server.replace("fd77::11", place.host.ipv6)
    token = Secret(place.token().encode())

    async def use(api: KubeApi) -> str | None:
        try:
            await api.get("/version", timeout_s=5)
        except KubeError as error:
            return error.detail
        return None

    detail = ask(place, access(place, servers=(server,), token=token), use)
    wanted = words and words.replace("fd77::11", place.host.ipv6)
    assert (wanted in detail) if wanted else detail is None
