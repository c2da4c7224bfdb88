"""torch's setting for deterministic algorithms, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic_algorithms(*, warn_only: bool) -> Iterator[None]:
    """Within it torch takes deterministic algorithms; where it has none it warns, or else raises.

    The setting is the process's. What it was before is put back.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
