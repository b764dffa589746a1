"""ARVideo: nothing leaks from later clusters, the loss is the equation's by plain loops, the tables are the paper's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tubelet.config import from_json, preset, to_json
from tubelet.masks.clusters import Clusters
from tubelet.methods import PRESETS
from tubelet.methods.arvideo import Autoregressive
from tubelet.nn.cross import CrossDecoder
from tubelet.nn.patches import patchify, put, take
from tubelet.nn.vit import Encoder
from tubelet.plan import plan
from tubelet.targets import Pixels
from tubelet.types import Batch, Draws, Grid, TokenMask

GRID = Grid(4, 2, 4, (2, 4, 4))
SHAPE = Encoder(width=16, depth=3, heads=2, hidden=32, patch=(2, 4, 4))
DECODER = CrossDecoder(8, 2, 2)
CLUSTERS = Clusters((2, 1, 2), drop=0.5)  # 8 clusters of 4


def built(clusters=CLUSTERS, target=None, grid=GRID, **decoder):
    torch.manual_seed(0)
    method = Autoregressive(clusters, target or Pixels("none"), replace(DECODER, **decoder)).build(SHAPE, grid, 3)
    with torch.no_grad():
        for parameter in method.parameters():  # biases and norms that matter, attention that is not flat
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return method


def a_batch(clips=2, grid=GRID) -> Batch:
    pt, ph, pw = grid.patch
    video = torch.randint(0, 256, (clips, 3, grid.T * pt, grid.H * ph, grid.W * pw), dtype=torch.uint8)
    return Batch(video, torch.arange(clips))


def blocks(method, mask: TokenMask) -> tuple[int, int, int]:
    """Clusters, and visible and predicted tokens of each."""
    count = method.grid.tokens // int(np.prod(method.mask.cluster))
    return count, mask.visible.shape[1] // (count - 1), mask.predict.shape[1] // (count - method.mask.first + 1)


# ---------------------------------------------------------------------------- leaks


@pytest.mark.parametrize("memory", ["last", "mixed"])
@pytest.mark.parametrize("queries", ["all", "kept"])
@pytest.mark.parametrize("first", [2, 3])
def test_a_prediction_has_exactly_no_gradient_from_its_own_cluster_or_a_later_one(memory, queries, first):
    method = built(replace(CLUSTERS, queries=queries, first=first), memory=memory)
    batch = a_batch()
    mask = method.mask(batch, GRID, Draws(0, 0, range(2)))
    embedded = []
    method.encoder.embed.register_forward_hook(lambda *call: embedded.append(call[2]))
    out = method.imagine(patchify(batch.video, GRID.patch), mask)
    count, kept, asked = blocks(method, mask)
    for place, number in enumerate(range(first, count + 1)):  # clusters from 1, as in the paper
        mine = out[:, place * asked : (place + 1) * asked]
        (gradient,) = torch.autograd.grad(mine.square().sum(), embedded[0], retain_graph=True)
        by_cluster = gradient.view(2, count - 1, kept, -1).abs().amax((2, 3))
        assert (by_cluster[:, : number - 1] > 0).all()
        assert (by_cluster[:, number - 1 :] == 0).all()


def test_pixels_of_later_clusters_change_no_prediction():
    method, batch = built(), a_batch()
    patches = patchify(batch.video, GRID.patch)
    mask = method.mask(batch, GRID, Draws(0, 0, range(2)))
    with torch.no_grad():
        plain = method.imagine(patches, mask)
        for place in range(7):  # of clusters 2 to 8, which are all four tokens each of `predict`
            later = mask.predict[:, 4 * place :]
            other = method.imagine(put(patches, later, 255 - take(patches, later)), mask)
            assert torch.equal(other[:, : 4 * place + 4], plain[:, : 4 * place + 4])
            assert place == 6 or not torch.equal(other[:, 4 * place + 4 :], plain[:, 4 * place + 4 :])


def test_dropped_tokens_are_not_seen():
    method, batch = built(), a_batch()
    patches = patchify(batch.video, GRID.patch)
    mask = method.mask(batch, GRID, Draws(0, 0, range(2)))
    noise = torch.randint(0, 256, patches.shape, dtype=torch.uint8)
    with torch.no_grad():
        other = torch.where(mask.hidden.unsqueeze(2), noise, patches)
        assert torch.equal(method.imagine(other, mask), method.imagine(patches, mask))


# ---------------------------------------------------------------------------- the loss


def test_a_permutation_of_data_and_position_tables_changes_nothing():
    """Clusters in a random order are the raster order of clips and tables whose clusters stand in that order."""
    method = built(replace(CLUSTERS, order="space"), position="learned")
    patches = patchify(a_batch(1).video, GRID.patch)
    clusters = method.mask.cut(GRID)
    order = torch.randperm(8)
    moved = torch.empty(GRID.tokens, dtype=torch.long)
    moved[clusters.flatten()] = clusters[order].flatten()  # which token comes to stand here
    raster = TokenMask(clusters[:-1, ::2].reshape(1, -1), clusters[1:].reshape(1, -1), GRID)
    random = TokenMask(clusters[order][:-1, ::2].reshape(1, -1), clusters[order][1:].reshape(1, -1), GRID)

    def imagined(mask: TokenMask, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return method.imagine(patches, mask), take(patches, mask.predict)

    plain = imagined(random, patches)
    for part in (method.encoder, method.decoder):
        table = part.position().detach()[moved]
        part.position.forward = lambda table=table: table
    again = imagined(raster, patches[:, moved])
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again[0], plain[0], rtol=1e-5, atol=1e-5)
    assert (imagined(raster, patches)[0] - plain[0]).abs().max() > 0.01


def numpy_of(module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def normed(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean()
    return centred / np.sqrt((centred**2).mean() + 1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def perceptron(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    hidden = torch.from_numpy(weights[f"{name}.fc1.weight"] @ x + weights[f"{name}.fc1.bias"])
    return weights[f"{name}.fc2.weight"] @ torch.nn.functional.gelu(hidden).numpy() + weights[f"{name}.fc2.bias"]


def attended(query: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray], heads: int) -> np.ndarray:
    size = len(query) // heads
    out = np.zeros_like(query)
    for head in range(heads):
        part = slice(head * size, head * size + size)
        shares = np.array([np.exp(query[part] @ key[part] / np.sqrt(size)) for key in keys])
        for share, value in zip(shares / shares.sum(), values):
            out[part] += share * value[part]
    return out


def test_single_tokens_in_raster_order_without_drop_are_next_token_prediction():
    """Token by token: each is embedded once, asks only what came before it and itself; the next is decoded from those.

    The whole network written out in float64, one vector at a time, as a causal transformer.
    """
    grid = Grid(2, 2, 3, (2, 4, 4))
    method = built(Clusters((1, 1, 1), "space", drop=0.0), grid=grid)
    batch = a_batch(1, grid)
    loss = method(batch, Draws(0, 0, [0]))
    assert int(loss.count) == 11

    e, d = numpy_of(method.encoder), numpy_of(method.decoder)
    tables = [part.position().detach().double().numpy() for part in (method.encoder, method.decoder)]
    pixels = patchify(batch.video, grid.patch)[0].double().numpy() / 255
    mean, std = np.tile([0.485, 0.456, 0.406], 32), np.tile([0.229, 0.224, 0.225], 32)
    keys: list[list[np.ndarray]] = [[] for _ in range(3)]
    values: list[list[np.ndarray]] = [[] for _ in range(3)]
    latents, errors = [], []
    for token in range(11):
        x = e["embed.weight"] @ ((pixels[token] - mean) / std) + e["embed.bias"] + tables[0][token]
        for i in range(3):
            block = f"blocks.{i}"
            q, k, v = np.split(e[f"{block}.attn.qkv.weight"] @ normed(x, e, f"{block}.norm1"), 3)
            keys[i].append(k)
            values[i].append(v + e[f"{block}.attn.v_bias"])
            asked = attended(q + e[f"{block}.attn.q_bias"], keys[i], values[i], 2)
            x = x + e[f"{block}.attn.proj.weight"] @ asked + e[f"{block}.attn.proj.bias"]
            x = x + perceptron(normed(x, e, f"{block}.norm2"), e, f"{block}.mlp")
        latents.append(normed(x, e, "norm"))
        y = d["mask_token"] + tables[1][token + 1]
        for i in range(2):
            block = f"blocks.{i}"
            q = d[f"{block}.attn.q.weight"] @ normed(y, d, f"{block}.norm1") + d[f"{block}.attn.q.bias"]
            pairs = [np.split(d[f"{block}.attn.kv.weight"] @ normed(z, d, f"{block}.norm_memory"), 2) for z in latents]
            asked = attended(q, [k for k, _ in pairs], [v + d[f"{block}.attn.v_bias"] for _, v in pairs], 2)
            y = y + d[f"{block}.attn.proj.weight"] @ asked + d[f"{block}.attn.proj.bias"]
            y = y + perceptron(normed(y, d, f"{block}.norm2"), d, f"{block}.mlp")
        told = d["head.weight"] @ normed(y, d, "norm") + d["head.bias"]
        errors.append(((told - pixels[token + 1]) ** 2).mean())
    assert float(loss.sum.detach()) == pytest.approx(sum(errors), rel=1e-4)


def test_every_predicted_token_counts_seen_or_not_against_normalised_pixels():
    method, batch = built(target=Pixels("videomae")), a_batch()
    loss = method(batch, Draws(3, 5, range(2)))
    mask = method.mask(batch, GRID, Draws(3, 5, range(2)))
    assert int(loss.count) == 2 * 7 * 4
    with torch.no_grad():
        told = method.imagine(patchify(batch.video, GRID.patch), mask).numpy()
    total = 0.0
    for clip in range(2):
        for place, token in enumerate(mask.predict[clip].tolist()):
            t, h, w = token // 8 * 2, token % 8 // 4 * 4, token % 4 * 4
            cube = batch.video[clip, :, t : t + 2, h : h + 4, w : w + 4].double().numpy() / 255
            cube = cube.reshape(3, -1)
            cube = (cube - cube.mean(1, keepdims=True)) / (cube.std(1, ddof=1, keepdims=True) + 1e-6)
            total += ((told[clip, place] - cube.T.flatten()) ** 2).mean()
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("memory", ["last", "mixed"])
def test_every_parameter_learns_and_the_loss_falls(memory):
    method = built(memory=memory, position="learned")
    batch = a_batch(4)
    optimiser = torch.optim.AdamW(method.parameters(), 3e-3)
    losses = []
    for step in range(40):
        loss = method(batch, Draws(0, step, range(4)))
        optimiser.zero_grad()
        (loss.sum / loss.count).backward()
        assert step or all(p.grad is not None and p.grad.any() for p in method.parameters())
        optimiser.step()
        losses.append(float((loss.sum / loss.count).detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_two_halves_of_a_batch_give_the_loss_of_the_whole():
    method, batch = built(), a_batch(4)
    whole = method(batch, Draws(0, 7, range(4)))
    halves = [method(batch.clips(i, i + 2), Draws(0, 7, range(i, i + 2))) for i in (0, 2)]
    assert float(whole.sum.detach()) == pytest.approx(sum(float(half.sum.detach()) for half in halves), rel=1e-5)
    assert int(whole.count) == sum(int(half.count) for half in halves)


def test_who_may_look_at_whom_follows_from_the_settings_and_is_in_no_checkpoint():
    method = built()
    assert {"causal", "before"} <= {name for name, _ in method.named_buffers()}
    assert not {"causal", "before"} & {*method.state_dict()}
    assert method.exported().keys() == {"encoder"}


# ---------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("normalise", ["none", "videomae"])
def test_rows_show_what_was_given_and_what_was_imagined_of_it(normalise):
    method, batch = built(target=Pixels(normalise)), a_batch()
    rows, note = method.rows(batch, Draws(0, 0, range(2)))
    assert list(rows) == ["given", "imagined"]
    assert method.training
    mask = method.mask(batch, GRID, Draws(0, 0, range(2)))
    given, imagined, true = (patchify(video, GRID.patch) for video in (*rows.values(), batch.video))
    assert torch.equal(take(given, mask.visible), take(true, mask.visible))
    grey = given[mask.hidden]
    assert (grey == grey[0]).all()
    asked = torch.zeros_like(mask.hidden).scatter(1, mask.predict, True)
    assert torch.equal(imagined[~asked], given[~asked])  # the first cluster
    with torch.no_grad():
        values = method.imagine(true, mask)
    shown = method.target.decode(values, take(true, mask.predict).float() / 255, mask, 3)
    assert torch.equal(take(imagined, mask.predict), (shown * 255).round().clamp(0, 255).byte())
    assert ("true mean colour" in note) == (normalise == "videomae")


# ---------------------------------------------------------------------------- settings


def test_clusters_that_do_not_fit_are_named_when_the_run_begins():
    run = preset("arvideo-few-cpu")
    with pytest.raises(ValueError, match=r"clusters of 2x7x7 tokens do not divide the grid of 8x6x8; .* 2x6x8"):
        replace(run.method, mask=Clusters()).build(run.encoder, run.grid(), 3)
    with pytest.raises(ValueError, match="divided attention"):
        run.method.build(replace(run.encoder, attention="divided"), run.grid(), 3)


def test_a_run_comes_back_from_json():
    run = preset("arvideo-ssv2-200-time")
    assert from_json(to_json(run)) == run


# The paper's tables (top-1 on Something-Something V2 but for K400's), and what makes each row.
ROWS = {
    "k400-b": (80.1, 800, {}),
    "k400-b-1600": (81.2, 1600, {}),
    "ssv2-b": (69.8, 800, {}),
    "ssv2-b-2400": (70.9, 2400, {}),
    "ssv2-200": (66.8, 200, {}),
    "ssv2-200-1x1x1": (64.0, 200, {"cluster": (1, 1, 1)}),
    "ssv2-200-1x14x14": (66.0, 200, {"cluster": (1, 14, 14)}),
    "ssv2-200-1x7x7": (66.2, 200, {"cluster": (1, 7, 7)}),
    "ssv2-200-8x1x1": (65.2, 200, {"cluster": (8, 1, 1)}),
    "ssv2-200-2x1x1": (65.6, 200, {"cluster": (2, 1, 1)}),
    "ssv2-200-4x7x7": (65.5, 200, {"cluster": (4, 7, 7)}),
    "ssv2-200-space": (65.6, 200, {"order": "space"}),
    "ssv2-200-time": (66.0, 200, {"order": "time"}),
    "ssv2-200-drop-75": (66.0, 200, {"drop": 0.75}),
    "ssv2-200-drop-90": (65.6, 200, {"drop": 0.9}),
    "ssv2-200-drop-95": (64.8, 200, {"drop": 0.95}),
}
ELEMENTS = {(1, 1, 1): 1568, (1, 14, 14): 8, (1, 7, 7): 32, (8, 1, 1): 196, (2, 1, 1): 784, (4, 7, 7): 8, (2, 7, 7): 16}


def test_presets_are_the_rows_of_the_papers_tables():
    assert {name for name in PRESETS if name.startswith("arvideo")} == {f"arvideo-{n}" for n in [*ROWS, "few-cpu"]}


@pytest.mark.parametrize("name", ROWS)
def test_a_preset_has_the_papers_settings_and_number(name):
    published, epochs, clusters = ROWS[name]
    run = preset(f"arvideo-{name}")
    paper = {"cluster": (2, 7, 7), "order": "random", "drop": 0.8, "queries": "all", "first": 2} | clusters
    assert run.method == Autoregressive(Clusters(**paper), Pixels("videomae"), CrossDecoder(512, 4, 8))
    assert run.training.epochs == epochs
    base = preset("videomae-k400-b" if "k400" in name else "videomae-ssv2-b")  # the rest is as VideoMAE
    assert (run.encoder, run.data, run.optim) == (base.encoder, base.data, base.optim)
    assert replace(run.training, epochs=0) == replace(base.training, epochs=0)
    assert len(run.method.mask.cut(run.grid())) == ELEMENTS[run.method.mask.cluster]
    module, _, function = PRESETS[f"arvideo-{name}"].partition(":")
    assert f"Paper: top-1 {published}" in getattr(__import__(module, fromlist=[function]), function).__doc__


@pytest.mark.parametrize(("first", "asked"), [(2, 1470), (3, 1372)])
def test_a_plan_counts_what_the_equations_say(first, asked):
    run = preset("arvideo-k400-b")
    result = plan(replace(run, method=replace(run.method, mask=Clusters(first=first))))
    encoder = 12 * (300 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 300**2 * 768) + 300 * 1536 * 768
    block = asked * (2 * 512**2 + 2 * 512 * 2048) + 300 * 768 * 2 * 512 + 2 * asked * 300 * 512
    assert result.gmacs["encoder"] * 1e9 == encoder
    assert result.gmacs["decoder"] * 1e9 == 4 * block + asked * 512 * 1536
    assert result.gmacs["forward"] == result.gmacs["encoder"] + result.gmacs["decoder"]
    sizes = {stage.name: stage.size for stage in result.stages}
    assert sizes["mask"] == sizes["encoder"] == "768x300"
    assert (sizes["decoder"], sizes["head"]) == (f"512x{asked}", f"1536x{asked}")
    assert result.settings["mask"] == f"300 visible, {asked:,} predicted of 1,568 tokens"
    method = sum(tensor.numel() for tensor in (torch.empty(300, 300), torch.empty(asked, 300)))
    assert result.memory.weights == 4 * result.parameters["total"] + 4 * 1568 * (768 + 512) + method
