"""What a client sees of the VIP: datagrams each millisecond, and new and idle connections."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import math
import os
import socket
import struct
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from pyroute2.netlink import NLM_F_ACK, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import NUD_FAILED, ndmsg

from havip.netlab import agents
from havip.netlab.namespace import LabError, inside
from havip.netlink import Requests

if TYPE_CHECKING:
    from havip.netlab.host import Host

PORT = 8080
LATE_S = 1.0
"""How long an answer may take on a busy machine; one that takes longer is lost."""
_NOBODY = 0
_ATF_COM = 0x02


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client saw of a stretch of time."""

    sent: int
    lost: int
    """Never answered, not even late."""
    longest_gap_s: float
    """Longest time between two answers that arrived one after the other."""
    first_answer_s: float
    """From the beginning of the stretch to the first answer that arrived in it; inf: none."""
    answered_by: tuple[str, ...]
    """Who answered, in order, each change once."""


class _Records:
    """Reads an agent's fixed-size records in a thread."""

    def __init__(self, host: Host, layout: struct.Struct, *args: str) -> None:
        self._layout = layout
        self._changed = threading.Condition()
        self._read, write = os.pipe()
        try:
            self._process = host.agent(*args, stdout=write)
        finally:
            os.close(write)
        self._thread = threading.Thread(target=self._follow, name=args[0], daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the agent; the lab does so too, at the latest when it ends."""
        if self._read < 0:
            return
        self._process.kill()
        self._thread.join()
        os.close(self._read)
        self._read = -1

    def _follow(self) -> None:
        rest = b""
        while data := os.read(self._read, 1 << 16):
            data = rest + data
            whole = len(data) - len(data) % self._layout.size
            rest = data[whole:]
            with self._changed:
                for record in self._layout.iter_unpack(data[:whole]):
                    self._take(record)
                self._changed.notify_all()

    def _take(self, record: tuple[object, ...]) -> None:
        raise NotImplementedError

    def _wait(self, predicate: Callable[[], bool], timeout_s: float, what: str) -> None:
        if not self._changed.wait_for(predicate, timeout_s):
            raise LabError(f"{what}: not within {timeout_s:g} s ({self._process.name})")


class Prober(_Records):
    """Sends the VIP one numbered datagram each interval, from a client, in its own process."""

    def __init__(
        self, client: Host, address: str, *, port: int = PORT, interval_s: float = 0.001
    ) -> None:
        self.interval_s = interval_s
        self._sent_at = array("d")
        self._answered_at = array("d")
        self._by = bytearray()
        self._names: list[str] = [""]
        super().__init__(
            client, agents.SENT_OR_ANSWERED, "probe", address, str(port), str(interval_s)
        )

    def _take(self, record: tuple[object, ...]) -> None:
        number, at, name = record
        assert isinstance(number, int)
        assert isinstance(at, float)
        assert isinstance(name, bytes)
        who = name.rstrip(b"\0").decode()
        if not who:
            self._sent_at.append(at)
            self._answered_at.append(math.nan)
            self._by.append(_NOBODY)
        elif number < len(self._sent_at) and self._by[number] == _NOBODY:
            if who not in self._names:
                self._names.append(who)
            self._answered_at[number] = at
            self._by[number] = self._names.index(who)

    def wait_for_answer(self, *hosts: str, since_at: float = 0.0, timeout_s: float = 20) -> float:
        """Block until one of `hosts` (default: anyone) answered a probe sent since then.

        Returns:
            The instant at which that answer arrived.
        """
        found = math.nan
        checked = 0

        def answered() -> bool:
            nonlocal found, checked
            start = max(bisect.bisect_left(self._sent_at, since_at), checked)
            for number in range(start, len(self._by)):
                who = self._names[self._by[number]]
                if who and (not hosts or who in hosts):
                    found = self._answered_at[number]
                    return True
            # Answers come late by some milliseconds; look at the last ones again.
            checked = max(0, len(self._by) - 2000)
            return False

        with self._changed:
            self._wait(answered, timeout_s, f"an answer from {' or '.join(hosts) or 'anyone'}")
        return found

    def seen(self, since_at: float, until_at: float | None = None, grace_s: float = 0.15) -> Seen:
        """What became of the probes sent in that time.

        Waits until it is over (`until_at` may lie ahead) and late answers are in: at least
        `grace_s`, and longer where one is missing.
        """
        until_at = time.monotonic() if until_at is None else until_at

        def is_over() -> bool:
            passed_s = self._sent_at[-1] - until_at if self._sent_at else -math.inf
            return passed_s >= LATE_S or (
                passed_s >= grace_s and not self.lost_at(since_at, until_at)
            )

        with self._changed:
            self._wait(
                is_over,
                max(0.0, until_at - time.monotonic()) + LATE_S + 10,
                "the end of the measured time",
            )
            first = bisect.bisect_left(self._sent_at, since_at)
            last = bisect.bisect_right(self._sent_at, until_at)
            answers = sorted(
                (self._answered_at[n], self._by[n]) for n in range(first, last) if self._by[n]
            )
        lost = last - first - len(answers)
        by: list[str] = []
        for _, who in answers:
            if not by or by[-1] != self._names[who]:
                by.append(self._names[who])
        arrivals = [since_at, *(at for at, _ in answers)]
        # Nothing answered up to the end is a gap too; one interval is just the next probe's time.
        if not answers or until_at - arrivals[-1] > 10 * self.interval_s:
            arrivals.append(until_at)
        gaps = (b - a for a, b in itertools.pairwise(arrivals))
        return Seen(
            sent=last - first,
            lost=lost,
            longest_gap_s=max(gaps, default=0.0),
            first_answer_s=answers[0][0] - since_at if answers else math.inf,
            answered_by=tuple(by),
        )

    def lost_at(self, since_at: float, until_at: float) -> list[float]:
        """When the probes of that time that nobody answered were sent."""
        with self._changed:
            first = bisect.bisect_left(self._sent_at, since_at)
            last = bisect.bisect_right(self._sent_at, until_at)
            return [self._sent_at[n] for n in range(first, last) if self._by[n] == _NOBODY]

    def strip(self, since_at: float, until_at: float, step_s: float) -> list[tuple[str, int, int]]:
        """For each step: who answered most (empty: nobody), probes sent, and answered."""
        with self._changed:
            cells = []
            first = bisect.bisect_left(self._sent_at, since_at)
            start_at = since_at
            while start_at < until_at:
                last = bisect.bisect_left(self._sent_at, start_at + step_s, first)
                answered = [by for by in self._by[first:last] if by]
                who = max(set(answered), key=answered.count) if answered else _NOBODY
                cells.append((self._names[who], last - first, len(answered)))
                first, start_at = last, start_at + step_s
            return cells


@dataclass(frozen=True, slots=True)
class Connection:
    """One attempt to open a connection and get an answer over it."""

    started_at: float
    established_at: float
    """NaN: never."""
    answered_at: float
    who: str
    problem: str

    @property
    def is_established(self) -> bool:
        return not math.isnan(self.established_at)

    @property
    def is_answered(self) -> bool:
        return not math.isnan(self.answered_at)


class Connector(_Records):
    """Opens a connection to the VIP each interval; one that is not answered in time failed."""

    def __init__(
        self,
        client: Host,
        address: str,
        *,
        port: int = PORT,
        interval_s: float = 0.01,
        timeout_s: float = 0.9,
    ) -> None:
        # Below the kernel's first retransmission after 1 s: a SYN lost is a connection failed.
        self.timeout_s = timeout_s
        self.connections: list[Connection] = []
        super().__init__(
            client,
            agents.CONNECTED,
            "connect",
            address,
            str(port),
            str(interval_s),
            str(timeout_s),
        )

    def _take(self, record: tuple[object, ...]) -> None:
        _number, started_at, established_at, answered_at, who, problem = record
        assert isinstance(started_at, float)
        assert isinstance(established_at, float)
        assert isinstance(answered_at, float)
        assert isinstance(who, bytes)
        assert isinstance(problem, bytes)
        self.connections.append(
            Connection(
                started_at,
                established_at,
                answered_at,
                who.rstrip(b"\0").decode(),
                problem.rstrip(b"\0").decode(),
            )
        )

    def seen(self, since_at: float, until_at: float | None = None) -> list[Connection]:
        """The attempts started in that time, once all of them have ended."""
        until_at = time.monotonic() if until_at is None else until_at
        end_at = until_at + self.timeout_s + 0.1
        with self._changed:
            # Attempts end in any order, so wait for one that began after the last can still run.
            self._wait(
                lambda: bool(self.connections) and self.connections[-1].started_at > end_at,
                self.timeout_s + 10,
                "the end of the measured time",
            )
            return [c for c in self.connections if since_at <= c.started_at <= until_at]


class IdleConnection:
    """An established connection over which nothing is sent, as clients keep them in pools."""

    def __init__(self, client: Host, address: str, *, port: int = PORT) -> None:
        self._socket = inside(
            client.namespace, lambda: socket.create_connection((address, port), timeout=3)
        )
        self._socket.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
        self.server = self._socket.recv(4096).rpartition(b"\r\n")[2].strip().decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Whether the other side ended it, by a reset or orderly, within the time."""
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


class Forgetting:
    """While it is open, the client forgets the VIP's MAC again and again, as a new one each time.

    It forgets only what it has resolved, and declares the entry failed instead of deleting it:
    the kernel throws away the datagrams that wait for an entry, and one that is being sent
    through an entry just deleted, and the loss would be the lab's own.
    """

    def __init__(self, client: Host, address: str, *, interval_s: float = 0.003) -> None:
        self._address = address
        self._interval_s = interval_s
        self.times = 0
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=inside, args=(client.namespace, self._run), name="forgetting", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        entry = ndmsg()
        entry["family"] = socket.AF_INET
        entry["ifindex"] = socket.if_nametoindex("eth0")
        entry["state"] = NUD_FAILED
        entry["attrs"] = [("NDA_DST", self._address)]
        with (
            Requests(socket.NETLINK_ROUTE) as requests,
            Path("/proc/thread-self/net/arp").open(encoding="ascii") as table,
        ):
            while not self._over.wait(self._interval_s):
                if self._is_resolved(table):
                    with contextlib.suppress(OSError):
                        requests.ask(entry, RTM_NEWNEIGH, NLM_F_REPLACE | NLM_F_ACK)
                        self.times += 1

    def _is_resolved(self, table: TextIO) -> bool:
        table.seek(0)
        for line in table.read().splitlines():
            fields = line.split()
            if fields[0] == self._address:
                return int(fields[2], 16) & _ATF_COM != 0
        return False
