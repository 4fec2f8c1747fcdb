"""Passwords and keys: read from text or file, checked, and never shown.

A file of HMAC keys has a line `<id>: <64–128 hexadecimal digits>` for each key, and may say by a
line `active: <id>` which of them signs, so that keys and choice change in one step. Empty lines and
what follows a `#` do not count. That is YAML too, so the same text can stand in a chart's Secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from havip.core.config import Secret
from havip.files import is_for_everyone, open_regular
from havip.settings.errors import ConfigError, ConfigWarning
from havip.settings.values import refusal

_KEY = re.compile(r"(?:[0-9A-Fa-f]{2}){32,64}")
_KEY_REMEDY = "make one with: openssl rand -hex 32"
_ACTIVE = "active"
_MAX_FILE_BYTES = 65536


def password(raw: object) -> Secret:
    """A password of VRRPv2 (RFC 2338 §5.3.10 gives it 8 bytes)."""
    if isinstance(raw, Secret):
        return raw
    if not isinstance(raw, str):
        raise refusal("was not read as text", "put it in quotes")
    if not (raw.isascii() and raw.isprintable()):
        raise refusal("has characters that are not printable ASCII", "choose others")
    if not 1 <= len(raw) <= 8:
        raise refusal(f"has {len(raw)} characters", "VRRPv2 carries 1 to 8: shorten it")
    return Secret(raw.encode())


def token(raw: object) -> Secret:
    """A bearer token (RFC 6750 §2.1)."""
    if isinstance(raw, Secret):
        return raw
    if not isinstance(raw, str):
        raise refusal("was not read as text", "put it in quotes")
    text = raw.strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise refusal(
            "has characters that no token has", "paste the token alone, or name a file that has it"
        )
    return Secret(text.encode())


def hmac_keys(raw: object) -> dict[int, Secret]:
    """HMAC keys by key id, 32–64 bytes each."""
    if not isinstance(raw, Mapping) or not raw:
        raise refusal("is no mapping of key ids to keys", "write it like {1: '<hex digits>'}")
    return dict(_key(str(key_id), text) for key_id, text in raw.items())


def _key(key_id: str, text: object) -> tuple[int, Secret]:
    if isinstance(text, Secret):
        return int(key_id), text
    number = _key_id(key_id)
    if not isinstance(text, str):
        raise refusal(f"key {key_id} was not read as text", "put it in quotes", "***")
    if not _KEY.fullmatch(text):
        raise refusal(
            f"key {key_id} has {len(text)} characters, and 64 to 128 hexadecimal digits in pairs "
            "are needed",
            _KEY_REMEDY,
            "***",
        )
    return number, Secret(bytes.fromhex(text))


def _key_id(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 255):
        raise refusal("has no key id from 1 to 255", "number the keys from 1", f"key id {text}")
    return int(text)


def read_password(field: str, path: str) -> tuple[Secret, list[ConfigWarning]]:
    """The password in a file; a line end after it does not count.

    Raises:
        ConfigError: the file cannot be read, or what it holds is no password.
    """
    text, warnings = _read(field, path)
    try:
        return password(text.removesuffix("\n").removesuffix("\r")), warnings
    except PydanticCustomError as error:
        raise _in_file(field, path, error) from None


@dataclass(frozen=True, slots=True)
class KeyFile:
    keys: dict[int, Secret]
    """By id."""
    active: int | None
    """The one that signs, if the file says so."""


def read_hmac_keys(field: str, path: str) -> tuple[KeyFile, list[ConfigWarning]]:
    """The keys in a file, and which of them signs.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no key.
    """
    text, warnings = _read(field, path)
    found: dict[int, Secret] = {}
    active: int | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        name, colon, value = (part.strip().strip("'\"") for part in content.partition(":"))
        try:
            if not colon:
                raise refusal("is no line of the form `<id>: <hexadecimal digits>`", _KEY_REMEDY)
            if name == _ACTIVE:
                if active is not None:
                    raise refusal("names the active key twice", "keep one of these lines")
                active = _key_id(value)
                continue
            key_id, key = _key(name, value)
            if key_id in found:
                raise refusal(f"has key {key_id} twice", "give each key its own id")
        except PydanticCustomError as error:
            raise _in_file(field, f"{path}:{number}", error) from None
        found[key_id] = key
    problem = remedy = ""
    if not found:
        problem, remedy = "holds no key", f"add a line; {_KEY_REMEDY}"
    elif active is not None and active not in found:
        ids = ", ".join(map(str, sorted(found)))
        problem, remedy = f"names key {active} as active, and has only {ids}", "name one of them"
    if problem:
        raise ConfigError(field=field, value=path, problem=problem, remedy=remedy)
    return KeyFile(found, active), warnings


def _read(field: str, path: str) -> tuple[str, list[ConfigWarning]]:
    try:
        with open_regular(path) as file:
            is_exposed = is_for_everyone(file)
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            field=field,
            value=path,
            problem=f"cannot be read: {error.strerror}",
            remedy="name a file that the daemon's user can read",
        ) from None
    if len(content) > _MAX_FILE_BYTES or not content.isascii():
        raise ConfigError(
            field=field,
            value=path,
            problem="is not a small file of plain text",
            remedy="name the file that holds the secret",
        )
    text = content.decode("ascii")
    if not is_exposed:
        return text, []
    exposed = ConfigWarning(
        field=field,
        problem=f"{path} can be read by every user of this host",
        remedy=f"chmod 0600 {path}",
    )
    return text, [exposed]


def _in_file(field: str, place: str, error: PydanticCustomError) -> ConfigError:
    context = error.context or {}
    return ConfigError(
        field=field, value=place, problem=context["problem"], remedy=context["remedy"]
    )
