"""Clients of API servers, real ones and stand-ins, as plain scripts on their hosts.

    python api_clients.py request ADDRESS PORT DIRECTORY PATH
    python api_clients.py follow ADDRESS PORT DIRECTORY PATH COUNT
    python api_clients.py change ADDRESS PORT DIRECTORY PATH
    python api_clients.py repeat COMMAND...

The directory has their certificate and its CA. They write a line of JSON for each thing that they
see, with the instant on the monotonic clock.
"""

import functools
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

REQUEST_PAUSE_S = 0.02
CHANGE_PAUSE_S = 0.05
TIMEOUT_S = 5.0
KEEP_ALIVE_S = 30
"""Of TCP, as in kubectl: after so long in silence it finds out that nobody is there."""
_lock = threading.Lock()


@functools.cache
def _context(directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(directory / "client.pem", directory / "server.key")
    return context


def _open(address: str, port: int, directory: Path) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(
        address, port, timeout=TIMEOUT_S, context=_context(directory)
    )


def tell(**fields: object) -> None:
    line = json.dumps({"at": time.monotonic(), **fields})
    with _lock:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def request(address: str, port: int, directory: Path, path: str) -> None:
    """A new connection and a request each 20 ms, several at once, and how each ended."""

    def ask() -> None:
        began_at = time.monotonic()
        try:
            connection = _open(address, port, directory)
            connection.request("GET", path)
            response = connection.getresponse()
            answer = json.loads(response.read())
            connection.close()
            if response.status != http.client.OK:
                raise http.client.HTTPException(f"{response.status}: {answer}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            tell(began_at=began_at, error=repr(error))
        else:
            server = response.headers.get("Server")
            tell(began_at=began_at, server=server, user=answer.get("user"))

    while True:
        threading.Thread(target=ask, daemon=True).start()
        time.sleep(REQUEST_PAUSE_S)


def follow(address: str, port: int, directory: Path, path: str, count: str) -> None:
    """Watches, each begun anew whenever it ends."""

    def watch(number: int) -> None:
        while True:
            try:
                connection = _open(address, port, directory)
                connection.connect()
                for option, value in (
                    (socket.TCP_KEEPIDLE, KEEP_ALIVE_S),
                    (socket.TCP_KEEPINTVL, KEEP_ALIVE_S),
                ):
                    connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.request("GET", path)
                response = connection.getresponse()
                if response.status != http.client.OK:
                    raise http.client.HTTPException(f"{response.status}")
                connection.sock.settimeout(None)
                tell(watch=number, began=response.headers.get("Server"))
                while response.readline():
                    tell(watch=number, event=True)
                tell(watch=number, ended="")
            except (OSError, http.client.HTTPException) as error:
                tell(watch=number, ended=repr(error))
                time.sleep(REQUEST_PAUSE_S)

    for number in range(1, int(count)):
        threading.Thread(target=watch, args=(number,), daemon=True).start()
    watch(0)


def change(address: str, port: int, directory: Path, path: str) -> None:
    """Change one object each 50 ms, on one connection."""
    connection = _open(address, port, directory)
    headers = {"Content-Type": "application/merge-patch+json"}
    while True:
        body = json.dumps({"data": {"at": f"{time.monotonic()}"}})
        connection.request("PATCH", path, body, headers)
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{response.status}")
        time.sleep(CHANGE_PAUSE_S)


def repeat(*command: str) -> None:
    """A command that is started again whenever it ends: when it wrote a line, and when it ended."""
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in process.stdout:
                tell(watch=0, event=True)
        tell(watch=0, ended=f"{process.returncode}")
        time.sleep(REQUEST_PAUSE_S)


def main() -> None:
    role, *rest = sys.argv[1:]
    if role == "repeat":
        repeat(*rest)
    else:
        address, port, directory, *more = rest
        known = {"request": request, "follow": follow, "change": change}
        known[role](address, int(port), Path(directory), *more)


if __name__ == "__main__":
    main()
