"""`migrator agent --metrics HOST:PORT`: answers Prometheus over HTTP, on loopback.

It must not know what the figures are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

from migrator.core.address import is_loopback, join_address, parse_address
from migrator.core.errors import CannotListen, Insecure
from voyfs.core.metrics import CONTENT_TYPE, Family, exposition

REQUEST_SECONDS: Final = 5.0  # for one small request; scrapes are answered one after the other


class MetricsServer:
    """Listens from the start, answers from `start` on."""

    def __init__(self, text: str, families: Callable[[], list[Family]]) -> None:
        """TEXT: HOST:PORT. Raises Insecure off loopback, CannotListen."""
        try:
            host, port = parse_address(text)
        except ValueError as error:
            raise CannotListen(f"--metrics: {error}", remedy="give 127.0.0.1:PORT") from None
        if not is_loopback(host):
            raise Insecure(
                f"--metrics {text} is not on loopback, and metrics are served without TLS",
                remedy="give 127.0.0.1:PORT, and let what forwards it see to who may read",
            )

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] == "/metrics"
                body = exposition(families()) if found else b"not found\n"
                self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
                self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """A scrape every few seconds is no news."""

        try:
            self._server = _Server((host, port), Handler)
        except OSError as error:
            raise CannotListen(
                f"cannot serve metrics on {text}: {error.strerror}", remedy="give another one"
            ) from error
        self.address = join_address(host, self._server.server_address[1])

    def start(self) -> None:
        """Answer."""
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked went away, or was too slow."""
