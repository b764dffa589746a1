"""What a run records of its files."""

import hashlib
import os

from tubelet.data.datasets import Data, Dataset
from tubelet.data.sampling import Dense
from tubelet.data.sources import Item
from tubelet.train.folder import fingerprint


def test_files_are_known_again_by_name_size_part_and_order(tmp_path):
    """The same bytes as ever, or runs of before could not be resumed."""
    (tmp_path / "a.mp4").write_bytes(b"12345")
    (tmp_path / "frames").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "gone.mp4")
    items = [Item(tmp_path / name) for name in ("a.mp4", "frames", "gone.mp4", "a.mp4/b.mp4")]
    items += [Item(tmp_path / "a.mp4", "label", 1.5, None)]
    text = "a.mp4 5\nframes missing\ngone.mp4 missing\nb.mp4 missing\na.mp4 5 1.5 None\n"
    found = fingerprint(Dataset(items, Data(Dense(4))))
    assert found == {"videos": 5, "places": 5, "digest": hashlib.sha256(text.encode()).hexdigest()}
