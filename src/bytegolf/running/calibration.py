"""The text that a finished network is looked at with before its weights are rounded."""

from collections.abc import Iterator

from torch import Tensor

from bytegolf.compression.gptq import Gptq
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.serving.sampling import sampled_batches
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.shards import Prepared
from bytegolf.training.spec import Training


def calibration_batches(
    model: LanguageModel, recipe: Recipe, prepared: Prepared, spec: Gptq
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ids, targets, starts) for `gather_hessians`, on the model's device, packed as in training.

    The same for a recipe on any number of ranks: the one that exports gathers all of them, so that nothing
    is left to be summed.
    """
    training = recipe.training
    if spec.calibration == "generated":
        yield from sampled_batches(
            model,
            prepared.tokenizer,
            batches=spec.batches,
            rows=_long_rows(training, spec.rows),
            length=training.context,
            seed=training.seed,
        )
        return
    yield from training_batches(model, recipe, prepared, batches=spec.batches, rows=spec.rows)


def training_batches(
    model: LanguageModel, recipe: Recipe, prepared: Prepared, *, batches: int, rows: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ids, targets, starts) of training text, the same for every run of a recipe, on the model's device."""
    spec = recipe.training
    rows = _long_rows(spec, rows)
    packed = PackedBatches(
        prepared.training, prepared.tokenizer, rows=rows, length=spec.context, seed=spec.seed
    )
    for step in range(batches):
        batch = packed.batch(step)
        # Borders of documents are looked for on the CPU (see `Stream.of`).
        yield batch.ids_BT.to(model.device), batch.targets_BT.to(model.device), batch.starts_BT


def _long_rows(training: Training, rows: int) -> int:
    """How many of the longest rows, which are what will be scored, hold about the tokens of so many rows."""
    return max(1, rows * training.length // training.context)
