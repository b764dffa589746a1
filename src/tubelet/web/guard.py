"""What a server on one's own machine must still refuse: pages of others that speak to it through one's browser.

Source: the attack is DNS rebinding; the defence, to look at Host and Origin, is that of Jupyter.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FILES = "/gradio_api/file="
# Parts of gradio that no page here uses, and that fetch, write or watch something.
CLOSED = ("proxy=", "file/", "process_recording", "vibe", "undo-vibe", "run-history", "stream/", "custom_component/")
App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


class Guard:
    """An ASGI app that passes on what comes from this machine's own pages."""

    def __init__(self, app: App, scratch: Path) -> None:
        self.app, self.scratch = app, scratch.resolve()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Passes a request on, or answers 403 with the reason."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        why = self.refused(scope["path"], {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]})
        if why is None:
            await self.app(scope, receive, send)
            return
        head = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": head})
        await send({"type": "http.response.body", "body": f"tubelet serve: {why}\n".encode()})

    def refused(self, path: str, headers: dict[str, str]) -> str | None:
        """Why a request is not answered; None: it is."""
        host = headers.get("host", "")
        if name_of(f"//{host}") not in LOOPBACK:
            return f"asked for as {host[:80]!r}; open it as http://127.0.0.1 (from elsewhere through ssh -L)"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return f"a page of {origin[:80]!r} may not ask here"
        for prefix in ("/gradio_api/", "/"):
            if path.startswith(tuple(prefix + part for part in CLOSED)):
                return "this is closed"
        if FILES in path and not self.own(path.partition(FILES)[2]):
            return "only files of this server itself are given out"
        return None

    def own(self, name: str) -> bool:
        """Whether a file, where it really is, lies in the server's own folder."""
        try:
            return Path(unquote(name)).resolve().is_relative_to(self.scratch)
        except (OSError, ValueError):
            return False


def name_of(address: str) -> str | None:
    """The host of an address without its port."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
