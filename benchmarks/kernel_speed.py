"""Checks each kernel against its plain twin in float64, and times both: loss, MLP, Newton-Schulz.

    python benchmarks/kernel_speed.py [--tokens 65536] [--vocabulary 8192] [--hidden 2048] [--out FILE]

Fused kernels are timed for several tiles, the one in use among them, on a GPU; without one only the plain
forms run, to try the script. Tiles that a GPU cannot hold get a row that says so. Times are medians of single
runs, inputs larger than any cache, each queued behind a large product: as in training, what the processor
takes to start kernels does not count. Two ceilings are measured first, of a large copy and a large product: a
row's floor is what its bytes or operations take there.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bytegolf.kernels.activated_projection import reference as plain_projection
from bytegolf.kernels.capped_loss import chunked
from bytegolf.kernels.capped_loss import reference as plain_loss
from bytegolf.kernels.fused import FUSED_KERNELS, Tiles
from bytegolf.kernels.orthogonal import POLAR_EXPRESS, classic, gram_orthogonalize, orthogonalize
from bytegolf.running.environment import describe_environment

Row = dict[str, Any]

CAP = 30.0
#: Above zero and below it, as `XieluMlp` starts.
COEFFICIENTS = (1.1, 0.1, 0.7, 0.4)
_SHAPES = (
    Tiles(128, 128, 64, warps=8, stages=3, registers=128),
    Tiles(64, 128, 64, warps=4, stages=4),
    Tiles(64, 128, 64, warps=4, stages=3),
    Tiles(64, 128, 64, warps=4, stages=2, registers=128),
    Tiles(128, 256, 64, warps=8, stages=3),
)
TILES = tuple(
    dataclasses.replace(tiles, descriptors=described) for described in (False, True) for tiles in _SHAPES
)


class Bench:
    """Sizes, random inputs and a clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.fused = FUSED_KERNELS and self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.options = options
        torch.manual_seed(0)
        self.ahead = self.random(8192, 8192) if self.device.type == "cuda" else None

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, device=self.device)).to(self.dtype)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As training runs it: compiled on a GPU, as written elsewhere."""
        return torch.compile(function, dynamic=False) if self.device.type == "cuda" else function

    def milliseconds(self, work: Callable[[], object]) -> float:
        """The median time of one run."""
        for _ in range(3):
            work()
        times = []
        for _ in range(self.options.repeats):
            if self.ahead is not None:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                # Some three milliseconds in which the processor gets ahead.
                torch.mm(self.ahead, self.ahead)
                torch.mm(self.ahead, self.ahead)
                start.record()
                work()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                began = time.perf_counter()
                work()
                times.append(1e3 * (time.perf_counter() - began))
        return statistics.median(times)

    def forward_and_backward(
        self, function: Callable[..., Tensor], leaves: list[Tensor], toward: Tensor
    ) -> Row:
        """Milliseconds of the forward pass alone and of both, and the largest memory beside the inputs."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if self.device.type == "cuda" else 0
        both = self.milliseconds(lambda: torch.autograd.grad(function(*leaves), leaves, toward))
        row: Row = {"both_ms": both}
        if self.device.type == "cuda":
            row["peak_gigabytes"] = (torch.cuda.max_memory_allocated() - before) / 1e9
        with torch.no_grad():
            row["forward_ms"] = self.milliseconds(lambda: function(*leaves))
        return row


def peak_gigabytes(work: Callable[[], Any], device: torch.device) -> float:
    """The largest memory while it works, all that was there before counted in; 0 on a CPU, without work."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    result = work()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() / 1e9


def errors(
    function: Callable[..., Tensor], exact: Callable[..., Tensor], leaves: list[Tensor], toward: Tensor
) -> Row:
    """‖ours − exact‖ / ‖exact‖ of the output and of each leaf's gradient; `exact` works in float64."""
    ours = function(*leaves)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    theirs = exact(*doubles)
    found = [ours, *torch.autograd.grad(ours, leaves, toward)]
    expected = [theirs, *torch.autograd.grad(theirs, doubles, toward.double())]
    relative = [
        float((a.detach().double() - b.detach()).norm() / b.detach().norm())
        for a, b in zip(found, expected, strict=True)
    ]
    return {"error": relative[0], "gradient_errors": relative[1:]}


