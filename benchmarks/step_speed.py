"""Times training steps of a network on random tokens: first step, tokens a second, where the time goes.

    python benchmarks/step_speed.py [--rows 64] [--length 1024] [--profile] [--out FILE]
    python benchmarks/step_speed.py --recipe nine_hyperparameters --passes 2 [--looped] [--profile]

Random tokens cost what real ones do; documents of about 700 tokens are packed as in training. The first
three times are seconds since the process began, imports included; with empty compiler caches they are cold.
A recipe brings its network and its optimizers; `--looped` counts its loop in, without which training begins
where the loop begins later. `--passes` forward and backward passes of `--rows` rows make a step.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bytegolf.cli.recipe_files import find_recipe
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.recipe import Recipe
from bytegolf.running.environment import describe_environment, seconds_since_start
from bytegolf.tokens.spec import SentencePiece
from bytegolf.training.budget import Budget
from bytegolf.training.groups import OptimizerGroup
from bytegolf.training.looping import begin_unlooped
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training

#: What a kernel does, by its name; the first that fits counts.
KINDS = {
    "attention": r"flash|fmha|sdpa",
    "matrix products": r"nvjet|gemm|cutlass|cublas|splitKreduce",
    "own kernels": r"^_\w+_kernel$",
    "compiled": r"^triton_",
    "copies": r"Memcpy|Memset",
}


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that is timed, with its vocabulary."""
    if options.recipe:
        recipe = find_recipe(options.recipe)
        return recipe.with_vocabulary(getattr(recipe.tokens, "vocabulary", options.vocabulary))
    block = Block(Attention(heads=8, key_value_heads=4), SquaredMlp(options.hidden))
    return Recipe(
        name="network",
        tokens=SentencePiece(vocabulary=options.vocabulary),
        model=Model(width=options.width, layers=(block,) * options.layers, vocabulary=options.vocabulary),
        training=Training(budget=Budget(steps=options.steps), length=options.length),
    )


def kinds_of(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds by `KINDS`, of kernels with their microseconds; most first."""
    found: dict[str, float] = {}
    for name, microseconds in kernels:
        kind = next((kind for kind, form in KINDS.items() if re.search(form, name)), "other")
        found[kind] = found.get(kind, 0.0) + microseconds / 1000
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", help="name or file; otherwise nine layers of one kind")
    parser.add_argument("--looped", action="store_true")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("step_speed.json"))
    options = parser.parse_args(words)
    recipe = recipe_of(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = recipe.model.build().to(device)
    model.compute_dtype = torch.bfloat16
    stages = begin_unlooped(model)
    if options.looped:
        for stage in stages:
            stage.enter()
    if device.type == "cuda":
        model.compile_parts()
    shape = (options.rows, recipe.training.length)
    ids = torch.randint(0, recipe.model.vocabulary, shape, device=device)
    starts = torch.rand(shape) < 1 / 700
    tokens = ids.numel() * options.passes
    optimizers = OptimizerGroup(
        model, recipe.training.optimizers, Ranks(device=device), precision=torch.bfloat16
    )

    def accumulate() -> None:
        for _ in range(options.passes):
            (model.losses(ids, ids, starts).sum() / tokens).backward()

    def update() -> None:
        optimizers.reduce_gradients(torch.zeros(2, device=device), recipe.training.clip)
        optimizers.step(1.0)

    def step() -> None:
        accumulate()
        update()
        model.zero_grad(set_to_none=True)

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return seconds_since_start()

    result: dict[str, Any] = {
        **vars(options),
        "length": recipe.training.length,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "machine": describe_environment(),
        "built_seconds": finish(),
    }
    (model.losses(ids, ids, starts).sum() / ids.numel()).backward()
    result["first_pass_seconds"] = finish()
    step()
    result["first_step_seconds"] = finish()
    step()
    began = finish()
    for _ in range(options.steps):
        step()
    seconds = (finish() - began) / options.steps
    result["step_seconds"] = seconds
    result["tokens_per_second"] = tokens / seconds
    # Without gradients an optimizer has nothing to do.
    accumulate()
    began = finish()
    for _ in range(options.steps):
        update()
    result["optimizer_seconds"] = (finish() - began) / options.steps
    if device.type == "cuda":
        result["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    if options.profile:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            step()
            finish()
        events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        result["gpu_milliseconds"] = kinds_of((event.name, event.device_time) for event in events)
        table = profile.key_averages().table(
            sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=70
        )
        options.out.with_suffix(".profile.txt").write_text(table)
    text = json.dumps(result, indent=1, default=str)
    print(text)
    options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
