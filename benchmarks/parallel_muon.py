"""Times training steps with plain and sharded Muon, on one process and on all, and traces what overlaps.

    torchrun --nproc-per-node 2 benchmarks/parallel_muon.py [RECIPE] [--out FOLDER] [--PATH VALUE …]

The recipe's network, batch and optimizers on random tokens; settings are changed as for `bytegolf train`. The
global batch is the same for every number of processes. First the lead works alone while the others wait, then
all work together, once with plain Muon and once with sharded.

FOLDER/parallel_muon.json holds tokens a second, seconds of an update (exchange of gradients and optimizers)
and, from one traced update, how much of the communication ran while the same process computed. The traces are
FOLDER/plain.trace.json.gz and sharded.trace.json.gz, for chrome://tracing or ui.perfetto.dev. On a GPU the
kernels of NCCL are set against all others; on the CPU the messages of gloo against torch's operators. Waiting
for a slower rank counts as communication.
"""

import argparse
import dataclasses
import gzip
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from bytegolf.cli.draft import Draft
from bytegolf.cli.recipe_files import find_recipe
from bytegolf.recipe import Recipe
from bytegolf.runner import compute_dtype
from bytegolf.running.environment import describe_environment
from bytegolf.training.groups import OptimizerGroup
from bytegolf.training.ranks import Ranks
from bytegolf.training.spec import Training

Interval = tuple[float, float]


class Steps:
    """The steps of a training on random tokens, and their parts."""

    def __init__(self, recipe: Recipe, ranks: Ranks, *, sharded: bool) -> None:
        spec = recipe.training
        matrices = dataclasses.replace(spec.optimizers.matrices, sharded=sharded)
        optimizers = dataclasses.replace(spec.optimizers, matrices=matrices)
        self.spec: Training = spec
        self.ranks = ranks
        torch.manual_seed(spec.seed)
        self.model = recipe.model.build().to(ranks.device)
        self.model.compute_dtype = compute_dtype(spec.precision, ranks.device)
        if ranks.device.type == "cuda":
            self.model.compile_parts()
        self.optimizers = OptimizerGroup(self.model, optimizers, ranks, precision=self.model.compute_dtype)
        self.rows = min(spec.forward_rows, spec.rows // ranks.world)
        self.passes = spec.rows // (ranks.world * self.rows)
        generator = torch.Generator().manual_seed(ranks.rank)
        shape = (self.rows, spec.length)
        self.ids = torch.randint(0, recipe.model.vocabulary, shape, generator=generator).to(ranks.device)
        # Documents of about 700 tokens, as in training.
        self.starts = torch.rand(shape, generator=generator) < 1 / 700

    @property
    def tokens(self) -> int:
        """Tokens of a step over all ranks."""
        return self.passes * self.rows * self.spec.length * self.ranks.world

    def backward(self) -> torch.Tensor:
        """One forward and backward pass; its nats."""
        nats = self.model.losses(self.ids, self.ids, self.starts).sum()
        (nats / self.tokens).backward()
        return nats.detach().double().reshape(1)

    def update(self, totals: torch.Tensor) -> None:
        """What follows the last backward pass, as in the training loop."""
        self.optimizers.reduce_gradients(totals, self.spec.clip)
        self.optimizers.step(1.0)
        self.optimizers.gradient_norm()

    def step(self) -> None:
        for _ in range(self.passes):
            totals = self.backward()
        self.update(totals)
        self.model.zero_grad(set_to_none=True)

    def synchronize(self) -> None:
        """Waits until this rank's device has done what was asked so far."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()

    def finish(self) -> float:
        """The time when every rank has done what was asked so far."""
        self.synchronize()
        self.ranks.barrier()
        return time.perf_counter()

    def times(self, steps: int, warm_up: int) -> dict[str, float]:
        for _ in range(warm_up):
            self.step()
        began = self.finish()
        for _ in range(steps):
            self.step()
        seconds = (self.finish() - began) / steps
        totals = self.backward()
        self.update(totals)
        began = self.finish()
        for _ in range(steps):
            self.update(totals)
        return {
            "tokens_per_second": self.tokens / seconds,
            "step_seconds": seconds,
            "update_seconds": (self.finish() - began) / steps,
        }

    def trace(self, path: Path) -> dict[str, float]:
        """Writes a trace of the lead's pass and update to `path`; what overlapped there."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.ranks.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.model.zero_grad(set_to_none=True)
        self.finish()
        with torch.profiler.profile(activities=activities) as profile:
            self.update(self.backward())
            self.synchronize()
        if not self.ranks.leads:
            return {}
        profile.export_chrome_trace(str(path))
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return overlap(json.load(file)["traceEvents"])


def overlap(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds of communication and computation in a trace, and of both at once."""
    communication, kernels, operators = [], [], []
    for event in events:
        name, category = event.get("name", ""), event.get("cat")
        interval = (event.get("ts", 0.0), event.get("ts", 0.0) + event.get("dur", 0.0))
        if name.startswith("gloo:") or (category == "kernel" and "nccl" in name.lower()):
            communication.append(interval)
        elif category == "kernel":
            kernels.append(interval)
        elif category == "cpu_op" and name.startswith("aten::"):
            operators.append(interval)
    talking, working = merged(communication), merged(kernels or operators)
    both = length(common(talking, working))
    return {
        "communication_ms": length(talking),
        "computation_ms": length(working),
        "overlap_ms": both,
        "exposed_ms": length(talking) - both,
    }


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points of time as intervals that do not touch, in order."""
    result: list[Interval] = []
    for start, end in sorted(intervals):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def common(a: Sequence[Interval], b: Sequence[Interval]) -> list[Interval]:
    """Where both lists of merged intervals are."""
    result, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            result.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return result


def length(intervals: Iterable[Interval]) -> float:
    """Milliseconds in intervals of microseconds."""
    return sum(end - start for start, end in intervals) / 1000.0


def asked() -> tuple[argparse.Namespace, Recipe]:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", nargs="?", default="baseline")
    parser.add_argument("--out", type=Path, default=Path("parallel_muon"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--vocabulary", type=int, default=8192, help="where the recipe leaves it open")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=4)
    options, changes = parser.parse_known_args()
    draft = Draft.of(find_recipe(options.recipe))
    for path, value in zip(changes[::2], changes[1::2], strict=True):
        draft.assign(path.removeprefix("--"), [value])
    recipe: Recipe = draft.build()
    return options, recipe.with_vocabulary(recipe.model.vocabulary or options.vocabulary)


def main() -> None:
    options, recipe = asked()
    everyone = Ranks.start(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "machine": describe_environment(),
        "processes": everyone.world,
        "recipe": options.recipe,
        "rows": recipe.training.rows,
        "length": recipe.training.length,
    }
    if everyone.leads:
        alone = Ranks(device=everyone.device)
        result["alone"] = Steps(recipe, alone, sharded=False).times(options.steps, options.warm_up)
    everyone.barrier()
    if everyone.world > 1:
        for name, sharded in (("plain", False), ("sharded", True)):
            steps = Steps(recipe, everyone, sharded=sharded)
            result[name] = steps.times(options.steps, options.warm_up)
            result[name] |= steps.trace(options.out / f"{name}.trace.json.gz")
            if everyone.leads:
                speed = result[name]["tokens_per_second"]
                result[name]["times_alone"] = speed / result["alone"]["tokens_per_second"]
    if everyone.leads:
        text = json.dumps(result, indent=1)
        (options.out / "parallel_muon.json").write_text(text + "\n")
        print(text)
    everyone.stop()


if __name__ == "__main__":
    main()
