"""The list of peers that outlasts a restart while the Kubernetes API is down.

What is read is judged as if it came from the network: somebody may have edited it, or another
configuration left it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from havip.act.whole_file import replace_file
from havip.core.actions import KeepPeers
from havip.core.config import PeerSource
from havip.core.discovery import LISTED
from havip.core.events import ActionFailed
from havip.files import open_regular

Address = IPv4Address | IPv6Address

_VERSION: Final = 1
_BYTES: Final = 16_384
"""Room for the longest list, and bound of what is read."""


def read_peers(source: PeerSource) -> tuple[frozenset[Address], str]:
    """The kept list, and in words why there is none though there is a file."""
    try:
        with open_regular(source.file) as file:
            content = file.read(_BYTES + 1)
    except FileNotFoundError:
        return frozenset(), ""
    except OSError as error:
        return frozenset(), error.strerror or str(error)
    try:
        return _decode(content, source), ""
    except (ValueError, RecursionError) as error:
        return frozenset(), str(error)


def _decode(content: bytes, source: PeerSource) -> frozenset[Address]:
    if len(content) > _BYTES:
        raise ValueError(f"is longer than {_BYTES} bytes")
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError("is not of this version of havip")
    if document.get("source") != str(source):
        raise ValueError("is of another list")
    texts = document.get("addresses")
    if not isinstance(texts, list) or len(texts) > LISTED:
        raise ValueError("has no list of addresses")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("has something else than addresses in its list")
    return frozenset(map(ip_address, texts))


def write_peers(source: PeerSource, addresses: Collection[Address]) -> None:
    """Replace the list; its directory is made if it is missing.

    Raises:
        OSError: it cannot be written; the former one is there still.
    """
    document = {
        "version": _VERSION,
        "source": str(source),
        "addresses": [str(address) for address in addresses],
    }
    replace_file(Path(source.file), json.dumps(document).encode() + b"\n")


class PeersKeeper:
    """Keeps what it is told last, by a thread: a disk may take its time."""

    def __init__(self, source: PeerSource, failed: Callable[[ActionFailed], None]) -> None:
        self._source = source
        self._failed = failed
        self._wanted: KeepPeers | None = None
        self.writing: asyncio.Task[None] | None = None
        """The last write, or the one under way."""

    def keep(self, action: KeepPeers) -> None:
        self._wanted = action
        if self.writing is None or self.writing.done():
            self.writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while (action := self._wanted) is not None:
            self._wanted = None
            try:
                await asyncio.to_thread(write_peers, self._source, action.addresses)
            except OSError as error:
                self._failed(
                    ActionFailed(
                        action=KeepPeers.__name__,
                        interface="",
                        subject=self._source.file,
                        errno=error.errno or 0,
                        message=error.strerror or str(error),
                    )
                )
