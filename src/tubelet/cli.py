"""The command line: verbs to functions. Results on stdout, everything else on stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the data has problems (check), 130 interrupted, 143 on SIGTERM after
saving. Heavy imports wait until a verb needs them, so that help is quick.
"""

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

import tubelet

T = TypeVar("T")
Positional = tyro.conf.Positional


def main() -> None:
    """The `tubelet` command."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Carries out a command line and returns its exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"tubelet {tubelet.__version__}")
        return 0
    verb, rest = argv[0], list(argv[1:])
    if verb not in VERBS:
        return fail(f"no verb {verb!r}.{nearest(verb, VERBS)} There are: {', '.join(VERBS)}. See tubelet --help", 2)
    try:
        return VERBS[verb](rest)
    except SystemExit as exit:  # tyro has printed what is wrong with a flag, or the help
        return exit.code if isinstance(exit.code, int) else 2
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except BrokenPipeError:
        return 1
    except Exception as error:
        code = mendable(error)
        if code is None:
            raise  # a defect of ours: the traceback is what a bug report needs
        return fail(str(error), code)


def mendable(error: Exception) -> int | None:
    """The exit code for an error that the user can mend; None for a defect."""
    from tubelet.data.video import VideoError
    from tubelet.train.checkpoint import SaveError
    from tubelet.train.loop import Interrupted, TrainingError

    if isinstance(error, Interrupted):
        return error.exit_code
    if isinstance(error, (VideoError, SaveError, TrainingError, OSError)):
        return 1
    return 2 if isinstance(error, ValueError) else None


def fail(message: str, code: int) -> int:
    """Prints an error and passes its exit code on."""
    print(f"tubelet: {message}", file=sys.stderr)
    return code


def nearest(word: str, words: Sequence[str] | dict[str, Any]) -> str:
    """' Did you mean X?' or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def overview() -> str:
    """The help of the command as a whole."""
    rows = "\n".join(f"  {verb:<10} {(function.__doc__ or '').splitlines()[0]}" for verb, function in VERBS.items())
    return (
        f"tubelet {tubelet.__version__}: self-supervised learning from video\n\nusage: tubelet VERB ...\n\n{rows}\n\n"
        "  tubelet VERB --help says more, with an example.\n\n"
        "first steps:\n"
        "  tubelet demo                                     two minutes, no videos needed\n"
        "  tubelet pretrain videomae-small-cpu --data DIR   your own videos"
    )


def parse(kind: type[T], args: Sequence[str], verb: str, default: T | None = None) -> T:
    """Command-line arguments as a dataclass; its docstring is the help. Exits with 2 on a wrong flag."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=args, prog=f"tubelet {verb}", config=(tyro.conf.AvoidSubcommands,), **options)


def say(text: str) -> None:
    """A line for people, on stderr."""
    print(text, file=sys.stderr)


# ---------------------------------------------------------------------------- pretrain, plan, list


def with_preset(kind: Callable[..., T], args: list[str], verb: str) -> T:
    """Parses arguments whose defaults come from the preset that stands among them."""
    from tubelet.config import preset

    name = next((word for word in args if not word.startswith("-")), None) if args else None
    if name is None or args[0].startswith("-"):
        if {"-h", "--help"} & set(args):
            name = "videomae-small-cpu"
            args = [name, *args]
        else:
            raise ValueError(f"tubelet {verb} wants a preset first, as in: tubelet {verb} videomae-small-cpu; see tubelet list")
    return parse(kind, args, verb, kind(preset=name, run=preset(name)))  # type: ignore[arg-type]


def pretrain(args: list[str]) -> int:
    """Learn from unlabelled videos: tubelet pretrain PRESET --data DIR"""
    from tubelet.config import Run

    @dataclass(frozen=True)
    class Pretrain:
        """Pre-train an encoder on unlabelled videos.

        tubelet pretrain videomae-small-cpu --data my_videos/ --out runs/first --training.epochs 50

        Go on after an interruption: the same command with --resume. PRESET is a name from `tubelet list`, a run.json,
        or your own module:function.
        """

        preset: Positional[str]
        """What to train: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, tyro.conf.arg(name="")]
        data: str = tyro.MISSING
        """A folder of videos (any depth), one video, or a list file (path, or path and label, on each line)."""
        out: Path | None = None
        """Run folder; default runs/PRESET."""
        resume: bool = False
        """Go on where the run in --out stopped."""
        tensorboard: bool = False
        """Also write TensorBoard events (extra: tensorboard)."""
        quiet: bool = False
        """No plan, no progress bar."""
        json: bool = False
        """The result as one JSON line on stdout."""

    a = with_preset(Pretrain, args, "pretrain")
    from tubelet.data.datasets import Dataset, find
    from tubelet.plan import plan, render
    from tubelet.pictures import reconstruct_run
    from tubelet.report import write_report
    from tubelet.train.log import duration, metrics
    from tubelet.train.loop import train

    out = a.out or Path("runs") / Path(a.preset.replace(":", "-")).stem
    if not a.quiet:
        show(render(plan(a.run, len(Dataset(find(a.data), a.run.data, a.run.training.seed)))))
    folder = train(a.run, a.data, out, resume=a.resume, quiet=a.quiet, tensorboard=a.tensorboard)
    reconstruct_run(folder, spread(find(a.data), 2))
    report = write_report(folder)
    lines = metrics(folder)
    result = {
        "run": str(folder),
        "encoder": str(folder / "encoder.safetensors"),
        "report": str(report),
        "steps": int(lines[-1]["step"]),
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }
    if a.json:
        print(json.dumps(result))
    else:
        print(f"{folder}: {result['steps']} steps in {duration(result['seconds'])}, loss {result['first_loss']:.3f} to "
              f"{result['last_loss']:.3f}\nencoder  {result['encoder']}\nreport   {report}")
    return 0


