"""HAProxy beside havip, and HAProxy and keepalived as the guide of kubeadm has them.

Three control-plane hosts, each with a real API server, HAProxy and its daemon; etcd is on a host of
its own, and the clients are on another one. The guide's files are those of the edition with
`timeout client 20s` (its latest has 35 s, and a better check), with one line more: HAProxy's socket
for statistics, which the bench reads in both. So keepalived announces each second, and both backups
have the same priority; ci/bench.py `crash` compares the daemons at the same pace. havip is at its
defaults.

Clients have a certificate. One makes a new connection and a request each 20 ms, and gives each up
after 5 s. Watches are begun anew as soon as their connection ends, which they find out by TCP
keep-alive after 30 s, as kubectl does, if nobody tells them; an API server that is not concerned
changes their object each 50 ms.
"""

from __future__ import annotations

import contextlib
import csv
import os
import random
import shutil
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from figures import Figure, progress

from havip.netlab import Host, Lab, LabError, Process

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / each) for each in ("e2e", "netns")]

from api_clients import TIMEOUT_S  # noqa: E402 (found by the line above)
from balanced import API_PORT, PORT, Balanced, Callers, Client  # noqa: E402
from control_plane import ControlPlane  # noqa: E402

BINARIES = ROOT / "build" / "bin"
SETTLE_S = 120.0
"""Protection against a hang: an API server starts, and slow start goes by."""
RESUME_S = 90.0
"""What a watch that hangs is given to go on."""
OBJECT = "/api/v1/namespaces/default/configmaps/tick"
WATCH = "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dtick"
SILENT = WATCH.replace("tick", "nobody")
WATCHES = 12
WINDOW_S = 5.0
"""After a misfortune: requests begun in it are looked at one by one."""
LATE_S = 1.0
LATE = f"failed or later than {LATE_S:g} s, of {WINDOW_S:g} s"
CHECKED_S = 4.0
"""Two checks of havip's HAProxy, after which no request may meet a dead API server."""

KEEPALIVED_CONF = """\
! /etc/keepalived/keepalived.conf
! Configuration File for keepalived
global_defs {{
    router_id LVS_DEVEL
}}
vrrp_script check_apiserver {{
  script "{script}"
  interval 3
  weight -2
  fall 10
  rise 2
}}

vrrp_instance VI_1 {{
    state {state}
    interface eth0
    virtual_router_id 51
    priority {priority}
    authentication {{
        auth_type PASS
        auth_pass 42
    }}
    virtual_ipaddress {{
        {vip}
    }}
    track_script {{
        check_apiserver
    }}
}}
"""
CHECK_APISERVER = """\
#!/bin/sh

errorExit() {{
    echo "*** $*" 1>&2
    exit 1
}}

curl --silent --max-time 2 --insecure https://localhost:{port}/ -o /dev/null || \
errorExit "Error GET https://localhost:{port}/"
if ip addr | grep -q {vip}; then
    curl --silent --max-time 2 --insecure https://{vip}:{port}/ -o /dev/null || \
errorExit "Error GET https://{vip}:{port}/"
fi
"""
HAPROXY_CFG = """\
global
    log /dev/log local0
    log /dev/log local1 notice
    daemon
    stats socket {socket}

defaults
    mode                    http
    log                     global
    option                  httplog
    option                  dontlognull
    option http-server-close
    option forwardfor       except 127.0.0.0/8
    option                  redispatch
    retries                 1
    timeout http-request    10s
    timeout queue           20s
    timeout connect         5s
    timeout client          20s
    timeout server          20s
    timeout http-keep-alive 10s
    timeout check           10s

frontend apiserver
    bind *:{port}
    mode tcp
    option tcplog
    default_backend apiserver

backend apiserver
    option httpchk GET /healthz
    http-check expect status 200
    mode tcp
    option ssl-hello-chk
    balance     roundrobin
{servers}
"""


