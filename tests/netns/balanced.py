"""Hosts with an API server's stand-in, a real HAProxy and havip, and what their clients see."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import api_stand_in
from cluster import HANG_S, Address

from havip.netlab import Host, Lab, Process

API_PORT = 6443
PORT = 8443
PYTHON = (sys.executable, "-I", "-S", api_stand_in.__file__)


@dataclass
class Balanced:
    """One lab, in which `backends` are the API servers that every host knows."""

    lab: Lab
    certificates: Path
    api_servers: dict[str, Process] = field(default_factory=dict)
    haproxies: dict[str, Process] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)

    def directory(self, host: Host) -> Path:
        return self.lab.directory / f"{host.name}-haproxy"

    def settings(self, host: Host, **more: object) -> dict[str, object]:
        listed = ",".join(f"{each.name} {each.ipv4}:{API_PORT}" for each in self.lab.hosts)
        return {
            "vip_address_cidr": self.lab.vip,
            "load_balancer": "true",
            "load_balancer_backends": listed,
            "load_balancer_directory": self.directory(host),
            "load_balancer_ca_file": self.certificates / "ca.pem",
            "load_balancer_check_interval": 0.5,
            "load_balancer_slow_start": 0,
            "state_directory": self.lab.directory / f"{host.name}-state",
            **more,
        }

    def serve(self, host: Host, address: str | None = None) -> None:
        """Start the API server's stand-in, on the host's own address unless it is said where."""
        address = address or host.ipv4
        process = host.popen(
            (*PYTHON, "serve", host.name, address, str(API_PORT), str(self.certificates)),
            name="api",
        )
        process.wait_for(lambda: _listens(host, address, API_PORT), HANG_S, "does not listen")
        self.api_servers[host.name] = process

    def prepare(self, host: Host, **more: object) -> subprocess.CompletedProcess[str]:
        """`havip load-balancer`, as it is run before HAProxy starts."""
        given = self.settings(host, **more)
        env = [f"HAVIP_{name.upper()}={value}" for name, value in given.items()]
        command = (sys.executable, "-m", "havip", "load-balancer", "--haproxy", "haproxy")
        return host.run(("env", *env, *command), check=False)

    def balance(self, host: Host, **more: object) -> None:
        """Start HAProxy as its own service or container would."""
        done = self.prepare(host, **more)
        assert done.returncode == 0, done.stderr
        self.run_haproxy(host)

    def run_haproxy(self, host: Host) -> None:
        file = self.directory(host) / "haproxy.cfg"
        self.haproxies[host.name] = host.popen(
            ("haproxy", "-W", "-db", "-f", str(file)), name="haproxy"
        )

    def hold(self, host: Host, **more: object) -> Process:
        daemon = host.havip(wait=False, **self.settings(host, **more))
        self.daemons[host.name] = daemon
        return daemon

    def start(self, *hosts: Host, **more: object) -> None:
        """All three on each host (default: all), until all are ready."""
        chosen = hosts or tuple(self.lab.hosts)
        for host in chosen:
            self.serve(host)
        for host in chosen:
            self.balance(host, **more)
        for host in chosen:
            self.hold(host, **more)
        for host in chosen:
            self.daemons[host.name].wait_for(host.is_ready, HANG_S, "/readyz does not say 200")

    def requests(
        self, port: int = PORT, *, by: Host | None = None, vip: Address | None = None
    ) -> Client:
        """Asks again and again through the VIP, on the client's host or `by` another one."""
        return self._client("request", port, by, vip)

    def watch(
        self, port: int = PORT, *, by: Host | None = None, vip: Address | None = None
    ) -> Client:
        """Has a silent watch through the VIP."""
        return self._client("follow", port, by, vip)

    def _client(self, role: str, port: int, host: Host | None, vip: Address | None) -> Client:
        address = str(vip or self.lab.vip_address)
        process = (host or self.lab.client).popen(
            (*PYTHON, role, address, str(port), str(self.certificates)), name=role
        )
        return Client(process)


@dataclass
class Client:
    process: Process

    def lines(self) -> list[dict[str, Any]]:
        whole, _, _ = self.process.log_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def since(self, at: float) -> list[dict[str, Any]]:
        """Requests that began since then."""
        return [line for line in self.lines() if line["began_at"] >= at]

    def wait_for(self, count: int, since_at: float, *, servers: set[str] | None = None) -> None:
        """Until that many requests that began since then were answered, and by all of these."""

        def is_enough() -> bool:
            answered = [line["server"] for line in self.since(since_at) if "server" in line]
            return len(answered) >= count and (servers or set()) <= set(answered)

        self.process.wait_for(is_enough, HANG_S, f"{count} answers, also from {servers}")

    def failures(self, since_at: float = 0.0) -> list[dict[str, Any]]:
        return [line for line in self.since(since_at) if "error" in line]

    def wait_for_watch(self, count: int) -> str:
        """The server of the watch, once that many were begun."""
        self.process.wait_for(lambda: len(self._begun()) >= count, HANG_S, f"{count} watches")
        return self._begun()[-1]

    def _begun(self) -> list[str]:
        return [line["began"] for line in self.lines() if "began" in line]

    def ends(self) -> list[str]:
        return [line["ended"] for line in self.lines() if "ended" in line]


def balancer(host: Host) -> dict[str, Any]:
    found = host.status()["balancer"]
    assert isinstance(found, dict)
    return found


def backends(host: Host) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in balancer(host)["backends"]}


def healthy(host: Host) -> set[str]:
    """The backends that this host's balancer sends connections to."""
    return {name for name, each in backends(host).items() if each["healthy"]}


def readiness(host: Host) -> str:
    try:
        return host.get("/readyz")[1]
    except OSError:
        return ""


def now() -> float:
    return time.monotonic()


def _listens(host: Host, address: str, port: int) -> bool:
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return bool(host.run(("ss", "-Htln", f"src {place}")).stdout)


def link_certificates(certificates: Any, directory: Path) -> Path:
    """The certificates in a directory of the lab's own, to which it can add files."""
    directory.mkdir()
    for file in Path(certificates.folder).iterdir():
        (directory / file.name).symlink_to(file)
    return directory
