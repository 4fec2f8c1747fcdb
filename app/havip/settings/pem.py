"""Files of certificates, keys and tokens, looked at before anything is done with them."""

from __future__ import annotations

from havip.files import open_regular
from havip.settings.errors import ConfigError

_MAX_PEM_BYTES = 1 << 20


def has_certificate(path: str) -> bool:
    """Whether the file can be read and holds a certificate."""
    try:
        return b"-----BEGIN CERTIFICATE-----" in _content(path)
    except OSError:
        return False


def require_certificate(name: str, path: str) -> None:
    """Raises ConfigError where the file of a setting holds no certificate."""
    require_readable(name, path)
    if not has_certificate(path):
        raise ConfigError(
            field=name,
            value=path,
            problem="holds no certificate (PEM)",
            remedy="name a file with a line -----BEGIN CERTIFICATE-----",
        )


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
