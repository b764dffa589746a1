"""Detectors: each convention of outputs by a network that says just that, boxes back in shares, and what is told."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tubelet.data import people
from tubelet.data.detector_heads import cells, recognised
from tubelet.data.keyframes import Box
from tubelet.data.people import Onnx, Torchvision, detector_of, letterboxed

SIZE = (64, 96)  # of the input: height, width
TRUE = np.array([[10.0, 8, 26, 40], [50, 16, 70, 60]])  # corners, in pixels of the input
SCORES = np.array([0.9, 0.7])
FRAME = np.zeros((1, 64, 96, 3), np.uint8)  # fills the input
KINDS = {"float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


def centres(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def shares(corners: np.ndarray) -> np.ndarray:
    return corners / (SIZE[1], SIZE[0], SIZE[1], SIZE[0])


def network(path, outputs, *, shape=(1, 3, *SIZE), kind="float", beside=(), names=None):
    """A network that gives these outputs, whatever comes in."""
    inputs = [helper.make_tensor_value_info("images", KINDS[kind], shape)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, form) for name, form in beside]
    kinds = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in outputs.items()}
    told = [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in outputs.items()]
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, told), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    if names is not None:
        helper.set_model_props(model, {"names": str(names)})
    onnx.save(model, path)
    return path


def hot(classes: int, person: int, other: int = 3) -> np.ndarray:
    """Chances of the two boxes: the first is sure to be a person, the second less; a third is something else."""
    table = np.full((3, classes), 0.01, np.float32)
    table[0, person], table[1, person], table[2, other] = 0.9, 0.7, 0.95
    return table


ALL = np.concatenate([TRUE, [[30, 30, 40, 40]]]).astype(np.float32)  # the third is no person
COUNT = cells(SIZE)[0]


def padded(table: np.ndarray, rows: int, at: tuple[int, ...] = (5, 77, 100)) -> np.ndarray:
    """The rows of a table among others that are nothing."""
    full = np.zeros((rows, table.shape[1]), np.float32)
    full[list(at)] = table
    return full


def yolo(objectness: bool, person: int = 0, classes: int = 80) -> np.ndarray:
    chances = hot(classes, person)
    if objectness:  # chance of a thing times chance of the class
        chances = np.concatenate([np.full((3, 1), 0.95, np.float32), chances / 0.95], axis=1)
    return np.concatenate([centres(ALL), chances], axis=1)


def logit(chances: np.ndarray) -> np.ndarray:
    return np.log(chances / (1 - chances)).astype(np.float32)


def with_none(chances: np.ndarray) -> np.ndarray:
    """Logits whose softmax, with a last class of nothing, gives these chances."""
    return np.log(np.concatenate([chances, 1 - chances.sum(1, keepdims=True)], axis=1)).astype(np.float32) + 2


few = hot(91, 1) * np.where(hot(91, 1) < 0.1, 1e-3, 1).astype(np.float32)  # sums below 1
score, number = np.array([0.9, 0.7, 0.95], np.float32), np.array([0, 0, 3])
HEADS = {
    "YOLOv8": {"output0": yolo(False)},
    "YOLOv5": {"output": yolo(True)},
    "YOLOv6": {"outputs": yolo(True)},
    "v10": {"output0": np.concatenate([ALL, score[:, None], number[:, None]], axis=1)[None].astype(np.float32)},
    "v10 in shares": {
        "output0": np.concatenate([shares(ALL), score[:, None], number[:, None]], axis=1)[None].astype(np.float32)
    },
    "Ultralytics' RT-DETR": {"output0": np.concatenate([shares(centres(ALL)), hot(80, 0)], axis=1)[None]},
    "torchvision": {"2801": ALL, "2799": number + 1, "2800": score},
    "SSD of the zoo": {
        "bboxes": shares(ALL)[None].astype(np.float32),
        "labels": number[None] + 1,
        "scores": score[None],
    },
    "TensorFlow": {
        "detection_anchor_indices": np.zeros((1, 3), np.float32),
        "detection_boxes": shares(ALL)[None][..., [1, 0, 3, 2]].astype(np.float32),
        "detection_classes": (number + 1)[None].astype(np.float32),
        "detection_multiclass_scores": hot(91, 1)[None],
        "detection_scores": score[None],
        "num_detections": np.array([3], np.float32),
        "raw_detection_boxes": np.zeros((1, 20, 4), np.float32),
    },
    "DETR": {"logits": with_none(few)[None], "pred_boxes": shares(centres(ALL))[None].astype(np.float32)},
    "RT-DETR": {"logits": logit(hot(80, 0))[None], "pred_boxes": shares(centres(ALL))[None].astype(np.float32)},
    "RF-DETR": {"dets": shares(centres(ALL))[None].astype(np.float32), "labels": logit(hot(91, 1))[None]},
}
HEADS["YOLOv8"]["output0"] = padded(HEADS["YOLOv8"]["output0"], COUNT).T[None].copy()
HEADS["YOLOv5"]["output"] = padded(HEADS["YOLOv5"]["output"], 3 * COUNT)[None]
HEADS["YOLOv6"]["outputs"] = padded(HEADS["YOLOv6"]["outputs"], COUNT)[None]


def near(found: list[Box], corners: np.ndarray = TRUE, scores: np.ndarray = SCORES, within: float = 1e-4) -> None:
    assert np.array([box.corners for box in found]).reshape(-1, 4) == pytest.approx(shares(corners), abs=within)
    assert [box.score for box in found] == pytest.approx(scores.tolist(), abs=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_every_convention_says_where_people_are(head, tmp_path):
    outputs = HEADS[head]
    detector = Onnx(network(tmp_path / "a.onnx", outputs))
    (found,) = detector(FRAME)
    near(found)
    assert "pixels, people are class" in str(detector)


@pytest.mark.parametrize("head", HEADS)
def test_in_half_precision_too(head, tmp_path):
    outputs = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value for name, value in HEADS[head].items()
    }
    (found,) = Onnx(network(tmp_path / "a.onnx", outputs, kind="float16"))(FRAME)
    assert np.array([box.corners for box in found]) == pytest.approx(shares(TRUE), abs=5e-3)


def test_the_size_of_the_picture_as_an_input_means_that_people_are_0(tmp_path):
    outputs = {"labels": number[None], "boxes": ALL[None], "scores": score[None]}
    path = network(tmp_path / "a.onnx", outputs, beside=[("orig_target_sizes", [1, 2])])
    near(Onnx(path)(FRAME)[0])


def test_a_mask_of_pixels_as_an_input(tmp_path):
    path = network(tmp_path / "a.onnx", HEADS["DETR"], beside=[("pixel_mask", ["batch", 64, "width"])])
    near(Onnx(path)(FRAME)[0])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_torchvision_s_lists_of_any_length(count, tmp_path):
    outputs = {"boxes": ALL[:count], "labels": number[:count] + 1, "scores": score[:count]}
    near(Onnx(network(tmp_path / "a.onnx", outputs))(FRAME)[0], TRUE[:count], SCORES[:count])


def test_names_in_the_file_say_which_class_people_are_and_where_classes_end(tmp_path):
    table = np.concatenate([yolo(False, person=2, classes=5), np.full((3, 32), -7, np.float32)], axis=1)  # masks behind
    names = {0: "car", 1: "dog", 2: "Person", 3: "cat", 4: "bus"}
    outputs = {"output0": padded(table, COUNT).T[None].copy(), "output1": np.zeros((1, 32, 16, 24), np.float32)}
    detector = Onnx(network(tmp_path / "a.onnx", outputs, names=names))
    near(detector(FRAME)[0])
    assert "class 2" in str(detector)
    with pytest.raises(ValueError, match="knows car, dog, and no person"):
        Onnx(network(tmp_path / "b.onnx", HEADS["YOLOv8"], names=["car", "dog"]))


def test_the_class_of_people_can_be_said(tmp_path):
    path = network(tmp_path / "a.onnx", {"output0": padded(yolo(False, person=7), COUNT).T[None].copy()})
    assert Onnx(path)(FRAME) == [[]]
    near(Onnx(path, person=7)(FRAME)[0])


def test_boxes_of_one_person_become_one(tmp_path):
    table = yolo(False)
    table[2] = table[0]
    table[2, :2] += 1
    table[2, 4] = 0.8
    path = network(tmp_path / "a.onnx", {"output0": padded(table, COUNT).T[None].copy()})
    near(Onnx(path)(FRAME)[0])


def test_below_the_least_score_nobody_is_found(tmp_path):
    path = network(tmp_path / "a.onnx", HEADS["YOLOv8"])
    near(Onnx(path, least=0.8)(FRAME)[0], TRUE[:1], SCORES[:1])
    assert Onnx(path, least=0.95)(FRAME) == [[]]


def test_boxes_go_back_through_the_letterbox(tmp_path):
    """A frame of 96x48 fills the input in width by 96 x 48 of 96 x 64: 8 rows of grey above and below."""
    (found,) = Onnx(network(tmp_path / "a.onnx", HEADS["YOLOv8"]))(np.zeros((1, 96, 192, 3), np.uint8))
    moved = TRUE - (0, 8, 0, 8)
    expected = (moved / (96, 48, 96, 48)).clip(0, 1)
    assert np.array([box.corners for box in found]) == pytest.approx(expected, abs=1e-4)


def test_a_letterbox_keeps_the_whole_frame_and_its_shape():
    frame = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    picture, (top, left, height, width) = letterboxed(frame, (64, 64))
    assert picture.shape == (64, 64, 3)
    assert (top, left, height, width) == (0, 13, 64, 38)
    assert (picture[:, :13] == 114).all()
    assert (picture[:, 51:] == 114).all()
    assert abs(float(picture[:, 13:51].mean()) - float(frame.mean())) < 2
    same, window = letterboxed(frame, (50, 30))
    assert window == (0, 0, 50, 30)
    assert (same == frame).all()


def brightness(path, shape, kind, channels_last):
    """A network that finds one person whose score is the mean of the red of the left upper eighth, over 255 or not."""
    axes = [1, 2] if channels_last else [2, 3]
    start, stop, over = ([0, 0, 0], [8, 8, 1], [1, 2, 3]) if channels_last else ([0, 0, 0], [1, 8, 8], [1, 2, 3])
    constants = {
        "start": np.array(start), "stop": np.array(stop), "over": np.array(over), "axes": np.array(axes),
        "box": np.array([[[10, 8, 26, 40]]], np.float32), "label": np.array([[1]]), "shape": np.array([1, 1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["images", "start", "stop", "over"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["raw"]),
        helper.make_node("Abs", ["raw"], ["scores"]) if kind != "uint8" else
        helper.make_node("Div", ["raw", "most"], ["scores"]),
        helper.make_node("Identity", ["box"], ["boxes"]),
        helper.make_node("Identity", ["label"], ["labels"]),
    ]  # fmt: skip
    constants["most"] = np.array(255, np.float32)
    told = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 1, 4]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1, 1]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", KINDS[kind], shape)], told,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("kind", ["float", "float16", "uint8"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_come_in_as_the_input_says(kind, channels_last, tmp_path):
    shape = (1, *SIZE, 3) if channels_last else (1, 3, *SIZE)
    frame = np.zeros((1, *SIZE, 3), np.uint8)
    frame[..., 0], frame[..., 2] = 204, 50  # red 0.8
    ((box,),) = Onnx(brightness(tmp_path / "a.onnx", shape, kind, channels_last), least=0.1)(frame)
    assert box.score == pytest.approx(0.8, abs=1e-3)
    assert box.corners == pytest.approx((10 / 96, 8 / 64, 26 / 96, 40 / 64))


def test_colours_are_normalised_where_that_is_asked_for(tmp_path):
    path = brightness(tmp_path / "a.onnx", (1, 3, *SIZE), "float", False)
    frame = np.full((1, *SIZE, 3), 204, np.uint8)
    detector = Onnx(path, least=0.1, normal=((0.5, 0.5, 0.5), (0.4, 0.2, 0.2)))
    ((box,),) = detector(frame)
    assert box.score == pytest.approx((0.8 - 0.5) / 0.4, abs=1e-4)


def test_an_input_of_any_size_gets_640(tmp_path):
    path = network(tmp_path / "a.onnx", HEADS["torchvision"], shape=("batch", "colours", "height", "width"))
    detector = Onnx(path)
    assert detector.size == (640, 640)
    path = network(tmp_path / "b.onnx", HEADS["torchvision"], shape=(3, "height", "width"))
    (found,) = Onnx(path)(np.zeros((1, 640, 640, 3), np.uint8))
    assert found[0].corners == pytest.approx((TRUE[0] / 640).tolist())


@pytest.mark.parametrize(
    ("outputs", "word"),
    [
        ({"features": np.zeros((1, 7), np.float32)}, "follow no convention"),
        ({"boxes": np.full((1, 9, 4), 30, np.float32), "scores": np.zeros((1, 9, 80), np.float32)}, "no convention"),
        ({"output": padded(yolo(True) * 3, COUNT)[None]}, "its scores are 0 to"),
        ({"output": padded(-yolo(True), COUNT)[None]}, "scores are|boxes decoded"),
        ({"output": np.full((1, COUNT, 85), np.nan, np.float32)}, "NaN"),
    ],
)
def test_what_is_not_understood_is_told_with_the_network_s_inputs_and_outputs(outputs, word, tmp_path):
    with pytest.raises(ValueError, match=word) as told:
        Onnx(network(tmp_path / "a.onnx", outputs))
    assert "inputs images tensor(float) [1, 3, 64, 96]; outputs" in str(told.value)


def test_inputs_that_are_not_understood_are_told(tmp_path):
    path = network(tmp_path / "a.onnx", HEADS["v10"], beside=[("scale_factor", [1, 2])])
    with pytest.raises(ValueError, match=r"inputs are not understood.*scale_factor"):
        Onnx(path)
    with pytest.raises(ValueError, match="inputs are not understood"):
        Onnx(network(tmp_path / "b.onnx", HEADS["v10"], shape=(1, 300)))


def test_undecoded_cells_are_told():
    table = np.zeros((COUNT, 85), np.float32)
    table[:, 2:4] = -1.2
    with pytest.raises(ValueError, match="YOLOX"):
        recognised({"output": table[None]}, SIZE)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        detector_of(str(tmp_path / "no.onnx"))
    (tmp_path / "text.onnx").write_text("I am a letter")
    with pytest.raises(ValueError, match="cannot be opened by onnxruntime"):
        detector_of(str(tmp_path / "text.onnx"))


# ---------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("yolo", {}, "no detector 'yolo'"),
        ("torchvision:ssd", {}, "torchvision:NAME:WEIGHTS"),
        ("hog", {"person": 1}, "hog knows people alone"),
        ("hog", {"least": 1.5}, "expected 0 to 1"),
        ("torchvision:a:b", {"normal": ((0,) * 3, (1,) * 3)}, "normalise colours themselves"),
    ],
)
def test_names_that_cannot_be_used_are_told(name, settings, word):
    with pytest.raises(ValueError, match=word):
        detector_of(name, **settings)


# ---------------------------------------------------------------------------- torchvision


class Stand(nn.Module):
    """What a detector of torchvision gives, as its documentation says; its head has a row for each class."""

    def __init__(self, classes: int = 91) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(3))
        self.cls_score = nn.Linear(1, 3 * classes)

    def forward(self, images):
        (image,) = images
        assert image.shape == (3, 64, 96)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        assert not self.training
        return [{"boxes": torch.from_numpy(ALL), "labels": torch.tensor([1, 1, 3]), "scores": self.scores * 1}]


@pytest.fixture
def torchvision(monkeypatch):
    def get_model(name, weights, weights_backbone, num_classes=91):
        if name != "ssd":
            raise TypeError("ResNet.__init__() got an unexpected keyword argument 'weights_backbone'")
        assert (weights, weights_backbone) == (None, None)
        return Stand(num_classes)

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "torchvision.models", SimpleNamespace(get_model=get_model))


@pytest.mark.parametrize(("nested", "classes"), [(False, 91), (True, 91), (False, 2)])
def test_torchvision_s_detectors_are_asked_as_they_want_to_be(torchvision, tmp_path, nested, classes):
    state = Stand(classes).state_dict() | {"scores": torch.from_numpy(score)}
    torch.save({"model": state, "epoch": 3} if nested else state, tmp_path / "w.pth")
    detector = detector_of(f"torchvision:ssd:{tmp_path / 'w.pth'}")
    assert isinstance(detector, Torchvision)
    on_meta = detector_of(f"torchvision:ssd:{tmp_path / 'w.pth'}", device="meta")
    assert on_meta.network.scores.is_meta
    near(detector(np.full((1, *SIZE, 3), 99, np.uint8))[0])


def test_weights_that_do_not_fit_torchvision_s_model(torchvision, tmp_path):
    torch.save({"other": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no weights of torchvision's ssd"):
        detector_of(f"torchvision:ssd:{tmp_path / 'w.pth'}")
    (tmp_path / "text.pth").write_text("I am a letter")
    with pytest.raises(ValueError, match="no weights of torchvision's ssd"):
        detector_of(f"torchvision:ssd:{tmp_path / 'text.pth'}")
    with pytest.raises(ValueError, match="torchvision has no detector resnet18"):
        detector_of(f"torchvision:resnet18:{tmp_path / 'w.pth'}")
    with pytest.raises(FileNotFoundError, match="no such file"):
        detector_of(f"torchvision:ssd:{tmp_path / 'no.pth'}")


def test_without_torchvision_it_is_said_what_to_do(monkeypatch, tmp_path):
    torch.save({}, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ValueError, match="torchvision cannot be imported"):
        detector_of(f"torchvision:ssd:{tmp_path / 'w.pth'}")


def test_boxes_are_cut_to_the_picture_and_those_outside_are_left_out():
    corners = np.array([[-5.0, 10, 20, 30], [110, 0, 130, 20], [40, 40, 40, 50], [40, 40, 40.00001, 50]])
    (box,) = people.boxes(corners, np.array([0.5, 0.9, 0.8, 0.7]), 50, 100)
    assert box == replace(Box((0.0, 0.2, 0.2, 0.6)), score=0.5)
