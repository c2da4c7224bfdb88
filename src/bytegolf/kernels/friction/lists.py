"""Which tiles have edges, listed for kernels that visit these alone.

Shapes: B rows, H query heads, I tiles of queries, J tiles of keys.
"""

from dataclasses import dataclass

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor


@dataclass(frozen=True)
class TileLists:
    """keys: (B·H, I, J) int32, for each tile of queries its tiles of keys, ascending, of which the first
    key_counts (B·H, I) count. queries, (B·H, J, I), and query_counts: the same turned round, or None.
    """

    keys: Tensor
    key_counts: Tensor
    queries: Tensor | None = None
    query_counts: Tensor | None = None


@triton.jit
def _list_kernel(flags, lists, counts, entries, per_head, flag_line, flag_entry, BLOCK: tl.constexpr):
    line, head = tl.program_id(0), tl.program_id(1)
    lines = tl.num_programs(0)
    entry = tl.arange(0, BLOCK)
    begin = flags + head.to(tl.int64) * per_head + line * flag_line
    live = tl.load(begin + entry * flag_entry, mask=entry < entries, other=0).to(tl.int32)
    place = tl.cumsum(live, axis=0) - 1
    target = lists + (head.to(tl.int64) * lines + line) * entries
    tl.store(target + place, entry, mask=live > 0)
    tl.store(counts + head * lines + line, tl.sum(live))


def _listed(flags_NIJ: Tensor) -> tuple[Tensor, Tensor]:
    """Of each line i, the j whose flag is set, in order, and how many they are."""
    heads, lines, entries = flags_NIJ.shape
    lists = torch.empty((heads, lines, entries), dtype=torch.int32, device=flags_NIJ.device)
    counts = torch.empty((heads, lines), dtype=torch.int32, device=flags_NIJ.device)
    _list_kernel[(lines, heads)](
        flags_NIJ,
        lists,
        counts,
        entries,
        *flags_NIJ.stride(),
        BLOCK=triton.next_power_of_2(entries),
    )
    return lists, counts


def list_tiles(flags_NIJ: Tensor, *, both_ways: bool) -> TileLists:
    """The tiles flagged (int8), by tiles of queries, and by tiles of keys too if `both_ways`."""
    if not both_ways:
        return TileLists(*_listed(flags_NIJ))
    return TileLists(*_listed(flags_NIJ), *_listed(flags_NIJ.transpose(1, 2)))
