"""Specs are data: JSON and back, errors that name the place, roles and counts that add up."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import AXES, SPECS, WIDTH, pairwise

from bytegolf.compression.spec import Compression
from bytegolf.errors import BytegolfError, RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramXor
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.gates import FullGate
from bytegolf.model.mlp import SwiGlu, XieluMlp
from bytegolf.model.roles import Component, Role, parameter_roles
from bytegolf.model.smear import SmearGate, SmearMix
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.training.adam import Adam
from bytegolf.training.averaging import Average, StochasticAverage
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers
from bytegolf.training.muon import Muon
from bytegolf.training.schedule import Schedule, StepSchedule
from bytegolf.training.spec import Training
from bytegolf.tree import from_json, to_json

EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
TRAININGS = [
    Training(Budget(seconds=60.0)),
    Training(
        Budget(seconds=1.5, tokens=10**6, steps=3),
        rows=8,
        length=16,
        optimizers=Optimizers(
            Muon(0.02, coefficients="polar_express", equalize_rows=True), scalars=Adam(0.01, weight_decay=0.1)
        ),
        schedule=Schedule(0.1, 0.7, 0.05),
        clip=0.3,
        average=None,
        precision="float64",
        validate_at=(0.1,),
    ),
    Training(Budget(steps=1), rows=1, length=1, average=Average(0.0, corrected=False)),
    Training(
        Budget(seconds=9.0),
        optimizers=Optimizers(Muon(equalize_rows=True, steps=3, sharded=True)),
        schedule=StepSchedule(300, floor=0.1),
        average=StochasticAverage(5, 0.2),
    ),
]
TREES: list[Any] = [*list(SPECS.values())[::5], *TRAININGS, Compression()]


@pytest.mark.parametrize("spec", [*SPECS.values(), *TRAININGS, Compression()])
def test_a_spec_survives_json(spec: Any) -> None:
    text = json.dumps(to_json(spec), allow_nan=False)
    assert from_json(type(spec), json.loads(text)) == spec


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*path, index))


def replaced(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    data = copy.copy(data)
    data[path[0]] = replaced(data[path[0]], path[1:], value)
    return data


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.just(10**400) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "x", "heads"]), inner)
    ),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(TREES))
    plain = to_json(spec)
    place = data.draw(st.sampled_from(list(places(plain))))
    broken = replaced(plain, place, data.draw(json_values))
    try:
        read = from_json(type(spec), broken)
    except BytegolfError as error:
        message = str(error)
    else:
        message = ""
        assert from_json(type(spec), to_json(read)) == read
    assert "\n" not in message


def model_data() -> Any:
    return to_json(Model(layers=(Block(), Block(mlp=SwiGlu(hidden=4))), vocabulary=5))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("widht",), 3, "widht is unknown"),
        (("width",), "wide", "width is 'wide'"),
        (("width",), True, "width is True"),
        (("width",), None, "width is None"),
        (("soft_cap",), "high", "soft_cap is 'high'"),
        (("soft_cap",), float("inf"), "soft_cap is inf"),
        (("layers",), {}, "layers is {}"),
        (("layers", 1), None, "layers.1 is None"),
        (("layers", 1, "mixer", "heads"), 2.5, "layers.1.mixer.heads is 2.5"),
        (("layers", 1, "mixer", "window"), "all", "layers.1.mixer.window is 'all'"),
        (("layers", 1, "mixer", "key_value_heads"), 3, "layers.1.mixer: heads=8"),
        (("layers", 0, "mlp", "type"), "Mlp", "layers.0.mlp has type 'Mlp'"),
        (("layers", 0, "mlp", "type"), ["SwiGlu"], "layers.0.mlp has type"),
        (("layers", 1, "mlp", "slope"), 0.5, "layers.1.mlp.slope is unknown"),
        (("embedding", "deviation"), -1.0, "embedding: deviation=-1.0"),
        (("embedding",), [], "embedding is"),
        (("embedding", "type"), "Untied", "embedding has type 'Untied'; allowed: TiedEmbedding, Factored"),
        (("smear",), {"type": "SmearGate", "channels": 0}, "smear: channels=0"),
        (("smear",), {"type": "SmearMix", "place": "norm"}, "smear.place is 'norm'"),
        (("bigram",), {"type": "BigramXor", "scale": 0.0}, "bigram: scale=0.0"),
        (("value_embedding",), {"width": 4}, "no layer has shared_values"),
    ],
)
def test_a_bad_tree_is_refused_by_its_dotted_path(place: tuple[Any, ...], value: Any, named: str) -> None:
    data = model_data()
    target = data
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(RecipeError) as caught:
        from_json(Model, data)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    data = model_data()
    del data["layers"][1]["mlp"]["hidden"]
    with pytest.raises(RecipeError, match=r"layers\.1\.mlp\.hidden is missing"):
        from_json(Model, data)


def test_fields_with_defaults_may_be_left_out() -> None:
    assert from_json(Model, {"width": 16}) == Model(width=16)


@EVERY_SPEC
def test_every_parameter_has_a_role_and_counts_add_up(spec: Model) -> None:
    model = spec.build()
    roles = parameter_roles(model)
    parameters = dict(model.named_parameters())
    assert list(roles) == list(parameters)
    counts = dict.fromkeys(Role, 0)
    for name, role in roles.items():
        counts[role] += parameters[name].numel()
        assert (parameters[name].ndim == 2) or role is Role.SCALAR
    assert {role: count for role, count in counts.items() if count} == expected_counts(spec)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def expected_counts(spec: Model) -> dict[Role, int]:
    """By the definitions in the specs' own words, not by looking at modules."""
    counts = dict.fromkeys(Role, 0)
    factored = isinstance(spec.embedding, FactoredEmbedding)
    inner = spec.embedding.inner if isinstance(spec.embedding, FactoredEmbedding) else WIDTH
    counts[Role.EMBEDDING] = spec.vocabulary * inner
    counts[Role.EMBEDDING_PROJECTION] = 2 * WIDTH * inner * factored
    places = len(spec.layers)
    if spec.loop is not None:
        places += (spec.loop.passes - 1) * (spec.loop.last - spec.loop.first + 1)
    counts[Role.SCALAR] = WIDTH * (places // 2) * {False: 0, True: 1, "gated": 2}[spec.skips]
    if spec.loop is not None and spec.loop.injection is not None:
        counts[Role.SCALAR] += 3 * WIDTH
    # Of the last layer, two factors of the lanes and four of what is written to them.
    counts[Role.SCALAR] += 6 * (spec.lanes is not None)
    counts[Role.SCALAR] += spec.vocabulary * spec.embedding.bias
    if spec.bigram is not None:
        counts[Role.BIGRAM] = spec.bigram.buckets * spec.bigram.width
        counts[Role.EMBEDDING_PROJECTION] += spec.bigram.width * WIDTH
        counts[Role.SCALAR] += isinstance(spec.bigram, BigramXor)
    if spec.smear is not None:
        counts[Role.SCALAR] += WIDTH if isinstance(spec.smear, SmearMix) else spec.smear.channels + 1
    if spec.value_embedding is not None:
        mixer, columns = spec.layers[0].mixer, spec.value_embedding.width
        counts[Role.VALUE_EMBEDDING] = spec.vocabulary * columns
        counts[Role.EMBEDDING_PROJECTION] += columns * mixer.key_value_heads * mixer.head_width
        # One scale, and a factor each of the two layers that take it.
        counts[Role.SCALAR] += 3
    for block in spec.layers:
        mixer, mlp = block.mixer, block.mlp
        head = mixer.head_width or WIDTH // mixer.heads
        if mixer.friction is not None:
            each = mixer.heads * (1 if mixer.differential is None else 2)
            counts[Role.SCALAR] += each * (mixer.friction.head_bias + mixer.friction.head_friction)
        counts[Role.ATTENTION_QUERY] += WIDTH * mixer.heads * head
        counts[Role.ATTENTION_KEY] += WIDTH * mixer.key_value_heads * head
        counts[Role.ATTENTION_VALUE] += WIDTH * mixer.key_value_heads * head * (not mixer.tied_values)
        counts[Role.ATTENTION_OUT] += WIDTH * mixer.heads * head
        counts[Role.MLP_UP] += WIDTH * mlp.hidden * (2 if isinstance(mlp, SwiGlu) else 1)
        counts[Role.MLP_DOWN] += WIDTH * mlp.hidden
        counts[Role.SCALAR] += 2 * WIDTH * (1 + (spec.residual_mix != "none"))
        counts[Role.SCALAR] += mixer.heads + (mixer.differential is not None)
        counts[Role.SCALAR] += 4 * (isinstance(mlp, XieluMlp) and mlp.learned)
        if mixer.gate is not None:
            counts[Role.GATE] += mixer.heads * (
                WIDTH if isinstance(mixer.gate, FullGate) else mixer.gate.channels
            )
    return {role: count for role, count in counts.items() if count}


def test_a_parameter_without_a_role_fails() -> None:
    model = next(iter(SPECS.values())).build()
    model.stack.register_parameter("stray", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(AssertionError, match=r"stack\.stray has no role"):
        parameter_roles(model)


def test_a_parameter_of_a_plain_module_fails() -> None:
    model = Component()
    model.add_module("plain", torch.nn.Linear(2, 2))
    with pytest.raises(AssertionError, match=r"plain\.weight belongs to no Component"):
        parameter_roles(model)


def test_specs_hold_every_pair_of_options() -> None:
    rows = pairwise(AXES)
    assert len(rows) == len(SPECS)
    for first in AXES:
        for second in AXES:
            if first != second:
                seen = {(row[first], row[second]) for row in rows}
                assert seen == {(a, b) for a in AXES[first] for b in AXES[second]}


def test_specs_are_what_their_names_say() -> None:
    mixers = {spec.layers[0].mixer for spec in SPECS.values()}
    assert len(mixers) >= 12
    assert all(isinstance(mixer, Attention) for mixer in mixers)
    assert {(spec.layers[0].mixer.differential, spec.skips) for spec in SPECS.values()} == {
        (start, skips) for start in (None, 0.5) for skips in (True, "gated", False)
    }
    assert {(spec.layers[0].mixer.shared_values, type(spec.smear)) for spec in SPECS.values()} == {
        (shared, smear) for shared in (True, False) for smear in (type(None), SmearMix, SmearGate)
    }
