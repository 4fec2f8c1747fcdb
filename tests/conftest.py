"""What all tests share."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine than of the code.
settings.register_profile("havip", deadline=None)
settings.load_profile("havip")

# A job in a shell's background ignores it, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test on real packets is repeated: a shared machine can stop any process for seconds.

    What is wrong fails three times. What failed is told in full all the same, see below.
    """
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=2))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.write_sep("=", f"failed, and was repeated: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.write_sep("-", title)
            terminalreporter.write_line(text)


@dataclass(frozen=True)
class Certificates:
    """What `openssl` made: a CA, and a server certificate of each kind, with one key."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    def key(name: str) -> None:
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", name)

    def authority(name: str) -> None:
        key(f"{name}.key")
        args = ["-key", f"{name}.key", "-subj", f"/CN={name}", "-days", "30"]
        openssl("req", "-x509", "-new", *args, "-out", f"{name}.pem")

    def certificate(name: str, alternative_names: str, validity: list[str]) -> None:
        args = ["-key", "server.key", "-subj", "/CN=server"]
        openssl("req", "-new", *args, "-out", "server.csr")
        (folder / "extensions").write_text(f"subjectAltName={alternative_names}\n")
        args = ["-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"]
        args += ["-extfile", "extensions", *validity]
        openssl("x509", "-req", *args, "-out", f"{name}.pem")

    authority("ca")
    authority("other-ca")
    key("server.key")
    certificate("loopback", "IP:127.0.0.1,IP:::1", ["-days", "30"])
    certificate("kubernetes", "DNS:kubernetes,DNS:kubernetes.default.svc", ["-days", "30"])
    certificate("expired", "IP:127.0.0.1", ["-days", "-1"])
    certificate("client", "DNS:havip", ["-days", "30"])
    return Certificates(folder)
