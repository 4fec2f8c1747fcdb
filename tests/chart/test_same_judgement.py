"""The chart and the daemon judge alike: what one refuses of addresses, URLs and settings, both do.

The chart has to, since a pod that refuses its configuration restarts for ever; and the daemon's
words are not there to be read before the release is.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticCustomError
from rendering import CHART, MAJORS, render

from havip.settings import ConfigError, add_arguments, load, values

TEMPLATE = """\
kind: Judgements
vips:
{{- range .Values.vips }}
- {{ include "havip.vipProblem" . | quote }}
{{- end }}
urls:
{{- range .Values.urls }}
- {{ include "havip.urlProblem" (dict "url" . "schemes" (list "http" "https" "tcp")) | quote }}
{{- end }}
settings:
{{- range .Values.settings }}
- {{ include "havip.settingsProblems" . | trim | quote }}
{{- end }}
"""
Judge = Callable[..., list[list[str]]]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """What the chart's templates say of VIPs, URLs and settings, many at a time."""
    chart = tmp_path_factory.mktemp("judge")
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: judge, version: 0.1.0}")
    for path in (CHART / "templates").glob("_*.tpl"):
        shutil.copy(path, chart / "templates")
    (chart / "templates" / "judge.yaml").write_text(TEMPLATE)

    def ask(major: int, **given: Any) -> list[list[str]]:
        """The problems of each list, empty for none."""
        told = render(given, major=major, chart=chart).one("Judgements")
        return [told[name] or [] for name in given]

    return ask


def daemon_refuses(judge: Callable[[], object]) -> bool:
    try:
        judge()
    except PydanticCustomError:
        return True
    return False


# Of what addresses and URLs are made of, so that many texts are nearly right.
OCTETS = (*map(str, (0, 1, 9, 10, 99, 127, 192, 224, 240, 255, 256, 300)), "00", "01", "x", "")
GROUPS = ("0", "1", "ff02", "fe80", "2001", "DB8", "ffff", "1ffff", "00000", "g", "")
LENGTHS = (*map(str, (0, 1, 7, 8, 24, 30, 31, 32, 33, 64, 126, 127, 128, 129)), "", "x", "024")
SCHEMES = (*("http", "https", "tcp") * 3, "HTTP", "ftp", "", "http:")
HOSTS = (
    *("127.0.0.1", "localhost", "[::1]") * 3,
    "[fe80::g]",
    "::1",
    "",
    "a b",
    "x-.",
    "é",
    "a.b-c_d",
)
PORTS = (*("", ":80") * 3, ":0", ":65535", ":65536", ":x", ":-1", ":080")
PATHS = (*("", "/", "/healthz") * 3, "?a=b", "#x", "/ ", "/@", "/é", "\t", "/a:b")
USERS = (*("",) * 12, "me@", "me:s3cret@")


def any_vip(chance: random.Random) -> str:
    def some(parts: Sequence[str], low: int, high: int, glue: str) -> str:
        return glue.join(chance.choices(parts, k=chance.randint(low, high)))

    address = chance.choice(
        (
            lambda: some(OCTETS, 4, 4, "."),
            lambda: some(OCTETS[:10], 4, 4, "."),
            lambda: some(OCTETS, 3, 5, "."),
            lambda: some(GROUPS[:7], 8, 8, ":"),
            lambda: some(GROUPS, 7, 9, ":"),
            lambda: f"{some(GROUPS[:7], 0, 5, ':')}::{some(GROUPS[:7], 0, 5, ':')}",
            lambda: f"{some(GROUPS, 0, 4, ':')}::{some(GROUPS, 0, 4, ':')}",
        )
    )()
    return address + chance.choice(("/", "/", "/", "", "//")) + chance.choice(LENGTHS)


def any_url(chance: random.Random) -> str:
    separator = chance.choice((*("://",) * 9, ":", "//"))
    parts = (SCHEMES, (separator,), USERS, HOSTS, PORTS, PATHS)
    return "".join(chance.choice(part) for part in parts)


