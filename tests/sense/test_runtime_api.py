"""HAProxy's Runtime API, as HAProxy speaks it and as nobody should: bounded, and never raising."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from havip.act.haproxy import BalancerHand, end_sessions
from havip.core.actions import ChangeBalancer
from havip.core.config import Backend, BalancerConfig
from havip.core.events import ActionFailed, BalancerAnswered, BalancerSilent, ProbeResult
from havip.core.haproxy import (
    Change,
    commands,
    configuration,
    has_succeeded,
    is_old,
    read_answer,
    server_of,
)
from havip.haproxy import RuntimeApi
from havip.sense.haproxy import BalancerWatch

INFO = "Name: HAProxy\nVersion: 2.6.12-1\nPid: 17\nUptime_sec: 60\ndescription: havip 1\n"
STAT = (
    "# pxname,svname,scur,slim,stot,bin,bout,econ,wretr,wredis,status,check_status,check_code,"
    "last_chk,addr,lastchg\n"
    "clients,FRONTEND,3,100,9,1,2,,,,OPEN,,,,,\n"
    "apiserver,a,2,,8,10,20,1,2,3,UP,* L7OK,200,,192.0.2.1:6443,7\n"
    "apiserver,BACKEND,2,,8,10,20,1,2,3,UP,,,,,\n"
    "other,b,2,,8,10,20,1,2,3,UP,L7OK,200,,192.0.2.1:6443,\n"
)
HANG_S = 30.0
A = Backend("a", ip_address("192.0.2.1"), 6443)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Told = BalancerAnswered | BalancerSilent


def test_an_answer_of_haproxy() -> None:
    answer = read_answer(INFO, STAT)
    assert (answer.version, answer.process, answer.uptime_s) == ("2.6.12-1", 17, 60)
    assert (answer.description, answer.sessions, answer.sessions_total) == ("havip 1", 3, 9)
    (server,) = answer.servers
    assert (server.name, server.endpoint, server.check) == ("a", "192.0.2.1:6443", "L7OK")
    assert (server.sessions, server.bytes_out, server.redispatches) == (2, 20, 3)
    assert server.changed_s == 7
    assert server.is_healthy
    assert answer.sessions_limit == 100
    assert (answer.frontend, answer.is_stopping) == ("OPEN", False)
    ending = read_answer(INFO + "Stopping: 1\n", STAT.replace("OPEN", "PAUSED"))
    assert (ending.frontend, ending.is_stopping) == ("PAUSED", True)


@pytest.mark.parametrize("name", ["BACKEND", "FRONTEND"])
def test_a_backend_that_is_called_as_haproxys_sums_are(name: str) -> None:
    called = server_of(replace(A, name=name))
    answer = read_answer(INFO, STAT.replace("apiserver,a,", f"apiserver,{called},"))
    assert [server.name for server in answer.servers] == [called]
    assert (answer.frontend, answer.sessions) == ("OPEN", 3)


PIECES = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*STAT.replace("\n", ",\n,").split(","), '"', ",", "\0", "\r", "\n", "9" * 30]),
    # As long as an answer may be, and as no field of a table may be.
    st.sampled_from("x\"'\0 \ufffd9").map(lambda each: each * 140_000),
)


@given(
    info=st.text(max_size=200),
    statistics=st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=30).map("".join)),
)
def test_no_answer_raises_anything_but_a_value_error(info: str, statistics: str) -> None:
    for text in (info, INFO + info):
        for head in ("", "# pxname,svname\napiserver,", STAT + "apiserver,b,"):
            try:
                answer = read_answer(text, head + statistics)
            except ValueError:
                continue
            assert answer.version


@pytest.mark.parametrize(
    "field",
    [
        pytest.param('"' + "x" * 140_000, id="quoted, without an end"),
        pytest.param('"' + "x,\n" * 50 + "y" * 140_000 + '"', id="quoted, of many lines"),
        pytest.param("x" * 140_000, id="bare"),
    ],
)
def test_a_field_that_is_too_long_is_no_answer(field: str) -> None:
    with pytest.raises(ValueError, match="is no table: field larger than"):
        read_answer(INFO, f"{STAT}apiserver,{field}")


@pytest.mark.parametrize(
    ("info", "statistics"),
    [
        pytest.param(INFO, STAT + "apiserver,x\n" * 16_500, id="rows"),
        pytest.param(INFO, "# " + "," * 100_000 + "\n", id="columns"),
        pytest.param(INFO + "a:\n" * 80_000, STAT, id="lines"),
    ],
)
def test_an_answer_of_many_rows_is_not_worked_on(info: str, statistics: str) -> None:
    with pytest.raises(ValueError, match="more rows or columns than"):
        read_answer(info, statistics)


def test_an_answer_of_as_many_backends_as_there_may_be_twice_over() -> None:
    rows = "".join(f"apiserver,b{number},\n" for number in range(128))
    assert len(read_answer(INFO, STAT + rows).servers) == 129


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.6.0", False),
        ("2.6-dev1", False),
        ("2.10.1", False),
        ("3.2.4-1", False),
        ("2.5.14", True),
        ("1.9.0", True),
        ("", True),
        ("ß.6", True),
    ],
)
def test_versions(version: str, expected: bool) -> None:
    assert is_old(version) is expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("", True),
        ("\n", True),
        ("New server registered.\n", True),
        ("Server deleted.\n", True),
        ("No such server.\n", False),
        ("Unknown command, but maybe one of the following ones is a better match:\n", False),
    ],
)
def test_replies_to_changes(reply: str, expected: bool) -> None:
    assert has_succeeded(reply) is expected


def answering(**replies: str) -> Handler:
    """A HAProxy that says this to a command, by its first word; of `show`, by its second."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().split():
            word = line[1] if line[0] == "show" else line[0]
            writer.write(replies.get(word, "").encode() + b"\n> ")

    return handler


