"""`havip demo`: three hosts and a client, real daemons, and what goes wrong in a data centre.

Each host is a network namespace with a small web service and `havip run` at its defaults. The
client sends the VIP a numbered datagram each millisecond. Everything in the table at the end
was measured by the client, or read from the kernels' own address events.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby

from havip.commands.screen import Screen, Styled, note
from havip.commands.table import table
from havip.netlab import PORT, Host, Lab, LabError, Process

_EPILOG = f"""\
examples:
  havip demo                       on a terminal: live; in a pipe: lines
  havip demo --output json | jq '.scenarios[] | {{name, longest_gap_s}}'

It needs root, for the namespaces; the machine's own network is not touched, and nothing is
left behind, also after Ctrl-C. The web services listen on port {PORT} of each namespace.

exit status: 0 all went well, 1 a scenario misbehaved, 2 cannot run here, 130 Ctrl-C
"""

STRIP_CELL_S = 0.05
STALE_BOUND_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured of one scenario. Durations are seconds."""

    name: str
    was: str
    """Holder before; empty: nobody."""
    holder: str
    """Holder at the end."""
    reason: str
    """Why the holder holds, in its own word from `/status`."""
    longest_gap_s: float
    """Longest time between two answers to the client's probes that followed each other."""
    probes_sent: int
    probes_lost: int
    two_holders_s: float
    no_holder_s: float
    stale_s: float
    """A dead or frozen daemon's address was still on its host."""
    problems: list[str] = field(default_factory=list)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="watch a VIP move between three hosts under a running client",
        description="Play six misfortunes on three hosts in network namespaces, with real "
        "daemons and a client, and measure what the client misses.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", choices=("text", "json"), default="text")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Play every scenario; returns the exit status."""
    demo = Demo(Lab(hosts=3), as_text=arguments.output == "text")
    try:
        demo.play()
    except KeyboardInterrupt:
        note("havip demo: stopped; nothing is left behind")
        return 130
    except LabError as error:
        note(f"havip demo: {error}")
        return 2
    if arguments.output == "json":
        print(json.dumps(demo.told(), indent=2))
    else:
        demo.print_table()
    return 0 if demo.went_well else 1


class Demo:
    """The play: stage, actors, and what was measured."""

    def __init__(self, lab: Lab, *, as_text: bool) -> None:
        self._lab = lab
        self._as_text = as_text
        self._services: dict[str, Process] = {}
        self._daemons: dict[str, Process] = {}
        self._condition: dict[str, str] = {}
        """What the lab did to a host, in a word; absent: nothing."""
        self._scenes = (
            ("cold start", "three daemons start at once", self._cold_start),
            ("service killed", "the holder's web service is killed", self._service_killed),
            ("holder powered off", "every process killed, link cut", self._holder_powered_off),
            ("holder back", "the host boots again; the VIP stays", self._holder_back),
            ("graceful stop", "SIGTERM to the holder's daemon", self._graceful_stop),
            ("holder frozen", "SIGSTOP, later SIGCONT", self._holder_frozen),
        )
        self._scene = ""
        self._told_events = 0
        self._off = ""
        self.results: list[Result] = []

    @property
    def went_well(self) -> bool:
        is_complete = len(self.results) == len(self._scenes)
        return is_complete and not any(result.problems for result in self.results)

    def told(self) -> dict[str, object]:
        """Everything measured, for `--output json`."""
        return {
            "vip": str(self._lab.vip_address),
            "probe_interval_s": 0.001,
            "ok": self.went_well,
            "scenarios": [asdict(result) for result in self.results],
        }

    def play(self) -> None:
        """Every scene, in order; the first that fails is the last.

        Raises:
            LabError: there is no stage: not root, or a tool is missing.
        """
        with self._lab as lab:
            self._prober = lab.client.probe(str(lab.vip_address))
            self._begun_at = time.monotonic()
            out = sys.stdout if self._as_text else sys.stderr
            with Screen(out, self._picture, self._tell_moves) as screen:
                self._screen = screen
                self._say("Three hosts and a client on a switch, all network namespaces;", "dim")
                self._say(f"the client sends {lab.vip_address} a datagram each millisecond.", "dim")
                for host in lab.hosts:
                    self._services[host.name] = host.serve()
                for number, (name, story, scene) in enumerate(self._scenes, 1):
                    self._scene = f"{number}/{len(self._scenes)} {name}: {story}"
                    self._say("")
                    self._say(self._scene, "bold")
                    try:
                        result = scene(name)
                    except LabError as error:
                        result = self._failed(name, str(error))
                    self.results.append(result)
                    self._tell_moves()
                    self._tell_result(result)
                    if result.problems:
                        self._tell_logs()
                        break
                self._scene = ""

    def print_table(self) -> None:
        """What was measured, for people."""
        rows = [
            (
                "scenario",
                "longest gap",
                "probes lost",
                "two holders",
                "no holder",
                "stale",
                "holder",
                "why it holds",
            )
        ]
        for result in self.results:
            rows.append(
                (
                    result.name,
                    f"{result.longest_gap_s * 1000:8.0f} ms",
                    f"{result.probes_lost:11}",
                    f"{result.two_holders_s * 1000:8.1f} ms",
                    f"{result.no_holder_s * 1000:6.0f} ms",
                    f"{result.stale_s * 1000:5.0f} ms",
                    " → ".join(dict.fromkeys((result.was or "nobody", result.holder))),
                    result.reason,
                )
            )
        print(f"\n{table(rows)}")
        print(
            "\nlongest gap: between two answers to the client's 1 ms probes. stale: the address of "
            "a dead or frozen\ndaemon, which the kernel removes by itself; clients reach the "
            "successor meanwhile."
        )
        for result in self.results:
            for problem in result.problems:
                print(f"\n{result.name}: {problem}")

    # The scenes

    def _cold_start(self, name: str) -> Result:
        with self._measured(name, was="") as measure:
            for host in self._lab.hosts:
                self._daemons[host.name] = self._start(host, wait=False)
            for host in self._lab.hosts:
                self._daemons[host.name].wait_for(host.is_ready, 15, "is not ready")
            return measure([host.name for host in self._lab.hosts])

    def _service_killed(self, name: str) -> Result:
        holder = self._holder()
        with self._measured(name, was=holder) as measure:
            self._condition[holder] = "service killed"
            self._services[holder].kill()
            result = measure(self._others(holder))
        self._services[holder] = self._lab[holder].serve()
        del self._condition[holder]
        return result

    def _holder_powered_off(self, name: str) -> Result:
        self._off = holder = self._holder()
        with self._measured(name, was=holder) as measure:
            self._condition[holder] = "powered off"
            self._lab[holder].power_off()
            return measure(self._others(holder))

    def _holder_back(self, name: str) -> Result:
        holder = self._holder()
        host = self._lab[self._off]
        with self._measured(name, was=holder) as measure:
            self._condition[host.name] = "booting"
            host.power_on()
            self._services[host.name] = host.serve()
            self._daemons[host.name] = self._start(host)
            del self._condition[host.name]
            return measure([holder], then_s=1.5)

    def _graceful_stop(self, name: str) -> Result:
        holder = self._holder()
        with self._measured(name, was=holder) as measure:
            self._condition[holder] = "stopping"
            status = self._daemons[holder].stop()
            self._condition[holder] = "stopped"
            result = measure(self._others(holder))
        if status != 0:
            result.problems.append(f"havip run ended with status {status}, not 0")
        self._daemons[holder] = self._start(self._lab[holder])
        del self._condition[holder]
        return result

    def _holder_frozen(self, name: str) -> Result:
        lab, holder = self._lab, self._holder()
        daemon = self._daemons[holder]
        with self._measured(name, was=holder) as measure:
            self._condition[holder] = "frozen"
            frozen_at = time.monotonic()
            daemon.freeze()
            lab.watch.wait_for_holder(lab.vip_address, *self._others(holder))
            gone_at = lab.watch.wait_until_gone(lab.vip_address, holder)
            self._condition[holder] = "thawed"
            daemon.thaw()
            result = measure(self._others(holder), then_s=1.0)
        del self._condition[holder]
        if gone_at - frozen_at > STALE_BOUND_S:
            result.problems.append(f"its address stayed {gone_at - frozen_at:.1f} s")
        return result

    # Measuring

    @contextmanager
    def _measured(self, name: str, was: str) -> Iterator[Callable[..., Result]]:
        """Measures from here until the function it gives is called, and a little longer."""
        lab = self._lab
        since_at = time.monotonic()

        def measure(expected: list[str], then_s: float = 0.7) -> Result:
            lab.watch.wait_for_holder(lab.vip_address, *expected)
            self._prober.wait_for_answer(*expected, since_at=since_at)
            until_at = time.monotonic() + then_s
            seen = self._prober.seen(since_at, until_at)
            held = lab.watch.held(lab.vip_address, since_at, until_at)
            problems = []
            if len(held.holders) != 1 or held.holders[0] not in expected:
                problems.append(f"at the end the VIP was on {' and '.join(held.holders) or 'none'}")
            return Result(
                name=name,
                was=was,
                holder=" and ".join(held.holders),
                reason=self._reason(*held.holders[:1]),
                longest_gap_s=seen.longest_gap_s,
                probes_sent=seen.sent,
                probes_lost=seen.lost,
                two_holders_s=held.two_s,
                no_holder_s=held.none_s,
                stale_s=held.stale_s,
                problems=problems,
            )

        yield measure

    def _failed(self, name: str, problem: str) -> Result:
        holders = self._lab.watch.holders(self._lab.vip_address)
        return Result(
            name=name,
            was="",
            holder=" and ".join(holders),
            reason="",
            longest_gap_s=0,
            probes_sent=0,
            probes_lost=0,
            two_holders_s=0,
            no_holder_s=0,
            stale_s=0,
            problems=[problem],
        )

    def _start(self, host: Host, *, wait: bool = True) -> Process:
        return host.havip(
            wait=wait,
            vip_address_cidr=self._lab.vip,
            check_service_url=f"http://127.0.0.1:{PORT}/",
        )

    def _holder(self) -> str:
        """The one holder.

        Raises:
            LabError: there are none or several.
        """
        holders = self._lab.watch.holders(self._lab.vip_address)
        if len(holders) != 1:
            raise LabError(f"the VIP is on {' and '.join(holders) or 'no host'}")
        return holders[0]

    def _others(self, name: str) -> list[str]:
        return [host.name for host in self._lab.hosts if host.name != name]

    def _reason(self, *names: str) -> str:
        for name in names:
            for router in self._lab[name].status()["routers"]:
                return str(router["reason"])
        return ""

    # Telling

    def _say(self, text: str, colour: str = "") -> None:
        if self._as_text:
            self._screen.say((text, colour))

    def _tell_result(self, result: Result) -> None:
        if result.problems:
            for problem in result.problems:
                self._say(f"  ✗ {problem}", "red")
            return
        moved = (
            f"{result.holder} keeps it"
            if result.was == result.holder
            else f"now on {result.holder}"
        )
        self._say(
            f"  ✓ {moved} ({result.reason}); longest gap {result.longest_gap_s * 1000:.0f} ms, "
            f"{result.probes_lost} of {result.probes_sent} probes lost",
            "green",
        )

    def _tell_moves(self) -> None:
        """Each coming and going of the VIP since the last time, one line each."""
        for event in self._lab.watch.vip_events(self._lab.vip_address)[self._told_events :]:
            self._told_events += 1
            verb = "has" if event.present else "lost" if event.port_id else "let expire"
            self._say(f"  {event.at - self._begun_at:6.3f} s  {event.host} {verb} the VIP", "dim")

    def _tell_logs(self) -> None:
        for name, text in self._lab.logs().items():
            if "havip" in name:
                note("\n".join((f"--- {name}", *text.splitlines()[-30:])))

    def _picture(self) -> list[Styled]:
        now = time.monotonic()
        holders = self._lab.watch.holders(self._lab.vip_address, with_stale=True)
        lines: list[Styled] = [[("", "")]]
        for host in self._lab.hosts:
            condition = self._condition.get(host.name, "")
            has_vip = host.name in holders
            stale = has_vip and condition in ("frozen", "powered off")
            lines.append(
                [
                    (f"  {host.name} ", "bold"),
                    (f"{host.ipv4}  ", "dim"),
                    ("● " if has_vip else "○ ", "yellow" if stale else "green"),
                    (
                        f"{str(self._lab.vip_address) + (' stale' if stale else ''):<20}"
                        if has_vip
                        else " " * 20,
                        "yellow" if stale else "green",
                    ),
                    (condition, "red"),
                ]
            )
        lines += [[("", "")], [("  client  ", "bold"), *self._strip(now)]]
        lines.append(
            [(f"  {'':8}{STRIP_CELL_S * 1000:.0f} ms each: who answered, · nobody", "dim")]
        )
        return lines

    def _strip(self, now: float) -> Styled:
        """The last seconds as the client saw them, a character for each cell."""
        until_at = now - now % STRIP_CELL_S - STRIP_CELL_S
        cells: list[tuple[str, str]] = []
        for who, sent, answered in self._prober.strip(until_at - 3, until_at, STRIP_CELL_S):
            if sent == 0:
                cells.append((" ", ""))
            elif answered == 0:
                cells.append(("·", "red"))
            else:
                cells.append((who[-1], "green" if answered == sent else "yellow"))
        return [
            ("".join(text for text, _ in run), colour)
            for colour, run in groupby(cells, key=lambda cell: cell[1])
        ]