class Stage(Callers, ABC):
    """A lab with a control plane, where each host has a balancer and a daemon."""

    name: str
    period_s: float
    slow_start_s: int
    """How long a backend that has come back has less than its share."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, lab.directory / "pki")
        self.plane = ControlPlane(lab.clients[1], lab.hosts, BINARIES)
        self.kubeconfig = self.plane.authority.kubeconfig(
            "admin", f"https://{lab.vip_address}:{PORT}"
        )
        self.certificates.mkdir()
        for name, of in (("ca.pem", "ca.crt"), ("client.pem", "admin.crt")):
            (self.certificates / name).symlink_to(self.plane.authority.path(of))
        (self.certificates / "server.key").symlink_to(self.plane.authority.path("admin.key"))
        self.api_servers: dict[str, Process] = {}
        self.haproxies: dict[str, Process] = {}
        self.daemons: dict[str, Process] = {}

    @abstractmethod
    def start_haproxy(self, host: Host) -> None: ...

    @abstractmethod
    def start_daemon(self, host: Host) -> None: ...

    @abstractmethod
    def list_backends(self, *hosts: Host) -> None:
        """Have every balancer use the API servers of these hosts, running ones too."""

    @abstractmethod
    def socket(self, host: Host) -> Path:
        """Where the host's HAProxy is asked."""

    @abstractmethod
    def is_settled(self, host: Host) -> bool:
        """Whether the daemon is in the state in which it is for months."""

    @abstractmethod
    def best(self) -> list[str]:
        """Who may have the VIP when all is well."""

    def start(self) -> None:
        """All of it, until it is settled."""
        self.plane.start_etcd()
        self.list_backends(*self.lab.hosts)
        for host in self.lab.hosts:
            self.start_host(host)
        first = self.lab.hosts[0]
        self.lab.client.run((*self._kubectl(first), "create", "configmap", "tick"))
        self.settle()

    def start_host(self, host: Host) -> None:
        """As after a boot."""
        self.start_api_server(host)
        self.start_haproxy(host)
        self.start_daemon(host)

    def start_api_server(self, host: Host) -> None:
        self.api_servers[host.name] = self.plane.start_api_server(host)

    def settle(self) -> Host:
        """Returns the holder, once every backend has its full share in every balancer."""

        def is_ready(host: Host) -> bool:
            servers = self.servers(host)
            return (
                len(servers) == len(self.lab.hosts)
                and all(each["status"] == "UP" for each in servers.values())
                and all(each["check_status"] in ("L7OK", "L6OK") for each in servers.values())
                and all(int(each["lastchg"]) > self.slow_start_s for each in servers.values())
                and self.is_settled(host)
            )

        for host in self.lab.hosts:
            self.daemons[host.name].wait_for(
                lambda host=host: is_ready(host), SETTLE_S, "does not settle"
            )
        self.lab.watch.wait_for_holder(self.lab.vip_address, *self.best(), timeout_s=SETTLE_S)
        (holder,) = self.lab.watch.holders(self.lab.vip_address)
        return self.lab[holder]

    def servers(self, host: Host) -> dict[str, dict[str, str]]:
        """`show stat` of the host's HAProxy, of its servers that get connections."""
        told = ask(self.socket(host), "show stat").removeprefix("# ")
        rows = csv.DictReader(told.splitlines())
        return {
            row["svname"]: row
            for row in rows
            if row["pxname"] == "apiserver"
            and row["svname"] not in ("FRONTEND", "BACKEND")
            and not row["status"].startswith(("DRAIN", "MAINT"))
        }

    def wait_until_used(self, host: Host, names: set[str]) -> None:
        """Until the host's HAProxy sends connections to these hosts' API servers."""
        self.daemons[host.name].wait_for(
            lambda: {server.partition("_")[0] for server in self.servers(host)} == names,
            SETTLE_S,
            f"does not use {names}",
        )

    def counts(self, host: Host, field: str) -> dict[str, int]:
        return {name: int(row[field]) for name, row in self.servers(host).items()}

    def process(self, host: Host) -> str:
        """The process that answers for the host's HAProxy."""
        lines = ask(self.socket(host), "show info").splitlines()
        return next(line for line in lines if line.startswith("Pid:"))

    def others(self, *hosts: Host) -> list[Host]:
        return [host for host in self.lab.hosts if host not in hosts]

    def wait_for_other_holder(self, former: Host) -> None:
        names = [host.name for host in self.others(former)]
        self.lab.watch.wait_for_holder(self.lab.vip_address, *names, timeout_s=SETTLE_S)

    def any_moment(self) -> None:
        """Misfortune does not wait for an advert."""
        time.sleep(random.uniform(0, self.period_s))

    @contextlib.contextmanager
    def clients(self, *clients: Client) -> Iterator[None]:
        """They end with the block."""
        try:
            yield
        finally:
            for client in clients:
                client.process.kill()

    def asking(self) -> Client:
        return self.requests(path=OBJECT)

    def watching(self, count: int = WATCHES, path: str = WATCH) -> Client:
        return self.watch(path=path, count=count)

    def kubectl_watching(self) -> Client:
        command = (str(BINARIES / "kubectl"), "get", "configmap", "tick", "--watch", "-oname")
        return self.repeated(command, KUBECONFIG=str(self.kubeconfig))

    def changing(self, host: Host) -> Client:
        return self.changes(host, OBJECT)

    def _kubectl(self, host: Host) -> tuple[str, ...]:
        direct = f"--server=https://{host.ipv4}:{API_PORT}"
        return (str(BINARIES / "kubectl"), f"--kubeconfig={self.kubeconfig}", direct)


