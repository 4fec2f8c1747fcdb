"""`havip who-has` on real packets: one holder, none, two, itself; and does the address answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from havip.netlab import Lab
from havip.netlab.host import Host

HAVIP = (sys.executable, "-m", "havip")
VIP, VIP6, LINK_LOCAL_VIP = "10.77.0.100", "fd77::100", "fe80::100"
PREFIX = {VIP: "24", VIP6: "64", LINK_LOCAL_VIP: "64"}


@pytest.fixture(scope="module")
def shared_lab(make_shared_lab) -> Lab:
    return make_shared_lab(hosts=2, clients=1)


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    yield shared_lab
    for host in shared_lab.hosts:
        for vip, length in PREFIX.items():
            host.run(("ip", "address", "delete", f"{vip}/{length}", "dev", "eth0"), check=False)


def hold(host: Host, vip: str) -> None:
    host.ip(f"address add {vip}/{PREFIX[vip]} dev eth0 nodad")


def who_has(host: Host, *args: str) -> tuple[int, list[dict[str, Any]]]:
    done = host.run((*HAVIP, "who-has", "--output", "json", *args), check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("vip", PREFIX)
def test_one_host_has_it(lab: Lab, vip: str) -> None:
    hold(lab["h1"], vip)
    args = ("--interface", "eth0") if vip == LINK_LOCAL_VIP else ()
    status, (found,) = who_has(lab.client, *args, vip)
    assert (status, found["problem"]) == (0, "")
    assert (found["hosts"], found["is_here"]) == ([lab["h1"].mac], False)
    assert found["answer"].startswith("echo in ")


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_this_host_has_it(lab: Lab, vip: str) -> None:
    hold(lab["h1"], vip)
    status, (found,) = who_has(lab["h1"], vip)
    assert (status, found["problem"]) == (0, "")
    assert (found["hosts"], found["is_here"]) == ([lab["h1"].mac], True)


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_nobody_has_it(lab: Lab, vip: str) -> None:
    status, (found,) = who_has(lab.client, "--timeout=1", vip)
    assert (status, found["problem"]) == (1, "nobody has it")


@pytest.mark.parametrize("vip", [VIP, VIP6])
@pytest.mark.parametrize("asking", ["c1", "h1"])
def test_two_hosts_have_it(lab: Lab, vip: str, asking: str) -> None:
    for host in lab.hosts:
        hold(host, vip)
    status, (found,) = who_has(lab[asking], "--timeout=1", vip)
    assert (status, found["problem"]) == (1, "2 hosts have it")
    assert found["hosts"] == sorted(host.mac for host in lab.hosts)


def test_it_moves_meanwhile(lab: Lab) -> None:
    """What counts is who has it in the end: a roll-out may move it while somebody asks."""
    hold(lab["h1"], VIP)
    asking = lab.client.popen((*HAVIP, "who-has", VIP, "--timeout=20"), name="who-has")
    hold(lab["h2"], VIP)
    lab["h1"].ip(f"address delete {VIP}/24 dev eth0")
    assert asking.wait(25) == 0
    assert lab["h2"].mac in asking.log_text()


def test_its_port(lab: Lab) -> None:
    hold(lab["h1"], VIP)
    service = lab["h1"].serve(8080)
    assert who_has(lab.client, "--port=8080", VIP)[0] == 0
    service.kill()
    status, (found,) = who_has(lab.client, "--port=8080", "--timeout=1", VIP)
    assert (status, found["problem"]) == (1, "it does not answer")


def test_one_of_several_is_wrong(lab: Lab) -> None:
    hold(lab["h1"], VIP)
    status, (good, bad) = who_has(lab.client, "--timeout=2", VIP, VIP6)
    assert (status, good["problem"], bad["problem"]) == (1, "", "nobody has it")


def test_for_people(lab: Lab) -> None:
    hold(lab["h1"], VIP)
    done = lab.client.run((*HAVIP, "who-has", VIP))
    assert [VIP, "eth0", lab["h1"].mac, "echo"] == done.stdout.splitlines()[1].split()[:4]


def test_it_cannot_ask(lab: Lab) -> None:
    def refusal(*args: str) -> str:
        done = lab.client.run((*args, VIP), check=False)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr

    without = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", "--")
    assert "CAP_NET_RAW" in refusal(*without, *HAVIP, "who-has")
    assert "no interface 'eth9' to ask on; there are: eth0" in refusal(
        *HAVIP, "who-has", "--interface=eth9"
    )
