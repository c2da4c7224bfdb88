"""From a recipe to a run folder: the one place where all parts meet."""

import functools
import gc
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from bytegolf.compression.plan import Plan
from bytegolf.compression.stages import SeenGrids
from bytegolf.errors import CheckpointError, RecipeError
from bytegolf.evaluation.bits import score
from bytegolf.evaluation.windows import Chunked
from bytegolf.files import write_json
from bytegolf.model.spec import LanguageModel
from bytegolf.recipe import Recipe
from bytegolf.running.edges import edge_measurement, edges_in_words, newest_edges
from bytegolf.running.environment import describe_environment, seconds_since_start
from bytegolf.running.export import export
from bytegolf.running.grids import early_plan, refuse_hopeless_budget
from bytegolf.running.outcome import evaluate_run
from bytegolf.running.prepared import open_data
from bytegolf.running.progress import Display
from bytegolf.running.rehearsal import stand_in_text
from bytegolf.tokens.batches import PackedBatches
from bytegolf.tokens.shards import Prepared
from bytegolf.training.budget import Stopwatch
from bytegolf.training.checkpoint import Checkpoints
from bytegolf.training.groups import OptimizerGroup
from bytegolf.training.longer_rows import JoinedRows
from bytegolf.training.loop import Trainer
from bytegolf.training.looping import begin_unlooped
from bytegolf.training.ranks import Ranks
from bytegolf.training.record import Record
from bytegolf.training.stages import Stages
from bytegolf.tree import from_json, to_json

#: Held-out tokens scored at each validation during training: enough to see the trend.
_VALIDATION_TOKENS = {"cpu": 16_384, "cuda": 1_048_576}
#: Bits per byte by which an average must lose to the last weights to be worth a word.
_NOTICEABLE = 0.002


