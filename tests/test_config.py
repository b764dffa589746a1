"""Runs: to JSON and back, look-up with suggestions, what follows from them, and where two differ."""

import json
from dataclasses import replace

import pytest
import torch

from tubelet.config import Optim, Run, Training, differences, from_json, numbers, parts_of, preset, to_json
from tubelet.data.augment import RandAugment
from tubelet.data.datasets import Data
from tubelet.data.sampling import Dense, Spread
from tubelet.masks.random_masks import Tube
from tubelet.methods import PRESETS
from tubelet.methods.masked import Masked
from tubelet.methods.videomae import k400_b
from tubelet.nn.vit import SIZES


def a_run(**training) -> Run:
    return Run(
        SIZES["s"], Masked(), Data(clip=Dense(16, stride=4)), Optim(), Training(**{"epochs": 10, "batch": 8} | training)
    )


# ---------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json_and_fits_its_grid(name):
    run = preset(name)
    again = from_json(to_json(run))
    assert again == run
    assert type(again.method) is type(run.method)
    assert isinstance(again.data.size, tuple)
    assert run.grid().tokens > 0
    assert numbers(run, 10_000).lr > 0


@pytest.mark.parametrize(
    ("name", "size", "ratio", "stride", "batch", "epochs", "base_lr", "depth"),
    [
        ("videomae-k400-s", "s", 0.9, 4, 1024, 1600, 1.5e-4, 4),
        ("videomae-k400-b", "b", 0.9, 4, 2048, 1600, 1.5e-4, 4),
        ("videomae-k400-l", "l", 0.9, 4, 512, 1600, 1.5e-4, 12),
        ("videomae-k400-h", "h", 0.9, 4, 1024, 1600, 1.5e-4, 12),
        ("videomae-ssv2-s", "s", 0.9, 2, 2048, 2400, 1.5e-4, 4),
        ("videomae-ssv2-b", "b", 0.9, 2, 2048, 2400, 1.5e-4, 4),
        ("videomae-ucf101-b", "b", 0.75, 4, 192, 3200, 3e-4, 4),
    ],
)
def test_recipes_are_the_released_scripts(name, size, ratio, stride, batch, epochs, base_lr, depth):
    run = preset(name)
    assert replace(run.encoder, checkpoint=False) == SIZES[size]
    assert (run.method.mask, run.method.decoder.depth) == (Tube(ratio), depth)
    assert (run.data.clip.frames, run.data.clip.stride, run.data.size, run.data.flip) == (16, stride, (224, 224), 0)
    assert (run.training.batch, run.training.epochs) == (batch, epochs)
    o = run.optim
    assert (o.base_lr, o.min_lr, o.warmup, o.betas, o.weight_decay, o.clip) == (
        base_lr,
        1e-5,
        40,
        (0.9, 0.95),
        0.05,
        None,
    )


@pytest.mark.parametrize(
    ("typo", "meant"), [("videomae-k400-bb", "videomae-k400-b"), ("videomae_ssv2_s", "videomae-ssv2-s")]
)
def test_an_unknown_preset_suggests_the_nearest_and_lists_all(typo, meant):
    with pytest.raises(ValueError, match=f"no preset called '{typo}'. Did you mean {meant}\\?") as caught:
        preset(typo)
    assert all(name in str(caught.value) for name in PRESETS)


def test_a_word_like_no_preset_suggests_none():
    with pytest.raises(ValueError, match=r"no preset called 'xyz'\. There are: "):
        preset("xyz")


