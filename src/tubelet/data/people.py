"""Where people are in frames: OpenCV's people detector, any ONNX detector, torchvision's; none is downloaded.

Whatever finds people is a `Detector`, so one of your own is a function. `detector_of` makes one by name:

- `hog`: histograms of oriented gradients and a linear SVM. Comes with OpenCV 4 (the extra `detect`; OpenCV 5 has it no
  more), so it works at once. It finds whole, upright people that nothing hides, from a sixth of the picture's height
  on, and takes bottles for people: it is a beginning, not a good detector.
- `FILE.onnx`: a network in ONNX; `detector_heads` says which outputs are understood.
- `torchvision:NAME:WEIGHTS`: a detector of torchvision and a file of its weights.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tubelet.data.detector_heads import Head, recognised
from tubelet.data.keyframes import Box
from tubelet.data.overlaps import cover, nms
from tubelet.data.transforms import Window, resized

Frames = UInt8[np.ndarray, "n h w 3"]
Detector = Callable[[Frames], list[list[Box]]]
"""From frames in RGB to the people in each, the surest first."""
UNKNOWN = 640  # pixels: height or width of a network's input that its file leaves open
HAIR = 1e-5  # shares: what is thinner has no area in a table of boxes, which is written with six decimals
GREY = 114  # around what does not fill the input, as YOLO is trained


def detector_of(
    name: str,
    *,
    least: float = 0.5,
    person: int | None = None,
    normal: tuple[Sequence[float], Sequence[float]] | None = None,
    device: torch.device | str = "cpu",
) -> Detector:
    """The detector called `hog`, `FILE.onnx` or `torchvision:NAME:WEIGHTS`.

    People below the score `least` are left out. `person` is the number of the class of people and `normal` the mean and
    deviation of colours that a network was trained with, on a scale of 0 to 1; both are for ONNX and torchvision.
    `device` is where torchvision's compute; onnxruntime takes a GPU if it was built for one.

    Raises:
        ValueError: none of these, a package is missing, or the network is not understood.
        FileNotFoundError: no such file.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"a least score of {least:g} cannot be used; expected 0 to 1")
    if name == "hog":
        if person is not None or normal is not None:
            raise ValueError(
                "hog knows people alone and takes frames as they are; a class and colours are for networks"
            )
        return Hog(least)
    if name.startswith("torchvision:"):
        parts = name.split(":", 2)
        if len(parts) != 3 or not all(parts):
            raise ValueError(
                f"{name} cannot be read; expected torchvision:NAME:WEIGHTS, as torchvision:ssd300_vgg16:s.pth"
            )
        if normal is not None:
            raise ValueError("torchvision's detectors normalise colours themselves; leave that out")
        return Torchvision(parts[1], Path(parts[2]), least, 1 if person is None else person, device)
    if name.lower().endswith(".onnx"):
        return Onnx(Path(name), least, person, normal)
    raise ValueError(f"no detector {name!r}; expected hog, a file that ends in .onnx, or torchvision:NAME:WEIGHTS")


def boxes(corners: Float[np.ndarray, "r 4"], scores: Float[np.ndarray, " r"], height: float, width: float) -> list[Box]:
    """Boxes of corners in pixels of a picture, cut to it, the surest first; what lies outside is left out."""
    shares = (corners / (width, height, width, height)).clip(0, 1)
    seen = (shares[:, 2:] - shares[:, :2] > HAIR).all(1)
    order = [place for place in np.argsort(-scores, kind="stable") if seen[place]]
    return [Box(tuple(shares[place].tolist()), score=float(scores[place])) for place in order]


# ---------------------------------------------------------------------------- OpenCV


