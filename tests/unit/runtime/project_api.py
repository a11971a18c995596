"""A project's API as far as tokens go: a real HTTP server on loopback that notes who asks and answers as a test says.

It runs in threads of its own, so that it answers also while a test's event loop is busy.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


@dataclass
class ProjectApi:
    """``answer`` gives status and body for a path and a token."""

    answer: Callable[[str, str], Answer]
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Path and token of every request."""
    bodies: list[bytes] = field(default_factory=list[bytes])

    @property
    def tokens(self) -> list[str]:
        return [token for _, token in self.asked]


def nothing(path: str, token: str) -> Answer:
    return 200, []


@contextmanager
def project_api(answer: Callable[[str, str], Answer] = nothing) -> Iterator[ProjectApi]:
    made = ProjectApi(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.bodies.append(self.rfile.read(int(self.headers.get("content-length") or 0)))
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            made.asked.append((self.path, token))
            status, body = made.answer(self.path, token)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """The test's output is for what fails."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
