"""How far a network on a grid strays from the network before it, behind every layer that ran.

Behind each place, a layer of a loop being several, the deviation is ‖x̂ - x‖ / ‖x‖ of the residual stream over
all tokens: what the layer adds by its own error, and what it makes of the error that it was given.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bytegolf.compression.compress import compress_model
from bytegolf.compression.plan import Plan
from bytegolf.compression.storage import dequantize_model
from bytegolf.evaluation.bits import token_stream
from bytegolf.model.roles import parameter_roles
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.serving.artifact import open_artifact
from bytegolf.text.readers import read_documents
from bytegolf.training.checkpoint import Checkpoints

#: Rows of the recipe's length that are run.
_ROWS = 8


def growth(folder: Path, recipe: Recipe, plans: Mapping[str, Plan]) -> dict[str, list[float]]:
    """The deviations of a finished run's network under each plan, from the first place to the last."""
    artifact = open_artifact(folder / "artifact.bg")
    exact = artifact.model
    weights = trained_weights(folder, recipe, exact)
    exact.load_state_dict(weights)
    texts = [document.text for document in read_documents(recipe.text.validation or recipe.text.sources)]
    ids_BT, starts_BT = rows_of(artifact.tokenizer, texts, recipe.training.length)
    ids_BT = ids_BT.to(exact.device)
    passthrough = recipe.compression.passthrough_elements
    return {
        name: deviations(exact, on_grid(exact, plan, passthrough), ids_BT, starts_BT)
        for name, plan in plans.items()
    }


def trained_weights(folder: Path, recipe: Recipe, model: nn.Module) -> dict[str, Tensor]:
    """What the run's newest checkpoint would export: its average, where there is one."""
    state = Checkpoints(folder / "checkpoint").load()
    if recipe.training.average is None:
        return state["model"]
    average = recipe.training.average.build(model)
    average.load_state_dict(state["average"])
    return average.averages()


def on_grid(model: LanguageModel, plan: Plan, passthrough_elements: int) -> LanguageModel:
    """A copy of the model with the weights that its file would hold."""
    roles = {name: str(role) for name, role in parameter_roles(model).items()}
    parameters = dict(model.named_parameters())
    stored = compress_model(parameters, roles, plan, passthrough_elements=passthrough_elements)
    twin = copy.deepcopy(model)
    twin.load_state_dict(dequantize_model(stored))
    return twin


def rows_of(tokenizer: Any, texts: Sequence[str | bytes], length: int) -> tuple[Tensor, Tensor]:
    """The first rows of the texts: ids (B, T) and where documents begin (B, T)."""
    ids, starts = token_stream(tokenizer, texts)
    rows = max(1, min(_ROWS, (len(ids) - 1) // length))
    is_start = np.zeros(len(ids), dtype=np.bool_)
    is_start[starts] = True
    shape = (rows, min(length, len(ids)))
    count = shape[0] * shape[1]
    return torch.from_numpy(ids[:count]).view(shape), torch.from_numpy(is_start[:count]).view(shape)


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
