"""Labels as numbers, against loops written from what the kinds mean."""

import numpy as np
import pytest
import torch

from tubelet.data.items import Item
from tubelet.data.labels import Labels


def items(folder, *labels: str | None) -> list[Item]:
    return [Item(folder / f"{number}.mp4", label) for number, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        ("class", ["b", "a", "c", "a"]),
        ("classes", ["a|b", None, "c|c", ""]),
        ("shares", ["a:1|b:3", "c:2", "a:0.25|b:0.5|a:0.25"]),
    ],
)
def test_a_row_has_the_share_of_every_class(tmp_path, kind, labels):
    names = ("a", "b", "c")
    expected = np.zeros((len(labels), 3))
    for row, label in enumerate(labels):
        entries = [part.partition(":") for part in (label or "").split("|") if part]
        if kind == "classes":
            entries = list(dict.fromkeys(entries))
        total = sum(float(share or 1) for _, _, share in entries) if kind == "shares" else 1
        for name, _, share in entries:
            expected[row, names.index(name)] += float(share or 1) / total
    table = Labels(kind, names).encode(items(tmp_path, *labels))
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table.numpy(), expected, rtol=1e-6)


def test_values_are_shifted_and_divided(tmp_path):
    labels = Labels("values", ("speed", "turn"), (1.0, -2.0), (2.0, 4.0))
    assert labels.encode(items(tmp_path, "3|2", "1|-2")).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert labels.encode([]).shape == (0, 2)


def test_unknown_classes_are_counted(tmp_path):
    with pytest.raises(ValueError, match=r"label 'hop' of 2 videos, and 1 other such labels is not in the class list"):
        Labels("class", ("run",)).encode(items(tmp_path, "hop", "run", "hop", "sit"))
