"""The transformer block that encoder and decoders share."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tubelet.nn.rotary import turned

SHORT = 512  # tokens; longest sequence for which `attend` writes the products out
EPS = 1e-6  # of every LayerNorm in the MAE family; PyTorch's own default is 1e-5


class Attention(nn.Module):
    """Self-attention with biases for queries and values only.

    A bias on the keys shifts every logit of a query alike, so softmax cannot see it; but as a third of an ordinary
    `qkv` bias it drifts under AdamW, and it spoils the parameter totals. So it is a constant zero.
    Source: BEiT (arXiv:2106.08254) and VideoMAE's released model.

    Where positions are rotary, keys with their bias are turned by place, so it matters and is learnt, as in V-JEPA 2.
    """

    def __init__(self, width: int, heads: int, rotary: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads; {width % heads} are left over")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.k_bias = nn.Parameter(torch.zeros(width)) if rotary else None
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        allowed: Bool[Tensor, "_ 1 n n"] | None = None,
        turn: Float[Tensor, "2 _ 1 n c"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.parts(x, turn)
        return self.proj(attend(q, k, v, allowed).transpose(1, 2).flatten(2))

    def parts(
        self, x: Float[Tensor, "b n d"], turn: Float[Tensor, "2 _ 1 n c"] | None = None
    ) -> tuple[Float[Tensor, "b heads n c"], Float[Tensor, "b heads n c"], Float[Tensor, "b heads n c"]]:
        """Queries, keys and values of each head; the first two turned to where their tokens are, if that is told."""
        b, n, d = x.shape
        keys = torch.zeros_like(self.q_bias) if self.k_bias is None else self.k_bias
        bias = torch.cat([self.q_bias, keys, self.v_bias])
        parts = F.linear(x, self.qkv.weight, bias).view(b, n, 3, self.heads, d // self.heads).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)  # after the cut: its gradient is then put together in place
        if turn is not None:
            q, k = turned(q, turn), turned(k, turn)
        return q, k, v


def attend(
    q: Float[Tensor, "b heads n c"],
    k: Float[Tensor, "b heads m c"],
    v: Float[Tensor, "b heads m c"],
    allowed: Bool[Tensor, "_ 1 n m"] | None = None,
) -> Float[Tensor, "b heads n c"]:
    """softmax(q k' / sqrt(c)) v, in whichever way is fast here; over the `allowed` keys of each query, at least one.

    On CPUs the backward pass of PyTorch's fused attention is slow in bfloat16: with the products written out, short
    sequences train up to three and a half times faster (benchmarks/attention.csv). Long ones need the fused form for
    its memory.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or q.shape[2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, allowed)
    with torch.autocast("cpu", enabled=False):  # it would have the softmax in float32; PyTorch sums it so anyway
        return shares(q, k, allowed) @ v


def shares(
    q: Float[Tensor, "b heads n c"], k: Float[Tensor, "b heads m c"], allowed: Bool[Tensor, "_ 1 n m"] | None = None
) -> Float[Tensor, "b heads n m"]:
    """softmax(q k' / sqrt(c)): how much each query takes of each key."""
    logits = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    return torch.softmax(logits, dim=3)


class MLP(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm MLP, each added to its input."""

    def __init__(self, width: int, heads: int, hidden: int, drop_path: float = 0.0, rotary: bool = False) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads, rotary)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MLP(width, hidden)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        allowed: Bool[Tensor, "_ 1 n n"] | None = None,
        turn: Float[Tensor, "2 _ 1 n c"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        x = x + self.dropped(self.attn(self.norm1(x), allowed, turn))
        return x + self.dropped(self.mlp(self.norm2(x)))

    def dropped(self, branch: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Stochastic depth while training: of some clips nothing, of the others more, so that the mean stays.

        Source: Huang et al. 2016, arXiv:1603.09382; per clip and rescaled as in timm and VideoMAE.
        """
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < keep).to(branch.dtype) / keep


def xavier(module: nn.Module) -> None:
    """Every Linear below `module` as in MAE: Xavier-uniform weights (`qkv` as one matrix), zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