def ceilings(bench: Bench) -> Row:
    """Bytes a second of a copy, read and written, and operations a second of a product."""
    size = 2**28 if bench.device.type == "cuda" else 2**20
    source = bench.random(size)
    target = torch.empty_like(source)
    copy_ms = bench.milliseconds(lambda: target.copy_(source))
    edge = 8192 if bench.device.type == "cuda" else 256
    left, right = bench.random(edge, edge), bench.random(edge, edge)
    product_ms = bench.milliseconds(lambda: left @ right)
    moved = 2 * source.numel() * source.element_size()
    return {"bytes_per_second": 1e3 * moved / copy_ms, "flops_per_second": 2e3 * edge**3 / product_ms}


def loss_rows(bench: Bench) -> Iterator[Row]:
    """The capped loss, forward and backward: three products of N × E × V operations and their operands."""
    tokens, width, vocabulary = bench.options.tokens, bench.options.width, bench.options.vocabulary
    h, table = bench.random(tokens, width).requires_grad_(), bench.random(vocabulary, width, scale=0.05)
    leaves = [h, table.requires_grad_()]
    targets = torch.randint(0, vocabulary, (tokens,), device=bench.device)
    toward = torch.rand(tokens, device=bench.device)
    few = min(tokens, 2048)

    def exact(h: Tensor, table: Tensor) -> Tensor:
        return plain_loss.capped_cross_entropy(h, table, None, targets[: len(h)], CAP)

    def fused(h: Tensor, table: Tensor) -> Tensor:
        from bytegolf.kernels.capped_loss.triton import fused_capped_cross_entropy_and_normalizer

        return fused_capped_cross_entropy_and_normalizer(h, table, None, targets[: len(h)], CAP)[0]

    def stored(h: Tensor, table: Tensor) -> Tensor:
        from stored_logits import stored_logits_cross_entropy

        return stored_logits_cross_entropy(h, table, targets[: len(h)], CAP)

    def remade(h: Tensor, table: Tensor) -> Tensor:
        from stored_logits import remade_logits_cross_entropy

        return remade_logits_cross_entropy(h, table, targets[: len(h)], CAP)

    def in_chunks(h: Tensor, table: Tensor) -> Tensor:
        return chunked.chunked_capped_cross_entropy(h, table, None, targets[: len(h)], CAP)

    bodies: dict[str, Callable[..., Tensor]] = {"reference": bench.compiled(exact)}
    rivals = {"triton": fused, "stored logits": stored, "remade logits": remade}
    bodies |= rivals if bench.fused else {"chunked": in_chunks}
    work = {"flops": 6 * tokens * width * vocabulary, "bytes": 4 * h.element_size() * h.numel()}
    for name, body in bodies.items():
        few_leaves = [h[:few].detach().requires_grad_(), leaves[1]]
        row = {"kernel": "capped_loss", "body": name, **work}
        row |= errors(body if name != "reference" else exact, exact, few_leaves, toward[:few])
        yield row | bench.forward_and_backward(body, leaves, toward)


def projection_rows(bench: Bench) -> Iterator[Row]:
    """Projection and activation: three products of N × D × M operations, their operands, h and f(h)."""
    tokens, width, hidden = bench.options.tokens, bench.options.width, bench.options.hidden
    x, weight = bench.random(tokens, width).requires_grad_(), bench.random(hidden, width, scale=width**-0.5)
    coefficients = torch.tensor(COEFFICIENTS, device=bench.device, requires_grad=True)
    toward = bench.random(tokens, hidden)
    few = min(tokens, 2048)
    work = {
        "flops": 6 * tokens * width * hidden,
        "bytes": x.element_size() * (3 * x.numel() + 6 * toward.numel()),
    }
    for kind, settings in (("squared", (0.0,)), ("squared", (0.5,)), ("quadratic", ())):
        plain = getattr(plain_projection, f"{kind}_projection")
        extra = [coefficients] if kind == "quadratic" else []

        def exact(*leaves: Tensor, plain: Any = plain, settings: tuple[float, ...] = settings) -> Tensor:
            return plain(*leaves, *settings)

        bodies: dict[str, Callable[..., Tensor]] = {"reference": bench.compiled(exact)}
        if bench.fused:
            bodies["triton"] = _fused_projection(kind, settings)
        for name, body in bodies.items():
            leaves = [x, weight.requires_grad_(), *extra]
            row = {"kernel": "activated_projection", "activation": kind, "body": name, **work}
            row |= {"slope": settings[0]} if settings else {}
            few_leaves = [x[:few].detach().requires_grad_(), *leaves[1:]]
            row |= errors(body if name != "reference" else exact, exact, few_leaves, toward[:few])
            yield row | bench.forward_and_backward(body, leaves, toward)


