"""One host of the lab: its processes, its cables, and what it says about itself."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from havip.netlab import agents
from havip.netlab.clients import PORT, Connector, IdleConnection, Prober
from havip.netlab.namespace import LabError, inside, kill_all

if TYPE_CHECKING:
    from havip.netlab.lab import Lab

Signal = signal.Signals


class Process:
    """A process on a host, with its children; its output is in `log`."""

    def __init__(
        self, host: Host, name: str, popen: subprocess.Popen[bytes], log: Path, *, is_daemon: bool
    ) -> None:
        self.host = host
        self.name = f"{name} on {host.name}"
        self.log = log
        self._popen = popen
        self.is_daemon = is_daemon

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: Signal) -> None:
        """Signal it and its children."""
        with contextlib.suppress(ProcessLookupError):
            if self.is_running:
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._mark(alive=False)
        self.send(signal.SIGKILL)
        self._popen.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._mark(alive=False)
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)
        self._mark(alive=True)

    def stop(self, timeout_s: float = 20) -> int:
        """SIGTERM to it alone, as an init system does; returns the exit status.

        Raises:
            LabError: it did not end in time.
        """
        if self.is_running:
            self._popen.terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """The exit status once it has ended by itself.

        Raises:
            LabError: it did not end in time.
        """
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end within {timeout_s:g} s") from None

    def wait_for(self, question: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Ask again and again until the answer is yes; as long as nobody answers, it is no.

        Raises:
            LabError: not in time, or the process ended; the message has the log's end.
        """
        deadline = time.monotonic() + timeout_s
        while not _is_so(question):
            # Waiting for the process is the pause between questions, and ends early with it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._popen.wait(0.01)
                if _is_so(question):
                    return
                raise LabError(f"{self.name} ended with {status}:\n{self.log_text()[-4000:]}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name}: {what}: not within {timeout_s:g} s\n{self.log_text()[-4000:]}"
                )

    def wait_for_log(self, text: str, timeout_s: float = 20) -> None:
        self.wait_for(lambda: text in self.log_text(), timeout_s, f"no {text!r} in its log")

    def _mark(self, *, alive: bool) -> None:
        if self.is_daemon:
            self.host.lab.watch.mark(self.host.name, alive=alive)


def _is_so(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, LookupError, http.client.HTTPException):
        return False


