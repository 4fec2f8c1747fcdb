"""A client that writes through the VIP: each write has a number, and is acknowledged by a host.

    python writes.py serve NAME PORT JOURNAL
    python writes.py write ADDRESS PORT

The client writes the next number once the last one is acknowledged, and tries again until it is. A
host notes a number in its journal before it acknowledges it, as a store does.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from havip.netlab import Host, Lab, Process

PORT = 8090
ATTEMPT_S = 0.3
"""After so long without an acknowledgement the client tries again, by a new connection."""
PAUSE_S = 0.005
START_S = 20.0
"""Protection against a hang; no promise."""
LATE_S = 0.1
"""The coming of an address is noted when it is read; this machine may be busy."""


@dataclass(frozen=True, slots=True)
class Write:
    number: int
    began_at: float
    """The attempt that was acknowledged."""
    acknowledged_at: float
    by: str


class Writes:
    """Hosts that take writes, and a client whose writes go through the VIP."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._journals: dict[str, Path] = {}

    def __enter__(self) -> Self:
        self._servers = [self._serve(host) for host in self._lab.hosts]
        self._client = self._lab.client.popen(
            (sys.executable, __file__, "write", str(self._lab.vip_address), str(PORT)),
            name="write",
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._client, *self._servers):
            process.kill()

    def acknowledged(self) -> list[Write]:
        """Those so far, in their order."""
        lines = self._client.log_text().splitlines(keepends=True)
        fields = [line.split() for line in lines if line.endswith("\n")]
        return [Write(int(n), float(began), float(at), by) for n, began, at, by in fields]

    def wait_for(self, host: Host, since_at: float, timeout_s: float) -> None:
        """Until the host has acknowledged a write that began since then."""

        def is_written() -> bool:
            last = self.acknowledged()[-1:]
            return any(each.by == host.name and each.began_at >= since_at for each in last)

        self._client.wait_for(is_written, timeout_s, f"no write at {host.name}")

    def verify(self, former: Host, successor: Host) -> None:
        """None is left out, each is where it was acknowledged, and that was who had the VIP then.

        And once the successor has taken one, the former holder takes none.
        """
        writes = self.acknowledged()
        assert [each.number for each in writes] == [*range(1, len(writes) + 1)]
        journals = {name: self._journal(name) for name in self._journals}
        for write in writes:
            assert write.number in journals[write.by], write
            assert self._had(write), f"{write}\n{self._lab.watch.story(write.began_at - 10)}"
        assert [by for by, _ in itertools.groupby(writes, lambda each: each.by)] == [
            former.name,
            successor.name,
        ]
        last_at = max(journals[former.name].values())
        assert last_at < min(journals[successor.name].values())
        others = journals.keys() - {former.name, successor.name}
        assert not any(journals[name] for name in others)

    def _serve(self, host: Host) -> Process:
        journal = self._lab.directory / f"{host.name}-journal"
        journal.unlink(missing_ok=True)
        self._journals[host.name] = journal
        args = (sys.executable, __file__, "serve", host.name, str(PORT), str(journal))
        process = host.popen(args, name="journal")
        process.wait_for(journal.exists, START_S, "does not listen")
        return process

    def _journal(self, name: str) -> dict[int, float]:
        """When the host took which number."""
        lines = (line.split() for line in self._journals[name].read_text().splitlines())
        return {int(number): float(at) for number, at in lines}

    def _had(self, write: Write) -> bool:
        """Whether who acknowledged it had the address at some instant of it."""
        until_at = write.acknowledged_at + LATE_S
        had = False
        for event in self._lab.watch.vip_events(self._lab.vip_address):
            if event.host != write.by:
                continue
            if had and event.at > write.began_at:
                return True
            if event.at > until_at:
                return False
            had = event.present
        return had


def serve(name: str, port: int, journal: Path) -> None:
    with socket.create_server(("", port)) as listener, journal.open("w", buffering=1) as written:
        while True:
            connection, _ = listener.accept()
            # A client that gave up, or an address that left the host meanwhile.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(ATTEMPT_S)
                line = connection.recv(64).decode()
                if line.endswith("\n"):
                    written.write(f"{line.strip()} {time.monotonic()}\n")
                    connection.sendall(f"{name}\n".encode())


def write(address: str, port: int) -> None:
    for number in itertools.count(1):
        while True:
            began_at, by = time.monotonic(), ""
            with (
                contextlib.suppress(OSError),
                socket.create_connection((address, port), ATTEMPT_S) as connection,
            ):
                connection.sendall(f"{number}\n".encode())
                by = connection.recv(64).decode()
            if by:
                sys.stdout.write(f"{number} {began_at} {time.monotonic()} {by}")
                sys.stdout.flush()
                break
            time.sleep(PAUSE_S)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    role, first, port, *rest = sys.argv[1:]
    serve(first, int(port), Path(rest[0])) if role == "serve" else write(first, int(port))
