"""Probes against real servers on loopback, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest

from havip.core.config import CheckConfig, Secret, TlsConfig
from havip.core.events import ProbeFinished, ProbeResult
from havip.sense.checks import Prober
from servers import OK, Handler, answering, answering_tls, server_tls, serving, status


def check(url: str, **more: object) -> CheckConfig:
    fields: dict[str, object] = {
        "name": "service",
        "interval_s": 2.0,
        "timeout_s": 5.0,
        "fail_after": 2,
        "recover_after": 2,
    }
    return CheckConfig(url=url, **(fields | more))  # type: ignore[arg-type]


async def probe(config: CheckConfig, times: int = 1) -> ProbeFinished:
    answers: asyncio.Queue[ProbeFinished] = asyncio.Queue()
    prober = Prober([config], answers.put_nowait)
    try:
        for _ in range(times):
            prober.start(config.name)
            finished = await answers.get()
        return finished
    finally:
        await prober.close()


def probe_http(handler: Handler, path: str = "/healthz", **more: object) -> ProbeFinished:
    async def run() -> ProbeFinished:
        async with serving(handler) as port:
            return await probe(check(f"http://127.0.0.1:{port}{path}", **more))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "result", "words"),
    [
        (OK, ProbeResult.PASSED, "HTTP 200"),
        (status(204), ProbeResult.PASSED, "HTTP 204"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", ProbeResult.PASSED, "HTTP 200"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, ProbeResult.PASSED, "HTTP 200"),
        (status(302, headers=b"Location: /x\r\n"), ProbeResult.WRONG_STATUS, "not followed"),
        (status(401), ProbeResult.UNAUTHORIZED, "wants credentials"),
        (
            status(403),
            ProbeResult.FORBIDDEN,
            "anonymous requests may not get /healthz: allow it by an RBAC rule",
        ),
        (status(503), ProbeResult.WRONG_STATUS, "HTTP 503"),
        (
            status(500, b"[+]ping ok\n[-]etcd failed: reason withheld\n[-]log failed\n"),
            ProbeResult.WRONG_STATUS,
            "HTTP 500: failed etcd, log",
        ),
        (b"", ProbeResult.RESET, "without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ProbeResult.RESET, "without an answer"),
        (b"\x00\xff" * 400, ProbeResult.MALFORMED, "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", ProbeResult.MALFORMED, "HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            ProbeResult.MALFORMED,
            "HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000 + b"\r\n",
            ProbeResult.MALFORMED,
            "HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
            ProbeResult.PASSED,
            "HTTP 200",
        ),
    ],
)
def test_answers(answer, result, words):
    finished = probe_http(answering(answer))
    assert (finished.result, words in finished.detail) == (result, True), finished
    assert finished.check == "service"
    assert finished.is_unasked is False


@pytest.mark.parametrize(
    ("code", "result"), [(301, ProbeResult.PASSED), (200, ProbeResult.WRONG_STATUS)]
)
def test_the_expected_status_can_be_set(code, result):
    finished = probe_http(answering(status(code)), expected_status=((300, 399), (404, 404)))
    assert finished.result is result


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        *((code, True) for code in (200, 204, 301, 302, 303, 304, 307, 308, 399)),
        *((code, False) for code in (400, 401, 404, 500, 503)),
    ],
)
@pytest.mark.parametrize("is_https", [False, True], ids=["http", "https of an unknown CA"])
def test_as_keepalived_ingress_vip_checks(code, passes, is_https, certificates):
    """Its `curl -f -k`: 2xx and 3xx pass, no certificate is verified, no redirect is followed.

    An ingress may redirect to a name that leads to the VIP: that would ask the holder.
    """
    requests: list[bytes] = []
    handler = answering_tls if is_https else answering
    answer = status(code, headers=b"Location: /elsewhere\r\n")
    scheme, tls = ("https", server_tls(certificates)) if is_https else ("http", None)

    async def run() -> ProbeFinished:
        async with serving(handler(answer, requests=requests), tls) as port:
            url = f"{scheme}://127.0.0.1:{port}/healthz"
            # As resolve makes it of `checkServiceExpectedStatus: 200-399` and a loopback address.
            return await probe(
                check(url, expected_status=((200, 399),), tls=TlsConfig(verify=False))
            )

    finished = asyncio.run(run())
    assert (finished.result is ProbeResult.PASSED) == passes
    assert f"HTTP {code}" in finished.detail
    assert [request.split()[1] for request in requests] == [b"/healthz"]


def test_the_request_is_plain_and_carries_nothing_over():
    requests: list[bytes] = []
    handler = answering(status(200, headers=b"Set-Cookie: a=b\r\n"), requests=requests)

    async def run() -> None:
        async with serving(handler) as port:
            await probe(check(f"http://127.0.0.1:{port}/healthz?full=1"), times=2)

    asyncio.run(run())
    first, second = requests
    assert first == second
    assert first.startswith(b"GET /healthz?full=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"ookie" not in second


def test_proxy_variables_are_ignored(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert probe_http(answering(OK)).result is ProbeResult.PASSED


def test_ipv6():
    async def run() -> ProbeFinished:
        async with serving(answering(OK), host="::1") as port:
            return await probe(check(f"http://[::1]:{port}/"))

    assert asyncio.run(run()).result is ProbeResult.PASSED


def unused_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "https", "tcp"])
def test_nothing_listens(scheme):
    finished = asyncio.run(probe(check(f"{scheme}://127.0.0.1:{unused_port()}")))
    assert finished.result is ProbeResult.REFUSED
    assert "nothing listens" in finished.detail


def test_what_is_not_there_yet_fails_for_that_reason():
    """And nobody is asked: it may be another server than the one that is meant."""
    requests: list[bytes] = []
    finished = probe_http(answering(OK, requests=requests), awaits="no kubeconfig yet")
    assert (finished.result, finished.detail) == (ProbeResult.FAILED, "no kubeconfig yet")
    assert requests == []


def test_a_name_that_does_not_exist():
    finished = asyncio.run(probe(check("http://nothing.invalid:80/", timeout_s=30.0)))
    assert finished.result is ProbeResult.NAME_NOT_FOUND
    assert "nothing.invalid" in finished.detail


def test_an_address_without_a_route():
    finished = asyncio.run(probe(check("tcp://255.255.255.255:80")))
    assert finished.result is ProbeResult.UNREACHABLE


def test_tcp_passes_when_something_accepts():
    async def run() -> ProbeFinished:
        async def idle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.read()

        async with serving(idle) as port:
            return await probe(check(f"tcp://127.0.0.1:{port}"))

    assert asyncio.run(run()).result is ProbeResult.PASSED


def test_a_reset_connection():
    async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    assert probe_http(resetting).result is ProbeResult.RESET


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()
    await asyncio.Event().wait()


async def _dripping_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.005)


async def _dripping_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.005)


async def _always_continuing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        await writer.drain()


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (_silent, "connected, but no answer within"),
        (_dripping_head, "connected, but no answer within"),
        (_dripping_body, "no complete answer within"),
        (_always_continuing, "no answer within"),
    ],
)
def test_an_answer_that_never_ends_costs_its_timeout(handler, words):
    finished = probe_http(handler, timeout_s=0.2)
    assert finished.result is ProbeResult.TIMED_OUT
    assert words in finished.detail
    assert finished.duration_s >= 0.2


def test_a_tls_handshake_that_never_ends_costs_its_timeout():
    async def run() -> ProbeFinished:
        async with serving(_silent) as port:
            return await probe(check(f"https://127.0.0.1:{port}/", timeout_s=1.0))

    finished = asyncio.run(run())
    assert finished.result is ProbeResult.TIMED_OUT
    assert "no TLS handshake" in finished.detail


@pytest.mark.parametrize("chunk", [b"10000\r\n" + b"x" * 65536 + b"\r\n", b"1\r\nx\r\n" * 500])
def test_a_huge_answer_is_read_to_a_bound_only(chunk):
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(chunk)
            await writer.drain()
            sent += len(chunk)

    finished = probe_http(endless)
    assert finished.result is ProbeResult.PASSED
    # What the kernel buffers between the two is not the probe's reading.
    assert sent < 16 * 2**20


# TLS


def probe_https(
    context: ssl.SSLContext, answer: bytes = OK, requests: list[bytes] | None = None, **more: object
) -> ProbeFinished:
    async def run() -> ProbeFinished:
        async with serving(answering_tls(answer, requests), tls=context) as port:
            return await probe(check(f"https://127.0.0.1:{port}/readyz", **more))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("certificate", "ca", "server_name", "expected"),
    [
        ("loopback", "ca.pem", None, (ProbeResult.PASSED, "HTTP 200")),
        ("kubernetes", "ca.pem", "kubernetes", (ProbeResult.PASSED, "HTTP 200")),
        ("kubernetes", "ca.pem", None, (ProbeResult.CERTIFICATE_INVALID, "is not for 127.0.0.1")),
        (
            "loopback",
            "ca.pem",
            "kubernetes",
            (ProbeResult.CERTIFICATE_INVALID, "is not for kubernetes"),
        ),
        ("loopback", "other-ca.pem", None, (ProbeResult.CERTIFICATE_INVALID, "checkServiceCaFile")),
        ("loopback", None, None, (ProbeResult.CERTIFICATE_INVALID, "not trusted")),
        ("expired", "ca.pem", None, (ProbeResult.CERTIFICATE_INVALID, "has expired")),
        ("loopback", "missing.pem", None, (ProbeResult.FAILED, "no usable CA file")),
        ("loopback", "server.key", None, (ProbeResult.FAILED, "no usable CA file")),
    ],
)
def test_certificates(certificates, certificate, ca, server_name, expected):
    tls = TlsConfig(ca_file=certificates.path(ca) if ca else None, server_name=server_name)
    finished = probe_https(server_tls(certificates, certificate), tls=tls)
    result, words = expected
    assert (finished.result, words in finished.detail) == (result, True), finished


def test_without_verification_any_certificate_will_do(certificates):
    finished = probe_https(server_tls(certificates, "expired"), tls=TlsConfig(verify=False))
    assert finished.result is ProbeResult.PASSED


def test_tls_where_none_is_spoken():
    async def run() -> ProbeFinished:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            await reader.read()

        async with serving(plain) as port:
            tls = TlsConfig(verify=False)
            return await probe(check(f"https://127.0.0.1:{port}/", tls=tls))

    finished = asyncio.run(run())
    assert finished.result is ProbeResult.TLS_FAILED
    assert "does it speak TLS?" in finished.detail


def test_a_handshake_that_the_server_breaks_off():
    async def run() -> ProbeFinished:
        async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(65536)
            writer.write_eof()
            await reader.read()

        async with serving(hanging_up) as port:
            tls = TlsConfig(verify=False)
            return await probe(check(f"https://127.0.0.1:{port}/", tls=tls))

    assert asyncio.run(run()).result is ProbeResult.TLS_FAILED


def test_a_client_certificate_is_shown(certificates):
    context = server_tls(certificates)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.path("ca.pem"))
    tls = TlsConfig(
        ca_file=certificates.path("ca.pem"),
        client_cert_file=certificates.path("client.pem"),
        client_key_file=certificates.path("server.key"),
    )
    assert probe_https(context, tls=tls).result is ProbeResult.PASSED
    without = TlsConfig(ca_file=certificates.path("ca.pem"))
    assert probe_https(context, tls=without).result in {ProbeResult.TLS_FAILED, ProbeResult.RESET}


# Credentials

TOKEN = b"eyJhbGciOiJSUzI1NiJ9.secret"


def token_sent(requests: list[bytes]) -> list[bytes]:
    return [
        line.partition(b": ")[2]
        for request in requests
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"authorization:")
    ]


def test_the_token_goes_over_verified_tls(certificates):
    requests: list[bytes] = []
    finished = probe_https(
        server_tls(certificates),
        requests=requests,
        token=Secret(TOKEN + b"\n"),
        tls=TlsConfig(ca_file=certificates.path("ca.pem")),
    )
    assert finished.result is ProbeResult.PASSED
    assert token_sent(requests) == [b"Bearer " + TOKEN]
    assert finished.detail == "HTTP 200"


@pytest.mark.parametrize(
    "tls", [TlsConfig(verify=False), TlsConfig(ca_file="/nonexistent/ca.crt")], ids=str
)
def test_the_token_is_withheld_without_verification(certificates, tls):
    requests: list[bytes] = []
    finished = probe_https(
        server_tls(certificates), requests=requests, token=Secret(TOKEN), tls=tls
    )
    assert len(requests) == 1
    assert token_sent(requests) == []
    assert finished.result is ProbeResult.PASSED
    assert "credentials withheld" in finished.detail


def test_the_token_is_withheld_from_plain_http():
    requests: list[bytes] = []
    finished = probe_http(answering(OK, requests=requests), token=Secret(TOKEN))
    assert token_sent(requests) == []
    assert "credentials withheld" in finished.detail


def test_the_token_is_withheld_from_a_server_that_fails_verification(certificates):
    requests: list[bytes] = []
    finished = probe_https(
        server_tls(certificates),
        requests=requests,
        token=Secret(TOKEN),
        tls=TlsConfig(ca_file=certificates.path("other-ca.pem")),
    )
    assert finished.result is ProbeResult.CERTIFICATE_INVALID
    assert requests == []


def test_a_rejected_token_names_the_remedy_and_not_itself(certificates):
    finished = probe_https(
        server_tls(certificates),
        answer=status(500, b"[-]" + TOKEN + b" failed\n"),
        token=Secret(TOKEN),
        tls=TlsConfig(ca_file=certificates.path("ca.pem")),
    )
    assert finished.detail == "HTTP 500: failed ***"
    finished = probe_https(
        server_tls(certificates),
        answer=status(401),
        token=Secret(TOKEN),
        tls=TlsConfig(ca_file=certificates.path("ca.pem")),
    )
    assert finished.result is ProbeResult.UNAUTHORIZED
    assert "renew it" in finished.detail


def test_a_token_file_is_read_again_when_it_changes(certificates, tmp_path: Path):
    requests: list[bytes] = []
    file = tmp_path / "token"
    file.write_bytes(b"first")

    async def run() -> None:
        answers: asyncio.Queue[ProbeFinished] = asyncio.Queue()
        handler = answering_tls(OK, requests)
        async with serving(handler, tls=server_tls(certificates)) as port:
            config = check(
                f"https://127.0.0.1:{port}/",
                tls=TlsConfig(ca_file=certificates.path("ca.pem")),
                token_file=str(file),
            )
            prober = Prober([config], answers.put_nowait)
            for content in (b"first", b"second", b"second"):
                if content != file.read_bytes():
                    # As kubelet does it: another file takes the name.
                    replacement = tmp_path / "new"
                    replacement.write_bytes(content)
                    os.replace(replacement, file)  # noqa: PTH105
                prober.start("service")
                await answers.get()
            file.unlink()
            prober.start("service")
            missing = await answers.get()
            file.write_bytes(b"third\xff")
            prober.start("service")
            unusable = await answers.get()
            await prober.close()
        assert missing.result is ProbeResult.FAILED
        assert "cannot be read (No such file" in missing.detail
        assert unusable.result is ProbeResult.FAILED
        assert "no HTTP header can carry" in unusable.detail

    asyncio.run(run())
    assert token_sent(requests) == [b"Bearer first", b"Bearer second", b"Bearer second"]


@pytest.mark.parametrize("role", ["token_file", "ca_file", "client_cert_file", "client_key_file"])
def test_a_fifo_in_place_of_a_file_holds_nobody_up(role, certificates, tmp_path: Path):
    """Opening it would wait for a writer for ever, and so would the end of the process."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    files = {
        "ca_file": certificates.path("ca.pem"),
        "client_cert_file": certificates.path("client.pem"),
        "client_key_file": certificates.path("server.key"),
    }
    token_file = None
    if role == "token_file":
        token_file = str(fifo)
    else:
        files[role] = str(fifo)
    done = threading.Event()
    was_held_up = threading.Event()

    def end_a_wait() -> None:
        """So that a reader that waits fails this test rather than stop it."""
        if not done.wait(10.0):
            was_held_up.set()
            while not done.wait(0.05):
                os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))

    writer = threading.Thread(target=end_a_wait)
    writer.start()
    finished = probe_https(
        server_tls(certificates),
        tls=TlsConfig(**files),
        token_file=token_file,
        timeout_s=5.0,
    )
    done.set()
    writer.join()
    assert "it is no regular file" in finished.detail
    assert not was_held_up.is_set()