class Host:
    """One namespace with `eth0` on the switch (and `eth1` on a second one, if the lab has it)."""

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.lab = lab
        self.name = name
        self.namespace = f"{lab.prefix}-{name}"
        self.ipv4 = f"10.77.0.{number}"
        self.ipv6 = f"fd77::{number}"
        self.second_ipv4 = f"10.78.0.{number}"
        self.second_ipv6 = f"fd78::{number}"
        self.mac = f"02:77:00:00:00:{number:02x}"
        self.second_mac = f"02:78:00:00:00:{number:02x}"
        self.processes: list[Process] = []

    def __repr__(self) -> str:
        return f"Host({self.name})"

    def run(
        self, args: Sequence[str], *, check: bool = True, timeout_s: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end.

        Raises:
            LabError: it failed, unless `check` is False.
        """
        done = subprocess.run(  # noqa: S603
            ("ip", "netns", "exec", self.namespace, *args),  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: {' '.join(args)}: {done.stderr.strip()}")
        return done

    def ip(self, arguments: str) -> str:
        """Run `ip`, such as `host.ip("address show eth0")`."""
        return self.run(("ip", *arguments.split())).stdout

    def popen(
        self,
        args: Sequence[str],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        is_daemon: bool = False,
    ) -> Process:
        """Start a command on the host; it is killed at the end of the lab at the latest.

        Args:
            env: added to a minimal environment.
            stdout: a file descriptor; default: the process's log, where stderr always goes.
            is_daemon: it holds the VIP; when the lab kills or freezes it, the VIP is stale.
        """
        name = name or Path(args[0]).name
        log = self.lab.directory / f"{self.name}-{name}-{len(self.processes) + 1}.log"
        base = {
            key: os.environ[key]
            for key in ("PATH", "PYTHONPATH", "HOME", "LANG")
            if key in os.environ
        }
        with log.open("wb") as file:
            # A session of its own: Ctrl-C at the terminal reaches the lab alone, which then
            # ends its processes in order.
            popen = subprocess.Popen(  # noqa: S603
                ("ip", "netns", "exec", self.namespace, *args),  # noqa: S607
                env={**base, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=file if stdout is None else stdout,
                stderr=file,
                cwd=self.lab.directory,
                start_new_session=True,
            )
        process = Process(self, name, popen, log, is_daemon=is_daemon)
        self.processes.append(process)
        if is_daemon:
            self.lab.watch.mark(self.name, alive=True)
        return process

    def agent(self, *args: str, stdout: int | None = None) -> Process:
        """Start one of the lab's own helpers."""
        assert agents.__file__ is not None
        return self.popen(
            (sys.executable, "-I", "-S", agents.__file__, *args), name=args[0], stdout=stdout
        )

    def serve(self, port: int = PORT) -> Process:
        """Start the web service, which answers UDP and HTTP with the host's name."""
        process = self.agent("serve", self.name, str(port))
        process.wait_for(lambda: self._answers(port), 20, "does not listen")
        return process

    def havip(self, *, wait: bool = True, args: Sequence[str] = (), **settings: object) -> Process:
        """Start `havip run` with `HAVIP_*` from the settings, such as `vrrp_priority=120`.

        Returns:
            Once `/readyz` says 200, unless `wait` is False.
        """
        env = {f"HAVIP_{key.upper()}": str(value) for key, value in settings.items()}
        env.setdefault("HAVIP_NODE_NAME", self.name)
        process = self.popen(
            (sys.executable, "-m", "havip", "run", *args), name="havip", env=env, is_daemon=True
        )
        if wait:
            process.wait_for(self.is_ready, 20, "/readyz does not say 200")
        return process

    def keepalived(self, config: str) -> Process:
        """Start Debian's keepalived, VRRP only, with its own pid files, in the foreground."""
        stem = self.lab.directory / f"{self.name}-keepalived-{len(self.processes) + 1}"
        path = stem.with_suffix(".conf")
        path.write_text(config)
        return self.popen(
            (
                *("keepalived", "--dont-fork", "--log-console", "--no-syslog", "--log-detail"),
                *("--vrrp", f"--use-file={path}", f"--pid={stem}.pid"),
                *(f"--vrrp_pid={stem}-vrrp.pid", f"--checkers_pid={stem}-checkers.pid"),
            ),
            name="keepalived",
            is_daemon=True,
        )

    def get(self, path: str, port: int = 9650) -> tuple[int, str]:
        """HTTP GET from the host's own loopback: status and body.

        Raises:
            OSError: nothing listens there, or it hangs.
        """
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
        connection.sock = inside(
            self.namespace, lambda: socket.create_connection(("127.0.0.1", port), timeout=3)
        )
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def is_ready(self, port: int = 9650) -> bool:
        return _is_so(lambda: self.get("/readyz", port)[0] == 200)

    def status(self, port: int = 9650) -> dict[str, Any]:
        """What the daemon's `/status` says."""
        told = json.loads(self.get("/status", port)[1])
        assert isinstance(told, dict)
        return told

    def metrics(self, port: int = 9650) -> str:
        return self.get("/metrics", port)[1]

    def addresses(self, interface: str = "eth0") -> list[dict[str, Any]]:
        """The addresses as `ip -json address` tells them."""
        told = json.loads(self.ip(f"-json address show dev {interface}"))
        return [info for link in told for info in link.get("addr_info", ())]

    def has_vip(self, vip: str | IPv4Address | IPv6Address) -> bool:
        return self.lab.watch.has(self.name, plain_address(vip))

    def cut(self, *, second: bool = False) -> float:
        """Pull the cable: no frame passes, and the host loses carrier. Returns the instant."""
        now = time.monotonic()
        self.lab.set_port(self._port(second), up=False)
        return now

    def plug(self, *, second: bool = False) -> float:
        """Put the cable back."""
        now = time.monotonic()
        self.lab.set_port(self._port(second), up=True)
        return now

    def power_off(self) -> float:
        """No frame passes any more, and every process is killed. Returns the instant.

        The cable goes first: the kernel of a host without power sends no last FIN.
        """
        # Before anybody can succeed it, however late the rest is done.
        self.lab.watch.mark(self.name, alive=False)
        now = self.cut()
        if self.lab.has_second_link:
            self.cut(second=True)
        for process in self.processes:
            process.send(signal.SIGKILL)
        for process in self.processes:
            process.kill()
        kill_all(self.namespace)
        self.ip("address flush dev eth0")
        return now

    def power_on(self) -> None:
        """Back with its own addresses only, as after a boot; start its processes again."""
        self.lab.configure(self)
        self.plug()
        if self.lab.has_second_link:
            self.plug(second=True)

    def freeze(self) -> None:
        """SIGSTOP every process; the kernel goes on answering."""
        for process in self.processes:
            process.freeze()

    def thaw(self) -> None:
        for process in self.processes:
            process.thaw()

    def probe(self, address: str, **options: Any) -> Prober:
        """Probe an address from here."""
        return self.lab.keep(Prober(self, address, **options))

    def connector(self, address: str, **options: Any) -> Connector:
        return self.lab.keep(Connector(self, address, **options))

    def idle_connection(self, address: str, **options: Any) -> IdleConnection:
        return self.lab.keep(IdleConnection(self, address, **options))

    def _port(self, second: bool) -> str:
        return f"{self.name}-2" if second else self.name

    def _answers(self, port: int) -> bool:
        return self.get("/", port)[0] == 200


def plain_address(vip: str | IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An address without its prefix length."""
    return ip_interface(vip).ip if isinstance(vip, str) else ip_address(vip)
