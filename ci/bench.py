#!/usr/bin/env python3
"""Measure havip beside keepalived: how fast the VIP moves, what clients lose, what it costs.

    ci/bench.py                         everything that takes seconds
    ci/bench.py crash planned --runs 5  some of it, briefly
    ci/bench.py loss --loss-minutes 60  no false claim in an hour with 5 % loss under load
    ci/bench.py leak --leak-minutes 60  memory and descriptors over an hour of moves
    ci/bench.py lease --runs 10         election by a Lease beside VRRP (after `make tools`)
    ci/bench.py balancer --runs 10      HAProxy beside havip and beside keepalived (the same)
    ci/bench.py idle                    a watch that says nothing for 10.5 minutes (the same)

Needs root. All of it happens in network namespaces. Both daemons run at the same adverts
(VRRPv3, announced each 100 ms), at equal priorities, under the same client; havip otherwise at
its defaults, keepalived at its own; but `balancer` and `idle` compare with the guide of kubeadm, as
ci/bench_balancer.py says. Prints a table; `--json FILE` writes every single run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bench_balancer
from figures import Figure, progress, show

from havip.netlab import Forgetting, Frame, Host, Lab, Prober, Process, keepalived_config

ROOT = Path(__file__).resolve().parents[1]
ADVERT_INTERVAL_S = 0.1
PORT_URL = "http://127.0.0.1:8080/"
HEAL_LIMIT_S = 60.0


class Havip:
    name = "havip"
    period_s = ADVERT_INTERVAL_S

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def prepare(self, lab: Lab) -> None:
        """Whatever it needs beside the hosts."""

    def start(self, host: Host, priority: int = 100) -> Process:
        return host.havip(vip_address_cidr=host.lab.vip, vrrp_priority=priority, **self._settings)

    def wait_until_settled(self, host: Host) -> None:
        """Ready, and if a backup, with active suspicion armed: the state it is in for months."""

        def settled() -> bool:
            router = host.status()["routers"][0]
            return router["state"] == "active" or router["fast_detect"] in ("armed", "off")

        running(host).wait_for(settled, 20, "does not settle")


class Leased(Havip):
    """Elected by a Lease of a real API server, which runs with etcd on the client's host."""

    def __init__(self, duration: int, deadline: int, retry: int) -> None:
        self.name = f"lease {duration}/{deadline}/{retry}"
        self.period_s = retry
        super().__init__(
            election="lease",
            lease_duration=duration,
            lease_renew_deadline=deadline,
            lease_retry_period=retry,
        )

    def prepare(self, lab: Lab) -> None:
        sys.path.insert(0, str(ROOT / "tests" / "e2e"))
        from control_plane import ControlPlane  # noqa: PLC0415 (only here: it needs `make tools`)

        plane = ControlPlane(lab.client, [], ROOT / "build" / "bin")
        plane.start_api()
        self._settings["kubeconfig_file"] = plane.admin

    def wait_until_settled(self, host: Host) -> None:
        def settled() -> bool:
            return bool(host.status()["routers"][0]["lease"]["holder"])

        running(host).wait_for(settled, 20, "does not settle")


class Keepalived:
    name = "keepalived"
    period_s = ADVERT_INTERVAL_S

    def prepare(self, lab: Lab) -> None:
        """Nothing."""

    def start(self, host: Host, priority: int = 100) -> Process:
        process = host.keepalived(
            keepalived_config(host.lab.vip, priority=priority, advert_interval_s=ADVERT_INTERVAL_S)
        )
        process.wait_for_log("BACKUP STATE")
        return process

    def wait_until_settled(self, host: Host) -> None:
        now = time.monotonic()
        host.lab.capture.wait_for(lambda frame: frame.is_vrrp, 5, since_at=now)


Daemon = Havip | Keepalived


def running(host: Host) -> Process:
    """The daemon that runs on a host."""
    return next(p for p in reversed(host.processes) if p.is_daemon and p.is_running)


@contextlib.contextmanager
def stage(
    daemon: Daemon,
    *,
    hosts: int,
    clients: int = 1,
    services: bool = True,
    priorities: tuple[int, ...] = (),
) -> Iterator[Lab]:
    """A lab where every daemon runs and one host has the VIP."""
    with Lab(hosts=hosts, clients=clients) as lab:
        daemon.prepare(lab)
        for number, host in enumerate(lab.hosts):
            if services:
                host.serve()
            daemon.start(host, priorities[number] if priorities else 100)
        settle(lab, daemon)
        yield lab


