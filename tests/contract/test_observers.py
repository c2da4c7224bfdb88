"""Statistics for quantization see every input that a weight is multiplied with."""

import pytest
import torch
from specs import SPECS, build, packed

from bytegolf.compression.calibration import gather_hessians
from bytegolf.model.roles import LOOKUP_ROLES, Role, parameter_roles
from bytegolf.model.spec import Model

EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


@EVERY_SPEC
def test_gradients_of_matrices_lie_in_the_span_of_the_inputs_seen(spec: Model) -> None:
    """dL/dW = Σ g xᵀ: an input that passed the observer by would leave a part outside."""
    model = build(spec)
    ids, starts = packed(1, 2, seed=6)
    batch = (ids[:, :-1], ids[:, 1:], starts)
    hessians = gather_hessians(model, [batch])
    model.losses(*batch).sum().backward()
    unseen = 0
    for name, role in parameter_roles(model).items():
        gradient = model.get_parameter(name).grad
        if role in LOOKUP_ROLES or role == Role.SCALAR or gradient is None:
            continue
        hessian_CC = hessians[name].double()
        assert len(hessian_CC) == gradient.shape[1]
        if role == Role.EMBEDDING:
            continue  # it is looked up as well
        values_C, vectors_CC = torch.linalg.eigh(hessian_CC)
        unseen_CX = vectors_CC[:, values_C < 1e-5 * values_C[-1]]
        unseen += unseen_CX.shape[1]
        # Small inputs beside large ones count as unseen too, since H is float32.
        assert float((gradient @ unseen_CX).norm()) <= 0.01 * float(gradient.norm()), name
    assert unseen > 20, "no direction was left in which a missed input could have shown"