@pytest.mark.parametrize("major", MAJORS)
def test_any_text(judge: Judge, major: int) -> None:
    chance = random.Random(20261127)
    # The daemon knows the dotted form of an IPv6 address too, in which nobody writes a VIP.
    vips = [text for _ in range(1500) if not ("." in (text := any_vip(chance)) and ":" in text)]
    urls = [any_url(chance) for _ in range(1200)]
    about_vips, about_urls = judge(major, vips=vips, urls=urls)
    wrong = [
        (text, problem)
        for text, problem in zip(vips, about_vips, strict=True)
        if bool(problem) != daemon_refuses(lambda text=text: values.vips([text]))
    ] + [
        (text, problem)
        for text, problem in zip(urls, about_urls, strict=True)
        if bool(problem)
        != daemon_refuses(lambda text=text: values.check_url(text, ("http", "https", "tcp")))
    ]
    assert wrong == []
    assert min(about_vips.count(""), about_urls.count("")) > 50, "too few good ones to compare"


@pytest.mark.parametrize("major", MAJORS)
def test_good_ones(judge: Judge, major: int) -> None:
    vips = [
        "192.168.1.100/24",
        "10.0.0.0/31",
        "10.0.0.255/32",
        "2001:db8::10/64",
        "fd00::/127",
        "1:2:3:4:5:6:7::/128",
        "::2:3:4:5:6:7:8/128",
        "FE80::1/64",
    ]
    urls = [
        "http://127.0.0.1:10254/healthz",
        "https://[::1]:6443/readyz",
        "tcp://localhost:80",
        "http://ingress.example.org",
    ]
    assert judge(major, vips=vips, urls=urls) == [[""] * len(vips), [""] * len(urls)]


# Settings beside one another ---------------------------------------------------------------

DEFAULTS = {
    name: value
    for name, value in yaml.safe_load((CHART / "values.yaml").read_text("utf-8")).items()
    if name.startswith(
        ("check", "vrrp", "allUnhealthy", "virtualRouterId", "election", "lease", "loadBalancer")
    )
    and not isinstance(value, dict)
    and value not in (None, "")
}
STATUSES = ("200", "200-299", "299-200", "200,301", "200,", ",", "600", "2xx", "200 - 299", " 200 ")
PEERS = (
    *("192.0.2.11", "192.0.2.12", "2001:db8::11") * 3,
    *("192.0.2.10", "2001:DB8:0::11", "2001:db8::10", "::ffff:c000:20b", "10.0.0.1"),
    *("224.0.0.18", "ff02::12", "127.0.0.1", "::1", "0.0.0.0", "::", "255.255.255.255", "node-2"),
)
VIPS = ("192.0.2.10/24", "192.0.2.10/25", "2001:db8::10/64", "2001:DB8:0::10/64", "10.0.0.1/32")
ANY: dict[str, Callable[[random.Random], Any]] = {
    "vrrpUnicastPeers": lambda chance: ",".join(chance.choices(PEERS, k=chance.randint(0, 3))),
    "vrrpPriority": lambda chance: chance.choice((1, 15, 16, 254)),
    "checkServiceInterval": lambda chance: chance.choice((0.1, 1, 2, 2.5)),
    "checkServiceTimeout": lambda chance: chance.choice((0.1, 0.5, 2, 2.4)),
    "checkKubeApiTimeout": lambda chance: chance.choice((0.1, 4.9, 5)),
    "checkServiceExpectedStatus": lambda chance: chance.choice(STATUSES),
    "checkServiceInsecure": lambda chance: chance.choice((True, False)),
    "checkServiceCaFile": lambda _: "/ca.pem",
    "checkKubeApiClientCertFile": lambda _: "/client.pem",
    "checkKubeApiClientKeyFile": lambda _: "/client.key",
    "vipInterfaceName": lambda chance: chance.choice(("eth0", "a b", "a/b", "x" * 16)),
}
BACKENDS = (
    *("a 192.0.2.11:6443", "b 192.0.2.12:6443", "192.0.2.13:6443", "c [2001:db8::11]:6443") * 4,
    # Names that HAProxy has for the sums of all.
    *("BACKEND 192.0.2.14:6443", "FRONTEND 192.0.2.15:6443"),
    *(
        "auto",
        "",
        "a",
        "192.0.2.11",
        "a b 192.0.2.11:6443",
        "a/b 192.0.2.11:6443",
        "-a 192.0.2.1:1",
    ),
    *("a 192.0.2.11:0", "a 192.0.2.11:65536", "a 192.0.2.11:06443", "a 192.0.2.300:1", "a x:6443"),
    *("a 2001:db8::11:6443", "a [192.0.2.11]:6443", "a [2001:DB8:0::11]:6443", "a 0.0.0.0:6443"),
    *(
        "d [fe80::1]:6443",
        "e [febf::1]:6443",
        "f [fec0::1]:6443",
        "g [FE80:0::2]:1",
        "a_b 10.1.1.1:1",
    ),
    # VIPs, and another address of their network.
    *("h 192.0.2.10:6443", "i [2001:DB8:0::10]:6443", "j 10.0.0.1:6443", "k 10.0.0.2:6443"),
    # The loopback, which leads to the balancer itself at its own port.
    *("l 127.0.0.2:8443", "m [::1]:8443", "n 127.0.0.2:8444", "o [::1]:6443") * 2,
    *("a 224.0.0.1:6443", "a 255.255.255.255:1", "a [::ffff:c000:20b]:6443", "a 127.0.0.1:6443"),
)
CHECK_HOSTS = ("kubernetes", "a.b", "a b", "-a", "é", "10.0.0.1", "10.0.0.300", "10.0.0")
OF_BALANCER: dict[str, Callable[[random.Random], Any]] = {
    "loadBalancerBackends": lambda chance: ",".join(
        chance.choices(BACKENDS, k=chance.randint(1, 3))
    ),
    "loadBalancerCheckTimeout": lambda chance: chance.choice((0.1, 1.9, 2)),
    "loadBalancerCheckExpectedStatus": lambda chance: chance.choice(STATUSES),
    "loadBalancerCheckHost": lambda chance: chance.choice(CHECK_HOSTS),
    "loadBalancerCaFile": lambda _: "/ca.pem",
    "loadBalancerBind": lambda chance: chance.choice(("all", "vip")),
    "loadBalancerPort": lambda chance: chance.choice((8443, 6443, 9650)),
    "loadBalancerRedirectPort": lambda chance: chance.choice((8443, 6443)),
}
OF_ALL: dict[str, Callable[[random.Random], Any]] = {
    "allUnhealthy": lambda chance: chance.choice(("drop", "hold")),
    "vrrpVersion": lambda chance: chance.choice((2, 3)),
    "vrrpAdvertInterval": lambda chance: chance.choice((0.01, 0.1, 0.29, 0.125, 1, 1.5, 40.95, 41)),
}


