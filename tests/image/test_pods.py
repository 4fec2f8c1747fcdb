"""The image as pods on three nodes: who holds the VIP, and what a client sees when pods end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import Engine, Pod
from manifest import KUBELET_PORT, write_pod

from havip.netlab import Lab

HANG_S = 20.0
"""Protection against a hang; no promise."""
MakePods = Callable[[], tuple[Lab, dict[str, Pod]]]


@pytest.fixture
def pods(make_lab: Callable[..., Lab], engine: Engine, image) -> tuple[Lab, dict[str, Pod]]:
    """Three nodes that serve, each with its pod, all ready; one has the VIP."""
    lab = make_lab(hosts=3)
    pods = {}
    for host in lab.hosts:
        host.serve()
        host.serve(KUBELET_PORT)
        pods[host.name] = Pod(engine, host, write_pod(host, image.reference))
        pods[host.name].play()
    for pod in pods.values():
        pod.wait_until_ready()
    lab.watch.wait_for_holder(lab.vip_address, timeout_s=HANG_S)
    # A newcomer is no successor before it has heard the holder.
    for pod in pods.values():
        pod.wait_for(lambda pod=pod: follows(pod), "hears no holder")
    return lab, pods


def follows(pod: Pod) -> bool:
    routers = pod.host.status()["routers"]
    return all(
        each["state"] == "active" or any(peer["is_active"] for peer in each["peers"])
        for each in routers
    )


def holder(lab: Lab) -> str:
    lab.watch.wait_for_holder(lab.vip_address, timeout_s=HANG_S)
    (name,) = lab.watch.holders(lab.vip_address)
    return name


def others(lab: Lab, name: str) -> list[str]:
    return [host.name for host in lab.hosts if host.name != name]


def test_pods_with_two_capabilities_and_no_writable_file_hold_one_vip(pods) -> None:
    lab, all_pods = pods
    name = holder(lab)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(name)
    for pod in all_pods.values():
        status = Path("/proc", str(pod.pid), "status").read_text()
        told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        # NET_ADMIN is bit 12, NET_RAW 13; the bounding set is all that it could ever get.
        assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0b11 << 12
        assert told["NoNewPrivs"] == "1"
        mounts = Path("/proc", str(pod.pid), "mounts").read_text()
        (root,) = (line for line in mounts.splitlines() if line.split()[1] == "/")
        assert root.split()[3].startswith("ro,")
        for path in ("/healthz", "/readyz"):
            assert pod.host.get(path)[0] == 200


def test_the_vip_of_a_killed_pod_moves_and_the_pod_comes_back_as_a_backup(pods) -> None:
    lab, all_pods = pods
    first = holder(lab)
    prober = lab.client.probe(str(lab.vip_address))
    prober.wait_for_answer(first)
    killed_at = all_pods[first].kill()
    lab.watch.wait_for_holder(lab.vip_address, *others(lab, first), timeout_s=HANG_S)
    second = holder(lab)
    prober.wait_for_answer(second, since_at=killed_at)

    # The kernel removes what the dead one left, and podman starts it again, as a kubelet would.
    lab.watch.wait_until_gone(lab.vip_address, first, timeout_s=HANG_S)
    all_pods[first].wait_until_ready()
    assert all_pods[first].restarts == 1
    lab.watch.mark(first, alive=True)
    all_pods[first].wait_for(lambda: follows(all_pods[first]), "hears no holder")
    assert lab.watch.holders(lab.vip_address) == (second,)


def test_a_rolling_update_moves_the_vip_once_for_each_node_at_most_and_loses_nothing(pods) -> None:
    lab, all_pods = pods
    first = holder(lab)
    vip = str(lab.vip_address)
    prober = lab.client.probe(vip)
    connector = lab.client.connector(vip)
    prober.wait_for_answer(first)
    since_at = time.monotonic()
    for name in (first, *others(lab, first)):
        pod = all_pods[name]
        assert pod.stop() == 0, "ended within its grace, and as asked"
        assert not pod.host.has_vip(lab.vip_address)
        pod.remove()
        pod.play()
        pod.wait_until_ready()
        pod.wait_for(lambda pod=pod: follows(pod), "hears no holder")
    prober.wait_for_answer(holder(lab), since_at=time.monotonic())
    until_at = time.monotonic()

    seen = prober.seen(since_at, until_at)
    assert seen.lost == 0
    assert seen.answered_by[0] == first
    assert [c for c in connector.seen(since_at, until_at) if not c.is_answered] == []
    came = [e.host for e in lab.watch.vip_events(lab.vip_address) if e.present and e.at > since_at]
    assert 1 <= len(came) <= len(all_pods)


def test_pods_that_are_deleted_leave_nothing(pods, engine: Engine) -> None:
    lab, all_pods = pods
    processes = {pod.pid for pod in all_pods.values()}
    for pod in all_pods.values():
        pod.remove()
    assert engine.containers() == []
    assert engine.podman("pod", "ps", "--quiet") == ""
    assert not any(Path("/proc", str(pid)).exists() for pid in processes)
    lab.watch.wait_until_gone(lab.vip_address)
    assert lab.watch.vip_events(lab.vip_address)[-1].port_id, "it was removed, and did not expire"
    for host in lab.hosts:
        # The lab's own two services, and nothing else.
        inside = host.run(("ip", "netns", "pids", host.namespace)).stdout.split()
        assert len([pid for pid in inside if Path("/proc", pid).exists()]) <= 2
    assert f"{engine.directory}/store/overlay/" not in Path("/proc/mounts").read_text()
