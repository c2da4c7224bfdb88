"""A training of a fraction of a second: random documents, a network of width 8, every part in place."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import SquaredMlp, SwiGlu
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.store import TokenStore
from bytegolf.tokens.tokenizer import ByteTokenizer
from bytegolf.training.adam import Adam
from bytegolf.training.averaging import Average
from bytegolf.training.budget import Budget, Stopwatch
from bytegolf.training.checkpoint import Checkpoints
from bytegolf.training.groups import OptimizerGroup, Optimizers
from bytegolf.training.loop import Progress, Trainer
from bytegolf.training.muon import Muon
from bytegolf.training.ranks import Ranks
from bytegolf.training.record import Record
from bytegolf.training.schedule import Schedule
from bytegolf.training.spec import Training
from bytegolf.training.stages import Stage, Stages

TOKENIZER = ByteTokenizer()
NETWORK = Model(
    width=8,
    layers=(
        Block(Attention(heads=2, key_value_heads=1), SquaredMlp(12)),
        Block(Attention(heads=2, key_value_heads=2, window=4), SwiGlu(6)),
        Block(Attention(heads=2, key_value_heads=1), SquaredMlp(12)),
    ),
    embedding=TiedEmbedding(0.05),
    vocabulary=TOKENIZER.vocabulary,
)
#: Everything on: momentum that still rises, decay, clipping, a schedule with a rise and a fall, averaging.
TRAINING = Training(
    Budget(steps=10),
    rows=4,
    length=16,
    forward_rows=2,
    optimizers=Optimizers(
        matrices=Muon(0.02, momentum_steps=6, weight_decay=0.1),
        embedding=Adam(0.01, weight_decay=0.01),
        scalars=Adam(0.01),
    ),
    schedule=Schedule(warmup=0.2, warmdown=0.5),
    clip=1.0,
    average=Average(0.8),
    validate_at=(),
    checkpoint_seconds=1e9,
)


class Clock:
    """A clock that a test moves: every reading takes `tick` seconds."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 100.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def store(documents: int = 30) -> TokenStore:
    """Documents of three letters in a pattern, so that there is something to learn."""
    random = np.random.default_rng(7)
    parts = []
    for _ in range(documents):
        letters = random.integers(97, 123, 3)
        body = np.tile(letters, random.integers(1, 9))
        parts.append(np.concatenate([[TOKENIZER.bos], body]))
    stream = np.concatenate(parts).astype(np.uint16)
    return TokenStore([stream], bos=TOKENIZER.bos, text_bytes=len(stream) - documents)


def network(dtype: torch.dtype = torch.float64, seed: int = 0, *, layout: Model = NETWORK) -> LanguageModel:
    torch.manual_seed(seed)
    model = layout.build()
    model.compute_dtype = dtype
    return model.double() if dtype == torch.float64 else model


def trainer(
    spec: Training = TRAINING,
    folder: Path | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    ranks: Ranks | None = None,
    stages: Callable[[LanguageModel], Sequence[Stage]] = lambda model: (),
    clock: Callable[[], float] | None = None,
    validate: Callable[[], tuple[float, float]] | None = None,
    layout: Model = NETWORK,
) -> Trainer:
    """A trainer; with a folder it saves checkpoints and metrics there."""
    ranks = ranks or Ranks()
    model = network(dtype, layout=layout)
    batches = PackedBatches(
        store(),
        TOKENIZER,
        rows=spec.rows,
        length=spec.length,
        seed=spec.seed,
        rank=ranks.rank,
        world=ranks.world,
    )
    leads = folder is not None and ranks.leads
    return Trainer(
        model=model,
        batches=batches,
        spec=spec,
        optimizers=OptimizerGroup(model, spec.optimizers, ranks, precision=dtype),
        ranks=ranks,
        stages=Stages(stages(model)),
        average=None if spec.average is None else spec.average.build(model),
        record=Record(folder / "metrics.jsonl" if leads and folder is not None else None),
        checkpoints=None if folder is None else Checkpoints(folder / "checkpoint"),
        stopwatch=Stopwatch() if clock is None else Stopwatch(clock=clock),
        validate=validate,
    )


def changed(spec: Training = TRAINING, **values: Any) -> Training:
    return dataclasses.replace(spec, **values)


def finished(toy: Trainer) -> Trainer:
    """Runs it and closes its record."""
    try:
        toy.run()
    finally:
        toy.record.close()
    return toy


def losses_of(toy: Trainer) -> list[float]:
    """The loss of each step, in nats per token, of a training from beginning to end."""
    losses: list[float] = []
    toy.watch = lambda progress: losses.append(progress.loss)
    finished(toy)
    return losses


def broken_off(toy: Trainer, stop: int) -> None:
    """Runs it up to step `stop`, saves, and falls over."""

    def watch(progress: Progress) -> None:
        if progress.step == stop:
            toy._save()
            raise ConnectionError

    toy.watch = watch
    with pytest.raises(ConnectionError):
        finished(toy)


def weights(toy: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in toy.model.named_parameters()}


def outcome(toy: Trainer) -> dict[str, Any]:
    """All that a finished training leaves, read from its parts and not from what it saves of them."""
    return {
        "step": toy.step,
        "tokens": toy.tokens,
        "first_loss": toy.first_loss,
        "weights": weights(toy),
        "averages": None if toy.average is None else toy.average.averages(),
        "optimizers": [
            [list(state.values()) for state in optimizer.state.values()]
            for optimizer in toy.optimizers.optimizers
        ],
    }


def same_bits(a: Any, b: Any) -> bool:
    """Whether two nested states hold the same values, tensors bit for bit (seconds aside)."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        keys = set(a) - {"seconds"}
        return keys == set(b) - {"seconds"} and all(same_bits(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return a == b
