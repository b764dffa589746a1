"""Modules of users: named by them before anything in them is imported, found where they work (docs/plugins.md)."""

import importlib
import os
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

NAMED = "TUBELET_TRUST"
TRUSTED = {"tubelet"}
"""Packages whose classes a run.json may name. Those of a run that is made or trained in this process join them."""


def trusted(module: str) -> bool:
    """Whether a module is of tubelet, of a run of this process, or named by TUBELET_TRUST (commas between names)."""
    named = {name.strip().split(".")[0] for name in os.environ.get(NAMED, "").split(",")}
    return module.split(".")[0] in (TRUSTED | named) - {""}


def trust(config: Any) -> None:
    """Trusts the modules of all classes of a config: whoever has made it has them, and has run them, already."""
    if is_dataclass(config) and not isinstance(config, type):
        TRUSTED.add(type(config).__module__.split(".")[0])
        for field in fields(config):
            trust(getattr(config, field.name))
    elif isinstance(config, tuple):
        for part in config:
            trust(part)


def found(module: str) -> ModuleType:
    """The module; one of the user's where Python looks for modules, and then in the working directory.

    Raises:
        ValueError: the user has none of this name.
        ImportError: it cannot be imported, for another reason.
    """
    if module.split(".")[0] == "tubelet":
        return importlib.import_module(module)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: no file that lies there takes the place of a library
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and asks for one that is not
        name, file = error.name.split(".")[0], module.endswith(".py")
        hint = f"A module is named without .py: {Path(module).stem}. " if file else ""
        raise ValueError(
            f"there is no module {error.name!r}, neither where Python looks (installed packages, PYTHONPATH) nor in "
            f"the working directory, {here}. {hint}Go to the folder that {name} is in, or put that folder before the "
            "command: PYTHONPATH=FOLDER"
        ) from error
