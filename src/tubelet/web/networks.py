"""Networks of runs as several pages want them: read once, kept until the run is saved again."""

from functools import lru_cache
from pathlib import Path

from tubelet.config import Run
from tubelet.evaluate.embed import Network, vit_of
from tubelet.evaluate.features import mark_of
from tubelet.nn.vit import ViT
from tubelet.pictures import taken
from tubelet.train.checkpoint import classifier_of, encoder_of, weights_of
from tubelet.web.place import Place, when


def at(folder: Path) -> int:
    """When a run was saved last."""
    files = (*folder.glob("checkpoints/*"), *folder.glob("*.safetensors"))
    return max(map(when, files), default=0)  # a run that trains replaces them


@lru_cache(maxsize=2)
def network(folder: Path, stamp: int) -> tuple[Network, Run]:
    """What `tubelet embed` takes of a run: its classifier, or else its encoder.

    Raises:
        FileNotFoundError, ValueError: none there, or a damaged one.
    """
    weights = weights_of(folder)
    found = classifier_of(weights) if weights.kind == "classifier" else encoder_of(weights)
    return found.eval(), weights.run


def encoder(folder: Path) -> tuple[ViT, Run]:
    """The encoder of a run: its own at the end, until then that of the last checkpoint.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a damaged one.
    """
    if any(folder.glob("*.safetensors")):
        found, run = network(folder, at(folder))
        return vit_of(found), run
    return saved(folder, at(folder))


@lru_cache(maxsize=2)
def saved(folder: Path, stamp: int) -> tuple[ViT, Run]:
    """The encoder in the last checkpoint of a run.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, or a damaged one.
    """
    try:
        method, run, _ = taken(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder.name} has no encoder, neither of its end nor in a checkpoint: it has not saved one yet, or they "
            "were removed; go on with the run (--resume), or choose another"
        ) from error
    kept = method.exported()
    if "encoder" not in kept:
        raise ValueError(f"{folder.name} has not saved its {type(method).__name__} yet; choose another run")
    found = run.encoder.build(run.grid(), run.data.channels)
    found.load_state_dict(kept["encoder"])
    return found.eval(), run


@lru_cache(maxsize=64)
def mark(folder: Path, stamp: int) -> str:
    """What tells the weights of a run from all others: features say it of the weights that made them.

    Raises:
        FileNotFoundError, ValueError: none there, or damaged ones.
    """
    return mark_of(network(folder, stamp)[0])


def maker(place: Place, weights: str) -> tuple[Network, Run]:
    """The network with this mark, and its run.

    Raises:
        ValueError: no run of those that may be used has it.
    """
    for folder in place.run_folders().values():
        try:
            if mark(folder, at(folder)) == weights:
                return network(folder, at(folder))
        except (ValueError, OSError):  # a run that has no weights yet, or broken ones, made nothing
            continue
    where = "no runs folder was chosen" if place.runs is None else f"it is not in {place.runs}"
    raise ValueError(
        f"a video is embedded with the run that made these features (weights {weights}), and {where}: start tubelet "
        "serve with --runs DIR where it is, or choose a clip of the features"
    )