@dataclass(frozen=True)
class Hog:
    """People by OpenCV's HOG detector.

    Each window of 64x128 pixels, on a pyramid of scales, has a weight: its distance from the SVM's plane, 0 and above
    for people. The score is 1 - exp(-weight): 0 on the plane, 0.5 at 0.69, 0.86 at 2. It ranks, and is no probability.

    The windows are those of the training pictures, where a person fills 96 of 128 pixels of height; boxes are cut to
    that, and to 38 of 64 of width (people who walk are 0.4 times as wide as high).

    The picture's first and last row are repeated above and below it: whoever fills it would have no window otherwise.

    Source: Dalal and Triggs 2005, as in OpenCV.
    """

    least: float = 0.5
    """Lowest score."""
    short: int = 720
    """Short side, in pixels, that frames are scaled to. People are found from 96 pixels of height on; time goes with
    the square."""
    step: float = 1.1
    """From one scale of the pyramid to the next; 1.05 takes twice as long, and finds hardly more."""
    overlap: float = 0.6
    """Boxes that share more than this with a surer one, of the smaller of both, are the same person, or a part."""

    def __post_init__(self) -> None:
        cv2_with_hog()

    def __call__(self, frames: Frames) -> list[list[Box]]:
        """The people in each frame."""
        cv2 = cv2_with_hog()
        hog = cv2.HOGDescriptor()
        hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
        return [self.in_frame(cv2, hog, frame) for frame in frames]

    def in_frame(self, cv2: Any, hog: Any, frame: UInt8[np.ndarray, "h w 3"]) -> list[Box]:
        """The people in one frame."""
        scale = self.short / min(frame.shape[:2])
        small = cv2.resize(
            frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        border = small.shape[0] // 6  # the window of who fills the picture is a third higher
        bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        bgr = cv2.copyMakeBorder(bgr, border, border, 0, 0, cv2.BORDER_REPLICATE)
        weight = -np.log(1 - min(self.least, 1 - 1e-9))  # that of the lowest score
        windows, weights = hog.detectMultiScale(
            bgr, hitThreshold=weight, winStride=(8, 8), padding=(8, 8), scale=self.step, groupThreshold=0
        )
        if not len(windows):
            return []
        left, top, width, height = (np.asarray(windows) - (0, border, 0, 0)).T
        scores = 1 - np.exp(-np.asarray(weights, dtype=np.float64).reshape(-1))
        inside = np.stack(
            [left + 13 / 64 * width, top + height / 8, left + 51 / 64 * width, top + 7 / 8 * height], axis=1
        )
        kept = nms(inside, scores, self.overlap, cover)
        return boxes(inside[kept], scores[kept], *small.shape[:2])


def cv2_with_hog() -> Any:
    """The cv2 module.

    Raises:
        ValueError: it is not installed, or has no people detector.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            "the detector hog needs OpenCV, which is an extra: pip install 'tubelet[detect]'. Or name another: "
            "FILE.onnx, or torchvision:NAME:WEIGHTS"
        ) from error
    if not hasattr(cv2, "HOGDescriptor"):
        raise ValueError(
            f"OpenCV {cv2.__version__} has no people detector, which version 5 dropped: pip install "
            "'opencv-python-headless<5'. Or name another detector: FILE.onnx, or torchvision:NAME:WEIGHTS"
        )
    return cv2


# ---------------------------------------------------------------------------- ONNX


class Onnx:
    """People by a network in a file; its outputs are recognised by their names and shapes when it is opened."""

    def __init__(
        self,
        path: Path,
        least: float = 0.5,
        person: int | None = None,
        normal: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        """The network at `path`; other arguments as of `detector_of`.

        Raises:
            ValueError: onnxruntime is not installed, cannot read the file, or its inputs or outputs are not understood.
            FileNotFoundError: no such file.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                "an ONNX detector needs onnxruntime, which is an extra: pip install 'tubelet[detect]'"
            ) from error
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path}; expected a detector in ONNX")
        self.path, self.least, self.normal = path, least, normal
        try:
            there = [one for one in PROVIDERS if one in onnxruntime.get_available_providers()]
            self.session = onnxruntime.InferenceSession(str(path), providers=there)
        except Exception as error:  # its errors have no class in common
            raise ValueError(f"{path} cannot be opened by onnxruntime: {error}") from error
        self.image, self.beside = self.inputs()
        self.classes = self.named()
        self.size, self.channels_last = self.layout()
        blank = np.full((*self.size, 3), GREY, np.uint8)
        self.head, _ = self.recognised(self.outputs(blank))
        self.person = self.which(person)

    def __str__(self) -> str:
        return (
            f"{self.path.name}: {self.head.name}, frames in {self.size[1]}x{self.size[0]} pixels, "
            f"people are class {self.person}"
        )

    def __call__(self, frames: Frames) -> list[list[Box]]:
        """The people in each frame."""
        found = []
        for frame in frames:
            picture, (top, left, height, width) = letterboxed(frame, self.size)
            head, read = self.recognised(self.outputs(picture))
            people = (read.classes == self.person) & (read.scores >= self.least)
            corners, scores = read.corners[people] - (left, top, left, top), read.scores[people]
            if head.raw:
                kept = nms(corners, scores, 0.45)
                corners, scores = corners[kept], scores[kept]
            found.append(boxes(corners, scores, height, width))
        return found

    def recognised(self, outputs: dict[str, np.ndarray]) -> tuple[Head, Any]:
        """What the outputs are, and what they say.

        Raises:
            ValueError: they are not understood.
        """
        try:
            return recognised(outputs, self.size, len(self.classes) or None)
        except ValueError as error:
            raise ValueError(f"{error}. {self.signature()}") from error

    def signature(self) -> str:
        """Inputs and outputs of the file, for people."""
        told = [
            f"{kind} " + ", ".join(f"{one.name} {one.type} {one.shape}" for one in values)
            for kind, values in (("inputs", self.session.get_inputs()), ("outputs", self.session.get_outputs()))
        ]
        return f"{self.path} has {'; '.join(told)}"

    def inputs(self) -> tuple[Any, list[Any]]:
        """The input for the picture, and the others."""
        given = self.session.get_inputs()
        coloured = [one for one in given if len(one.shape) in (3, 4) and 3 in (one.shape[-1], one.shape[-3])]
        images = coloured or [one for one in given if len(one.shape) == 4]  # how many colours may be left open
        beside = [one for one in given if one not in images[:1]]
        fits = images and images[0].type in PIXELS
        if not fits or any(one.name not in ("orig_target_sizes", "pixel_mask") for one in beside):
            raise ValueError(
                "this network's inputs are not understood; expected one picture, [1, 3, height, width] or [1, height, "
                "width, 3] of float, float16 or uint8, and beside it orig_target_sizes or pixel_mask. "
                + self.signature()
            )
        return images[0], beside

    def layout(self) -> tuple[tuple[int, int], bool]:
        """Height and width of the input, and whether colours are its last axis."""
        shape = self.image.shape[-3:]
        last = shape[2] == 3 and shape[0] != 3
        sides = shape[:2] if last else shape[1:]
        height, width = (side if isinstance(side, int) and side > 0 else UNKNOWN for side in sides)
        return (height, width), last

    def named(self) -> list[str]:
        """The names of its classes in order, where the file tells them as Ultralytics writes them."""
        told = self.session.get_modelmeta().custom_metadata_map.get("names", "")
        try:
            names = ast.literal_eval(told)
        except (ValueError, SyntaxError):
            return []
        return [str(name) for name in (names.values() if isinstance(names, dict) else names)]

    def which(self, person: int | None) -> int:
        """The number of the class of people."""
        if person is not None:
            return person
        if not self.classes:  # whoever wants the size counts COCO's classes from 0: RT-DETR, D-FINE
            return 0 if any(one.name == "orig_target_sizes" for one in self.beside) else self.head.person
        lower = [name.lower() for name in self.classes]
        for name in ("person", "people", "pedestrian", "human"):
            if name in lower:
                return lower.index(name)
        raise ValueError(
            f"{self.path} knows {', '.join(self.classes[:10])}, and no person; say which number people have (from 0)"
        )

    def outputs(self, picture: UInt8[np.ndarray, "h w 3"]) -> dict[str, np.ndarray]:
        """What the network says about a picture of its size."""
        kind = PIXELS[self.image.type]
        values = picture if kind is np.uint8 else picture.astype(np.float32) / 255
        if self.normal is not None and kind is not np.uint8:
            mean, deviation = np.array(self.normal, dtype=np.float32)
            values = (values - mean) / deviation
        values = values if self.channels_last else values.transpose(2, 0, 1)
        values = values[None] if len(self.image.shape) == 4 else values
        fed = {self.image.name: np.ascontiguousarray(values, dtype=kind)}
        for one in self.beside:
            if one.name == "orig_target_sizes":
                fed[one.name] = np.array([self.size[::-1]], dtype=np.int64)
            else:
                shape = [side if isinstance(side, int) else known for side, known in zip(one.shape, (1, *self.size))]
                fed[one.name] = np.ones(shape, dtype=np.int64)
        names = [one.name for one in self.session.get_outputs()]
        try:
            return dict(zip(names, self.session.run(names, fed)))
        except Exception as error:  # onnxruntime's have no class in common
            raise ValueError(f"the network fails: {error}. {self.signature()}") from error


PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
PIXELS: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def letterboxed(frame: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "y x 3"], Window]:
    """The whole frame in the middle of a picture of `size` (height, width), grey around it, and where it lies there."""
    height, width = frame.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    window = Window((size[0] - tall) // 2, (size[1] - wide) // 2, tall, wide)
    picture = np.full((*size, 3), GREY, np.uint8)
    inside = resized(torch.from_numpy(frame)[None], Window(0, 0, height, width), (tall, wide))[0]
    picture[window.top : window.top + tall, window.left : window.left + wide] = inside.numpy()
    return picture, window


# ---------------------------------------------------------------------------- torchvision


class Torchvision:
    """People by a detector of torchvision.

    Written from its documentation and tried with a stand-in only: torchvision could not be imported on the machine that
    this was made on (its wheel needs the very build of PyTorch that it was made for), so no such network has run here.
    """

    def __init__(
        self, name: str, weights: Path, least: float = 0.5, person: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        """The model `name`, as torchvision.models.get_model knows it, with weights from a file.

        How many classes it has is taken from the file: its head has so many rows for each.

        Raises:
            ValueError: torchvision cannot be imported, has no such model, or the file does not fit it.
            FileNotFoundError: no such file.
        """
        if not weights.is_file():
            raise FileNotFoundError(f"no such file: {weights}; expected torchvision's weights of {name}")
        try:
            from torchvision.models import get_model
        except (ImportError, RuntimeError, OSError) as error:  # a wheel for another PyTorch fails in many ways
            raise ValueError(
                f"torchvision cannot be imported ({error}); install the build that was made for torch "
                f"{torch.__version__}, or use a detector in ONNX"
            ) from error
        self.least, self.person, self.device = least, person, device

        def made(**classes: int) -> Any:
            try:
                return get_model(name, weights=None, weights_backbone=None, **classes)
            except (TypeError, ValueError) as error:  # classifiers have no weights of a backbone, others are not known
                raise ValueError(f"torchvision has no detector {name}: {error}") from error

        network = made()
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            state = state.get("model", state)  # what its training script saves has more
            if (classes := classes_in(state, network.state_dict())) is not None:
                network = made(num_classes=classes)
            network.load_state_dict(state)
        except (UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
            raise ValueError(f"{weights} holds no weights of torchvision's {name}: {error}") from error
        self.network = network.to(device).eval()

    def __call__(self, frames: Frames) -> list[list[Box]]:
        """The people in each frame."""
        found = []
        for frame in frames:
            with torch.no_grad():
                (told,) = self.network([torch.from_numpy(frame).to(self.device).permute(2, 0, 1).float() / 255])
            people = (told["labels"] == self.person) & (told["scores"] >= self.least)
            corners, scores = (told[name][people].cpu().double().numpy() for name in ("boxes", "scores"))
            found.append(boxes(corners, scores, *frame.shape[:2]))
        return found


def classes_in(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int | None:
    """How many classes weights have, if not the 91 of torchvision's `own`; None: as many, or it cannot be told."""
    for name, values in own.items():
        head = name.endswith(".bias") and ("cls_score" in name or "classification_head" in name)
        if head and name in state and len(state[name]) != len(values):
            classes, rest = divmod(91 * len(state[name]), len(values))
            return None if rest else classes
    return None
