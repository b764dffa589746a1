"""bfloat16 attention on the CPU: the products written out against PyTorch's fused form, forward and backward.

    python benchmarks/attention.py

Why `tubelet.nn.attention.attend` has two ways, and where it changes over (SHORT). Turn about, minimum of the repeats.
Writes benchmarks/attention.csv.
"""

import time

import torch
import torch.nn.functional as F
from table import provenance, save

from tubelet.nn import attention

SHAPES = [(16, 4, 8, 32), (16, 4, 36, 24), (8, 12, 160, 64), (8, 6, 512, 64), (8, 6, 944, 64), (8, 6, 1568, 64)]
REPEATS = 7


def seconds(form, x: torch.Tensor, weights: torch.Tensor) -> float:
    x.grad = None
    start = time.perf_counter()
    q, k, v = x.permute(2, 0, 3, 1, 4)
    (form(q, k, v).transpose(1, 2).flatten(2) * weights).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    rows, attention.SHORT = [], 10**9
    forms = {"written_out": attention.attend, "fused": F.scaled_dot_product_attention}
    for b, heads, n, c in SHAPES:
        x = torch.randn(b, n, 3, heads, c).bfloat16().requires_grad_()
        weights = torch.randn(b, n, heads * c).bfloat16()
        times = {name: [] for name in forms}
        for _ in range(REPEATS):
            for name, form in forms.items():
                times[name].append(seconds(form, x, weights))
        best = {name: min(values[1:]) for name, values in times.items()}
        rows.append({
            "clips": b, "heads": heads, "tokens": n, "channels": c,
            **{f"{name}_ms": round(1000 * value, 3) for name, value in best.items()},
            "fused_over_written_out": round(best["fused"] / best["written_out"], 2),
            "threads": torch.get_num_threads(), **provenance(),
        })  # fmt: skip
        print({key: rows[-1][key] for key in list(rows[-1])[:7]}, flush=True)
    save(__file__, rows)


if __name__ == "__main__":
    main()
