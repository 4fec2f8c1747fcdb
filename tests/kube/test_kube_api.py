"""The Kubernetes client against servers on loopback that answer well, badly, or not at all."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from havip.core.config import KubeAccess, Secret, TlsConfig
from havip.core.events import ProbeResult
from havip.https import Credentials
from havip.kube import ANSWER_LIMIT, KubeApi, KubeError, judge
from servers import Handler, answering_tls, server_tls, serving, status

HANG_S = 30.0
TOKEN = "t0ken"
READYZ = "/readyz"
Answer = TypeVar("Answer")
Use = Callable[[KubeApi], Awaitable[Answer]]


def answer(body: object, code: int = 200) -> bytes:
    return status(code, json.dumps(body).encode())


def jwt(**claims: object) -> str:
    middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{middle}.c2lnbmF0dXJl"


def run(
    certificates: Any,
    use: Use[Answer],
    *handlers: Handler,
    ports: tuple[int, ...] = (),
    certificate: str = "loopback",
    context: ssl.SSLContext | None = None,
    **more: Any,
) -> Answer:
    """What `use` gives with a client of `ports`, and then servers that answer by `handlers`."""

    async def main() -> Answer:
        async with AsyncExitStack() as stack:
            tls = context or server_tls(certificates, certificate)
            opened = [await stack.enter_async_context(serving(each, tls)) for each in handlers]
            fields = {
                "tls": TlsConfig(ca_file=certificates.path("ca.pem"), server_name="127.0.0.1"),
                "token": Secret(TOKEN.encode()),
                **more,
            }
            servers = tuple(f"https://127.0.0.1:{port}" for port in (*ports, *opened))
            api = KubeApi(KubeAccess(servers=servers, **fields))  # type: ignore[arg-type]
            async with asyncio.timeout(HANG_S):
                return await use(api)

    return asyncio.run(main())


async def get(api: KubeApi) -> dict[str, Any]:
    return await api.get(READYZ, timeout_s=5.0)


def refusal(certificates: Any, use: Use[Any], *handlers: Handler, **more: Any) -> KubeError:
    with pytest.raises(KubeError) as caught:
        run(certificates, use, *handlers, **more)
    assert TOKEN not in caught.value.detail
    assert str(caught.value) == caught.value.detail
    return caught.value


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def recording(got: list[bytes], body: bytes) -> Handler:
    """Reads a request with its body, and answers."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        got.append(head + await reader.readexactly(length))
        writer.write(body)
        await writer.drain()
        await reader.read()

    return handler


