"""`vrrpUnicastPeers: auto` on real packets while nothing answers for the Kubernetes API.

With an API server it is tests/e2e/test_kube_peers.py's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster import HANG_S, adverts, holder, reasons, router, start, wait_for_adverts
from patience import becomes

from havip.netlab import Host, Lab

SOURCE = "Service vip/havip-peers"


@pytest.fixture
def lab(make_lab: Any) -> Lab:
    found: Lab = make_lab(hosts=3)
    for host in found.hosts:
        host.serve()
    return found


def settings(lab: Lab, host: Host, certificates: Any) -> dict[str, object]:
    """Access to an API server that is not there, and a disk of the host's own."""
    return {
        "vip_address_cidr": lab.vip,
        "vrrp_unicast_peers": "auto",
        "kube_peers_service": "havip-peers",
        "kube_namespace": "vip",
        "kube_api_server": "https://127.0.0.1:6443",
        "kube_ca_file": certificates.path("ca.pem"),
        "kube_token": "t0ken",
        "state_directory": state(lab, host).parent,
    }


def state(lab: Lab, host: Host) -> Path:
    return lab.directory / f"{host.name}-state" / "peers-eth0-10.json"


def keep(lab: Lab, host: Host, *named: Host) -> None:
    """The host's disk has this list of an earlier life."""
    path = state(lab, host)
    path.parent.mkdir(exist_ok=True)
    addresses = [each.ipv4 for each in named]
    path.write_text(json.dumps({"version": 1, "source": SOURCE, "addresses": addresses}))


def run(lab: Lab, host: Host, certificates: Any) -> Any:
    """The host's daemon, once it is ready."""
    return start(lab, host, **settings(lab, host, certificates))[host.name]


def test_kept_lists_are_enough_for_one_holder(lab: Lab, certificates: Any) -> None:
    for host in lab.hosts:
        keep(lab, host, *lab.hosts)
    for host in lab.hosts:
        run(lab, host, certificates)
    first = holder(lab)
    for host in lab.hosts:
        expected = {each.ipv4 for each in lab.hosts if each is not host}
        becomes(lambda host=host: set(router(host)["unicast_peers"]), expected)
    killed_at = first.power_off()
    lab.watch.wait_for_holder(lab.vip_address, timeout_s=HANG_S)
    (second,) = lab.watch.holders(lab.vip_address)
    assert second != first.name
    sent = wait_for_adverts(lab, second, 4, killed_at)
    assert {frame.data[30:34] for frame in sent} == {
        bytes(map(int, host.ipv4.split("."))) for host in lab.hosts if host.name != second
    }


def test_without_a_list_nobody_holds_and_it_says_why(lab: Lab, certificates: Any) -> None:
    host = lab.hosts[0]
    daemon = host.havip(wait=False, **settings(lab, host, certificates))
    daemon.wait_for(lambda: "refused" in readiness(host), HANG_S, "does not say what is wrong")
    assert "eth0/10: no_peers: Service vip/havip-peers: " in readiness(host)
    becomes(lambda: router(host)["blocked_by"], "no_peers")
    assert adverts(lab, host) == []
    assert lab.watch.holders(lab.vip_address) == ()
    assert "t0ken" not in daemon.log_text()


def readiness(host: Host) -> str:
    try:
        return host.get("/readyz")[1]
    except OSError:
        return ""


@pytest.mark.parametrize("named", ["others", "garbage"])
def test_a_list_that_is_not_its_own_is_none(lab: Lab, certificates: Any, named: str) -> None:
    host, *others = lab.hosts
    keep(lab, host, *others)
    if named == "garbage":
        state(lab, host).write_bytes(b"\0" * 100)
    daemon = host.havip(wait=False, **settings(lab, host, certificates))
    daemon.wait_for(lambda: "no_peers" in readiness(host), HANG_S, "does not lack peers")
    if named == "garbage":
        daemon.wait_for_log("the kept list of peers does not count")
    assert lab.watch.holders(lab.vip_address) == ()


def test_a_node_that_the_holder_does_not_know_introduces_itself(
    lab: Lab, certificates: Any
) -> None:
    """It is heard, is spoken to from then on, and moves nothing."""
    first, second, third = lab.hosts
    keep(lab, first, first, second)
    keep(lab, second, first, second)
    keep(lab, third, first, second, third)
    daemons = {host.name: run(lab, host, certificates) for host in (first, second)}
    before = holder(lab)
    run(lab, third, certificates)
    daemons[before.name].wait_for(
        lambda: third.ipv4 in router(before)["unicast_peers"], HANG_S, "does not hear the new node"
    )
    daemons[before.name].wait_for(
        lambda: "peer_heard" in reasons(daemons[before.name], "peers"), HANG_S, "does not say so"
    )
    becomes(lambda: router(third)["state"], "backup")
    came = [event.host for event in lab.watch.vip_events(lab.vip_address) if event.present]
    assert came == [before.name], "nothing moved"
    # The two that were there are gone: the third one holds.
    for host in (first, second):
        host.power_off()
    lab.watch.wait_for_holder(lab.vip_address, third.name, timeout_s=HANG_S)
