"""A web server for the tests of videos that lie elsewhere: it gives ranges, counts, and fails when it is told to."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@dataclass
class Storage:
    """A folder that is served, what was asked of it, and what goes wrong next."""

    root: Path
    url: str = ""
    asked: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes sent
    trouble: list[str] = field(default_factory=list)  # one for each request that comes: "", "503", "cut", "hang", ...
    always: str = ""  # what is wrong with all requests after those
    released: threading.Event = field(default_factory=threading.Event)  # ends what hangs

    @property
    def bytes(self) -> int:
        """Sent so far, without headers."""
        return sum(count for _, _, count in self.asked)

    def forget(self) -> None:
        """Counts from here on."""
        self.asked.clear()


@contextmanager
def served(root: Path) -> Iterator[Storage]:
    """A folder at an address of this machine."""
    storage = Storage(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            trouble = storage.trouble.pop(0) if storage.trouble else storage.always
            path = storage.root / unquote(self.path).lstrip("/")
            code, data, headers = self.found(path, trouble)
            storage.asked.append((self.command, self.path, len(data) if body else 0))
            if trouble == "hang":
                storage.released.wait(60)
                self.close_connection = True
                return
            if trouble == "slow":
                time.sleep(0.05)
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if trouble == "cut" else data)
            if trouble == "cut":
                self.close_connection = True

        def found(self, path: Path, trouble: str) -> tuple[int, bytes, dict[str, str]]:
            if trouble.isdigit():
                return int(trouble), b"trouble", {}
            if path.is_dir():
                names = sorted(f"{one.name}/" if one.is_dir() else one.name for one in path.iterdir())
                base = self.path.rstrip("/")
                links = "".join(f'<a href="{base}/{name}">{name}</a>\n' for name in names)
                return 200, links.encode(), {"Content-Type": "text/html"}
            if not path.is_file():
                return 404, b"", {}
            data, status = path.read_bytes(), path.stat()
            headers = {"Accept-Ranges": "bytes", "ETag": f'"{status.st_mtime_ns}-{status.st_size}"'}
            wanted = self.headers.get("Range")
            if wanted is None or trouble == "whole":
                return 200, data, headers
            begin, end = wanted.removeprefix("bytes=").split("-")
            return 206, data[int(begin) : int(end) + 1], headers

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    storage.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield storage
    finally:
        storage.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def touched(path: Path) -> None:
    """Gives a file another time of change."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
