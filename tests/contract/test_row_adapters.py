"""Adapters of rows: none at zero, each for its own row; what a document learns stays in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from specs import SPECS, VOCABULARY, build, packed
from torch import Tensor

from bytegolf.evaluation.adaptation import DocumentLora
from bytegolf.evaluation.adaptation.low_rank import RowLowRank, adapted
from bytegolf.evaluation.legality import Session, Track
from bytegolf.evaluation.passes import score_windows, silent
from bytegolf.evaluation.windows import Chunked
from bytegolf.model.roles import MATRIX_ROLES, Role, parameter_roles
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.tokens.tokenizer import ByteTokenizer

LENGTH = 17
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
#: Of chunks of 5 the documents have 4, 3, 2, 1, 3 and 4, the last of some being short.
BORDERS = [0, 17, 30, 36, 39, 54, 71]


@EVERY_SPEC
@torch.no_grad()
def test_adapters_of_a_row_change_that_row_alone(spec: Model) -> None:
    model = build(spec)
    ids, starts = packed(3, LENGTH, seed=1)
    before = model.losses(ids[:, :-1], ids[:, 1:], starts)
    targets = tuple(role for role in set(parameter_roles(model).values()) if role in MATRIX_ROLES)
    with adapted(model, (*targets, Role.HEAD), 2, seed=0, per_pass=True) as adapters:
        tied = sum(block.mixer.tied_values for block in spec.layers)
        assert len(adapters) >= 6 * len(spec.layers) - tied + 1
        weights = [adapter.fresh(3, torch.device("cpu"), torch.float64) for adapter in adapters]
        with_zeros, _ = scored(model, adapters, weights, ids, starts)
        torch.testing.assert_close(with_zeros, before, rtol=0, atol=1e-12)
        for factors in weights:
            for b_BRO in factors[1::2]:
                b_BRO[1] = 0.1
        after, logs = scored(model, adapters, weights, ids, starts)
    assert torch.equal(after[[0, 2]], with_zeros[[0, 2]])
    assert (after[1] != with_zeros[1]).any()
    torch.testing.assert_close(logs.gather(2, ids[:, 1:, None])[..., 0], -after)
    assert torch.equal(model.losses(ids[:, :-1], ids[:, 1:], starts), before)


def scored(
    model: LanguageModel,
    adapters: list[RowLowRank],
    weights: list[list[Tensor]],
    ids: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Losses and log-probabilities with these factors."""
    for adapter, factors in zip(adapters, weights, strict=True):
        adapter.use(factors)
    losses = model.losses(ids[:, :-1], ids[:, 1:], starts)
    return losses, model.log_probabilities(ids[:, :-1], starts)


LORA = DocumentLora(rank=2, chunk=5, length=11, learning_rate=0.05)


def nats(model: LanguageModel, ids: np.ndarray, spec: DocumentLora = LORA) -> np.ndarray:
    session = Session(ByteTokenizer(), ids, np.array(BORDERS[:-1]), Track.adaptive())
    windows = spec.plan(Chunked()).windows(session.starts, session.targets)
    spec.score(model, session, windows, None, silent)
    return session.close().nats


@EVERY_SPEC
@torch.no_grad()
def test_a_document_learns_from_nothing_but_its_own_past(spec: Model) -> None:
    model = build(spec, torch.bfloat16)
    ids = np.random.default_rng(3).integers(0, VOCABULARY, BORDERS[-1] + 1)
    changed, may_move = ids.copy(), np.zeros(len(ids) - 1, dtype=bool)
    for document, place in ((0, 9), (4, 50)):
        changed[place] = (changed[place] + 1) % VOCABULARY
        may_move[place - 1 : BORDERS[document + 1]] = True
    before, after = nats(model, ids), nats(model, changed)
    assert np.array_equal(after[~may_move], before[~may_move])
    assert (after[10 : BORDERS[1]] != before[10 : BORDERS[1]]).any()
    assert (after[51 : BORDERS[5]] != before[51 : BORDERS[5]]).any()


@EVERY_SPEC
@torch.no_grad()
def test_kept_context_is_what_the_same_windows_would_read_again(spec: Model) -> None:
    model = build(spec)
    ids = np.random.default_rng(4).integers(0, VOCABULARY, BORDERS[-1] + 1)
    kept = replace(LORA, context="kept", per_pass=True, learning_rate=1e-30)
    plain = Session(ByteTokenizer(), ids, np.array(BORDERS[:-1]), Track.fixed())
    score_windows(model, plain, kept.plan(Chunked()).windows(plain.starts, plain.targets))
    np.testing.assert_allclose(nats(model, ids, kept), plain.close().nats, rtol=0, atol=1e-9)
