"""What the files beside weights say of pixels, of arithmetic and of shapes: heeded and said, or refused by its name."""

import math
from typing import Any

from tubelet.nn.attention import EPS
from tubelet.weights.archive import PROCESSORS, Archive
from tubelet.weights.report import Report

HALF = ("VideoMAE", "ViT")  # processors of transformers whose mean and deviation are 0.5 where their file has none
FURTHEST = 1e-5  # an eps up to which outputs differ by less than 1e-4
# What timm's config.json may set in its models: shapes, which the tensors tell, and what training or a head has.
TIMM = {"img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio"}
TIMM |= {"global_pool", "class_token", "no_embed_class", "dynamic_img_size", "fc_norm"}
TIMM |= {f"{part}drop_rate" for part in ("", "pos_", "patch_", "proj_", "attn_")} | {"drop_path_rate", "weight_init"}


def pixels(archive: Archive, channels: int) -> tuple[list[float], list[float]] | None:
    """Mean and deviation by which pixels in [0, 1] were normalised, as timm's config.json or transformers'
    preprocessor_config.json says; none where there is neither.

    Raises:
        ValueError: settings that cannot be carried out on pixels of ours, or that leave open what they mean.
    """
    said = archive.processor
    path = next((path for name in PROCESSORS if (path := archive.path.parent / name).is_file()), archive.path)
    timm = archive.config.get("pretrained_cfg") or archive.config
    if "mean" in timm and "std" in timm:
        return three(archive, "mean", timm["mean"]), three(archive, "std", timm["std"])
    if not said:
        return None
    if channels != 3:
        raise ValueError(
            f"{path} has statistics of three colours, but the weights are for {channels} channels; move it away"
        )
    if said.get("offset"):
        raise ValueError(f"{path} says offset {said['offset']}, which is not read; only scale, mean and deviation are")
    factor, rescaled = said.get("rescale_factor"), said.get("do_rescale") is not False
    scale = 255 * (1 / 255 if factor is None else number(archive, "rescale_factor", factor)) if rescaled else 255.0
    if scale <= 0:
        raise ValueError(f"{path} says rescale_factor {factor}; expected a number above 0")
    mean, std = [0.0] * 3, [1.0] * 3
    if said.get("do_normalize") is not False:
        kind = next((said[key] for key in said if key.endswith(("processor_type", "extractor_type"))), HALF[0])
        for key in ("image_mean", "image_std"):
            if said.get(key) is None and not str(kind).startswith(HALF):
                raise ValueError(
                    f"{path} normalises, but has no {key}, and what {kind} takes then is not known; add it"
                )
        mean = three(archive, "image_mean", 0.5 if said.get("image_mean") is None else said["image_mean"])
        std = three(archive, "image_std", 0.5 if said.get("image_std") is None else said["image_std"])
        if not rescaled and max(std) <= 1:
            raise ValueError(
                f"{path} says do_rescale false, and means and deviations of pixels from 0 to 1: whether the weights "
                "have seen 0 to 255 or 0 to 1 cannot be told. Say it: do_rescale true for pixels from 0 to 1; or means "
                "and deviations 255 times as large"
            )
    return [value / scale for value in mean], [value / scale for value in std]


def number(archive: Archive, key: str, value: Any) -> float:
    """A number of a file beside weights.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{archive.path}: a file beside it says {key} {value!r}; expected a number")
    return float(value)


def three(archive: Archive, key: str, value: Any) -> list[float]:
    """A number for each of three colours, of a file beside weights.

    Raises:
        ValueError: it says something else.
    """
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3:
        raise ValueError(f"{archive.path}: a file beside it says {key} {value!r}; expected one number or three")
    return [number(archive, key, one) for one in values]


def same_arithmetic(archive: Archive, report: Report) -> None:
    """Holds what config.json says of activations, norms and biases against what our blocks do.

    Raises:
        ValueError: our blocks do something else, and outputs would be wrong.
    """
    config, there = archive.config, f"{archive.path.parent / 'config.json'} says"
    if (act := config.get("hidden_act", "gelu")) not in ("gelu", "gelu_python"):
        raise ValueError(
            f"{there} hidden_act {act!r}; our MLPs have the exact GELU ('gelu'), so outputs would be wrong"
        )
    if without := [key for key in ("qkv_bias", "qv_bias") if config.get(key) is False]:
        raise ValueError(f"{there} {without[0]} false: its attention has no biases of queries and values; ours has")
    eps = number(archive, "layer_norm_eps", config.get("layer_norm_eps", EPS))
    if not 0 <= eps <= FURTHEST:
        raise ValueError(f"{there} layer_norm_eps {eps:g}; our norms have {EPS:g}, so outputs would be wrong")
    if eps != EPS:
        report.notes.append(
            f"norms of eps {eps:g} there (1e-05 in the decoder and head of transformers' VideoMAE), {EPS:g} here as in "
            "the released code: outputs differ below 1e-4"
        )
    model = config.get("model_args") or {}
    if odd := sorted(set(model) - TIMM):
        raise ValueError(f"{there} model_args {odd[0]} {model[odd[0]]!r}, which is not read: outputs might be wrong")


def agreeing(archive: Archive, shapes: dict[str, int]) -> None:
    """Holds what config.json says of shapes against those of the tensors.

    Raises:
        ValueError: they contradict.
    """
    for key, ours in shapes.items():
        said = archive.config.get(key, ours)
        if any(one != ours for one in (said if isinstance(said, list) else [said])):
            raise ValueError(f"{archive.path} and the config.json beside it contradict: {key} {ours} and {said}")
