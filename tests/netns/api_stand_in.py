"""What stands in for API servers and their clients in labs, as plain scripts on their hosts.

    python api_stand_in.py serve NAME ADDRESS PORT DIRECTORY
    python api_stand_in.py request ADDRESS PORT DIRECTORY
    python api_stand_in.py follow ADDRESS PORT DIRECTORY

The directory has certificates and, for `serve`, perhaps `backends.json`: the addresses that the
EndpointSlice `kubernetes` lists. Clients write a line of JSON for each thing that they see, with
the instant on the monotonic clock.
"""

import contextlib
import http.client
import http.server
import json
import select
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
POLL_S = 0.02


def serve(name: str, address: str, port: int, directory: Path) -> None:
    """TLS, `/readyz` for everybody, who it is and who asks, a watch, and the EndpointSlice."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "kubernetes.pem", directory / "server.key")
    context.load_verify_locations(directory / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 3600

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/readyz":
                is_asked_well = self.headers["Host"] == "kubernetes"
                self.answer(200 if is_asked_well else 400, b"ok")
            elif path == SLICES:
                self.slices(is_watch="watch=1" in query)
            elif path == "/watch":
                self.begin()
                self.piece({"server": name})
                # Silent until the client has gone.
                select.select([self.connection], [], [])
                tell(watch="ended")
                self.close_connection = True
            else:
                subject = (self.connection.getpeercert() or {}).get("subject", ())
                names = [value for part in subject for key, value in part if key == "commonName"]
                self.answer(200, json.dumps({"server": name, "user": names}).encode())

        def slices(self, *, is_watch: bool) -> None:
            told = self.slice()
            if not is_watch:
                listing = {"metadata": {"resourceVersion": "1"}, "items": [told]}
                self.answer(200, json.dumps(listing).encode())
                return
            self.begin()
            while not select.select([self.connection], [], [], POLL_S)[0]:
                if (new := self.slice()) != told:
                    told = new
                    self.piece({"type": "MODIFIED", "object": told})
            self.close_connection = True

        def slice(self) -> dict[str, Any]:
            addresses = json.loads((directory / "backends.json").read_text())
            return {
                "metadata": {"name": "kubernetes"},
                "ports": [{"name": "https", "port": port}],
                "endpoints": [{"addresses": [each]} for each in addresses],
            }

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def begin(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()

        def piece(self, value: object) -> None:
            line = json.dumps(value).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def get_request(self) -> tuple[socket.socket, Any]:
            accepted, peer = super().get_request()
            # The handshake is the thread's: one slow client must not keep the others out.
            return context.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            ), peer

        def finish_request(self, request: Any, client_address: Any) -> None:
            with contextlib.suppress(OSError):
                request.do_handshake()
                super().finish_request(request, client_address)

        def handle_error(self, *_: object) -> None:
            pass

    if ":" in address:
        # Of `::`, IPv4 too.
        Server.address_family = socket.AF_INET6
    Server((address, port), Handler).serve_forever()


def _open(address: str, port: int, directory: Path) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(directory / "client.pem", directory / "server.key")
    return http.client.HTTPSConnection(address, port, timeout=10, context=context)


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps({"at": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


def request(address: str, port: int, directory: Path) -> None:
    """A new connection and a request each 20 ms, several at once, and how each ended."""

    def ask() -> None:
        began_at = time.monotonic()
        try:
            connection = _open(address, port, directory)
            connection.request("GET", "/who")
            answer = json.loads(connection.getresponse().read())
            connection.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            tell(began_at=began_at, error=repr(error))
        else:
            tell(began_at=began_at, **answer)

    while True:
        threading.Thread(target=ask, daemon=True).start()
        time.sleep(0.02)


def follow(address: str, port: int, directory: Path) -> None:
    """A silent watch, begun anew whenever it ends."""
    while True:
        try:
            connection = _open(address, port, directory)
            connection.request("GET", "/watch")
            response = connection.getresponse()
            tell(began=json.loads(response.readline())["server"])
            connection.sock.settimeout(None)
            end = response.read()
            tell(ended="orderly" if not end else "with more")
        except (OSError, http.client.HTTPException) as error:
            tell(ended=type(error).__name__)
            time.sleep(POLL_S)


def main() -> None:
    role, *rest = sys.argv[1:]
    if role == "serve":
        name, address, port, directory = rest
        serve(name, address, int(port), Path(directory))
    else:
        address, port, directory = rest
        {"request": request, "follow": follow}[role](address, int(port), Path(directory))


if __name__ == "__main__":
    main()
