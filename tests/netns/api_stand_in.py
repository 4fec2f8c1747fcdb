"""What stands in for an API server in labs, as a plain script on its host.

    python api_stand_in.py NAME ADDRESS PORT DIRECTORY

The directory has certificates, and perhaps `backends.json`: the addresses that the EndpointSlice
`kubernetes` lists, and `readyz-NAME`: the status that /readyz says, in place of 200. The header
`Server` of an answer is NAME; api_clients.py has who asks.
"""

import contextlib
import http.server
import json
import select
import socket
import ssl
import sys
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
                self.answer(self.readiness() if is_asked_well else 400, b"ok")
            elif path == SLICES:
                self.slices(is_watch="watch=1" in query)
            elif path == "/watch":
                self.begin()
                # Silent until the client has gone.
                select.select([self.connection], [], [])
                tell(watch="ended")
                self.close_connection = True
            else:
                subject = (self.connection.getpeercert() or {}).get("subject", ())
                names = [value for part in subject for key, value in part if key == "commonName"]
                self.answer(200, json.dumps({"user": names}).encode())

        def readiness(self) -> int:
            try:
                return int((directory / f"readyz-{name}").read_text() or 200)
            except FileNotFoundError:
                return 200

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

        def version_string(self) -> str:
            return name

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


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps({"at": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


def main() -> None:
    name, address, port, directory = sys.argv[1:]
    serve(name, address, int(port), Path(directory))


if __name__ == "__main__":
    main()
