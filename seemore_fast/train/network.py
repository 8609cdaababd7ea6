"""What is trained: the network, its moving average, the optimizer; one step of it, and its state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from seemore_fast.backends.precision import autocast
from seemore_fast.errors import CheckpointError, SeemoreError
from seemore_fast.model import SeemoRe
from seemore_fast.options.schema import Training
from seemore_fast.train.capture import Captured
from seemore_fast.train.experiment import Weights
from seemore_fast.train.losses import Criterion
from seemore_fast.train.processes import Processes
from seemore_fast.train.sampling import Batch
from seemore_fast.train.schedule import average_decay, learning_rate


class NotFinite(SeemoreError):
    """The loss of ``iteration`` is NaN or infinite."""

    def __init__(self, iteration: int):
        super().__init__(f"the loss of iteration {iteration} is not finite")
        self.iteration = iteration


class Trainee:
    """``model`` under ``training`` as an option file has it, on ``device``, with other ``processes``.

    A step takes its batch in ``parts`` of equal size, whose gradients add up, in the memory of one.
    ``average`` is the moving average of its weights, None without ``ema_decay``.
    Raises BackendError for a precision that the device does not have.
    """

    def __init__(
        self,
        model: SeemoRe,
        training: Training,
        device: torch.device,
        processes: Processes,
        parts: int = 1,
    ):
        self.training, self._parts = training, parts
        self.device = device
        self.model = model.to(device).train()
        decay = self.training.ema_decay
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False) if decay else None
        self._precision = autocast(device.type, self.training.precision)
        self._criterion = Criterion(self.training)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.training.precision == "fp16")
        optimizer = self.training.optim_g
        kind = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}[optimizer.type]
        # One kernel for all parameters: on the CPU, 386 small ones cost more in calls than in arithmetic.
        self._optimizer = kind(
            self.model.parameters(),
            lr=optimizer.lr,
            betas=tuple(optimizer.betas),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._captured = Captured(self._gradients) if training.cuda_graph else None
        self._network: nn.Module = self.model
        if processes.world > 1:
            on_gpu = device.type == "cuda"
            with torch.cuda.stream(self._captured.stream) if self._captured and on_gpu else nullcontext():
                self._network = nn.parallel.DistributedDataParallel(
                    self.model,
                    device_ids=[device.index] if on_gpu else None,
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                )
        self._watch = _Watch(device)

    @property
    def terms(self) -> list[str]:
        """Names of what `step` returns."""
        return self._criterion.names

    @property
    def evaluated(self) -> SeemoRe:
        """The network that counts: the moving average where there is one."""
        return self.model if self.average is None else self.average

    def step(self, iteration: int, batch: Batch) -> Tensor:
        """Trains on one batch; the loss's terms [number of terms], on the device.

        Raises NotFinite, on the CPU before the weights have changed, on a GPU within the next two steps.
        """
        rate = learning_rate(self.training, iteration)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        on_device = (patches.to(self.device, non_blocking=True) for patches in batch)
        terms = (self._captured or self._gradients)(*on_device)
        self._watch.look(iteration, terms.sum())
        if self.training.grad_clip:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.training.grad_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self.average is not None:
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.average.parameters()),
                    list(self.model.parameters()),
                    1 - average_decay(self.training, iteration),
                )
        return terms

    def _gradients(self, *batch: Tensor) -> Tensor:
        """The loss's terms, whose gradients are then the parameters'."""
        self._optimizer.zero_grad(set_to_none=True)
        terms = torch.zeros(len(self.terms), device=self.device)
        parts = [Batch(*part) for part in zip(*(x.chunk(self._parts) for x in batch), strict=True)]
        for index, part in enumerate(parts):
            with self._last_only(index == len(parts) - 1):
                terms += self._add_gradients(part, 1 / len(parts))
        return terms

    def _add_gradients(self, batch: Batch, share: float) -> Tensor:
        """The loss's terms of ``batch`` times ``share``, whose gradients are added to what there is."""
        lq, gt = (patches.float() / 255 for patches in batch)
        with self._precision:
            out = self._network(lq)
        terms = self._criterion(out, gt) * share
        self._scaler.scale(terms.sum()).backward()
        return terms.detach()

    def _last_only(self, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients with the last part only."""
        if last or not isinstance(self._network, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self._network.no_sync()

    def check(self) -> None:
        """Raises NotFinite if any loss so far was not finite."""
        self._watch.finish()

    def weights(self) -> Weights:
        """The state dicts that are saved."""
        found = {"params": self.model.state_dict()}
        if self.average is not None:
            found["params_ema"] = self.average.state_dict()
        return found

    def state(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {
            **self.weights(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where ``state`` was taken.  Raises CheckpointError where it is another network's."""
        try:
            self.model.load_state_dict(state["params"])
            if self.average is not None:
                # A run that had no average until now begins it here.
                self.average.load_state_dict(state.get("params_ema", state["params"]))
            self._optimizer.load_state_dict(state["optimizer"])
            if self._scaler.is_enabled() and state["scaler"]:
                self._scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"the state is not one of this network_g: {_reason(error)}") from None


class _Watch:
    """Notices a loss that is not finite without waiting for the GPU: there it looks one step late."""

    def __init__(self, device: torch.device):
        self._on_gpu = device.type == "cuda"
        self._waiting: tuple[int, Tensor, Any] | None = None

    def look(self, iteration: int, loss: Tensor) -> None:
        if not self._on_gpu:
            self._judge(iteration, loss)
            return
        self.finish()
        copied = torch.empty((), dtype=loss.dtype, pin_memory=True)
        copied.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._waiting = (iteration, copied, event)

    def finish(self) -> None:
        if self._waiting is not None:
            iteration, copied, event = self._waiting
            self._waiting = None
            event.synchronize()
            self._judge(iteration, copied)

    @staticmethod
    def _judge(iteration: int, loss: Tensor) -> None:
        if not math.isfinite(float(loss.detach())):
            raise NotFinite(iteration)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[-1].strip()
