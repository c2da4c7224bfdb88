"""Times the kernels of friction attention beside those of softmax attention, and checks them on the way.

    python benchmarks/friction_speed.py [--tokens 2048 16384] [--skip 0.34 0.55] [--tune] [--edges 1e11] \
        [--artifact FILE --text FILE… [--layer N]] [--out FILE]

Of one row of 16 heads of 64: friction attention dense, leaving tiles early, and with a pass in 8 bits before;
softmax attention by torch's flash, cuDNN and math bodies, and by FlashAttention 4 where it is installed;
forward alone, and forward and backward. Queries and keys are random, spread so that the given share of tiles
of 64 × 64 has no edge, whatever the kernels' own; with an artifact also those of one of its layers that reads
the text as one document. Every row says how much of that was left out, whether sparse and dense agree to the
last bit, and the largest memory beside the inputs. --edges: for that many edges, half of them next to their
friction, whether the pass in 8 bits misses a tile with an edge. --tune: several shapes of tiles. Times are
medians, each run queued behind a large product.
"""

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from kernel_speed import Bench, ceilings, peak_gigabytes
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bytegolf.evaluation.bits import token_stream
from bytegolf.kernels.attention.flash4 import FLASH4_VERSION, flash4_attention
from bytegolf.kernels.attention.varlen import segments_from_starts
from bytegolf.kernels.friction.backward import backward
from bytegolf.kernels.friction.forward import DENSE, EARLY, LISTED, forward
from bytegolf.kernels.friction.fused import edges_of, rounding_of_scores
from bytegolf.kernels.friction.gate import Rule
from bytegolf.kernels.friction.launch import Edges, EdgeTiles
from bytegolf.kernels.friction.lists import list_tiles
from bytegolf.kernels.friction.prepass import tiles_with_edges
from bytegolf.model.stream import Stream
from bytegolf.running.environment import describe_environment
from bytegolf.serving.artifact import open_artifact
from bytegolf.text.readers import read_documents

Row = dict[str, Any]
#: What `--tune` tries.
TILES = (
    EdgeTiles(),
    EdgeTiles(registers=None),
    EdgeTiles(keys=32, registers=None),
    EdgeTiles(keys=32),
    EdgeTiles(128, 64, warps=8),
)
RULE = Rule("eta_mu", 1.25, 4.0)
#: By which the share of tiles without an edge is given.
SQUARE = EdgeTiles()


class Inputs:
    """Queries, keys, values and the gradient of what is read, (1, T, heads, width)."""

    def __init__(self, bench: Bench, tokens: int, skip: float | None) -> None:
        options = bench.options
        if skip is None:
            self.tensors = captured(options.artifact, options.text, options.layer, tokens, bench)
            self.name = f"layer {options.layer} of {options.artifact}"
        else:
            shape = (1, tokens, options.heads, options.width)
            self.tensors = [bench.random(*shape) for _ in range(3)]
            self.name = f"random, {skip:.0%} empty"
            spread = _spread(self.tensors, skip)
            self.tensors[0] = (self.tensors[0] * spread).to(bench.dtype)
        self.toward = torch.randn_like(self.tensors[0])

    def edges(self, tiles: EdgeTiles) -> Edges:
        q, k, v = self.tensors
        return edges_of(q, k, v, None, None, None, RULE, None, tiles)


def captured(artifact: Path, sources: list[str], layer: int, tokens: int, bench: Bench) -> list[Tensor]:
    """Queries, keys and values of one layer that reads the beginning of a text as a single document."""
    from bytegolf.model import friction

    opened = open_artifact(artifact, device=bench.device.type)
    texts = [document.text for document in read_documents(sources)]
    ids, _ = token_stream(opened.tokenizer, texts)
    ids_1T = torch.from_numpy(ids[:tokens].astype("int64"))[None].to(bench.device)
    assert ids_1T.shape[1] == tokens, f"the text has {ids_1T.shape[1]} tokens, not {tokens}"
    seen: list[list[Tensor]] = []
    attend = friction.friction_attend

    def noted(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
        groups = q.shape[2] // k.shape[2]
        heads = [q, k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)]
        seen.append([x.to(bench.dtype).contiguous() for x in heads])
        return attend(q, k, v, **rest)

    friction.friction_attend = noted
    try:
        opened.model.compute_dtype = bench.dtype
        starts_1T = torch.zeros(1, tokens, dtype=torch.bool)
        starts_1T[0, 0] = True
        with torch.no_grad():
            opened.model.hidden(ids_1T, Stream.of(starts_1T, device=bench.device))
    finally:
        friction.friction_attend = attend
    return seen[layer]