def free_folder(name: str, device: str = "auto") -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3 … that does not exist; the same for every rank."""
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    # One rank may already have made the folder that another is looking for.
    return Path(Ranks.start(device).from_lead(str(folder)))


def run(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    console: Console | None = None,
) -> dict[str, Any]:
    """Prepares text, trains, compresses, scores and reports; returns what result.json holds.

    `folder` must be new unless `resume`, which continues from its newest checkpoint with the recipe it
    holds. device: auto, cpu or cuda. Under torchrun every process calls this with the same arguments.
    """
    ranks = Ranks.start(device)
    display = Display(console if ranks.leads else None)
    try:
        recipe = _open_folder(recipe, folder, resume, ranks)
        with display.line():
            trained = train(recipe, folder, resume=resume, ranks=ranks, display=display)
            if not ranks.leads:
                return {}
            result = finish(trained, folder, ranks.device, display)
        return result
    finally:
        ranks.stop()


@dataclass
class Trained:
    """A trained model with what led to it. seen_plan: the grids that training saw, if it saw any."""

    recipe: Recipe
    prepared: Prepared
    model: LanguageModel
    seen_plan: Plan | None
    training: dict[str, Any]


def train(recipe: Recipe, folder: Path, *, resume: bool, ranks: Ranks, display: Display) -> Trained:
    """Prepares text and trains until the budget is used."""
    slow_start = ranks.device.type == "cuda" or _compiles(recipe, ranks.device)
    meanwhile = functools.partial(rehearse, recipe, ranks.device) if slow_start else None
    prepared = open_data(recipe, folder, ranks, display, meanwhile=meanwhile)
    recipe = recipe.with_vocabulary(prepared.tokenizer.vocabulary)
    trainer, seen = build_trainer(recipe, prepared, folder, ranks)
    try:
        refuse_hopeless_budget(trainer.model, recipe, prepared)
        if resume:
            trainer.load_state_dict(Checkpoints(folder / "checkpoint").load())
        trainer.watch = display.training(recipe.training.budget)
        if _compiles(recipe, ranks.device):
            display.update("compiling …")
            trainer.model.compile_parts()
        trainer.warm_up()
        first_step = seconds_since_start()
        trainer.run()
    finally:
        trainer.record.close()
    trained = _trained(recipe, prepared, trainer, seen.plan, first_step)
    display.say(
        f"trained  {trainer.step} steps, {trainer.tokens:,} tokens in {trained.training['seconds']:.0f} s "
        f"({trained.training['tokens_per_second']:,.0f} tokens/s)"
    )
    if trainer.newest_edges is not None:
        display.say(f"edges    {edges_in_words(trainer.newest_edges)}")
    if ranks.leads and trainer.average is not None and trainer.average.steps:
        trained.training["average"] = _beside_last_weights(trained, trainer.model, folder, display)
    return trained


def rehearse(recipe: Recipe, device: torch.device) -> None:
    """Opens the GPU and compiles, for made-up tokens, what training will run: the same code serves it then.

    For each process alone: connecting them is left to the trainer's own beginning.
    """
    _warm_up_on_made_up_text(recipe, device)
    # A compiled network and its code hold one another; the GPU's memory is for the one that trains.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _warm_up_on_made_up_text(recipe: Recipe, device: torch.device) -> None:
    prepared = stand_in_text(recipe)
    recipe = recipe.with_vocabulary(prepared.tokenizer.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = build_trainer(recipe, prepared, Path(folder), Ranks(device=device))
        try:
            if _compiles(recipe, device):
                trainer.model.compile_parts()
            trainer.warm_up()
        finally:
            trainer.record.close()


def _beside_last_weights(
    trained: Trained, last: LanguageModel, folder: Path, display: Display
) -> dict[str, float]:
    """Bits per byte on some held-out text: of the averaged weights, and of the last ones."""
    display.update("the average beside the last weights …")
    averaged, lasting = (
        _validate(model, trained.recipe, trained.prepared)[1] for model in (trained.model, last)
    )
    if averaged - lasting > _NOTICEABLE:
        display.say(
            f"averaged {averaged:.4f} bits/byte on some held-out text, the last weights {lasting:.4f}; to "
            f"keep these: bytegolf compress {folder} --training.average none"
        )
    return {"bits_per_byte": averaged, "last_weights": lasting}


def _trained(
    recipe: Recipe,
    prepared: Prepared,
    trainer: Trainer,
    seen_plan: Plan | None,
    first_step_seconds: float | None,
) -> Trained:
    """The averaged weights of a trainer, where there are any, in a network of their own."""
    weights = dict(trainer.model.named_parameters())
    if trainer.average is not None and trainer.average.steps:
        weights = trainer.average.averages()
    # Fresh: without compiled code, which would be compiled again for scoring, and without grids in its slots.
    model = recipe.model.build().to(trainer.ranks.device)
    model.load_state_dict(weights)
    model.compute_dtype = trainer.model.compute_dtype
    seconds = trainer.stopwatch.seconds
    training = {
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": seconds,
        "tokens_per_second": trainer.tokens / seconds if seconds else 0.0,
        "first_step_seconds": first_step_seconds,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": recipe.training.seed,
    }
    return Trained(recipe, prepared, model, seen_plan, training)


def build_trainer(
    recipe: Recipe, prepared: Prepared, folder: Path, ranks: Ranks
) -> tuple[Trainer, SeenGrids]:
    """The trainer of a recipe whose vocabulary is known, and what that training sees of its grids."""
    spec = recipe.training
    torch.manual_seed(spec.seed)
    model = recipe.model.build().to(ranks.device)
    model.compute_dtype = compute_dtype(spec.precision, ranks.device)
    if model.compute_dtype == torch.float64:
        model.double()
    batches = PackedBatches(
        prepared.training,
        prepared.tokenizer,
        rows=spec.rows,
        length=spec.length,
        seed=spec.seed,
        rank=ranks.rank,
        world=ranks.world,
    )
    seen = SeenGrids(
        model, recipe.compression, lambda: early_plan(model, recipe, prepared, ranks), seed=spec.seed
    )
    joined = JoinedRows(spec.longer_rows, spec.rows // ranks.world)
    trainer = Trainer(
        model=model,
        batches=batches,
        spec=spec,
        optimizers=OptimizerGroup(model, spec.optimizers, ranks, precision=model.compute_dtype),
        ranks=ranks,
        stages=Stages([*begin_unlooped(model), *joined.stages, *seen.stages]),
        average=None if spec.average is None else spec.average.build(model),
        record=Record(folder / "metrics.jsonl" if ranks.leads else None),
        checkpoints=Checkpoints(folder / "checkpoint"),
        stopwatch=Stopwatch(),
        validate=lambda: _validate(model, recipe, prepared) if ranks.leads else (0.0, 0.0),
        edges=edge_measurement(model, recipe, prepared) if ranks.leads else None,
        ahead=ranks.device.type == "cuda",
        joined_rows=joined,
    )
    return trainer, seen


def finish(trained: Trained, folder: Path, device: torch.device, display: Display) -> dict[str, Any]:
    """Compresses, scores the artifact from its file, and writes result.json and the report."""
    display.update("compressing …")
    exported = export(
        trained.model, trained.recipe, trained.prepared, trained.seen_plan, trained.training, folder
    )
    display.say(f"packed   {exported.account.total_bytes:,} bytes in {exported.path}")
    result = evaluate_run(
        trained.model, trained.recipe, trained.prepared, trained.training, exported, device, display
    )
    if edges := newest_edges(folder):
        result.summary["edges"] = edges
    write_json(folder / "result.json", result.summary)
    write_json(folder / "coloured.json", result.coloured)
    # Only here: what draws takes half a second to import, which other uses of this module need not wait.
    from bytegolf.report.page import write_report

    report = write_report(folder)
    return result.summary | {"report": str(report)}


def compress_run(
    folder: Path, recipe: Recipe | None = None, *, device: str = "auto", console: Console | None = None
) -> dict[str, Any]:
    """Compresses and scores a run's newest checkpoint again: under another plan, or without its average."""
    ranks = Ranks.start(device)
    display = Display(console)
    recipe = recipe or saved_recipe(folder)
    with display.line():
        trained = trained_run(folder, recipe, ranks, display)
        write_json(folder / "recipe.json", to_json(recipe))
        return finish(trained, folder, ranks.device, display)


