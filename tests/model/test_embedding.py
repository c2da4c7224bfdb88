"""Token tables as input and output: factored, with a bias, with a shaped spectrum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention
from bytegolf.model.embedding import FactoredEmbedding, TiedEmbedding, with_spectrum
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream

LAYERS = (Block(Attention(heads=2, key_value_heads=1), SquaredMlp(8)),)
STARTS = torch.zeros(1, 5, dtype=torch.bool)


@torch.no_grad()
def test_a_factored_table_is_read_through_up_and_written_through_down() -> None:
    torch.manual_seed(1)
    spec = Model(
        8, LAYERS, FactoredEmbedding(inner=3, deviation=0.5, bias=True), vocabulary=11, soft_cap=None
    )
    model = spec.build().double()
    model.compute_dtype = torch.float64
    layer = model.embedding
    assert layer.bias_V is not None
    layer.bias_V.normal_()
    ids = torch.tensor([[1, 5, 10, 0, 1]])
    up, down = layer.get_submodule("up").weight, layer.get_submodule("down").weight
    assert (up.shape, down.shape, layer.weight.shape) == ((8, 3), (3, 8), (11, 3))
    x = torch.stack([up @ layer.weight[i] for i in ids[0]])
    x = x / (x.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()
    torch.testing.assert_close(model.embedded(ids, Stream.of(STARTS))[0], x)
    h = model.hidden(ids, Stream.of(STARTS))
    logits = torch.stack([layer.weight @ (down @ token) + layer.bias_V for token in h[0]])
    expected = logits - logits.logsumexp(1, keepdim=True)
    torch.testing.assert_close(model.log_probabilities(ids, STARTS)[0], expected)
    torch.testing.assert_close(model.losses(ids, ids, STARTS)[0], -expected.gather(1, ids.T)[:, 0])


@pytest.mark.parametrize("form", ["tanh", "polynomial"])
@torch.no_grad()
def test_a_bias_is_capped_with_the_logits(form: str) -> None:
    spec = Model(8, LAYERS, TiedEmbedding(bias=True), soft_cap=2.0, cap_form=form, vocabulary=4)  # type: ignore[arg-type]
    model = spec.build()
    assert model.embedding.bias_V is not None
    model.embedding.bias_V[:] = torch.tensor([100.0, -100.0, 0.0, 0.0])
    logs = model.log_probabilities(torch.zeros(1, 5, dtype=torch.long), STARTS)
    expected = torch.log_softmax(torch.tensor([2.0, -2.0, 0.0, 0.0]), 0)
    torch.testing.assert_close(logs[0, 0], expected, rtol=0, atol=0.2)
    torch.testing.assert_close(logs[0, 0, 0] - logs[0, 0, 1], torch.tensor(4.0))


def test_a_bias_starts_at_zero_and_learns() -> None:
    for spec in (TiedEmbedding(bias=True), FactoredEmbedding(inner=3, bias=True)):
        model = Model(8, LAYERS, spec, vocabulary=11).build()
        bias_V = model.embedding.bias_V
        assert bias_V is not None
        assert not bias_V.any()
        ids = torch.tensor([[1, 5, 10, 0, 1]])
        model.losses(ids, ids, STARTS).sum().backward()
        assert bias_V.grad is not None
        assert bias_V.grad.all()


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 12),
    power=st.sampled_from([0.0, 0.5, 1.5]),
    seed=st.integers(0, 99),
)
def test_a_spectrum_falls_as_asked_and_directions_stay(
    rows: int, columns: int, power: float, seed: int
) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shaped = with_spectrum(matrix, power)
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(shaped)
    ranks = torch.arange(1, len(before) + 1, dtype=torch.float64)
    torch.testing.assert_close(after, before[0] * ranks**-power)
    # Of one pair of bases: both products are symmetric.
    for product in (matrix.mT @ shaped, matrix @ shaped.mT):
        torch.testing.assert_close(product, product.mT)


def test_without_a_spectrum_the_table_is_what_was_drawn() -> None:
    tables = []
    for spec in (TiedEmbedding(0.02), TiedEmbedding(0.02, spectrum=0.5)):
        torch.manual_seed(4)
        tables.append(spec.build(40, 6).weight.detach())
    torch.manual_seed(4)
    drawn = torch.randn(40, 6) * 0.02
    assert torch.equal(tables[0], drawn)
    torch.testing.assert_close(tables[1], with_spectrum(drawn, 0.5))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FactoredEmbedding(inner=0), "inner=0"),
        (lambda: FactoredEmbedding(deviation=0.0), "deviation=0.0"),
        (lambda: TiedEmbedding(spectrum=-0.5), "spectrum=-0.5"),
    ],
)
def test_an_embedding_that_cannot_work_is_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(RecipeError, match=message):
        build()