def test_a_get(certificates):
    requests: list[bytes] = []

    async def use(api: KubeApi) -> Any:
        return await api.get("/api/v1/nodes/a?x=1", timeout_s=5.0)

    found = run(certificates, use, answering_tls(answer({"kind": "Node"}), requests))
    assert found == {"kind": "Node"}
    (request,) = requests
    assert request.startswith(b"GET /api/v1/nodes/a?x=1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer t0ken\r\n" in request


@pytest.mark.parametrize(
    ("method", "content_type"),
    [
        ("POST", None),
        ("PUT", None),
        ("PATCH", "application/merge-patch+json"),
        ("DELETE", None),
    ],
)
def test_a_change(method, content_type, certificates):
    got: list[bytes] = []
    more = {"content_type": content_type} if content_type else {}

    async def use(api: KubeApi) -> Any:
        return await api.send(method, "/x", {"spec": {"a": 1}}, timeout_s=5.0, **more)

    assert run(certificates, use, recording(got, answer({"b": 2}, 201))) == {"b": 2}
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert head.startswith(f"{method} /x HTTP/1.1\r\n".encode())
    wanted = content_type or "application/json"
    assert f"\r\nContent-Type: {wanted}".encode() in head
    assert json.loads(body) == {"spec": {"a": 1}}


FORBIDDEN_LEASE = (
    'leases.coordination.k8s.io "havip" is forbidden: User "system:serviceaccount:ns:havip" '
    'cannot update resource "leases" in API group "coordination.k8s.io" in the namespace "ns"'
)
FORBIDDEN_STATUS = (
    'nodes "a" is forbidden: User "havip" cannot patch resource "nodes/status" in API group "" '
    "at the cluster scope"
)


@pytest.mark.parametrize(
    ("code", "body", "result", "words"),
    [
        (404, {"message": 'leases "x" not found'}, ProbeResult.WRONG_STATUS, 'leases "x" not'),
        (409, {"message": "already exists"}, ProbeResult.WRONG_STATUS, "HTTP 409: already exists"),
        (500, "[-]etcd failed: x", ProbeResult.WRONG_STATUS, "HTTP 500"),
        (302, {}, ProbeResult.WRONG_STATUS, "redirects are not followed"),
        (401, {}, ProbeResult.UNAUTHORIZED, "the token is not accepted: renew it"),
        (
            403,
            {"message": FORBIDDEN_LEASE},
            ProbeResult.FORBIDDEN,
            "HTTP 403: system:serviceaccount:ns:havip may not update leases.coordination.k8s.io in "
            'namespace ns: allow it by an RBAC rule apiGroups ["coordination.k8s.io"], resources '
            '["leases"], resourceNames ["havip"], verbs ["update"]; see kubectl auth can-i update '
            "leases.coordination.k8s.io/havip --namespace=ns --as=system:serviceaccount:ns:havip",
        ),
        (
            403,
            {"message": FORBIDDEN_STATUS},
            ProbeResult.FORBIDDEN,
            'HTTP 403: havip may not patch nodes/status: allow it by an RBAC rule apiGroups [""], '
            'resources ["nodes/status"], resourceNames ["a"], verbs ["patch"]; see kubectl auth '
            "can-i patch nodes/a --subresource=status --as=havip",
        ),
        (
            403,
            {"message": 'forbidden: User "havip" cannot get path "/readyz"'},
            ProbeResult.FORBIDDEN,
            "HTTP 403: havip may not get /readyz: allow it by an RBAC rule nonResourceURLs "
            '["/readyz"], verbs ["get"]; see kubectl auth can-i get /readyz --as=havip',
        ),
        (403, "nothing of Kubernetes", ProbeResult.FORBIDDEN, "the account may not get /readyz"),
        (
            403,
            {"message": 'User "\x1b[31m" cannot get path "x"'},
            ProbeResult.FORBIDDEN,
            "the account may not get /readyz",
        ),
        (400, {"message": "\x1b[31mred\n" + "x" * 1000}, ProbeResult.WRONG_STATUS, " [31mred xx"),
    ],
)
def test_refusals_are_explained(code, body, result, words, certificates):
    error = refusal(certificates, get, answering_tls(answer(body, code)))
    assert (error.result, error.status) == (result, code)
    assert words in error.detail
    assert error.detail.isprintable()
    assert len(error.detail) <= 500


_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
_LEASE_RULE = 'apiGroups ["coordination.k8s.io"], resources ["leases"]'


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/ns/leases/havip-10",
            "update leases.coordination.k8s.io in namespace ns: {} an RBAC rule "
            f'{_LEASE_RULE}, resourceNames ["havip-10"], verbs ["update"]',
        ),
        (
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/ns/leases",
            "create leases.coordination.k8s.io in namespace ns: {} an RBAC rule "
            f'{_LEASE_RULE}, verbs ["create"]',
        ),
        (
            "POST",
            _EVENTS,
            "create events.events.k8s.io in namespace default: {} an RBAC rule "
            'apiGroups ["events.k8s.io"], resources ["events"], verbs ["create"]',
        ),
        (
            "PATCH",
            "/api/v1/nodes/node%2Da",
            'patch nodes: {} an RBAC rule apiGroups [""], resources ["nodes"], '
            'resourceNames ["node-a"], verbs ["patch"]',
        ),
        (
            "GET",
            "/api/v1/nodes?labelSelector=a&watch=1",
            'watch nodes: {} an RBAC rule apiGroups [""], resources ["nodes"], verbs ["watch"]',
        ),
        (
            "GET",
            "/api/v1/nodes?labelSelector=a",
            'list nodes: {} an RBAC rule apiGroups [""], resources ["nodes"], verbs ["list"]',
        ),
        (
            "GET",
            "/readyz?verbose",
            'get /readyz: allow it by an RBAC rule nonResourceURLs ["/readyz"], verbs ["get"]',
        ),
        (
            "GET",
            "/api/v1",
            'get /api/v1: allow it by an RBAC rule nonResourceURLs ["/api/v1"], verbs ["get"]',
        ),
    ],
)
@pytest.mark.parametrize("token", [TOKEN, None], ids=["an account", "anonymous"])
def test_the_missing_rule_is_told_also_where_the_server_does_not(method, path, words, token):
    secret = Secret(token.encode()) if token else None
    credentials = Credentials(TlsConfig(), token_file=None, token=secret, ca_setting="kubeCaFile")
    result, detail = judge(403, b"no", credentials, method, path)
    assert result is ProbeResult.FORBIDDEN
    who, how = (
        ("the account", "allow it by")
        if token
        else ("anonymous requests", "give a token of an account with")
    )
    assert f"HTTP 403: {who} may not {words.format(how)}" in detail


