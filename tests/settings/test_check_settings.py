"""Health checks as configured: timeouts, certificates, and who gets a credential."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from havip.core.config import CheckConfig, TlsConfig
from havip.core.host import Host
from havip.settings import ConfigWarning, Loaded, resolve
from pem import CERTIFICATE

VIP = "--vip-address-cidr=192.0.2.10/24"
IN_CLUSTER = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}

Load = Callable[..., Loaded]
Check = Callable[..., tuple[CheckConfig, list[ConfigWarning]]]


@pytest.fixture
def check(load_from: Load, host: Host) -> Check:
    """The only check that some flags configure."""

    def find(
        *flags: str, environ: dict[str, str] | None = None, service_account: Path = Path("/none")
    ) -> tuple[CheckConfig, list[ConfigWarning]]:
        loaded = load_from(VIP, *flags, environ=environ, service_account=service_account)
        config, warnings = resolve(loaded, host)
        (found,) = config.checks
        return found, warnings

    return find


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_text(CERTIFICATE)
    return path


@pytest.fixture
def service_account(tmp_path: Path) -> Path:
    """A mounted service account, its CA still missing."""
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    (directory / "token").write_text("t0ken")
    return directory


def test_nothing_is_checked_that_is_not_configured(load_from: Load, host: Host) -> None:
    config, warnings = resolve(load_from(VIP, environ=IN_CLUSTER), host)
    assert (config.checks, warnings) == ((), [])


def test_the_service_check(check: Check) -> None:
    found, _ = check(
        "--check-service-url=http://127.0.0.1:10254/healthz",
        "--check-service-weight=-50",
        "--check-service-expected-status=200,204,300-399",
    )
    assert found == CheckConfig(
        name="service",
        url="http://127.0.0.1:10254/healthz",
        interval_s=2.0,
        timeout_s=1.8,
        fail_after=2,
        recover_after=2,
        weight=-50,
        expected_status=((200, 200), (204, 204), (300, 399)),
        fast_fail=True,
        tls=TlsConfig(verify=False),
    )


def test_the_kubelet_check(check: Check) -> None:
    found, _ = check("--check-kubelet", "--check-kubelet-recover-after=3")
    assert (found.name, found.url) == ("kubelet", "http://127.0.0.1:10248/healthz")
    assert (found.interval_s, found.timeout_s, found.weight) == (5.0, 4.5, 0)
    assert (found.fail_after, found.recover_after, found.fast_fail) == (5, 3, False)


@pytest.mark.parametrize(
    ("flags", "timeout_s"),
    [
        (["--check-service-interval=0.5"], 0.45),
        (["--check-service-interval=60"], 5.0),
        (["--check-service-interval=60", "--check-service-timeout=59"], 59.0),
    ],
)
def test_timeout(flags: list[str], timeout_s: float, check: Check) -> None:
    found, _ = check("--check-service-url=tcp://127.0.0.1:80", *flags)
    assert found.timeout_s == pytest.approx(timeout_s)


@pytest.mark.parametrize("name", ["service", "kubelet"])
@pytest.mark.parametrize(
    ("url", "flags", "verify"),
    [
        pytest.param("https://127.0.0.1:6443/healthz", [], False, id="loopback"),
        pytest.param("https://[::1]:6443/healthz", [], False, id="IPv6 loopback"),
        pytest.param("https://localhost/healthz", [], False, id="localhost"),
        pytest.param("https://127.0.0.1/", ["ca-file=CA"], True, id="loopback with CA"),
        pytest.param("https://192.0.2.1/", [], True, id="elsewhere"),
        pytest.param("https://localhost.example.org/", [], True, id="name like localhost"),
        pytest.param("https://192.0.2.1/", ["ca-file=CA"], True, id="elsewhere with CA"),
        pytest.param("https://192.0.2.1/", ["insecure"], False, id="elsewhere, insecure"),
    ],
)
def test_certificate_of_checks_without_credential(
    *, name: str, url: str, flags: list[str], verify: bool, check: Check, pem: Path
) -> None:
    given = [f"--check-{name}-{flag}".replace("=CA", f"={pem}") for flag in flags]
    switch = ["--check-kubelet"] if name == "kubelet" else []
    found, warnings = check(*switch, f"--check-{name}-url={url}", *given)
    assert found.tls.verify is verify
    assert found.tls.ca_file == (str(pem) if "ca-file=CA" in flags else None)
    assert (found.token_file, warnings) == (None, [])


class TestApiServer:
    def test_of_this_node_without_a_ca(self, check: Check) -> None:
        found, (warning,) = check("--check-kube-api")
        assert found.url == "https://127.0.0.1:6443/readyz"
        assert found.tls == TlsConfig(verify=False, server_name="kubernetes")
        assert (found.weight, found.stability_s, found.recover_after) == (-40, 5.0, 2)
        assert warning.field == "checkKubeApiCaFile"
        assert "the probe is anonymous" in warning.problem

    def test_of_this_node_with_a_ca_is_verified_by_the_name_kubernetes(
        self, check: Check, pem: Path
    ) -> None:
        """kubeadm's certificate does not name 127.0.0.1."""
        token = pem.with_name("token")
        token.write_text("t0ken")
        found, warnings = check(
            "--check-kube-api",
            f"--check-kube-api-ca-file={pem}",
            f"--check-kube-api-token-file={token}",
        )
        assert found.tls == TlsConfig(ca_file=str(pem), server_name="kubernetes")
        assert (found.token_file, warnings) == (str(token), [])

    def test_in_cluster(self, check: Check, service_account: Path) -> None:
        ca_file = service_account / "ca.crt"
        ca_file.write_text(CERTIFICATE)
        found, warnings = check(
            "--check-kube-api", environ=IN_CLUSTER, service_account=service_account
        )
        assert found.url == "https://10.96.0.1:443/readyz"
        assert found.tls == TlsConfig(ca_file=str(ca_file))
        assert found.token_file == str(service_account / "token")
        assert warnings == []

    def test_in_cluster_by_ipv6(self, check: Check, service_account: Path) -> None:
        environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
        found, _ = check("--check-kube-api", environ=environ, service_account=service_account)
        assert found.url == "https://[fd00::1]:443/readyz"

    @pytest.mark.parametrize("content", [None, "no certificate"])
    def test_in_cluster_without_a_usable_ca_the_token_is_withheld(
        self, content: str | None, check: Check, service_account: Path
    ) -> None:
        if content:
            (service_account / "ca.crt").write_text(content)
        found, (warning,) = check(
            "--check-kube-api", environ=IN_CLUSTER, service_account=service_account
        )
        assert (found.token_file, found.tls.verify) == (None, False)
        assert "the credential is withheld" in warning.problem

    def test_variables_of_a_cluster_without_a_service_account(self, check: Check) -> None:
        found, _ = check("--check-kube-api", environ=IN_CLUSTER)
        assert found.url == "https://127.0.0.1:6443/readyz"

    def test_the_service_account_goes_to_no_other_server(
        self, check: Check, service_account: Path
    ) -> None:
        (service_account / "ca.crt").write_text(CERTIFICATE)
        found, _ = check(
            "--check-kube-api",
            "--check-kube-api-url=https://api.example.org:6443",
            environ=IN_CLUSTER,
            service_account=service_account,
        )
        assert (found.token_file, found.tls.verify) == (None, False)

    @pytest.mark.parametrize(
        "flag",
        [
            pytest.param("--check-kube-api-url=http://127.0.0.1:8080", id="plain http"),
            pytest.param("--check-kube-api-url=https://192.0.2.1:6443", id="https without CA"),
        ],
    )
    def test_a_client_certificate_is_withheld_too(self, flag: str, check: Check, pem: Path) -> None:
        found, (warning,) = check(
            "--check-kube-api",
            flag,
            f"--check-kube-api-client-cert-file={pem}",
            f"--check-kube-api-client-key-file={pem}",
        )
        assert found.tls.client_cert_file is found.tls.client_key_file is None
        assert "the credential is withheld" in warning.problem

    def test_a_client_certificate_goes_to_a_verified_server(self, check: Check, pem: Path) -> None:
        found, warnings = check(
            "--check-kube-api",
            "--check-kube-api-url=https://192.0.2.1:6443/livez?verbose",
            f"--check-kube-api-ca-file={pem}",
            f"--check-kube-api-client-cert-file={pem}",
            f"--check-kube-api-client-key-file={pem}",
        )
        assert found.url == "https://192.0.2.1:6443/livez?verbose"
        assert found.tls == TlsConfig(
            ca_file=str(pem), client_cert_file=str(pem), client_key_file=str(pem)
        )
        assert warnings == []
