"""The wire, recorded: every frame that a host sent, with the host's name and the time."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from havip.netlab.namespace import be_punctual, inside

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("qq")
_LDH, _LDB, _JEQ, _RET = 0x28, 0x30, 0x15, 0x06
# ARP; IPv4 with VRRP or ICMP; IPv6 with VRRP or ICMPv6. The client's thousand datagrams a
# second stay out.
_FILTER = (
    (_LDH, 0, 0, 12),
    (_JEQ, 8, 0, 0x0806),
    (_JEQ, 0, 3, 0x0800),
    (_LDB, 0, 0, 23),
    (_JEQ, 5, 0, 112),
    (_JEQ, 4, 5, 1),
    (_JEQ, 0, 4, 0x86DD),
    (_LDB, 0, 0, 20),
    (_JEQ, 1, 0, 112),
    (_JEQ, 0, 1, 58),
    (_RET, 0, 0, 0x40000),
    (_RET, 0, 0, 0),
)


@dataclass(frozen=True, slots=True)
class Frame:
    at: float
    """Monotonic seconds."""
    port: str
    """The host that sent it, as the switch names its port."""
    data: bytes

    @property
    def ether_type(self) -> int:
        return int.from_bytes(self.data[12:14])

    @property
    def is_vrrp(self) -> bool:
        at = {0x0800: 23, 0x86DD: 20}.get(self.ether_type)
        return at is not None and len(self.data) > at and self.data[at] == 112


class Capture:
    """Records ARP, ND, ICMP and VRRP frames at the ports of a switch, before any loss.

    The instants are the kernel's, and whoever asks is told of each frame that has passed up to
    then: no thread that is late can change what is seen.
    """

    def __init__(self, namespace: str, bridges: tuple[str, ...], limit: int = 100_000) -> None:
        self._bridges = bridges
        self._frames: deque[Frame] = deque(maxlen=limit)
        self._socket = inside(namespace, self._open)
        self._changed = threading.Condition()
        self._last_at = 0.0
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._record, name="capture", daemon=True)
        self._thread.start()

    @staticmethod
    def _open() -> socket.socket:
        protocol = socket.htons(_ETH_P_ALL)
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *x) for x in _FILTER))
        program = struct.pack("HL", len(_FILTER), ctypes.addressof(code))
        packets.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        packets.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
        packets.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        packets.setblocking(False)
        return packets

    def close(self) -> None:
        os.write(self._wake_write, b"q")
        self._thread.join()
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def frames(self, since_at: float = 0.0) -> list[Frame]:
        with self._changed:
            self._read()
            return [frame for frame in self._frames if frame.at >= since_at]

    def wait_for(
        self, predicate: Callable[[Frame], bool], timeout_s: float, since_at: float = 0.0
    ) -> Frame | None:
        """The first frame since then for which `predicate` holds; None: not in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                self._read()
                for frame in self._frames:
                    if frame.at >= since_at and predicate(frame):
                        return frame
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def text(self, since_at: float = 0.0, limit: int = 400) -> str:
        """The last `limit` frames, one decoded line each."""
        from havip.netlab.decode import line  # noqa: PLC0415 - scapy takes half a second

        return "\n".join(line(frame) for frame in self.frames(since_at)[-limit:])

    def _record(self) -> None:
        be_punctual()
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._wake_read], [], [])
            if self._wake_read in ready:
                return
            with self._changed:
                self._read()

    def _read(self) -> None:
        """Take in every frame that has passed; with the lock held."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = self._socket.recvmsg(1 << 16, 64)
                port, kind = address[0], address[2]
                # Each frame once: where it entered the switch, or where the gateway sent it.
                if (kind == socket.PACKET_OUTGOING) == (port in self._bridges):
                    self._frames.append(Frame(self._instant(ancillary), port, data))
                    self._changed.notify_all()

    def _instant(self, ancillary: Sequence[tuple[int, int, bytes]]) -> float:
        """When the kernel saw a frame; never before the frame that it saw earlier."""
        at = time.monotonic()
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack(payload)
                at = min(at, seconds + nanoseconds / 1e9 - _utc_offset_s())
        self._last_at = max(self._last_at, at)
        return self._last_at


def _utc_offset_s() -> float:
    """How far the wall clock is ahead, read without an interruption in between."""
    _, offset_s = min(_read_clocks() for _ in range(3))
    return offset_s


def _read_clocks() -> tuple[float, float]:
    """How long it took, and how far the wall clock is ahead."""
    before = time.monotonic()
    wall = time.time()
    after = time.monotonic()
    return after - before, wall - (before + after) / 2
