"""The slots of weight matrices, which stages of training fill with other values than the weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bytegolf.compression.compress import storage_of
from bytegolf.compression.plan import Plan
from bytegolf.compression.storage import Storage
from bytegolf.model.linear import Weight
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import LanguageModel

#: Matrices that go through one storage together.
Group = tuple[Storage, list[Weight]]


def weight_modules(model: LanguageModel) -> dict[str, tuple[Weight, Role]]:
    """Every weight matrix that has a slot, with its role, by the name of its parameter."""
    roles = parameter_roles(model)
    return {
        f"{path}.weight": (module, roles[f"{path}.weight"])
        for path, module in model.named_modules()
        if isinstance(module, Weight)
    }


def open_slots(
    weights: Mapping[str, tuple[Weight, Role]], plan: Plan, *, passthrough_elements: int, joined: bool = True
) -> list[Group]:
    """Gives each matrix of the plan a slot of its own, and sorts them into groups to be filled together.

    Rows have scales of their own, so matrices of one width are one matrix; a GPU would otherwise spend most
    of the step on starting small kernels. Where rows do depend on one another, or unless `joined`, each
    matrix stays alone.
    """
    groups: dict[tuple[object, ...], Group] = {}
    for name, (module, role) in weights.items():
        storage = storage_of(name, module.weight, role, plan, passthrough_elements=passthrough_elements)
        if storage is None:
            continue
        # A tensor of its own: until now the slot may have been the weight itself.
        module.quantized = module.weight.detach().clone()
        alone = None if joined and storage.rows_are_independent else name
        key = (storage, module.weight.shape[1], alone)
        groups.setdefault(key, (storage, []))[1].append(module)
    return list(groups.values())


def fill_slots(modules: list[Weight], values_of: Callable[[Tensor], Tensor]) -> None:
    """Writes `values_of` the weights (R, C), which are joined along their rows, into the modules' slots."""
    weights = [module.weight.detach() for module in modules]
    values_RC = values_of(torch.cat(weights))
    slots = [module.quantized for module in modules if module.quantized is not None]
    torch._foreach_copy_(slots, list(values_RC.split([len(weight) for weight in weights])))
