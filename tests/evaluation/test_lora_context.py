"""Adapters at zero, adapters for each pass of a loop, kept context, warm starts."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toy_lora import BLOCK, BYTES, IDS, SPANS, STARTS, TEXTS, network

from bytegolf.evaluation.adaptation import DocumentLora
from bytegolf.evaluation.adaptation.low_rank import RowLowRank, adapted
from bytegolf.evaluation.bits import score, token_stream
from bytegolf.evaluation.proof.conditions import conditions
from bytegolf.evaluation.proof.subject import Passage, Subject, take
from bytegolf.evaluation.windows import Chunked, DocumentBlocks, PerDocument
from bytegolf.model.linear import Linear
from bytegolf.model.loop import Loop
from bytegolf.model.roles import MATRIX_ROLES, Role
from bytegolf.model.spec import LanguageModel
from bytegolf.model.stack import Block

EVERY_TARGET = tuple(role for role in Role if role in MATRIX_ROLES | {Role.HEAD})[1:]
SPEC = DocumentLora(rank=4, chunk=16, length=40, learning_rate=0.03)
KEPT = replace(SPEC, context="kept")
HEADLINE = Chunked(32)
MODEL = network()
LOOPED = network(layers=(BLOCK,) * 3, loop=Loop(1, 2, 3), skips=False)
ROWS = torch.from_numpy(IDS[: 3 * 24].reshape(3, 24))
NO_STARTS = torch.zeros(3, 24, dtype=torch.bool)


def adapted_nats(spec: DocumentLora, model: LanguageModel = MODEL, **settings: Any) -> np.ndarray:
    return score(model, BYTES, IDS, STARTS, HEADLINE, adaptation=spec, **settings).nats_N


def logs(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.log_probabilities(ROWS, NO_STARTS)


@pytest.mark.parametrize("per_pass", [False, True])
@pytest.mark.parametrize("model", [MODEL, LOOPED], ids=["plain", "looped"])
def test_adapters_as_they_start_change_no_bit(model: LanguageModel, per_pass: bool) -> None:
    before = logs(model)
    with adapted(model, EVERY_TARGET, 3, seed=0, scale=1.8, per_pass=per_pass) as adapters:
        for adapter in adapters:
            adapter.use(adapter.fresh(3, torch.device("cpu"), torch.float64))
        assert torch.equal(logs(model), before)
    assert torch.equal(logs(model), before)
    assert model.head_adapter is None
    assert all(module.adapter is None for module in model.modules() if isinstance(module, Linear))


def test_each_pass_of_a_loop_can_have_adapters_of_its_own() -> None:
    unrolled = network(layers=(BLOCK,) * 7, skips=False)
    own = dict(LOOPED.named_parameters())
    layers = (0, 1, 2, 1, 2, 1, 2)
    with torch.no_grad():
        for name, parameter in unrolled.named_parameters():
            head, _, rest = name.partition("stack.blocks.")
            layer, _, tail = rest.partition(".")
            parameter.copy_(own[f"stack.blocks.{layers[int(layer)]}.{tail}" if not head and rest else name])
    torch.testing.assert_close(logs(unrolled), logs(LOOPED))
    targets = (Role.ATTENTION_KEY, Role.ATTENTION_OUT, Role.MLP_UP)
    with (
        adapted(LOOPED, targets, 3, seed=0, per_pass=True) as looped,
        adapted(unrolled, targets, 3, seed=0, per_pass=True) as flat,
    ):
        assert [adapter.factors for adapter in looped] == [2] * 3 + [6] * 6
        assert {adapter.factors for adapter in flat} == {2}
        factors = [random_factors(adapter) for adapter in flat]
        for number, adapter in enumerate(looped):
            layer, slot = divmod(number, 3)
            passes = [place for place, used in enumerate(layers) if used == layer]
            adapter.use([factor for place in passes for factor in factors[3 * place + slot]])
        for adapter, values in zip(flat, factors, strict=True):
            adapter.use(values)
        torch.testing.assert_close(logs(LOOPED), logs(unrolled))
        flat[3].use([0 * value for value in factors[3]])
        assert (logs(LOOPED) - logs(unrolled)).abs().max() > 1e-3


def random_factors(adapter: RowLowRank) -> list[torch.Tensor]:
    return [0.3 * torch.randn_like(factor) for factor in adapter.fresh(3, torch.device("cpu"), torch.float64)]


def test_passes_that_learn_apart_learn_something_else() -> None:
    together, apart = (adapted_nats(replace(SPEC, per_pass=choice), LOOPED) for choice in (False, True))
    plain = score(LOOPED, BYTES, IDS, STARTS, PerDocument(40, 16)).nats_N
    assert np.abs(together - apart).max() > 1e-2
    assert np.abs(plain - apart).max() > 1e-2


@pytest.mark.parametrize("stride", [None, 8, 40])
def test_kept_context_is_that_of_blocks(stride: int | None) -> None:
    kept = replace(KEPT, stride=stride)
    plan = DocumentBlocks(40, 16, stride)
    still = score(MODEL, BYTES, IDS, STARTS, plan)
    nothing_learned = replace(kept, learning_rate=1e-30, epsilon=1.0)
    result = score(MODEL, BYTES, IDS, STARTS, HEADLINE, adaptation=nothing_learned)
    np.testing.assert_allclose(result.nats_N, still.nats_N, rtol=0, atol=1e-10)
    assert result.plan == f"{plan.name}, adaptive"
    assert adapted_nats(kept).sum() < 0.98 * still.nats_N.sum()


def test_where_nothing_kept_can_age_it_learns_as_if_read_again() -> None:
    """An adapter of the output changes no key and no value, nor does one behind the last attention."""
    for target in (Role.HEAD, Role.MLP_DOWN):
        spec = replace(SPEC, targets=(target,), length=200, alpha=6.0, weight_decay=0.1)
        model = network(layers=(BLOCK,)) if target == Role.MLP_DOWN else MODEL
        reread, kept = (adapted_nats(replace(spec, context=how), model) for how in ("reread", "kept"))
        np.testing.assert_allclose(kept, reread, rtol=0, atol=1e-9)
    assert np.abs(adapted_nats(SPEC) - adapted_nats(KEPT)).max() > 1e-2


def test_a_second_step_is_taken_from_what_was_known_before_the_chunk() -> None:
    spec = replace(SPEC, targets=(Role.HEAD,), length=200, steps=2)
    reread, kept = (adapted_nats(replace(spec, context=how)) for how in ("reread", "kept"))
    np.testing.assert_allclose(kept, reread, rtol=0, atol=1e-9)
    assert np.abs(kept - adapted_nats(replace(spec, steps=1))).max() > 1e-3


@pytest.mark.parametrize("spec", [KEPT, replace(KEPT, warm_start=2, per_pass=True, steps=2)])
def test_how_many_documents_lie_side_by_side_does_not_matter(spec: DocumentLora) -> None:
    expected = adapted_nats(spec)
    assert adapted_nats(spec).tolist() == expected.tolist()
    for per_pass in (1, 60):
        np.testing.assert_allclose(adapted_nats(spec, tokens_per_pass=per_pass), expected, rtol=0, atol=1e-9)


def test_a_warm_start_hands_on_the_mean_of_what_documents_learned() -> None:
    """Longest first: documents 0 and 4, then 2 and 6, then 3 and 7, the others being a chunk or less."""
    cold = adapted_nats(SPEC)
    warm = adapted_nats(replace(SPEC, warm_start=2))
    same = [bool(np.allclose(warm[slice(*span)], cold[slice(*span)], rtol=0, atol=1e-9)) for span in SPANS]
    assert same == [True, True, False, False, True, True, False, False]
    # The first chunk is read with B at zero, whatever A is.
    for first, _ in SPANS:
        np.testing.assert_allclose(warm[first : first + 5], cold[first : first + 5], rtol=0, atol=1e-9)
    never = adapted_nats(replace(SPEC, warm_start=len(TEXTS)))
    assert never.tolist() == cold.tolist()
    adapter = RowLowRank(3, 2, 1, torch.Generator().manual_seed(0))
    rows = torch.arange(6.0).view(2, 3, 1)
    adapter.start_from([rows, torch.ones(2, 1, 2)])
    a_BIR, b_BRO = adapter.fresh(4, torch.device("cpu"), torch.float32)
    assert torch.equal(a_BIR, rows.mean(dim=0).repeat(4, 1, 1))
    assert not b_BRO.any()


@pytest.mark.parametrize(
    "spec", [KEPT, replace(SPEC, warm_start=2, steps=2, alpha=8.0), replace(KEPT, targets=EVERY_TARGET)]
)
def test_all_conditions_hold(spec: DocumentLora) -> None:
    texts = [text.encode() for text in TEXTS]
    subject = Subject.adaptive(MODEL, BYTES, HEADLINE, spec)
    passage = Passage.of(BYTES, texts)
    found = list(conditions(subject, texts, passage, take(subject, passage), positions=8))
    assert [verdict.outcome for verdict in found] == ["pass"] * 4, found


@pytest.mark.parametrize("context", ["reread", "kept"])
@pytest.mark.parametrize("texts", [[TEXTS[0]], ["a"], ["", ""], ["b" * 15, "c" * 16, "d" * 14]])
def test_any_number_of_documents_of_any_length(texts: list[str], context: Any) -> None:
    ids, starts = token_stream(BYTES, [*texts, "e"])
    spec = replace(SPEC, context=context, warm_start=1)
    found = score(MODEL, BYTES, ids, starts, HEADLINE, adaptation=spec).nats_N
    plain = score(MODEL, BYTES, ids, starts, PerDocument(40, 16)).nats_N
    np.testing.assert_allclose(found[:16], plain[:16], rtol=0, atol=1e-10)
    assert bool(np.allclose(found, plain, atol=1e-6)) == (max(map(len, texts)) < SPEC.chunk)


def test_windows_of_attention_and_documents_longer_than_a_block() -> None:
    local = network(layers=(Block(replace(BLOCK.mixer, window=7), BLOCK.mlp), BLOCK))
    still = score(local, BYTES, IDS, STARTS, DocumentBlocks(24, 8)).nats_N
    spec = replace(KEPT, chunk=8, length=24, learning_rate=1e-30, epsilon=1.0)
    np.testing.assert_allclose(adapted_nats(spec, local), still, rtol=0, atol=1e-10)


def test_the_model_that_came_stays_as_it_is() -> None:
    before = copy.deepcopy(LOOPED.state_dict())
    gradients = [parameter.requires_grad for parameter in LOOPED.parameters()]
    adapted_nats(replace(KEPT, chunk=40, per_pass=True, warm_start=1), LOOPED)
    assert all(torch.equal(value, before[name]) for name, value in LOOPED.state_dict().items())
    assert [parameter.requires_grad for parameter in LOOPED.parameters()] == gradients