def any_settings(chance: random.Random) -> dict[str, Any]:
    def some(of: dict[str, Callable[[random.Random], Any]], most: int) -> dict[str, Any]:
        names = chance.sample(sorted(of), chance.randint(0, most))
        return {name: of[name](chance) for name in names}

    found = {**DEFAULTS, "listen": "127.0.0.1:9650", **some(ANY, 3), **some(OF_ALL, 1)}
    vips = [",".join(chance.sample(VIPS, chance.choice((1, 1, 1, 2)))) for _ in range(2)]
    if chance.random() < 0.8:
        found["vipAddressCidr"] = vips[0]
    else:
        found["virtualRouters"] = [
            {"vipAddressCidr": vip, "virtualRouterId": number}
            for number, vip in enumerate(vips, start=1)
        ]
    if chance.random() < 0.5:
        balancer = {"loadBalancer": True, "loadBalancerBackends": "a 192.0.2.11:6443"}
        found |= balancer | some(OF_BALANCER, 2)
    if chance.random() < 0.5:
        found["nodeOverrides"] = {node: some(ANY, 2) for node in ("node-a", "node-b")}
    return found


def daemon_refuses_on_a_node(settings: dict[str, Any], file: Path) -> bool:
    file.write_text(yaml.safe_dump(settings))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    try:
        for node in ("node-c", *settings.get("nodeOverrides", ())):
            load(parser.parse_args([f"--config={file}"]), {"HAVIP_NODE_NAME": node})
    except ConfigError:
        return True
    return False


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], bool]]:
    """Settings, and whether the daemon refuses them."""
    chance = random.Random(20261127)
    file = tmp_path_factory.mktemp("judged") / "config.yaml"
    given = [any_settings(chance) for _ in range(200)]
    return [(settings, daemon_refuses_on_a_node(settings, file)) for settings in given]


@pytest.mark.parametrize("major", MAJORS)
def test_any_settings(judge: Judge, judged: list[tuple[dict[str, Any], bool]], major: int) -> None:
    (told,) = judge(major, settings=[settings for settings, _ in judged])
    wrong = [
        (settings, problems)
        for (settings, is_refused), problems in zip(judged, told, strict=True)
        if bool(problems) != is_refused
    ]
    assert wrong == []
    assert told.count("") > 25, "too few good ones to compare"
