"""Divided space-time attention: a token looks at its own place in all slots, and then at its own slot.

TimeSformer: Bertasius et al., ICML 2021, arXiv:2102.05095, section 3, "divided"; block and initialisation as in its
released model. Without a class token, as all encoders here. Against joint attention a block has a third more weights,
and its attention grows with T + H*W instead of T*H*W.

Of a clip of which only some tokens are there (masked pre-training), a token looks at those of them that share its
place, and then at those that share its slot. If the same places are there in every slot (tubes, whole clips) they are
cut into short sequences; else all are in one sequence, with the rest forbidden: the same result, and more work.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tubelet.nn.attention import EPS, Attention, Block
from tubelet.types import Grid


@dataclass(frozen=True)
class Where:
    """Which of the tokens share a place, and which a slot."""

    slots: int
    """Of a sequence that has the same places in each of its slots; 0: it has not."""
    same_place: Bool[Tensor, "b 1 v v"] | None = None
    same_slot: Bool[Tensor, "b 1 v v"] | None = None

    @classmethod
    def of(cls, ids: Int[Tensor, "b v"] | None, grid: Grid, tokens: int) -> "Where":
        """Of tokens at the ascending indices `ids` of the grid; None: of its first `tokens`, which are whole slots."""
        if ids is None:
            return cls(tokens // grid.slot)
        slot, place = ids // grid.slot, ids % grid.slot
        counted = ids.is_meta  # for `tubelet plan`: indices without values, so the larger count
        slots = 1 if counted else int((slot[0].diff() > 0).sum()) + 1
        if ids.shape[1] % slots == 0 and not counted:
            rows, columns = (part.unflatten(1, (slots, -1)) for part in (slot, place))
            if bool((rows == rows[:, :, :1]).all() & (columns == columns[:, :1]).all()):
                return cls(slots)
        return cls(0, *((part.unsqueeze(2) == part.unsqueeze(1)).unsqueeze(1) for part in (place, slot)))

    def over_time(self, attention: Attention, x: Float[Tensor, "b v d"]) -> Float[Tensor, "b v d"]:
        """Attention among the tokens of each place."""
        if not self.slots:
            return attention(x, self.same_place)
        b, v, d = x.shape
        columns = x.view(b, self.slots, v // self.slots, d).transpose(1, 2)
        mixed = attention(columns.reshape(-1, self.slots, d))
        return mixed.view(columns.shape).transpose(1, 2).reshape(b, v, d)

    def over_space(self, attention: Attention, x: Float[Tensor, "b v d"]) -> Float[Tensor, "b v d"]:
        """Attention among the tokens of each slot."""
        if not self.slots:
            return attention(x, self.same_slot)
        b, v, d = x.shape
        return attention(x.reshape(b * self.slots, v // self.slots, d)).view(b, v, d)


class DividedBlock(Block):
    """Attention over time, attention over space, MLP: each after its norm, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, drop_path: float = 0.0) -> None:
        super().__init__(width, heads, hidden, drop_path)
        self.norm0 = nn.LayerNorm(width, eps=EPS)
        self.attn0 = Attention(width, heads)
        self.join = nn.Linear(width, width)

    def forward(  # type: ignore[override]  # what it is told is where tokens are
        self, x: Float[Tensor, "b v d"], where: Where | None = None
    ) -> Float[Tensor, "b v d"]:
        assert where is not None  # the encoder knows
        x = self.timed(x, where)
        x = x + self.dropped(where.over_space(self.attn, self.norm1(x)))
        return x + self.dropped(self.mlp(self.norm2(x)))

    def timed(self, x: Float[Tensor, "b v d"], where: Where) -> Float[Tensor, "b v d"]:
        """Tokens after their look over time."""
        return x + self.join(self.dropped(where.over_time(self.attn0, self.norm0(x))))


def still_at_first(blocks: Iterable[nn.Module]) -> None:
    """Nothing is taken over time at the start but in the first block: the rest learn to."""
    for block in list(blocks)[1:]:
        assert isinstance(block, DividedBlock)
        nn.init.zeros_(block.join.weight)
        nn.init.zeros_(block.join.bias)
