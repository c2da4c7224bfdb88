"""Compiled blocks: one code for batches of few and many documents."""

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bytegolf.kernels.attention import Segments, segments_from_starts
from bytegolf.model import attention
from bytegolf.model.attention import Attention
from bytegolf.model.mlp import SquaredMlp
from bytegolf.model.spec import Model
from bytegolf.model.stack import Block, Stack
from bytegolf.model.stream import Stream

LAYER = Block(Attention(heads=2, key_value_heads=2), SquaredMlp(hidden=8))
#: Every so many tokens a document begins: one document a row, and far more than there are rows.
DISTANCES = (16, 1, 5, 2)


def starts(distance: int, rows: int = 3, length: int = 16) -> Tensor:
    return (torch.arange(length) % distance == 0).expand(rows, length)


def told_of_segments(q: Tensor, k: Tensor, v: Tensor, *, segments: Segments, **rest: Any) -> Tensor:
    return q + v + segments.offsets.sum()


# The compiler's own: it looks at the gradient of all that it is given, and makes objects of torch's classes.
@pytest.mark.filterwarnings("ignore")
def test_code_is_for_any_number_of_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    # A CPU's attention asks for no segments.
    monkeypatch.setattr(attention, "attend", told_of_segments)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    torch.manual_seed(0)
    stack, plain = (Stack((LAYER,) * 3, 8, skips=False) for _ in range(2))
    plain.load_state_dict(stack.state_dict())
    stack.compile_parts()
    x = torch.randn(3, 16, 8, requires_grad=True)
    sizes = set()
    for distance in DISTANCES:
        segments = segments_from_starts(starts(distance))
        sizes.add(len(segments.offsets))
        stream = replace(Stream.of(starts(distance)), segments=segments)
        torch.testing.assert_close(stack(x, stream), plain(x, stream))
    assert len(sizes) == 4
    assert len(graphs) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_compiled_on_a_gpu_for_more_documents() -> None:
    layer = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(64))
    model = Model(128, (layer,) * 2, vocabulary=31).build().cuda()
    model.compute_dtype = torch.bfloat16
    torch.compiler.reset()
    model.compile_parts()
    ids = torch.randint(0, 31, (3, 17), device="cuda")

    def step(distance: int) -> None:
        model.losses(ids[:, :-1], ids[:, 1:], starts(distance)).sum().backward()

    step(DISTANCES[0])
    with torch.compiler.set_stance("fail_on_recompile"):
        for distance in DISTANCES[1:]:
            step(distance)