class Havip(Stage):
    """HAProxy as havip has it, with a list of backends that havip follows in its file."""

    name = "havip"
    period_s = 0.1
    slow_start_s = 10

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._balanced = Balanced(lab, self.certificates, common={})
        self._file = lab.directory / "havip.yaml"

    def start_haproxy(self, host: Host) -> None:
        self._balanced.balance(host)
        self.haproxies[host.name] = self._balanced.haproxies[host.name]

    def start_daemon(self, host: Host) -> None:
        settings = self._balanced.settings(host)
        del settings["load_balancer_backends"]
        args = (f"--config={self._file}",)
        self.daemons[host.name] = host.havip(wait=False, args=args, **settings)

    def list_backends(self, *hosts: Host) -> None:
        listed = ", ".join(f"{host.name} {host.ipv4}:{API_PORT}" for host in hosts)
        self._file.write_text(f"loadBalancerBackends: {listed}\n")

    def socket(self, host: Host) -> Path:
        return self._balanced.directory(host) / "haproxy.sock"

    def is_settled(self, host: Host) -> bool:
        router = host.status()["routers"][0]
        return router["state"] == "active" or router["fast_detect"] in ("armed", "off")

    def best(self) -> list[str]:
        return [host.name for host in self.lab.hosts]


class Guide(Stage):
    """HAProxy and keepalived by the guide's files."""

    name = "keepalived"
    period_s = 1.0
    slow_start_s = 0

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        if shutil.which("curl") is None:
            raise LabError("`curl`, which the guide's script needs, was not found")
        self._script = lab.directory / "check_apiserver.sh"
        self._script.write_text(CHECK_APISERVER.format(vip=lab.vip_address, port=PORT))
        self._script.chmod(0o755)

    def start_haproxy(self, host: Host) -> None:
        command = ("haproxy", "-W", "-db", "-f", str(self._cfg(host)))
        self.haproxies[host.name] = host.popen(command, name="haproxy")

    def start_daemon(self, host: Host) -> None:
        is_first = host is self.lab.hosts[0]
        self.daemons[host.name] = host.keepalived(
            KEEPALIVED_CONF.format(
                script=self._script,
                state="MASTER" if is_first else "BACKUP",
                priority=101 if is_first else 100,
                vip=self.lab.vip_address,
            )
        )

    def list_backends(self, *hosts: Host) -> None:
        lines = [f"        server {each.name} {each.ipv4}:{API_PORT} check" for each in hosts]
        for host in self.lab.hosts:
            text = HAPROXY_CFG.format(socket=self.socket(host), port=PORT, servers="\n".join(lines))
            self._cfg(host).write_text(text)
            if host.name in self.haproxies:
                # As `systemctl reload haproxy` does.
                os.kill(self.haproxies[host.name].pid, signal.SIGUSR2)

    def socket(self, host: Host) -> Path:
        return self.lab.directory / f"{host.name}-haproxy.sock"

    def is_settled(self, host: Host) -> bool:
        return "STATE" in self.daemons[host.name].log_text()

    def best(self) -> list[str]:
        return [self.lab.hosts[0].name]

    def _cfg(self, host: Host) -> Path:
        return self.lab.directory / f"{host.name}-haproxy.cfg"


