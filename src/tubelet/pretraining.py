"""Pre-training from start to end: the run, what it imagines on the way, and its page."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from tubelet.config import Run
from tubelet.data.sources import Item, find
from tubelet.evaluate.features import readable
from tubelet.live import Imagined, Page
from tubelet.nn.collective import from_first, joined
from tubelet.pictures import NothingToShow, reconstruct_run
from tubelet.printable import printable
from tubelet.report import write_report
from tubelet.train.log import say
from tubelet.train.loop import train
from tubelet.types import Method
from tubelet.weights.report import Report


def pretrain(
    run: Run,
    source: Path | str,
    out: Path | str,
    *,
    report: bool = False,
    pictures: bool = True,
    items: Sequence[Item] | None = None,
    prepare: Callable[[Method], list[Report]] | None = None,
    validate: Callable[[Method], dict[str, float]] | None = None,
    resume: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    limit: int | None = None,
) -> Path:
    """Trains `run` on the videos of `source` and returns the run folder `out`; as `train`, which says what is in it.

    With `report` there is also report.html, while it trains and at the end, and pictures/: what it imagines of two of
    the videos at the end and, with `pictures`, at seven moments on the way. The numbers are the same without.

    Raises:
        ValueError, FileNotFoundError, TrainingError, Interrupted: as `train`.
    """
    folder = Path(out)
    with joined() as (rank, _):
        if report and items is None:
            items = from_first(lambda: find(source))
        with Page(folder) if report else nullcontext() as page:
            train(
                run,
                source,
                folder,
                items=items,
                prepare=prepare,
                validate=validate,
                show=Imagined(folder, run, items) if report and pictures and items else None,
                tell=page,
                resume=resume,
                quiet=quiet,
                tensorboard=tensorboard,
                limit=limit,
            )
        if report and items and rank == 0:
            try:
                reconstruct_run(folder, readable(items, run.data, 2))
            except NothingToShow:  # methods need not have pictures
                pass
            except Exception as error:  # the run is over and saved, and has its page all the same
                say(f"note: the run is without pictures of what it imagines: {printable(str(error), lines=False)}")
            write_report(folder)
    return folder
