"""The recipes with friction: their weights, how they differ from their twin, and how their scores start."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.model.roles import Role, parameter_roles
from bytegolf.model.spec import Model
from bytegolf.model.stream import Stream
from bytegolf.recipes.friction_355m import RECIPE as LARGE
from bytegolf.recipes.friction_small import RECIPE as SMALL
from bytegolf.recipes.softmax_small import RECIPE as TWIN
from bytegolf.tree import to_json

GPT2_VOCABULARY, GPT2_MEDIUM = 50_257, 354_823_168


def weights_by_role(model: Model, vocabulary: int) -> dict[Role, int]:
    with torch.device("meta"):
        built = replace(model, vocabulary=vocabulary).build()
    roles, found = parameter_roles(built), dict.fromkeys(Role, 0)
    for name, value in built.named_parameters():
        found[roles[name]] += value.numel()
    return found


def test_the_large_one_has_the_matrices_of_gpt2_medium_and_none_of_its_vectors() -> None:
    weights = weights_by_role(LARGE.model, GPT2_VOCABULARY)
    width, layers, heads = 1024, 24, 16
    matrices = GPT2_VOCABULARY * width + layers * (4 * width**2 + 2 * width * 4 * width)
    # Biases of five projections (of query, key and value each), and of each normalization factor and bias.
    vectors = layers * ((3 + 1 + 4 + 1) * width + 2 * 2 * width) + 2 * width
    positions = 1024 * width
    assert matrices + vectors + positions == GPT2_MEDIUM
    # Here each head has a gain, and what a layer adds a factor for each channel, twice.
    assert weights[Role.SCALAR] == layers * (heads + 2 * width)
    assert sum(weights.values()) - weights[Role.SCALAR] == matrices
    assert sum(weights.values()) == 353_502_592


def test_the_large_one_has_the_published_batch_and_budget() -> None:
    training = LARGE.training
    assert training.tokens_per_step == 2**19
    steps = training.budget.total_steps(training.tokens_per_step)
    assert steps == 22_000
    assert steps * training.tokens_per_step == 11_534_336_000
    assert [round(share * steps) for share in training.validate_at] == list(range(1000, 22_000, 1000))


def test_the_twin_differs_in_the_mixer_alone() -> None:
    mixers = [layer.mixer for layer in TWIN.model.layers]
    assert {mixer.friction for mixer in mixers} == {None}
    assert all(mixer.rotary for mixer in mixers)
    layers = tuple(replace(layer, mixer=SMALL.model.layers[0].mixer) for layer in TWIN.model.layers)
    same = replace(TWIN, name=SMALL.name, model=replace(TWIN.model, layers=layers))
    assert to_json(same) == to_json(SMALL)
    assert weights_by_role(TWIN.model, 8192) == weights_by_role(SMALL.model, 8192)


@pytest.mark.parametrize(
    "mixer",
    [
        SMALL.model.layers[0].mixer,
        LARGE.model.layers[0].mixer,
        Attention(heads=8, key_value_heads=8, friction=Friction(), norm_query_key=False, query_gain=3.0),
    ],
    ids=["small", "large", "not normalized"],
)
@torch.no_grad()
def test_scores_begin_with_a_deviation_of_one(mixer: Attention) -> None:
    torch.manual_seed(0)
    layer, seen = mixer.build(512, "layer"), []
    assert layer.friction is not None
    layer.friction.observer = lambda *shown: seen.extend(shown[:2])
    x_BTD = torch.randn(1, 128, 512)
    layer(x_BTD, Stream.of(torch.zeros(1, 128, dtype=torch.bool)))
    q_BTHK, k_BTHK = seen
    score_BHTS: Tensor = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK) * q_BTHK.shape[-1] ** -0.5
    assert float(score_BHTS.std()) == pytest.approx(1.0, rel=0.05)
