"""The Kubernetes API, as far as havip needs it: get, change, watch, and say what is wrong.

By httpx and not by the `kubernetes` package: a few calls with bounded answers do not need its
tens of megabytes, and they share TLS, credentials and explanations with the probes. The API
server is trusted with the credential, once TLS has proven it, and with nothing else: whatever it
answers costs bounded bytes, bounded time, and a few milliseconds of the loop at most.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from havip import https
from havip.core.config import KubeAccess, name_to_verify
from havip.core.events import ProbeResult
from havip.https import Attempt, BadFileError, Credentials, Outcome

ANSWER_LIMIT = 1 << 19
"""Bytes of an answer, and of one event of a watch. JSON of this size takes 3 ms to read."""
_VALUES_LIMIT = 20_000
"""Values in an answer: half a megabyte of empty lists would take 70 ms to read."""
_DEPTH_LIMIT = 64
"""Of objects within objects: what is written again must not be too deep for `json.dumps`."""
_WHOLE_NUMBERS = range(-(2**63), 2**63)
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_MESSAGE_LIMIT = 200
_OPENING_S = 10.0
"""Within which the answer to a watch has to begin."""
_OVERDUE_S = 5.0
"""How much longer than asked for a watch may last until it is ended from here."""

_FAILED_SUBCHECK = re.compile(rb"^\[-\]([\w./-]{1,80})", re.MULTILINE)
_USER = r'User "(?P<user>[\w:.@/-]{1,150})" cannot '
_NAMED = re.compile(r'[\w./-]{1,80} "(?P<name>[\w.:-]{1,253})" is forbidden: ')
_NO_PATH = re.compile(_USER + r'(?P<verb>\w+) path "')
_NO_RESOURCE = re.compile(
    _USER
    + r'(?P<verb>\w+) resource "(?P<resource>[\w./-]{1,80})" in API group "(?P<group>[\w.-]*)"'
    r'(?: in the namespace "(?P<namespace>[\w-]{1,63})")?'
)


class KubeError(Exception):
    """The API server cannot be asked, or does not do it."""

    def __init__(self, result: ProbeResult, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.result = result
        """Why, in the words of a probe."""
        self.detail = detail
        """For people, with a remedy and without a credential."""
        self.status = status
        """The HTTP status, where there is one: 404 is not there, 409 somebody was faster."""


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: bytes | None = None
    content_type: str = ""

    @property
    def right(self) -> _Right:
        """Who sends it needs that."""
        return _Right.of(self.method, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Right:
    """What a rule of RBAC allows: a verb on a resource, or on a path that is none."""

    verb: str
    path: str = ""
    group: str = ""
    resource: str = ""
    """With its subresource, as in `nodes/status`."""
    namespace: str = ""
    name: str = ""
    """Of the one object; empty: it is about all, or about one that is to be made."""

    @classmethod
    def of(cls, method: str, path: str) -> _Right:
        """The right that a request needs; the path with its query."""
        path, _, query = path.partition("?")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        begins = {"api": 2, "apis": 3}.get(parts[0], 0)
        if begins == 0 or len(parts) <= begins:
            return cls(verb=method.lower(), path=path)
        group = parts[1] if begins == 3 else ""
        namespace = ""
        if parts[begins] == "namespaces" and len(parts) > begins + 2:
            namespace = parts[begins + 1]
            begins += 2
        resource, *rest = parts[begins:]
        seeing = "get" if rest else "watch" if "watch=1" in query.split("&") else "list"
        verb = {"GET": seeing, "POST": "create", "PUT": "update"}.get(method, method.lower())
        return cls(
            verb=verb,
            group=group,
            resource="/".join((resource, *rest[1:])),
            namespace=namespace,
            name=rest[0] if rest else "",
        )

    @property
    def call(self) -> str:
        """Verb and resource, for a metric."""
        return f"{self.verb} {(self.resource or self.path.strip('/')).partition('/')[0]}"

    @property
    def what(self) -> str:
        if not self.resource:
            return f"{self.verb} {self.path}"
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self._kind}{self.resource[len(self._plain) :]}{where}"

    @property
    def rule(self) -> str:
        """The rule that grants no more than this."""
        if not self.resource:
            return f'nonResourceURLs ["{self.path}"], verbs ["{self.verb}"]'
        names = f'resourceNames ["{self.name}"], ' if self.name else ""
        about = f'apiGroups ["{self.group}"], resources ["{self.resource}"]'
        return f'{about}, {names}verbs ["{self.verb}"]'

    @property
    def question(self) -> str:
        """What `kubectl auth can-i` is asked."""
        if not self.resource:
            return f"{self.verb} {self.path}"
        question = f"{self.verb} {self._kind}" + (f"/{self.name}" if self.name else "")
        if subresource := self.resource.partition("/")[2]:
            question += f" --subresource={subresource}"
        return question + (f" --namespace={self.namespace}" if self.namespace else "")

    @property
    def _plain(self) -> str:
        return self.resource.partition("/")[0]

    @property
    def _kind(self) -> str:
        return f"{self._plain}.{self.group}" if self.group else self._plain


class KubeApi:
    """Asks the servers of one cluster, each call on a connection of its own.

    A call begins with the server that answered last. If that one cannot be reached, the next
    gets what is left of the time; a change that may have reached a server is not sent again.
    All calls raise KubeError, and nothing else for what the network or a file does.
    """

    def __init__(
        self, access: KubeAccess, observe: Callable[[str, str], None] = lambda _call, _result: None
    ) -> None:
        """
        Args:
            observe: told of each call, such as `update leases`, and of how it ended: `ok`, an
                HTTP status, or the word of a probe.
        """
        # The system's CAs would vouch for anybody.
        assert access.tls.verify and (access.tls.ca_file or access.tls.ca_data)
        self._access = access
        self._observe = observe
        self._credentials = Credentials(
            access.tls, token_file=access.token_file, token=access.token, ca_setting="kubeCaFile"
        )
        self._preferred = 0
        self._open: set[Attempt] = set()

    async def get(self, path: str, *, timeout_s: float) -> dict[str, Any]:
        """The object at a path, such as `/api/v1/nodes/node-a`; queries are part of the path."""
        return await self._call(_Request("GET", path), timeout_s)

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any],
        *,
        timeout_s: float,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Change something; what the server answers.

        Args:
            method: POST, PUT, PATCH or DELETE.
            content_type: of a PATCH, such as `application/merge-patch+json`.
        """
        content = json.dumps(body).encode()
        return await self._call(_Request(method, path, content, content_type), timeout_s)

    async def watch(self, path: str, *, timeout_s: float) -> AsyncGenerator[dict[str, Any]]:
        """The events `{"type": …, "object": …}` of a list's path, until the watch ends.

        It ends after `timeout_s` at the latest, so that a connection that died in silence does
        not deceive for longer; the caller then lists anew, or goes on from a resourceVersion. An
        event of type ERROR is raised, with its code as status (410: list anew). Whoever stops
        early closes the generator (`contextlib.aclosing`).
        """
        loop = asyncio.get_running_loop()
        joint = "&" if "?" in path else "?"
        path = f"{path}{joint}watch=1&timeoutSeconds={max(1, int(timeout_s))}"
        deadline = loop.time() + timeout_s + _OVERDUE_S
        request = _Request("GET", path)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._observing(request.right.call))
            opening_at = min(deadline, loop.time() + _OPENING_S)
            response, attempt = await self._ask(stack, request, opening_at)
            if not response.is_success:
                body = await self._read(response, attempt, opening_at)
                raise self._refused(response.status_code, body, request)
            pieces = https.pieces(response)
            line = bytearray()
            while True:
                try:
                    async with asyncio.timeout_at(deadline) as timer:
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    if timer.expired():
                        return
                    raise self._failed(*attempt.explain(error, self._credentials)) from None
                begin = len(line)
                line += piece
                while (end := line.find(b"\n", begin)) >= 0:
                    yield self._event(bytes(line[:end]))
                    del line[: end + 1]
                    begin = 0
                if len(line) > ANSWER_LIMIT:
                    raise self._failed(
                        ProbeResult.MALFORMED, f"an event is longer than {ANSWER_LIMIT} bytes"
                    )

    async def close(self) -> None:
        """End the calls and watches under way, which then fail."""
        for attempt in list(self._open):
            if attempt.stream is not None:
                await attempt.stream.aclose()

    async def _call(self, request: _Request, timeout_s: float) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + timeout_s
        with self._observing(request.right.call):
            async with AsyncExitStack() as stack:
                response, attempt = await self._ask(stack, request, deadline)
                answer = await self._read(response, attempt, deadline)
            if not response.is_success:
                raise self._refused(response.status_code, answer, request)
            return self._object(answer)

    @contextmanager
    def _observing(self, call: str) -> Iterator[None]:
        """Tell how it ends; a cancelled one has no end."""
        try:
            yield
        except KubeError as error:
            self._observe(call, str(error.status or error.result.value))
            raise
        self._observe(call, "ok")

    async def _ask(
        self, stack: AsyncExitStack, request: _Request, deadline: float
    ) -> tuple[httpx.Response, Attempt]:
        """The answer of the first server that gives one, its body still to be read."""
        loop = asyncio.get_running_loop()
        headers = await self._headers(deadline)
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        servers = self._access.servers
        first = self._preferred
        failures: list[Outcome] = []
        for step in range(len(servers)):
            index = (first + step) % len(servers)
            url = urlsplit(servers[index])
            host, port = url.hostname or "", url.port or 443
            name = name_to_verify(self._access.tls, servers[index])
            attempt = Attempt(host, port, is_https=True, server_name=name)
            attempt.if_refused = "start the API server, or correct kubeApiServer"
            sent = httpx.Request(
                request.method, servers[index] + request.path, headers=headers, content=request.body
            )
            share_s = max(0.0, deadline - loop.time()) / (len(servers) - step)
            self._open.add(attempt)
            stack.callback(self._open.discard, attempt)
            try:
                async with asyncio.timeout(share_s) as timer:
                    response = await stack.enter_async_context(
                        https.exchange(sent, self._credentials.context, attempt, name)
                    )
            except Exception as error:
                failures.append(
                    attempt.explain_timeout(round(share_s, 1))
                    if timer.expired()
                    else attempt.explain(error, self._credentials)
                )
                if attempt.is_sent and request.method != "GET":
                    self._preferred = (index + 1) % len(servers)
                    break
                continue
            # One that answers, but cannot do its work, is not asked first the next time.
            self._preferred = (index + (response.status_code >= 500)) % len(servers)
            return response, attempt
        raise self._failed(failures[-1][0], "; ".join(detail for _, detail in failures))

    async def _headers(self, deadline: float) -> dict[str, str]:
        """Those of every request, with the credential as it now is."""
        credentials = self._credentials
        headers = {**https.HEADERS, "Accept": "application/json"}
        try:
            async with asyncio.timeout_at(deadline):
                await credentials.refresh()
                if credentials.withheld:
                    raise KubeError(ProbeResult.FAILED, credentials.withheld)
                if token := await credentials.token():
                    headers["Authorization"] = f"Bearer {token}"
        except BadFileError as error:
            raise self._failed(ProbeResult.FAILED, str(error)) from None
        except TimeoutError:
            raise self._failed(
                ProbeResult.TIMED_OUT, "the files of the credential cannot be read in time"
            ) from None
        return headers

    async def _read(self, response: httpx.Response, attempt: Attempt, deadline: float) -> bytes:
        started_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(deadline) as timer:
                body, is_whole = await https.read(response, ANSWER_LIMIT)
        except Exception as error:
            outcome = (
                attempt.explain_timeout(round(deadline - started_at, 1))
                if timer.expired()
                else attempt.explain(error, self._credentials)
            )
            raise self._failed(*outcome) from None
        if not is_whole:
            raise self._failed(
                ProbeResult.MALFORMED,
                f"the answer of {attempt.where} is longer than {ANSWER_LIMIT} bytes",
            )
        return body

    def _event(self, line: bytes) -> dict[str, Any]:
        event = self._object(line)
        content = event.get("object")
        if not isinstance(event.get("type"), str) or not isinstance(content, dict):
            raise self._failed(ProbeResult.MALFORMED, "an event of the watch is none")
        if event["type"] == "ERROR":
            code = content.get("code")
            # It becomes a label of `havip_kube_calls_total`, of which there are to be few.
            status = code if isinstance(code, int) and 400 <= code <= 599 else 500
            detail = f"the watch ended: {status} {_clean(content.get('message'))}"
            raise KubeError(ProbeResult.WRONG_STATUS, self._credentials.shown(detail), status)
        return event

    def _object(self, body: bytes) -> dict[str, Any]:
        found: object = None
        if sum(map(body.count, (b",", b"[", b"{"))) <= _VALUES_LIMIT:
            with suppress(ValueError, RecursionError):
                found = json.loads(body.decode())
        if not isinstance(found, dict) or not _is_sensible(found):
            raise self._failed(
                ProbeResult.MALFORMED,
                "the answer is no JSON object of a sensible size: is it an API server's?",
            )
        return found

    def _refused(self, status: int, body: bytes, request: _Request) -> KubeError:
        result, detail = judge(status, body, self._credentials, request.method, request.path)
        return KubeError(result, self._credentials.shown(detail), status)

    def _failed(self, result: ProbeResult, detail: str) -> KubeError:
        return KubeError(result, self._credentials.shown(detail))


