"""How much the loss rises when a weight matrix is disturbed."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bytegolf.compression.calibration import as_scored
from bytegolf.compression.gptq import Gptq, error_shares, in_order
from bytegolf.model.spec import LanguageModel


def fisher_sensitivities(
    model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> dict[str, float]:
    """For each parameter ½ · F, so that ½ F ‖ΔW‖² predicts the rise in nats per token.

    F is the mean over a tensor's entries of the empirical Fisher information: with g the gradient of the
    mean loss over n tokens, F ≈ n · mean(g²), the gradients of tokens being taken as independent with
    mean zero. `batches`: (ids, targets, starts), each (B, T), ids and targets on the model's
    device. Loops run as often as in
    scoring, also while training has not begun them.
    """
    with as_scored(model):
        return _fisher(model, batches)


def _fisher(model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    squares: dict[str, float] = {}
    count = 0
    for ids_BT, targets_BT, starts_BT in batches:
        model.zero_grad(set_to_none=True)
        model.losses(ids_BT, targets_BT, starts_BT).mean().backward()
        count += 1
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                fisher = ids_BT.numel() * float(parameter.grad.square().mean())
                squares[name] = squares.get(name, 0.0) + 0.5 * fisher
    model.zero_grad(set_to_none=True)
    return {name: total / count for name, total in squares.items()}


def rounding_gains(hessians: Mapping[str, Tensor], spec: Gptq) -> dict[str, float]:
    """By which factor GPTQ makes the predicted loss of each matrix smaller than rounding to nearest does.

    With E = W - grid the loss is predicted by sensitivity · tr(E H Eᵀ) / mean diag(H), which is
    sensitivity · ‖E‖² for the white errors of rounding to nearest. With S_jk = U_jk / U_jj the shares of an
    error that GPTQ gives to later columns, and white errors r of each rounding, E = r S: the factor is
    tr(S H Sᵀ) / tr(H).
    """
    return {name: _rounding_gain(hessian_CC.to(torch.float64), spec) for name, hessian_CC in hessians.items()}


def _rounding_gain(hessian_CC: Tensor, spec: Gptq) -> float:
    trace = float(hessian_CC.trace())
    if not trace:
        return 1.0
    order_1C, shares_1CC = error_shares(hessian_CC[None], spec)
    (ordered_CC,), (shares_CC,) = in_order(hessian_CC[None], order_1C), shares_1CC
    return float(((shares_CC @ ordered_CC) * shares_CC).sum()) / trace
