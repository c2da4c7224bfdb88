"""z-loss: in the gradient, in no number that is called a loss or a score."""

import pytest
import torch
from toy_training import changed, finished, trainer

from bytegolf.errors import RecipeError
from bytegolf.model.stream import Stream
from bytegolf.training.loop import Progress, Trainer

WEIGHT = 0.03


def gradients(toy: Trainer) -> list[torch.Tensor]:
    toy._accumulate_gradients(toy.batches.batch(0))
    return [p.grad for p in toy.model.parameters() if p.grad is not None]


def test_the_gradient_is_that_of_the_loss_and_of_the_squared_normalizers() -> None:
    toy = trainer(changed(z_loss=WEIGHT))
    ours = gradients(toy)
    plain = trainer()
    batch = plain.batches.batch(0)
    nats = plain.model.losses(batch.ids_BT, batch.targets_BT, batch.starts_BT)
    logs = plain.model.log_probabilities(batch.ids_BT, batch.starts_BT)
    # The log-probabilities are capped logits less the normalizer, so one known logit gives it.
    h_BTD = plain.model.hidden(batch.ids_BT, Stream.of(batch.starts_BT))
    logit = 30.0 * torch.tanh((h_BTD @ plain.model.embedding.weight[0]) / 30.0)
    normalizer = logit - logs[..., 0]
    ((nats + WEIGHT * normalizer.square()).sum() / toy.spec.tokens_per_step).backward()
    theirs = [p.grad for p in plain.model.parameters() if p.grad is not None]
    assert any(not torch.equal(a, b) for a, b in zip(ours, gradients(trainer()), strict=True))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_what_is_reported_is_the_loss_without_it() -> None:
    first: list[list[Progress]] = []
    for weight in (0.0, WEIGHT):
        toy = trainer(changed(z_loss=weight))
        reports: list[Progress] = []
        toy.watch = reports.append
        finished(toy)
        first.append(reports)
    plain, penalized = first
    # The first step's loss is that of the same weights; later ones are those of a training with a penalty.
    assert plain[0].loss == pytest.approx(penalized[0].loss, rel=1e-12)
    assert plain[0].gradient_norm != penalized[0].gradient_norm
    assert plain[-1].loss != penalized[-1].loss


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"z_loss=-0\.1; give 0 for none"):
        changed(z_loss=-0.1)
