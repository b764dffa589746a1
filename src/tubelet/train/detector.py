"""Detectors of actions: read from a run or a file, and begun with the weights of another run."""

from pathlib import Path

from tubelet.config import Run
from tubelet.data.labels import listed
from tubelet.nn.detector import Detector
from tubelet.train.checkpoint import weights_of
from tubelet.train.start import shaped
from tubelet.weights.found import Asked, renormed
from tubelet.weights.load import Weights
from tubelet.weights.report import Report


def load_detector(path: Path | str, asked: Asked = Asked()) -> tuple[Detector, Run]:  # noqa: B008 - frozen
    """The network of a run of action detection, on the CPU, with its run; the classes are `run.data.labels.names`.

    `path` is the folder of the run (the last weights), or a file of it: model.safetensors, best.safetensors; or weights
    of others, as for `load_encoder`. It reads video normalised by ImageNet's means and deviations, and `run.method`
    says so, whatever it was trained with.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: weights without a head for boxes, or a file of no format that is known.
    """
    weights = weights_of(path, asked)
    network = detector_of(weights)
    weights.report.warn()
    return network, weights.run


def detector_of(weights: Weights) -> Detector:
    """The whole network of weights with a head for boxes.

    Raises:
        ValueError: they have none.
    """
    weights.expect("detector")
    state, run = weights.state, weights.run
    encoder = run.encoder.build(run.grid(), run.data.channels)
    network = Detector(encoder, len(state["head.bias"]), run.method.bins, run.method.pool, run.encoder.heads)
    network.load_state_dict(state)
    return network.eval()


def detector_from(weights: Weights, run: Run, network: Detector, new_head: bool = False) -> Report:
    """Loads `fitting` weights into the fresh network of a run; what happened.

    Of a detector of the same classes all of it; of one of others, which `new_head` allows, all but the head. Of an
    encoder that was fine-tuned on clips the norm of their mean is left out, and the encoder's own begins as the
    identity, as in VideoMAE-Action-Detection.

    Raises:
        ValueError: a tensor that does not fit, or a head for other classes that is not to be replaced.
    """
    state, before, report, method = weights.state, weights.run, weights.report, run.method
    detector = weights.kind == "detector"
    if not detector:
        lead = "encoder." if weights.kind == "classifier" else ""
        state = {f"encoder.{name.removeprefix(lead)}": value for name, value in state.items() if name.startswith(lead)}
        report.mark("left out", "a head for whole clips", "norm.", "head.")
    elif method.norm != "imagenet":
        state = renormed(state, run.data.channels, "imagenet", method.norm)
    if detector and before.data.labels != run.data.labels:
        theirs, ours = (one.data.labels.names if one.data.labels else () for one in (before, run))
        if not new_head:
            raise ValueError(
                f"the head of {weights.path} knows {len(theirs)} other classes ({listed(theirs, 4)}) than the "
                f"{len(ours)} of these boxes ({listed(ours, 4)}); add --new-head to begin with a fresh one"
            )
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
        report.mark("left out", "a head for other classes", "head.")
    if detector and before.method.pool != method.pool:
        state = {name: value for name, value in state.items() if not name.startswith("pool.")}
        report.mark("left out", f"what pools boxes, which this run does by {method.pool}", "pool.")
    fresh = network.state_dict()
    shaped(state, fresh, weights.path)
    new = [name for name in fresh if name not in state]
    norm = [name for name in new if name.startswith("encoder.norm.")]
    rest = [name for name in new if name.startswith(("head.", "pool."))]
    if wrong := sorted({*(set(new) - {*norm, *rest}), *(set(state) - set(fresh))}):
        raise ValueError(
            f"{weights.path} does not fit the network; these tensors are on one side only: {', '.join(wrong)}"
        )
    network.load_state_dict(fresh | state)
    report.add("newly initialised", "the encoder's last norm, which those fine-tuned on clips lack", *norm)
    report.add("newly initialised", "what reads boxes for these labels", *rest)
    return report
