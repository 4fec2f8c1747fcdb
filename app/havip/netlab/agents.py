"""The web service on each host, and the clients that watch it from outside.

    python agents.py serve NAME PORT
    python agents.py probe ADDRESS PORT INTERVAL_S
    python agents.py connect ADDRESS PORT INTERVAL_S TIMEOUT_S

Each is a process of its own in a namespace of its own, started by the lab as a plain script: it
imports a few modules of the standard library only, so it starts in some 20 ms. Clients write
fixed-size records to standard output.
"""

import contextlib
import math
import os
import select
import selectors
import signal
import socket
import struct
import sys
import time

SENT_OR_ANSWERED = struct.Struct("<Qd16s")
"""Number of the probe, monotonic instant, who answered (empty: it was sent)."""
CONNECTED = struct.Struct("<Qddd16s16s")
"""Number; instants of start, established and answered (NaN: never); who; what went wrong."""

_SO_TIMESTAMPNS = 35
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_FLUSH_S = 0.02
_PROBE_PRIORITY = 1


def serve(name: str, port: int) -> None:
    """Answer UDP datagrams with `datagram name`, and HTTP requests with the name."""
    _be_punctual()
    selector = selectors.DefaultSelector()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    for endpoint in (datagrams, listener):
        endpoint.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        endpoint.setblocking(False)
        endpoint.bind(("::", port))
        selector.register(endpoint, selectors.EVENT_READ, bytearray())
    datagrams.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    listener.listen(512)
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            # A client that vanishes, or an address that left the host meanwhile.
            with contextlib.suppress(OSError):
                if ready is datagrams:
                    _echo(datagrams, name.encode())
                elif ready is listener:
                    accepted, _peer = listener.accept()
                    accepted.setblocking(False)
                    selector.register(accepted, selectors.EVENT_READ, bytearray())
                elif _answer(ready, key.data, name):
                    continue
                else:
                    selector.unregister(ready)
                    ready.close()


def _echo(datagrams: socket.socket, name: bytes) -> None:
    for _ in range(64):
        data, ancillary, _flags, peer = datagrams.recvmsg(64, 64)
        # Answer from the address that was asked: a wildcard socket would choose the host's own.
        asked = [
            (level, kind, payload[:16] + b"\0\0\0\0")
            for level, kind, payload in ancillary
            if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO)
        ]
        with contextlib.suppress(OSError):
            datagrams.sendmsg([data[:8], name], asked, 0, peer)


def _answer(connection: socket.socket, received: bytearray, name: str) -> bool:
    """Whether the connection stays open."""
    try:
        data = connection.recv(4096)
    except BlockingIOError:
        return True
    except OSError:
        return False
    received += data
    if not data or len(received) > 16384:
        return False
    while b"\r\n\r\n" in received:
        head, _, rest = bytes(received).partition(b"\r\n\r\n")
        received[:] = rest
        stays = b" HTTP/1.1" in head.split(b"\r\n", 1)[0]
        end = "keep-alive" if stays else "close"
        connection.send(
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(name) + 1}\r\n"
            f"Connection: {end}\r\n\r\n{name}\n".encode()
        )
        if not stays:
            return False
    return True


def _be_punctual() -> None:
    """A prober or a service that is late would measure itself."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PROBE_PRIORITY))


def probe(address: str, port: int, interval_s: float) -> None:
    """Send a numbered datagram each interval and report what was sent and answered, when."""
    _be_punctual()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        number = 0
        out = bytearray()
        flushed_at = due_at = time.monotonic()
        # Connecting needs a route, which a host has only once its own address is there.
        client.connect((address, port))
        while True:
            due_at += interval_s
            delay_s = due_at - time.monotonic()
            if delay_s > 0:
                time.sleep(delay_s)
            elif delay_s < -interval_s:
                due_at = time.monotonic()
            now = time.monotonic()
            for attempt in range(2):
                try:
                    client.send(struct.pack("!Q", number))
                except OSError:
                    # The first failure may be an earlier datagram's ICMP error.
                    if attempt:
                        break
                else:
                    break
            out += SENT_OR_ANSWERED.pack(number, now, b"")
            number += 1
            _drain(client, out)
            if now - flushed_at >= _FLUSH_S:
                os.write(1, out)
                out.clear()
                flushed_at = now


def _drain(client: socket.socket, out: bytearray) -> None:
    while True:
        try:
            data, ancillary, _flags, _peer = client.recvmsg(64, 64)
        except BlockingIOError:
            return
        except OSError:
            continue
        at = time.monotonic()
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = struct.unpack("qq", payload)
                # The kernel's stamp is on the wall clock; how long ago that was is what counts.
                at -= max(0.0, time.time() - (seconds + nanoseconds / 1e9))
        out += SENT_OR_ANSWERED.pack(int.from_bytes(data[:8]), at, data[8:24])


def connect(address: str, port: int, interval_s: float, timeout_s: float) -> None:
    """Open a connection each interval, ask for the name, and report how that went."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    poller = select.poll()
    pending: dict[int, list] = {}  # type: ignore[type-arg]
    number = 0
    due_at = time.monotonic()

    def finish(descriptor: int, answered_at: float, who: bytes, problem: str) -> None:
        connection, n, started_at, established_at, _sent = pending.pop(descriptor)
        poller.unregister(descriptor)
        connection.close()
        times = (started_at, established_at, answered_at)
        os.write(1, CONNECTED.pack(n, *times, who[:16], problem.encode()[:16]))

    while True:
        now = time.monotonic()
        if now >= due_at:
            due_at = max(due_at + interval_s, now)
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.setblocking(False)
            poller.register(connection, select.POLLOUT)
            pending[connection.fileno()] = [connection, number, now, math.nan, False]
            number += 1
            connection.connect_ex((address, port))
        for descriptor, _ in poller.poll(max(1.0, (due_at - now) * 1000)):
            connection, _n, _started_at, _established_at, sent = pending[descriptor]
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                finish(descriptor, math.nan, b"", os.strerror(error))
            elif not sent:
                pending[descriptor][3:] = [time.monotonic(), True]
                with contextlib.suppress(OSError):
                    connection.send(b"GET / HTTP/1.0\r\n\r\n")
                poller.modify(descriptor, select.POLLIN)
            else:
                try:
                    data = connection.recv(4096)
                except OSError as failure:
                    finish(descriptor, math.nan, b"", os.strerror(failure.errno or 0))
                    continue
                who = data.partition(b"\r\n\r\n")[2].strip()
                answered_at = time.monotonic() if who else math.nan
                finish(descriptor, answered_at, who, "" if who else "closed")
        now = time.monotonic()
        for descriptor in [d for d, p in pending.items() if now - p[2] > timeout_s]:
            finish(descriptor, math.nan, b"", "timed out")


def main() -> None:
    role, first, *rest = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):
        if role == "serve":
            serve(first, int(rest[0]))
        elif role == "probe":
            probe(first, int(rest[0]), float(rest[1]))
        else:
            connect(first, int(rest[0]), float(rest[1]), float(rest[2]))


if __name__ == "__main__":
    main()