def ask(path: Path, command: str) -> str:
    """The answer of the HAProxy whose socket that is.

    Raises:
        OSError: nobody answers there.
    """
    received = bytearray()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(3)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        while part := connection.recv(65536):
            received += part
    return received.decode()


def balancer(runs: int, rival_runs: int) -> list[Figure]:
    """Every figure, of both."""
    figures = []
    for kind, count in ((Havip, runs), (Guide, rival_runs)):
        if count:
            with Lab(hosts=3, clients=2, capture=False) as lab:
                stage = kind(lab)
                stage.start()
                for bench in (spread, backends, killed, planned, muted, crash):
                    figures += bench(stage, count)
    return figures


def figure(stage: Stage, what: str, unit: str, values: list[float], target: str = "") -> Figure:
    return Figure("balancer", what, stage.name, unit, values, target)


def spread(stage: Stage, runs: int) -> list[Figure]:
    """New connections, and watches, by backend: those of the most to those of the least."""
    new, held = [], []
    for number in range(runs):
        holder = stage.settle()
        before = stage.counts(holder, "stot")
        client = stage.asking()
        with stage.clients(client):
            client.wait_for(300, 0.0)
        after = stage.counts(holder, "stot")
        new.append(shares({name: after[name] - before[name] for name in after}))
        watches = stage.watching(count=60, path=SILENT)
        with stage.clients(watches):
            held.append(shares(held_by(stage, holder, watches, 60)))
        progress(f"spread {stage.name} {number + 1}/{runs}: {new[-1]:.2f}, {held[-1]:.2f}")
    return [
        figure(stage, "spread: of 300 connections, most/least", "", new, "near 1"),
        figure(stage, "spread: of 60 watches, most/least", "", held, "near 1"),
    ]


def shares(counts: dict[str, int]) -> float:
    return max(counts.values()) / max(1, min(counts.values()))


def held_by(stage: Stage, holder: Host, watches: Client, count: int) -> dict[str, int]:
    """Connections by backend, once the watches, that many in all, are all there is."""
    found: dict[str, int] = {}

    def is_all() -> bool:
        found.update(stage.counts(holder, "scur"))
        return sum(found.values()) == count

    watches.process.wait_for(is_all, SETTLE_S, f"{count} connections")
    return found


def backends(stage: Stage, runs: int) -> list[Figure]:
    """A backend is taken off the list and put back, under load."""
    failed, cut, new = [], [], []
    for number in range(runs):
        holder = stage.settle()
        leaving = random.choice(stage.others(holder))
        process = stage.process(holder)
        changes = stage.changing(holder)
        client, watches = stage.asking(), stage.watching()
        with stage.clients(changes, client, watches):
            client.wait_for(50, 0.0)
            watches.wait_for_events(time.monotonic())
            for listed in (stage.others(leaving), stage.lab.hosts):
                stage.list_backends(*listed)
                names = {host.name for host in listed}
                stage.wait_until_used(holder, names)
                client.wait_for(100, time.monotonic())
            watches.wait_for_events(time.monotonic())
            failed.append(float(len(client.failures())))
            cut.append(float(len(watches.ends())))
            new.append(float(stage.process(holder) != process))
        progress(
            f"backends {stage.name} {number + 1}/{runs}: failed {failed[-1]:.0f}, "
            f"cut {cut[-1]:.0f}, reloaded {new[-1]:.0f}"
        )
    return [
        figure(stage, "backend off and on: requests failed", "", failed, "0"),
        figure(stage, f"backend off and on: of {WATCHES} watches ended", "", cut, "0"),
        figure(stage, "backend off and on: HAProxy is another process", "", new, "0"),
    ]