@pytest.mark.parametrize(
    ("token", "words"),
    [
        pytest.param(
            jwt(exp=1700000000, sub="x"), "the token expired at 2023-11-14T22:13:20Z", id="expired"
        ),
        pytest.param(jwt(exp=2**40), "the token is not accepted", id="not expired"),
        pytest.param(jwt(exp="soon"), "the token is not accepted", id="a time that is none"),
        pytest.param("e.%%%.c", "the token is not accepted", id="no base64"),
        pytest.param(f"e.{'W1tb' * 9000}.c", "the token is not accepted", id="nested too deeply"),
        pytest.param("opaque", "the token is not accepted", id="no JWT"),
    ],
)
def test_a_token_that_is_not_accepted(token, words, certificates):
    error = refusal(certificates, get, answering_tls(answer({}, 401)), token=Secret(token.encode()))
    assert f"HTTP 401: {words}" in error.detail
    assert token not in error.detail


def test_whose_token_it_is_stands_in_the_token(certificates):
    token = jwt(sub="system:serviceaccount:kube-system:havip")
    handler = answering_tls(status(403, b"<html>"))
    error = refusal(certificates, get, handler, token=Secret(token.encode()))
    assert error.detail.endswith("--as=system:serviceaccount:kube-system:havip")


@pytest.mark.parametrize(
    ("raw", "result"),
    [
        pytest.param(b"", ProbeResult.RESET, id="nothing"),
        pytest.param(b"\x00\xff" * 400, ProbeResult.MALFORMED, id="garbage"),
        pytest.param(status(200, b"ok"), ProbeResult.MALFORMED, id="no JSON"),
        pytest.param(status(200, b"[1]"), ProbeResult.MALFORMED, id="no object"),
        pytest.param(status(200, b"[" * 9000), ProbeResult.MALFORMED, id="nested too deeply"),
        pytest.param(
            status(200, b'{"a":' * 100 + b"1" + b"}" * 100),
            ProbeResult.MALFORMED,
            id="nested too deeply to be written again",
        ),
        pytest.param(
            status(200, b"[" + b"[]," * 90000 + b"[]]"), ProbeResult.MALFORMED, id="many values"
        ),
        pytest.param(
            status(200, b'{"a":[' + b"9" * 4300 + b"]}"), ProbeResult.MALFORMED, id="4300 digits"
        ),
        pytest.param(
            status(200, b'{"a":{"b":9223372036854775808}}'), ProbeResult.MALFORMED, id="65 bits"
        ),
        pytest.param(status(200, b'{"a":1e400}'), ProbeResult.MALFORMED, id="infinite"),
        pytest.param(status(200, b'{"a":NaN}'), ProbeResult.MALFORMED, id="no number"),
        pytest.param(status(200, b'{"a":"\\ud800"}'), ProbeResult.MALFORMED, id="half a character"),
        pytest.param(
            status(200, b'{"\\udfff":1}'), ProbeResult.MALFORMED, id="half a character as a key"
        ),
        pytest.param(
            status(200, b'{"a":"\xed\xa0\x80"}'), ProbeResult.MALFORMED, id="half of one, no UTF-8"
        ),
        pytest.param(
            status(200, b'{"a":"' + b"x" * ANSWER_LIMIT + b'"}'), ProbeResult.MALFORMED, id="huge"
        ),
        pytest.param(
            b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"a":', ProbeResult.MALFORMED, id="half"
        ),
        pytest.param(
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n',
            ProbeResult.MALFORMED,
            id="half of a chunked one",
        ),
    ],
)
def test_an_answer_that_is_none(raw, result, certificates):
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    error = refusal(certificates, get, handler)
    assert (error.result, error.status) == (result, None)


def test_the_largest_answer_is_read(certificates):
    body = {"a": "x" * (ANSWER_LIMIT - 9)}
    assert run(certificates, get, answering_tls(answer(body))) == body


def test_numbers_and_texts_that_an_api_server_says_are_read(certificates):
    body = {"a": [2**63 - 1, -(2**63), True, 0.5, None], "b": {"ä": "\N{GRINNING FACE}\n"}}
    assert run(certificates, get, answering_tls(answer(body))) == body


