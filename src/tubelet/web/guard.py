"""What a server on one's own machine must still refuse: pages of others that speak to it through one's browser.

Source: the attack is DNS rebinding; the defence, to look at Host and Origin, is that of Jupyter.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FILES, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
# Parts of gradio that no page here uses, and that fetch, write or watch something.
CLOSED = ("proxy=", "file/", "process_recording", "vibe", "undo-vibe", "run-history", "stream/", "custom_component/")
ASKED = 2**20  # bytes that a page sends to a function at most; uploads go another way
App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class Guard:
    """An ASGI app that passes on what comes from this machine's own pages."""

    def __init__(self, app: App, scratch: Path, ready: Callable[[], object] = bool) -> None:
        self.app, self.scratch, self.ready = app, scratch.resolve(), ready

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Passes a request on, or answers 403 with the reason."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, partial(self.begun, send))
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        why = self.refused(scope["path"], headers)
        if why is None and scope["method"] == "POST" and scope["path"] != UPLOAD:
            body = await whole(receive)
            why = f"more than {ASKED} bytes to ask one thing" if body is None else self.reads(body)
            receive = again(body or b"", receive)
        if why is None:
            await self.app(scope, receive, partial(unframed, send))
            return
        head = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": head})
        await send({"type": "http.response.body", "body": f"tubelet serve: {why}\n".encode()})

    async def begun(self, send: Any, message: MutableMapping[str, Any]) -> None:
        """Passes on what the app says of its start, and calls `ready` once it has started."""
        await send(message)
        if message["type"] == "lifespan.startup.complete":
            self.ready()

    def refused(self, path: str, headers: dict[str, str]) -> str | None:
        """Why a request is not answered; None: it is."""
        host = headers.get("host", "")
        if name_of(f"//{host}") not in LOOPBACK:
            return f"asked for as {host[:80]!r}; open it as http://127.0.0.1 (from elsewhere through ssh -L)"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return f"a page of {origin[:80]!r} may not ask here"
        for prefix in ("/gradio_api/", "/"):
            if path.startswith(tuple(prefix + part for part in CLOSED)):
                return "this is closed"
        if FILES in path and not self.own(path.partition(FILES)[2]):
            return "only files of this server itself are given out"
        return None

    def reads(self, body: bytes) -> str | None:
        """Why what is sent to a function is not passed on: it names files that are no uploads.

        A mounted gradio app would copy any file, and fetch any address, that is named so.
        """
        try:
            named = [*paths_in(json.loads(body or b"null"))]
        except (ValueError, RecursionError):
            return "this is no JSON"
        wrong = [path for path in named if not (isinstance(path, str) and self.own(path))]
        return f"{str(wrong[0])[:200]!r} is no upload; choose a file of yours with the upload button" if wrong else None

    def own(self, name: str) -> bool:
        """Whether a file, where it really is, lies in the server's own folder."""
        try:
            return Path(unquote(name)).resolve().is_relative_to(self.scratch)
        except (OSError, ValueError):
            return False


async def unframed(send: Any, message: MutableMapping[str, Any]) -> None:
    """Passes on an answer that no page of others may show within itself, where clicks could be lured."""
    if message["type"] == "http.response.start":
        message["headers"] = [*message.get("headers", ()), (b"content-security-policy", b"frame-ancestors 'self'")]
    await send(message)


async def whole(receive: Any) -> bytes | None:
    """The body of a request; none if it is longer than ASKED."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > ASKED:
            return None
    return body


def again(body: bytes, receive: Any) -> Any:
    """What gives a body that was read already, and then whatever comes."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Any:
        return left.pop() if left else await receive()

    return next_message


def paths_in(value: Any) -> Iterator[Any]:
    """Every value called "path" in parsed JSON."""
    if isinstance(value, dict):
        yield from (value["path"] for _ in range("path" in value))
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from paths_in(each)


def name_of(address: str) -> str | None:
    """The host of an address without its port."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
