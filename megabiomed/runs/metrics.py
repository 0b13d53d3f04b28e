"""What a run reports: one greppable line per logged step, and figures and events for its trackers. Rank 0 only."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any

from megabiomed.checkpoint.fence import Fence
from megabiomed.config import RunConfig
from megabiomed.ground.figures import NOT_FINITE, shown, stored
from megabiomed.model.flops import training_flops, utilization
from megabiomed.processes import platform
from megabiomed.runs.environment import keep_environment
from megabiomed.runs.tracking import LocalFiles, Sender, find_trackers


class Reporter:
    """Writes the reports of a run; on other ranks than 0 all methods do nothing.

    Args:
        total: steps of the whole run.
    """

    def __init__(self, config: RunConfig, active: bool, world: int, total: int) -> None:
        self.config = config
        self.active = active
        self.world = world
        self.total = total
        self._chosen = find_trackers(config.tracking)  # on all ranks, so that all refuse a wrong one
        self._files = LocalFiles(config.folder) if active else None
        self._senders: list[Sender] = []
        self._since = time.monotonic()
        self._steps = self._useful = self._pairs = 0
        self._began: float | None = None
        self._losses: list[float] = []  # first and last
        self._done = 0
        self._fence: Fence | None = None
        self._perplexities = ""  # of the last evaluation, for the step lines
        self._remark = ""  # for the next step line
        self._more: dict[str, float] = {}  # figures for its record

    def track(self) -> list[str]:
        """Open the experiment trackers, once it is known that there is something to train.

        Returns:
            What differs from the machine of the start before, on rank 0.
        """
        if not self.active:
            return []
        changed = keep_environment(self.config.folder, self.world)
        for kind, make in self._chosen.items():
            self._senders.append(Sender(kind, make, self.config, self.say, lambda: not self._taken_over()))
            self._senders[-1].start()
        return changed

    def hold(self, fence: Fence | None) -> None:
        """From now on trackers are told something only while this start holds the run folder."""
        self._fence = fence
        if self._files is not None:
            self._files.hold(fence)

    def say(self, line: str) -> None:
        """Print a line, now."""
        if self.active:
            print(line, flush=True)

    def event(self, kind: str, **values: Any) -> None:
        """Tell the trackers that something happened; nothing once a later start has taken the run over."""
        if self._files is not None and not self._taken_over():
            self._files.event(kind, values)
            self._wake()

    def remark(self, text: str) -> None:
        """Show this at the end of the next step line."""
        self._remark += f" {text}"

    def health(self, step: int, kind: str, value: float, **values: Any) -> None:
        """Report a step that is not finite, or a spike, in the events and in the curves.

        Args:
            value: for the curve `health/KIND`.
        """
        self.event(kind, step=step, **values)
        if self.active:
            self._record({f"health/{kind}": value}, step)

    def add(self, values: dict[str, float]) -> None:
        """Report these figures, by names like `ranks/wait_s`, with those of the next step line."""
        self._more |= values

    def gradients(self, step: int, sample: int, figures: dict[str, float], norms: dict[str, float]) -> None:
        """Keep the gradient norm of each tensor of a step in gradients.jsonl.

        Args:
            sample: global number of the step's first one, which tells the steps of one number apart after a rewind.
            figures: loss and gradient norm.
        """
        if self._files is not None and not self._taken_over():
            kept, of_tensors = ({name: stored(value) for name, value in held.items()} for held in (figures, norms))
            self._files.gradients({"step": step, "sample": sample, **kept, "norms": of_tensors})

    def start_clock(self) -> None:
        """Begin measuring speed here (after set-up and after every evaluation or save)."""
        self._since = time.monotonic()
        self._steps = self._useful = self._pairs = 0
        # Set once: the summary counts from the first step of this start.
        self._began = self._began or self._since

    def step(
        self, step: int, loss: float, grad_norm: float, lr: float, loss_tokens: int, visible_pairs: int
    ) -> None:  # fmt: skip
        """Report a finished step (1-based); prints every `train.log_every` steps, and those with a remark."""
        self._steps += 1
        self._useful += loss_tokens
        self._pairs += visible_pairs
        self._done += 1
        self._losses = [*self._losses[:1], loss]
        remark, self._remark = self._remark, ""
        if not self.active or (step % self.config.train.log_every and step != self.total and not remark):
            # The last step is always shown: a short run would otherwise show none.
            return
        seconds = max(1e-9, time.monotonic() - self._since)
        left = (self.total - step) * seconds / self._steps
        values = {"loss": loss, "grad_norm": grad_norm, "lr": lr, **self._speed(seconds), "eta_s": left}
        mfu, hfu = (f"{values[name]:.1%}" if name in values else "n/a" for name in ("mfu", "hfu"))
        self.say(
            f"step: {step}/{self.total} loss: {loss:.4f} grad_norm: {grad_norm:.3f} lr: {lr:.2e} "
            f"tokens/s: {values['tokens_per_s']:,.0f} useful_tokens/s: {values['useful_tokens_per_s']:,.0f} "
            f"tokens/s/device: {values['tokens_per_s_per_device']:,.0f} mfu: {mfu} hfu: {hfu} "
            f"memory: {values['memory_bytes'] / 2**30:.2f}GiB eta: {timedelta(seconds=round(left))}"
            f"{self._perplexities}{remark}"
        )
        more, self._more = self._more, {}
        self._record({**{f"train/{key}": value for key, value in values.items()}, **more}, step)
        # Speed is that since the last line, so that a slow stretch can be seen.
        self.start_clock()

    def _speed(self, seconds: float) -> dict[str, float]:
        """Rates of the steps since the clock began; MFU and HFU (see `training_flops`) where the device's peak is known."""
        config = self.config
        tokens = self._steps * config.data.global_batch_size * config.data.seq_length
        flops = training_flops(
            config.model, tokens, self._pairs, config.lora, config.parallel.activation_checkpointing
        )  # fmt: skip
        found = {
            "step_s": seconds / self._steps,
            "tokens_per_s": tokens / seconds,
            "useful_tokens_per_s": self._useful / seconds,
            "tokens_per_s_per_device": tokens / seconds / self.world,
            "model_flops_per_s": flops.model / seconds,
            "memory_bytes": float(platform.peak_memory_bytes()),
        }
        for name, count in (("mfu", flops.model), ("hfu", flops.hardware)):
            share = utilization(count, seconds, self.world, platform.peak_flops())
            found |= {} if share is None else {name: share}
        return found

    def validation(self, step: int, loss: float, tokens: int) -> None:
        """Report a validation loss."""
        self.say(f"step: {step}/{self.total} validation_loss: {shown(loss, '.4f')} validation_tokens: {tokens}")
        if self.active:
            self._record({"validation/loss": loss}, step)
        self.start_clock()

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Report questions and perplexities; perplexities stay on the step lines that follow."""
        self.say(
            f"step: {step}/{self.total} " + " ".join(f"{name}: {shown(value, '.4f')}" for name, value in values.items())
        )
        self._perplexities = "".join(f" {k}: {shown(v, '.2f')}" for k, v in values.items() if k.endswith("_perplexity"))
        if self.active:
            self._record({f"evaluation/{name}": value for name, value in values.items()}, step)
        self.start_clock()

    def summary(self) -> None:
        """Say what this start did; its tokens/s counts evaluations and saves too."""
        if not self._losses or self._began is None:
            return
        seconds = max(1e-9, time.monotonic() - self._began)
        tokens = self._done * self.config.data.global_batch_size * self.config.data.seq_length
        self.say(
            f"summary: steps: {self._done} tokens: {tokens:,} time: {timedelta(seconds=round(seconds))} "
            f"tokens/s: {tokens / seconds:,.0f} first_loss: {self._losses[0]:.4f} last_loss: {self._losses[-1]:.4f}"
        )

    def finish(self, status: str) -> None:
        """Close the trackers; a run that a later start has taken over stays open for that one."""
        if self._files is not None and not self._taken_over():
            self._files.finish()
        for sender in self._senders:
            sender.close(status)
        for sender in self._senders:
            sender.wait()

    def _wake(self) -> None:
        for sender in self._senders:
            sender.wake()

    def _taken_over(self) -> bool:
        return self._fence is not None and self._fence.taken_over()

    def _record(self, values: dict[str, float], step: int) -> None:
        """Give the figures of a step to the trackers, with a warning about those that are not finite.

        Raises:
            CheckpointError: a later start has taken the run over; its curves are not to be mixed with these.
        """
        # Asked leniently first: storage that is away for a moment must not end a training.
        if self._fence is not None and self._taken_over():
            self._fence.check()
        broken = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
        if broken:
            found = ", ".join(f"{name} {value}" for name, value in broken.items())
            self.say(f"warning: step: {step}/{self.total} {NOT_FINITE}: {found}")
            self.event("warning", what=NOT_FINITE, step=step, figures=broken)
        if self._files is not None:
            self._files.metrics(values, step)
            self._wake()
