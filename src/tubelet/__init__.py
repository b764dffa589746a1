"""tubelet: self-supervised learning from video.

    import tubelet

    run = tubelet.preset("videomae-small-cpu")           # a frozen dataclass: look at it, replace() what you like
    folder = tubelet.pretrain(run, "my_videos", "runs/first")
    encoder, run = tubelet.load_encoder(folder)          # a ViT: patches in, tokens out

Names are imported when they are used, so `import tubelet` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see: the names of _HOMES, by a test
    from tubelet.config import preset as preset
    from tubelet.data.sources import find as find
    from tubelet.data.video import frames_at as frames_at
    from tubelet.data.video import probe as probe
    from tubelet.evaluate.embed import embed as embed
    from tubelet.evaluate.feature_files import read
    from tubelet.evaluate.features import middle_batch as middle_batch
    from tubelet.evaluate.features import middle_clips as middle_clips
    from tubelet.evaluate.similar import nearest as nearest
    from tubelet.finetuning import finetune as finetune
    from tubelet.pictures import reconstruct as reconstruct
    from tubelet.pretraining import pretrain as pretrain
    from tubelet.report import write_report as write_report
    from tubelet.strips import save
    from tubelet.train.checkpoint import load as load
    from tubelet.train.checkpoint import load_classifier as load_classifier
    from tubelet.train.checkpoint import load_encoder as load_encoder
    from tubelet.train.detector import load_detector as load_detector
    from tubelet.weights.found import Asked as Asked
    from tubelet.weights.load import network

    read_features = read
    save_picture = save
    load_with_report = network

__version__ = "0.1.0"

_HOMES = {
    "preset": "tubelet.config:preset",
    "pretrain": "tubelet.pretraining:pretrain",
    "load": "tubelet.train.checkpoint:load",
    "load_with_report": "tubelet.weights.load:network",
    "Asked": "tubelet.weights.found:Asked",
    "load_encoder": "tubelet.train.checkpoint:load_encoder",
    "find": "tubelet.data.sources:find",
    "probe": "tubelet.data.video:probe",
    "frames_at": "tubelet.data.video:frames_at",
    "middle_batch": "tubelet.evaluate.features:middle_batch",
    "middle_clips": "tubelet.evaluate.features:middle_clips",
    "embed": "tubelet.evaluate.embed:embed",
    "read_features": "tubelet.evaluate.feature_files:read",
    "nearest": "tubelet.evaluate.similar:nearest",
    "reconstruct": "tubelet.pictures:reconstruct",
    "save_picture": "tubelet.strips:save",
    "write_report": "tubelet.report:write_report",
    "finetune": "tubelet.finetuning:finetune",
    "load_classifier": "tubelet.train.checkpoint:load_classifier",
    "load_detector": "tubelet.train.detector:load_detector",
}
__all__ = ["__version__", *_HOMES]

if not TYPE_CHECKING:  # for a type checker a name that is not above is a mistake

    def __getattr__(name: str) -> Any:
        """A public name, from where it lives."""
        if name not in _HOMES:
            raise AttributeError(f"module 'tubelet' has no attribute {name!r}; it has: {', '.join(sorted(_HOMES))}")
        module, attribute = _HOMES[name].split(":")
        return getattr(import_module(module), attribute)

    def __dir__() -> list[str]:
        """The public names, for completion."""
        return sorted(__all__)