def _spread(tensors: list[Tensor], skip: float) -> float:
    """The deviation of scores at which so large a share of `SQUARE` tiles has no edge."""
    q, k, v = tensors
    low, high = 0.1, 8.0
    for _ in range(12):
        middle = math.sqrt(low * high)
        edges = edges_of((q * middle).to(q.dtype), k, v, None, None, None, RULE, None, SQUARE)
        low, high = (middle, high) if _skipped(edges) > skip else (low, middle)
    return low


def _skipped(edges: Edges, flags: Tensor | None = None) -> float:
    """The share of tiles left out among those that queries can see. Those on the diagonal never are."""
    if flags is None:
        none = torch.zeros(edges.heads, device=edges.q_BTHK.device)
        flags = forward(edges, DENSE.value, slack=none)[2]
    tiles = edges.tiles
    inner = sum(i * tiles.queries // tiles.keys for i in range(edges.query_tiles))
    return (edges.heads * inner - float(flags.sum())) / (edges.heads * visible_tiles(edges))


def visible_tiles(edges: Edges) -> int:
    """Of one head."""
    tiles, tokens = edges.tiles, edges.q_BTHK.shape[1]
    return sum(-(-min((i + 1) * tiles.queries, tokens) // tiles.keys) for i in range(edges.query_tiles))


def arms(inputs: Inputs, tiles: EdgeTiles) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Forward alone, and what training does: forward, and a backward pass over the same tiles."""
    edges, toward = inputs.edges(tiles), inputs.toward

    def dense() -> Any:
        return forward(edges, DENSE.value)

    def dense_both() -> Any:
        y, taken, _ = forward(edges, DENSE.value)
        return y, taken, backward(edges, toward, y, taken, None, learned=False)

    def early() -> Any:
        return forward(edges, EARLY.value)

    def early_both() -> Any:
        y, taken, flags = forward(edges, EARLY.value, slack=rounding_of_scores(edges))
        lists = list_tiles(flags, both_ways=True)
        return y, taken, backward(edges, toward, y, taken, lists, learned=False)

    def looked() -> Any:
        return forward(edges, LISTED.value, list_tiles(tiles_with_edges(edges), both_ways=False))

    def looked_both() -> Any:
        lists = list_tiles(tiles_with_edges(edges), both_ways=True)
        y, taken, _ = forward(edges, LISTED.value, lists)
        return y, taken, backward(edges, toward, y, taken, lists, learned=False)

    def found() -> Any:
        flags = tiles_with_edges(edges, rounding_of_scores(edges))
        return forward(edges, LISTED.value, list_tiles(flags, both_ways=False))

    def found_both() -> Any:
        lists = list_tiles(tiles_with_edges(edges, rounding_of_scores(edges)), both_ways=True)
        y, taken, _ = forward(edges, LISTED.value, lists)
        return y, taken, backward(edges, toward, y, taken, lists, learned=False)

    return {
        "dense": (dense, dense_both),
        "early": (early, early_both),
        "pre-pass": (looked, looked_both),
        "pre-pass in 16 bits": (found, found_both),
    }


def parts(inputs: Inputs, tiles: EdgeTiles, bench: Bench) -> Row:
    """Milliseconds of what the arms are made of."""
    edges, toward = inputs.edges(tiles), inputs.toward
    y, taken, flags = forward(edges, EARLY.value, slack=rounding_of_scores(edges))
    lists = list_tiles(flags, both_ways=True)
    kept = tiles_with_edges(edges)
    found: dict[str, Callable[[], Any]] = {
        "pre_pass_ms": lambda: tiles_with_edges(edges),
        "pre_pass_16_ms": lambda: tiles_with_edges(edges, rounding_of_scores(edges)),
        "lists_ms": lambda: list_tiles(kept, both_ways=False),
        "listed_forward_ms": lambda: forward(edges, LISTED.value, lists),
        "listed_backward_ms": lambda: backward(edges, toward, y, taken, lists, learned=False),
        "dense_backward_ms": lambda: backward(edges, toward, y, taken, None, learned=False),
    }
    row: Row = {name: bench.milliseconds(work) for name, work in found.items()}
    return row | {
        "skipped": _skipped(edges),
        "skipped_64_by_64": _skipped(inputs.edges(SQUARE)),
        "left_early": _skipped(edges, flags),
        "skipped_in_8_bits": _skipped(edges, kept),
    }


def same_bits(inputs: Inputs, tiles: EdgeTiles) -> bool:
    """Whether all arms give the same, forward and gradients."""
    found = {}
    for name, (_, both) in arms(inputs, tiles).items():
        y, taken, gradients = both()
        found[name] = [y, taken, gradients.q_BTHK, gradients.k_BTGK, gradients.v_BTGK]
    return all(
        torch.equal(a, b)
        for name in ("early", "pre-pass", "pre-pass in 16 bits")
        for a, b in zip(found[name], found["dense"], strict=True)
    )


def memory(work: Callable[[], Any], bench: Bench) -> float:
    """The largest memory beside what is there before, in gigabytes."""
    before = torch.cuda.memory_allocated() / 1e9 if bench.device.type == "cuda" else 0.0
    return peak_gigabytes(work, bench.device) - before


def softmaxes(inputs: Inputs) -> Iterator[tuple[str, Callable[[], Tensor], list[Tensor]]]:
    """Bodies of softmax attention on the same tensors."""
    leaves = [x.transpose(1, 2).detach().requires_grad_() for x in inputs.tensors]

    def attended(backend: SDPBackend) -> Tensor:
        with sdpa_kernel([backend]):
            return torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)

    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "MATH"):
        work = functools.partial(attended, getattr(SDPBackend, name))
        yield f"SDPA {name.partition('_')[0].lower()}", work, leaves
    if FLASH4_VERSION is not None:
        flat = [x.detach().requires_grad_() for x in inputs.tensors]
        starts = torch.zeros(flat[0].shape[:2], dtype=torch.bool)
        segments = segments_from_starts(starts, flat[0].device)
        yield (
            f"FlashAttention {FLASH4_VERSION}",
            lambda: flash4_attention(*flat, segments=segments, window=None),
            flat,
        )


def rows(bench: Bench, tokens: int, skip: float | None) -> Iterator[Row]:
    """Every body at one length on the same inputs."""
    inputs = Inputs(bench, tokens, skip)
    tiles = bench.options.tiles
    heads, width = inputs.tensors[0].shape[2:]
    # Two products of 2 K operations for each pair of tokens.
    flops = 4.0 * width * heads * tokens * tokens / 2
    common = {"tokens": tokens, "inputs": inputs.name, "flops": flops}
    for name, (alone, both) in arms(inputs, tiles).items():
        yield common | {
            "body": f"friction, {name}",
            "forward_ms": bench.milliseconds(alone),
            "both_ms": bench.milliseconds(both),
            "forward_gigabytes": memory(alone, bench),
            "both_gigabytes": memory(both, bench),
        }
    yield common | {"body": "parts", "same_bits": same_bits(inputs, tiles), **parts(inputs, tiles, bench)}
    for name, attended, leaves in softmaxes(inputs):
        toward = torch.randn_like(leaves[0])
        row = common | {"body": name}
        try:
            # Without gradients first: what keeps nothing for a backward pass may be faster.
            with torch.no_grad():
                row["forward_ms"] = bench.milliseconds(attended)
                row["forward_gigabytes"] = memory(attended, bench)
            work = functools.partial(_both, attended, leaves, toward)
            row["both_ms"], row["both_gigabytes"] = bench.milliseconds(work), memory(work, bench)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            row["refused"] = str(error).partition("\n")[0][:100]
        yield row


def _both(attended: Callable[[], Tensor], leaves: list[Tensor], toward: Tensor) -> Any:
    return torch.autograd.grad(attended(), leaves, toward)


def tuning(bench: Bench, tokens: int, skip: float) -> Iterator[Row]:
    """The arms with tiles of several shapes."""
    inputs = Inputs(bench, tokens, skip)
    for tiles in TILES:
        row: Row = {"body": "tuning", "tokens": tokens, "tiles": vars(tiles)}
        try:
            for name, (alone, _) in arms(inputs, tiles).items():
                row[f"{name}_ms"] = bench.milliseconds(alone)
            row |= parts(inputs, tiles, bench)
        except Exception as error:  # A GPU may not hold a shape: the row says so.
            row["refused"] = str(error).partition("\n")[0][:100]
        yield row


def missed(bench: Bench, wanted: float) -> Row:
    """Tiles with an edge that the pass in 8 bits leaves out, over so many edges."""
    tokens, tiles = max(bench.options.tokens), bench.options.tiles
    counts = {"edges": 0, "tiles": 0, "with_edges": 0, "kept": 0, "missed": 0}
    seed = 0
    while counts["edges"] < wanted:
        generator = torch.Generator(device=bench.device).manual_seed(seed)
        q, k, v = (
            torch.randn(
                1, tokens, bench.options.heads, bench.options.width, generator=generator, device=bench.device
            )
            for _ in range(3)
        )
        if seed % 2:
            # The first channel alone makes scores that are friction at every distance, give or take 16 bits.
            distance = torch.arange(tokens, device=bench.device).clamp(min=1).log()
            q, k = q * 1e-3, k * 1e-3
            q[..., 0] += (distance * bench.options.width**0.5)[None, :, None]
            k[..., 0] += 1.0
        else:
            q = q * (0.5 + seed / 20 % 2)
        q, k, v = (x.to(bench.dtype) for x in (q, k, v))
        edges = edges_of(q, k, v, None, None, None, RULE, None, tiles)
        none = torch.zeros(edges.heads, device=bench.device)
        live, kept = forward(edges, DENSE.value, slack=none)[2], tiles_with_edges(edges)
        counts["edges"] += bench.options.heads * tokens * (tokens + 1) // 2
        counts["tiles"] += edges.heads * visible_tiles(edges)
        counts["with_edges"] += int(live.sum())
        counts["kept"] += int(kept.sum())
        counts["missed"] += int(((live == 1) & (kept == 0)).sum())
        seed += 1
    return {"body": "pre-pass against dense", **counts}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384, 32768])
    made.add_argument("--skip", type=float, nargs="+", default=[0.34, 0.55])
    made.add_argument("--artifact", type=Path, help="a trained model with friction attention")
    made.add_argument("--text", nargs="*", default=[], help="what it reads")
    made.add_argument("--layer", type=int, default=-1, help="which of its layers with friction")
    made.add_argument("--heads", type=int, default=16)
    made.add_argument("--width", type=int, default=64)
    made.add_argument("--tile", type=int, nargs=4, metavar=("QUERIES", "KEYS", "WARPS", "STAGES"))
    made.add_argument("--tune", action="store_true")
    made.add_argument("--edges", type=float, default=0.0)
    made.add_argument("--repeats", type=int, default=20)
    made.add_argument("--out", type=Path)
    options = made.parse_args()
    options.tiles = EdgeTiles(*options.tile) if options.tile else EdgeTiles()
    bench = Bench(options)
    found: list[Row] = []

    def note(row: Row) -> None:
        found.append(row)
        print(json.dumps(row), flush=True)
        if options.out is not None:
            record = {"machine": describe_environment(), "rows": found}
            options.out.write_text(json.dumps(record, indent=1) + "\n")

    if bench.device.type == "cuda":
        note({"body": "ceilings", **ceilings(bench)})
    for tokens in options.tokens:
        if options.tune:
            for row in tuning(bench, tokens, options.skip[0]):
                note(row)
            continue
        for skip in [*options.skip, *([None] if options.artifact else [])]:
            for row in rows(bench, tokens, skip):
                note(row)
    if options.edges:
        note(missed(bench, options.edges))


if __name__ == "__main__":
    main()
