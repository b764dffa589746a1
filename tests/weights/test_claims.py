"""Files of torch.save written by hand, honest and lying: what they claim is held against what they have."""

import copyreg
import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from tubelet.weights.archive import read

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of a file before torch 1.6


class Storage:
    """A storage that claims so many values."""

    def __init__(self, count: int, key: str = "0") -> None:
        self.count, self.key = count, key


class Tensor:
    """A tensor that claims a place in it."""

    def __init__(self, storage: Storage, shape, steps, offset: int = 0) -> None:
        self.parts = storage, offset, shape, steps, False, OrderedDict()

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.parts


class Calls:
    """Calls something that torch's own reading of weights lets through."""

    def __init__(self, what, *given) -> None:
        self.what, self.given = what, given

    def __reduce__(self):
        return self.what, self.given


class Forger(pickle.Pickler):
    """Writes these as torch.save would write real ones."""

    def __init__(self, file, zipped: bool) -> None:
        super().__init__(file, protocol=2)
        self.zipped = zipped

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        return ("storage", torch.FloatStorage, value.key, "cpu", value.count, *([] if self.zipped else [None]))


def written(path: Path, value, held: bytes, zipped: bool, keys=("0",)) -> Path:
    """A file that holds `value`, and for every storage the same bytes."""
    file = io.BytesIO()
    Forger(file, zipped).dump(value)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w/data.pkl", file.getvalue())
            archive.writestr("w/version", "3\n")
            for key in keys:
                archive.writestr(f"w/data/{key}", held)
        return path
    about = {"protocol_version": VERSION, "little_endian": sys.byteorder == "little", "type_sizes": {}}
    with open(path, "wb") as out:
        for part in (MAGIC, VERSION, about):
            pickle.dump(part, out, protocol=2)
        out.write(file.getvalue())
        pickle.dump(list(keys), out, protocol=2)
        for _ in keys:
            out.write(struct.pack("<q", len(held) // 4) + held)
    return path


@pytest.fixture(params=[True, False], ids=["zip", "before torch 1.6"])
def zipped(request) -> bool:
    return request.param


VALUES = struct.pack("<6f", *range(6))


def test_what_is_written_by_hand_is_a_real_file(tmp_path, zipped):
    one = Storage(6)
    held = {"model": {"a": Tensor(one, (2, 3), (3, 1)), "b": Tensor(one, (2,), (2,), 1)}}
    file = written(tmp_path / "w.pth", held, VALUES, zipped)
    for state in (torch.load(file, weights_only=True)["model"], read(file).state):
        assert state["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert state["b"].tolist() == [1, 3]


HUGE = 10**12 // 4  # values of a storage of 1 TB
LIES = {
    "a storage": (Tensor(Storage(HUGE), (2, 3), (3, 1)), "claims 10000000000.. bytes for its .*, but holds (24|32) "),
    "a storage and all of it": (Tensor(Storage(HUGE), (HUGE,), (1,)), "claims 10000000000.. bytes .*but holds (24|32)"),
    "a storage that nobody looks at": (Storage(HUGE), "claims 10000000000.. bytes for its .*, but holds (24|32) "),
    "a shape": (Tensor(Storage(6), (HUGE,), (1,)), "claims 1000000000000 bytes of a storage of 24; it was refused"),
    "one value many times": (Tensor(Storage(6), (HUGE, 1), (0, 1)), "claims 1000000000000 bytes of a storage of 24"),
    "steps": (Tensor(Storage(6), (2,), (HUGE,)), "claims 1000000000004 bytes of a storage of 24"),
    "an offset": (Tensor(Storage(6), (2,), (1,), 5), "offset 5 that claims 28 bytes of a storage of 24"),
    "an offset below": (Tensor(Storage(6), (2,), (1,), -1), "offset -1 that claims"),
    "a shape below": (Tensor(Storage(6), (-2, -3), (3, 1)), r"shape \(-2, -3\)"),
    "a storage below": (Tensor(Storage(-6), (1,), (1,)), "claims 4 bytes of a storage of -24"),
    "too little": (Tensor(Storage(7), (7,), (1,)), r"claims (28|36) bytes for its .*, but holds (24|32) "),
    "a storage that is not there": ({"a": Storage(6), "b": Storage(6, "1")}, r"claims (24|64) bytes .*holds (0|32) "),
}


@pytest.mark.parametrize(("held", "message"), LIES.values(), ids=LIES)
def test_a_claim_beyond_the_file_is_refused_with_numbers_before_torch_reads_it(
    tmp_path, monkeypatch, zipped, held, message
):
    file = written(tmp_path / "w.pth", {"model": {"a": held}}, VALUES, zipped)
    assert file.stat().st_size < 2000
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("torch was asked to read it"))
    with pytest.raises(ValueError, match=rf"w\.pth .*{message}"):
        read(file)


CALLS = {
    "torch.FloatTensor": Calls(torch.FloatTensor, 1000),
    "torch._utils._rebuild_meta_tensor_no_storage": Calls(
        torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (10**9,), (1,), False
    ),
    "bytearray": Calls(bytearray, 1000),
    "_reconstructor": Calls(copyreg._reconstructor, dict, object, None),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_would_take_memory_by_being_called_is_refused_by_its_name(tmp_path, monkeypatch, zipped, name):
    file = written(tmp_path / "w.pth", {"a": Tensor(Storage(6), (6,), (1,)), "b": CALLS[name]}, VALUES, zipped)
    monkeypatch.setattr(torch, "load", lambda *args, **more: pytest.fail("torch was asked to read it"))
    with pytest.raises(ValueError, match=rf"wants code to run or classes to be made \(.*{name}\)"):
        read(file)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\x80\x05\x96" + (10**12).to_bytes(8, "little") + b".", "150"),  # a bytearray of 1 TB
        (b"\x80\x04\x8e" + (10**12).to_bytes(8, "little") + b".", "EOFError"),  # bytes of 1 TB, which do not follow
        (b"\x80\x02K\x00r\xff\xff\xff\xff.", "EOFError"),  # place 4294967295 of its memory
        (b"\x80\x02.", "IndexError|pop from empty list"),
        (b"\x80\x02(((", "EOFError"),
    ],
)
def test_a_pickle_that_announces_what_does_not_come_is_refused(tmp_path, text, why):
    (tmp_path / "w.pth").write_bytes(text)
    with pytest.raises(ValueError, match=rf"w\.pth cannot be read \(.*({why}).*\); is it whole\?"):
        read(tmp_path / "w.pth")


def test_tensors_that_are_not_dense_are_refused_by_name(tmp_path, zipped):
    sparse = {"a": torch.eye(3).to_sparse()}
    torch.save(sparse, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"_rebuild_sparse_tensor"):
        read(tmp_path / "w.pth")


def test_parameters_and_kinds_of_numbers_are_read(tmp_path, zipped):
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    kinds += [torch.uint16] if zipped else []  # torch itself reads none of these in its older files
    held = {str(kind): torch.ones(2, 3).to(kind) for kind in kinds} | {"number": torch.tensor(3.0)}
    held |= {"parameter": torch.nn.Parameter(torch.ones(4)), "part": torch.arange(12.0).view(3, 4).T[1:, ::2]}
    torch.save({"state_dict": held}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    state = read(tmp_path / "w.pth").state
    assert state.keys() == held.keys()
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in held.items())
