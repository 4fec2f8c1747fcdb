"""One probe: a new connection to what a check names, and a name for whatever comes of it."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import httpx

from havip import https
from havip.core.config import CheckConfig
from havip.core.events import ProbeResult
from havip.https import Attempt, BadFileError, Credentials, Outcome
from havip.kube import judge

BODY_LIMIT = 65536
"""Bytes of an answer's body that are read; the rest is left unread."""


class Target:
    """What one check probes, with credentials and certificates as their files now are."""

    def __init__(self, config: CheckConfig) -> None:
        self.config = config
        url = urlsplit(config.url)
        self._scheme = url.scheme
        self._host = url.hostname or ""
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._path = url.path or "/"
        self._credentials = Credentials(
            config.tls,
            token_file=config.token_file,
            token=config.token,
            ca_setting=config.ca_setting or config.setting("CaFile"),
        )

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        return self._host, self._port

    async def probe(self) -> Outcome:
        """Connect, ask, and judge the answer, within the check's timeout.

        Never raises for what the other side, the network or a file does.
        """
        if self.config.awaits:
            return ProbeResult.FAILED, self.config.awaits
        attempt = Attempt(
            self._host,
            self._port,
            is_https=self._scheme == "https",
            server_name=self.config.tls.server_name,
        )
        if self.config.name == "kube_api":
            attempt.if_refused = f"start the API server, or correct {self.config.setting('Url')}"
        timeout_s = self.config.timeout_s
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                if self._scheme == "tcp":
                    return await self._connect()
                return await self._request(attempt)
        except BadFileError as error:
            return self._shown(ProbeResult.FAILED, str(error))
        except Exception as error:
            if timeout.expired():
                return self._shown(*attempt.explain_timeout(timeout_s))
            # Whatever a hostile answer provokes in a parser is the answer's fault.
            return self._shown(*attempt.explain(error, self._credentials))

    async def _connect(self) -> Outcome:
        _, writer = await asyncio.open_connection(self._host, self._port)
        writer.transport.abort()
        return ProbeResult.PASSED, "connected"

    async def _request(self, attempt: Attempt) -> Outcome:
        credentials = self._credentials
        headers = {**https.HEADERS, "Accept": "*/*"}
        if self._scheme == "https":
            await credentials.refresh()
            if not credentials.withheld and (token := await credentials.token()):
                headers["Authorization"] = f"Bearer {token}"
        elif credentials.are_given:
            credentials.withheld = "credentials withheld: they are sent over verified TLS only"
        request = httpx.Request("GET", self.config.url, headers=headers)
        async with https.exchange(
            request, credentials.context, attempt, self.config.tls.server_name
        ) as response:
            body, _ = await https.read(response, BODY_LIMIT)
        return self._shown(*self._judge(response.status_code, body))

    def _judge(self, status: int, body: bytes) -> Outcome:
        if any(low <= status <= high for low, high in self.config.expected_status):
            return ProbeResult.PASSED, f"HTTP {status}"
        return judge(status, body, self._credentials, "GET", self._path)

    def _shown(self, result: ProbeResult, detail: str) -> Outcome:
        return result, self._credentials.shown(detail)
