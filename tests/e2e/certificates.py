"""The cluster's own certificate authority, certificates and kubeconfigs."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Authority:
    """Issues certificates into a directory: `NAME.crt` and `NAME.key`, and `ca.crt`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700)
        # Debian's own openssl.cnf would make every certificate an authority.
        self._config = directory / "openssl.cnf"
        self._config.write_text("[req]\ndistinguished_name = dn\n[dn]\n")
        self._make(
            "ca", "/CN=havip-lab", "basicConstraints=critical,CA:TRUE", "keyUsage=keyCertSign"
        )

    def issue(self, name: str, user: str, group: str = "", names: Sequence[str] = ()) -> None:
        """A certificate for a user of the API, and for a server if it has `names`.

        Args:
            names: subject alternative names, such as `IP:10.77.0.11` and `DNS:localhost`.
        """
        organisation = f"/O={group}" if group else ""
        extensions = [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=digitalSignature",
            "extendedKeyUsage=clientAuth" + (",serverAuth" if names else ""),
        ]
        if names:
            extensions.append("subjectAltName=" + ",".join(names))
        authority = ("-CA", str(self.path("ca.crt")), "-CAkey", str(self.path("ca.key")))
        self._make(name, f"{organisation}/CN={user}", *extensions, options=authority)

    def key_pair(self, name: str) -> None:
        """`NAME.key` and `NAME.pub`, for service-account tokens."""
        _run(
            *("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-out", str(self.path(f"{name}.key"))),
        )
        _run(
            *("openssl", "pkey", "-in", str(self.path(f"{name}.key")), "-pubout"),
            *("-out", str(self.path(f"{name}.pub"))),
        )

    def kubeconfig(self, name: str, server: str) -> Path:
        """A kubeconfig for a certificate that was issued; JSON is YAML."""
        user = {
            "client-certificate-data": self._encoded(f"{name}.crt"),
            "client-key-data": self._encoded(f"{name}.key"),
        }
        cluster = {"server": server, "certificate-authority-data": self._encoded("ca.crt")}
        path = self.path(f"{name}.kubeconfig")
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "lab", "cluster": cluster}],
                    "users": [{"name": name, "user": user}],
                    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
                    "current-context": "lab",
                }
            )
        )
        path.chmod(0o600)
        return path

    def path(self, name: str) -> Path:
        return self.directory / name

    def _make(self, name: str, subject: str, *extensions: str, options: Sequence[str] = ()) -> None:
        added = [word for extension in extensions for word in ("-addext", extension)]
        _run(
            *("openssl", "req", "-x509", "-config", str(self._config), *_CURVE, *options),
            *("-subj", subject, *added),
            *("-keyout", str(self.path(f"{name}.key")), "-out", str(self.path(f"{name}.crt"))),
        )

    def _encoded(self, name: str) -> str:
        return base64.b64encode(self.path(name).read_bytes()).decode()


def _run(*args: str) -> None:
    subprocess.run(args, check=True, capture_output=True)
