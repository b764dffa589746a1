"""How a page works: its address is read, something is drawn, and every change is drawn and written into the address."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tubelet.web import videos
from tubelet.web.looks import problem, said
from tubelet.web.place import Place
from tubelet.web.state import Field, remember, restored

WORK = "work"  # whatever reads videos or runs networks waits in one line
AT_ONCE = 2


def connect(
    place: Place,
    blocks: Any,
    fields: Sequence[Field],
    chosen: Sequence[Any],
    draw: Callable[..., str | Iterator[str]],
    upload: Any = None,
    after: Sequence[Any] = (),
) -> Any:
    """Draws into the page, below what is there, whatever `chosen` says; returns the component that is drawn in.

    `draw` takes the values of `chosen`, which `fields` describe one by one; the first is the video, if there is an
    upload button for it. It may say how far it is before it is done. It is also asked after the events of `after`,
    which have chosen something.
    """
    import gradio as gr

    notes, drawn = gr.HTML(elem_id="notes"), gr.HTML(elem_id="drawn")
    work: dict[str, Any] = {"concurrency_id": WORK, "concurrency_limit": AT_ONCE, "api_visibility": "private"}
    work |= {"show_progress": "minimal", "trigger_mode": "always_last"}

    def restore(request: gr.Request) -> list[Any]:
        try:
            values, lines = restored(fields, request.query_params.multi_items())
            updates: list[Any] = []
            for field, value, component in zip(fields, values, chosen):
                fresh: dict[str, Any] = {"value": value}
                if field.choices is not None and isinstance(component, gr.Dropdown):
                    fresh["choices"] = [*field.choices()]
                updates.append(gr.update(**fresh))
        except (ValueError, OSError) as error:  # a folder that was chosen is gone
            return [*(gr.skip() for _ in chosen), problem(str(error))]
        return [*updates, said(lines)]

    opened = blocks.load(restore, None, [*chosen, notes], api_visibility="private", show_progress="hidden", queue=False)
    opened.then(draw, chosen, drawn, **work)
    changes = [component.input for component in chosen]
    gr.on(changes, draw, chosen, drawn, js=remember(fields), **work)
    gr.on(changes, lambda: "", None, notes, api_visibility="private", show_progress="hidden", queue=False)
    if upload is not None:
        after = [*after, videos.uploading(place, upload, chosen[0], notes)]
    for event in after:
        event.then(draw, chosen, drawn, js=remember(fields), **work)
    return drawn