def settle(lab: Lab, daemon: Daemon) -> Host:
    """Wait for one holder and settled daemons; returns the holder."""
    lab.watch.wait_for_holder(lab.vip_address, timeout_s=20)
    for host in lab.hosts:
        daemon.wait_until_settled(host)
    (holder,) = lab.watch.holders(lab.vip_address)
    return lab[holder]


def others(lab: Lab, host: Host) -> list[str]:
    return [other.name for other in lab.hosts if other is not host]


def any_moment(daemon: Daemon) -> None:
    """Misfortune does not wait for an advert, or a renewal."""
    time.sleep(random.uniform(0, daemon.period_s))


def crash(daemon: Daemon, runs: int) -> list[Figure]:
    """Power-off of the holder, to the first answer of another host."""
    taken, lost = [], []
    with stage(daemon, hosts=3) as lab:
        prober = lab.client.probe(str(lab.vip_address))
        for number in range(runs):
            holder = settle(lab, daemon)
            prober.wait_for_answer(holder.name, since_at=time.monotonic())
            any_moment(daemon)
            off_at = holder.power_off()
            answered_at = prober.wait_for_answer(
                *others(lab, holder), since_at=off_at, timeout_s=30
            )
            seen = prober.seen(off_at, answered_at + 0.3)
            taken.append(answered_at - off_at)
            lost.append(seen.lost)
            progress(f"crash {daemon.name} {number + 1}/{runs}: {taken[-1] * 1000:.0f} ms")
            holder.power_on()
            holder.serve()
            daemon.start(holder)
    return [
        Figure(
            "crash",
            "power-off to answer",
            daemon.name,
            "ms",
            [s * 1000 for s in taken],
            "median ≤ 200, worst ≤ 300",
        ),
        Figure("crash", "1 ms probes lost", daemon.name, "", [float(n) for n in lost]),
    ]


def planned(daemon: Daemon, runs: int) -> list[Figure]:
    """SIGTERM to the holder, under a client that keeps its ARP entry and one that resolves
    all the time."""
    gaps, lost, resolver_lost, failed, broken, hanging = [], [], [], [], [], []
    with stage(daemon, hosts=3, clients=2) as lab:
        vip = str(lab.vip_address)
        steady = lab.clients[0].probe(vip)
        resolving = lab.clients[1].probe(vip)
        connector = lab.clients[0].connector(vip)
        for number in range(runs):
            holder = settle(lab, daemon)
            for prober in (steady, resolving):
                prober.wait_for_answer(holder.name, since_at=time.monotonic())
            idle = lab.client.idle_connection(vip)
            any_moment(daemon)
            since_at = time.monotonic()
            with Forgetting(lab.clients[1], vip):
                running(holder).stop()
                steady.wait_for_answer(*others(lab, holder), since_at=since_at)
            until_at = time.monotonic() + 0.6
            hanging.append(float(not idle.wait_until_ended(0.5)))
            seen = steady.seen(since_at, until_at)
            connections = connector.seen(since_at, until_at)
            gaps.append(seen.longest_gap_s * 1000)
            lost.append(float(seen.lost))
            resolver_lost.append(float(resolving.seen(since_at, until_at).lost))
            failed.append(float(sum(not c.is_established for c in connections)))
            broken.append(float(sum(c.is_established and not c.is_answered for c in connections)))
            progress(
                f"planned {daemon.name} {number + 1}/{runs}: lost {lost[-1]:.0f} and "
                f"{resolver_lost[-1]:.0f}, connections failed {failed[-1]:.0f}, "
                f"broken {broken[-1]:.0f}, hanging {hanging[-1]:.0f}"
            )
            for prober in (steady, resolving):
                explain(lab, prober, since_at, until_at)
            daemon.start(holder)
    name = daemon.name
    return [
        Figure("planned", "longest gap", name, "ms", gaps),
        Figure("planned", "1 ms probes lost", name, "", lost, "0"),
        Figure("planned", "lost, client that resolves", name, "", resolver_lost, "0"),
        Figure("planned", "new connections failed", name, "", failed, "0"),
        Figure("planned", "connections cut before answer", name, "", broken),
        Figure("planned", "idle connections left hanging", name, "", hanging, "0"),
    ]


