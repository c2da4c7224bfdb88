"""Numbers on their way from a device, for whoever reads them later."""

import torch
from torch import Tensor


class Readback:
    """A tensor's numbers as they are once all the work queued so far is done; taking them waits for nothing.

    On a GPU they travel to page-locked memory behind that work. The tensor must not change afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._arrived = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            # Waiting asleep leaves the processor to the thread that makes batches.
            self._arrived = torch.cuda.Event(blocking=True)
            self._arrived.record(torch.cuda.current_stream(values.device))

    def wait(self) -> list[float]:
        """The numbers, arrived: all work that was queued before them is done."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
