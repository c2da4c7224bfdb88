"""What the inputs of every weight matrix look like on some text: the Hessians that GPTQ goes by.

Shapes: B rows, T tokens, N inputs (for the table: tokens), C channels of an input, D width, E width of the
table, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module

from bytegolf.model.linear import Linear
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Stream

#: What bounds memory: tokens of one pass and its gradients, inputs that are multiplied at a time, and places
#: whose distributions are held at a time.
_TOKENS, _INPUTS, _HEADS = 1 << 14, 1 << 14, 1 << 11


@torch.no_grad()
def gather_hessians(
    model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The mean of x xᵀ over the inputs x of each weight matrix, (C, C) float32, by the parameter's name.

    Half the Hessian of ‖W x - W' x‖² in a row of W', averaged over the inputs. They are gathered in the one
    forward pass, so behind gates, within the borders of documents, and in all passes of a loop, as many as
    scoring takes. Tables that are only looked up are multiplied with nothing and have none.

    The tied table has two uses, whose Hessians only add up in units of the loss. With g the gradients of the
    targets' nats in the logits, x what the head multiplies with the table, and δ the gradients in what was
    looked up, it gets the mean of ‖g‖² x xᵀ + δ δᵀ, the empirical Fisher information of both.

    `batches`: (ids, targets, starts), each (B, T), ids and targets on the model's device, where the result is
    too, starts best on the CPU (see `Stream.of`). The model may be writing them itself while they are asked
    for. A matrix that no text reached is left out.
    """
    gram = _Gram()
    linears = {f"{path}.weight": m for path, m in model.named_modules() if isinstance(m, Linear)}
    moments = {name: _Moment(gram) for name in linears}
    table = moments["embedding.weight"] = _Moment(gram)
    for batch in batches:
        rows = max(1, _TOKENS // batch[0].shape[1])
        for ids_BT, targets_BT, starts_BT in zip(*(part.split(rows) for part in batch), strict=True):
            # Only now, since making a batch may take passes of the model that are not meant.
            with as_scored(model):
                with _observed(linears, moments):
                    hidden_ND, lookup_NE = _passed(model, ids_BT, targets_BT, starts_BT)
                gram.forget()
                table.add(_weighted_head_inputs(model, hidden_ND, targets_BT.flatten()))
                table.add(lookup_NE, counted=False)
    return {name: moment.mean() for name, moment in moments.items() if moment.count}


def _passed(
    model: LanguageModel, ids_BT: Tensor, targets_BT: Tensor, starts_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Hidden states (N, D), and the gradients of all nats in what was looked up (N, E)."""
    found: list[Tensor] = []

    def keep(module: Module, inputs: object, looked_up_BTE: Tensor) -> Tensor:
        found.append(looked_up_BTE.detach().requires_grad_())
        return found[-1]

    with model.embedding.register_forward_hook(keep), torch.enable_grad():
        hidden_ND = model.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device)).flatten(0, 1)
        nats_N = model.nats(hidden_ND, targets_BT.flatten())
        (gradient_BTE,) = torch.autograd.grad(nats_N.sum(), found)
    return hidden_ND.detach(), gradient_BTE.flatten(0, 1)


def _weighted_head_inputs(model: LanguageModel, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """‖probabilities - one-hot target‖ · x, (N, E): the slope of a cap on the logits counts as 1."""
    parts = []
    for part_ND, part_N in zip(hidden_ND.split(_HEADS), targets_N.split(_HEADS), strict=True):
        gradient_NV = model.distribution(part_ND).exp()
        gradient_NV[torch.arange(len(part_N), device=part_N.device), part_N] -= 1.0
        parts.append(gradient_NV.norm(dim=1, keepdim=True) * model.embedding.head_input(part_ND))
    return torch.cat(parts)


@contextmanager
def as_scored(model: LanguageModel) -> Iterator[None]:
    """Within, parts run as they are written, and loops as often as in scoring.

    A network in training may still have its loops ahead of it, or leave out passes that only scoring takes.
    """
    with model.as_written(), model.stack.running(model.stack.scored_passes):
        yield


@contextmanager
def _observed(linears: Mapping[str, Linear], moments: Mapping[str, "_Moment"]) -> Iterator[None]:
    try:
        for name, linear in linears.items():
            linear.observer = moments[name].add
        yield
    finally:
        for linear in linears.values():
            linear.observer = None


class _Gram:
    """Σ x xᵀ of one input (..., C). Projections that read the same one share the work."""

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._sum_CC = torch.empty(0)

    def of(self, x: Tensor) -> Tensor:
        if x is not self._input:
            self._input, self._sum_CC = x, _gram(x.detach().flatten(0, -2))
        return self._sum_CC

    def forget(self) -> None:
        """Lets go of the last input, and of the passes that hang on it."""
        self._input = None


class _Moment:
    """The running mean of x xᵀ."""

    def __init__(self, gram: _Gram) -> None:
        self._gram, self.count = gram, 0
        self._sum_CC = torch.zeros(())

    def add(self, x: Tensor, *, counted: bool = True) -> None:
        gram_CC = self._gram.of(x)
        self._sum_CC = self._sum_CC + gram_CC if self.count else gram_CC
        self.count += x.numel() // x.shape[-1] if counted else 0

    def mean(self) -> Tensor:
        return (self._sum_CC / self.count).to(torch.float32)


def _gram(x_NC: Tensor) -> Tensor:
    """Σ x xᵀ in float64, of products in float32 at least."""
    sum_CC = torch.zeros(x_NC.shape[1], x_NC.shape[1], dtype=torch.float64, device=x_NC.device)
    for part_NC in x_NC.split(_INPUTS):
        wide_NC = part_NC.to(torch.promote_types(part_NC.dtype, torch.float32))
        sum_CC += wide_NC.mT @ wide_NC
    return sum_CC
