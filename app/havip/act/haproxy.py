"""Changes to HAProxy: its backends while it runs, and the files that it starts with.

A running HAProxy is never reloaded: that would start another process, which knows nothing of the
connections of the first. The files are for a HAProxy that starts again.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from havip.act.whole_file import replace_file
from havip.core.actions import ChangeBalancer, KeepBackends
from havip.core.balancer import BACKENDS
from havip.core.config import Backend, BalancerConfig
from havip.core.events import ActionFailed
from havip.core.haproxy import CA_BYTES, commands, configuration, has_succeeded
from havip.files import open_regular
from havip.haproxy import RuntimeApi, RuntimeApiError, close_sessions

_ANSWER_S: Final = 2.0
_END_S: Final = 0.5
"""So long the VIP stays, where HAProxy has to close what the kernel cannot."""
_WAITING: Final = 256
_VERSION: Final = 1
_BYTES: Final = 16_384
"""Room for the longest list, and bound of what is read."""

Failed = Callable[[ActionFailed], None]


class BalancerHand:
    """Does what the core says, one after the other; what fails is told, and decided anew."""

    def __init__(self, config: BalancerConfig, api: RuntimeApi, failed: Failed) -> None:
        self._config = config
        self._api = api
        self._failed = failed
        self._waiting: list[ChangeBalancer] = []
        self._kept: KeepBackends | None = None
        self.changing: asyncio.Task[None] | None = None
        self.writing: asyncio.Task[None] | None = None
        """The last of each, or those under way."""

    def change(self, action: ChangeBalancer) -> None:
        # What waits still will be found missing at the next answer, and be decided again.
        if action in self._waiting or len(self._waiting) >= _WAITING:
            return
        self._waiting.append(action)
        if self.changing is None or self.changing.done():
            self.changing = asyncio.get_running_loop().create_task(self._change())
            self.changing.add_done_callback(_raise)

    def keep(self, action: KeepBackends) -> None:
        """By a thread: a disk may take its time."""
        self._kept = action
        if self.writing is None or self.writing.done():
            self.writing = asyncio.get_running_loop().create_task(self._write())
            self.writing.add_done_callback(_raise)

    async def close(self) -> None:
        for task in (self.changing, self.writing):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _change(self) -> None:
        while self._waiting:
            action = self._waiting[0]
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self._send(action)
            except TimeoutError:
                self._tell(action, errno.ETIMEDOUT, "HAProxy does not answer in time")
            except RuntimeApiError as error:
                self._tell(action, errno.EBADMSG, str(error))
            except ValueError as error:
                self._tell(action, errno.EINVAL, str(error))
            except OSError as error:
                self._tell(action, error.errno or 0, error.strerror or str(error))
            self._waiting.remove(action)

    async def _send(self, action: ChangeBalancer) -> None:
        for command in commands(self._config, action.change, action.name, action.backend):
            (reply,) = await self._api.ask(command)
            if not has_succeeded(reply):
                raise RuntimeApiError(" ".join(reply.split())[:200])

    def _tell(self, action: ChangeBalancer, number: int, message: str) -> None:
        self._failed(
            ActionFailed(
                action=type(action).__name__,
                interface="",
                subject=f"{action.change} {action.name}",
                errno=number,
                message=message,
            )
        )

    async def _write(self) -> None:
        while (action := self._kept) is not None:
            self._kept = None
            try:
                await asyncio.to_thread(write_backends, self._config, action.backends)
            except OSError as error:
                self._tell_unwritten(error.filename, error.errno or 0, error.strerror or str(error))
            except ValueError as error:
                self._tell_unwritten(None, errno.EINVAL, str(error))

    def _tell_unwritten(self, file: str | None, number: int, message: str) -> None:
        self._failed(
            ActionFailed(
                action=KeepBackends.__name__,
                interface="",
                subject=file or self._config.directory,
                errno=number,
                message=message,
            )
        )


def end_sessions(config: BalancerConfig) -> None:
    """Close the connections of clients, where the kernel does not. Blocks; for a thread.

    Raises:
        OSError: HAProxy does not do it. That it does not run is none: they have ended with it.
    """
    try:
        close_sessions(config.socket_file, _END_S)
    except (ConnectionError, FileNotFoundError):
        pass
    except (RuntimeApiError, ValueError) as error:
        raise OSError(errno.EBADMSG, str(error)) from error


def _raise(task: asyncio.Task[None]) -> None:
    """What nobody thought of reaches the loop's exception handler, which ends the process."""
    if not task.cancelled():
        task.result()


