"""torch's setting for deterministic algorithms, for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic_algorithms(*, warn_only: bool) -> Iterator[None]:
    """Within it torch takes deterministic algorithms; where it has none it warns, or else raises.

    The setting is the process's. What it was before is put back. Fresh memory is not filled meanwhile, which
    is for finding programs that read what was never written, and costs a launch for every result.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    # A property that torch puts on the module itself.
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before, warn_only=warned)
