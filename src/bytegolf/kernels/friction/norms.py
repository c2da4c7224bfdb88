"""The largest norm of each head's vectors: a bound on what rounding may do to its scores.

Shapes: B rows, T tokens, H heads, K head width.
"""

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.launch import Cut, EdgeTiles, Laid
from bytegolf.kernels.friction.tile import head_of, load_rows

#: Tokens that one program looks at.
_TOKENS = 128


@triton.jit
def _largest_norm_kernel(x, tokens, heads, norms, CUT: tl.constexpr):
    part, line = tl.program_id(0), tl.program_id(1)
    rows = part * CUT.queries + tl.arange(0, CUT.queries)
    x_RK = load_rows(head_of(x, line // heads, line % heads), rows, x.token, tokens, CUT).to(tl.float32)
    tl.store(norms + line * tl.num_programs(0) + part, tl.sqrt(tl.max(tl.sum(x_RK * x_RK, axis=1))))


def largest_norms(x_BTHK: Tensor) -> Tensor:
    """max over t of ‖x_t‖, (B, H) float32."""
    rows, tokens, heads, width = x_BTHK.shape
    parts = triton.cdiv(tokens, _TOKENS)
    norms = torch.empty((rows, heads, parts), device=x_BTHK.device)
    cut: Cut = EdgeTiles(queries=_TOKENS).cut(width)
    _largest_norm_kernel[(parts, rows * heads)](Laid.of(x_BTHK), tokens, heads, norms, CUT=cut, num_warps=4)
    return norms.amax(dim=-1)