def test_presets_of_the_user_are_found_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "my_runs.py").write_text(
        "from tubelet.methods.videomae import k400_b\ndef mine(): return k400_b()\ndef wrong(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert preset("my_runs:mine") == k400_b()
    with pytest.raises(ValueError, match="my_runs:wrong returned int, expected a tubelet Run"):
        preset("my_runs:wrong")
    with pytest.raises(ValueError, match="cannot use 'my_runs:nothing' as module:function"):
        preset("my_runs:nothing")
    with pytest.raises(ValueError, match="cannot use 'no_such_module:f'"):
        preset("no_such_module:f")


def test_a_run_folder_and_its_run_json_are_presets_too(tmp_path):
    run = a_run(epochs=3.5)
    (tmp_path / "run.json").write_text(json.dumps({"run": json.loads(to_json(run)), "data": "x"}))
    assert preset(str(tmp_path)) == run
    assert preset(str(tmp_path / "run.json")) == run
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.json"):
        preset(str(tmp_path / "gone.json"))


# ---------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "builtins:eval", "tubelet_evil:X", None])
def test_classes_of_others_are_refused_before_they_are_imported(name):
    with pytest.raises(ValueError, match="only classes of tubelet are loaded"):
        from_json(json.dumps({"class": name, "args": "echo"}))


@pytest.mark.parametrize(
    "value",
    [
        {"class": "tubelet.config:Optim", "no_such_field": 1},
        {"class": "tubelet.config:Nothing"},
        {"class": "tubelet.no_such_module:X"},
        {"class": "tubelet.config:preset", "name": "videomae-k400-b"},
        {"class": "tubelet.train.checkpoint:Path", "0": "x"},
        {"class": "tubelet.config:Training"},
    ],
)
def test_what_this_version_does_not_have_is_named(value):
    with pytest.raises(ValueError, match=f"does not fit this version of tubelet: {value['class']}"):
        from_json(json.dumps(value))


def test_json_names_the_class_beside_the_fields():
    assert json.loads(to_json(Tube(0.75))) == {"class": "tubelet.masks.random_masks:Tube", "ratio": 0.75}


# ---------------------------------------------------------------------------- what follows


def test_steps_and_rates_follow_from_the_batch_and_the_videos():
    run = a_run(epochs=10, batch=8, save_every=2)
    n = numbers(replace(run, optim=Optim(base_lr=3e-4, min_lr=1e-5, warmup=4)), 20)
    assert (n.videos, n.steps, n.warmup, n.save_every) == (20, 25, 10, 5)
    assert n.lr == pytest.approx(3e-4 * 8 / 256)
    assert n.low == pytest.approx(1e-5 * 8 / 256)
    assert n.rule == "0.0003 x 8 / 256"


def test_the_rate_counts_neither_crops_nor_parts():
    run = a_run(batch=64)
    many = replace(run, data=replace(run.data, repeats=4), training=replace(run.training, accumulate=8))
    assert numbers(many, 100) == numbers(run, 100)


@pytest.mark.parametrize(
    ("batch", "repeats", "tokens", "parts"),
    [
        (8, 1, 1568, 2),  # 6272 tokens each, rather than 12544
        (64, 1, 1568, 16),
        (64, 2, 1568, 32),
        (7, 1, 1568, 1),  # 10976: nearer than 1568
        (64, 1, 128, 1),
        (1, 1, 12544, 1),
        (8, 1, 12544, 4),  # clips of a part are at least two
    ],
)
def test_a_cpu_works_on_about_as_many_tokens_at_once_as_are_fast(batch, repeats, tokens, parts):
    run = a_run(batch=batch)
    grid = {1568: (16, 224, 224), 128: (16, 64, 64), 12544: (128, 224, 224)}[tokens]
    run = replace(run, data=replace(run.data, clip=Dense(grid[0]), size=grid[1:], repeats=repeats))
    assert run.grid().tokens == tokens
    assert parts_of(run, "cpu", torch.bfloat16) == parts
    assert parts_of(run, "cpu", torch.float32) == parts_of(run, "cuda", torch.bfloat16) == 1
    assert parts_of(replace(run, training=replace(run.training, accumulate=batch)), "cuda", torch.float32) == batch


def test_a_method_that_compares_the_clips_of_a_part_has_the_whole_step_at_once():
    run = preset("moco-v3-k400-b")
    assert run.training.accumulate == 0
    assert parts_of(run, "cpu", torch.bfloat16) == 1


def test_a_warm_up_longer_than_the_run_ends_with_it():
    n = numbers(a_run(epochs=2, batch=5), 10)
    assert n.warmup == n.steps == 4


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch": 10, "accumulate": 3}, "batch 10 does not divide into 3 parts"),
        ({"batch": 0}, "batch 0 does not divide"),
        ({"batch": 4, "accumulate": -1}, "batch 4 does not divide into -1 parts"),
        ({"batch": 64, "epochs": 2}, "2 epochs of 20 videos are less than one batch of 64: nothing to train"),
        ({"epochs": 0}, "nothing to train"),
    ],
)
def test_what_cannot_be_trained_is_named_with_the_numbers(training, message):
    with pytest.raises(ValueError, match=message):
        numbers(a_run(**training), 20)


def test_no_videos_cannot_be_trained():
    with pytest.raises(ValueError, match="10 epochs of 0 videos"):
        numbers(a_run(), 0)


