"""One to eight devices as one machine. The only reader of torchrun's environment variables.

Batches and updates are defined globally; ranks split the work. With one process every method here is
the identity, so there is a single training algorithm.
"""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

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


#: Numbers the groups that this process joins: a script may train one recipe after the other. In the store
#: the addresses of an earlier group remain, and a rank that comes first must not find those.
_GROUPS = itertools.count()


@cache
def _meeting_place(rank: int, world: int) -> dist.Store:
    """Where torchrun's processes find each other. One for all groups: it may lie in the lead's process."""
    store, _, _ = next(dist.rendezvous("env://", rank, world))
    return store


@dataclass(frozen=True)
class Pending:
    """A tensor that is still on its way between the ranks."""

    result: Tensor
    work: dist.Work | None = None
    #: What is being sent; it must outlive the journey.
    source: Tensor | None = None

    def wait(self) -> Tensor:
        """The tensor, arrived. On a GPU only what is queued from now on waits, not this process."""
        if self.work is not None:
            self.work.wait()
        return self.result


class PendingSum:
    """Sums over all ranks that are still on their way to the tensors they belong to."""

    def __init__(self, sums: list[tuple[list[Tensor], Pending]]) -> None:
        self._sums = sums

    def wait(self) -> None:
        """Writes the sums into the tensors; a second call does nothing."""
        for tensors, pending in self._sums:
            parts = pending.wait().split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])
        self._sums = []


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
            # What lies on the CPU is exchanged without waiting for what is queued on a GPU.
            backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
            store = dist.PrefixStore(f"bytegolf/{next(_GROUPS)}", _meeting_place(rank, world))
            dist.init_process_group(backend, store=store, rank=rank, world_size=world)
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
        self.start_sum(tensors).wait()

    def start_sum(self, tensors: Iterable[Tensor]) -> PendingSum:
        """Like `sum_`, but returns at once: the tensors hold the sums after `wait`."""
        if self.world == 1:
            return PendingSum([])
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        sums = []
        for group in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            sums.append((group, Pending(flat, dist.all_reduce(flat, async_op=True))))
        return PendingSum(sums)

    def start_sum_of_part(self, whole: Tensor) -> Pending:
        """The sum over all ranks of this rank's part of `whole` (world · P, ...), in rank order: (P, ...).

        `whole` must not change until the part has arrived.
        """
        if self.world == 1:
            return Pending(whole)
        part = whole.new_empty(whole.shape[0] // self.world, *whole.shape[1:])
        # The forms over lists: those over single tensors changed their names within the supported versions.
        return Pending(part, dist.reduce_scatter(part, list(whole.chunk(self.world)), async_op=True), whole)

    def lead_and_any(self, value: float, flag: bool) -> tuple[float, bool]:
        """The lead's `value`, and whether any rank raised its `flag`; the same answer on every rank.

        Waits for the other processes, not for what is queued on a GPU.
        """
        if self.world == 1:
            return value, flag
        message = torch.tensor([value if self.leads else -torch.inf, float(flag)], dtype=torch.float64)
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
        return self.start_gather(part).wait()

    def start_gather(self, part: Tensor) -> Pending:
        """Like `gather`, but returns at once. `part` must not change until the whole has arrived."""
        if self.world == 1:
            return Pending(part)
        part = part.contiguous()
        whole = part.new_empty(self.world * part.shape[0], *part.shape[1:])
        return Pending(whole, dist.all_gather(list(whole.chunk(self.world)), part, async_op=True), part)

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.world > 1:
            dist.barrier()
