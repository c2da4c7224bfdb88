"""The whole network against its equations, written out token by token in plain loops."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bytegolf.errors import RecipeError
from bytegolf.model.attention import Attention, AttentionLayer
from bytegolf.model.block import BlockLayer
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import SquaredMlp, SquaredMlpLayer, SwiGlu, SwiGluLayer
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.stream import Stream

WIDTH = 8
LAYERS = (
    Block(Attention(heads=4, key_value_heads=2, head_width=4, window=2, query_gain=2.0), SquaredMlp(6)),
    Block(Attention(heads=2, key_value_heads=1, rotary_dimensions=2, rotary_base=50.0), SwiGlu(5)),
    Block(Attention(heads=2, key_value_heads=2), SquaredMlp(6, slope=0.5, norm_output=True)),
    Block(Attention(heads=2, key_value_heads=1), SquaredMlp(6)),
    Block(Attention(heads=1, key_value_heads=1, head_width=2), SwiGlu(3, norm_output=True)),
)


def normalized(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 2.0**-23).sqrt()


def rotated(head: Tensor, position: int, spec: Attention) -> Tensor:
    """Pairs (i, i + K/2) turned by position · base^(−2i/r), for i < r/2."""
    half, dimensions = len(head) // 2, spec.rotary_dimensions or len(head)
    result = head.clone()
    for i in range(dimensions // 2):
        angle = position * spec.rotary_base ** (-2 * i / dimensions)
        a, b = head[i], head[i + half]
        result[i] = a * math.cos(angle) + b * math.sin(angle)
        result[i + half] = b * math.cos(angle) - a * math.sin(angle)
    return result


def attention(layer: AttentionLayer, xs: list[Tensor], documents: list[int]) -> list[Tensor]:
    spec, size = layer.spec, layer.head_width
    queries = [(layer.query.weight @ x).split(size) for x in xs]
    keys = [(layer.keys.weight @ x).split(size) for x in xs]
    values = [(layer.values.weight @ x).split(size) for x in xs]
    outputs = []
    for t in range(len(xs)):
        visible = [
            s
            for s in range(t + 1)
            if documents[s] == documents[t] and (spec.window is None or t - s <= spec.window)
        ]
        heads = []
        for h in range(spec.heads):
            g = h * spec.key_value_heads // spec.heads
            q = rotated(normalized(queries[t][h]), t, spec) * layer.gain_H[h]
            ks = [rotated(normalized(keys[s][g]), s, spec) for s in visible]
            weights = torch.softmax(torch.stack([q @ k / math.sqrt(size) for k in ks]), 0)
            heads.append(sum(w * values[s][g] for w, s in zip(weights, visible, strict=True)))
        outputs.append(layer.out.scale_D * (layer.out.weight @ torch.cat(heads)))
    return outputs


def mlp(layer: torch.nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, SwiGluLayer):
        gate = layer.gate.weight @ x
        h = gate / (1 + torch.exp(-gate)) * (layer.up.weight @ x)
    else:
        assert isinstance(layer, SquaredMlpLayer)
        h = layer.up.weight @ x
        h = torch.where(h > 0, h**2, (layer.slope * h) ** 2)
    return layer.down.scale_D * (layer.down.weight @ (normalized(h) if layer.norm_output else h))


def block(
    layer: BlockLayer, xs: list[Tensor], x0s: list[Tensor], documents: list[int], scale: float
) -> list[Tensor]:
    mix = layer.residual_mix_2D
    xs = [mix[0] * x + mix[1] * x0 for x, x0 in zip(xs, x0s, strict=True)]
    mixed = attention(layer.mixer, [scale * normalized(x) for x in xs], documents)
    xs = [x + y for x, y in zip(xs, mixed, strict=True)]
    return [x + mlp(layer.mlp, scale * normalized(x)) for x in xs]


def log_probabilities(model: LanguageModel, ids: list[int], documents: list[int]) -> Tensor:
    table, spec = model.embedding.weight, model.spec
    xs = x0s = [normalized(table[i]) for i in ids]
    order = list(range(len(spec.layers)))
    if spec.loop is not None:
        first, end = spec.loop.first, spec.loop.last + 1
        order = order[:first] + order[first:end] * spec.loop.passes + order[end:]
    half = len(order) // 2 if spec.skips else 0
    stored = []
    for place, number in enumerate(order):
        layer = model.stack.blocks[number]
        assert isinstance(layer, BlockLayer)
        if spec.skips and half <= place < 2 * half:
            skip = [model.stack.skip_ND[place - half] * s for s in stored[2 * half - 1 - place]]
            if spec.skips == "gated":
                share = 1 / (1 + torch.exp(-model.stack.gate_ND[place - half]))
                xs = [share * x + (1 - share) * s for x, s in zip(xs, skip, strict=True)]
            else:
                xs = [x + s for x, s in zip(xs, skip, strict=True)]
        xs = block(layer, xs, x0s, documents, 1 / math.sqrt(number + 1) if spec.scaled_norms else 1.0)
        stored.append(xs)
    logits = torch.stack([table @ normalized(x) for x in xs])
    if spec.soft_cap is not None:
        logits = spec.soft_cap * torch.tanh(logits / spec.soft_cap)
    return logits - torch.logsumexp(logits, 1, keepdim=True)


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:4], LAYERS[1:2]], ids=["five", "four", "one"])
@pytest.mark.parametrize(
    "changes",
    [
        {"skips": True, "soft_cap": 4.0},
        {"skips": False, "soft_cap": None},
        {"skips": "gated", "scaled_norms": True},
        {"skips": True, "loop": Loop(0, 0, 3)},
        {"skips": "gated", "loop": Loop(0, 0, 2), "scaled_norms": True, "residual_mix": "phase"},
    ],
    ids=["skips", "plain", "gated", "looped", "all"],
)
@torch.no_grad()
def test_the_network_computes_its_equations(layers: tuple[Block, ...], changes: dict[str, Any]) -> None:
    torch.manual_seed(1)
    spec = Model(WIDTH, layers, TiedEmbedding(0.5), vocabulary=11, **changes)
    model = spec.build().double()
    model.compute_dtype = torch.float64
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.5)
    ids = torch.randint(0, 11, (1, 9))
    starts = torch.zeros(1, 9, dtype=torch.bool)
    starts[0, [3, 7]] = True
    documents = starts[0].long().cumsum(0).tolist()
    expected = log_probabilities(model, ids[0].tolist(), documents)
    # 1e-5: rotary angles are float32.
    torch.testing.assert_close(model.log_probabilities(ids, starts)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [LAYERS, LAYERS[:4]])
@torch.no_grad()
def test_a_fresh_network_passes_its_embedding_through(layers: tuple[Block, ...]) -> None:
    torch.manual_seed(0)
    model = Model(WIDTH, layers, skips=False, vocabulary=11).build()
    ids, starts = torch.randint(0, 11, (2, 7)), torch.zeros(2, 7, dtype=torch.bool)
    x = torch.nn.functional.normalize(model.embedding.weight[ids], dim=-1) * WIDTH**0.5
    torch.testing.assert_close(model.hidden(ids, Stream.of(starts)), x, rtol=0.01, atol=0.01)


@torch.no_grad()
def test_a_fresh_network_predicts_nearly_evenly() -> None:
    torch.manual_seed(0)
    model = Model(64, LAYERS, vocabulary=50).build()
    ids = torch.randint(0, 50, (2, 30))
    nats = model.losses(ids[:, :-1], ids[:, 1:], torch.zeros(2, 29, dtype=torch.bool))
    assert abs(float(nats.mean()) - math.log(50)) < 0.05


@torch.no_grad()
def test_the_soft_cap_bounds_how_sure_the_network_can_be() -> None:
    torch.manual_seed(0)
    spec = Model(WIDTH, LAYERS[:1], TiedEmbedding(100.0), soft_cap=3.0, vocabulary=11)
    ids, starts = torch.arange(11)[None], torch.ones(1, 11, dtype=torch.bool)
    logs = spec.build().log_probabilities(ids, starts)
    spread = logs.amax(-1) - logs.amin(-1)
    assert float(spread.max()) <= 6.0 + 1e-5
    assert float(spread.min()) > 5.9


def test_compute_precision_is_that_of_the_hidden_states_but_not_of_the_scores() -> None:
    model = Model(WIDTH, LAYERS, vocabulary=11).build()
    model.compute_dtype = torch.bfloat16
    ids, starts = torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.bool)
    assert model.hidden(ids, Stream.of(starts)).dtype == torch.bfloat16
    assert model.losses(ids, ids, starts).dtype == torch.float32
    assert model.log_probabilities(ids, starts).dtype == torch.float32
    model.losses(ids, ids, starts).sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


@torch.no_grad()
def test_bfloat16_stays_near_float32() -> None:
    torch.manual_seed(0)
    model = Model(WIDTH * 4, LAYERS, TiedEmbedding(0.2), vocabulary=11).build()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    ids, starts = torch.randint(0, 11, (4, 30)), torch.zeros(4, 30, dtype=torch.bool)
    targets = torch.randint(0, 11, (4, 30))
    exact = model.losses(ids, targets, starts)
    model.compute_dtype = torch.bfloat16
    rough = model.losses(ids, targets, starts)
    assert float((exact - rough).abs().mean()) < 0.05
    assert float(exact.std()) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 1}, "width=1"),
        ({"layers": ()}, "layers is empty"),
        ({"soft_cap": 0.0}, "soft_cap=0.0"),
        ({"vocabulary": -1}, "vocabulary=-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Model(**change)  # type: ignore[arg-type]


def test_a_model_needs_the_tokenizers_vocabulary() -> None:
    with pytest.raises(RecipeError, match="vocabulary is 0"):
        Model(WIDTH, LAYERS).build()
