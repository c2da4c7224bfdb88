"""How much the loss rises when a weight matrix is disturbed."""

from collections.abc import Iterable

from torch import Tensor

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
