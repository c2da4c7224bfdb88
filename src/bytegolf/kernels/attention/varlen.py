"""Packed causal attention on CUDA GPUs through torch's variable-length FlashAttention.

Rows are laid end to end; every document, and every row, is a segment of its own, so nothing outside a
segment is even looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bytegolf.kernels.deterministic import deterministic_algorithms

# Its module loads torch's compiler, two seconds that nobody need wait whose torch is for CPUs alone.
# Not within the function, which is compiled.
if torch.version.cuda is not None:
    from torch.nn.attention.varlen import varlen_attn

_NEW_INTERFACE = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 12)


@dataclass(frozen=True)
class Segments:
    """Where the segments of a batch of B × T tokens laid end to end begin.

    `offsets` (int32) ascends from 0 to B·T and repeats B·T at the end: the padding keeps the number of
    entries a power of two, so that kernels see few different shapes. `longest` is a bound on the
    length of a segment, constant for a given T.
    """

    offsets: Tensor
    longest: int

    def of_any_number(self) -> None:
        """Code that is compiled for these is for any number of segments.

        Otherwise it is compiled again, for some ten seconds of training, where a batch first holds more.
        """
        torch._dynamo.maybe_mark_dynamic(self.offsets, 0)


def segments_from_starts(starts_BT: Tensor, device: torch.device | None = None) -> Segments:
    """The segments of a batch whose documents begin where `starts_BT` (bool) says, on `device`."""
    rows, length = starts_BT.shape
    borders = starts_BT.clone()
    borders[:, 0] = True
    found = borders.flatten().nonzero().flatten().to(torch.int32)
    room = 2 * rows
    while room < len(found) + 1:
        room *= 2
    offsets = torch.full((room + 1,), rows * length, dtype=torch.int32, device=starts_BT.device)
    offsets[: len(found)] = found
    return Segments(offsets.to(device or starts_BT.device, non_blocking=True), length)


def varlen_attention(
    q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, *, segments: Segments, window: int | None
) -> Tensor:
    """See `bytegolf.kernels.attention.attend`; 16-bit tensors on a CUDA GPU."""
    rows, length = q_BTHK.shape[:2]
    q, k, v = (x.flatten(0, 1) for x in (q_BTHK, k_BTGK, v_BTGK))
    left = -1 if window is None else window
    offsets, longest = segments.offsets, segments.longest
    # Since 2.12 fewer key/value heads must be asked for; in 2.11 the operator takes them as they are.
    call = partial(varlen_attn, enable_gqa=True) if _NEW_INTERFACE else varlen_attn

    def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = call(q, k, v, offsets, offsets, longest, longest, window_size=(left, 0))
        assert isinstance(y, Tensor)
        return y

    # Asked only outside compiled code: who wants repeatable gradients runs the model as written.
    if not torch.compiler.is_compiling() and torch.are_deterministic_algorithms_enabled():
        y = with_repeatable_gradients(attended, q, k, v)
    else:
        y = attended(q, k, v)
    return y.unflatten(0, (rows, length))


def with_repeatable_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), with gradients of the inputs that are the same to the last bit in every run.

    FlashAttention adds up the queries' gradients in the order in which blocks happen to be ready, unless
    torch's setting for deterministic algorithms is strict. A strict setting all over would refuse matrix
    products for which the environment was not prepared before the process began, so it holds for this one
    backward pass.
    """
    y = _Repeatable.apply(function, *inputs)
    assert isinstance(y, Tensor)
    return y


class _Repeatable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.inputs = tuple(x.detach().requires_grad_(x.requires_grad) for x in inputs)
        with torch.enable_grad():
            ctx.y = function(*ctx.inputs)
        return ctx.y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        asked = [x for x in ctx.inputs if x.requires_grad]
        with deterministic_algorithms(warn_only=False):
            found = iter(torch.autograd.grad(ctx.y, asked, gradients[0]))
        return None, *(next(found) if x.requires_grad else None for x in ctx.inputs)
