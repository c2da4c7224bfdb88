"""Recipes made small: every part stays, only sizes shrink."""

import dataclasses
from typing import Any

from bytegolf.compression.gptq import Gptq
from bytegolf.evaluation.adaptation import DocumentLora, ScoreFirstSgd
from bytegolf.evaluation.adaptation.phases import Phases
from bytegolf.evaluation.windows import Chunked, Sliding
from bytegolf.model.attention import Attention
from bytegolf.model.bigram import BigramSum, BigramXor
from bytegolf.model.embedding import FactoredEmbedding
from bytegolf.model.mlp import SquaredMlp, SwiGlu, XieluMlp
from bytegolf.model.spec import Model
from bytegolf.model.value_embedding import ValueEmbedding
from bytegolf.recipe import Evaluation
from bytegolf.training.budget import Budget
from bytegolf.training.spec import Training

#: What is made small, by class: everything else stays as the recipe has it.
SMALL: dict[type, dict[str, Any]] = {
    Attention: {"heads": 4, "key_value_heads": 2, "rotary_dimensions": 0},
    SquaredMlp: {"hidden": 48},
    SwiGlu: {"hidden": 48},
    XieluMlp: {"hidden": 48},
    Model: {"width": 32},
    FactoredEmbedding: {"inner": 16},
    BigramSum: {"buckets": 64, "width": 16},
    BigramXor: {"buckets": 64, "width": 16},
    ValueEmbedding: {"width": 16},
    Training: {
        "rows": 4,
        "length": 32,
        "forward_rows": 2,
        "budget": Budget(steps=3),
        "precision": "float32",
        "compile": "off",
        "validate_at": (),
    },
    Sliding: {"length": 32, "stride": 16},
    Chunked: {"length": 32},
    DocumentLora: {"rank": 2, "chunk": 16, "length": 32, "stride": None},
    Phases: {"prefix": 2, "count": 1},
    Gptq: {"batches": 1, "rows": 2},
    ScoreFirstSgd: {"chunk": 256, "length": 32, "rows": 4},
    Evaluation: {"prompts": ("",), "sample_tokens": 4, "coloured_bytes": 64},
}


def small(spec: Any) -> Any:
    """The same tree with the sizes of `SMALL`."""
    if isinstance(spec, tuple):
        return tuple(small(item) for item in spec)
    if not dataclasses.is_dataclass(spec) or isinstance(spec, type):
        return spec
    fields = {field.name: small(getattr(spec, field.name)) for field in dataclasses.fields(spec)}
    return type(spec)(**(fields | SMALL.get(type(spec), {})))
