"""How far rounding alone moves a score: bounds by the type that a model computes in."""

import torch

from bytegolf.model.spec import LanguageModel

_SCORE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: 0.3, torch.float16: 0.05}
_MEAN = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def score_tolerance(model: LanguageModel) -> float:
    """Nats by which one score may differ when it is computed in a batch of another shape."""
    return _SCORE[model.compute_dtype]


def mean_tolerance(model: LanguageModel) -> float:
    """Nats by which the mean of many scores may differ: rounding has no direction, a gain has."""
    return _MEAN[model.compute_dtype]
