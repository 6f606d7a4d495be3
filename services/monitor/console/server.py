"""The page's HTTP server: `/` is the page, `/status.json` what it shows."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from protos.errors import InputError
from protos.files import write_durably
from services.monitor.console.status import Sources, collect
from services.net.transport import is_loopback, parse_address

REQUEST_TIMEOUT_S = 10.0


class ConsoleServer:
    """Serves in a thread from the start. Raises InputError for an address that is not loopback or is taken."""

    def __init__(self, sources: Sources, *, listen: str = "127.0.0.1:0", port_file: Path | None = None) -> None:
        host, port = parse_address(listen)
        if not is_loopback(host):
            raise InputError(f"--listen {listen}: the page has no login, so it listens on 127.0.0.1 only; use ssh -L")
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(sources))
        except OSError as error:
            raise InputError(f"--listen {listen}: cannot listen there ({error})") from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="console", daemon=True)
        self._thread.start()
        if port_file is not None:
            write_durably(port_file, [f"{self._server.server_port}\n".encode()])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _handler(sources: Sources) -> type[BaseHTTPRequestHandler]:
    page = resources.files("services.monitor.console").joinpath("page.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S  # a client that says nothing holds its thread this long

        def do_GET(self) -> None:
            if self.path == "/":
                self._answer(page, "text/html; charset=utf-8")
            elif self.path == "/status.json":
                self._answer(json.dumps(collect(sources), allow_nan=False).encode(), "application/json")
            else:
                self.send_error(404)

        def _answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """Says nothing: one line per second and viewer would drown the log."""

    return Handler
