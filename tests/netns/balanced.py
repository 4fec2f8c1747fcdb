"""Hosts with an API server's stand-in, a real HAProxy and havip, and what their clients see."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import api_clients
import api_stand_in
from cluster import HANG_S, Address

from havip.netlab import Host, Lab, Process

API_PORT = 6443
PORT = 8443
_PYTHON = (sys.executable, "-I", "-S")


@dataclass
class Callers:
    """Clients of a lab, and the directory with their certificate, key and CA."""

    lab: Lab
    certificates: Path

    def requests(
        self,
        port: int = PORT,
        path: str = "/who",
        *,
        by: Host | None = None,
        vip: Address | None = None,
    ) -> Client:
        """Asks again and again through the VIP, on the client's host or `by` another one."""
        return self._client("request", port, path, by=by, address=vip)

    def watch(
        self, port: int = PORT, path: str = "/watch", count: int = 1, *, by: Host | None = None
    ) -> Client:
        """Has watches through the VIP, on the client's host or `by` another one."""
        return self._client("follow", port, path, str(count), by=by, watches=count)

    def changes(self, host: Host, path: str) -> Client:
        """A client that changes an object all the time, by one API server itself."""
        return self._client("change", API_PORT, path, address=host.ipv4)

    def repeated(self, command: Sequence[str], **env: str) -> Client:
        """A program that is started again whenever it ends."""
        args = (*_PYTHON, api_clients.__file__, "repeat", *command)
        return Client(self.lab.client.popen(args, name="repeat", env=env))

    def _client(
        self,
        role: str,
        port: int,
        *more: str,
        by: Host | None = None,
        address: Address | str | None = None,
        watches: int = 1,
    ) -> Client:
        args = (role, str(address or self.lab.vip_address), str(port), str(self.certificates))
        command = (*_PYTHON, api_clients.__file__, *args, *more)
        process = (by or self.lab.client).popen(command, name=role)
        return Client(process, watches=watches)


@dataclass
class Balanced(Callers):
    """One lab, whose hosts' API servers are the backends that every host knows."""

    common: dict[str, object] = field(
        default_factory=lambda: {"load_balancer_check_interval": 0.5, "load_balancer_slow_start": 0}
    )
    """Settings of every host."""
    api_servers: dict[str, Process] = field(default_factory=dict)
    haproxies: dict[str, Process] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)

    def directory(self, host: Host) -> Path:
        return self.lab.directory / f"{host.name}-haproxy"

    def settings(self, host: Host, **more: object) -> dict[str, object]:
        listed = ",".join(place(each) for each in self.lab.hosts)
        return {
            "vip_address_cidr": self.lab.vip,
            "load_balancer": "true",
            "load_balancer_backends": listed,
            "load_balancer_directory": self.directory(host),
            "load_balancer_ca_file": self.certificates / "ca.pem",
            "state_directory": self.lab.directory / f"{host.name}-state",
            **self.common,
            **more,
        }

    def serve(self, host: Host, address: str | None = None) -> None:
        """Start the API server's stand-in, on the host's own address unless it is said where."""
        address = address or host.ipv4
        process = host.popen(
            (
                *(*_PYTHON, api_stand_in.__file__),
                *(host.name, address, str(API_PORT), str(self.certificates)),
            ),
            name="api",
        )
        process.wait_for(lambda: _listens(host, address, API_PORT), HANG_S, "does not listen")
        self.api_servers[host.name] = process

    def say_ready(self, status: int, *hosts: Host) -> None:
        """What these hosts' API servers answer at /readyz."""
        for host in hosts:
            (self.certificates / f"readyz-{host.name}").write_text(str(status))

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

    def list_backends(self, host: Host, *places: str) -> None:
        """The list in the file of a host that `start_listing` started."""
        file = self.lab.directory / f"{host.name}.yaml"
        file.write_text(f"loadBalancerBackends: {', '.join(places)}\n")

    def start_listing(self, host: Host, *places: str, **more: object) -> None:
        """HAProxy and havip with a list that may change, until the host is ready."""
        self.list_backends(host, *places)
        self.balance(host, load_balancer_backends=",".join(places), **more)
        settings = self.settings(host, **more)
        del settings["load_balancer_backends"]
        file = self.lab.directory / f"{host.name}.yaml"
        daemon = host.havip(wait=False, args=(f"--config={file}",), **settings)
        self.daemons[host.name] = daemon
        daemon.wait_for(host.is_ready, HANG_S, "/readyz does not say 200")

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


@dataclass
class Client:
    process: Process
    watches: int = 1
    """How many it has at a time."""
    _lines: list[dict[str, Any]] = field(default_factory=list, init=False)
    _read: int = field(default=0, init=False)

    def lines(self) -> list[dict[str, Any]]:
        """What it has told so far."""
        with self.process.log.open("rb") as log:
            log.seek(self._read)
            whole, end, _ = log.read().rpartition(b"\n")
        self._read += len(whole + end)
        self._lines += [json.loads(line) for line in whole.splitlines()]
        return self._lines

    def since(self, at: float) -> list[dict[str, Any]]:
        """Requests that began since then."""
        return [line for line in self.lines() if line["began_at"] >= at]

    def wait_for(self, count: int, since_at: float, *, servers: set[str] | None = None) -> None:
        """Until that many requests that began since then were answered, and by all of these."""

        def is_enough() -> bool:
            answered = [line["server"] for line in self.since(since_at) if "error" not in line]
            return len(answered) >= count and (servers or set()) <= set(answered)

        self.process.wait_for(is_enough, HANG_S, f"{count} answers, also from {servers}")

    def failures(self, since_at: float = 0.0) -> list[dict[str, Any]]:
        return [line for line in self.since(since_at) if "error" in line]

    def longest_gap_s(self, since_at: float) -> float:
        """The longest time without an answer, of which the end was since then."""
        at = sorted(line["at"] for line in self.lines() if "error" not in line)
        return max(after - before for before, after in pairwise(at) if after > since_at)

    def wait_for_events(self, since_at: float, timeout_s: float = HANG_S) -> None:
        """Until each of the watches has told of something since then."""

        def is_heard() -> bool:
            last = {line["watch"]: line["at"] for line in self.lines() if "event" in line}
            return len(last) == self.watches and min(last.values()) > since_at

        self.process.wait_for(is_heard, timeout_s, f"{self.watches} watches with an event")

    def longest_silence_s(self, since_at: float, until_at: float) -> float:
        """Of the watch that was silent longest: a silence that ended, or went on, between these."""
        heard: dict[int, list[float]] = {}
        for line in self.lines():
            if "event" in line:
                heard.setdefault(line["watch"], []).append(line["at"])
        return max(
            after - before
            for each in heard.values()
            for before, after in pairwise([*each, until_at])
            if since_at < after <= until_at
        )

    def wait_for_watch(self, count: int) -> str:
        """The server of the last watch, once that many were begun."""
        self.process.wait_for(lambda: len(self._begun()) >= count, HANG_S, f"{count} watches")
        return self._begun()[-1]

    def _begun(self) -> list[str]:
        return [line["began"] for line in self.lines() if "began" in line]

    def ends(self) -> list[str]:
        return [line["ended"] for line in self.lines() if "ended" in line]


def place(host: Host, name: str = "") -> str:
    """A host's API server in a list of backends."""
    return f"{name or host.name} {host.ipv4}:{API_PORT}"


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
