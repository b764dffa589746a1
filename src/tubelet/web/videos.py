"""Choosing a video: of the chosen folders, an upload, or one that is made here."""

from pathlib import Path
from typing import Any

from tubelet.data.video import SUFFIXES, VideoError
from tubelet.web.looks import problem
from tubelet.web.place import Place
from tubelet.web.state import Field


def field(place: Place) -> Field:
    """The video of a page, as its address says it."""
    return Field("video", choices=place.names)


def chooser(place: Place) -> tuple[Any, Any]:
    """A list of videos, and a button to upload one; `uploading` connects them."""
    import gradio as gr

    with gr.Row(elem_classes="row"):
        names = place.names()
        chosen = gr.Dropdown(names, value=names[0], label="Video", scale=4, elem_id="video", filterable=True)
        button = gr.UploadButton(
            "Upload a video", file_types=sorted(SUFFIXES), type="filepath", scale=1, size="md", elem_id="upload"
        )
    return chosen, button


def uploading(place: Place, button: Any, chosen: Any, said: Any) -> Any:
    """What happens after an upload: it is in the list and chosen, or `said` says why not. Returns the event."""
    import gradio as gr

    def take(path: str) -> tuple[Any, str]:
        try:
            name = place.take(Path(path))
        except (ValueError, VideoError, OSError) as error:
            return gr.skip(), problem(str(error))
        return gr.update(choices=place.names(), value=name), ""

    return button.upload(take, button, [chosen, said], api_visibility="private", show_progress="minimal")
