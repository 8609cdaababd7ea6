"""The learning rate of each iteration, as a function of its number: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from seemore_fast.options.schema import CosineAnnealingRestartLR, MultiStepLR, Training


def learning_rate(training: Training, iteration: int) -> float:
    """The rate for ``iteration``, which counts from 1.

    ``warmup_iter`` iterations rise linearly to the base rate.  `MultiStepLR` multiplies by ``gamma`` after
    each milestone's iteration; a milestone that stands twice counts twice.  `CosineAnnealingRestartLR`
    begins period k at weight k times the base rate and ends at ``eta_min``, where it stays after the last.
    """
    base = training.optim_g.lr
    if iteration < training.warmup_iter:
        return base * iteration / training.warmup_iter
    done = iteration - 1
    if isinstance(training.scheduler, MultiStepLR):
        return base * training.scheduler.gamma ** sum(m <= done for m in training.scheduler.milestones)
    return _cosine(training.scheduler, base, done)


def _cosine(scheduler: CosineAnnealingRestartLR, base: float, done: int) -> float:
    low = scheduler.eta_min
    start = 0
    for period, weight in zip(scheduler.periods, scheduler.restart_weights, strict=True):
        if done <= start + period:
            return low + weight * 0.5 * (base - low) * (1 + math.cos(math.pi * (done - start) / period))
        start += period
    return low


def average_decay(training: Training, iteration: int) -> float:
    """Of the moving average at ``iteration``, which counts from 1: see `Training`."""
    if not training.ema_power:
        return training.ema_decay
    return min(training.ema_decay, 1 - (1 + iteration) ** -training.ema_power)
