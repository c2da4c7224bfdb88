"""What edges cost by their distance, tabled, so that no kernel takes a logarithm for each of them.

A thread that holds two rows of a tile, eight apart, and every eighth column meets each distance of a tile
almost twice: it reads 18 numbers where it would take 32 logarithms, which are half of what the special units
of a GPU have to do in a tile.
"""

from dataclasses import dataclass

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

from bytegolf.kernels.friction.hardware import log2

LN_2 = 0.6931471805599453
_BLOCK = 1024
#: For heads that have learned nothing, by device: their tables, which CUDA graphs may go on reading.
_KEPT: dict[torch.device, list["HeadCosts"]] = {}


@dataclass(frozen=True)
class HeadCosts:
    """Of each head, float32: bias_H, friction_H, that of log₂ instead of ln, and what they make of distances.

    table (H or 1, N): bias − friction · log₂ max(d, 1) for the distances d from N − 1 down to 0.
    """

    bias_H: Tensor
    friction_H: Tensor
    table: Tensor

    @property
    def farthest(self) -> int:
        return self.table.shape[1] - 1

    @property
    def between_heads(self) -> int:
        """How far apart the tables of two heads are: 0 if all have the same."""
        return 0 if len(self.table) == 1 else self.table.shape[1]


@triton.jit
def _table_kernel(bias, friction, table, places, BLOCK: tl.constexpr):
    head = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = log2(tl.maximum((places - 1 - place).to(tl.float32), 1.0))
    weight, shift = tl.load(friction + head), tl.load(bias + head)
    # As `tile.margins` has it, to the last bit.
    cost = tl.fma(bits, tl.full(bits.shape, -weight, tl.float32), tl.full(bits.shape, shift, tl.float32))
    tl.store(table + head * places + place, cost, mask=place < places)


def _tabled(bias_H: Tensor, friction_H: Tensor, heads: int, places: int) -> HeadCosts:
    table = torch.empty((heads, places), device=bias_H.device)
    grid = (triton.cdiv(places, _BLOCK), heads)
    _table_kernel[grid](bias_H, friction_H, table, places, BLOCK=_BLOCK, num_warps=4)
    return HeadCosts(bias_H, friction_H, table)


def head_costs(
    bias_H: Tensor | None, friction_H: Tensor | None, heads: int, places: int, device: torch.device
) -> HeadCosts:
    """Of distances below `places`. Bias 0 and friction 1 where they are None."""
    if bias_H is None and friction_H is None and not _recording(device):
        return _kept(heads, places, device)
    return _tabled(*per_head(bias_H, friction_H, heads, device), heads, places)


def per_head(
    bias_H: Tensor | None, friction_H: Tensor | None, heads: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Bias and friction of each head as the kernels take them: 0 and 1 if None, friction for log₂ not ln."""
    bias = torch.zeros(heads, device=device) if bias_H is None else bias_H.detach().float().contiguous()
    if friction_H is None:
        return bias, torch.full((heads,), LN_2, device=device)
    return bias, (friction_H.detach().float() * LN_2).contiguous()


def _kept(heads: int, places: int, device: torch.device) -> HeadCosts:
    """Costs of heads that have learned nothing; they are made once, for a power of two of distances."""
    kept = _KEPT.setdefault(device, [])
    for found in kept:
        if len(found.bias_H) >= heads and found.farthest + 1 >= places:
            return found
    room = triton.next_power_of_2(max(heads, 16))
    made = _tabled(*per_head(None, None, room, device), 1, triton.next_power_of_2(places))
    kept.append(made)
    return made


def _recording(device: torch.device) -> bool:
    """Whether what is started now goes into a CUDA graph, whose memory nothing else may keep."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
