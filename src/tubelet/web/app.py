"""The pages together, and the server: on this machine only, without a network, its own folder removed at its end."""

import logging
import os
import socket
import tempfile
import warnings
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tubelet.web import attention, check, masks, reconstruction, runs, similar
from tubelet.web.guard import Guard
from tubelet.web.place import Place

PAGES: tuple[Any, ...] = (
    masks,
    reconstruction,
    attention,
    similar,
    runs,
    check,
)  # each has NAME, PATH and page(place, blocks); the first is the home page
HOST, PORT = "127.0.0.1", 7860
TRIED = 100  # ports
WAITING = 16  # requests; more are told to come later
# Before gradio is imported: it reports nothing and asks nobody.
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SSR_MODE": "False", "HF_HUB_OFFLINE": "1"}


def build(place: Place) -> Any:
    """All pages, as gradio Blocks."""
    import gradio as gr
    from gradio.components.navbar import Navbar

    first, *others = PAGES
    with gr.Blocks(title="tubelet", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        Navbar(main_page_name=first.NAME, elem_id="pages")
        first.page(place, blocks)
    for each in others:
        with blocks.route(each.NAME, each.PATH):
            Navbar(main_page_name=first.NAME, elem_id="pages")
            each.page(place, blocks)
    return blocks


def app(place: Place, ready: Callable[[], object] = bool) -> Guard:
    """The pages as an ASGI app, guarded; `ready` is called when it has begun."""
    import fastapi
    import gradio as gr

    from tubelet.web.looks import css, theme

    blocks = build(place).queue(max_size=WAITING, api_open=False)
    outer = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    look: dict[str, Any] = {"theme": theme(), "css": css(), "footer_links": []}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SSR mode is not supported")  # nor asked for
        within: Any = gr.mount_gradio_app(
            outer, blocks, path="/", max_file_size=place.most, run_history=False, show_error=True, **look
        )
    return Guard(within, place.scratch, ready)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for everything that is written, also by gradio; it and its content go at the end."""
    with tempfile.TemporaryDirectory(prefix="tubelet-serve-", ignore_cleanup_errors=True) as folder:
        ours = QUIET | {"GRADIO_TEMP_DIR": str(Path(folder, "cache"))}
        known = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        before, tempfile.tempdir = tempfile.tempdir, folder  # uploads on their way
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before
            for name, value in known.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def listening(port: int | None) -> socket.socket:
    """A socket on this machine only: at `port`, or at the first free one from PORT on.

    Raises:
        OSError: it is taken, or all are.
    """
    for number in [port] if port is not None else range(PORT, PORT + TRIED):
        there = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            there.bind((HOST, number))
            there.listen()
        except OSError as error:
            there.close()
            if port is not None:
                raise OSError(
                    f"port {port} cannot be had: {error.strerror}; leave --port out, or name another"
                ) from error
            continue
        return there
    raise OSError(f"ports {PORT} to {PORT + TRIED - 1} are all taken; name another: --port N")


def serve(place: Place, port: int | None = None, *, show: bool = False) -> None:
    """Serves the pages until Ctrl-C; prints the address when they are ready. `place.scratch` is set here.

    Raises:
        OSError: the port is taken.
        KeyboardInterrupt: that is how it ends.
    """
    there = listening(port)
    with there, scratch() as folder:
        import uvicorn

        address = f"http://{HOST}:{there.getsockname()[1]}"

        def ready() -> None:
            print(f"{address}   (Ctrl-C ends it)", flush=True)
            if show:
                webbrowser.open(address)

        pages = app(replace(place, scratch=folder), ready)
        config = uvicorn.Config(pages, log_level="warning", timeout_graceful_shutdown=1, lifespan="on")
        server = uvicorn.Server(config)
        # At its end it cuts off the pages that are open, and would complain of each.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        server.run(sockets=[there])
