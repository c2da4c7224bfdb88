"""Keys in 8 bits for decoding, each on a grid of its own, since they arrive one at a time.

Shapes: B rows, S tokens, G key/value heads, K head width.
"""

import torch
from torch import Tensor

#: By how much more norms count than they were computed to be.
MORE = 1.0 + 2.0**-10


@torch.no_grad()
def coarse_rows(k_BSGK: Tensor) -> tuple[Tensor, Tensor]:
    """Codes k̂ (B, S, G, K) int8, and Δ, ‖k‖ and ‖k − Δ k̂‖ (B, S, G, 3) float32, norms rounded up."""
    exact = k_BSGK.float()
    step = exact.abs().amax(dim=-1, keepdim=True).clamp(min=1e-30) / 127.0
    codes = (exact / step).round().clamp(-127, 127)
    norms = torch.stack([exact, exact - codes * step], dim=-2).norm(dim=-1) * MORE
    return codes.to(torch.int8), torch.cat([step, norms], dim=-1)