@pytest.mark.parametrize(
    ("certificate", "tls", "words"),
    [
        ("loopback", {"ca_file": "other-ca.pem"}, "set kubeCaFile to the CA that signed it"),
        ("expired", {"ca_file": "ca.pem", "server_name": "127.0.0.1"}, "has expired"),
        # kubeadm's certificate names the service, not 127.0.0.1, and so is asked for that name.
        ("loopback", {"ca_file": "ca.pem"}, "is not for kubernetes"),
        ("loopback", {"ca_file": "missing.pem"}, "credentials withheld"),
        ("loopback", {"ca_file": "server.key"}, "credentials withheld"),
        ("loopback", {"ca_data": "no PEM"}, "certificate-authority-data holds no usable CA"),
    ],
)
def test_a_server_that_is_not_proven_hears_nothing(certificate, tls, words, certificates):
    requests: list[bytes] = []
    if "ca_file" in tls:
        tls = tls | {"ca_file": certificates.path(tls["ca_file"])}
    handler = answering_tls(answer({}), requests)
    error = refusal(certificates, get, handler, certificate=certificate, tls=TlsConfig(**tls))
    assert words in error.detail
    assert requests == []


def test_a_loopback_server_is_asked_for_the_name_kubernetes(certificates):
    tls = TlsConfig(ca_file=certificates.path("ca.pem"))
    handler = answering_tls(answer({"a": 1}))
    assert run(certificates, get, handler, certificate="kubernetes", tls=tls) == {"a": 1}


def test_certificates_held_in_memory(certificates):
    """As a kubeconfig holds them; no file of them is left open."""

    def text(name: str) -> str:
        return Path(certificates.path(name)).read_text()

    context = server_tls(certificates)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.path("ca.pem"))
    tls = TlsConfig(
        ca_data=text("ca.pem"),
        server_name="127.0.0.1",
        client_cert_data=Secret(text("client.pem").encode()),
        client_key_data=Secret(text("server.key").encode()),
    )
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    handler = answering_tls(answer({"a": 1}))
    assert run(certificates, get, handler, context=context, tls=tls, token=None) == {"a": 1}
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_rotated_token_is_used_at_once(certificates, tmp_path):
    requests: list[bytes] = []
    file = tmp_path / "token"
    file.write_text("first\n")

    async def use(api: KubeApi) -> None:
        await get(api)
        new = tmp_path / "new"
        new.write_text("second\n")
        new.replace(file)
        await get(api)
        for _ in range(2):
            file.write_text(" \n")
            with pytest.raises(KubeError, match=f"the token file {file} holds no token"):
                await get(api)
        file.unlink()
        with pytest.raises(KubeError, match="cannot be read"):
            await get(api)

    run(certificates, use, answering_tls(answer({}), requests), token=None, token_file=str(file))
    assert [b"Bearer first" in requests[0], b"Bearer second" in requests[1]] == [True, True]
    assert len(requests) == 2


# Several servers


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def _hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


def test_the_next_server_is_tried_and_kept(certificates):
    first: list[bytes] = []
    second: list[bytes] = []

    async def first_handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.append(await reader.readuntil(b"\r\n\r\n"))
        writer.transport.abort()

    async def use(api: KubeApi) -> None:
        await get(api)
        await get(api)

    run(certificates, use, first_handler, answering_tls(answer({}), second))
    assert (len(first), len(second)) == (1, 2)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_nothing_listens_at_the_first(method, certificates):
    async def use(api: KubeApi) -> Any:
        if method == "GET":
            return await get(api)
        return await api.send(method, "/x", {}, timeout_s=5.0)

    found = run(certificates, use, recording([], answer({"a": 1})), ports=(unused_port(),))
    assert found == {"a": 1}


def test_a_silent_server_leaves_time_for_the_next(certificates):
    async def use(api: KubeApi) -> Any:
        return await api.get("/x", timeout_s=2.0)

    assert run(certificates, use, _silent, answering_tls(answer({"a": 1}))) == {"a": 1}


def test_a_change_that_may_have_been_made_is_not_sent_again(certificates):
    second: list[bytes] = []

    async def use(api: KubeApi) -> None:
        with pytest.raises(KubeError) as caught:
            await api.send("POST", "/x", {}, timeout_s=5.0)
        assert caught.value.result is ProbeResult.RESET
        assert second == []
        await api.send("POST", "/x", {}, timeout_s=5.0)

    run(certificates, use, _hanging_up, recording(second, answer({})))
    assert len(second) == 1


