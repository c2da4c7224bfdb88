"""Text that a model writes for its calibration: its own distribution, packed like training text."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bytegolf.compression.calibration import gather_hessians
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.serving.sampling import sampled_batches
from bytegolf.tokens.raw_bytes import ByteTokenizer

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(3)
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=24))
    model = Model(width=16, layers=(layer,) * 2, vocabulary=TOKENIZER.vocabulary).build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def sampled(
    model: LanguageModel,
    *,
    batches: int = 2,
    rows: int = 3,
    length: int = 20,
    temperature: float = 0.8,
    seed: int = 0,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    settings = {"batches": batches, "rows": rows, "length": length, "seed": seed}
    return list(sampled_batches(model, TOKENIZER, temperature=temperature, **settings))


def test_batches_are_packed_as_training_text_is(model: LanguageModel) -> None:
    for ids, targets, starts in sampled(model, rows=40):
        assert ids.shape == targets.shape == starts.shape == (40, 20)
        assert torch.equal(ids[:, 1:], targets[:, :-1])
        assert torch.equal(starts, ids == TOKENIZER.bos)
        assert bool(starts[:, 0].all())
        # Documents end and others begin within rows.
        assert bool(starts[:, 1:].any())


def test_a_seed_fixes_the_text_and_batches_differ(model: LanguageModel) -> None:
    first, second = sampled(model)
    again = sampled(model)
    assert torch.equal(first[0], again[0][0])
    assert torch.equal(second[0], again[1][0])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0], sampled(model, seed=1)[0][0])


def test_every_token_is_drawn_from_what_one_full_forward_predicts(model: LanguageModel) -> None:
    ids, targets, starts = sampled(model, temperature=1e-4, rows=2)[0]
    with torch.no_grad():
        likeliest = model.log_probabilities(ids, starts).argmax(dim=-1)
    assert torch.equal(likeliest, targets)


def test_draws_follow_the_distribution_at_the_temperature(model: LanguageModel) -> None:
    _, targets, _ = sampled(model, batches=1, rows=3000, length=2, temperature=0.8)[0]
    start = torch.tensor([[TOKENIZER.bos]])
    with torch.no_grad():
        expected = (model.log_probabilities(start, start == TOKENIZER.bos)[0, 0] / 0.8).softmax(0)
    likely = int(expected.argmax())
    share, chance = float((targets[:, 0] == likely).double().mean()), float(expected[likely])
    assert abs(share - chance) < 4 * (chance * (1 - chance) / 3000) ** 0.5


def test_hessians_are_gathered_on_it_while_it_is_written(model: LanguageModel) -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return sampled_batches(model, TOKENIZER, batches=2, rows=3, length=20)

    written, told = gather_hessians(model, batches()), gather_hessians(model, list(batches()))
    assert all(torch.equal(written[name], told[name]) for name in told)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_draws_from_what_one_full_forward_predicts(model: LanguageModel) -> None:
    on_gpu = copy.deepcopy(model).cuda()
    for ids, targets, starts in sampled(on_gpu, temperature=1e-4):
        with torch.no_grad():
            logs = on_gpu.log_probabilities(ids, starts)
        chosen = logs.gather(-1, targets[..., None])[..., 0]
        # Recorded steps sum in another order, so that nearly equal tokens may change places.
        assert float((logs.amax(dim=-1) - chosen).max()) < 2e-3
