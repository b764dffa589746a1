"""Flow from RAFT-small, on the device that trains: what MGMAE is guided by.

torchvision has the network, and is imported here only, when it is asked for: its wheel needs the very build of PyTorch
that it was made for. The weights are a file; nothing is downloaded.
"""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tubelet.types import Motion

LEAST = 128  # pixels: below, RAFT's correlation pyramid has no pixel left at its top
STRIDE = 8  # of RAFT's features: sides must be multiples of it
PAIRS = 64  # of frames at once, for memory


@dataclass(frozen=True)
class Raft:
    """Motion by RAFT-small between all neighbouring frames, both ways, without gradients.

    Not part of the model: it is frozen, and its weights are in no checkpoint of a run.

    Source: Teed and Deng (arXiv:2003.12039); MGMAE (arXiv:2308.10794) takes the small one, 6 iterations, at the size of
    the clip, in mixed precision.
    """

    weights: str
    """File of torchvision's raft_small weights, such as raft_small_C_T_V2-01064c6d.pth."""
    iterations: int = 6
    """Refinements of the flow."""
    size: int | None = None
    """Short side, in pixels, at which flow is estimated; none: as the clips are, but at least 128."""
    block: int = 8
    """Side of the blocks over which flow is averaged, in pixels of the clips."""

    def build(self) -> "RaftFlow":
        """The estimator, on the CPU; it follows the clips that it is given to their device.

        Raises:
            ValueError: settings that cannot be used, torchvision cannot be imported here, or a file that does not fit.
            FileNotFoundError: no such file.
        """
        for name, value, least in (
            ("iterations", self.iterations, 1),
            ("size", LEAST if self.size is None else self.size, LEAST),
            ("block", self.block, 1),
        ):
            if value < least:
                raise ValueError(f"Raft({name}={value}) cannot be used; expected {least} or more")
        network = small()
        network.load_state_dict(self.state(network))
        return RaftFlow(network.eval().requires_grad_(False), self)

    def state(self, network: nn.Module) -> dict[str, Tensor]:
        """The tensors of the weights file, by the names that `network` has.

        Raises:
            FileNotFoundError, ValueError: no such file, or not this network's weights; says which are missing.
        """
        path = Path(self.weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"no such file: {path}; expected torchvision's raft_small weights, or use data.motion=Flow(), which "
                "needs none"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as PyTorch weights: {error}") from error
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError(f"{path} holds no weights by name; expected a state dict of torchvision's raft_small")
        state = {name.removeprefix("module."): value for name, value in state.items()}
        wanted = network.state_dict()
        wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
        more = [name for name in state if name not in wanted]
        if wrong or more:
            raise ValueError(
                f"{path} is not torchvision's raft_small: of its {len(wanted)} tensors {len(wrong)} are missing or of "
                f"another shape ({', '.join(wrong[:3]) or 'none'}), and {len(more)} more are there "
                f"({', '.join(more[:3]) or 'none'}). Files of the authors' own code have other names"
            )
        return state


class RaftFlow:
    """A frozen RAFT. No module, so that a method that has one neither trains nor saves it."""

    def __init__(self, network: nn.Module, config: Raft) -> None:
        self.network, self.config = network, config

    @torch.no_grad()
    def __call__(self, video: UInt8[Tensor, "b c t h w"]) -> Motion:
        """Motion between the frames of clips, on their device, in their pixels; known everywhere.

        Raises:
            ValueError: neither 1 nor 3 channels.
        """
        clips, channels, frames, height, width = video.shape
        if channels not in (1, 3):
            raise ValueError(f"RAFT sees frames of 3 channels, or 1; these clips have {channels}")
        self.network.to(video.device)
        block, steps = self.config.block, frames - 1
        across = -(-height // block), -(-width // block)
        to_previous, to_next = (torch.zeros(clips, 2, frames, *across, device=video.device) for _ in range(2))
        known = torch.ones(clips, frames, *across, dtype=torch.bool, device=video.device)
        had, has = known.clone(), known.clone()
        had[:, 0], has[:, -1] = False, False
        if steps:
            pictures = video.transpose(1, 2).expand(-1, -1, 3, -1, -1)
            earlier, later = pictures[:, :-1].flatten(0, 1), pictures[:, 1:].flatten(0, 1)

            def fields(ones: UInt8[Tensor, "p 3 h w"], others: UInt8[Tensor, "p 3 h w"]) -> Float[Tensor, "b 2 s y x"]:
                pairs = zip(ones.split(PAIRS), others.split(PAIRS))
                return torch.cat([self.between(*pair) for pair in pairs]).unflatten(0, (clips, steps)).transpose(1, 2)

            to_previous[:, :, 1:] = fields(later, earlier)
            to_next[:, :, :-1] = fields(earlier, later)
        return Motion(to_previous, to_next, had, has, block)

    def between(self, ones: UInt8[Tensor, "p 3 h w"], others: UInt8[Tensor, "p 3 h w"]) -> Float[Tensor, "p 2 y x"]:
        """Where the content of each block of `ones` is in `others`: x then y, in pixels of theirs."""
        height, width = ones.shape[2:]
        short = min(height, width)
        factor = (self.config.size or max(short, LEAST)) / short
        size = round(height * factor), round(width * factor)
        pad = (0, -size[1] % STRIDE, 0, -size[0] % STRIDE)  # right and below: coordinates stay

        def prepared(frames: UInt8[Tensor, "p 3 h w"]) -> Float[Tensor, "p 3 y x"]:
            values = frames.float() / 127.5 - 1
            if size != (height, width):
                values = F.interpolate(values, size, mode="bilinear", antialias=True)
            return F.pad(values, pad, mode="replicate")

        with torch.autocast(ones.device.type, torch.float16, enabled=ones.device.type == "cuda"):
            flow = self.network(prepared(ones), prepared(others), num_flow_updates=self.config.iterations)[-1]
        flow = flow.float()[:, :, : size[0], : size[1]]
        if size != (height, width):
            scale = torch.tensor([width / size[1], height / size[0]], device=flow.device).view(1, 2, 1, 1)
            flow = F.interpolate(flow, (height, width), mode="bilinear", antialias=True) * scale
        # blocks that hang over the edge: the mean of what is inside
        return F.avg_pool2d(flow, self.config.block, ceil_mode=True)


def small() -> nn.Module:
    """torchvision's RAFT-small, with random weights.

    Raises:
        ValueError: torchvision is not there, or does not fit the PyTorch that is.
    """
    try:
        from torchvision.models.optical_flow import raft_small
    except Exception as error:  # beside another build of PyTorch it fails with whatever comes first, RuntimeError often
        raise ValueError(
            f"RAFT takes torchvision, which cannot be imported here ({type(error).__name__}: {error}). Install the "
            f"torchvision made for PyTorch {torch.__version__}, or use data.motion=Flow(), which needs neither"
        ) from error
    return raft_small(weights=None)