def explain(lab: Lab, prober: Prober, since_at: float, until_at: float) -> None:
    """Where few probes were lost that should not have been: when, beside who had the VIP."""
    lost = prober.lost_at(since_at, until_at)
    if 0 < len(lost) < 10:
        events = [e for e in lab.watch.vip_events(lab.vip_address) if since_at < e.at < until_at]
        told = [(at, "lost") for at in lost]
        told += [(e.at, f"{e.host} {'has' if e.present else 'lost'} the VIP") for e in events]
        told += [
            (f.at, f"{f.port} announces")
            for f in lab.capture.frames(since_at)
            if f.at < until_at and not f.is_vrrp and claims_vip(lab, f)
        ]
        for at, what in sorted(told):
            progress(f"    {(at - since_at) * 1000:8.2f} ms {what}")


def heal(daemon: Daemon, runs: int) -> list[Figure]:
    """A partition with a holder on each side heals; the client was on the loser's side."""
    gaps = []
    with stage(daemon, hosts=2, priorities=(150, 100)) as lab:
        prober = lab.client.probe(str(lab.vip_address))
        for number in range(runs):
            lab.watch.wait_for_holder(lab.vip_address, "h1", timeout_s=30)
            settle(lab, daemon)
            lab.partition(["h1"], ["h2", lab.client, "gateway"])
            split_at = time.monotonic()
            lab.watch.wait_for(
                lambda lab=lab: lab.watch.holders(lab.vip_address) == ("h1", "h2"), 20, "a split"
            )
            prober.wait_for_answer("h2", since_at=split_at, timeout_s=20)
            any_moment(daemon)
            before_at = time.monotonic()
            lab.heal()
            prober.wait_for_answer("h1", since_at=before_at, timeout_s=HEAL_LIMIT_S)
            seen = prober.seen(before_at, time.monotonic() + 1)
            gaps.append(seen.longest_gap_s)
            progress(f"heal {daemon.name} {number + 1}/{runs}: {gaps[-1] * 1000:.0f} ms")
    return [
        Figure("heal", "client cut off", daemon.name, "ms", [s * 1000 for s in gaps], "worst ≤ 100")
    ]


def equal(daemon: Daemon, runs: int) -> list[Figure]:
    """Five equal hosts lose their holder: how many of them claim?"""
    taken, addresses, announcers, speakers = [], [], [], []
    with stage(daemon, hosts=5, services=False) as lab:
        for number in range(runs):
            holder = settle(lab, daemon)
            any_moment(daemon)
            off_at = holder.power_off()
            lab.watch.wait_for_holder(lab.vip_address, *others(lab, holder), timeout_s=20)
            first_at = next(
                e.at for e in lab.watch.vip_events(lab.vip_address) if e.present and e.at > off_at
            )
            until_at = first_at + 1
            lab.capture.wait_for(lambda f, at=until_at: f.is_vrrp and f.at > at, 10)
            having = {
                e.host
                for e in lab.watch.vip_events(lab.vip_address)
                if e.present and off_at < e.at < until_at
            }
            claims = [
                frame
                for frame in lab.capture.frames(off_at)
                if frame.port != holder.name and claims_vip(lab, frame)
            ]
            speaking = {frame.port for frame in claims}
            taken.append((first_at - off_at) * 1000)
            addresses.append(float(len(having) > 1))
            announcers.append(float(len({f.port for f in claims if not f.is_vrrp}) > 1))
            speakers.append(float(len(speaking) > 1))
            progress(
                f"equal {daemon.name} {number + 1}/{runs}: address on {sorted(having)}, "
                f"claimed by {sorted(speaking)}"
            )
            if speakers[-1]:
                for frame in claims[:8]:
                    what = "advert" if frame.is_vrrp else "announcement"
                    progress(f"    {(frame.at - off_at) * 1000:8.2f} ms {frame.port} {what}")
            holder.power_on()
            daemon.start(holder)
    name = daemon.name
    return [
        Figure("equal", "power-off to address", name, "ms", taken),
        Figure("equal", "takeovers, VIP on two hosts", name, "", [sum(addresses)], "0"),
        Figure("equal", "takeovers, two announced", name, "", [sum(announcers)], "0"),
        Figure("equal", "takeovers, adverts that crossed", name, "", [sum(speakers)]),
    ]


def claims_vip(lab: Lab, frame: Frame) -> bool:
    """Whether the frame is an IPv4 advert above priority 0, or announces the VIP by ARP."""
    if frame.is_vrrp:
        return frame.ether_type == 0x0800 and frame.data[14 + (frame.data[14] & 15) * 4 + 2] > 0
    return frame.ether_type == 0x0806 and frame.data[28:32] == lab.vip_address.packed