def _fused_projection(kind: str, settings: tuple[float, ...]) -> Callable[..., Tensor]:
    from bytegolf.kernels.activated_projection import triton as fused

    body = getattr(fused, f"fused_{kind}_projection")
    return lambda *leaves: body(*leaves, *settings)


def orthogonal_rows(bench: Bench) -> Iterator[Row]:
    """Newton-Schulz on the matrices of one shape, plain and by way of Gram matrices."""
    width, hidden = bench.options.width, bench.options.hidden
    for shape in ((11, hidden, width), (22, width, width)):
        g_MRC = torch.randn(*shape, device=bench.device)
        for name, triples in (("polar_express", POLAR_EXPRESS), ("classic", classic(5)), ("4", classic(4))):
            exact = orthogonalize(g_MRC[:1], triples, dtype=torch.float64)
            for body, function in (("reference", orthogonalize), ("gram", gram_orthogonalize)):
                found = function(g_MRC[:1], triples, dtype=bench.dtype)
                yield {
                    "kernel": "orthogonal",
                    "body": body,
                    "shape": list(shape),
                    "coefficients": name,
                    "error": float((found - exact).norm() / exact.norm()),
                    "forward_ms": bench.milliseconds(
                        lambda: function(g_MRC, triples, dtype=bench.dtype)  # noqa: B023
                    ),
                }


def tile_rows(bench: Bench) -> Iterator[Row]:
    """The fused kernels by tiles: milliseconds for all tokens, and the difference from the tiles in use."""
    if not bench.fused:
        return
    from bytegolf.kernels.activated_projection import triton as projection
    from bytegolf.kernels.capped_loss import triton as loss

    tokens, width, vocabulary = bench.options.tokens, bench.options.width, bench.options.vocabulary
    h, table = bench.random(tokens, width), bench.random(vocabulary, width, scale=0.05)
    weight = bench.random(bench.options.hidden, width, scale=width**-0.5)
    targets = torch.randint(0, vocabulary, (tokens,), device=bench.device)
    slab = slice(0, loss.slab_rows(tokens, vocabulary))
    gradients = (
        torch.rand(tokens, device=bench.device)[slab],
        torch.zeros(tokens, device=bench.device)[slab],
    )
    _, normalizers = loss.losses_and_normalizers(h, table, None, targets, CAP, "tanh")

    def losses(tiles: Tiles) -> Tensor:
        return loss.losses_and_normalizers(h, table, None, targets, CAP, "tanh", tiles=tiles)[0]

    def logit_gradients(tiles: Tiles) -> Tensor:
        rows = (targets[slab], normalizers[slab], gradients)
        return loss.logit_gradients(h[slab], table, None, *rows, CAP, "tanh", tiles=tiles)

    def squared(tiles: Tiles) -> Tensor:
        return projection.project_and_activate(h, weight, None, 0.0, tiles=tiles)[0]

    def leaky_squared(tiles: Tiles) -> Tensor:
        return projection.project_and_activate(h, weight, None, 0.25, tiles=tiles)[0]

    works = (
        (losses, loss.FORWARD_TILES, 1.0),
        (logit_gradients, loss.BACKWARD_TILES, tokens / len(targets[slab])),
        (squared, projection.TILES, 1.0),
        (leaky_squared, projection.TILES, 1.0),
    )
    # Tiles that come by descriptors last: least is known of them.
    for tiles in TILES:
        for work, used, share in works:
            row = {"kernel": work.__name__, "tiles": vars(tiles), "used": tiles == used}
            yield row | _tried(bench, work, tiles, used, share)


def _tried(bench: Bench, work: Callable[[Tiles], Tensor], tiles: Tiles, used: Tiles, share: float) -> Row:
    from triton.errors import TritonError

    expected = work(used)
    try:
        difference = float((work(tiles) - expected).float().norm() / expected.float().norm())
        return {"difference": difference, "forward_ms": share * bench.milliseconds(lambda: work(tiles))}
    except (TritonError, RuntimeError) as failure:
        return {"failed": str(failure)[:200]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("kernel_speed.json"))
    options = parser.parse_args()
    bench = Bench(options)
    limits = ceilings(bench)
    result: dict[str, Any] = {"environment": describe_environment(), "options": vars(options), **limits}
    result["rows"] = rows = []
    for part in (loss_rows, projection_rows, orthogonal_rows, tile_rows):
        for row in part(bench):
            if "flops" in row:
                row["floor_ms"] = 1e3 * max(
                    row["flops"] / limits["flops_per_second"], row["bytes"] / limits["bytes_per_second"]
                )
            rows.append(row)
            print(json.dumps(row))
            # After every row: a run that is cut short leaves what it found.
            options.out.write_text(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    main()