async def never(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def hangs_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readline()


@asynccontextmanager
async def listening(path: str, handler: Handler) -> AsyncIterator[Callable[[], None]]:
    """Serve at a socket; what is given hangs up on everybody."""
    tasks: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        task = asyncio.get_running_loop().create_task(handle(reader, writer))
        tasks.add(task)

    def hang_up() -> None:
        for writer in writers:
            writer.transport.abort()

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield hang_up
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)


def asked(directory: Path, handler: Handler | None, *, is_closing: bool = False) -> list[Told]:
    """What is told of one question; `is_closing`: and of what happens when the server goes."""
    told: list[Told] = []

    async def main() -> None:
        config = BalancerConfig(binds=(), directory=str(directory))
        changed = asyncio.Event()

        def deliver(event: Told) -> None:
            told.append(event)
            changed.set()

        async def next_one() -> None:
            async with asyncio.timeout(HANG_S):
                await changed.wait()
            changed.clear()

        async with AsyncExitStack() as stack:
            watch = BalancerWatch(config, 0.3, deliver)
            if handler is not None:
                serving = listening(config.socket_file, handler)
                hang_up = await stack.enter_async_context(serving)
            stack.push_async_callback(watch.close)
            watch.start()
            await next_one()
            if is_closing:
                hang_up()
                await next_one()

    asyncio.run(main())
    return told


@pytest.mark.parametrize(
    ("handler", "result", "words"),
    [
        pytest.param(
            None,
            ProbeResult.REFUSED,
            "haproxy.sock has no socket: it does not run, or is to be restarted if it does",
            id="nobody",
        ),
        pytest.param(never, ProbeResult.TIMED_OUT, "does not answer in time", id="silent"),
        pytest.param(hangs_up, ProbeResult.REFUSED, "closed", id="hangs up"),
        pytest.param(answering(), ProbeResult.MALFORMED, "has no version", id="no HAProxy"),
        pytest.param(
            answering(info="x" * 300_000), ProbeResult.MALFORMED, "is longer than", id="too long"
        ),
    ],
)
def test_what_is_no_answer(
    handler: Handler | None, result: ProbeResult, words: str, tmp_path: Path
) -> None:
    (event,) = asked(tmp_path, handler)
    assert isinstance(event, BalancerSilent)
    assert event.result is result
    assert words in event.detail


def test_one_that_speaks_without_end(tmp_path: Path) -> None:
    """Whether it began before the question or after it, its bytes are bounded."""
    (event,) = asked(tmp_path, endless)
    assert isinstance(event, BalancerSilent)
    assert event.result in {ProbeResult.MALFORMED, ProbeResult.REFUSED}


