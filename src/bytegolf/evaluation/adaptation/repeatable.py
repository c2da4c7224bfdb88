"""Gradients that come out the same to the last bit, for those who must learn what another learned."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bytegolf.kernels.deterministic import deterministic_algorithms


@contextmanager
def repeatable_gradients(device: torch.device) -> Iterator[None]:
    """Within it forward and backward passes repeat: a decoder must learn exactly what its encoder learned.

    On GPUs sums over tokens are otherwise taken in the order in which they happen to be ready. Settings are
    torch's own and hold for the process; attention, which asks for more, looks for them (see
    `bytegolf.kernels.attention.varlen`).
    """
    if device.type != "cuda":
        yield
        return
    with warnings.catch_warnings():
        # torch warns of matrix products, whose order is only open where several streams share a workspace.
        warnings.simplefilter("ignore")
        with deterministic_algorithms(warn_only=True):
            yield
