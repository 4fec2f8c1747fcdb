"""Daemons on the hosts of a lab, and what they say on the wire, read byte by byte."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from patience import HANG_S

from havip.netlab import PORT, Frame, Host, Lab, Process

SERVICE_URL = f"http://127.0.0.1:{PORT}/"
Address = IPv4Address | IPv6Address


def start(lab: Lab, *hosts: Host, **settings: object) -> dict[str, Process]:
    """`havip run` on each host (default: all), all at once; returns when all are ready."""
    settings.setdefault("vip_address_cidr", lab.vip)
    chosen = hosts or lab.hosts
    daemons = {host.name: host.havip(wait=False, **settings) for host in chosen}
    for host in chosen:
        daemons[host.name].wait_for(host.is_ready, HANG_S, "/readyz does not say 200")
    return daemons


def holder(lab: Lab, vip: Address | None = None) -> Host:
    """The host that has the VIP, once exactly one has."""
    vip = vip or lab.vip_address
    found: tuple[str, ...] = ()

    def alone() -> bool:
        nonlocal found
        found = lab.watch.holders(vip)
        return len(found) == 1

    lab.watch.wait_for(alone, HANG_S, f"{vip} on one host alone")
    return lab[found[0]]


def settled(lab: Lab, vip: Address | None = None) -> Host:
    """The one holder, once every other daemon has heard it: a newcomer is no successor yet."""
    first = holder(lab, vip)
    for host in lab.hosts:
        for process in host.processes:
            if host is not first and process.is_daemon and process.is_running:
                process.wait_for(lambda host=host: _follows(host), HANG_S, "hears no holder")
    return first


def _follows(host: Host) -> bool:
    routers = host.status()["routers"]
    return any(peer["is_active"] for each in routers for peer in each["peers"])


def others(lab: Lab, host: Host) -> list[str]:
    return [each.name for each in lab.hosts if each is not host]


def router(host: Host, virtual_router_id: int = 10) -> dict[str, Any]:
    """One virtual router of the host's `/status`."""
    found = {each["virtual_router_id"]: each for each in host.status()["routers"]}
    told = found[virtual_router_id]
    assert isinstance(told, dict)
    return told


def decisions(process: Process) -> list[dict[str, Any]]:
    """The JSON lines of a daemon's log."""
    return [json.loads(line) for line in process.log_text().splitlines() if line[:1] == "{"]


def reasons(process: Process, event: str) -> list[str]:
    return [line.get("reason", "") for line in decisions(process) if line["event"] == event]


def metric(host: Host, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    total = 0.0
    for line in host.metrics().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(
            f'{key}="{wanted}"' in series for key, wanted in labels.items()
        ):
            total += float(value)
    return total


def dropped(host: Host) -> dict[str, float]:
    """How many adverts the host's daemon did not use, by reason."""
    found: dict[str, float] = {}
    for line in host.metrics().splitlines():
        series, _, value = line.rpartition(" ")
        if series.startswith("havip_adverts_dropped_total{") and float(value):
            reason = series.partition('reason="')[2].partition('"')[0]
            found[reason] = found.get(reason, 0) + float(value)
    return found


# The wire


def message(frame: Frame) -> bytes:
    """The VRRP message in a frame, with what follows it."""
    data = frame.data
    if frame.ether_type == 0x0800:
        return data[14 + (data[14] & 15) * 4 : 14 + int.from_bytes(data[16:18])]
    return data[54 : 54 + int.from_bytes(data[18:20])]


def adverts(lab: Lab, host: Host | str, since_at: float = 0.0, vrid: int = 10) -> list[Frame]:
    name = host if isinstance(host, str) else host.name
    return [
        frame
        for frame in lab.capture.frames(since_at)
        if frame.port == name and frame.is_vrrp and message(frame)[1] == vrid
    ]


def priorities(frames: list[Frame]) -> list[int]:
    return [message(frame)[2] for frame in frames]


def wait_for_adverts(
    lab: Lab, host: Host | str, count: int, since_at: float, *, priority: int | None = None
) -> list[Frame]:
    """That many adverts sent since then: time told by the wire, not by the clock."""
    name = host if isinstance(host, str) else host.name
    seen: list[Frame] = []
    at = since_at

    def is_next(frame: Frame) -> bool:
        return (
            frame.port == name
            and frame.is_vrrp
            and frame.at > at
            and priority in (None, message(frame)[2])
        )

    while len(seen) < count:
        frame = lab.capture.wait_for(is_next, HANG_S, at)
        assert frame is not None, f"{name} sends no advert"
        seen.append(frame)
        at = frame.at
    return seen


def claimed(frame: Frame) -> Address | None:
    """The address that a frame binds to its sender's MAC: ARP of any kind, or an NA."""
    data = frame.data
    if frame.ether_type == 0x0806 and data[28:32] != bytes(4):
        return IPv4Address(data[28:32])
    if frame.ether_type == 0x86DD and data[20] == 58 and data[54] == 136:
        return IPv6Address(data[62:78])
    return None


def is_announcement(frame: Frame, vip: Address) -> bool:
    """Nobody asked for it: a gratuitous ARP request, or an NA to all nodes."""
    data = frame.data
    if claimed(frame) != vip:
        return False
    if vip.version == 4:
        return data[20:22] == b"\0\1" and data[38:42] == vip.packed
    return data[38:54] == IPv6Address("ff02::1").packed


def announcements(
    lab: Lab, host: Host | str, since_at: float = 0.0, vip: Address | None = None
) -> list[Frame]:
    name = host if isinstance(host, str) else host.name
    vip = vip or lab.vip_address
    return [
        frame
        for frame in lab.capture.frames(since_at)
        if frame.port == name and is_announcement(frame, vip)
    ]


def wait_for_announcement(
    lab: Lab, host: Host | str, since_at: float, vip: Address | None = None
) -> Frame:
    """The first one that the host has sent since then."""
    name = host if isinstance(host, str) else host.name
    vip = vip or lab.vip_address
    frame = lab.capture.wait_for(
        lambda frame: frame.port == name and is_announcement(frame, vip), HANG_S, since_at
    )
    assert frame is not None, f"{name} does not announce {vip}"
    return frame
