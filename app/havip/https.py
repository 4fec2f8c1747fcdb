"""One HTTP exchange on a connection of its own: who the other side is, and what went wrong.

Probes and the Kubernetes client share this. Each exchange connects anew, because a client that
arrives now would have to. What the other side can cost is bounded: the caller bounds the time,
this module the bytes, and both the work done between two turns of the loop, which also sends
the adverts. A credential is sent over verified TLS only, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpcore
import httpx

from havip.core.config import Secret, TlsConfig
from havip.core.events import ProbeResult
from havip.files import identity, open_regular

PIECE_COST = 64
"""Bytes that a piece of a chunked body has at least in the mean: parsing one takes as long however
small it is, and 64 KiB in chunks of one byte held the loop up for 66 ms."""
PIECES_PER_TURN = 32
_READ_SIZE = 4096
_HEADER_LIMIT = 16384
_DETAIL_LIMIT = 500
_TOKEN_LIMIT = 65536

# httpx has no setting for these. With its own 64 KiB and 100 KiB, an answer of nothing but
# header fields was measured to hold the loop up for 47 ms, an advert's interval.
httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = _READ_SIZE
httpcore.AsyncHTTP11Connection.MAX_INCOMPLETE_EVENT_SIZE = _HEADER_LIMIT

_NO_LINK = frozenset(
    {
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENETDOWN,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
    }
)
_TOKEN = re.compile(r"[\x21-\x7e]+")
_ACCOUNT = re.compile(r"[\w:.@/-]{1,150}")
_NAME_MISMATCH = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH."""
_NOT_YET_VALID = 9
_EXPIRED = 10

Outcome = tuple[ProbeResult, str]


class BadFileError(Exception):
    """A file of the configuration that cannot be used; the text says which and why."""


class Credentials:
    """Whom to trust and what to show, as the files that hold it now are."""

    def __init__(
        self,
        tls: TlsConfig,
        *,
        token_file: str | None,
        token: Secret | None,
        ca_setting: str,
    ) -> None:
        """
        Args:
            ca_setting: what names the CA, for a remedy.
        """
        self._tls = tls
        self._token_file = token_file
        self._given_token = token
        self._ca_setting = ca_setting
        self._tls_key: tuple[object, ...] | None = None
        self._token_key: object = None
        self._token = ""
        self.context = _plain_context()
        self.withheld = ""
        """Why nothing is shown to the other side, if so."""

    @property
    def are_given(self) -> bool:
        """Whether there is anything that must go to the right server only."""
        tls = self._tls
        return bool(
            self._given_token or self._token_file or tls.client_cert_file or tls.client_cert_data
        )

    async def refresh(self) -> None:
        """Build the TLS context anew when a file that went into it has changed.

        In a thread: loading the system's CAs takes 20 ms.

        Raises:
            BadFileError: a certificate or key cannot be used.
        """
        tls = self._tls
        files = (tls.ca_file, tls.client_cert_file, tls.client_key_file)
        key = tuple(file and identity(file) for file in files)
        if key == self._tls_key:
            return
        loop = asyncio.get_running_loop()
        self.context, self.withheld = await loop.run_in_executor(None, self._build)
        self._tls_key = key

    def _build(self) -> tuple[ssl.SSLContext, str]:
        """A context, and why credentials must not be sent with it."""
        tls = self._tls
        if not tls.verify:
            return _unverified_context(), "credentials withheld: the certificate is not verified"
        try:
            if tls.ca_file:
                open_regular(tls.ca_file).close()
            context = ssl.create_default_context(cafile=tls.ca_file, cadata=tls.ca_data)
        except (OSError, ValueError) as error:
            what = f"{tls.ca_file} is" if tls.ca_file else "certificate-authority-data holds"
            problem = f"{what} no usable CA {'file' if tls.ca_file else 'data'} ({_words(error)})"
            if not self.are_given:
                raise BadFileError(problem) from None
            # The API server says whether it is ready to anyone who asks, so losing the CA
            # file costs the token its use, not the node its VIP.
            return _unverified_context(), f"credentials withheld: {problem}"
        with _client_files(tls) as (certificate, key):
            if certificate:
                try:
                    for file in (certificate, key):
                        if file:
                            open_regular(file).close()
                    # Without a password OpenSSL would ask for one on the terminal, and wait.
                    context.load_cert_chain(certificate, key, password=lambda: "")
                except (OSError, ValueError) as error:
                    what = tls.client_cert_file or "client-certificate-data"
                    problem = f"{what} is no usable client certificate"
                    raise BadFileError(f"{problem} ({_words(error)})") from None
        return context, ""

    async def token(self) -> str:
        """The bearer token, read anew, in a thread, when its file has changed; or nothing.

        Raises:
            BadFileError: the file cannot be read, or holds no token.
        """
        file = self._token_file
        if file is None:
            given = self._given_token
            self._token = _token_in(given.value, "the token") if given else ""
        elif (key := identity(file)) != self._token_key:
            self._token_key = None
            loop = asyncio.get_running_loop()
            self._token = await loop.run_in_executor(None, _token_of, file)
            self._token_key = key
        return self._token

    def shown(self, detail: str) -> str:
        """A text with what people must know beside it, without the token, and not too long."""
        if self.are_given and self.withheld:
            detail = f"{detail}; {self.withheld}"
        if self._token:
            detail = detail.replace(self._token, "***")
        return detail[:_DETAIL_LIMIT]

    def explain_unauthorized(self) -> str:
        """What to do about an HTTP 401."""
        if not self.are_given or self.withheld:
            return "HTTP 401: it wants credentials: give a token, or ask a path that needs none"
        if not self._token:
            return (
                "HTTP 401: the client certificate is not accepted: renew it, if it has expired "
                "or is not of this cluster's CA"
            )
        expires = _claims(self._token).get("exp")
        where = f" in {self._token_file}" if self._token_file else ""
        if isinstance(expires, int | float) and 0 < expires <= time.time():
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires))
            return f"HTTP 401: the token expired at {at}: renew it{where}"
        return (
            f"HTTP 401: the token is not accepted: renew it{where} (its account may be gone, or "
            "it is another cluster's)"
        )

    def account(self) -> str:
        """Whose token it is, if it says so itself; nobody vouches for it."""
        subject = _claims(self._token).get("sub")
        return subject if isinstance(subject, str) and _ACCOUNT.fullmatch(subject) else ""

    def explain_certificate(self, error: ssl.SSLCertVerificationError, name: str) -> str:
        """What is wrong with the certificate of a server that should be `name`."""
        if error.verify_code in _NAME_MISMATCH:
            return f"the certificate is not for {name}: ask a name or address that it carries"
        if error.verify_code == _EXPIRED:
            return "the certificate has expired: renew it"
        if error.verify_code == _NOT_YET_VALID:
            return "the certificate is not valid yet: check the clock of this node"
        return (
            f"the certificate is not trusted ({error.verify_message}): "
            f"set {self._ca_setting} to the CA that signed it"
        )


