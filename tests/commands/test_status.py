"""`havip status` against the server that the daemon uses."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from havip.act.http import Server, status_pages
from havip.commands.status import default_url
from havip.core.view import (
    BackendView,
    BalancerView,
    CheckView,
    LeaseView,
    NodeObjectView,
    NodeView,
    PeerView,
    RouterView,
    TransitionView,
)


def view() -> NodeView:
    """A node that has held its VIP for 75 s, one check of it failed."""
    now = time.monotonic()
    return NodeView(
        node_name="node-a",
        version="0.1.0",
        at=now,
        ready=True,
        not_ready_because="",
        routers=(
            RouterView(
                name="eth0/10",
                virtual_router_id=10,
                version=3,
                vrrp_interface="eth0",
                vip_interface="eth0",
                vips=("192.0.2.10/32",),
                state="active",
                reason="active_silent",
                since_at=now - 75,
                may_hold=True,
                blocked_by="",
                priority=100,
                effective_priority=60,
                advert_interval_s=0.1,
                is_holding=True,
                hmac_key=None,
                fast_detect="armed",
                peers=(
                    PeerView(
                        address="192.0.2.2",
                        priority=50,
                        is_active=False,
                        last_advert_at=now - 90,
                        advert_interval_s=0.1,
                    ),
                ),
            ),
        ),
        checks=(
            CheckView(
                name="kube_api",
                url="https://127.0.0.1:6443/readyz",
                healthy=False,
                has_passed=True,
                weight=-40,
                last_result="timed_out",
                detail="no answer\x1b[31m in 4.5 s",
                consecutive=7,
                last_at=now - 1,
                changed_at=now - 20,
            ),
        ),
        transitions=(
            TransitionView(
                at=now - 75,
                router="eth0/10",
                topic="moved",
                reason="active_silent",
                state="active",
                was="backup",
                fields={"peer": "192.0.2.2", "silent_s": 0.361},
            ),
        ),
    )


async def run_status(
    url: str, *flags: str, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "havip", "status", f"--url={url}", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env or {}),
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def status_of(
    node: NodeView, *flags: str, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """What the command says of a daemon in this state."""

    async def serve_and_ask() -> tuple[int, str, str]:
        server = Server("127.0.0.1:0", status_pages(lambda: node, lambda: True, lambda: b""))
        await server.open()
        try:
            return await run_status(f"http://127.0.0.1:{server.port}", *flags, env=env)
        finally:
            await server.close()

    return asyncio.run(serve_and_ask())


def test_a_node_that_is_about_to_leave() -> None:
    plan = NodeObjectView(
        leaving="node_cordoned", detail="", weight=-30, seen_at=time.monotonic(), problem=""
    )
    _, out, _ = status_of(replace(view(), node_object=plan))
    assert out.splitlines()[0].endswith("ready  about to leave: node_cordoned")
    _, out, _ = status_of(replace(view(), node_object=replace(plan, leaving="")))
    assert out.splitlines()[0].endswith("ready")


def test_table() -> None:
    code, out, err = status_of(view())
    assert (code, err) == (0, "")
    paragraphs = [paragraph.splitlines() for paragraph in out.strip().split("\n\n")]
    node, routers, checks, peers, transitions = paragraphs
    assert node == ["node node-a  havip 0.1.0  ready"]
    assert re.split(r"  +", routers[1]) == [
        "eth0/10",
        "192.0.2.10/32",
        "active",
        "1 min 15 s",
        "active_silent",
        "60 of 100",
        "yes",
        "-",
    ]
    assert checks[1].startswith("kube_api  failed")
    assert "timed_out ×7" in checks[1]
    assert "no answer\\x1b[31m in 4.5 s" in checks[1]
    assert re.split(r"  +", peers[1]) == ["192.0.2.2", "eth0/10", "backup", "50", "1 min 30 s ago"]
    assert "backup → active  active_silent  peer=192.0.2.2 silent_s=0.361" in transitions[1]


def test_blocked_and_not_ready() -> None:
    node = view()
    router = replace(node.routers[0], may_hold=False, blocked_by="check_failed", is_holding=False)
    node = replace(node, routers=(router,), ready=False, not_ready_because="checks are pending")
    code, out, _ = status_of(node)
    assert code == 3
    assert "not ready: checks are pending" in out
    assert "check_failed" in out


def test_a_target_that_never_passed_is_shown_as_such() -> None:
    node = view()
    node = replace(node, checks=(replace(node.checks[0], has_passed=False),))
    _, out, _ = status_of(node)
    assert re.search(r"^kube_api  never passed  ", out, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("holder", "problem", "shown"),
    [
        ("node-b", "", ["node-b", "5.0 s ago", "3", "-"]),
        ("", "HTTP 403: allow it", ["-", "5.0 s ago", "3", "HTTP 403: allow it"]),
    ],
    ids=["held", "unanswered"],
)
def test_a_lease_shows_its_holder(holder: str, problem: str, shown: list[str]) -> None:
    node = view()
    lease = LeaseView(
        namespace="kube-system",
        name="havip-10",
        holder=holder,
        transitions=3,
        changed_at=node.at - 5,
        held_until_at=None,
        problem=problem,
    )
    node = replace(node, routers=(replace(node.routers[0], lease=lease),))
    _, out, _ = status_of(node)
    (line,) = re.findall(r"^kube-system/havip-10  .*$", out, flags=re.MULTILINE)
    assert re.split(r"  +", line) == ["kube-system/havip-10", "eth0/10", *shown]


def test_json_is_what_the_daemon_serves() -> None:
    code, out, _ = status_of(view(), "--output=json")
    document = json.loads(out)
    assert code == 0
    assert document["node_name"] == "node-a"
    assert document["routers"][0]["since"].endswith("Z")


def test_a_proxy_of_the_environment_is_not_asked() -> None:
    code, _, err = status_of(view(), env={"http_proxy": "http://127.0.0.1:1", "no_proxy": ""})
    assert (code, err) == (0, "")


def test_nobody_listens() -> None:
    code, out, err = asyncio.run(run_status("http://127.0.0.1:1"))
    assert (code, out) == (1, "")
    assert err.startswith("havip status: http://127.0.0.1:1: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param("200 OK", b"hello", id="no JSON"),
        pytest.param("200 OK", b"[]", id="no object"),
        pytest.param("200 OK", b'{"version": 1}', id="another object"),
        pytest.param("200 OK", b"\xff\xfe", id="no text"),
        pytest.param("404 Not Found", b"", id="not found"),
    ],
)
def test_somebody_else_listens(status: str, body: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def serve_and_ask() -> tuple[int, str, str]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await run_status(f"http://127.0.0.1:{port}")

    code, out, err = asyncio.run(serve_and_ask())
    assert (code, out) == (1, "")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("", "http://127.0.0.1:9650"),
        ("192.0.2.1:80", "http://192.0.2.1:80"),
        ("0.0.0.0:9650", "http://127.0.0.1:9650"),
        ("[::]:9650", "http://[::1]:9650"),
        ("[fd00::1]:9650", "http://[fd00::1]:9650"),
    ],
)
def test_the_daemon_is_where_the_environment_says(listen: str, url: str) -> None:
    assert default_url({"HAVIP_LISTEN": listen}) == url


def test_the_balancer_and_its_backends() -> None:
    counts = dict.fromkeys(
        (
            *("sessions_total", "bytes_in_total", "bytes_out_total", "connection_errors_total"),
            *("retries_total", "redispatches_total"),
        ),
        0,
    )
    backends = (
        BackendView(
            name="cp-1",
            endpoint="192.0.2.11:6443",
            listed=True,
            healthy=True,
            status="UP",
            check="L7OK 200",
            sessions=7,
            **counts,
        ),
        BackendView(
            name="cp-2",
            endpoint="192.0.2.12:6443",
            listed=False,
            healthy=False,
            status="DRAIN",
            check="L4CON",
            sessions=1,
            **counts,
        ),
    )
    balancer = BalancerView(
        answers=True,
        version="2.6.12",
        process=17,
        uptime_s=60,
        problem="",
        port=8443,
        sessions=8,
        sessions_limit=8,
        full=False,
        sessions_total=9,
        backends_known_by="api",
        backends=backends,
    )
    _, out, _ = status_of(replace(view(), balancer=balancer))
    lines = [line.split() for line in out.splitlines()]
    assert ["balancer", ":8443", "HAProxy", "2.6.12", "8", "of", "8", "connections", "fit"] in lines
    _, out, _ = status_of(replace(view(), balancer=replace(balancer, redirect_port=6443)))
    assert "balancer :8443, :6443 leads there" in out
    assert ["cp-1", "192.0.2.11:6443", "good", "UP", "L7OK", "200", "7"] in lines
    assert ["cp-2", "192.0.2.12:6443", "failed", "DRAIN", "unlisted", "L4CON", "1"] in lines
    _, unlisted = backends
    listed = replace(unlisted, listed=True)
    for backend, health in (
        (replace(unlisted, check="L7OK 200"), "drained"),
        (replace(unlisted, check="L7OK 200", status="DOWN 1/2"), "proving"),
        (replace(listed, check="", status=""), "proving"),
        (replace(listed, check="INI", status="MAINT"), "proving"),
        (replace(listed, check="L7OK 200"), "proving"),
        (replace(listed, check="L7OK 200", status="DOWN 1/2"), "proving"),
        (replace(listed, check="L7STS 500", status="DOWN"), "failed"),
    ):
        _, out, _ = status_of(replace(view(), balancer=replace(balancer, backends=(backend,))))
        assert [each.split()[2] for each in out.splitlines() if "cp-2" in each] == [health], backend
    _, out, _ = status_of(replace(view(), balancer=replace(balancer, full=True)))
    assert "8 of 8 connections, full" in out
    silent = replace(balancer, answers=False, problem="HAProxy does not run", backends=())
    _, out, _ = status_of(replace(view(), balancer=silent))
    assert "no HAProxy" in out
    assert "HAProxy does not run" in out
