"""Every component, in networks that hold every pair of them. A new one is one new line here."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramSum, BigramXor
from bytegolf.model.embedding import FactoredEmbedding, TiedEmbedding
from bytegolf.model.friction import Friction
from bytegolf.model.gates import FullGate, OutGate, SparseGate
from bytegolf.model.injection import Parcae
from bytegolf.model.lanes import Lanes
from bytegolf.model.loop import Loop
from bytegolf.model.mlp import Mlp, SquaredMlp, SwiGlu, XieluMlp, published_xielu
from bytegolf.model.rotary import NtkAware, Yarn
from bytegolf.model.smear import SmearGate, SmearMix
from bytegolf.model.spec import LanguageModel, Model
from bytegolf.model.stack import Block
from bytegolf.model.value_embedding import ValueEmbedding

WIDTH = 12
VOCABULARY = 19


def pairwise(axes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Rows of option names, one option of each axis a row, so that every pair of options shares a row.

    Greedy: of rows grown from some of the pairs not yet seen, the one that holds most of those comes next.
    """
    missing = {
        frozenset(((first, a), (second, b)))
        for first, second in itertools.combinations(axes, 2)
        for a, b in itertools.product(axes[first], axes[second])
    } or {frozenset(((axis, name),)) for axis in axes for name in axes[axis]}
    chosen = []
    while missing:
        waiting = sorted(missing, key=sorted)
        starts = waiting[:: max(1, len(waiting) // 16)]
        best = max((_grown(dict(start), axes, missing) for start in starts), key=lambda found: found[0])
        chosen.append({axis: best[1][axis] for axis in axes})
        missing -= {
            frozenset(pair) for size in (1, 2) for pair in itertools.combinations(best[1].items(), size)
        }
    return chosen


def _grown(
    row: dict[str, str], axes: Mapping[str, Mapping[str, Any]], missing: set[frozenset[tuple[str, str]]]
) -> tuple[int, dict[str, str]]:
    """A row with all axes, each option chosen for the missing pairs it makes, and how many those are."""
    count = 1
    for axis in axes:
        if axis not in row:
            gains = {
                name: sum(frozenset(((axis, name), other)) in missing for other in row.items())
                for name in axes[axis]
            }
            row[axis] = max(gains, key=lambda name: gains[name])
            count += gains[row[axis]]
    return count, row


#: Changes to one plain attention layer.
ATTENTION: dict[str, dict[str, dict[str, Any]]] = {
    "heads": {
        "grouped": {"heads": 4, "key_value_heads": 2},
        "multi-head": {"heads": 2, "key_value_heads": 2},
        "multi-query": {"heads": 3, "key_value_heads": 1},
    },
    "window": {"all": {}, "window 3": {"window": 3}},
    "rotary": {
        "all": {},
        "partial NTK": {
            "rotary_dimensions": 4,
            "rotary_base": 100.0,
            "rotary_scaling": NtkAware(train_length=8),
        },
        "YaRN": {"rotary_scaling": Yarn(factor=3.0)},
    },
    "head width": {"wide": {"head_width": 12}, "narrow": {"head_width": 8}},
    "gain": {"1.5": {}, "4": {"query_gain": 4.0}},
    "values": {"own": {}, "and shared ones": {"shared_values": True}},
    "reading": {"plain": {}, "exclusive": {"exclusive": True}, "differential": {"differential": 0.5}},
    "ending": {"as read": {}, "normalized": {"norm_output": True}},
    "value matrix": {"": {}, "tied values": {"tied_values": True}},
    "friction": {
        "": {},
        "friction": {"friction": Friction(capacity=1.5)},
        "friction, mu": {"friction": Friction(form="mu", capacity=None, head_bias=True, head_friction=True)},
        "friction, log domain": {"friction": Friction(form="log_domain", head_friction=True)},
        "friction in the softmax": {"friction": Friction("softmax", capacity=None, head_friction=True)},
    },
    "position": {"": {}, "no rotation": {"rotary": False}},
    "norm": {"": {}, "as projected": {"norm_query_key": False, "query_gain": 0.8}},
    "gate": {
        "": {},
        "out gate of the residual": {"gate": OutGate(channels=5, reads="residual")},
        "out gate of the query": {"gate": OutGate(channels=7, reads="query")},
        "full gate": {"gate": FullGate(deviation=0.3)},
        "sparse gate": {"gate": SparseGate(channels=5, scale=0.5)},
    },
}

MLPS: dict[str, Mlp] = {
    "relu²": SquaredMlp(hidden=20),
    "leaky relu², normalized": SquaredMlp(hidden=14, slope=0.5, norm_output=True),
    "SwiGLU": SwiGlu(hidden=10),
    "xIELU": published_xielu(layer=7, hidden=14),
    "learned xIELU": XieluMlp(hidden=14, learned=True, norm_output=True),
}

EMBEDDINGS: dict[str, TiedEmbedding | FactoredEmbedding] = {
    "tied": TiedEmbedding(deviation=0.3),
    "tied, biased": TiedEmbedding(deviation=0.3, bias=True, spectrum=0.5),
    "factored, biased": FactoredEmbedding(inner=7, deviation=0.3, bias=True),
}

#: Changes to the whole network.
NETWORK: dict[str, dict[str, dict[str, Any]]] = {
    "embedding": {name: {"embedding": spec} for name, spec in EMBEDDINGS.items()},
    "bigram": {
        "": {},
        "bigram sum": {"bigram": BigramSum(buckets=31, width=5)},
        "bigram xor": {"bigram": BigramXor(buckets=13, width=6, scale=0.5)},
    },
    "smear": {
        "": {},
        "smear before norm": {"smear": SmearMix(start=-1.0, place="before_norm")},
        "smear after norm": {"smear": SmearMix()},
        "smear gate": {"smear": SmearGate(channels=5)},
    },
    "skips": {
        "skips": {"skips": True},
        "gated skips": {"skips": "gated"},
        "no skips": {"skips": False},
    },
    "order": {
        "once": {},
        "middle thrice": {"loop": Loop(1, 1, 3)},
        "two twice": {"loop": Loop(0, 1, 2)},
        "injected, more in scoring": {"loop": Loop(0, 1, 2, 0.3, Parcae(truncate=1), extra_passes=1)},
    },
    "joining": {
        "in turn": {},
        "parallel": {},
        "two lanes": {"lanes": Lanes(2)},
        "two lanes from mixes": {"lanes": Lanes(2, mlp_reads="mix", output="mlp")},
    },
    "norms": {
        "plain norms": {},
        "scaled norms": {"scaled_norms": True, "residual_mix": "phase"},
        "unmixed": {"residual_mix": "none"},
    },
    "cap": {
        "cap": {"soft_cap": 6.0},
        "no cap": {"soft_cap": None},
        "polynomial cap": {"soft_cap": 6.0, "cap_form": "polynomial"},
    },
}

#: The plain layer that stands between two of the chosen kind, so that unlike layers meet.
PLAIN = Block(Attention(heads=2, key_value_heads=1), SquaredMlp(hidden=16))


AXES: dict[str, Mapping[str, Any]] = {**ATTENTION, "mlp": MLPS, **NETWORK}


def _changes(axes: Mapping[str, Mapping[str, dict[str, Any]]], row: dict[str, str]) -> dict[str, Any]:
    return {name: value for axis in axes for name, value in axes[axis][row[axis]].items()}


def _network(row: dict[str, str]) -> Model:
    mixer = Attention(**_changes(ATTENTION, row))
    block = Block(mixer, MLPS[row["mlp"]], parallel=row["joining"] == "parallel")
    return Model(
        width=WIDTH,
        layers=(block, PLAIN, block),
        vocabulary=VOCABULARY,
        value_embedding=ValueEmbedding(width=5) if mixer.shared_values else None,
        **_changes(NETWORK, row),
    )


SPECS: dict[str, Model] = {", ".join(filter(None, row.values())): _network(row) for row in pairwise(AXES)}


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
    # Longer than some were trained for, so that what acts only then acts.
    model.fit_rows(40)
    return model.double() if dtype == torch.float64 else model


def packed(rows: int, length: int, seed: int, share: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids (rows, length + 1) and where documents start (rows, length); not all rows begin with one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (rows, length + 1), generator=generator)
    return ids, torch.rand(rows, length, generator=generator) < share
