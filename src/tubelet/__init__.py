"""tubelet: self-supervised learning from video.

    import tubelet

    run = tubelet.preset("videomae-small-cpu")           # a frozen dataclass: look at it, replace() what you like
    folder = tubelet.pretrain(run, "my_videos", "runs/first")
    encoder, run = tubelet.load_encoder(folder)          # a ViT: patches in, tokens out

Names are imported when they are used, so `import tubelet` is quick.
"""

from importlib import import_module
from typing import Any

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
    "save_picture": "tubelet.pictures:save",
    "write_report": "tubelet.report:write_report",
    "finetune": "tubelet.finetune:finetune",
    "load_classifier": "tubelet.train.checkpoint:load_classifier",
    "load_detector": "tubelet.train.detector:load_detector",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """A public name, from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tubelet' has no attribute {name!r}; it has: {', '.join(sorted(_HOMES))}")
    module, attribute = _HOMES[name].split(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value  # or the second time `finetune` would be the module of that name, which is imported now
    return value
