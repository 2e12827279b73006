"""A real HTTP server on the loopback interface, and fetching from it."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.data import fetch
from harness.data.official import Archive


class Server(ThreadingHTTPServer):
    """Serves one archive; may cut connections, ignore ranges or answer with an error."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.cuts: list[int] = []
        self.ranges = True
        self.status = 200
        self.requests: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/data.tar"

    def handle_error(self, request, client_address):
        pass


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(wanted[6:-1]) if wanted and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)


@contextmanager
def replying(*replies: bytes, endless: bytes = b"") -> Iterator[str]:
    """Answer each connection with the next of some raw replies; return the address.

    After the last reply `endless` follows until the client hangs up.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_reply, args=(listener, list(replies), endless))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/data.tar"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _reply(listener: socket.socket, replies: list[bytes], endless: bytes) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(replies.pop(0) if len(replies) > 1 else replies[0])
                while endless:
                    connection.sendall(endless)


def archive_of(server: Server, content: bytes) -> Archive:
    server.content = content
    return Archive(server.url, hashlib.sha256(content).hexdigest(), "none", "none")


def fetch_to(archive: Archive, root: Path) -> Path:
    return fetch.fetch(archive, root, categories=["bottle"], progress=lambda done, total: None)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
