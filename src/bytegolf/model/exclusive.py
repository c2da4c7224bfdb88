"""Exclusive self attention: what a token reads from others, without the part that it could say itself.

Shapes: B rows, T tokens, H query heads, G key/value heads (G divides H), R = H / G, K head width.
"""

import torch
from torch import Tensor

#: Below this squared length a value has no direction worth removing; far under any that training makes.
_LEAST_SQUARE = 1e-12


def without_own_value(y_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
    """y − (y·v / v·v) v for every head, v being the value that the same token gives to that head's group.

    y_BTHK: outputs of attention. v_BTGK: values of the same T tokens, not of all keys. The result is
    orthogonal to v; at a token that saw only itself it is zero but for rounding, so it must not be normalized
    by its own size; where v is zero it is y. Values are not repeated for the heads that share them
    (arXiv 2603.09078; challenge entries #265, #478).
    """
    y_BTGRK = y_BTHK.unflatten(2, (v_BTGK.shape[2], -1))
    v_BTG1K = v_BTGK[:, :, :, None]
    precise = torch.promote_types(y_BTHK.dtype, torch.float32)
    y_precise, v_precise = y_BTGRK.to(precise), v_BTG1K.to(precise)
    square_BTG11 = (v_precise * v_precise).sum(-1, keepdim=True)
    share_BTGR1 = (y_precise * v_precise).sum(-1, keepdim=True) / square_BTG11.clamp_min(_LEAST_SQUARE)
    return (y_precise - share_BTGR1 * v_precise).to(y_BTHK.dtype).flatten(2, 3)
