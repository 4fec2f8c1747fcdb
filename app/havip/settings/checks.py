"""Health checks as configured, and to whom a credential may go.

A bearer token or client certificate is sent to the API server only, and only where TLS proves
that it is the API server, as `settings.kube` has it. Otherwise the probe is anonymous.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from havip.core.config import CheckConfig, TlsConfig, is_loopback, name_to_verify
from havip.settings.errors import ConfigWarning
from havip.settings.kube import LOCAL_API, Reach
from havip.settings.load import Loaded
from havip.settings.pem import require_certificate, require_readable, require_token
from havip.settings.values import AUTO


def checks_of(loaded: Loaded, reach: Reach) -> tuple[tuple[CheckConfig, ...], list[ConfigWarning]]:
    """The checks that are configured, and what a person should know about their TLS.

    Raises:
        ConfigError: a file that is named cannot be read or holds no certificate.
    """
    settings = loaded.settings
    checks = []
    warnings: list[ConfigWarning] = []
    if settings.check_service_url:
        checks.append(
            CheckConfig(
                name="service",
                url=settings.check_service_url,
                interval_s=settings.check_service_interval,
                timeout_s=timeout_s(
                    settings.check_service_timeout, settings.check_service_interval
                ),
                fail_after=settings.check_service_fail_after,
                recover_after=settings.check_service_recover_after,
                weight=settings.check_service_weight,
                expected_status=settings.check_service_expected_status,
                fast_fail=settings.check_service_fast_fail,
                tls=_tls_without_credential(
                    "checkService",
                    settings.check_service_url,
                    settings.check_service_insecure,
                    settings.check_service_ca_file,
                ),
            )
        )
    if settings.check_kubelet:
        checks.append(
            CheckConfig(
                name="kubelet",
                url=settings.check_kubelet_url,
                interval_s=settings.check_kubelet_interval,
                timeout_s=timeout_s(
                    settings.check_kubelet_timeout, settings.check_kubelet_interval
                ),
                fail_after=settings.check_kubelet_fail_after,
                recover_after=settings.check_kubelet_recover_after,
                weight=settings.check_kubelet_weight,
                tls=_tls_without_credential(
                    "checkKubelet",
                    settings.check_kubelet_url,
                    settings.check_kubelet_insecure,
                    settings.check_kubelet_ca_file,
                ),
            )
        )
    if settings.check_kube_api:
        check, warnings = _api_check(loaded, reach)
        checks.append(check)
    return tuple(checks), warnings


def timeout_s(given_s: float | None, interval_s: float) -> float:
    """What was set, else a little less than the interval, at most 5 s."""
    return given_s if given_s is not None else min(interval_s * 0.9, 5.0)


def _tls_without_credential(
    check: str, url: str, is_insecure: bool, ca_file: str | None
) -> TlsConfig:
    """Loopback needs no proof: nothing secret goes there, and nobody else can answer."""
    if ca_file:
        require_certificate(f"{check}CaFile", ca_file)
    return TlsConfig(verify=bool(ca_file) or not (is_insecure or is_loopback(url)), ca_file=ca_file)


def _api_check(loaded: Loaded, reach: Reach) -> tuple[CheckConfig, list[ConfigWarning]]:
    settings = loaded.settings
    url = settings.check_kube_api_url
    ca_file = settings.check_kube_api_ca_file
    certificate, key = (
        settings.check_kube_api_client_cert_file,
        settings.check_kube_api_client_key_file,
    )
    for name, path, require in (
        ("checkKubeApiCaFile", ca_file, require_certificate),
        ("checkKubeApiClientCertFile", certificate, require_certificate),
        ("checkKubeApiTokenFile", settings.check_kube_api_token_file, require_token),
        ("checkKubeApiClientKeyFile", key, require_readable),
    ):
        if path and name not in loaded.awaits:
            require(name, path)

    tls = TlsConfig()
    token, token_file = None, settings.check_kube_api_token_file
    has_own = bool(token_file or certificate)
    is_told = False
    ca_setting = awaits = ""
    if url == AUTO:
        if file := loaded.awaits.get("kubeconfigFile"):
            awaits = f"the kubeconfig {file} is not there yet: it says which server to ask"
        ca_setting = "" if ca_file else "kubeCaFile"
        is_told = reach.is_asked_for and not reach.has_ca
        url = reach.servers[0] if reach.servers else LOCAL_API
        tls = reach.tls
        if not has_own:
            token, token_file = reach.token, reach.token_file
    if ca_file:
        tls = replace(tls, ca_file=ca_file, ca_data=None)
    if has_own:
        tls = replace(
            tls,
            client_cert_file=certificate,
            client_cert_data=None,
            client_key_file=key,
            client_key_data=None,
        )
    if urlsplit(url).path in ("", "/"):
        url = f"{url.rstrip('/')}/readyz"

    warnings = []
    is_https = url.startswith("https://")
    tls = replace(tls, server_name=name_to_verify(tls, url))
    if not (is_https and (tls.ca_file or tls.ca_data)):
        has_credential = bool(token_file or token or tls.client_cert_file or tls.client_cert_data)
        if (has_credential or is_https) and not is_told:
            warnings.append(
                ConfigWarning(
                    field="checkKubeApiCaFile" if is_https else "checkKubeApiUrl",
                    problem=(
                        f"{url} cannot be verified"
                        + ("" if is_https else " without https")
                        + ("; the credential is withheld and" if has_credential else ";")
                        + " the probe is anonymous"
                    ),
                    remedy=(
                        "name the cluster's CA, such as /etc/kubernetes/pki/ca.crt"
                        if is_https
                        else "write https://"
                    ),
                )
            )
        token = token_file = None
        tls = TlsConfig(verify=False, server_name=tls.server_name)
    return (
        CheckConfig(
            name="kube_api",
            url=url,
            interval_s=settings.check_kube_api_interval,
            timeout_s=timeout_s(settings.check_kube_api_timeout, settings.check_kube_api_interval),
            fail_after=settings.check_kube_api_fail_after,
            recover_after=settings.check_kube_api_recover_after,
            weight=settings.check_kube_api_weight,
            stability_s=settings.check_kube_api_stability,
            tls=tls,
            token_file=token_file,
            token=token,
            ca_setting=ca_setting,
            awaits=awaits,
        ),
        [] if awaits else warnings,
    )
