"""Packed causal attention for training through FlashAttention 4, where the package flash-attn-4 is installed.

It is taken on Hopper and Blackwell GPUs, and for training alone: scores, and what test-time training learns,
do not depend on what is installed. https://github.com/Dao-AILab/flash-attention

Shapes: T tokens of all rows, H query heads, G key/value heads (G divides H), K head width.
"""

import functools
import importlib
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bytegolf.errors import PackageError
from bytegolf.kernels.attention.varlen import Segments

_PACKAGE = "flash-attn-4"
#: Major compute capabilities: Hopper and the Blackwell of data centers, whose instructions it is written in.
_CAPABILITIES = (9, 10)
#: Widths of heads whose gradients were compared. At 48 those of 4.0.0b36 are wrong throughout.
_HEAD_WIDTHS = (64, 128)
_FORWARD_TAKES = {
    "cu_seqlens_q",
    "cu_seqlens_k",
    "max_seqlen_q",
    "max_seqlen_k",
    "causal",
    "window_size_left",
    "return_lse",
}
_BACKWARD_TAKES = (_FORWARD_TAKES - {"return_lse"}) | {"dq", "dk", "dv"}


def _installed_version() -> str | None:
    # Not find_spec, which would import FlashAttention 2 if that is installed: the two share a parent.
    try:
        return importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


#: The version that is installed. It is imported no sooner than it runs, since that takes seconds.
FLASH4_VERSION = _installed_version()


def _constant_when_compiled(choice: Callable[[torch.device], bool]) -> Callable[[torch.device], bool]:
    # To say so loads torch's compiler, which takes seconds; where nothing is installed, there is no choice.
    return choice if FLASH4_VERSION is None else torch.compiler.assume_constant_result(choice)


@_constant_when_compiled
def flash4_trains_on(device: torch.device) -> bool:
    """Whether training in 16 bits on `device` takes FlashAttention 4: installed, and made for that GPU."""
    return (
        FLASH4_VERSION is not None
        and device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device)[0] in _CAPABILITIES
    )


def runs_flash4(q_BTHK: Tensor) -> bool:
    """Whether FlashAttention 4 attends from these queries, of 16 bits.

    Only with gradients, and not where torch is asked for deterministic algorithms.
    """
    return (
        torch.is_grad_enabled()
        and not torch.are_deterministic_algorithms_enabled()
        and q_BTHK.shape[-1] in _HEAD_WIDTHS
        and flash4_trains_on(q_BTHK.device)
    )


def flash4_attention(
    q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, *, segments: Segments, window: int | None
) -> Tensor:
    """See `bytegolf.kernels.attention.attend`; 16-bit tensors on a GPU that `flash4_trains_on`.

    Raises PackageError where the installed package cannot be imported or takes other arguments.
    """
    rows, length = q_BTHK.shape[:2]
    q_THK, k_TGK, v_TGK = (x.flatten(0, 1) for x in (q_BTHK, k_BTGK, v_BTGK))
    y_THK, _ = _attention(q_THK, k_TGK, v_TGK, segments.offsets, segments.longest, window)
    return y_THK.unflatten(0, (rows, length))


@functools.cache
def load_flash4() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Its forward and backward functions.

    Both are private: the public ones keep what the backward pass needs in a graph of their own. So whether
    they still take our arguments is looked up before they are called.
    """
    try:
        with warnings.catch_warnings():
            # What it and the packages below it are about to change concerns them, not who trains.
            warnings.simplefilter("ignore")
            interface = importlib.import_module("flash_attn.cute.interface")
        forward, backward = interface._flash_attn_fwd, interface._flash_attn_bwd
    except Exception as error:
        raise _misfit(f"cannot be loaded ({type(error).__name__}: {error})") from error
    for function, needed in ((forward, _FORWARD_TAKES), (backward, _BACKWARD_TAKES)):
        if missing := needed - set(inspect.signature(function).parameters):
            raise _misfit(f"does not take {', '.join(sorted(missing))}")
    return forward, backward


def _misfit(problem: str) -> PackageError:
    return PackageError(
        f"{_PACKAGE} {FLASH4_VERSION} is installed but {problem}; install another version, or "
        f"pip uninstall {_PACKAGE} to train with torch's own FlashAttention"
    )


def _borders(offsets: Tensor, longest: int, window: int | None) -> dict[str, Any]:
    """The arguments that say who sees whom. A window as long as the longest segment is none."""
    return {
        "cu_seqlens_q": offsets,
        "cu_seqlens_k": offsets,
        "max_seqlen_q": longest,
        "max_seqlen_k": longest,
        "causal": True,
        "window_size_left": None if window is None or window >= longest else window,
    }


#: Where torch knows the operators: a copy of this module, which an exported model brings, has its own.
_SPACE = __name__.replace(".", "_")


@torch.library.custom_op(f"{_SPACE}::flash4", mutates_args=())
def _attention(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, offsets: Tensor, longest: int, window: int | None
) -> tuple[Tensor, Tensor]:
    """What is read, (T, H, K), and the logarithms of the sums of exponentials, (H, T) float32."""
    forward, _ = load_flash4()
    # Versions differ in how much follows the first two.
    y_THK, normalizer_HT, *_ = forward(
        q_THK, k_TGK, v_TGK, return_lse=True, **_borders(offsets, longest, window)
    )
    return y_THK, normalizer_HT


@_attention.register_fake
def _(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, offsets: Tensor, longest: int, window: int | None
) -> tuple[Tensor, Tensor]:
    tokens, heads = q_THK.shape[:2]
    return q_THK.new_empty(q_THK.shape), q_THK.new_empty((heads, tokens), dtype=torch.float32)


@torch.library.custom_op(f"{_SPACE}::flash4_gradient", mutates_args=())
def _gradient(
    gradient_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    y_THK: Tensor,
    normalizer_HT: Tensor,
    offsets: Tensor,
    longest: int,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    _, backward = load_flash4()
    # Handed in, since the package's own would follow the strides of what they are the gradients of.
    found = tuple(x.new_empty(x.shape) for x in (q_THK, k_TGK, v_TGK))
    backward(
        q_THK,
        k_TGK,
        v_TGK,
        y_THK,
        gradient_THK.contiguous(),
        normalizer_HT,
        dq=found[0],
        dk=found[1],
        dv=found[2],
        **_borders(offsets, longest, window),
    )
    return found[0], found[1], found[2]


@_gradient.register_fake
def _(
    gradient_THK: Tensor,
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    y_THK: Tensor,
    normalizer_HT: Tensor,
    offsets: Tensor,
    longest: int,
    window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return q_THK.new_empty(q_THK.shape), k_TGK.new_empty(k_TGK.shape), v_TGK.new_empty(v_TGK.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q_THK, k_TGK, v_TGK, offsets, ctx.longest, ctx.window = inputs
    ctx.save_for_backward(q_THK, k_TGK, v_TGK, *output, offsets)


def _propagate(ctx: Any, gradient_THK: Tensor, normalizer_gradient_HT: Tensor) -> tuple[Tensor | None, ...]:
    # Nothing but this backward pass reads the normalizers, so their gradient is zero.
    found = _gradient(gradient_THK, *ctx.saved_tensors, ctx.longest, ctx.window)
    return *found, None, None, None


_attention.register_autograd(_propagate, setup_context=_remember)