def test_an_answer_and_the_end_of_haproxy(tmp_path: Path) -> None:
    answer, end = asked(tmp_path, answering(info=INFO, stat=STAT), is_closing=True)
    assert isinstance(answer, BalancerAnswered)
    assert [each.name for each in answer.answer.servers] == ["a"]
    assert isinstance(end, BalancerSilent)
    assert (end.result, end.is_unasked) == (ProbeResult.CLOSED, True)


def test_changes_are_made_in_turn_and_what_is_refused_is_told(tmp_path: Path) -> None:
    heard: list[str] = []
    failures: list[ActionFailed] = []

    async def haproxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            heard.append(line)
            refuses = line.startswith("del ")
            writer.write(b"No such server.\n\n> " if refuses else b"\n> ")

    async def main() -> None:
        config = BalancerConfig(binds=(), directory=str(tmp_path))
        async with listening(config.socket_file, haproxy):
            watch = BalancerWatch(config, 1.0, lambda _event: None)
            hand = BalancerHand(config, watch.api, failures.append)
            for change in (Change.REMOVE, Change.ADD, Change.ENABLE, Change.DRAIN, Change.CUT):
                action = ChangeBalancer(change=change, name="a", backend=A)
                hand.change(action)
                hand.change(action)
            assert hand.changing is not None
            async with asyncio.timeout(HANG_S):
                await hand.changing
            await hand.close()
            await watch.close()

    asyncio.run(main())
    assert [line.split(" check ")[0] for line in heard] == [
        "prompt",
        "set server apiserver/a state maint",
        "del server apiserver/a",
        "add server apiserver/a 192.0.2.1:6443",
        "enable health apiserver/a",
        "set server apiserver/a state drain",
        "set server apiserver/a health down",
        "set server apiserver/a state ready",
        "set server apiserver/a state drain",
        "shutdown sessions server apiserver/a",
    ]
    (failed,) = failures
    assert (failed.action, failed.subject) == ("ChangeBalancer", "remove a")
    assert failed.message == "No such server."


@pytest.mark.parametrize("name", ["a; disable frontend clients; #", "a\n", "a b", "ä"])
def test_no_command_but_the_one_that_is_meant(name: str, tmp_path: Path) -> None:
    config = BalancerConfig(binds=(), directory=str(tmp_path))
    for change in Change:
        with pytest.raises(ValueError, match="no name of a server"):
            commands(config, change, name, replace(A, name=name))
    with pytest.raises(ValueError, match="no name of a server"):
        configuration(config, [replace(A, name=name)])
    zone = replace(A, address=ip_address("2001:db8::2%a; disable frontend clients; #"))
    with pytest.raises(ValueError, match="has a zone"):
        commands(config, Change.ADD, "a", zone)

    failures: list[ActionFailed] = []

    async def main() -> None:
        hand = BalancerHand(config, RuntimeApi(config.socket_file), failures.append)
        hand.change(ChangeBalancer(change=Change.REMOVE, name=name))
        assert hand.changing is not None
        await hand.changing
        await hand.close()

    asyncio.run(main())
    assert [each.errno for each in failures] == [errno.EINVAL], "told, and nothing ends by it"


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("havip 1", ["shutdown sessions server apiserver/a; shutdown sessions server apiserver/b"]),
        ("somebody else's", []),
    ],
)
def test_all_sessions_are_closed(description: str, expected: list[str], tmp_path: Path) -> None:
    heard: list[str] = []

    async def haproxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode().strip()
        if line == "show info":
            writer.write(INFO.replace("havip 1", description).encode())
        elif line == "show stat":
            statistics = STAT + "apiserver,b,1,,1\n"
            writer.write((statistics.replace("END,3,", "END,0,") if heard else statistics).encode())
        else:
            heard.append(line)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        config = BalancerConfig(binds=(), directory=str(tmp_path))
        async with listening(config.socket_file, haproxy):
            await asyncio.to_thread(end_sessions, config)
        await asyncio.to_thread(end_sessions, replace(config, directory=str(tmp_path / "none")))
        async with listening(config.socket_file, never):
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(end_sessions, config)

    asyncio.run(main())
    assert heard == expected
