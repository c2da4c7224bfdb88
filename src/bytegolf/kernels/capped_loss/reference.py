"""The plain form: logits, soft cap in float32, negative log-likelihood of each target.

Shapes: N tokens, D width, V vocabulary.
"""

from typing import Literal

import torch
from torch import Tensor

#: How a cap bends the logits z: by tanh, or by a polynomial that compilers fuse more easily.
CapForm = Literal["tanh", "polynomial"]


def soft_cap(logits: Tensor, cap: float | None, form: CapForm = "tanh") -> Tensor:
    """Logits within ±cap, in float32 at least; unchanged without a cap. With u = z / cap:

    tanh: cap · tanh(u) (Gemma 2, 2024). polynomial: cap · clamp(u − u³/3 + u⁵/15, −1, 1), which reaches its
    bound at |u| ≈ 1.69 and has slope zero beyond (golf challenge #640).
    """
    logits = _precise(logits)
    if cap is None:
        return logits
    if form == "tanh":
        return cap * torch.tanh(logits / cap)
    return cap * _polynomial(logits / cap)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _polynomial(u: Tensor) -> Tensor:
    # Clamped before too: u⁵ would overflow.
    u = u.clamp(-2.0, 2.0)
    square = u.square()
    return (u * (1.0 - square / 3.0 + square.square() / 15.0)).clamp(-1.0, 1.0)


def polynomial_slope(logits: Tensor, capped: Tensor, cap: float) -> Tensor:
    """The derivative of the polynomial form, 1 − u² + u⁴/3 within its bound and 0 at it."""
    square = (_precise(logits) / cap).clamp(-2.0, 2.0).square()
    return (1.0 - square + square.square() / 3.0).masked_fill(capped.abs() >= cap, 0.0)


def capped_logits(
    h_ND: Tensor, table_VD: Tensor, bias_V: Tensor | None, cap: float | None, form: CapForm
) -> Tensor:
    """soft_cap(h tableᵀ + bias), (N, V), float32 at least; the bias is added in its own precision."""
    logits_NV = h_ND @ table_VD.to(h_ND.dtype).mT
    return soft_cap(logits_NV if bias_V is None else logits_NV + bias_V, cap, form)


def capped_cross_entropy(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> Tensor:
    """See `bytegolf.kernels.capped_loss.capped_cross_entropy`."""
    logits_NV = capped_logits(h_ND, table_VD, bias_V, cap, form)
    return torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")


def capped_cross_entropy_and_normalizer(
    h_ND: Tensor,
    table_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    cap: float | None,
    form: CapForm = "tanh",
) -> tuple[Tensor, Tensor]:
    """See `bytegolf.kernels.capped_loss.capped_cross_entropy_and_normalizer`."""
    logits_NV = capped_logits(h_ND, table_VD, bias_V, cap, form)
    normalizer_N = torch.logsumexp(logits_NV, dim=1)
    return normalizer_N - logits_NV.gather(1, targets_N[:, None])[:, 0], normalizer_N