def test_a_server_without_etcd_is_not_asked_first_again(certificates):
    async def use(api: KubeApi) -> Any:
        with pytest.raises(KubeError) as caught:
            await get(api)
        assert caught.value.status == 500
        return await get(api)

    etcd_is_gone = answering_tls(answer({"message": "etcdserver: request timed out"}, 500))
    assert run(certificates, use, etcd_is_gone, answering_tls(answer({"a": 1}))) == {"a": 1}


def test_no_server_answers(certificates):
    ports = (unused_port(), unused_port())
    error = refusal(certificates, get, ports=ports)
    assert error.result is ProbeResult.REFUSED
    assert all(f"nothing listens on 127.0.0.1:{port}" in error.detail for port in ports)
    assert "start the API server, or correct kubeApiServer" in error.detail


@pytest.mark.parametrize("count", [1, 3])
def test_the_time_is_bounded(count, certificates):
    async def use(api: KubeApi) -> float:
        began_at = time.monotonic()
        with pytest.raises(KubeError) as caught:
            await api.get("/x", timeout_s=0.3)
        assert caught.value.result is ProbeResult.TIMED_OUT
        return time.monotonic() - began_at

    assert run(certificates, use, *[_silent] * count) >= 0.3


def test_an_answer_that_never_ends_costs_its_time(certificates):
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.005)

    async def use(api: KubeApi) -> None:
        await api.get("/x", timeout_s=0.3)

    error = refusal(certificates, use, dripping)
    assert error.result is ProbeResult.TIMED_OUT
    assert "no complete answer" in error.detail


# Watches


def chunked(*pieces: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces
    )