def show(renderable: Any) -> None:
    """A table for people, on stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(renderable)


def plan_verb(args: list[str]) -> int:
    """What a run would cost, without training: tubelet plan PRESET"""
    from tubelet.config import Run

    @dataclass(frozen=True)
    class PlanArguments:
        """Print a run's stages, sizes, steps, learning rate, parameters, GMACs and memory, without training.

        tubelet plan videomae-k400-b --training.accumulate 64
        """

        preset: Positional[str]
        """What to plan: a name from `tubelet list`, the run.json of a run, or module:function."""
        run: Annotated[Run, tyro.conf.arg(name="")]
        data: str | None = None
        """Videos that it would train on; steps and schedule depend on how many there are."""
        videos: int | None = None
        """How many videos, where there are none yet."""
        json: bool = False
        """As JSON on stdout."""

    a = with_preset(PlanArguments, args, "plan")
    from tubelet.data.datasets import Dataset, find
    from tubelet.plan import plan, render

    count = len(Dataset(find(a.data), a.run.data, a.run.training.seed)) if a.data else a.videos
    result = plan(a.run, count)
    if a.json:
        print(json.dumps(result.to_dict()))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(result))
    return 0


def list_verb(args: list[str]) -> int:
    """The presets, with what each is for."""
    from tubelet.methods import PRESETS

    @dataclass(frozen=True)
    class List:
        """List the presets that pretrain and plan take.

        tubelet list
        """

        json: bool = False
        """As JSON on stdout."""

    a = parse(List, args, "list")
    about = {name: summary(where) for name, where in PRESETS.items()}
    if a.json:
        print(json.dumps(about))
        return 0
    width = max(map(len, about))
    for name, line in about.items():
        print(f"{name:<{width}}  {line}")
    return 0


def summary(where: str) -> str:
    """First line of a preset's docstring."""
    import importlib

    module, function = where.split(":")
    return (getattr(importlib.import_module(module), function).__doc__ or "").strip().splitlines()[0]


# ---------------------------------------------------------------------------- check, doctor


def check_verb(args: list[str]) -> int:
    """Is this data fit to train on: tubelet check DIR"""

    @dataclass(frozen=True)
    class Check:
        """Open, demux or decode every video, and say which have problems. Exit code 3 if any has.

        tubelet check my_videos/ --level decode
        """

        path: Positional[str]
        """A folder of videos, one video, or a list file."""
        level: Literal["open", "demux", "decode"] = "demux"
        """open: headers; demux: every packet's header; decode: every frame (slow, finds all damage)."""
        json: bool = False
        """One JSON object on stdout instead of a table."""

    a = parse(Check, args, "check")
    from tubelet.data.check import check
    from tubelet.data.datasets import find

    report = check(find(a.path), a.level)
    if a.json:
        print(json.dumps(report.to_dict()))
    else:
        print("\n".join(report.lines()))
    return 3 if report.problems else 0


def doctor_verb(args: list[str]) -> int:
    """Is this machine fit for tubelet."""

    @dataclass(frozen=True)
    class Doctor:
        """Look at Python, PyTorch, FFmpeg, memory and disk, and say what is wrong and how to mend it.

        tubelet doctor
        """

        json: bool = False
        """As JSON on stdout."""

    a = parse(Doctor, args, "doctor")
    from tubelet.doctor import doctor, render

    checks = doctor()
    if a.json:
        from dataclasses import asdict

        print(json.dumps([asdict(one) for one in checks]))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(checks))
    return 1 if any(one.state == "problem" for one in checks) else 0


# ---------------------------------------------------------------------------- picture, demo


def picture(args: list[str]) -> int:
    """Look at masks, reconstructions, curves: tubelet picture mask|reconstruction|curves"""
    kinds = {"mask": picture_mask, "reconstruction": picture_reconstruction, "curves": picture_curves}
    if not args or args[0] in ("-h", "--help"):
        print("usage: tubelet picture KIND ...\n\n" + "\n".join(
            f"  {kind:<15} {(function.__doc__ or '').splitlines()[0]}" for kind, function in kinds.items()
        ) + "\n\n  tubelet picture KIND --help says more, with an example.")
        return 0 if args else 2
    if args[0] not in kinds:
        raise ValueError(f"no picture {args[0]!r}.{nearest(args[0], kinds)} There are: {', '.join(kinds)}")
    return kinds[args[0]](args[1:])


