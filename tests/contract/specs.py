"""Every component, in networks that hold every pair of them. A new one is one new line here."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch

from bytegolf.model.attention import Attention
from bytegolf.model.embedding import TiedEmbedding
from bytegolf.model.mlp import Mlp, SquaredMlp, SwiGlu
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block, Mixer

WIDTH = 12
VOCABULARY = 19


def pairwise(axes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of option names, one option of each axis a row, so that every pair of options shares a row.

    Greedy over the full product: the row with the most pairs not yet seen comes next.
    """
    rows = [dict(zip(axes, names, strict=True)) for names in itertools.product(*axes.values())]
    missing = {pair for row in rows for pair in _pairs(row)}
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(missing & _pairs(row)))
        chosen.append(best)
        missing -= _pairs(best)
    return chosen


def _pairs(row: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations(sorted(row.items()), 2)) or {tuple(row.items())}


#: Changes to one plain attention layer.
ATTENTION: dict[str, dict[str, dict[str, Any]]] = {
    "heads": {
        "grouped": {"heads": 4, "key_value_heads": 2},
        "multi-head": {"heads": 2, "key_value_heads": 2},
        "multi-query": {"heads": 3, "key_value_heads": 1},
    },
    "window": {"all": {}, "window 3": {"window": 3}},
    "rotary": {"all": {}, "partial": {"rotary_dimensions": 2, "rotary_base": 100.0}},
    "head width": {"own": {"head_width": 6}, "narrow": {"head_width": 4}},
    "gain": {"1.5": {}, "4": {"query_gain": 4.0}},
}

MIXERS: dict[str, Mixer] = {
    " ".join(row.values()): Attention(
        **{name: value for axis, option in row.items() for name, value in ATTENTION[axis][option].items()}
    )
    for row in pairwise(ATTENTION)
}

MLPS: dict[str, Mlp] = {
    "relu²": SquaredMlp(hidden=20),
    "leaky relu²": SquaredMlp(hidden=14, slope=0.5),
    "SwiGLU": SwiGlu(hidden=10),
}

#: Changes to the whole network.
NETWORK: dict[str, dict[str, dict[str, Any]]] = {
    "skips": {"skips": {"skips": True}, "no skips": {"skips": False}},
    "cap": {"cap": {"soft_cap": 6.0}, "no cap": {"soft_cap": None}},
}

#: The plain layer that stands between two of the chosen kind, so that unlike layers meet.
PLAIN = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=16))


def _network(row: dict[str, str]) -> Model:
    block = Block(MIXERS[row["mixer"]], MLPS[row["mlp"]])
    changes = {name: value for axis in NETWORK for name, value in NETWORK[axis][row[axis]].items()}
    model = Model(
        width=WIDTH,
        layers=(block, PLAIN, block),
        embedding=TiedEmbedding(deviation=0.3),
        vocabulary=VOCABULARY,
    )
    return dataclasses.replace(model, **changes)


SPECS: dict[str, Model] = {
    ", ".join(row.values()): _network(row) for row in pairwise({"mixer": MIXERS, "mlp": MLPS, **NETWORK})
}


def build(spec: Model, dtype: torch.dtype = torch.float64, seed: int = 0) -> LanguageModel:
    """The network with weights far from their start (where projections are zero and gains alike).

    float64 keeps its weights in float64; the other types only compute in them.
    """
    generator = torch.Generator().manual_seed(seed)
    model = spec.build()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 2 and parameter.shape[0] > 3:
                parameter.copy_(noise * 1.5 * parameter.shape[1] ** -0.5)
            else:
                parameter.add_(0.4 * noise)
    model.compute_dtype = dtype
    return model.double() if dtype == torch.float64 else model


def packed(rows: int, length: int, seed: int, share: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids (rows, length + 1) and where documents start (rows, length); not all rows begin with one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (rows, length + 1), generator=generator)
    return ids, torch.rand(rows, length, generator=generator) < share
