"""Access to the Kubernetes API as configured: which servers, whose CA, which credential."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from havip.core.config import KubeAccess, Secret, TlsConfig
from havip.core.host import Host
from havip.settings import ConfigError, Loaded, load, resolve
from pem import CERTIFICATE as PEM
from pem import MALFORMED

VIP = "--vip-address-cidr=192.0.2.10/24"
IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
MALFORMED_DATA = base64.b64encode(MALFORMED.encode()).decode()
DATA = base64.b64encode(PEM.encode()).decode()
LOCAL = "https://127.0.0.1:6443"
API = "https://api.example.org:6443"

Load = Callable[..., Loaded]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a CA, a client certificate, its key and a token."""
    for name in ("ca.crt", "client.crt", "client.key", "own.crt"):
        (tmp_path / name).write_text(PEM)
    (tmp_path / "bad.crt").write_text(MALFORMED)
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "empty").write_text("\n")
    return tmp_path


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    for name, content in (("token", "t0ken"), ("ca.crt", PEM), ("namespace", "ns")):
        (directory / name).write_text(content)
    return directory


def kubeconfig(
    directory: Path, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None
) -> Path:
    """One as kubeadm writes it, with other parts if given."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "admin@here",
        "contexts": [
            {"name": "other", "context": {"cluster": "there", "user": "nobody"}},
            {"name": "admin@here", "context": {"cluster": "here", "user": "admin"}},
        ],
        "clusters": [
            {
                "name": "here",
                "cluster": {"server": API, "certificate-authority-data": DATA}
                if cluster is None
                else cluster,
            }
        ],
        "users": [
            {
                "name": "admin",
                "user": {"client-certificate-data": DATA, "client-key-data": DATA}
                if user is None
                else user,
            }
        ],
    }
    path = directory / "admin.conf"
    path.write_text(yaml.safe_dump(content))
    path.chmod(0o600)
    return path


def access(load_from: Load, host: Host, *flags: str, **more: Any) -> KubeAccess | None:
    config, warnings = resolve(load_from(VIP, *flags, **more), host)
    assert warnings == []
    return config.kube


def test_nothing_is_known_of_a_cluster(load_from: Load, host: Host) -> None:
    assert access(load_from, host) is None


def test_in_cluster(load_from: Load, host: Host, service_account: Path) -> None:
    found = access(load_from, host, environ=IN_CLUSTER, service_account=service_account)
    assert found == KubeAccess(
        servers=("https://10.96.0.1:443",),
        tls=TlsConfig(ca_file=str(service_account / "ca.crt")),
        token_file=str(service_account / "token"),
        namespace="ns",
    )


@pytest.mark.parametrize("content", [None, "", "Not A Namespace", "\xff"])
def test_the_namespace_of_the_service_account_is_amiss(
    content: str | None, load_from: Load, host: Host, service_account: Path
) -> None:
    file = service_account / "namespace"
    file.unlink() if content is None else file.write_text(content, encoding="latin-1")
    found = access(load_from, host, environ=IN_CLUSTER, service_account=service_account)
    assert found
    assert found.namespace == "kube-system"


def test_the_local_api_server_with_the_service_account(
    load_from: Load, host: Host, service_account: Path
) -> None:
    """A pod on a node of the control plane; only who has the cluster's CA hears the token."""
    found = access(
        load_from,
        host,
        f"--kube-api-server={LOCAL}",
        "--kube-namespace=havip",
        environ=IN_CLUSTER,
        service_account=service_account,
    )
    assert found == KubeAccess(
        servers=(LOCAL,),
        tls=TlsConfig(ca_file=str(service_account / "ca.crt")),
        token_file=str(service_account / "token"),
        namespace="havip",
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(
            ["--kube-token-file=token"], {"token_file": "token", "tls": {}}, id="token file"
        ),
        pytest.param(
            ["--kube-client-cert-file=client.crt", "--kube-client-key-file=client.key"],
            {"tls": {"client_cert_file": "client.crt", "client_key_file": "client.key"}},
            id="client certificate",
        ),
    ],
)
def test_files(
    *,
    flags: list[str],
    expected: dict[str, Any],
    load_from: Load,
    host: Host,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    tls = TlsConfig(ca_file="ca.crt", **expected.pop("tls"))
    found = access(load_from, host, "--kube-ca-file=ca.crt", *flags)
    assert found == KubeAccess(servers=(LOCAL,), tls=tls, **expected)


def test_a_token_in_the_file(load_from: Load, host: Host, files: Path) -> None:
    file = f"kubeToken: ' t0ken '\nkubeCaFile: {files / 'ca.crt'}"
    found = access(load_from, host, file=file)
    assert found
    assert found.token == Secret(b"t0ken")


@pytest.mark.parametrize(
    ("given", "servers"),
    [
        (f"{LOCAL},{API}", (LOCAL, API)),
        (f" {LOCAL}/ ", (LOCAL,)),
        ("https://api.example.org", ("https://api.example.org:443",)),
        ("https://[2001:db8::1]:6443", ("https://[2001:db8::1]:6443",)),
    ],
)
def test_servers(
    given: str, servers: tuple[str, ...], load_from: Load, host: Host, files: Path
) -> None:
    flags = [f"--kube-ca-file={files / 'ca.crt'}", f"--kube-token-file={files / 'token'}"]
    found = access(load_from, host, f"--kube-api-server={given}", *flags)
    assert found
    assert found.servers == servers


@pytest.mark.parametrize(
    ("flags", "field", "words"),
    [
        pytest.param(
            [f"--kube-api-server={API}", "--kube-token-file=token"],
            "kubeCaFile",
            "the credential is withheld",
            id="no CA",
        ),
        pytest.param(
            [f"--kube-api-server={API}"], "kubeCaFile", "anonymous probes", id="server alone"
        ),
        pytest.param(
            [f"--kube-api-server={API}", "--kube-ca-file=ca.crt"],
            "kubeTokenFile",
            "there is no credential",
            id="no credential",
        ),
    ],
)
def test_what_is_missing_is_told(
    *,
    flags: list[str],
    field: str,
    words: str,
    load_from: Load,
    host: Host,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    config, (warning,) = resolve(load_from(VIP, *flags), host)
    assert config.kube is None
    assert (warning.field, words in warning.problem) == (field, True)


class TestKubeconfig:
    def test_of_kubeadm(self, load_from: Load, host: Host, files: Path) -> None:
        path = kubeconfig(files)
        found = access(load_from, host, f"--kubeconfig-file={path}")
        assert found == KubeAccess(
            servers=(API,),
            tls=TlsConfig(
                ca_data=PEM,
                client_cert_data=Secret(PEM.encode()),
                client_key_data=Secret(PEM.encode()),
            ),
        )

    def test_as_json(self, load_from: Load, host: Host, files: Path) -> None:
        path = kubeconfig(files)
        path.write_text(json.dumps(yaml.safe_load(path.read_text())))
        assert access(load_from, host, f"--kubeconfig-file={path}")

    def test_by_files_beside_it(self, load_from: Load, host: Host, files: Path) -> None:
        path = kubeconfig(
            files,
            {"server": API, "certificate-authority": "ca.crt", "tls-server-name": "kubernetes"},
            {"client-certificate": str(files / "client.crt"), "client-key": "./client.key"},
        )
        found = access(load_from, host, f"--kubeconfig-file={path}")
        assert found
        assert found.tls == TlsConfig(
            ca_file=str(files / "ca.crt"),
            server_name="kubernetes",
            client_cert_file=str(files / "client.crt"),
            client_key_file=str(files / "client.key"),
        )

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ({"token": "t0ken"}, {"token": Secret(b"t0ken"), "token_file": None}),
            ({"token": "old", "tokenFile": "token"}, {"token": None, "token_file": "token"}),
        ],
        ids=["token", "the file counts, where both are given"],
    )
    def test_tokens(
        self,
        user: dict[str, str],
        expected: dict[str, Any],
        load_from: Load,
        host: Host,
        files: Path,
    ) -> None:
        found = access(load_from, host, f"--kubeconfig-file={kubeconfig(files, user=user)}")
        assert found
        assert found.token == expected["token"]
        file = expected["token_file"]
        assert found.token_file == (file and str(files / file))

    def test_an_own_credential_replaces_the_users(
        self, load_from: Load, host: Host, files: Path
    ) -> None:
        found = access(
            load_from,
            host,
            f"--kubeconfig-file={kubeconfig(files)}",
            f"--kube-token-file={files / 'token'}",
            f"--kube-ca-file={files / 'own.crt'}",
        )
        assert found == KubeAccess(
            servers=(API,),
            tls=TlsConfig(ca_file=str(files / "own.crt")),
            token_file=str(files / "token"),
        )

    def test_it_goes_before_the_service_account(
        self, load_from: Load, host: Host, files: Path, service_account: Path
    ) -> None:
        flags = [f"--kubeconfig-file={kubeconfig(files)}"]
        found = access(load_from, host, *flags, environ=IN_CLUSTER, service_account=service_account)
        assert found
        assert (found.servers, found.token_file) == ((API,), None)
        assert found.namespace == "ns"

    @pytest.mark.parametrize("host_part", ["192.0.2.1", "[2001:db8::1]", "localhost"])
    def test_an_address_is_no_name(
        self, host_part: str, load_from: Load, host: Host, files: Path
    ) -> None:
        cluster = {"server": f"https://{host_part}:6443", "certificate-authority-data": DATA}
        path = kubeconfig(files, cluster)
        assert access(load_from, host, f"--kubeconfig-file={path}", "--election=lease")

    def test_a_vip_may_be_written_otherwise(self, load_from: Load, host: Host, files: Path) -> None:
        server = "https://[2001:0DB8:0::10]:6443"
        cluster = {"server": server, "certificate-authority-data": DATA}
        path = kubeconfig(files, cluster)
        loaded = load_from("--vip-address-cidr=2001:db8::10/64", f"--kubeconfig-file={path}")
        config, _ = resolve(loaded, host)
        assert config.kube
        assert config.kube.servers == ("https://[::1]:6443", server)

    def test_a_server_at_the_vip_comes_after_this_nodes_own(
        self, load_from: Load, host: Host, files: Path
    ) -> None:
        """As kubeadm writes it; the VIP leads nowhere while nobody holds it."""
        cluster = {"server": "https://192.0.2.10:8443", "certificate-authority-data": DATA}
        loaded = load_from(
            VIP, "--check-kube-api", f"--kubeconfig-file={kubeconfig(files, cluster)}"
        )
        config, warnings = resolve(loaded, host)
        assert config.kube
        assert config.kube.servers == ("https://127.0.0.1:8443", "https://192.0.2.10:8443")
        assert config.checks[0].url == "https://127.0.0.1:8443/readyz"
        assert config.checks[0].tls.server_name == "kubernetes"
        assert warnings == []

    def test_the_check_uses_it(self, load_from: Load, host: Host, files: Path) -> None:
        flags = [f"--kubeconfig-file={kubeconfig(files)}", "--check-kube-api"]
        config, warnings = resolve(load_from(VIP, *flags), host)
        (check,) = config.checks
        assert check.url == f"{API}/readyz"
        assert check.tls.client_key_data == Secret(PEM.encode())
        assert (check.tls.verify, check.tls.ca_data) == (True, PEM)
        assert [each.field for each in warnings] == ["kubeApiServer"]

    @pytest.mark.parametrize(
        ("flags", "what"),
        [
            pytest.param(
                ["--check-kube-api", "--check-kube-api-weight=0"],
                "checkKubeApi depends",
                id="check",
            ),
            pytest.param(["--election=lease"], "the election depends", id="election"),
            pytest.param(
                ["--election=lease", "--check-kube-api"],
                "the election and checkKubeApi depend",
                id="both",
            ),
            pytest.param(["--kube-events"], None, id="what no VIP depends on"),
            pytest.param(
                ["--check-kube-api", "--check-kube-api-url=https://127.0.0.1:6443/readyz"],
                None,
                id="another server is judged",
            ),
            pytest.param(
                ["--election=lease", f"--kube-api-server={LOCAL},{API}"], None, id="local first"
            ),
            pytest.param(
                ["--election=lease", f"--kube-api-server={API}"], None, id="chosen by the user"
            ),
        ],
    )
    def test_a_name_that_may_be_the_vips_is_told(
        self, *, flags: list[str], what: str | None, load_from: Load, host: Host, files: Path
    ) -> None:
        """As kubeadm's controlPlaneEndpoint has it in every kubeconfig."""
        path = kubeconfig(files)
        _, warnings = resolve(load_from(VIP, f"--kubeconfig-file={path}", *flags), host)
        told = [str(each) for each in warnings if each.field == "kubeApiServer"]
        if what is None:
            assert told == []
        else:
            assert told == [
                f"kubeApiServer: is {API}, by {path}; if that name leads to the VIP, {what} on "
                "whoever holds it, and on nobody while nobody does; set "
                f"{LOCAL},{API} on a node with an API server, else {API}"
            ]

    def test_the_check_has_a_credential_of_its_own(
        self, load_from: Load, host: Host, files: Path
    ) -> None:
        flags = [f"--kubeconfig-file={kubeconfig(files)}", "--check-kube-api"]
        flags += [f"--check-kube-api-token-file={files / 'token'}"]
        config, _ = resolve(load_from(VIP, *flags), host)
        (check,) = config.checks
        assert (check.token_file, check.tls.client_cert_data) == (str(files / "token"), None)
        assert check.tls.ca_data == PEM

    def test_nothing_of_it_goes_to_another_server(
        self, load_from: Load, host: Host, files: Path
    ) -> None:
        flags = [f"--kubeconfig-file={kubeconfig(files)}", "--check-kube-api"]
        flags += ["--check-kube-api-url=https://elsewhere.example.org:6443"]
        config, (warning,) = resolve(load_from(VIP, *flags), host)
        (check,) = config.checks
        assert check.tls == TlsConfig(verify=False)
        assert "the probe is anonymous" in warning.problem

    def test_one_that_everyone_reads_is_told(
        self, load_from: Load, host: Host, files: Path
    ) -> None:
        path = kubeconfig(files)
        path.chmod(0o644)
        _, (warning,) = resolve(load_from(VIP, f"--kubeconfig-file={path}"), host)
        assert (warning.field, warning.remedy) == ("kubeconfigFile", f"chmod 0600 {path}")

    def test_its_change_is_news(self, files: Path) -> None:
        from argparse import ArgumentParser

        from havip.settings import add_arguments

        parser = ArgumentParser()
        add_arguments(parser)
        noted: list[str] = []
        path = kubeconfig(files)
        arguments = parser.parse_args([VIP, f"--kubeconfig-file={path}"])
        load(arguments, {}, before_reading=noted.append)
        assert str(path) in noted

    @pytest.mark.parametrize(
        ("cluster", "user", "words"),
        [
            ({"server": "http://192.0.2.1:8080"}, None, "server http://192.0.2.1:8080 has none of"),
            ({"server": f"{API}/k8s/c-1"}, None, "has more than host and port"),
            ({"server": "https://u:s3cret@a:1"}, None, "server carries a user or a password"),
            ({}, None, "clusters[here].cluster.server is missing"),
            ({"server": 6443}, None, "clusters[here].cluster.server is no text"),
            ({"certificate-authority-data": "%"}, None, "authority-data is not PEM in base64"),
            ({"certificate-authority-data": "s3cret=="}, None, "is not PEM in base64"),
            ({"certificate-authority-data": "eA=="}, None, "holds no certificate (PEM)"),
            ({"certificate-authority": "missing"}, None, "cannot be read: No such file"),
            ({"certificate-authority": "token"}, None, "holds no certificate (PEM)"),
            (
                {"certificate-authority-data": MALFORMED_DATA},
                None,
                "authority-data holds a certificate that is malformed",
            ),
            ({"certificate-authority": "bad.crt"}, None, "holds a certificate that is malformed"),
            ({"insecure-skip-tls-verify": True}, None, "has insecure-skip-tls-verify"),
            ({"proxy-url": "http://p"}, None, "clusters[here].cluster.proxy-url is not supported"),
            (None, {"exec": {"command": "aws"}}, "exec is not supported; havip runs no programs"),
            (None, {"auth-provider": {"name": "gcp"}}, "auth-provider is not supported"),
            (None, {"username": "a", "password": "s3cret"}, "username is not supported"),
            (None, {"token": "t0ken", "as": "root"}, "users[admin].user.as is not supported"),
            (None, {"token": 12345}, "users[admin].user.token is no text"),
            (None, {"client-key-data": "s3cret"}, "client-key-data is not PEM in base64"),
            (None, {"client-certificate-data": DATA}, "are of no use without each other"),
            (None, {"client-key": "client.key"}, "are of no use without each other"),
            (None, {"tokenFile": "missing"}, "cannot be read: No such file"),
            (None, {"tokenFile": "empty"}, "holds no token; write one into it"),
        ],
    )
    def test_what_is_refused(
        self,
        *,
        cluster: dict[str, Any] | None,
        user: dict[str, Any] | None,
        words: str,
        load_from: Load,
        host: Host,
        files: Path,
    ) -> None:
        if cluster and "server" not in cluster:
            cluster = {"server": API, **cluster}
        path = kubeconfig(files, cluster, user)
        with pytest.raises(ConfigError) as caught:
            resolve(load_from(VIP, f"--kubeconfig-file={path}"), host)
        (problem,) = caught.value.problems
        assert problem.field == "kubeconfigFile"
        assert words in str(problem)
        assert problem.remedy
        assert "s3cret" not in str(problem)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("", "current-context is missing"),
            ("a: [", "is not YAML"),
            ("- a", "is not a mapping"),
            ("current-context: x", "contexts has no context x, which current-context names"),
            ("current-context: x\ncurrent-context: y", "current-context is given twice"),
            ("current-context: x\ncontexts: [{name: x}]", "contexts has no context x"),
            (
                "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]",
                "clusters has no cluster c, which contexts[x].context.cluster names",
            ),
            ("current-context: [1]", "current-context is no text"),
        ],
    )
    def test_what_is_none(self, content: str, words: str, load_from: Load, tmp_path: Path) -> None:
        path = tmp_path / "admin.conf"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_from(VIP, f"--kubeconfig-file={path}")
        (problem,) = caught.value.problems
        assert (problem.field, str(problem.value).startswith(str(path))) == (
            "kubeconfigFile",
            True,
        )
        assert words in problem.problem
        assert "vipAddressCidr" not in problem.remedy


