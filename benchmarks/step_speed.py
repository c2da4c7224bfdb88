"""Times training steps of a network on random tokens: first step, tokens a second, where the time goes.

    python benchmarks/step_speed.py [--rows 64] [--length 1024] [--profile] [--out FILE]

Random tokens cost what real ones do; documents of about 700 tokens are packed as in training. The first
three times are seconds since the process began, imports included; with empty compiler caches they are cold.
"""

import argparse
import json
from pathlib import Path

import torch

from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block
from bytegolf.running.environment import seconds_since_start
from bytegolf.training.groups import OptimizerGroup, Optimizers
from bytegolf.training.ranks import Ranks


def main() -> None:
    parser = argparse.ArgumentParser()
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
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = Block(Attention(heads=8, key_value_heads=4), SquaredMlp(options.hidden))
    torch.manual_seed(0)
    model = Model(
        width=options.width, layers=(block,) * options.layers, vocabulary=options.vocabulary
    ).build()
    model.to(device)
    model.compute_dtype = torch.bfloat16
    if device.type == "cuda":
        model.compile_parts()
    shape = (options.rows, options.length)
    ids = torch.randint(0, options.vocabulary, shape, device=device)
    starts = torch.rand(shape) < 1 / 700
    optimizers = OptimizerGroup(model, Optimizers(), Ranks(device=device), precision=torch.bfloat16)

    def step() -> None:
        for _ in range(options.passes):
            (model.losses(ids, ids, starts).sum() / (ids.numel() * options.passes)).backward()
        optimizers.step(1.0)
        model.zero_grad(set_to_none=True)

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return seconds_since_start()

    result: dict[str, object] = {"device": str(device), "torch": torch.__version__, **vars(options)}
    result["built_seconds"] = finish()
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
    result["tokens_per_second"] = ids.numel() * options.passes / seconds
    # Without gradients an optimizer has nothing to do.
    (model.losses(ids, ids, starts).sum() / ids.numel()).backward()
    began = finish()
    for _ in range(options.steps):
        optimizers.step(1.0)
    result["optimizer_seconds"] = (finish() - began) / options.steps
    if device.type == "cuda":
        result["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps(result, indent=1, default=str))
    options.out.write_text(json.dumps(result, indent=1, default=str))
    if options.profile:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            step()
            finish()
        table = profile.key_averages().table(
            sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=70
        )
        options.out.with_suffix(".profile.txt").write_text(table)
        print(table)


if __name__ == "__main__":
    main()