def trained_run(folder: Path, recipe: Recipe, ranks: Ranks, display: Display) -> Trained:
    """What the newest checkpoint of a run has learned, under its recipe or one with other compression."""
    prepared = open_data(recipe, folder, ranks, display)
    recipe = recipe.with_vocabulary(prepared.tokenizer.vocabulary)
    trainer, _ = build_trainer(recipe, prepared, folder, ranks)
    trainer.record.close()
    trainer.record = Record(None)
    # Stages change the model while it trains; only what it learned is wanted here.
    state = Checkpoints(folder / "checkpoint").load()
    trainer.load_state_dict({**state, "stages": []})
    return _trained(recipe, prepared, trainer, None, None)


def saved_recipe(folder: Path) -> Recipe:
    """The recipe that a run folder holds. Raises `CheckpointError` if it is no run folder."""
    path = folder / "recipe.json"
    try:
        return from_json(Recipe, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is no run folder: it has no recipe.json; name the folder of a run"
        ) from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}); start again in a new folder") from error


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type that activations have. auto: bfloat16 where the machine multiplies it fast, else float32."""
    if precision != "auto":
        return getattr(torch, precision)
    fast = (
        device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def _compiles(recipe: Recipe, device: torch.device) -> bool:
    return recipe.training.compile == "on" or (recipe.training.compile == "auto" and device.type == "cuda")


def _open_folder(recipe: Recipe, folder: Path, resume: bool, ranks: Ranks) -> Recipe:
    if resume:
        return saved_recipe(folder)
    if ranks.leads:
        if (folder / "recipe.json").exists():
            raise RecipeError(
                f"{folder} already holds a run; continue it with --resume, or name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "recipe.json", to_json(recipe))
        write_json(folder / "environment.json", describe_environment())
    ranks.barrier()
    return recipe


@torch.no_grad()
def _validate(model: LanguageModel, recipe: Recipe, prepared: Prepared) -> tuple[float, float]:
    """Nats per token and bits per byte on evenly spaced held-out documents, with the weights as they are."""
    store = prepared.validation
    count = max(1, store.documents * _VALIDATION_TOKENS[model.device.type] // store.tokens)
    chosen = np.unique(np.linspace(0, store.documents - 1, min(count, store.documents)).astype(int))
    ends = np.append(store.starts, store.tokens)
    parts = [store.read(int(ends[i]), int(ends[i + 1])).astype(np.int64) for i in chosen]
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    ids = np.append(np.concatenate(parts), prepared.tokenizer.bos)
    with model.as_written():
        result = score(model, prepared.tokenizer, ids, starts, Chunked(recipe.training.length))
    return result.nats_per_token, result.bits_per_byte
