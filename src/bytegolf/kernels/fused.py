"""Whether fused GPU kernels can run, and how their matrix products are cut into tiles."""

import importlib.util
import shutil
import sysconfig
from dataclasses import dataclass

import torch
from torch import Tensor


def has_compiler() -> bool:
    """Whether Triton and inductor find the C compiler that they build their launchers with."""
    configured = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return any(shutil.which(name) for name in ("cc", "gcc", "clang", configured))


#: Whether kernels written in Triton can be imported and started, on the GPUs that they were written for.
FUSED_KERNELS = (
    torch.version.cuda is not None and importlib.util.find_spec("triton") is not None and has_compiler()
)


def runs_fused(x: Tensor) -> bool:
    """Whether products with `x` are taken by the fused kernels: on CUDA GPUs, in 16 bits."""
    return FUSED_KERNELS and x.device.type == "cuda" and x.element_size() == 2


@dataclass(frozen=True)
class Tiles:
    """How a product of (rows, depth) and (columns, depth)ᵀ is cut up: powers of two, 16 or more.

    warps: groups of 32 threads for a tile; stages: slices of depth that are in flight; registers: bound for
    each thread, so that more tiles run side by side. Fixed instead of tuned at the first step, which would
    take seconds of every start and let rounding differ from run to run; benchmarks/kernel_speed.py compares.
    descriptors: operands come through Hopper's tensor memory accelerator where their rows are aligned to it.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    registers: int | None = None
    descriptors: bool = False

    @property
    def launch(self) -> dict[str, int | None]:
        """What a kernel is started with."""
        return {
            "ROWS": self.rows,
            "COLUMNS": self.columns,
            "DEPTH": self.depth,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "maxnreg": self.registers,
        }


def even_shares(length: int, tile: int, most: int) -> tuple[int, int]:
    """Into how many shares of at most about `most` a length is cut, and of how many whole tiles each.

    As even as tiles allow: a small last share is inefficient, and a tile behind the end takes as long as any
    other.
    """
    tiles = max(1, -(-length // tile))
    shares = -(-tiles * tile // max(most, tile))
    each = -(-tiles // shares)
    return -(-tiles // each), each
