"""Whatever stands in a source, it is a configuration or a ConfigError, never a traceback."""

from __future__ import annotations

import argparse
import json
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from havip.core.host import Host, HostAddress, Interface
from havip.settings import ConfigError, RouterSettings, Settings, add_arguments, load, resolve
from havip.settings.sources import flag_of, name_of, variable_of

PARSER = argparse.ArgumentParser(allow_abbrev=False)
add_arguments(PARSER)
ATTRIBUTES = list(Settings.model_fields)
BASE = ["--vip-address-cidr=192.0.2.10/24", "--check-kube-api"]
EVERYWHERE = [name for name in ATTRIBUTES if flag_of(name) and variable_of(name)]
ENTRY_NAMES = [info.alias or "" for info in RouterSettings.model_fields.values()]

NO_TEXTS = ("\x00", "\udc80", "a\nb", "\x1b[31m", "\ud800@//")
ALMOST = (
    *("192.0.2.10/24", "2001:db8::10/64", "192.0.2.2,192.0.2.3", "[::]:9650", "eth0", "/"),
    *("http://[::1", "https://h:1/", "tcp://a:1", "1:", "0", "-1", "1e400", "nan", "٣", "²"),
    *("1_0", "true", "200-299", "[{}]", '[{"vipAddressCidr": "\\ud800"}]'),
    *NO_TEXTS,
)
TEXTS = st.sampled_from(ALMOST) | st.text(max_size=30)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.integers(), inner),
    max_leaves=5,
)


def try_to_configure(flags: list[str], environ: dict[str, str], host: Host) -> None:
    try:
        resolve(load(PARSER.parse_args(flags), environ), host)
    except ConfigError as error:
        assert all(line.isprintable() for line in str(error).split("\n"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "config.yaml"


@pytest.fixture(scope="module")
def plain_host() -> Host:
    eth0 = Interface(
        name="eth0",
        index=1,
        mac=b"\2\0\0\0\0\1",
        is_up=True,
        addresses=(HostAddress(interface=ip_interface("192.0.2.1/24")),),
    )
    return Host(interfaces=(eth0,))


@pytest.mark.parametrize("text", NO_TEXTS)
def test_no_texts(plain_host: Host, text: str) -> None:
    for attribute in EVERYWHERE:
        try_to_configure(BASE, {str(variable_of(attribute)): text}, plain_host)


@given(st.sampled_from(EVERYWHERE), TEXTS, st.booleans())
@hypothesis_settings(deadline=None, max_examples=300)
def test_texts(plain_host: Host, attribute: str, text: str, by_flag: bool) -> None:
    if by_flag:
        try_to_configure([*BASE, f"{flag_of(attribute)}={text}"], {}, plain_host)
    else:
        try_to_configure(BASE, {str(variable_of(attribute)): text}, plain_host)


@given(st.binary(max_size=200))
@hypothesis_settings(deadline=None)
def test_bytes_in_the_file(path: Path, plain_host: Host, content: bytes) -> None:
    path.write_bytes(content)
    try_to_configure([f"--config={path}"], {}, plain_host)


@given(st.text(alphabet="ab:-?[]{}&*!|>'\"#%@`, \n\t0~<=", max_size=60))
@hypothesis_settings(deadline=None)
def test_almost_yaml_in_the_file(path: Path, plain_host: Host, content: str) -> None:
    path.write_text(content)
    try_to_configure([f"--config={path}"], {}, plain_host)


@given(
    st.sampled_from([name_of(name) for name in ATTRIBUTES]),
    st.sampled_from(
        [
            "null",
            "bool",
            "int",
            "float",
            "str",
            "seq",
            "map",
            "binary",
            "timestamp",
            "omap",
            "pairs",
            "set",
            "x",
        ]
    ),
    st.sampled_from(ALMOST) | st.text(alphabet="0123456789abefox+-.:_TZ ", max_size=12),
)
@hypothesis_settings(deadline=None, max_examples=200)
def test_tagged_values_in_the_file(
    path: Path, plain_host: Host, name: str, tag: str, text: str
) -> None:
    for content in (f"{name}: !!{tag} {json.dumps(text)}", f"{name}: {text}"):
        path.write_text(content, encoding="utf-8", errors="replace")
        try_to_configure([f"--config={path}"], {}, plain_host)


@given(
    st.dictionaries(st.sampled_from([name_of(name) for name in ATTRIBUTES]), VALUES, max_size=5),
    st.lists(st.dictionaries(st.sampled_from(ENTRY_NAMES), VALUES, max_size=5), max_size=3),
)
@hypothesis_settings(deadline=None)
def test_values_in_the_file(
    path: Path, plain_host: Host, values: dict[str, Any], entries: list[dict[str, Any]]
) -> None:
    path.write_text(json.dumps(values | ({"virtualRouters": entries} if entries else {})))
    try_to_configure([f"--config={path}"], {}, plain_host)


@given(st.binary(max_size=200))
@hypothesis_settings(deadline=None)
def test_bytes_in_a_key_file(path: Path, plain_host: Host, content: bytes) -> None:
    path.write_bytes(content)
    flags = ["--vip-address-cidr=192.0.2.10/24", f"--auth-hmac-keys-file={path}"]
    try_to_configure(flags, {}, plain_host)
