"""Fine-tuning: losses against torch's own, what learns and what does not, averages, LoRA, distillation."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shrunk import a_batch, shrunk

from tubelet.config import preset
from tubelet.methods.mixing import Erasing, Mix
from tubelet.methods.supervised import Supervised, SupervisedLearner
from tubelet.nn.vit import Encoder
from tubelet.targets import inputs
from tubelet.train.optim import adamw
from tubelet.types import Batch, Draws, Grid

ENCODER = Encoder(width=24, depth=3, heads=2, hidden=48, patch=(2, 8, 8))
GRID = Grid(2, 4, 4, (2, 8, 8))
BASE = Supervised(outputs=5, smoothing=0.0)


def learner(config: Supervised, encoder: Encoder = ENCODER) -> SupervisedLearner:
    torch.manual_seed(0)
    made = config.build(encoder, GRID, 3).train()
    with torch.no_grad():
        made.network.head.weight.normal_()  # the real one begins next to zero, where mistakes do not show
        made.network.head.bias.normal_()
    return made


def batch(labels: torch.Tensor) -> Batch:
    video = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (len(labels), 3, 4, 32, 32), dtype=np.uint8))
    return Batch(video, torch.arange(len(labels)), labels=labels)


def mean(method: SupervisedLearner, given: Batch, step: int = 0) -> torch.Tensor:
    loss = method(given, Draws(0, step, range(len(given.video))))
    return loss.sum / loss.count


def logits(method: SupervisedLearner, given: Batch) -> torch.Tensor:
    return method.network(inputs(given.video, GRID.patch))


CLASSES = torch.tensor([0, 3, 1, 4])
ONE_HOT = F.one_hot(CLASSES, 5).float()


def test_classes_are_learnt_by_cross_entropy_with_smoothing_and_weights():
    weights = (1.0, 2.0, 0.5, 1.0, 3.0)
    for config, smoothing, weight in ((BASE, 0.0, None), (replace(BASE, smoothing=0.1), 0.1, None)):
        method, given = learner(config), batch(ONE_HOT)
        expected = F.cross_entropy(logits(method, given), CLASSES, weight, label_smoothing=smoothing)
        torch.testing.assert_close(mean(method, given), expected)
    method, given = learner(replace(BASE, class_weights=weights)), batch(ONE_HOT)
    each = F.cross_entropy(logits(method, given), CLASSES, torch.tensor(weights), reduction="none")
    torch.testing.assert_close(mean(method, given), each.mean())


def test_soft_labels_several_classes_and_values():
    shares = torch.rand(4, 5).softmax(1)
    method, given = learner(replace(BASE, labels="shares")), batch(shares)
    torch.testing.assert_close(mean(method, given), F.cross_entropy(logits(method, given), shares))
    several = (torch.rand(4, 5) < 0.5).float()
    method, given = learner(replace(BASE, labels="classes")), batch(several)
    expected = F.binary_cross_entropy(torch.sigmoid(logits(method, given).double()), several.double()).float()
    torch.testing.assert_close(mean(method, given), expected)
    values = torch.randn(4, 5)
    method, given = learner(replace(BASE, labels="values")), batch(values)
    torch.testing.assert_close(mean(method, given), F.mse_loss(logits(method, given), values))


def test_mixed_clips_have_mixed_labels():
    mix = Mix(mixup=0.8, cutmix=0.0)
    method, given = learner(replace(BASE, mix=mix, smoothing=0.1)), batch(ONE_HOT)
    draws = Draws(0, 0, range(4))
    draws.seed()  # of dropout; mixing takes the next
    video, labels = mix(given.video.float() / 255, ONE_HOT * 0.9 + 0.02, draws.seed())
    expected = F.cross_entropy(method.network(inputs_of(video)), labels)
    torch.testing.assert_close(mean(method, given), expected)
    method.eval()
    soft = F.cross_entropy(logits(method, given), CLASSES, label_smoothing=0.1)
    torch.testing.assert_close(mean(method, given), soft, msg="nothing is mixed while measuring")


def inputs_of(video: torch.Tensor) -> torch.Tensor:
    """Normalised patches of clips in [0, 1], the other way round: first normalised, then cut."""
    centre, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (video - centre.view(3, 1, 1, 1)) / spread.view(3, 1, 1, 1)
    cubes = normal.unfold(2, 2, 2).unfold(3, 8, 8).unfold(4, 8, 8)  # b c T H W 2 8 8
    return cubes.permute(0, 2, 3, 4, 5, 6, 7, 1).reshape(len(video), 32, 2 * 8 * 8 * 3)


def test_a_step_repeats_with_its_number_and_differs_from_the_next():
    config = replace(BASE, erase=Erasing(0.9), mix=Mix(), dropout=0.5)
    method, given = learner(config, replace(ENCODER, drop_path=0.5)), batch(ONE_HOT)
    first = mean(method, given, 3)
    torch.rand(7)
    torch.testing.assert_close(mean(method, given, 3), first, rtol=0, atol=0)
    assert mean(method, given, 4) != first


def changed(config: Supervised) -> set[str]:
    """What a step of plain gradient descent moves."""
    method = learner(config)
    before = copy.deepcopy(method.network.state_dict())
    mean(method, batch(ONE_HOT)).backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                parameter -= parameter.grad
    return {name for name, value in method.network.state_dict().items() if not torch.equal(value, before[name])}


def test_everything_learns_but_what_is_frozen():
    everything = changed(BASE)
    assert everything == set(learner(BASE).network.state_dict())
    assert changed(replace(BASE, tune="head")) == {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    frozen = {
        name for name in everything if name.startswith(("encoder.embed", "encoder.blocks.0.", "encoder.blocks.1."))
    }
    assert changed(replace(BASE, freeze=2)) == everything - frozen


def test_lora_begins_as_the_network_itself_learns_and_folds_away():
    method, plain = learner(replace(BASE, lora=3, lora_alpha=6.0)), learner(BASE)
    own = {
        name.replace("parametrizations.weight.original", "weight"): value
        for name, value in method.network.state_dict().items()
    }
    plain.network.load_state_dict({name: value for name, value in own.items() if "parametrizations" not in name})
    given = batch(ONE_HOT)
    torch.testing.assert_close(logits(method, given), logits(plain, given))
    moved = changed(replace(BASE, lora=3))
    assert {name.split(".")[-1] for name in moved if "attn" in name} == {"b"}, "a moves once b is not zero"
    assert not any(name.endswith(("original", "mlp.fc1.weight", "embed.weight")) for name in moved)
    with torch.no_grad():
        for name, parameter in method.network.named_parameters():
            if name.endswith("weight.0.b"):
                parameter.normal_()
    layer = method.network.encoder.blocks[1].attn.proj
    change = layer.parametrizations.weight[0]
    expected = layer.parametrizations.weight.original + 6.0 / 3 * torch.einsum("or,ri->oi", change.b, change.a)
    folded = method.exported()["model"]
    torch.testing.assert_close(folded["encoder.blocks.1.attn.proj.weight"], expected)
    plain.network.load_state_dict(folded)
    torch.testing.assert_close(logits(plain, given), logits(method, given))
    with pytest.raises(ValueError, match="rank 99"):
        learner(replace(BASE, lora=99))


def test_the_average_follows_slowly_and_is_what_is_tested_and_kept():
    method = learner(replace(BASE, average=0.9))
    start = method.averaged.head.bias.clone()
    follow = start.clone()
    for step in range(40):
        with torch.no_grad():
            method.network.head.bias.fill_(float(step))
        method.after_step(step, 40)
        decay = min(0.9, (1 + step) / (10 + step))
        follow = decay * follow + (1 - decay) * step
    torch.testing.assert_close(method.averaged.head.bias, follow)
    assert method.tested is method.averaged
    torch.testing.assert_close(method.exported()["model"]["head.bias"], follow)


def test_a_teacher_is_imitated_and_not_taught():
    given, teacher = batch(ONE_HOT), learner(BASE).network.requires_grad_(False)
    config = replace(BASE, teacher="runs/large", teacher_share=0.75, temperature=2.0)
    method = learner(config)
    with torch.no_grad():
        method.network.head.weight.normal_()
    method.teacher = [teacher]
    ours, theirs = logits(method, given), teacher(inputs(given.video, GRID.patch))
    imitated = 4 * F.kl_div(
        F.log_softmax(ours / 2, 1), F.log_softmax(theirs / 2, 1), reduction="batchmean", log_target=True
    )
    expected = 0.25 * F.cross_entropy(ours, CLASSES) + 0.75 * imitated
    torch.testing.assert_close(mean(method, given), expected)
    assert not any("teacher" in name for name in method.state_dict())
    method.network.load_state_dict(teacher.state_dict())
    alone = learner(replace(config, teacher_share=1.0))
    alone.network, alone.teacher = method.network, [teacher]
    torch.testing.assert_close(mean(alone, given), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"outputs": 0}, "outputs 0"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"freeze": 4}, "0 to 3 blocks"),
        ({"class_weights": (1.0, 2.0)}, "5 numbers"),
        ({"average": 1.5}, "average"),
        ({"labels": "values", "mix": Mix()}, "regressed"),
    ],
)
def test_settings_that_cannot_be_used(setting, words):
    with pytest.raises(ValueError, match=words):
        replace(BASE, **setting).build(ENCODER, GRID, 3)


def test_the_average_begins_with_weights_that_do_not_learn():
    method = learner(replace(BASE, average=0.9, tune="head"))
    before = copy.deepcopy(method.averaged.state_dict())
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.add_(1)
    method.after_step(5, 9)
    moved = {name for name, value in method.averaged.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias", "norm.weight", "norm.bias"}


def test_shares_are_smoothed_too_and_several_classes_are_not():
    shares = torch.rand(4, 5).softmax(1)
    method, given = learner(replace(BASE, labels="shares", smoothing=0.5)), batch(shares)
    torch.testing.assert_close(mean(method, given), F.cross_entropy(logits(method, given), shares / 2 + 0.1))
    given = batch((torch.rand(4, 5) < 0.5).float())
    plain, smooth = (learner(replace(BASE, labels="classes", smoothing=share)) for share in (0.0, 0.5))
    torch.testing.assert_close(mean(plain, given), mean(smooth, given))


def test_several_classes_are_imitated_one_by_one():
    given, teacher = batch((torch.rand(4, 5) < 0.5).float()), learner(BASE).network.requires_grad_(False)
    method = learner(replace(BASE, labels="classes", teacher="x", teacher_share=1.0, temperature=2.0))
    with torch.no_grad():
        method.network.head.weight.normal_()
    method.teacher = [teacher]
    p, q = (torch.sigmoid(x.double() / 2) for x in (teacher(inputs(given.video, GRID.patch)), logits(method, given)))
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(mean(method, given).double(), 4 * divergence.mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [{"tune": "head"}, {"freeze": 1}])
def test_lora_and_frozen_parts_contradict(other):
    with pytest.raises(ValueError, match="leaves the whole encoder as it is"):
        replace(BASE, lora=2, **other).build(ENCODER, GRID, 3)


def test_divided_attention_is_taught_all_of_it():
    """A gradient for every parameter, and rates that grow from block to block, its second attention's too."""
    run = preset("finetune-ssv2-b")
    run = shrunk(replace(run, encoder=replace(run.encoder, attention="divided")))
    method = run.method.build(run.encoder, run.grid(), 3).train()
    for block in method.encoder.blocks:
        torch.nn.init.normal_(block.join.weight, std=0.1)  # 0 at first, so that nothing before it learns
    loss = method(a_batch(run), Draws(0, 0, range(2)))
    (loss.sum / loss.count).backward()
    assert not [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    decay = run.optim.layer_decay
    scales = {
        id(parameter): group["scale"]
        for group in adamw(method, run.optim).param_groups
        for parameter in group["params"]
    }
    for depth, block in enumerate(method.encoder.blocks, 1):
        assert {scales[id(p)] for p in block.parameters()} == {decay ** (len(method.encoder.blocks) + 1 - depth)}
