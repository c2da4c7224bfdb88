"""How much the loss rises when a weight matrix is disturbed."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bytegolf.compression.gptq import Gptq
from bytegolf.model.spec import LanguageModel


def fisher_sensitivities(
    model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> dict[str, float]:
    """For each parameter ½ · F, so that ½ F ‖ΔW‖² predicts the rise in nats per token.

    F is the mean over a tensor's entries of the empirical Fisher information: with g the gradient of the
    mean loss over n tokens, F ≈ n · mean(g²), the gradients of tokens being taken as independent with
    mean zero. `batches`: (ids, targets, starts), each (B, T), on the model's device.
    """
    with model.as_written():
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
    sensitivity · ‖E‖² for the white errors of rounding to nearest. Those of GPTQ have, in each row,
    step²/12 · Σ_j 1 / U_jj² in the place of step²/12 · tr(H), with U the Cholesky factor that it goes by:
    1 / U_jj² is what remains of the variance of input j when the inputs rounded after it are known.
    """
    return {name: _rounding_gain(hessian_CC, spec) for name, hessian_CC in hessians.items()}


def _rounding_gain(hessian_CC: Tensor, spec: Gptq) -> float:
    wide_CC = hessian_CC.to(torch.float64)
    diagonal_C = wide_CC.diagonal()
    mean = diagonal_C.mean()
    if spec.act_order:
        # The last rounded comes first: its variance is what nothing explains away.
        order_C = diagonal_C.sort(descending=True, stable=True).indices.flip(0)
    else:
        order_C = torch.arange(len(diagonal_C) - 1, -1, -1, device=wide_CC.device)
    damped_CC = wide_CC[order_C][:, order_C] + spec.damping * mean * torch.eye(
        len(wide_CC), dtype=torch.float64, device=wide_CC.device
    )
    lower_CC, failed = torch.linalg.cholesky_ex(damped_CC)
    if int(failed) or not bool(mean > 0):
        return 1.0
    return float((lower_CC.diagonal().square().mean() / damped_CC.diagonal().mean()).clamp(max=1.0))
