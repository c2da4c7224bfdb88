"""What each parameter is for. Optimizer groups, the quantization plan and reports read roles, never names."""

from enum import StrEnum

from torch import Tensor, nn


class Role(StrEnum):
    """The closed list of roles a parameter can have."""

    EMBEDDING = "embedding"
    EMBEDDING_PROJECTION = "embedding_projection"
    BIGRAM = "bigram"
    VALUE_EMBEDDING = "value_embedding"
    HEAD = "head"
    ATTENTION_QUERY = "attention_query"
    ATTENTION_KEY = "attention_key"
    ATTENTION_VALUE = "attention_value"
    ATTENTION_OUT = "attention_out"
    MLP_UP = "mlp_up"
    MLP_DOWN = "mlp_down"
    GATE = "gate"
    SCALAR = "scalar"


#: Roles whose weights are matrices that Muon orthogonalizes.
MATRIX_ROLES = frozenset(
    {
        Role.EMBEDDING_PROJECTION,
        Role.ATTENTION_QUERY,
        Role.ATTENTION_KEY,
        Role.ATTENTION_VALUE,
        Role.ATTENTION_OUT,
        Role.MLP_UP,
        Role.MLP_DOWN,
    }
)

#: Roles whose weights are tables of which a token reads one row, and which no matrix product reads.
LOOKUP_ROLES = frozenset({Role.BIGRAM, Role.VALUE_EMBEDDING})


class Component(nn.Module):
    """A module that gives every parameter of its own a role at birth."""

    def __init__(self) -> None:
        super().__init__()
        self.roles: dict[str, Role] = {}

    def parameter(self, name: str, value: Tensor, role: Role) -> nn.Parameter:
        """Registers `value` as the parameter `name` with its role, and returns it."""
        parameter = nn.Parameter(value)
        self.register_parameter(name, parameter)
        self.roles[name] = role
        return parameter


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by its full name, in the order of `model.named_parameters()`."""
    roles: dict[str, Role] = {}
    for path, module in model.named_modules():
        for name in module._parameters:
            full_name = f"{path}.{name}" if path else name
            assert isinstance(module, Component), f"{full_name} belongs to no Component, so it has no role"
            assert name in module.roles, f"{full_name} has no role"
            roles[full_name] = module.roles[name]
    return {name: roles[name] for name, _ in model.named_parameters()}
