"""OpenCV's people detector: a drawn person, its score, a street, and what is told where packages are missing."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tubelet.data.overlaps import iou
from tubelet.data.people import Hog, detector_of
from tubelet.data.stream import in_order
from tubelet.data.video import probe


def walker(height: int, size: tuple[int, int] = (240, 320), middle: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """A drawn person, dark before a bright wall: head, trunk, arms and two legs apart."""
    import cv2

    frame = np.full((*size, 3), 200, np.uint8)
    frame += np.random.default_rng(0).integers(0, 12, frame.shape, dtype=np.uint8)
    x, top = middle[0] * size[1], middle[1] * size[0] - height / 2

    def part(points):
        cv2.fillPoly(
            frame, [np.round([(x + a * height, top + b * height) for a, b in points]).astype(int)], (40, 40, 45)
        )

    cv2.circle(frame, (round(x), round(top + 0.07 * height)), round(0.065 * height), (60, 50, 50), -1)
    part([(-0.11, 0.16), (0.11, 0.16), (0.09, 0.55), (-0.09, 0.55)])
    part([(-0.13, 0.17), (-0.1, 0.17), (-0.14, 0.5), (-0.17, 0.48)])
    part([(0.1, 0.17), (0.13, 0.17), (0.17, 0.48), (0.14, 0.5)])
    part([(-0.09, 0.53), (0.0, 0.53), (-0.06, 1.0), (-0.13, 1.0)])
    part([(0.0, 0.53), (0.09, 0.53), (0.13, 1.0), (0.06, 1.0)])
    return frame


@pytest.mark.parametrize(("height", "middle"), [(100, (0.5, 0.5)), (160, (0.3, 0.55)), (225, (0.6, 0.5))])
def test_hog_finds_a_drawn_person(height, middle):
    frame = walker(height, middle=middle)
    (found,) = Hog(least=0.3, short=360)(frame[None])
    true = np.array([[middle[0] - 0.17 * height / 320, middle[1] - height / 480, middle[0] + 0.17 * height / 320,
                      middle[1] + height / 480]])  # fmt: skip
    assert found
    assert iou(true.clip(0, 1), np.array([found[0].corners]))[0, 0] > 0.6
    assert 0.3 <= found[0].score < 1


def test_hog_s_score_is_the_stated_function_of_the_weight():
    import cv2

    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
    frame = walker(160)
    (found,) = Hog(least=0.0, short=240)(frame[None])
    bgr = cv2.copyMakeBorder(frame[..., ::-1].copy(), 40, 40, 0, 0, cv2.BORDER_REPLICATE)
    _, weights = hog.detectMultiScale(bgr, 0, (8, 8), (8, 8), 1.1, 0)
    assert found[0].score == pytest.approx(1 - np.exp(-np.max(weights)))
    strict = Hog(least=found[0].score - 0.01, short=240)(frame[None])[0]
    assert strict[0] == found[0]
    assert all(box.score >= found[0].score - 0.01 for box in strict)


def test_hog_finds_nobody_on_a_wall_and_takes_any_size():
    assert Hog(short=240)(np.full((2, 90, 120, 3), 128, np.uint8)) == [[], []]
    assert Hog(short=96)(np.full((1, 16, 100, 3), 128, np.uint8)) == [[]]
    assert Hog(short=64)(np.full((1, 200, 40, 3), 128, np.uint8)) == [[]]


def test_without_opencv_or_with_its_version_5_it_is_said_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(ValueError, match=r"OpenCV 5.0.0 has no people detector, which version 5 dropped.*<5"):
        detector_of("hog")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install 'tubelet\[detect\]'"):
        detector_of("hog")


def test_without_onnxruntime_it_is_said_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'tubelet\[detect\]'"):
        detector_of(str(tmp_path / "a.onnx"))


def test_hog_finds_the_people_of_a_street(real):
    video = probe(real / "everyday" / "opencv_vtest.avi")
    found = [Hog()(frame[None])[0] for _, frame in in_order(video, np.array([79, 333, 715]))]
    assert [len(boxes) for boxes in found] == pytest.approx([6, 6, 7], abs=1)  # counted by eye: 7, 6 and 9 people