def lease(daemon: Daemon, runs: int) -> list[Figure]:
    """Crash and planned move, elected by a Lease at both usual sets of times, and by VRRP."""
    figures = []
    for each in (daemon, Leased(15, 10, 2), Leased(5, 3, 1)):
        for figure in (*crash(each, runs), *planned(each, runs)):
            what = f"{figure.bench}: {figure.what}"
            figures.append(replace(figure, bench="lease", what=what, target=""))
    return figures


def service(_daemon: Daemon, runs: int) -> list[Figure]:
    """The holder's service is killed, to the first answer of another host."""
    taken = []
    daemon = Havip(check_service_url=PORT_URL)
    with stage(daemon, hosts=3) as lab:
        prober = lab.client.probe(str(lab.vip_address))
        for number in range(runs):
            holder = settle(lab, daemon)
            prober.wait_for_answer(holder.name, since_at=time.monotonic())
            time.sleep(random.uniform(0, 2))
            web = next(p for p in reversed(holder.processes) if p.is_running and not p.is_daemon)
            killed_at = time.monotonic()
            web.kill()
            answered_at = prober.wait_for_answer(
                *others(lab, holder), since_at=killed_at, timeout_s=30
            )
            taken.append((answered_at - killed_at) * 1000)
            progress(f"service {number + 1}/{runs}: {taken[-1]:.0f} ms")
            holder.serve()
            running(holder).wait_for(
                lambda h=holder: h.status()["checks"][0]["healthy"], 30, "stays unhealthy"
            )
    return [Figure("service", "kill to answer elsewhere", daemon.name, "ms", taken)]


def start(_daemon: Daemon, runs: int) -> list[Figure]:
    """From the start of the process until `/readyz` says 200, checks included."""
    taken = []
    with Lab(hosts=1, clients=0) as lab:
        host = lab.hosts[0]
        host.serve()
        for _ in range(runs):
            begun_at = time.monotonic()
            process = Havip(check_service_url=PORT_URL).start(host)
            taken.append((time.monotonic() - begun_at) * 1000)
            process.stop()
    return [Figure("start", "start to ready", "havip", "ms", taken, "≤ 500")]


def size(daemon: Daemon, seconds: float) -> list[Figure]:
    """Memory of a holder and a backup, and the CPU that an idle backup uses."""
    with stage(daemon, hosts=2) as lab:
        holder = settle(lab, daemon)
        backup = lab[others(lab, holder)[0]]
        began_s, began_at = cpu_s(running(backup)), time.monotonic()
        progress(f"size {daemon.name}: an idle backup for {seconds:.0f} s")
        time.sleep(seconds)
        used = (cpu_s(running(backup)) - began_s) / (time.monotonic() - began_at) * 100
        pss = [pss_mib(running(host)) for host in (holder, backup)]
    return [
        Figure("size", "PSS of holder and backup", daemon.name, "MiB", pss, "≤ 50"),
        Figure("size", "CPU of an idle backup", daemon.name, "%", [used], "≤ 1"),
    ]


def family(process: Process) -> list[int]:
    """The process and its descendants."""
    pids = [process.pid]
    for pid in pids:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pids += map(int, children)
    return pids