def killed(stage: Stage, runs: int) -> list[Figure]:
    """An API server is killed, and started again; then come as many watches as there were."""
    failed, late, failed_after, silent, held = [], [], [], [], []
    for number in range(runs):
        holder = stage.settle()
        victim = random.choice(stage.lab.hosts)
        changes = stage.changing(stage.others(victim)[0])
        client, watches = stage.asking(), stage.watching()
        with stage.clients(changes, client, watches):
            client.wait_for(50, 0.0)
            watches.wait_for_events(time.monotonic())
            time.sleep(random.uniform(0, 2))
            killed_at = time.monotonic()
            stage.api_servers[victim.name].kill()
            watches.wait_for_events(killed_at + CHECKED_S)
            client.wait_for(1, killed_at + WINDOW_S + TIMEOUT_S)
            failed.append(float(len(client.failures())))
            failed_after.append(float(len(client.failures(killed_at + CHECKED_S))))
            late.append(count_late(client, killed_at))
            silent.append(watches.longest_silence_s(killed_at, time.monotonic()) * 1000)
            ended = len(watches.ends())
            client.process.kill()
            stage.start_api_server(victim)
            stage.settle()
            with stage.clients(stage.watching(path=SILENT)):
                held.append(shares(held_by(stage, holder, watches, 2 * WATCHES)))
        progress(
            f"killed {stage.name} {number + 1}/{runs}: failed {failed[-1]:.0f}, later "
            f"{failed_after[-1]:.0f}, late {late[-1]:.0f}, {ended} watches ended, silent "
            f"{silent[-1]:.0f} ms, held {held[-1]:.1f}"
        )
    return [
        figure(stage, "API server killed: requests failed", "", failed),
        figure(
            stage, f"API server killed: failed, begun {CHECKED_S:g} s after", "", failed_after, "0"
        ),
        figure(stage, f"API server killed: {LATE}", "", late),
        figure(stage, "API server killed: longest silence of a watch", "ms", silent, "≤ 1000"),
        figure(stage, f"API server back, {WATCHES} watches more: most/least", "", held, "near 1"),
    ]


def planned(stage: Stage, runs: int) -> list[Figure]:
    """SIGTERM to the holder's daemon; its HAProxy goes on."""
    failed, silent, kubectl_silent = [], [], []
    for number in range(runs):
        holder = stage.settle()
        changes = stage.changing(stage.others(holder)[0])
        client, watches = stage.asking(), stage.watching()
        kubectl = stage.kubectl_watching()
        with stage.clients(changes, client, watches, kubectl):
            client.wait_for(50, 0.0)
            for each in (watches, kubectl):
                each.wait_for_events(time.monotonic())
            stage.any_moment()
            moved_at = time.monotonic()
            stage.daemons[holder.name].stop()
            stage.wait_for_other_holder(holder)
            there_at = time.monotonic()
            client.wait_for(50, there_at)
            for each in (watches, kubectl):
                with contextlib.suppress(LabError):
                    each.wait_for_events(there_at + LATE_S, RESUME_S)
            client.wait_for(1, moved_at + TIMEOUT_S)
            failed.append(float(len(client.failures())))
            until_at = time.monotonic()
            silent.append(watches.longest_silence_s(moved_at, until_at) * 1000)
            kubectl_silent.append(kubectl.longest_silence_s(moved_at, until_at) * 1000)
            progress(
                f"planned {stage.name} {number + 1}/{runs}: failed {failed[-1]:.0f}, watches "
                f"silent {silent[-1]:.0f} ms ({sorted(set(watches.ends()))}), kubectl's "
                f"{kubectl_silent[-1]:.0f} ms"
            )
        stage.start_daemon(holder)
    return [
        figure(stage, "planned move: requests failed", "", failed, "0"),
        figure(stage, "planned move: longest silence of a watch", "ms", silent, "≤ 1000"),
        figure(stage, "planned move: longest silence of kubectl's", "ms", kubectl_silent, "≤ 1000"),
    ]


