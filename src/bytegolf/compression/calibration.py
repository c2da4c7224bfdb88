"""What the inputs of every weight matrix look like on some text: the Hessians that GPTQ goes by.

Shapes: B rows, T tokens, N inputs, C channels of an input.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from bytegolf.model.linear import Linear
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stream import Stream

#: Inputs that are multiplied at a time, which bounds memory.
_INPUTS = 1 << 14


@torch.no_grad()
def gather_hessians(
    model: LanguageModel, batches: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The mean of x xᵀ over the inputs x of each weight matrix, (C, C) float32, by the parameter's name.

    Half the Hessian of ‖W x - W' x‖² in a row of W', averaged over the inputs. They are gathered in the one
    forward pass, so behind gates, within the borders of documents, and in all passes of a loop, as many as
    scoring takes. The tied table counts as the head: its inputs are what the head multiplies with it. Tables
    that are only looked up are multiplied with nothing and have none.

    `batches`: (ids, targets, starts), each (B, T), ids on the model's device, where the result is too, starts
    best on the CPU (see `Stream.of`); targets are not looked at. The model may be writing them itself while
    they are asked for. A matrix that no text reached is left out.
    """
    gram = _Gram()
    linears = {f"{path}.weight": m for path, m in model.named_modules() if isinstance(m, Linear)}
    moments = {name: _Moment(gram) for name in linears}
    head = moments["embedding.weight"] = _Moment(gram)
    for ids_BT, _, starts_BT in batches:
        # Only now, since making a batch may take passes of the model that are not meant.
        with as_scored(model), _observed(linears, moments):
            hidden_BTD = model.hidden(ids_BT, Stream.of(starts_BT, device=ids_BT.device))
            head.add(model.embedding.head_input(hidden_BTD))
    return {name: moment.mean() for name, moment in moments.items() if moment.count}


@contextmanager
def as_scored(model: LanguageModel) -> Iterator[None]:
    """Within, parts run as they are written, and loops as often as in scoring.

    A network in training may still have its loops ahead of it, or leave out passes that only scoring takes.
    """
    passes = 1 if model.spec.loop is None else model.spec.loop.scored_passes
    with model.as_written(), model.stack.running(passes):
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
        self._sum = torch.empty(0)

    def of(self, x: Tensor) -> Tensor:
        if x is not self._input:
            self._input, self._sum = x, _gram(x.flatten(0, -2))
        return self._sum


class _Moment:
    """The running mean of x xᵀ."""

    def __init__(self, gram: _Gram) -> None:
        self._gram, self.count = gram, 0
        self._sum_CC = torch.zeros(())

    def add(self, x: Tensor) -> None:
        gram_CC = self._gram.of(x)
        self._sum_CC = self._sum_CC + gram_CC if self.count else gram_CC
        self.count += x.numel() // x.shape[-1]

    def mean(self) -> Tensor:
        return (self._sum_CC / self.count).to(torch.float32)


def _gram(x_NC: Tensor) -> Tensor:
    """Σ x xᵀ in float64, of products in float32 at least."""
    sum_CC = torch.zeros(x_NC.shape[1], x_NC.shape[1], dtype=torch.float64, device=x_NC.device)
    for part_NC in x_NC.split(_INPUTS):
        wide_NC = part_NC.to(torch.promote_types(part_NC.dtype, torch.float32))
        sum_CC += wide_NC.mT @ wide_NC
    return sum_CC