def picture_mask(args: list[str]) -> int:
    """A mask on a video of yours; needs no weights."""

    @dataclass(frozen=True)
    class Mask:
        """Show what a mask hides of a video.

        tubelet picture mask --data cat.mp4 --kind tube --ratio 0.9 --out mask.png
        """

        data: str
        """A video (of a folder or list the first)."""
        kind: Literal["tube", "random", "frame"] = "tube"
        """Same places in all frames, tokens anywhere, or whole frames."""
        ratio: float = 0.9
        """Share of tokens hidden."""
        frames: int = 16
        """Frames of the clip."""
        stride: int = 4
        """Source frames from one frame of the clip to the next."""
        size: tuple[int, int] = (224, 224)
        """Height and width, in pixels."""
        patch: tuple[int, int, int] = (2, 16, 16)
        """Frames, height and width of a cube."""
        seed: int = 0
        """Another seed, another mask."""
        out: Path = Path("mask.png")
        """Picture to write: .png is a strip, .gif moves."""

    a = parse(Mask, args, "picture mask")
    import torch

    from tubelet.data.datasets import Data, find
    from tubelet.data.sampling import Dense
    from tubelet.evaluate.features import middle_clips
    from tubelet.masks.random_masks import Frame, Random, Tube
    from tubelet.pictures import mask_strip, save
    from tubelet.types import Batch, Draws, Grid

    video = find(a.data)[0].path
    grid = Grid.of(a.frames, *a.size, a.patch)
    clip = middle_clips([video], Data(clip=Dense(a.frames, stride=a.stride), size=a.size))
    masker = {"tube": Tube, "random": Random, "frame": Frame}[a.kind](a.ratio)
    mask = masker(Batch(clip, torch.arange(1)), grid, Draws(a.seed, 0, [0]))
    print(save(a.out, mask_strip(clip, mask), f"{video.name} · {a.kind} mask"))
    return 0


def picture_reconstruction(args: list[str]) -> int:
    """What a run imagines of hidden video."""

    @dataclass(frozen=True)
    class Reconstruction:
        """Hide parts of videos and show what a run imagines in their place, as strips (PNG) and films (GIF).

        tubelet picture reconstruction --weights runs/first --data cat.mp4 --ratio 0.75 0.9 0.95
        """

        weights: Path
        """A run folder."""
        data: str
        """A video, or a folder or list, of which the first --count are taken."""
        ratio: tuple[float, ...] = (0.75, 0.9, 0.95)
        """Shares of tokens hidden."""
        count: int = 1
        """How many videos."""
        seed: int = 0
        """Another seed, other masks."""
        out: Path | None = None
        """Folder to write into; default the pictures/ of the run."""

    a = parse(Reconstruction, args, "picture reconstruction")
    from tubelet.data.datasets import find
    from tubelet.pictures import reconstruct_run

    paths = [item.path for item in find(a.data)[: a.count]]
    for path in reconstruct_run(a.weights, paths, a.ratio, a.out, a.seed):
        print(path)
    return 0


def picture_curves(args: list[str]) -> int:
    """Loss, rate, gradient and speed of a run over its steps."""

    @dataclass(frozen=True)
    class Curves:
        """Draw the curves of a run, as PNG and SVG.

        tubelet picture curves --run runs/first --out curves.png
        """

        run: Path
        """A run folder."""
        out: Path | None = None
        """PNG to write (the SVG beside it); default pictures/curves.png of the run."""

    a = parse(Curves, args, "picture curves")
    from tubelet.pictures import curves

    out = a.out or a.run / "pictures" / "curves.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in curves(a.run, out):
        print(path)
    return 0


def demo_verb(args: list[str]) -> int:
    """The whole of it on made videos, or on yours, in minutes."""

    @dataclass(frozen=True)
    class Demo:
        """Make videos with known motions (or take yours), check them, pre-train a tiny VideoMAE, show what it imagines,
        read out what it knows, and write a report.

        tubelet demo
        tubelet demo --videos my_videos/ --out runs/mine
        """

        out: Path = Path("runs/demo")
        """Run folder."""
        videos: str | None = None
        """Your own videos instead of made ones."""
        resume: bool = False
        """Go on with a demo that was interrupted."""
        short: bool = False
        """A few steps only: a test of the machinery that teaches the model nothing."""
        seed: int = 0
        """Of everything random."""

    a = parse(Demo, args, "demo")
    from tubelet.demo import demo

    demo(a.out, a.videos, resume=a.resume, short=a.short, seed=a.seed)
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "demo": demo_verb,
    "pretrain": pretrain,
    "picture": picture,
    "list": list_verb,
    "plan": plan_verb,
    "check": check_verb,
    "doctor": doctor_verb,
}
