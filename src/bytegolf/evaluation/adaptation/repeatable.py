"""Gradients that come out the same to the last bit, for those who must learn what another learned."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        # torch warns of matrix products, whose order is only open where several streams share a workspace.
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warned)
