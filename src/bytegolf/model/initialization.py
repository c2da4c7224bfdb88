"""Start values that several components share, and those of a whole network."""

import torch
from torch import Tensor, nn

from bytegolf.model.linear import Linear

#: A side shorter than this makes no matrix worth orthogonalizing, such as a gate's.
_LEAST_SIDE = 64


def normal_start(rows: int, columns: int, deviation: float) -> Tensor:
    """A matrix of normal values around zero; without values where there is no memory (the device "meta")."""
    start = torch.empty(rows, columns)
    # To draw none would load torch's compiler, which takes longer than to open an artifact.
    return start if start.is_meta else start.normal_().mul_(deviation)


@torch.no_grad()
def start_orthogonal(model: nn.Module) -> None:
    """Replaces the start of every `Linear` with both sides of 64 or more by an orthogonal matrix, gain 1.

    All singular values are then 1 (Saxe et al. 2014). What starts at zero stays there: projections into the
    residual stream, so that a fresh block adds nothing.
    """
    for layer in model.modules():
        if not isinstance(layer, Linear) or min(layer.weight.shape) < _LEAST_SIDE:
            continue
        # A model without memory has shapes but no values to look at.
        if not layer.weight.is_meta and layer.weight.any():
            nn.init.orthogonal_(layer.weight)
