"""One to eight devices as one machine. The only reader of torchrun's environment variables.

Batches and updates are defined globally; ranks split the work. With one process every method here is
the identity, so there is a single training algorithm.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from bytegolf.errors import RecipeError


def chosen_device(name: str, index: int = 0) -> torch.device:
    """The device that auto, cpu or cuda stands for here: auto takes a GPU if there is one.

    Raises `RecipeError` for cuda where torch finds none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RecipeError("device is cuda, but torch finds no CUDA GPU here; use auto or cpu")
    return torch.device("cuda", index)


@dataclass(frozen=True)
class Ranks:
    """This process among all: `rank` of `world`, computing on `device`."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @staticmethod
    def start(device: str = "auto") -> "Ranks":
        """Joins the processes that torchrun started, or stands alone. `device`: auto, cpu or cuda."""
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = chosen_device(device, local)
        on_gpu = chosen.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(chosen)
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if on_gpu else "gloo", rank=rank, world_size=world)
        return Ranks(rank, world, chosen)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def stop(self) -> None:
        """Leaves the group of processes."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sums each tensor over all ranks, in place; tensors travel together in one message per type."""
        if self.world == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for group in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in group])
            torch._foreach_copy_(group, [p.view_as(t) for p, t in zip(parts, group, strict=True)])

    def lead_and_any(self, value: float, flag: bool) -> tuple[float, bool]:
        """The lead's `value`, and whether any rank raised its `flag`; the same answer on every rank."""
        if self.world == 1:
            return value, flag
        message = torch.tensor([value if self.leads else -torch.inf, float(flag)], dtype=torch.float64)
        message = message.to(self.device)
        dist.all_reduce(message, op=dist.ReduceOp.MAX)
        lead_value, raised = message.tolist()
        return lead_value, raised > 0

    def from_lead(self, text: str) -> str:
        """The lead's `text`, on every rank."""
        if self.world == 1:
            return text
        message = [text]
        dist.broadcast_object_list(message, src=0)
        return message[0]

    def gather(self, part: Tensor) -> Tensor:
        """Every rank's `part` (P, ...), stacked along the first dimension in rank order: (world · P, ...)."""
        if self.world == 1:
            return part
        whole = part.new_empty(self.world * part.shape[0], *part.shape[1:])
        dist.all_gather(list(whole.chunk(self.world)), part.contiguous())
        return whole

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.world > 1:
            dist.barrier()