def test_an_endless_token_is_refused(certificates, tmp_path: Path):
    requests: list[bytes] = []
    file = tmp_path / "token"
    file.write_bytes(b"t" * 70_000)
    finished = probe_https(
        server_tls(certificates),
        requests=requests,
        token_file=str(file),
        tls=TlsConfig(ca_file=certificates.path("ca.pem")),
    )
    assert finished.result is ProbeResult.FAILED
    assert "larger than 65536 bytes" in finished.detail
    assert requests == []


def test_a_ca_file_that_appears_later_is_used(certificates, tmp_path: Path):
    requests: list[bytes] = []
    ca = tmp_path / "ca.crt"
    trusted = Path(certificates.path("ca.pem")).read_bytes()

    async def run() -> list[ProbeFinished]:
        answers: asyncio.Queue[ProbeFinished] = asyncio.Queue()
        async with serving(answering_tls(OK, requests), tls=server_tls(certificates)) as port:
            config = check(
                f"https://127.0.0.1:{port}/",
                tls=TlsConfig(ca_file=str(ca)),
                token=Secret(TOKEN),
            )
            prober = Prober([config], answers.put_nowait)
            prober.start("service")
            first = await answers.get()
            ca.write_bytes(trusted)
            prober.start("service")
            second = await answers.get()
            await prober.close()
            return [first, second]

    first, second = asyncio.run(run())
    assert "withheld" in first.detail
    assert second.detail == "HTTP 200"
    assert token_sent(requests) == [b"Bearer " + TOKEN]


def test_an_unusable_client_certificate_is_named(certificates):
    tls = TlsConfig(
        ca_file=certificates.path("ca.pem"),
        client_cert_file=certificates.path("client.pem"),
        client_key_file=certificates.path("other-ca.key"),
    )
    finished = probe_https(server_tls(certificates), tls=tls)
    assert finished.result is ProbeResult.FAILED
    assert "no usable client certificate" in finished.detail


def test_a_long_detail_is_cut():
    finished = asyncio.run(probe(check(f"http://{'a' * 60}.{'b' * 60}.invalid:80/{'x' * 500}")))
    assert len(finished.detail) <= 500


def test_the_loop_turns_while_a_hostile_answer_is_read():
    """Each turn's work is bounded: many turns pass in the time that the answer takes."""
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def run() -> ProbeFinished:
        ticking = asyncio.create_task(tick())
        chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 20000
        async with serving(answering(chunks)) as port:
            finished = await probe(check(f"http://127.0.0.1:{port}/"))
        ticking.cancel()
        return finished

    started_at = time.monotonic()
    finished = asyncio.run(run())
    assert finished.result is ProbeResult.PASSED
    assert turns >= 30, (turns, time.monotonic() - started_at)
