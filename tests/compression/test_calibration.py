"""What matrices are multiplied with: every use of each counts once, in the one forward pass."""

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from bytegolf.compression import calibration
from bytegolf.compression.calibration import gather_hessians
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramSum
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.linear import Linear
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream
from bytegolf.model.value_embedding import ValueEmbedding

VOCABULARY, LENGTH = 23, 9
ATTENTION = Attention(heads=2, key_value_heads=1, shared_values=True)
NETWORK = Model(
    width=16,
    layers=(Block(ATTENTION, SquaredMlp(hidden=24)), Block(ATTENTION, SwiGlu(hidden=20))),
    vocabulary=VOCABULARY,
    embedding=FactoredEmbedding(inner=6, deviation=0.3),
    bigram=BigramSum(buckets=11, width=5),
    value_embedding=ValueEmbedding(width=7),
    loop=Loop(1, 1, 3),
)
PLAIN = Model(
    width=16,
    layers=(Block(Attention(heads=2, key_value_heads=2), SquaredMlp(hidden=24)),),
    vocabulary=VOCABULARY,
)


def built(spec: Model, dtype: torch.dtype = torch.float64) -> LanguageModel:
    torch.manual_seed(2)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.compute_dtype = dtype
    return model.to(dtype) if dtype == torch.float64 else model


def batch(seed: int, rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=generator)
    starts = torch.rand(rows, LENGTH, generator=generator) < 0.2
    return ids[:, :-1], ids[:, 1:], starts


def recorded_by_adapters(
    model: LanguageModel, batches: list[tuple[Tensor, Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Mean x xᵀ as adapters see x, which are called with it wherever a weight is used."""
    inputs: dict[str, list[Tensor]] = {}

    def recorder(name: str, outputs: int) -> Callable[[Tensor], Tensor]:
        def record(x: Tensor) -> Tensor:
            inputs.setdefault(name, []).append(x.detach().flatten(0, -2).double())
            return x.new_zeros(*x.shape[:-1], outputs)

        return record

    linears = {f"{path}.weight": m for path, m in model.named_modules() if isinstance(m, Linear)}
    for name, linear in linears.items():
        linear.adapter = recorder(name, len(linear.weight))
    # In bfloat16 passes with gradients round otherwise than those without.
    for ids, targets, starts in batches:
        model.losses(ids, targets, starts)
    for linear in linears.values():
        linear.adapter = None
    joined = {name: torch.cat(parts) for name, parts in inputs.items()}
    return {name: x.mT @ x / len(x) for name, x in joined.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("spec", [NETWORK, PLAIN], ids=["everything, looped", "plain"])
def test_every_use_of_every_weight_counts_once(spec: Model, dtype: torch.dtype) -> None:
    model, batches = built(spec, dtype), [batch(1), batch(2, rows=5)]
    expected = recorded_by_adapters(model, batches)
    hessians = gather_hessians(model, batches)
    assert hessians.keys() == {*expected, "embedding.weight"}
    for name, hessian in expected.items():
        assert hessians[name].dtype == torch.float32
        assert torch.allclose(hessians[name].double(), hessian, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("spec", [NETWORK, PLAIN], ids=["factored", "tied"])
def test_the_tied_table_has_the_information_of_both_uses(spec: Model) -> None:
    model = built(dataclasses.replace(spec, soft_cap=None))
    # Each token once, so that a row's gradient by its one lookup is that token's.
    ids, targets, starts = torch.arange(9)[None], torch.arange(3, 12)[None], torch.zeros(1, 9).bool()
    model.losses(ids, targets, starts).sum().backward()
    both_VE = model.embedding.weight.grad
    assert both_VE is not None
    hidden_TD = model.hidden(ids, Stream.of(starts))[0].detach()
    information_EE = torch.zeros(both_VE.shape[1], both_VE.shape[1], dtype=torch.float64)
    for hidden_D, target in zip(hidden_TD, targets[0], strict=True):
        model.zero_grad()
        model.nats(hidden_D[None], target[None]).sum().backward()
        head_VE = model.embedding.weight.grad
        assert head_VE is not None
        information_EE += head_VE.mT @ head_VE
        both_VE = both_VE - head_VE
    information_EE += both_VE.mT @ both_VE
    model.zero_grad(set_to_none=True)
    found = gather_hessians(model, [(ids, targets, starts)])["embedding.weight"].double()
    assert torch.allclose(found, information_EE / 9, rtol=1e-5, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_long_batches_are_passed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, long = built(NETWORK), batch(3, rows=7)
    whole = gather_hessians(model, [long])
    for limit in ("_TOKENS", "_INPUTS", "_HEADS"):
        monkeypatch.setattr(calibration, limit, 20)
    parts = gather_hessians(model, [long])
    assert all(torch.allclose(parts[name], whole[name], rtol=1e-5, atol=1e-7) for name in whole)


def test_documents_do_not_reach_one_another() -> None:
    model = built(NETWORK)
    ids, targets, starts = batch(5, rows=1)
    starts[:] = False
    starts[0, 0] = starts[0, 4] = True
    whole = gather_hessians(model, [(ids, targets, starts)])
    parts = [(part[:, :4], part[:, 4:]) for part in (ids, targets, starts)]
    first, second = zip(*parts, strict=True)
    apart = gather_hessians(model, [first, second])
    for name, hessian in whole.items():
        assert torch.allclose(hessian, apart[name], rtol=1e-5, atol=1e-7), name


def test_loops_run_as_in_scoring_wherever_training_is() -> None:
    loop = Loop(1, 1, 2, start=0.5, extra_passes=1)
    model = built(dataclasses.replace(NETWORK, loop=loop))
    expected = gather_hessians(model, [batch(1)])
    for passes in (1, 2):
        model.stack.run_passes(passes)
        found = gather_hessians(model, [batch(1)])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert model.stack.passes == passes


def test_passes_that_make_a_batch_do_not_count() -> None:
    model = built(NETWORK, torch.float32)

    def written_by_the_model() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for seed in (1, 2):
            model.losses(*batch(9 + seed))
            yield batch(seed)

    lazily, told = (
        gather_hessians(model, written_by_the_model()),
        gather_hessians(model, [batch(1), batch(2)]),
    )
    assert lazily.keys() == told.keys()
    assert all(torch.equal(lazily[name], told[name]) for name in told)


def test_nothing_observes_afterwards_even_if_a_pass_fails() -> None:
    model = built(PLAIN)
    ids, targets, starts = batch(1)
    with pytest.raises(IndexError):
        gather_hessians(model, [(ids + VOCABULARY, targets, starts)])
    assert all(m.observer is None for m in model.modules() if isinstance(m, Linear))


# Torch's own compiler warns of torch's own scripting when it is loaded.
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_compiled_model_is_seen_as_it_is_written() -> None:
    model = built(PLAIN, torch.float32)
    plain = gather_hessians(model, [batch(1)])
    model.compile_parts()
    before = counters["frames"]["total"]
    compiled = gather_hessians(model, [batch(1)])
    assert counters["frames"]["total"] == before
    assert all(torch.equal(compiled[name], plain[name]) for name in plain)