class Attempt:
    """How far one exchange has come, as httpcore's trace tells it."""

    def __init__(self, host: str, port: int, *, is_https: bool, server_name: str | None) -> None:
        self._host = host
        self._is_https = is_https
        self._name = server_name or host
        self.where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.stage = "no connection"
        self.if_refused = ""
        """What to do where nothing listens."""
        self.is_sent = False
        """Whether the other side may have begun to act on the request."""
        self.stream: httpcore.AsyncNetworkStream | None = None

    async def trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by httpcore at each step."""
        if event == "connection.connect_tcp.complete":
            self.stream = info["return_value"]
            self.stage = "connected, but no " + ("TLS handshake" if self._is_https else "answer")
        elif event == "connection.start_tls.complete":
            self.stage = "TLS established, but no answer"
        elif event == "http11.send_request_headers.started":
            self.is_sent = True

    def explain_timeout(self, timeout_s: float) -> Outcome:
        """What to say when the time is up."""
        remedy = (
            "check the address and the firewalls between"
            if self.stream is None
            else "it is overloaded or hangs"
        )
        return ProbeResult.TIMED_OUT, f"{self.stage} within {timeout_s:g} s: {remedy}"

    def explain(self, error: BaseException, credentials: Credentials) -> Outcome:
        """What an error of the exchange means, and what to do about it."""
        where = self.where
        causes = list(_causes(error))
        for cause in causes:
            match cause:
                case ssl.SSLCertVerificationError():
                    return (
                        ProbeResult.CERTIFICATE_INVALID,
                        credentials.explain_certificate(cause, self._name),
                    )
                case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
                    return ProbeResult.RESET, f"{where} reset the connection"
                case ssl.SSLError():
                    reason = (cause.reason or "unknown error").lower().replace("_", " ")
                    hint = ": does it speak TLS?" if self.stage.endswith("handshake") else ""
                    return ProbeResult.TLS_FAILED, f"TLS with {where} failed ({reason}){hint}"
                case socket.gaierror():
                    return (
                        ProbeResult.NAME_NOT_FOUND,
                        f"{self._host} has no address ({cause.strerror}): check the name and DNS",
                    )
                case ConnectionRefusedError():
                    remedy = f": {self.if_refused}" if self.if_refused else ""
                    return (
                        ProbeResult.REFUSED,
                        f"nothing listens on {where} (connection refused){remedy}",
                    )
                case TimeoutError():
                    return ProbeResult.TIMED_OUT, f"{where} does not answer"
                case OSError() if cause.errno in _NO_LINK:
                    return ProbeResult.UNREACHABLE, f"no way to {where} ({cause.strerror})"
                case httpx.RemoteProtocolError() if "without sending a response" in str(cause):
                    return ProbeResult.RESET, f"{where} closed the connection without an answer"
                case httpx.RemoteProtocolError():
                    return ProbeResult.MALFORMED, f"{where} does not answer in HTTP: {cause}"
        if self._is_https and isinstance(error, httpx.ConnectError):
            return ProbeResult.TLS_FAILED, f"{where} closed the connection during the TLS handshake"
        return ProbeResult.FAILED, f"{type(causes[-1]).__name__}: {causes[-1]}"


@asynccontextmanager
async def exchange(
    request: httpx.Request, context: ssl.SSLContext, attempt: Attempt, server_name: str | None
) -> AsyncIterator[httpx.Response]:
    """Send a request and yield the answer, its body still to be read."""
    request.extensions["trace"] = attempt.trace
    if server_name:
        request.extensions["sni_hostname"] = server_name
    try:
        # The transport without the client: no cookies, no redirects, no proxies, no netrc.
        async with httpx.AsyncHTTPTransport(
            verify=context,
            trust_env=False,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
        ) as transport:
            response = await transport.handle_async_request(request)
            try:
                attempt.stage = "no complete answer"
                yield response
            finally:
                await response.aclose()
    finally:
        # httpcore forgets a connection whose TLS handshake is cancelled, and the socket
        # would stay open until the garbage collector comes by.
        if attempt.stream is not None:
            await attempt.stream.aclose()


async def pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes, with a turn for the rest of the loop now and then."""
    assert isinstance(response.stream, AsyncIterable)
    count = 0
    async for piece in response.stream:
        yield piece
        count += 1
        if count % PIECES_PER_TURN == 0:
            await asyncio.sleep(0)


