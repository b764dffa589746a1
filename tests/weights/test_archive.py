"""Files that may be read and files that must not: pickles that run code, headers that lie, archives with tricks."""

import argparse
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tubelet.weights.archive import read, safe

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def same(state: dict[str, Tensor]) -> bool:
    return list(state) == list(TENSORS) and all(torch.equal(state[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("place", ["beside", "inside", "alone"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, zipped, place):
    mark, file = tmp_path / "ran", tmp_path / "weights.pth"
    evil = Evil(mark)
    if place == "alone":
        file.write_bytes(pickle.dumps(evil, protocol=2 if zipped else 4))
    else:
        held = {"model": TENSORS, "hook": evil} if place == "beside" else {"model": TENSORS | {"a.hook": evil}}
        torch.save(held, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"weights\.pth does not only hold tensors: .*It was refused.*safetensors"):
        read(file)
    assert not mark.exists()
    pickle.loads(pickle.dumps(evil))
    assert mark.exists()  # it was a real one


@pytest.mark.parametrize("zipped", [True, False])
def test_settings_and_numbers_beside_the_weights_do_no_harm(tmp_path, zipped):
    held = {"model": TENSORS, "args": argparse.Namespace(lr=0.1), "best": np.float64(81.5), "epoch": 3}
    torch.save(held, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "w.pth")
    assert same(found.state)
    assert found.notes == ("read 'model'; beside it and not used: args, best, epoch",)


@pytest.mark.parametrize("container", ["model", "module", "model_state", "state_dict", "encoder", "target_encoder"])
def test_containers_are_unwrapped(tmp_path, container):
    torch.save({"epoch": 1, container: TENSORS}, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    assert same(found.state)
    assert f"read '{container}'" in found.notes[0]


def test_of_two_encoders_the_target_is_read(tmp_path):
    torch.save({"encoder": {"a": torch.zeros(1)}, "target_encoder": TENSORS}, tmp_path / "w.pt")
    assert same(read(tmp_path / "w.pt").state)


BESIDE = {
    "statistics": ({"mean": torch.zeros(3), "std": torch.ones(3)}, "mean (a tensor), std (a tensor)"),
    "an optimiser": ({"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "epoch": 3}, "optimizer, epoch"),
    "tensors by name": ({"optimizer": {"exp_avg": torch.zeros(3)}}, "optimizer"),
    "another network": (
        {"discriminator": {"b": torch.zeros(3)}, "step": torch.tensor(3)},
        "discriminator, step (a tensor)",
    ),
    "ten of them": ({f"{n}": n for n in range(10)}, "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
}


@pytest.mark.parametrize(("beside", "said"), BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
def test_what_lies_beside_a_container_does_not_hide_it_and_is_said(tmp_path, beside, said, first):
    held = beside | {"model": TENSORS} if first else {"model": TENSORS} | beside
    torch.save(held, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    assert same(found.state)
    assert found.notes == (f"read 'model'; beside it and not used: {said}",)


@pytest.mark.parametrize(
    "empty", ["vit_base", {}, {"width": 64}, [TENSORS]], ids=["a word", "nothing", "settings", "a list"]
)
def test_a_container_is_one_only_if_tensors_lie_in_it(tmp_path, empty):
    torch.save({"model": empty, "state_dict": {"module": TENSORS}}, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    assert same(found.state)
    assert found.notes == ("read 'state_dict'; beside it and not used: model", "read 'module'")


def test_a_pickle_that_holds_itself_comes_to_an_end(tmp_path):
    held = {"a": torch.ones(1)}
    held["model"] = held
    torch.save(held, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    assert list(found.state) == ["a"]
    assert "model is no tensor (dict) and was not used" in found.notes
    empty: dict = {}
    empty["model"] = empty
    torch.save(empty, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds no weights that are known"):
        read(tmp_path / "w.pt")


def test_prefixes_of_wrappers_come_off(tmp_path):
    names = {"a.weight": "module._orig_mod.a.weight", "a.bias": "backbone.a._orig_mod.bias"}
    save_file({names[name]: value for name, value in TENSORS.items()}, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors")
    assert {name: value.tolist() for name, value in found.state.items()} == {
        name: value.tolist() for name, value in TENSORS.items()
    }
    assert sorted(found.notes) == [
        "took '_orig_mod.' off 2 names",
        "took 'backbone.' off 1 names",
        "took 'module.' off 1 names",
    ]


def test_names_that_fall_together_are_refused(tmp_path):
    save_file({"module.a": torch.ones(1), "backbone.a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="two tensors are called a once the prefixes"):
        read(tmp_path / "w.safetensors")


def test_deepspeed_folders_are_read_and_do_not_lead_away(tmp_path):
    (tmp_path / "run" / "tag").mkdir(parents=True)
    torch.save({"module": TENSORS, "dp_world_size": 8}, tmp_path / "run" / "tag" / "mp_rank_00_model_states.pt")
    (tmp_path / "run" / "latest").write_text("tag\n")
    assert same(read(tmp_path / "run").state)
    assert same(read(tmp_path / "run" / "tag").state)
    for name in OUTSIDE[:-1]:
        (tmp_path / "run" / "latest").write_text(name)
        with pytest.raises(ValueError, match=r"leads out of its folder, to .*give the file of weights itself"):
            read(tmp_path / "run")


def test_weights_that_deepspeed_spread_out_are_refused(tmp_path):
    torch.save({"module": {"a.weight": torch.empty(0)}}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"a\.weight is empty.*zero_to_fp32"):
        read(tmp_path / "w.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_claims_more_than_the_file_is_refused(tmp_path, zipped):
    huge = torch.ones(3).expand(10**12, 3)  # 12 TB of one row
    torch.save({"a": huge}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"claims 12000000000000 bytes of a storage of 12; it was refused"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, "a claims 4000000000000 bytes"),
        ({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}}, "a claims 4000000000000 bytes"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "claims"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "damaged header"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]}}, "damaged header .*a has no place"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, "damaged header .*a has no place"),
        ({"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}, "damaged header .*a has no place"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, "cannot be read as safetensors"),
    ],
)
def test_safetensors_whose_header_lies_are_refused(tmp_path, header, message):
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "w.safetensors")


def test_a_header_longer_than_the_file_is_refused_unread(tmp_path):
    (tmp_path / "w.safetensors").write_bytes((10**15).to_bytes(8, "little") + b'{"a":1}')
    with pytest.raises(ValueError, match="claims a header of 1000000000000000 bytes, but has 15"):
        read(tmp_path / "w.safetensors")


def test_files_that_are_cut_off_are_refused(tmp_path):
    save_file(TENSORS, tmp_path / "w.safetensors")
    torch.save({"model": TENSORS}, tmp_path / "w.pth")
    for file in (tmp_path / "w.safetensors", tmp_path / "w.pth"):
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(ValueError, match=r"cut off|damaged"):
            read(file)


def rezipped(file: Path, change) -> None:
    """Writes an archive anew, its members as `change(name, bytes) -> (name, bytes, compression)` says."""
    with zipfile.ZipFile(file) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(file, "w") as new:
        for name, data in members:
            name, data, kind = change(name, data)
            new.writestr(zipfile.ZipInfo(name), data, kind)


OUTSIDE = [
    "../model-3.safetensors",
    "/etc/passwd",
    "sub/../../x",
    "C:\\x.safetensors",
    "\\\\host\\x",
    "sub/x.safetensors",
]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\evil", "\\\\host\\evil", "a/../../b"])
def test_archives_with_path_tricks_are_refused(tmp_path, name):
    torch.save(TENSORS, tmp_path / "w.pth")
    rezipped(tmp_path / "w.pth", lambda old, data: (name if old.endswith("/0") else old, data, zipfile.ZIP_STORED))
    with pytest.raises(ValueError, match="leads out of the archive; it was refused"):
        read(tmp_path / "w.pth")
    assert not safe(name)


def test_archives_with_doubled_members_or_code_or_false_sizes_are_refused(tmp_path):
    file = tmp_path / "w.pth"
    torch.save(TENSORS, file)
    rezipped(file, lambda name, data: (name.replace("/data/1", "/constants.pkl"), data, zipfile.ZIP_STORED))
    with pytest.raises(ValueError, match="is a TorchScript program; save its state dict instead"):
        read(file)
    torch.save(TENSORS, file)
    with pytest.warns(UserWarning, match="Duplicate name"):
        rezipped(file, lambda name, data: (name.replace("/data/1", "/data/0"), data, zipfile.ZIP_STORED))
    with pytest.raises(ValueError, match="has two members of one name; it was refused"):
        read(file)
    torch.save(TENSORS, file)
    data = bytearray(file.read_bytes())
    place = data.index(b"PK\x01\x02") + 24  # how large the first member says it is
    data[place : place + 4] = (4_000_000_000).to_bytes(4, "little")
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"claims 400000\d{4} bytes in its members, but has \d+; it was refused"):
        read(file)


def test_damage_that_zip_and_torch_have_other_words_for_is_said_to_be_damage(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pth")
    data = bytearray((tmp_path / "w.pth").read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 200  # the version of zip that it takes
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.pth is a damaged archive \(zip file version 20"):
        read(tmp_path / "w.pth")
    torch.save(TENSORS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pth").read_bytes()
    key = str(next(iter(TENSORS.values())).untyped_storage()._cdata).encode()
    assert data.count(key) == 2  # where the tensor is, and in the list of storages
    (tmp_path / "old.pth").write_bytes(data[::-1].replace(key[::-1], b"0" * len(key), 1)[::-1])
    with pytest.raises(ValueError, match=r"old\.pth cannot be read \(.*; is it whole\?"):
        read(tmp_path / "old.pth")


def test_compressed_archives_are_refused(tmp_path):
    torch.save(TENSORS, tmp_path / "w.pth")
    rezipped(tmp_path / "w.pth", lambda name, data: (name, data, zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="compressed archive"):
        read(tmp_path / "w.pth")


def test_what_is_no_weights_is_named(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(ValueError, match=r"neither safetensors nor a file of torch\.save.*git-lfs"):
        read(tmp_path / "page.pth")
    torch.save({"optimizer": {"state": {}}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds no weights that are known"):
        read(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match=r"holds none of model\.safetensors"):
        read(tmp_path)


def test_sharded_weights_are_put_together_and_stay_in_their_folder(tmp_path):
    files = {"a.weight": "model-1.safetensors", "a.bias": "model-2.safetensors"}
    for name, file in files.items():
        save_file({name: TENSORS[name]}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    assert same({name: read(tmp_path).state[name] for name in TENSORS})
    for listed, error, message in (
        (files | {"c": "model-2.safetensors"}, ValueError, "disagree about 1 tensors, as c"),
        (files | {"c": "model-3.safetensors"}, FileNotFoundError, "lists model-3.safetensors, which is not there"),
        *((files | {"c": name}, ValueError, "leads out of its folder, to .*it was not followed") for name in OUTSIDE),
        ({}, ValueError, "has no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(error, match=message):
            read(tmp_path)


def test_safetensors_are_mapped_and_not_copied(tmp_path):
    save_file({"a": torch.zeros(64, 1024, 1024)}, tmp_path / "w.safetensors")  # 256 MB

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    state = read(tmp_path / "w.safetensors").state
    assert resident() - before < 64e6
    assert not state["a"][-1, -1, -1]