def muted(stage: Stage, runs: int) -> list[Figure]:
    """The holder's HAProxy is killed, and started again once the VIP has moved."""
    gaps = []
    for number in range(runs):
        holder = stage.settle()
        client = stage.asking()
        with stage.clients(client):
            client.wait_for(50, 0.0)
            stage.any_moment()
            killed_at = time.monotonic()
            stage.haproxies[holder.name].kill()
            stage.wait_for_other_holder(holder)
            client.wait_for(50, time.monotonic())
            gaps.append(client.longest_gap_s(killed_at) * 1000)
        progress(f"muted {stage.name} {number + 1}/{runs}: {gaps[-1]:.0f} ms")
        stage.start_haproxy(holder)
    return [figure(stage, "HAProxy killed: longest time without an answer", "ms", gaps)]


def crash(stage: Stage, runs: int) -> list[Figure]:
    """The holder loses power, and with it goes its API server."""
    gaps, late = [], []
    for number in range(runs):
        holder = stage.settle()
        client = stage.asking()
        with stage.clients(client):
            client.wait_for(50, 0.0)
            stage.any_moment()
            off_at = holder.power_off()
            client.wait_for(1, off_at + WINDOW_S + TIMEOUT_S)
            gaps.append(client.longest_gap_s(off_at) * 1000)
            late.append(count_late(client, off_at))
        progress(f"crash {stage.name} {number + 1}/{runs}: {gaps[-1]:.0f} ms, late {late[-1]:.0f}")
        holder.power_on()
        stage.start_host(holder)
    return [
        figure(stage, "power-off: longest time without an answer", "ms", gaps),
        figure(stage, f"power-off: {LATE}", "", late),
    ]


def count_late(client: Client, since_at: float) -> float:
    """Requests begun in the window that were answered late, or not."""
    begun = [line for line in client.since(since_at) if line["began_at"] < since_at + WINDOW_S]
    return float(sum("error" in line or line["at"] - line["began_at"] > LATE_S for line in begun))


def idle(minutes: float) -> list[Figure]:
    """A watch in which nothing happens, by both at once: how long does it stay?"""
    figures = []
    with contextlib.ExitStack() as stack:
        stages = [
            kind(stack.enter_context(Lab(hosts=1, clients=2, capture=False)))
            for kind in (Havip, Guide)
        ]
        for stage in stages:
            stage.start()
        watches = [stage.watching(count=1, path=SILENT) for stage in stages]
        for watch in watches:
            watch.wait_for_watch(1)
        until_at = time.monotonic() + minutes * 60
        for stage, watch in zip(reversed(stages), reversed(watches), strict=True):
            progress(f"idle {stage.name}: at most {minutes:g} minutes")
            with contextlib.suppress(LabError):
                left_s = until_at - time.monotonic()
                watch.process.wait_for(lambda watch=watch: bool(watch.ends()), left_s, "goes on")
            began_at = next(line["at"] for line in watch.lines() if "began" in line)
            ended_at = next((line["at"] for line in watch.lines() if "ended" in line), until_at)
            what = f"silent watch, open of {minutes:g} min"
            figures.append(Figure("idle", what, stage.name, "s", [ended_at - began_at]))
    return figures[::-1]