def test_differences_are_lines_with_the_whole_path():
    old, new = (json.loads(to_json(r)) for r in (a_run(), a_run(batch=32)))
    assert differences(old, new) == ["training.batch: 8 -> 32"]
    assert differences(old, old) == []
    smaller = json.loads(to_json(replace(a_run(), data=Data(clip=Dense(16, stride=4), size=(64, 64)))))
    assert differences(old, smaller) == ["data.size: [224, 224] -> [64, 64]"]
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 -> None", "b: None -> 2"]


@pytest.mark.parametrize(
    ("name", "size", "batch", "repeats", "base_lr", "decay", "epochs", "drop_path", "dropout", "warmup", "flip"),
    [  # the released scripts of VideoMAE; table 6 of MGM (arXiv:2308.12962) for HMDB51, Diving48, mgm
        ("finetune-k400-s", "s", 384, 2, 5e-4, 0.75, 150, 0.1, 0.0, 5, 0.5),
        ("finetune-k400-b", "b", 384, 2, 5e-4, 0.75, 75, 0.1, 0.0, 5, 0.5),
        ("finetune-k400-l", "l", 128, 2, 2e-3, 0.75, 35, 0.1, 0.0, 5, 0.5),
        ("finetune-k400-h", "h", 512, 2, 1e-3, 0.75, 50, 0.2, 0.5, 5, 0.5),
        ("finetune-ssv2-s", "s", 384, 2, 1e-3, 0.7, 40, 0.1, 0.0, 5, 0.0),
        ("finetune-ssv2-b", "b", 384, 2, 5e-4, 0.75, 30, 0.1, 0.0, 5, 0.0),
        ("finetune-ssv2-h", "h", 128, 2, 5e-4, 0.8, 20, 0.2, 0.0, 5, 0.0),  # VideoMAE V2's script
        ("finetune-ucf101-b", "b", 128, 2, 5e-4, 0.7, 100, 0.2, 0.5, 5, 0.5),
        ("finetune-hmdb51-b", "b", 128, 2, 5e-4, 0.7, 100, 0.2, 0.0, 0, 0.5),
        ("finetune-diving48-b", "b", 128, 2, 5e-4, 0.7, 100, 0.2, 0.0, 0, 0.5),
        ("finetune-mgm-ssv2-b", "b", 128, 2, 5e-4, 0.75, 30, 0.1, 0.0, 5, 0.0),
        ("finetune-mgm-k400-b", "b", 128, 1, 1e-3, 0.75, 75, 0.1, 0.0, 5, 0.5),
        ("finetune-mgm-ucf101-b", "b", 128, 2, 5e-4, 0.75, 100, 0.2, 0.0, 0, 0.5),
    ],
)
def test_fine_tuning_presets_are_the_released_recipes(
    name, size, batch, repeats, base_lr, decay, epochs, drop_path, dropout, warmup, flip
):
    run = preset(name)
    assert replace(run.encoder, drop_path=0.0, checkpoint=False) == SIZES[size]
    assert (run.training.batch, run.data.repeats, run.training.epochs) == (batch, repeats, epochs)
    assert (run.optim.base_lr, run.optim.layer_decay, run.optim.warmup) == (base_lr, decay, warmup)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip) == ((0.9, 0.999), 0.05, None)
    assert run.optim.min_lr == (1e-5 if dropout else 1e-6)
    assert (run.encoder.drop_path, run.method.dropout, run.data.flip) == (drop_path, dropout, flip)
    assert (run.method.smoothing, run.method.mix.mixup, run.method.mix.cutmix) == (0.1, 0.8, 1.0)
    assert (run.method.mix.probability, run.method.mix.switch, run.method.erase.probability) == (1.0, 0.5, 0.25)
    assert run.data.augment == RandAugment.parse("rand-m7-n4-mstd0.5-inc1")
    assert (run.data.crop.scale, run.data.crop.ratio) == ((0.08, 1.0), (0.75, 4 / 3))
    assert (run.method.average, run.method.tune, run.method.lora, run.method.cells) == (0.0, "all", 0, None)
    assert str(run.data.clip) == ("16 frames, one from each part" if "ssv2" in name else str(Spread(16, stride=4)))


def test_larger_clips_have_half_the_stride_and_the_paper_s_cost():
    for name, tokens in (("finetune-k400-l-320", 6400), ("finetune-k400-h-320", 6400), ("finetune-ssv2-l-32", 3136)):
        assert preset(name).grid().tokens == tokens
    assert preset("finetune-k400-l-320").data.clip == Spread(32, stride=2)
    assert numbers(preset("finetune-k400-b"), 240_436).lr == pytest.approx(7.5e-4)