def event(kind: str, **content: object) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def watched(certificates: Any, raw: bytes, requests: list[bytes] | None = None) -> list[Any]:
    """The events of a watch, and at the end the error that ended it, if one did."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(request)
        writer.write(raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def use(api: KubeApi) -> list[Any]:
        found: list[Any] = []
        try:
            async for each in api.watch("/api/v1/nodes?limit=5", timeout_s=20.0):
                found.append(each)
        except KubeError as error:
            found.append(error)
        return found

    return run(certificates, use, handler)


def test_a_watch(certificates):
    requests: list[bytes] = []
    whole = event("ADDED", a=1) + event("MODIFIED", b=[2])
    raw = chunked(whole[:9], whole[9:30], whole[30:], event("BOOKMARK")) + b"0\r\n\r\n"
    assert watched(certificates, raw, requests) == [
        {"type": "ADDED", "object": {"a": 1}},
        {"type": "MODIFIED", "object": {"b": [2]}},
        {"type": "BOOKMARK", "object": {}},
    ]
    assert requests[0].startswith(b"GET /api/v1/nodes?limit=5&watch=1&timeoutSeconds=20 HTTP/1.1")


@pytest.mark.parametrize(
    ("raw", "result", "code", "words"),
    [
        pytest.param(
            chunked(event("ERROR", code=410, message="too old resource version")),
            ProbeResult.WRONG_STATUS,
            410,
            "410 too old resource version",
            id="expired",
        ),
        pytest.param(
            chunked(event("ERROR", code="x")), ProbeResult.WRONG_STATUS, 500, "500", id="no code"
        ),
        pytest.param(
            chunked(event("ERROR", code=123456)),
            ProbeResult.WRONG_STATUS,
            500,
            "500",
            id="a code that is none",
        ),
        pytest.param(
            chunked(event("ERROR", code=True)), ProbeResult.WRONG_STATUS, 500, "500", id="true"
        ),
        pytest.param(chunked(b"{}\n"), ProbeResult.MALFORMED, None, "is none", id="no event"),
        pytest.param(chunked(b"nonsense\n"), ProbeResult.MALFORMED, None, "JSON", id="no JSON"),
        pytest.param(
            chunked(b"x" * (ANSWER_LIMIT + 1)), ProbeResult.MALFORMED, None, "longer", id="no end"
        ),
        pytest.param(
            chunked(event("MODIFIED", a=10**400)),
            ProbeResult.MALFORMED,
            None,
            "sensible",
            id="huge",
        ),
        pytest.param(chunked(b'{"type"'), ProbeResult.MALFORMED, None, "HTTP", id="half"),
        pytest.param(
            status(410, b'{"message":"gone"}'), ProbeResult.WRONG_STATUS, 410, "gone", id="refused"
        ),
    ],
)
def test_a_watch_that_ends_badly(raw, result, code, words, certificates):
    (error,) = watched(certificates, raw)
    assert isinstance(error, KubeError)
    assert (error.result, error.status) == (result, code)
    assert words in error.detail


def test_a_watch_of_a_server_that_falls_silent_ends(certificates, monkeypatch):
    monkeypatch.setattr("havip.kube._OVERDUE_S", 0.0)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(chunked(event("ADDED", a=1)))
        await writer.drain()
        await asyncio.Event().wait()

    async def use(api: KubeApi) -> list[Any]:
        return [each async for each in api.watch("/x", timeout_s=0.5)]

    assert len(run(certificates, use, handler)) == 1


@pytest.mark.parametrize("way", ["aclosing", "cancelled", "closed"])
def test_a_watch_leaves_no_connection(way, certificates):
    gone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(chunked(event("ADDED", a=1)))
        await writer.drain()
        try:
            await reader.read()
        finally:
            gone.set()

    async def use(api: KubeApi) -> None:
        seen = asyncio.Event()

        async def follow() -> None:
            async with aclosing(api.watch("/x", timeout_s=HANG_S)) as events:
                async for _ in events:
                    seen.set()
                    if way == "aclosing":
                        return

        task = asyncio.create_task(follow())
        await seen.wait()
        if way == "cancelled":
            task.cancel()
        if way == "closed":
            await api.close()
        done = (await asyncio.gather(task, return_exceptions=True))[0]
        kinds = {"aclosing": type(None), "cancelled": asyncio.CancelledError, "closed": KubeError}
        assert isinstance(done, kinds[way])
        await gone.wait()

    run(certificates, use, handler)


def test_the_loop_turns_while_a_large_answer_is_read(certificates):
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def use(api: KubeApi) -> None:
        ticking = asyncio.create_task(tick())
        await get(api)
        ticking.cancel()

    run(certificates, use, answering_tls(answer({"a": "x" * (ANSWER_LIMIT - 100)})))
    assert turns >= 30


# What is counted ---------------------------------------------------------------------------------

_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


async def _patch_node(api: KubeApi) -> None:
    await api.send("PATCH", "/api/v1/nodes/a", {}, timeout_s=5.0)


async def _create_lease(api: KubeApi) -> None:
    await api.send("POST", _LEASES, {}, timeout_s=5.0)


async def _update_lease(api: KubeApi) -> None:
    await api.send("PUT", f"{_LEASES}/havip-10", {}, timeout_s=5.0)


async def _get_lease(api: KubeApi) -> None:
    await api.get(f"{_LEASES}/havip-10", timeout_s=5.0)


async def _list_nodes(api: KubeApi) -> None:
    await api.get("/api/v1/nodes?labelSelector=a", timeout_s=5.0)


async def _get_readyz(api: KubeApi) -> None:
    await get(api)


async def _watch_nodes(api: KubeApi) -> None:
    async with aclosing(api.watch("/api/v1/nodes?a=b", timeout_s=5.0)) as events:
        async for _ in events:
            pass


@pytest.mark.parametrize(
    ("use", "call"),
    [
        (_patch_node, "patch nodes"),
        (_create_lease, "create leases"),
        (_update_lease, "update leases"),
        (_get_lease, "get leases"),
        (_list_nodes, "list nodes"),
        (_watch_nodes, "watch nodes"),
        (_get_readyz, "get readyz"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
@pytest.mark.parametrize(
    ("said", "result"),
    [
        pytest.param(answer({}), "ok", id="ok"),
        pytest.param(answer({}, 403), "403", id="403"),
        pytest.param(answer({}, 409), "409", id="409"),
        pytest.param(b"nonsense\r\n\r\n", "malformed", id="nonsense"),
    ],
)
def test_calls_are_told_by_how_they_end(
    certificates: Any, use: Use[None], call: str, said: bytes, result: str
) -> None:
    told: list[tuple[str, str]] = []

    async def main() -> None:
        async with serving(answering_tls(said), server_tls(certificates)) as port:
            access = KubeAccess(
                servers=(f"https://127.0.0.1:{port}",),
                tls=TlsConfig(ca_file=certificates.path("ca.pem"), server_name="127.0.0.1"),
                token=Secret(TOKEN.encode()),
            )
            api = KubeApi(access, lambda *what: told.append(what))
            try:
                async with asyncio.timeout(1.0):
                    await use(api)
            except KubeError:
                pass

    asyncio.run(main())
    assert told == [(call, result)]