def write_backends(config: BalancerConfig, backends: Collection[Backend]) -> None:
    """Keep the list where it is discovered, and have the next HAProxy start with it.

    Raises:
        OSError: it cannot be written; what was there before is there still.
        ValueError: as `configuration`; likewise.
    """
    content = configuration(config, backends).encode()
    if config.backends is None:
        _keep(config.kept_file, backends)
    replace_file(Path(config.configuration_file), content)


class Proposal:
    """All that HAProxy is to start with, beside what it would start with until this is accepted.

    The file to validate has the CA certificates by the name that they have till then, and is in all
    else what is accepted. One that is refused stays, to be read.

    Raises:
        OSError: a file cannot be read or written, here or when it is accepted.
    """

    def __init__(self, config: BalancerConfig) -> None:
        self._config = config
        self.kept_problem = ""
        """In words why a kept list does not count, if there is one."""
        if config.backends is not None:
            self._backends = config.backends
        else:
            self._backends, self.kept_problem = kept(config)
        self._beside = replace(config, ca_name=f"{config.ca_name}.new")
        self.file = f"{config.configuration_file}.new"
        if config.ca_file is not None:
            with open_regular(config.ca_file) as file:
                replace_file(Path(self._beside.ca_copy), file.read(CA_BYTES))
        self._write(self._beside, self.file)

    def accept(self) -> None:
        """Put it in the place of the last one."""
        if self._config.ca_file is not None:
            Path(self._beside.ca_copy).replace(self._config.ca_copy)
        self._write(self._config, self._config.configuration_file)
        Path(self.file).unlink()

    def _write(self, config: BalancerConfig, file: str) -> None:
        replace_file(Path(file), configuration(config, self._backends).encode())


def kept(config: BalancerConfig) -> tuple[tuple[Backend, ...], str]:
    """The kept list, and in words why there is none though there is a file."""
    try:
        with open_regular(config.kept_file) as file:
            content = file.read(_BYTES + 1)
    except FileNotFoundError:
        return (), ""
    except OSError as error:
        return (), error.strerror or str(error)
    try:
        return _decode(content), ""
    except (ValueError, RecursionError) as error:
        return (), str(error)


def _decode(content: bytes) -> tuple[Backend, ...]:
    if len(content) > _BYTES:
        raise ValueError(f"is longer than {_BYTES} bytes")
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("version") != _VERSION:
        raise ValueError("is not of this version of havip")
    listed = document.get("backends")
    if not isinstance(listed, list) or len(listed) > BACKENDS:
        raise ValueError("has no list of backends")
    found = []
    for each in listed:
        address = each.get("address") if isinstance(each, dict) else None
        port = each.get("port") if isinstance(each, dict) else None
        if not isinstance(address, str) or type(port) is not int or not 1 <= port <= 65535:
            raise ValueError("has something else than backends in its list")
        place = ip_address(address)
        if place.version == 6 and place.scope_id is not None:
            raise ValueError("has an address with a zone in its list")
        found.append(Backend.at(place, port))
    return tuple(found)


def _keep(path: str, backends: Collection[Backend]) -> None:
    listed = [{"address": str(each.address), "port": each.port} for each in backends]
    replace_file(Path(path), json.dumps({"version": _VERSION, "backends": listed}).encode() + b"\n")