class TestFilesThatAreNotThereYet:
    """As of a unit that starts before k3s has made /etc/rancher/k3s/k3s.yaml for the first time."""

    def test_a_kubeconfig(self, load_from: Load, host: Host, files: Path) -> None:
        path = files / "admin.conf"
        flags = [VIP, f"--kubeconfig-file={path}", "--check-kube-api", "--kube-events"]
        config, warnings = resolve(load_from(*flags), host)
        assert config.kube is None
        (check,) = config.checks
        assert check.awaits == (
            f"the kubeconfig {path} is not there yet: it says which server to ask"
        )
        assert list(map(str, warnings)) == [
            f"kubeconfigFile: {path} is not there yet, and VRRP goes on without it; it is picked "
            "up once it is made; correct the path if nothing makes it"
        ]
        kubeconfig(files)
        config, _ = resolve(load_from(*flags), host)
        assert config.kube
        assert config.checks[0].awaits == ""
        assert config.shows_events

    def test_it_does_not_give_way_to_the_service_account(
        self, load_from: Load, host: Host, files: Path, service_account: Path
    ) -> None:
        loaded = load_from(
            VIP,
            f"--kubeconfig-file={files / 'admin.conf'}",
            environ=IN_CLUSTER,
            service_account=service_account,
        )
        config, _ = resolve(loaded, host)
        assert config.kube is None

    @pytest.mark.parametrize(
        ("setting", "flag"),
        [
            ("kubeCaFile", "--kube-ca-file"),
            ("kubeTokenFile", "--kube-token-file"),
            ("kubeClientCertFile", "--kube-client-cert-file"),
            ("kubeClientKeyFile", "--kube-client-key-file"),
            ("checkKubeApiCaFile", "--check-kube-api-ca-file"),
            ("checkKubeApiTokenFile", "--check-kube-api-token-file"),
            ("checkKubeApiClientCertFile", "--check-kube-api-client-cert-file"),
            ("checkKubeApiClientKeyFile", "--check-kube-api-client-key-file"),
        ],
    )
    def test_another_file(
        self, setting: str, flag: str, load_from: Load, host: Host, files: Path
    ) -> None:
        """It is looked at before each request, and so needs no reload."""
        given = {
            "--kube-ca-file": files / "ca.crt",
            "--kube-client-cert-file": files / "client.crt",
            "--kube-client-key-file": files / "client.key",
            "--check-kube-api-ca-file": files / "ca.crt",
            "--check-kube-api-client-cert-file": files / "client.crt",
            "--check-kube-api-client-key-file": files / "client.key",
        } | {flag: files / "later"}
        flags = [f"{name}={path}" for name, path in given.items()]
        config, warnings = resolve(load_from(VIP, "--check-kube-api", *flags), host)
        assert config.kube
        assert [each.field for each in warnings] == [setting]
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            resolve(load_from(VIP, "--check-kube-api", *flags, may_wait=False), host)

    @pytest.mark.parametrize("content", [None, "", "a: ["], ids=["a directory", "empty", "no YAML"])
    def test_one_that_is_there_has_to_be_right(
        self, content: str | None, load_from: Load, tmp_path: Path
    ) -> None:
        path = tmp_path / "admin.conf"
        path.mkdir() if content is None else path.write_text(content)
        with pytest.raises(ConfigError):
            load_from(VIP, f"--kubeconfig-file={path}")

    @pytest.mark.parametrize(
        "flags",
        [["--election=lease"], ["--vrrp-unicast-peers=auto", "--kube-peers-selector=a"]],
        ids=["a Lease elects", "the peers are discovered"],
    )
    def test_not_where_nothing_goes_on_without_it(
        self, flags: list[str], load_from: Load, files: Path
    ) -> None:
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            load_from(VIP, *flags, f"--kubeconfig-file={files / 'admin.conf'}")
