"""Validation during training: the test sets by `evaluate.run`, and the best figures so far."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypedDict

from seemore_fast import evaluate
from seemore_fast.data.pairs import Pair
from seemore_fast.model import SeemoRe
from seemore_fast.options.schema import Options
from seemore_fast.train.report import Report


class Best(TypedDict):
    """A metric's best value and the iteration that had it."""

    value: float
    iter: int


class Validation:
    """The ``val`` and ``test`` sets of an option file; ``best`` maps set and metric to the best so far.

    Raises as `evaluate.test_sets` does.
    """

    def __init__(self, options: Options, images: Path, precision: AbstractContextManager[object]):
        self.sets: dict[str, list[Pair]] = evaluate.test_sets(options)
        self.best: dict[str, dict[str, Best]] = {}
        self._metrics = evaluate.metrics_of(options)
        self._images = images if options.val.save_img else None
        self._suffix = options.val.suffix or options.name
        self._precision = precision

    def run(self, model: SeemoRe, iteration: int, report: Report) -> bool:
        """Measures ``model`` on all sets; whether the first set's first metric is better than ever.

        With ``save_img`` its pictures replace those of the last time, ``<picture>_<suffix>.png``.
        """
        if self._images is not None:
            for name in self.sets:
                (self._images / name).mkdir(parents=True, exist_ok=True)
        plan = evaluate.Plan("", model, self.sets, self._metrics, self._images, self._suffix)
        improved = []
        for scored in evaluate.run(plan, self._precision, bicubic=False):
            best = self.best.setdefault(scored.name, {})
            told = []
            for name, value in scored.network.items():
                sign = 1 if self._metrics[name].better == "higher" else -1
                improved.append(name not in best or sign * value > sign * best[name]["value"])
                if improved[-1]:
                    best[name] = {"value": value, "iter": iteration}
                told.append(f"{name} {value:.4f} (best {best[name]['value']:.4f} at {best[name]['iter']:,})")
            report.say(f"iter {iteration:,}  {scored.name}  {'  '.join(told)}")
            report.scalars(iteration, {f"{scored.name}/{k}": v for k, v in scored.network.items()})
        return bool(improved) and improved[0]
