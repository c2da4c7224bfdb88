"""The memory of friction attention and of a whole network with it, in the shape of GPT-2 XL.

    python benchmarks/friction_memory.py [--tokens 1024 4096 16384 32768] [--layers 48] [--heads 25] \
        [--width 1600] [--vocabulary 50257] [--out FILE]

One row without gradients, weights in 16 bits. `attention`: what the kernel takes beside queries, keys and
values, its result counted in. `forward`: the largest memory of a pass over the whole network to the loss of
every token, weights counted in. Beside friction attention a softmax of the same shape. Weights are random,
which leaves some 1.7 of a thousand edges: memory does not depend on them.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from kernel_speed import peak_gigabytes
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bytegolf.kernels.attention import attend
from bytegolf.kernels.attention.varlen import segments_from_starts
from bytegolf.kernels.friction import Rule, friction_attend
from bytegolf.model.attention import Attention
from bytegolf.model.friction import Friction
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.running.environment import describe_environment

Row = dict[str, Any]
BODIES: dict[str, Friction | None] = {"friction": Friction(), "softmax": None}


def settled_gigabytes(work: Callable[[], Tensor], device: torch.device) -> float:
    """`peak_gigabytes` of what has run before, so that all is compiled."""
    work()
    return peak_gigabytes(work, device)


def attention(options: argparse.Namespace, body: str, tokens: int, device: torch.device) -> Row:
    """One layer's attention alone."""
    shape = (1, tokens, options.heads, options.width // options.heads)
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16) for _ in range(3))
    starts = torch.zeros(1, tokens, dtype=torch.bool)
    starts[0, 0] = True
    places, document = torch.arange(tokens, device=device), starts.long().cumsum(dim=1).to(device)
    where = {
        "document_BT": document,
        "key_document_BS": document,
        "positions_T": places,
        "key_positions_S": places,
        "window": None,
        "segments": segments_from_starts(starts, device) if device.type == "cuda" else None,
    }

    def work() -> Tensor:
        if BODIES[body] is None:
            return attend(q, k, v, **where)
        return friction_attend(q, k, v, rule=Rule(capacity=1.0), bias_H=None, friction_H=None, **where)

    before = torch.cuda.memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return {"what": "attention", "gigabytes": settled_gigabytes(work, device) - before}


def network(options: argparse.Namespace, body: str, device: torch.device) -> LanguageModel:
    mixer = Attention(heads=options.heads, key_value_heads=options.heads, friction=BODIES[body])
    layer = Block(mixer, SquaredMlp(4 * options.width))
    spec = Model(
        width=options.width, layers=(layer,) * options.layers, vocabulary=options.vocabulary, skips=False
    )
    with torch.device(device):
        model = spec.build()
    model.to(torch.bfloat16)
    model.compute_dtype = torch.bfloat16
    return model


def forward(model: LanguageModel, tokens: int) -> Row:
    """A whole pass."""
    device = model.device
    ids = torch.randint(0, model.spec.vocabulary, (1, tokens), device=device)
    starts = torch.zeros(1, tokens, dtype=torch.bool)
    starts[0, 0] = True
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {
        "what": "forward",
        "weights_gigabytes": weights / 1e9,
        "gigabytes": settled_gigabytes(lambda: model.losses(ids, ids, starts), device),
    }


@torch.no_grad()
def rows(options: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    for body in BODIES:
        for tokens in options.tokens:
            yield {"body": body, "tokens": tokens, **attention(options, body, tokens, device)}
        model = network(options, body, device)
        for tokens in options.tokens:
            yield {"body": body, "tokens": tokens, **forward(model, tokens)}
        del model


def table(found: Sequence[Row]) -> Table:
    shown = Table("body", "tokens", "what", "weights GB", "GB")
    for row in found:
        weights = f"{row['weights_gigabytes']:.2f}" if "weights_gigabytes" in row else ""
        shown.add_row(row["body"], f"{row['tokens']:,}", row["what"], weights, f"{row['gigabytes']:.3f}")
    return shown


def main(words: Sequence[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384, 32768])
    made.add_argument("--layers", type=int, default=48)
    made.add_argument("--heads", type=int, default=25)
    made.add_argument("--width", type=int, default=1600)
    made.add_argument("--vocabulary", type=int, default=50257)
    made.add_argument("--out", type=Path)
    options = made.parse_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = {name: getattr(options, name) for name in ("layers", "heads", "width", "vocabulary")}
    found: list[Row] = []
    for row in rows(options, device):
        found.append(row)
        print(json.dumps(row), flush=True)
        if options.out is not None:
            record = {"machine": describe_environment(), "shape": shape, "rows": found}
            options.out.write_text(json.dumps(record, indent=1) + "\n")
    Console().print(table(found))


if __name__ == "__main__":
    main()
