"""The attentive probe: a learnt query looks at all tokens; many such probes side by side on the same tokens.

With one query, neither keys nor values of the tokens are needed: q'(K x) = (K'q)'x, and sum_n a_n (V x_n) =
V (sum_n a_n x_n). The norm's gain goes the same way, and its bias falls out of the softmax. So what touches every token
is one product with all queries of all probes, a fraction of the usual work (tested against the usual).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tubelet.nn.attention import EPS, Block


class AttentiveProbes(nn.Module):
    """Tokens in, logits of every probe out.

    A query q, not normalised: q + attention(q, norm(tokens)), then + MLP(norm(q)), then a linear layer. The attention
    has no output projection and no key bias, which softmax could not see. With a `depth` above 1, the probe's own
    self-attention blocks come first, depth - 1 of them, over the tokens; then it is one probe only.

    Source: V-JEPA (arXiv:2404.08471), attentive probe (depth 1); V-JEPA 2 (arXiv:2506.09985), depth 4. Initialised
    as there: truncated normal 0.02, matrices that write to a sum divided by sqrt(2 x number of their block).
    """

    def __init__(self, probes: int, width: int, heads: int, outputs: int, depth: int = 1) -> None:
        super().__init__()
        self.heads = heads

        def matrix(rows: int, columns: int, divisor: float = 1.0) -> nn.Parameter:
            """Alike for all probes: then their differences are those of their settings."""
            one = nn.init.trunc_normal_(torch.empty(rows, columns), std=0.02) / divisor
            return nn.Parameter(one.expand(probes, rows, columns).clone())

        def vector(size: int, value: float = 0.0) -> nn.Parameter:
            return nn.Parameter(torch.full((probes, size), value))

        self.blocks = nn.Sequential(*(block(width, heads, math.sqrt(2 * number)) for number in range(1, depth)))
        self.query = matrix(1, width)
        self.norm1, self.norm1_bias = vector(width, 1.0), vector(width)
        self.q, self.q_bias = matrix(width, width), vector(width)
        self.k = matrix(width, width)
        self.v, self.v_bias = matrix(width, width), vector(width)
        self.norm2, self.norm2_bias = vector(width, 1.0), vector(width)
        self.fc1, self.fc1_bias = matrix(width, 4 * width), vector(4 * width)
        self.fc2, self.fc2_bias = matrix(4 * width, width, math.sqrt(2 * max(depth - 1, 1))), vector(width)
        self.head, self.head_bias = matrix(width, outputs), vector(outputs)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "p b x"]:
        x = self.query + self.attend(self.blocks(tokens))
        normed = F.layer_norm(x, x.shape[2:], eps=EPS) * self.norm2[:, None] + self.norm2_bias[:, None]
        hidden = F.gelu(torch.baddbmm(self.fc1_bias[:, None], normed, self.fc1))
        x = x + torch.baddbmm(self.fc2_bias[:, None], hidden, self.fc2)
        return torch.baddbmm(self.head_bias[:, None], x, self.head)

    def attend(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "p b d"]:
        """What the queries find in the tokens."""
        x = F.layer_norm(tokens, tokens.shape[2:], eps=EPS)
        q = torch.baddbmm(self.q_bias[:, None], self.query, self.q)
        q = q.unflatten(2, (self.heads, -1)).squeeze(1)  # p heads c
        k, v = (matrix.unflatten(2, (self.heads, -1)) for matrix in (self.k, self.v))  # p d heads c
        gain, bias = self.norm1[:, None], self.norm1_bias[:, None]
        asked = torch.einsum("phc,pdhc->phd", q, k) * gain / math.sqrt(q.shape[2])
        weights = torch.einsum("bnd,phd->bphn", x, asked).softmax(dim=3)
        found = torch.einsum("bphn,bnd->pbhd", weights, x) * gain[:, None] + bias[:, None]
        return torch.einsum("pbhd,pdhc->pbhc", found, v).flatten(2) + self.v_bias[:, None]


def block(width: int, heads: int, divisor: float) -> Block:
    """A self-attention block: truncated normal 0.02, no biases; what is added to the tokens is divided."""
    made = Block(width, heads, 4 * width)
    for layer in made.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        made.attn.proj.weight.div_(divisor)
        made.mlp.fc2.weight.div_(divisor)
    return made
