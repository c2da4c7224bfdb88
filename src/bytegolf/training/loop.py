"""The training loop."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bytegolf.errors import BudgetError, CheckpointError, DivergedError
from bytegolf.model.spec import LanguageModel
from bytegolf.tokens.batches import Batch, PackedBatches
from bytegolf.tokens.ledger import bits_per_byte
from bytegolf.training.averaging import Averaging
from bytegolf.training.budget import Pace, Stopwatch
from bytegolf.training.checkpoint import Checkpoints
from bytegolf.training.groups import OptimizerGroup
from bytegolf.training.longer_rows import JoinedRows
from bytegolf.training.ranks import Ranks
from bytegolf.training.readback import Readback
from bytegolf.training.record import Record
from bytegolf.training.signals import Interrupted, StopSignals
from bytegolf.training.spec import Training
from bytegolf.training.stages import Stages

#: Steps in a row whose loss is above twice the first one's (and one nat) until training counts as lost.
_DIVERGED_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """One finished step, for whoever watches. loss: nats per token; share: used part of the budget."""

    step: int
    tokens: int
    seconds: float
    share: float
    loss: float
    bits_per_byte: float
    tokens_per_second: float
    multiplier: float
    gradient_norm: float


@dataclass(frozen=True)
class Due:
    """What must wait until no step is under way.

    share: that of the budget from which a validation or a stage is due; infinite for none. saving: the
    seconds from which a checkpoint is due.
    """

    share: float
    saving: float


@dataclass(frozen=True)
class QueuedStep:
    """A step that the device may still be working on. tokens: those of all steps so far.

    numbers: its sum of nats, its bytes and its gradient norm, which arrive when it is done.
    """

    step: int
    tokens: int
    multiplier: float
    numbers: Readback


@dataclass
class Trainer:
    """Everything a training needs; `run` is the loop. State that resumes: step, tokens, seconds and parts.

    ahead: whether a step is queued before the numbers of the one before it are read, so that a GPU has work
    while the next step is prepared. What is learned is the same; a loss that diverges is seen a step later.
    edges: measures what friction leaves of the edges, at each validation and at the end; None where nothing
    is cut. newest_edges: what it last found, with the step.
    """

    model: LanguageModel
    batches: PackedBatches
    spec: Training
    optimizers: OptimizerGroup
    ranks: Ranks
    stages: Stages
    average: Averaging | None
    record: Record
    checkpoints: Checkpoints | None
    stopwatch: Stopwatch
    validate: Callable[[], tuple[float, float]] | None = None
    edges: Callable[[], dict[str, Any]] | None = None
    newest_edges: dict[str, Any] | None = None
    watch: Callable[[Progress], None] = lambda progress: None
    step: int = 0
    tokens: int = 0
    first_loss: float = math.nan
    high_steps: int = 0
    ahead: bool = False
    joined_rows: JoinedRows = field(default_factory=JoinedRows)

    def run(self) -> None:
        """Trains until the budget is used. Raises `DivergedError`, `BudgetError` or `Interrupted`."""
        budget, spec = self.spec.budget, self.spec
        validations = sorted(share for share in spec.validate_at if share > self._share())
        saved_at = self.stopwatch.seconds
        pace = Pace(saved_at, self.step)
        with StopSignals() as signals, closing(self._prefetch()) as batches:
            while True:
                # No step is under way here. Every decision below follows from these two, which are the same
                # on all ranks: one rank that validates, saves or stops alone would leave the others waiting
                # forever.
                seconds, interrupted = self.ranks.lead_and_any(self.stopwatch.seconds, signals.raised)
                pace.idle(seconds, self.step)
                usage = (seconds, self.tokens, self.step)
                share = budget.progress(*usage)
                if validations and share >= validations[0]:
                    validations = [later for later in validations if later > share]
                    self._validate()
                if interrupted:
                    self._save()
                    raise Interrupted
                if not budget.allows(
                    *usage, next_seconds=pace.idle_step_seconds, next_tokens=spec.tokens_per_step
                ):
                    break
                # While the loss is far too high there is nothing good to save.
                if seconds - saved_at >= spec.checkpoint_seconds and not self.high_steps:
                    saved_at = seconds
                    self._save()
                self.stopwatch.start()
                if entered := self.stages.enter_due(share):
                    for name in entered:
                        self.record.write("stage", step=self.step, seconds=seconds, name=name)
                    # Entering may have taken what was left of the budget.
                    continue
                queued = self._one_step(next(batches), share, self._multiplier(seconds))
                if self.ahead and pace.known:
                    next_share = min([*validations[:1], self.stages.next_at])
                    due = Due(next_share, saved_at + spec.checkpoint_seconds)
                    queued = self._run_ahead(queued, batches, pace, due, signals)
                self._finish(queued)
        self.stopwatch.pause()
        if budget.seconds is not None and seconds > budget.seconds and self.step <= 1:
            raise BudgetError(
                f"budget.seconds={budget.seconds} is too small for one step, which took "
                f"{seconds:.2f} s; raise it, or lower training.rows"
            )
        self._save()
        self._measure_edges()

    def _run_ahead(
        self, queued: QueuedStep, batches: Iterator[Batch], pace: Pace, due: Due, signals: StopSignals
    ) -> QueuedStep:
        """Queues steps, each while the one before it is under way, until something must wait for the device.

        `queued` is under way; returns the one that then is. All is decided by when the step under way will
        end, as it seems, and steps are queued only while there is time for one more: what is decided close to
        the end of the budget is decided by the clock.
        """
        budget = self.spec.budget
        while True:
            seconds, interrupted = self.ranks.lead_and_any(self.stopwatch.seconds, signals.raised)
            ends = pace.running(seconds, self.step - 1)
            usage = (ends, self.tokens, self.step)
            share = budget.progress(*usage)
            fits = budget.allows(
                *usage, next_seconds=2 * pace.step_seconds, next_tokens=self.spec.tokens_per_step
            )
            saving = ends >= due.saving and not self.high_steps
            if interrupted or saving or share >= due.share or not fits:
                return queued
            following = self._one_step(next(batches), share, self._multiplier(ends))
            self._finish(queued)
            queued = following

    def _multiplier(self, seconds: float) -> float:
        """The schedule's factor for a step that begins at `seconds`."""
        usage = (seconds, self.tokens, self.step)
        left = self.spec.budget.steps_left(*usage, self.spec.tokens_per_step)
        return self.spec.schedule.multiplier(self.spec.budget.progress(*usage), left)

    def _one_step(self, batch: Batch, share: float, multiplier: float) -> QueuedStep:
        """Queues all the work of a step. Nothing here may ask the device for a number, which would wait."""
        nats = self._accumulate_gradients(batch)
        totals = torch.stack([nats, torch.full_like(nats, batch.bytes)])
        self.optimizers.reduce_gradients(totals, self.spec.clip)
        self.optimizers.step(multiplier, progress=share)
        norm = self.optimizers.gradient_norm()
        self.optimizers.drop_gradients()
        if self.average is not None:
            self.average.update(multiplier)
        self.stages.after_update()
        self.step += 1
        self.tokens += self.spec.tokens_per_step
        numbers = Readback(torch.cat([totals, norm.reshape(1)]))
        return QueuedStep(self.step, self.tokens, multiplier, numbers)

    def _finish(self, queued: QueuedStep) -> None:
        """Waits until a step is done, and tells of it. Raises `DivergedError`."""
        nats, byte_count, gradient_norm = queued.numbers.wait()
        loss = nats / self.spec.tokens_per_step
        self._check(queued.step, loss, gradient_norm)
        seconds = self.stopwatch.seconds
        progress = Progress(
            step=queued.step,
            tokens=queued.tokens,
            seconds=seconds,
            share=self.spec.budget.progress(seconds, queued.tokens, queued.step),
            loss=loss,
            bits_per_byte=bits_per_byte(nats, byte_count),
            tokens_per_second=queued.tokens / seconds if seconds else 0.0,
            multiplier=queued.multiplier,
            gradient_norm=gradient_norm,
        )
        self._report(progress)

    def _accumulate_gradients(self, batch: Batch) -> Tensor:
        """Gradients of the mean loss over the global batch, this rank's share; its sum of nats, float64."""
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for first in range(0, batch.ids_BT.shape[0], self.spec.forward_rows):
            rows = slice(first, first + self.spec.forward_rows)
            ids, targets = (
                self.joined_rows.joined(part[rows]).to(self.ranks.device, non_blocking=True)
                for part in (batch.ids_BT, batch.targets_BT)
            )
            starts = self.joined_rows.joined(batch.starts_BT[rows])
            nats, objective = self._objective(ids, targets, starts)
            (objective / self.spec.tokens_per_step).backward()
            total += nats.detach()
        return total

    def _objective(self, ids: Tensor, targets: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of nats, which is what gets reported, and what is minimized."""
        if not self.spec.z_loss:
            nats = self.model.losses(ids, targets, starts).sum()
            return nats, nats
        nats_BT, penalty_BT = self.model.losses_and_penalties(ids, targets, starts, z_loss=self.spec.z_loss)
        nats = nats_BT.sum()
        return nats, nats + penalty_BT.sum()

    def warm_up(self) -> None:
        """Runs forward and backward passes that change nothing: code is compiled, and ranks are connected.

        One for each order of layers and each length of rows that is to come, so that nothing is left to
        compile where a loop begins or rows grow longer.
        """
        self.stages.prepare()
        batch = self.batches.batch(self.step)
        rows = slice(0, self.spec.forward_rows)
        first = Batch(batch.ids_BT[rows], batch.targets_BT[rows], batch.starts_BT[rows], bytes=0)
        stack, loop = self.model.stack, self.model.spec.loop
        for passes in sorted({stack.passes if loop is None else loop.passes, stack.passes}):
            for times in sorted({self.joined_rows.times, self.joined_rows.most}):
                with stack.running(passes), self.joined_rows.joining(times):
                    self._accumulate_gradients(first)
        # GPUs connect at their first exchange, for seconds that the first step would be charged with.
        beside = torch.zeros(1, dtype=torch.float64, device=self.ranks.device)
        self.optimizers.reduce_gradients(beside, self.spec.clip)
        self.optimizers.gradient_norm()
        self.ranks.gather(beside)
        self.optimizers.drop_gradients()
        self._sync()

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue as if nothing had happened."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.stopwatch.seconds,
            "first_loss": self.first_loss,
            "high_steps": self.high_steps,
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "stages": self.stages.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`. Raises `CheckpointError` if it belongs to another recipe."""
        try:
            self.step, self.tokens = state["step"], state["tokens"]
            self.first_loss, self.high_steps = state["first_loss"], state["high_steps"]
            self.stopwatch.restore(state["seconds"])
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            self.stages.restore(state["stages"])
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise CheckpointError(
                "the checkpoint does not fit this recipe; put recipe.json back as it was, or start a new run "
                f"({str(error).partition(chr(10))[0]})"
            ) from error
        self.record.write("resume", step=self.step, seconds=self.stopwatch.seconds)

    def _prefetch(self) -> Generator[Batch, None, None]:
        return self.batches.prefetch(self.step, pin=self.ranks.device.type == "cuda")

    def _share(self) -> float:
        return self.spec.budget.progress(self.stopwatch.seconds, self.tokens, self.step)

    def _check(self, step: int, loss: float, gradient_norm: float) -> None:
        if math.isnan(self.first_loss):
            self.first_loss = loss
        # High learning rates often throw the first few steps up; only what stays up has diverged.
        self.high_steps = self.high_steps + 1 if loss > 2.0 * self.first_loss + 1.0 else 0
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        if not finite or self.high_steps >= _DIVERGED_STEPS:
            raise DivergedError(
                f"training diverged at step {step}: loss {loss:.3f} nats per token, gradient norm "
                f"{gradient_norm:.3g} (started at {self.first_loss:.3f}); lower the learning rates. "
                "The last good checkpoint is kept"
            )

    def _report(self, progress: Progress) -> None:
        self.record.write(
            "train",
            step=progress.step,
            tokens=progress.tokens,
            seconds=progress.seconds,
            loss=progress.loss,
            bits_per_byte=progress.bits_per_byte,
            tokens_per_second=progress.tokens_per_second,
            learning_rate=progress.multiplier,
            gradient_norm=progress.gradient_norm,
        )
        self.watch(progress)

    def _validate(self) -> None:
        self.stopwatch.pause()
        if self.validate is not None:
            loss, bits = self.validate()
            values = {"loss": loss, "bits_per_byte": bits}
            self.record.write(
                "validation", step=self.step, tokens=self.tokens, seconds=self.stopwatch.seconds, **values
            )
        self._measure_edges()

    def _measure_edges(self) -> None:
        """Once for each step at most; the clock stands still."""
        if self.edges is None or (self.newest_edges or {}).get("step") == self.step:
            return
        place = {"step": self.step, "tokens": self.tokens, "seconds": self.stopwatch.seconds}
        self.newest_edges = place | self.edges()
        self.record.write("edges", **self.newest_edges)

    def _save(self) -> None:
        self.stopwatch.pause()
        if self.checkpoints is not None:
            # Every rank takes part: the optimizers' state may be spread over all of them.
            state = self.state_dict()
            if self.ranks.leads:
                self.checkpoints.save(self.step, state)
        self.ranks.barrier()

    def _sync(self) -> None:
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize(self.ranks.device)
