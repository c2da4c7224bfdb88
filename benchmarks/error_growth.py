"""How far a network on a grid strays from the network before it, behind every layer that ran.

Behind each place, a layer of a loop being several, the deviation is ‖x̂ - x‖ / ‖x‖ of the residual stream over
all tokens: what the layer adds by its own error, and what it makes of the error that it was given.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bytegolf.compression.compress import compress_model
from bytegolf.compression.plan import Plan
from bytegolf.compression.storage import dequantize_model
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.runner import Trained
from bytegolf.tokens.store import TokenStore

#: Rows of the recipe's length that are run.
_ROWS = 8


def growth(trained: Trained, plans: Mapping[str, Plan]) -> dict[str, list[float]]:
    """The deviations of a finished run's network under each plan, from the first place to the last."""
    exact = copy.deepcopy(trained.model)
    # Rounding to bfloat16 errs as much as a grid of 8 bits.
    exact.compute_dtype = torch.float32
    ids_BT, starts_BT = rows_of(trained.prepared.validation, trained.recipe.training.length)
    ids_BT = ids_BT.to(exact.device)
    passthrough = trained.recipe.compression.passthrough_elements
    return {
        name: deviations(exact, on_grid(exact, plan, passthrough), ids_BT, starts_BT)
        for name, plan in plans.items()
    }


def on_grid(model: LanguageModel, plan: Plan, passthrough_elements: int) -> LanguageModel:
    """A copy of the model with the weights that its file would hold."""
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    parameters = dict(model.named_parameters())
    stored = compress_model(parameters, roles, plan, passthrough_elements=passthrough_elements)
    twin = copy.deepcopy(model)
    twin.load_state_dict(dequantize_model(stored))
    return twin


def rows_of(store: TokenStore, length: int) -> tuple[Tensor, Tensor]:
    """The first rows of stored text: ids (B, T) and where documents begin (B, T)."""
    rows = max(1, min(_ROWS, store.tokens // length))
    shape = (rows, min(length, store.tokens))
    count = shape[0] * shape[1]
    is_start = np.zeros(count, dtype=np.bool_)
    is_start[store.starts[store.starts < count]] = True
    ids = store.read(0, count).astype(np.int64)
    return torch.from_numpy(ids).view(shape), torch.from_numpy(is_start).view(shape)


@torch.no_grad()
def deviations(exact: LanguageModel, other: LanguageModel, ids_BT: Tensor, starts_BT: Tensor) -> list[float]:
    """‖x̂ - x‖ / ‖x‖ of the residual stream behind each place."""
    streams = [_streams(model, ids_BT, starts_BT) for model in (exact, other)]
    return [float((b - a).norm() / a.norm()) for a, b in zip(*streams, strict=True)]


def _streams(model: LanguageModel, ids_BT: Tensor, starts_BT: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, x_BTD: found.append(x_BTD.double()))
        for layer in model.stack.layers
    ]
    try:
        model.losses(ids_BT, ids_BT, starts_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return found