def _is_sensible(found: object) -> bool:
    """Whether all of it can be counted with, written again, and put into a URL or a log.

    Python reads more than an API server says: numbers of thousands of digits, which it cannot
    write, NaN, halves of surrogate pairs, which have no UTF-8.
    """
    level = [found]
    for _ in range(_DEPTH_LIMIT):
        following: list[object] = []
        for each in level:
            match each:
                case dict():
                    following += each
                    following += each.values()
                case list():
                    following += each
                case str() if not each.isascii() and _HALF_A_CHARACTER.search(each):
                    return False
                case int() if each not in _WHOLE_NUMBERS:
                    return False
                case float() if not math.isfinite(each):
                    return False
        if not following:
            return True
        level = following
    return False


def judge(status: int, body: bytes, credentials: Credentials, method: str, path: str) -> Outcome:
    """What a status that is not the wanted one means, and what to do about it."""
    if status == 401:
        return ProbeResult.UNAUTHORIZED, credentials.explain_unauthorized()
    if status == 403:
        return ProbeResult.FORBIDDEN, _explain_forbidden(body, credentials, method, path)
    if 300 <= status <= 399:
        return (
            ProbeResult.WRONG_STATUS,
            f"HTTP {status}: redirects are not followed: ask the address it leads to",
        )
    failed = [name.decode() for name in _FAILED_SUBCHECK.findall(body)][:5]
    said = f"failed {', '.join(failed)}" if failed else _message(body)
    return ProbeResult.WRONG_STATUS, f"HTTP {status}" + (f": {said}" if said else "")