def pss_mib(process: Process) -> float:
    total = 0
    for pid in family(process):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def cpu_s(process: Process) -> float:
    """Time on a processor so far, of every thread of the process and its descendants."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) / 1e9
        for pid in family(process)
        for task in Path(f"/proc/{pid}/task").iterdir()
    )


def loss(daemon: Daemon, minutes: float) -> list[Figure]:
    """5 % loss for each receiver, two compilers beside it: does anyone claim falsely?"""
    claims, moves = 0, 0
    with stage(daemon, hosts=3, services=False) as lab, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(compiler())
        settle(lab, daemon)
        before = len(lab.watch.vip_events(lab.vip_address))
        lab.loss(5)
        end_at = time.monotonic() + minutes * 60
        seen_at = time.monotonic()
        while time.monotonic() < end_at:
            time.sleep(min(10.0, max(0.0, end_at - time.monotonic())))
            (holder, *_rest) = lab.watch.holders(lab.vip_address) or ("",)
            frames, seen_at = lab.capture.frames(seen_at), time.monotonic()
            claims += len({f.port for f in frames if f.is_vrrp and claims_vip(lab, f)} - {holder})
            moves = len(lab.watch.vip_events(lab.vip_address)) - before
            left_s = end_at - time.monotonic()
            progress(f"loss {daemon.name}: {left_s:.0f} s to go, {claims} claims, {moves} moves")
    name = daemon.name
    return [
        Figure("loss", f"false claims in {minutes:g} min", name, "", [float(claims)], "0"),
        Figure("loss", f"address changes in {minutes:g} min", name, "", [float(moves)], "0"),
    ]


@contextlib.contextmanager
def compiler() -> Iterator[None]:
    code = (
        "import argparse,inspect\ns=inspect.getsource(argparse)\nwhile True: compile(s,'x','exec')"
    )
    with subprocess.Popen((sys.executable, "-c", code)) as process:
        try:
            yield
        finally:
            process.kill()


def leak(_daemon: Daemon, minutes: float) -> list[Figure]:
    """Moves without end between three daemons that live on: does anything grow?"""
    daemon = Havip(check_service_url=PORT_URL, check_service_interval=0.5)
    samples: list[tuple[float, int]] = []
    moves = 0
    with stage(daemon, hosts=3) as lab:
        end_at = time.monotonic() + minutes * 60
        next_at = time.monotonic() + 30
        while time.monotonic() < end_at:
            holder = settle(lab, daemon)
            web = next(p for p in reversed(holder.processes) if p.is_running and not p.is_daemon)
            web.kill()
            lab.watch.wait_for_holder(lab.vip_address, *others(lab, holder))
            moves += 1
            holder.serve()
            running(holder).wait_for(
                lambda h=holder: h.status()["checks"][0]["healthy"], 30, "stays unhealthy"
            )
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + 30
                daemons = [running(host) for host in lab.hosts]
                samples.append(
                    (
                        sum(map(pss_mib, daemons)) / len(daemons),
                        sum(len(list(Path(f"/proc/{d.pid}/fd").iterdir())) for d in daemons),
                    )
                )
                progress(f"leak: {moves} moves, {samples[-1][0]:.1f} MiB, {samples[-1][1]} fds")
    notes = [f"{moves} moves, {len(samples)} samples, first and last shown as values"]
    ends = [samples[0], samples[-1]] if samples else []
    return (
        [
            Figure(
                "leak",
                "PSS per daemon, first and last",
                "havip",
                "MiB",
                [m for m, _ in ends],
                notes=notes,
            ),
            Figure("leak", "descriptors, first and last", "havip", "", [float(n) for _, n in ends]),
        ]
        if ends
        else []
    )


def main() -> int:
    more = ("lease", "loss", "leak", "balancer", "idle")
    short = ("crash", "planned", "heal", "equal", "service", "start", "size")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "bench", nargs="*", metavar="BENCH", help=f"{', '.join(short)}, {', '.join(more)}"
    )
    parser.add_argument(
        "--runs", type=int, help="of each (default: 20; equal: 50; start, lease, balancer: 10)"
    )
    parser.add_argument(
        "--keepalived-runs", type=int, default=5, help="of keepalived (default: 5; 0: leave it out)"
    )
    parser.add_argument("--idle-seconds", type=float, default=60)
    parser.add_argument("--loss-minutes", type=float, default=60)
    parser.add_argument("--leak-minutes", type=float, default=60)
    parser.add_argument("--idle-minutes", type=float, default=10.5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    for bench in arguments.bench:
        if bench not in (*short, *more):
            parser.error(f"no bench {bench!r}; there are {', '.join((*short, *more))}")

    runs: dict[str, int] = {"equal": 50, "start": 10, "lease": 10, "balancer": 10}
    rivals = {"crash": crash, "planned": planned, "heal": heal, "equal": equal}
    alone = {"service": service, "start": start, "lease": lease}
    lasting: dict[str, tuple[Callable[[Daemon, float], list[Figure]], float]] = {
        "size": (size, arguments.idle_seconds),
        "loss": (loss, arguments.loss_minutes),
        "leak": (leak, arguments.leak_minutes),
    }
    figures: list[Figure] = []
    for bench in arguments.bench or short:
        count = arguments.runs or runs.get(bench, 20)
        if bench in rivals:
            figures += rivals[bench](Havip(), count)
            if arguments.keepalived_runs:
                figures += rivals[bench](Keepalived(), min(count, arguments.keepalived_runs))
        elif bench in ("balancer", "idle"):
            if bench == "idle":
                figures += bench_balancer.idle(arguments.idle_minutes)
            else:
                rival_runs = min(count, arguments.keepalived_runs)
                figures += bench_balancer.balancer(count, rival_runs)
        elif bench in alone:
            figures += alone[bench](Havip(), count)
        else:
            measure, duration = lasting[bench]
            figures += measure(Havip(), duration)
            if bench == "size" and arguments.keepalived_runs:
                figures += measure(Keepalived(), duration)
    print(show(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
