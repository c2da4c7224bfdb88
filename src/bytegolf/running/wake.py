"""Starting what takes seconds to start, behind the reading of text."""

import importlib
import threading

import torch


def wake(device: torch.device, *, compiles: bool) -> threading.Thread:
    """A running thread that opens the GPU and loads the compiler, about 8 s where neither is warm.

    Join it before they are used. It only does early what would be done anyway, so its failures are left to
    whoever then asks for the same thing. On a CPU without compilation it has nothing to do.
    """

    def work() -> None:
        try:
            if device.type == "cuda":
                torch.zeros(1, device=device)
            if compiles:
                importlib.import_module("torch._inductor.compile_fx")
        except (RuntimeError, ImportError):
            return

    thread = threading.Thread(target=work, name="wake", daemon=True)
    thread.start()
    return thread