def _explain_forbidden(body: bytes, credentials: Credentials, method: str, path: str) -> str:
    """Which rule is missing: as the API server says, else as request and token say."""
    message = _message(body, limit=1000)
    right, user = _Right.of(method, path), credentials.account()
    if found := _NO_RESOURCE.search(message):
        named = _NAMED.match(message)
        user = found["user"]
        right = _Right(
            verb=found["verb"],
            group=found["group"],
            resource=found["resource"],
            namespace=found["namespace"] or "",
            name=named["name"] if named else "",
        )
    elif found := _NO_PATH.search(message):
        user = found["user"]
        right = _Right(verb=found["verb"], path=path.partition("?")[0])
    if not credentials.are_given or credentials.withheld or user == "system:anonymous":
        if right.resource:
            return (
                f"HTTP 403: anonymous requests may not {right.what}: give a token of an account "
                f"with an RBAC rule {right.rule}"
            )
        return (
            f"HTTP 403: anonymous requests may not {right.what}: allow it by an RBAC rule "
            f"{right.rule}, or give a token"
        )
    if not user:
        return f"HTTP 403: the account may not {right.what}: allow it by an RBAC rule {right.rule}"
    return (
        f"HTTP 403: {user} may not {right.what}: allow it by an RBAC rule {right.rule}; "
        f"see kubectl auth can-i {right.question} --as={user}"
    )


def _message(body: bytes, limit: int = _MESSAGE_LIMIT) -> str:
    """The message of a Status object, or nothing."""
    try:
        status = json.loads(body[:4096])
    except (ValueError, RecursionError):
        return ""
    return _clean(status.get("message"), limit) if isinstance(status, dict) else ""


def _clean(message: object, limit: int = _MESSAGE_LIMIT) -> str:
    text = message if isinstance(message, str) else ""
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()
