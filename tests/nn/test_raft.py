"""RAFT through a stub with torchvision's signature and a known answer, and through torchvision where it imports."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tubelet.nn.raft import PAIRS, Raft, small


class Brightness(nn.Module):
    """torchvision's signature; x is by how much a pixel becomes brighter, y how wide and high the pictures are."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.tensor(1.0))
        self.calls: list[tuple[tuple[int, ...], int, torch.dtype]] = []

    def forward(self, image1, image2, num_flow_updates: int = 12):
        assert image1.shape == image2.shape
        assert not torch.is_grad_enabled()
        assert min(image1.shape[2:]) >= 128
        assert not image1.shape[2] % 8
        assert not image1.shape[3] % 8
        self.calls.append((tuple(image1.shape), num_flow_updates, image1.dtype))
        brighter = (image2 - image1).mean(1) * self.unit
        size = torch.full_like(brighter, image1.shape[2])
        first = torch.stack([brighter, size], 1) * 0
        return [first] * (num_flow_updates - 1) + [torch.stack([brighter, size], 1)]


@pytest.fixture
def network(monkeypatch):
    """The stub, in torchvision's place."""
    made = Brightness()

    def raft_small(*, weights=None, progress=True, **kwargs):
        assert weights is None  # otherwise it would download
        return made

    for name in ("torchvision", "torchvision.models", "torchvision.models.optical_flow"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchvision.models.optical_flow"].raft_small = raft_small
    return made


@pytest.fixture
def weights(tmp_path):
    """A file of the stub's weights, as saved from a wrapped network."""
    torch.save({"module.unit": torch.tensor(127.5)}, tmp_path / "raft.pth")  # undoes the scaling of frames to [-1, 1]
    return str(tmp_path / "raft.pth")


def video(*brightness: int, height: int = 128, width: int = 136, channels: int = 3, clips: int = 1) -> torch.Tensor:
    """Flat frames of this brightness; clip k is 3 k brighter."""
    values = torch.tensor(brightness, dtype=torch.uint8) + 3 * torch.arange(clips, dtype=torch.uint8)[:, None]
    return values.view(clips, 1, -1, 1, 1).repeat(1, channels, 1, height, width)


def test_both_directions_lie_on_the_frame_that_they_start_from(network, weights):
    motion = Raft(weights).build()(video(10, 17, 57, clips=2))
    assert motion.to_previous.shape == (2, 2, 3, 16, 17)
    for clip in range(2):
        x = motion.to_next[clip, 0, :, 3, 5], motion.to_previous[clip, 0, :, 3, 5]
        assert x[0].tolist() == pytest.approx([7, 40, 0], abs=1e-3)
        assert x[1].tolist() == pytest.approx([0, -7, -40], abs=1e-3)
    assert motion.has[:, :-1].all()
    assert motion.had[:, 1:].all()
    assert not motion.has[:, -1].any()
    assert not motion.had[:, 0].any()
    assert motion.block == 8
    assert motion.exact


def test_the_last_of_the_iterations_is_taken(network, weights):
    motion = Raft(weights, iterations=4).build()(video(0, 9))
    assert {call[1] for call in network.calls} == {4}
    assert motion.to_next[0, 0, 0].mean() == pytest.approx(9, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "height", "width", "seen"),
    [
        (None, 128, 136, (128, 136)),
        (None, 130, 170, (136, 176)),
        (None, 32, 40, (128, 160)),
        (256, 128, 192, (256, 384)),
    ],
)
def test_flow_is_in_pixels_of_the_clips_whatever_the_network_saw(network, weights, size, height, width, seen):
    motion = Raft(weights, size=size, block=4).build()(video(10, 20, height=height, width=width))
    assert network.calls[0][0] == (1, 3, *seen)
    assert motion.to_next.shape == (1, 2, 2, -(-height // 4), -(-width // 4))
    factor = (size or max(128, height)) / height  # of the picture without its padding
    assert motion.to_next[0, 0, 0].sub(10 / factor).abs().max() < 1e-3
    assert motion.to_next[0, 1, 0].sub(seen[0] / factor).abs().max() < 1e-3


def test_blocks_are_means_also_of_those_that_hang_over_the_edge(network, weights):
    frames = video(0, 0, height=131, width=130)
    frames[:, :, 1] = torch.randint(0, 100, (131, 130), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    motion = Raft(weights, block=16).build()(frames)
    true = frames[0, 0, 1].numpy().astype(float)
    for row in range(9):
        for column in range(9):
            mean = true[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].mean()
            assert motion.to_next[0, 0, 0, row, column] == pytest.approx(mean, abs=1e-3)


def test_grey_clips_are_seen_in_three_channels(network, weights):
    motion = Raft(weights).build()(video(10, 20, channels=1))
    assert network.calls[0][0][1] == 3
    assert motion.to_next[0, 0, 0].mean() == pytest.approx(10, abs=1e-3)
    with pytest.raises(ValueError, match="have 4"):
        Raft(weights).build()(video(10, 20, channels=4))


def test_many_pairs_go_in_parts_and_one_frame_has_no_motion(network, weights):
    brightness = np.cumsum(np.arange(PAIRS + 3) % 3).tolist()
    motion = Raft(weights).build()(video(*brightness))
    assert [call[0][0] for call in network.calls] == [PAIRS, 2, PAIRS, 2]
    assert motion.to_next[0, 0, :-1].mean((1, 2)).tolist() == pytest.approx(np.diff(brightness), abs=1e-3)
    alone = Raft(weights).build()(video(10))
    assert not alone.has.any()
    assert not alone.had.any()


def test_a_method_that_has_one_neither_trains_nor_saves_it(network, weights):
    class Method(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = Raft(weights).build()
            self.layer = nn.Linear(1, 1)

    method = Method().train()
    assert {name for name, _ in method.named_parameters()} == {"layer.weight", "layer.bias"}
    assert set(method.state_dict()) == {"layer.weight", "layer.bias"}
    assert not method.flow.network.training
    assert not any(weight.requires_grad for weight in method.flow.network.parameters())
    assert not method.flow(video(1, 2)).to_next.requires_grad


def test_what_cannot_be_used_is_said(network, weights, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pth.*data\.motion=Flow\(\)"):
        Raft(str(tmp_path / "gone.pth")).build()
    torch.save({"unit": torch.zeros(2), "more": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"of its 1 tensors 1 .*\(unit\), and 1 more are there \(more\)"):
        Raft(str(tmp_path / "other.pth")).build()
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read"):
        Raft(str(tmp_path / "text.pth")).build()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no weights by name"):
        Raft(str(tmp_path / "list.pth")).build()
    for wrong in (Raft(weights, iterations=0), Raft(weights, size=64), Raft(weights, block=0)):
        with pytest.raises(ValueError, match=r"cannot be used; expected (1|128) or more"):
            wrong.build()


def test_without_torchvision_the_way_out_is_named(monkeypatch, weights):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ValueError, match=r"cannot be imported here .* or use data\.motion=Flow\(\)"):
        Raft(weights).build()


def test_torchvision_that_fails_in_its_own_way_is_told_like_one_that_is_missing(monkeypatch, weights):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("operator torchvision::nms does not exist")

    for name in ("torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchvision.models.optical_flow", Broken("torchvision.models.optical_flow"))
    with pytest.raises(ValueError, match=r"RuntimeError: operator torchvision::nms does not exist"):
        Raft(weights).build()


def test_torchvisions_own_network_gives_what_it_gives_alone(tmp_path):
    try:
        import torchvision.models.optical_flow as there
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported here: {error}")
    torch.manual_seed(0)
    network = there.raft_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "random.pth")
    assert set(small().state_dict()) == set(network.state_dict())
    clip = torch.randint(0, 256, (1, 3, 2, 130, 170), dtype=torch.uint8)
    config = Raft(str(tmp_path / "random.pth"), iterations=3)
    motion = config.build()(clip)
    ones, others = (F.pad(clip[:, :, t].float() / 127.5 - 1, (0, 6, 0, 6), mode="replicate") for t in (0, 1))
    with torch.no_grad():
        flow = network(ones, others, num_flow_updates=3)[-1][:, :, :130, :170]
    assert torch.allclose(motion.to_next[:, :, 0], F.avg_pool2d(flow, 8, ceil_mode=True), atol=1e-4)
    tiny = replace(config, block=2).build()(clip[..., :32, :40])
    assert tiny.to_previous.shape == (1, 2, 2, 16, 20)
