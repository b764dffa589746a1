"""The command line: verbs to functions. Results on stdout, everything else on stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the data has problems (check, prepare), 130 interrupted, 143 on SIGTERM
and 138 on SIGUSR1, after saving. Heavy imports wait until a verb needs them, so that help is quick.
"""

import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import tubelet
from tubelet.cli.arguments import nearest
from tubelet.cli.launching import several
from tubelet.printable import printable

# What a verb does, and where; the module is imported when the verb is used.
VERBS = {
    "demo": ("the whole of it on made videos, or on yours, in minutes", "training:demo_verb"),
    "pretrain": ("learn from unlabelled videos", "training:pretrain"),
    "finetune": ("learn labels, from a pre-trained encoder or from scratch", "finetuning:finetune_verb"),
    "probe": ("what a frozen encoder knows: linear, attentive, knn", "probing:probe"),
    "test": ("numbers on labelled videos, in several views", "testing:test_verb"),
    "predict": ("what a fine-tuned network says about videos", "predicting:predict_verb"),
    "detect": ("who does what, where: people in a video, and their actions", "detecting:detect_verb"),
    "picture": ("look at masks, motion, reconstructions, attention, curves", "looking:picture"),
    "serve": ("pages in the browser: masks, reconstructions, attention, runs", "serving:serve_verb"),
    "list": ("the presets, with what each is for", "training:list_verb"),
    "plan": ("what a run would cost, without training", "training:plan_verb"),
    "embed": ("features of videos, to files", "embedding:embed_verb"),
    "similar": ("embedded clips that are like an example", "embedding:similar_verb"),
    "split": ("lists for training, validation and test", "splitting:split_verb"),
    "convert": ("weights, or boxes, of others as ours, with a report", "converting:convert_verb"),
    "check": ("is this data fit to train on", "checking:check_verb"),
    "export": ("a run for transformers, ONNX, torch.export or VideoMAE's code", "exporting:export_verb"),
    "push": ("an exported folder to the Hugging Face hub", "exporting:push_verb"),
    "prepare": ("videos made anew for training: small, quick to read", "preparing:prepare_verb"),
    "index": ("a table of millions of videos, on disk", "indexing:index_verb"),
    "bench": ("how fast are reading and training here, and what would help", "checking:bench_verb"),
    "doctor": ("is this machine fit for tubelet", "checking:doctor_verb"),
}

TOGETHER = {"pretrain", "finetune", "test"}  # what several processes do as one


def main() -> None:
    """The `tubelet` command."""
    # Threads that wait by spinning make a step ten times slower as soon as something else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which is later
    warnings.showwarning = lambda message, *_: print(
        printable(f"tubelet: {message}"), file=sys.stderr
    )  # missing videos
    code = run(sys.argv[1:])
    if several():  # gloo's threads may abort a process that ends as usual
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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
    if several() and verb not in TOGETHER:
        return fail(
            f"{verb} is done by one process, and WORLD_SIZE or SLURM says that there are several; several are for "
            f"{', '.join(sorted(TOGETHER))}. If there are none, unset WORLD_SIZE",
            2,
        )
    try:
        module, function = VERBS[verb][1].split(":")
        act = getattr(import_module(f"tubelet.cli.{module}"), function)
        return of_several(act, rest) if several() else act(rest)
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
        return code if told_elsewhere(error) else fail(str(error), code)


def told_elsewhere(error: Exception) -> bool:
    """Whether the first of several processes says this."""
    from tubelet.train.guard import Interrupted
    from tubelet.train.signals import Elsewhere

    return (
        several()
        and os.environ.get("RANK", "0") != "0"
        and (isinstance(error, Elsewhere | Interrupted) or hasattr(error, "of_all"))
    )


def of_several(act: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Carries out a verb as one of several processes; an error is also left where torchrun looks for it.

    Raises:
        Elsewhere: the connection to another process broke: that one says why.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from tubelet.nn.collective import joined
    from tubelet.train.signals import Elsewhere

    with joined():
        try:
            return act(arguments)
        except Exception as error:
            if "TORCHELASTIC_ERROR_FILE" in os.environ:
                get_error_handler().record_exception(error)
            if mendable(error) is None and re.search(r"Connection (closed|reset)|Broken pipe|gloo|NCCL", str(error)):
                raise Elsewhere(f"another process has ended, and says why ({str(error).splitlines()[0]})") from error
            raise


def mendable(error: Exception) -> int | None:
    """The exit code for an error that the user can mend; None for a defect."""
    from tubelet.data.video import VideoError
    from tubelet.train.checkpoint import SaveError
    from tubelet.train.guard import Interrupted, TrainingError
    from tubelet.train.signals import Elsewhere

    if isinstance(error, Interrupted):
        return error.exit_code
    if isinstance(error, (VideoError, SaveError, TrainingError, Elsewhere, OSError)):
        return 1
    return 2 if isinstance(error, ValueError) else None


def fail(message: str, code: int) -> int:
    """Prints an error and passes its exit code on."""
    rank = os.environ.get("RANK", "0") if several() else "0"
    who = f" (process {rank} of {os.environ['WORLD_SIZE']})" if rank != "0" else ""
    print(printable(f"tubelet{who}: {message}"), file=sys.stderr)
    return code


def overview() -> str:
    """The help of the command as a whole."""
    rows = "\n".join(f"  {verb:<10} {about}" for verb, (about, _) in VERBS.items())
    return (
        f"tubelet {tubelet.__version__}: self-supervised learning from video\n\nusage: tubelet VERB ...\n\n{rows}\n\n"
        "  tubelet VERB --help says more, with an example.\n\n"
        "first steps:\n"
        "  tubelet demo                                     a few minutes, no videos needed\n"
        "  tubelet pretrain videomae-small-cpu --data DIR   your own videos"
    )
