"""What goes along with weights that leave the machine: the settings of a run without its paths, or whose they are."""

import json
from pathlib import PureWindowsPath
from typing import Any

from tubelet.config import Run, to_json
from tubelet.weights.hub import on_hub
from tubelet.weights.origin import Origin


def about(run: Run, origin: Origin | None) -> dict[str, str]:
    """By name, JSON for the metadata of a file: `run`, how it was trained; or `converted`, all that is known of weights
    of others."""
    return {"run": json.dumps(settings(run), indent=1)} if origin is None else {"converted": to_json(origin)}


def settings(run: Run) -> Any:
    """A run as parsed JSON; of a setting that names a path only its last name."""
    return pathless(json.loads(to_json(run)))


def pathless(tree: Any) -> Any:
    """Parsed JSON without the folders of paths; labels are no paths, whatever is in them.

    >>> pathless({"init": "/home/me/first", "names": ["pick up/put down"], "source": "images:C:\\\\me\\\\faces:train"})
    {'init': 'first', 'names': ['pick up/put down'], 'source': 'images:C:faces:train'}
    """
    if isinstance(tree, dict):
        return {key: value if key == "names" else pathless(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [pathless(value) for value in tree]
    return bare(tree) if isinstance(tree, str) and {"/", "\\"} & {*tree} else tree


def bare(source: Any) -> str:
    """The last name of a path, of Windows too; names on the hub are whole.

    >>> bare("/home/me/videos"), bare("ucf101:/data/UCF101:train:1"), bare(None), bare("hub:lab/gestures@main")
    ('videos', 'ucf101:UCF101:train:1', 'None', 'hub:lab/gestures@main')
    """
    if on_hub(str(source)):
        return str(source)
    return ":".join(PureWindowsPath(part).name for part in str(source).split(":"))
