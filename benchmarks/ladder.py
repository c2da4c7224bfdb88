"""The early lineage as a ladder: `baseline`, then one step of the chain after another, all scored alike.

    python benchmarks/ladder.py --list
    python benchmarks/ladder.py RUNG… --text FILE… --validation FILE --tokenizer FILE --seconds 280 \
        [--seed N] [--out FOLDER] [--prepared FOLDER]

Each rung is the one before with one change. All get the same seconds, text, tokenizer and byte budget, and
are scored from their files in chunks of 1,024 and in sliding windows of 1,024 by 64. A rung leaves a run
folder of its own.
"""

from dataclasses import replace

from rich.console import Console
from studies import Change, Words, each, on_attention, on_layers, on_model, on_text, on_training, parser

from bytegolf.compression.grid import BestQuantile, Grid
from bytegolf.compression.spec import DEFAULT_CHOICES, FitBytes
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.bigram import BigramXor
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.smear import SmearMix
from bytegolf.model.value_embedding import ValueEmbedding
from bytegolf.recipe import Recipe
from bytegolf.recipes.baseline import RECIPE as BASELINE
from bytegolf.runner import run
from bytegolf.training.adam import Adam
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget
from bytegolf.training.groups import Optimizers


def as_it_is(recipe: Recipe) -> Recipe:
    """Record of 03-17, the challenge's first entry."""
    return recipe


def one_gpu_batch(recipe: Recipe) -> Recipe:
    """Eight times the updates: the chain's batches are for eight GPUs and twice the time."""
    return on_training(rows=64, forward_rows=64)(recipe)


def orthogonal_muon(recipe: Recipe) -> Recipe:
    """Record of 03-19: orthogonal start, decay in Muon, the lower rates of that record for the tables."""
    muon = replace(recipe.training.optimizers.matrices, weight_decay=0.01)
    optimizers = Optimizers(
        matrices=muon, embedding=Adam(learning_rate=0.03), scalars=Adam(learning_rate=0.02)
    )
    return on_model(initialization="orthogonal")(on_training(optimizers=optimizers)(recipe))


def wider_mlp(recipe: Recipe) -> Recipe:
    """Record of 03-19: three times the width in the MLP, quantization-aware for the last part."""
    wider = on_layers(lambda i, n, layer: replace(layer, mlp=SquaredMlp(hidden=3 * recipe.model.width)))
    return replace(wider(recipe), compression=replace(recipe.compression, quantization_aware_from=0.85))


def smear_bigram(recipe: Recipe) -> Recipe:
    """Records of 03-19 and 03-20: hashed bigrams, and half of each embedding from the token before."""
    bigram = BigramXor(buckets=2048, width=128)
    return on_model(bigram=bigram, smear=SmearMix(place="after_norm"))(recipe)


def eleven_layers(recipe: Recipe) -> Recipe:
    """Record of 03-20: two more layers."""
    return on_model(layers=(recipe.model.layers[0],) * 11)(recipe)


def exclusive_average(recipe: Recipe) -> Recipe:
    """Record of 03-20: exclusive attention in the last four layers, a longer moving average."""
    exclusive = on_attention(lambda i, n, mixer: replace(mixer, exclusive=i >= n - 4))
    return on_training(average=Average(decay=0.99))(exclusive(recipe))


def partial_rotary(recipe: Recipe) -> Recipe:
    """Record of 03-21: 16 of 64 dimensions turn, deeper norms count less."""
    return on_attention(lambda i, n, mixer: replace(mixer, rotary_dimensions=16), scaled_norms=True)(recipe)


def best_clip(recipe: Recipe) -> Recipe:
    """Record of 03-22: a value embedding for the last two layers, grids with the best clip of five."""
    recipe = on_attention(
        lambda i, n, mixer: replace(mixer, shared_values=i >= n - 2),
        value_embedding=ValueEmbedding(width=128),
    )(recipe)
    choices = (*DEFAULT_CHOICES, *(Grid(bits, BestQuantile()) for bits in (5, 6, 7)))
    return replace(recipe, compression=replace(recipe.compression, plan=FitBytes(choices)))


def leaky_square(recipe: Recipe) -> Recipe:
    """Record of 03-23: half the slope below zero, squared."""
    return on_layers(lambda i, n, layer: replace(layer, mlp=SquaredMlp(3 * recipe.model.width, slope=0.5)))(
        recipe
    )


#: From `baseline` up; each name is what its rung adds.
LADDER: dict[str, Change] = {
    "baseline": as_it_is,
    "one-gpu-batch": one_gpu_batch,
    "orthogonal-muon": orthogonal_muon,
    "wider-mlp": wider_mlp,
    "smear-bigram": smear_bigram,
    "eleven-layers": eleven_layers,
    "exclusive-average": exclusive_average,
    "partial-rotary": partial_rotary,
    "best-clip": best_clip,
    "leaky-square": leaky_square,
}


def rung(name: str) -> Recipe:
    """The recipe of a rung: all changes up to it."""
    recipe = BASELINE
    for step, change in LADDER.items():
        recipe = change(recipe)
        if step == name:
            break
    return replace(recipe, name=f"ladder-{name}")


def main(words: Words = None) -> None:
    options_parser = parser(__doc__, "rung", LADDER, "ladder")
    options_parser.add_argument("--seconds", type=float, default=280.0)
    options = options_parser.parse_args(words)
    if options.list:
        for name, change in LADDER.items():
            print(f"{name:20} {(change.__doc__ or '').partition(chr(10))[0]}")
        return

    def climb(name: str) -> None:
        recipe = on_text(rung(name), options)
        recipe = replace(
            recipe,
            training=replace(recipe.training, budget=Budget(seconds=options.seconds)),
            evaluation=replace(recipe.evaluation, plans=(Chunked(1024), Sliding(1024, 64))),
        )
        run(recipe, options.out / f"{name}-seed{options.seed}", console=Console(width=150))

    each(options.rungs, climb)


if __name__ == "__main__":
    main()
