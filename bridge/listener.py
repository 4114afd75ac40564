"""The small HTTP listener that passes on what the loop tells about itself.

`/live`: 200 while the loop moves, so that a supervisor restarts a stuck process. `/ready`: 200 while changes stream.
`/metrics`: the numbers, for Prometheus; `/status`: the same as JSON, for `walrus-bridge status`; `/`: a page for people that
shows it.
"""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from bridge.errors import ConfigError
from bridge.health import Health
from bridge.live import tell
from bridge.metrics import CONTENT_TYPE, exposition
from bridge.page import CONTENT_TYPE as HTML
from bridge.page import NOTHING, page, policy
from bridge.units import Address


class Listener:
    """Serves `health` in a daemon thread until `close`."""

    def __init__(self, address: Address, health: Health) -> None:
        """Raises ConfigError naming the key where the address cannot be listened on."""

        class Handler(_Handler):
            shown = health

        try:
            self._server = (_Server6 if ":" in address.host else _Server)((address.host, address.port), Handler)
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"http.listen: cannot listen on {address}: {error}. What to do: choose a free port, or null for none"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the reverse DNS look-up of HTTPServer, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "walrus-bridge", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-request is no news."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    shown: Health
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/live":
            self._tell(self.shown.live, "live", "the loop has not moved for 30 s")
        elif path == "/ready":
            self._tell(self.shown.ready, "ready", "not streaming")
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE, exposition(self.shown))
        elif path == "/status":
            self._answer(200, "application/json", tell(self.shown))
        elif path == "/":
            self._answer(200, HTML, page(), policy())
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _tell(self, good: bool, yes: str, no: str) -> None:
        self._answer(200 if good else 503, "text/plain; charset=utf-8", f"{yes if good else no}\n".encode())

    def _answer(self, status: int, content_type: str, body: bytes, policy: str = NOTHING) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds; they are not worth a line."""