async def read(response: httpx.Response, limit: int) -> tuple[bytes, bool]:
    """The body up to `limit` bytes, and whether that is all of it."""
    body = bytearray()
    count = 0
    async for piece in pieces(response):
        body += piece
        count += 1
        if len(body) > limit or count * PIECE_COST > limit:
            return bytes(body[:limit]), False
    return bytes(body), True


HEADERS = {"User-Agent": "havip", "Accept-Encoding": "identity"}


def _plain_context() -> ssl.SSLContext:
    # httpx wants a context for plain HTTP too, and would load the system's CAs into it.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _client_files(tls: TlsConfig) -> Iterator[tuple[str | None, str | None]]:
    """Paths of client certificate and key; OpenSSL reads files only.

    What a kubeconfig holds within itself is put into memory that has a path for this process
    alone: no other can open it, and a read-only file system does not matter.
    """
    descriptors: list[int] = []

    def placed(data: Secret | None, path: str | None) -> str | None:
        if data is None:
            return path
        descriptor = os.memfd_create("havip", os.MFD_CLOEXEC)
        descriptors.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data.value)
        return f"/proc/self/fd/{descriptor}"

    try:
        yield (
            placed(tls.client_cert_data, tls.client_cert_file),
            placed(tls.client_key_data, tls.client_key_file),
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _token_of(file: str) -> str:
    """The token that a file holds."""
    try:
        with open_regular(file) as opened:
            raw = opened.read(_TOKEN_LIMIT + 1)
    except OSError as error:
        problem = f"the token file {file} cannot be read"
        raise BadFileError(f"{problem} ({_words(error)})") from None
    if len(raw) > _TOKEN_LIMIT:
        raise BadFileError(f"the token file {file} is larger than {_TOKEN_LIMIT} bytes")
    return _token_in(raw, f"the token file {file}")


def _token_in(raw: bytes, what: str) -> str:
    token = raw.decode("ascii", "replace").strip()
    if not token:
        # Without one the request would be anonymous, and what is said of that a riddle.
        raise BadFileError(f"{what} holds no token: write one into it")
    if not _TOKEN.fullmatch(token):
        raise BadFileError(f"{what} holds characters that no HTTP header can carry")
    return token


def _claims(token: str) -> dict[str, Any]:
    """What a JSON Web Token says of itself (RFC 7519 §4.1), unverified; or nothing."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return (error.strerror if isinstance(error, OSError) else None) or "not PEM"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it, outermost first."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
        following = current.__cause__ or current.__context__
        if following is not None:
            waiting.append(following)
