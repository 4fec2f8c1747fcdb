"""Files of certificates, keys and tokens, looked at before anything is done with them."""

from __future__ import annotations

import ssl

from havip.files import open_regular
from havip.settings.errors import ConfigError

_MAX_PEM_BYTES = 1 << 20
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_NONE = "holds no certificate (PEM)"
_MALFORMED = "holds a certificate that is malformed"
REMEDIES = {
    _NONE: f"name a file with a line {_BEGIN.decode()}",
    _MALFORMED: "copy it anew from where it was issued",
}


def has_certificate(path: str) -> bool:
    """Whether the file can be read and holds a certificate."""
    try:
        return not certificate_problem(_content(path))
    except OSError:
        return False


def require_certificate(name: str, path: str) -> None:
    """Raises ConfigError where the file of a setting holds no certificate."""
    require_readable(name, path)
    if problem := certificate_problem(_content(path)):
        raise ConfigError(field=name, value=path, problem=problem, remedy=REMEDIES[problem])


def certificate_problem(content: bytes) -> str:
    """What is wrong with certificates in PEM, empty if nothing is: one of `REMEDIES`.

    Read by OpenSSL, as they will be: what only looks like one would withhold the credential from
    every request, and be told by the requests alone.
    """
    if _BEGIN not in content:
        return _NONE
    try:
        # Comments beside it may be in any encoding.
        text = content.decode("ascii", "replace").replace("\ufffd", "?")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        return _MALFORMED
    return ""


def require_readable(name: str, path: str) -> None:
    """Raises ConfigError where the file of a setting cannot be read."""
    try:
        _content(path)
    except OSError as error:
        raise ConfigError(
            field=name,
            value=path,
            problem=f"cannot be read: {error.strerror}",
            remedy="name a file that the daemon's user can read",
        ) from None


def require_token(name: str, path: str) -> None:
    """Raises ConfigError where the file of a setting cannot be read, or is empty."""
    require_readable(name, path)
    if not _content(path).strip():
        raise ConfigError(
            field=name,
            value=path,
            problem="holds no token",
            remedy="write one into it, such as kubectl create token gives",
        )


def _content(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(_MAX_PEM_BYTES)
