"""A network against pairs of pictures: PSNR and SSIM of each, beside bicubic and the paper's figures.

`from_options` and `from_folders` plan an evaluation and find every fault of its input; `run` carries it out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seemore_fast.data import metrics, perceptual
from seemore_fast.data.pairs import (
    Pair,
    check_sizes,
    find_pairs,
    find_unpaired,
    first_five,
    read_pair,
    read_rgb,
)
from seemore_fast.data.resize import enlarge
from seemore_fast.errors import CheckpointError, SeemoreError
from seemore_fast.image import Image, write
from seemore_fast.model import SeemoRe
from seemore_fast.network import variants
from seemore_fast.options import pretrained
from seemore_fast.options.schema import Metric, Options
from seemore_fast.upscale.upscaler import Upscaler

PAPER: dict[str, dict[str, tuple[float, float | None]]] = {
    "t-x2": {
        "set5": (38.06, 0.9608),
        "set14": (33.65, 0.9186),
        "b100": (32.23, 0.9004),
        "urban100": (32.22, 0.9286),
    },
    "t-x3": {
        "set5": (34.46, 0.9276),
        "set14": (30.44, 0.8445),
        "b100": (29.15, 0.8063),
        "urban100": (28.27, 0.8538),
    },
    "t-x4": {
        "set5": (32.31, 0.8965),
        "set14": (28.72, 0.7840),
        "b100": (27.65, 0.7384),
        "urban100": (26.23, 0.7883),
    },
    # Read off plots, within 0.01 dB.
    "b-x2": {"urban100": (32.52, None), "manga109": (39.30, None)},
    "b-x4": {"urban100": (26.52, None), "manga109": (31.12, None)},
    "l-x2": {"urban100": (32.87, None), "manga109": (39.49, None)},
    "l-x4": {"urban100": (26.79, None), "manga109": (31.48, None)},
}
"""PSNR (dB) and SSIM on luma by variant and test set, from arXiv 2402.03412."""

_SET_NAMES = {"set5", "set14", "b100", "urban100", "manga109"}
_ALIASES = {"bsd100": "b100", "bsds100": "b100"}
_FUNCTIONS = {
    "calculate_psnr": metrics.psnr,
    "calculate_ssim": metrics.ssim,
    "calculate_lpips": perceptual.lpips,
    "calculate_dists": perceptual.dists,
}
_WARM_UP = 64  # side in pixels: enough to pack the weights

Values = dict[str, float]
"""Figures by the metric's name."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured, with what.

    ``sets`` maps names to pairs; ``images`` (None: keep none) is the folder for the network's pictures, which
    are called ``<set>/<picture>_<suffix>.png`` there.
    """

    name: str
    model: SeemoRe
    sets: dict[str, list[Pair]]
    metrics: Mapping[str, Metric]
    images: Path | None
    suffix: str
    ensemble: bool = False
    """Whether the network's results are means over 8 turned and mirrored pictures."""


@dataclass(frozen=True)
class ImageScores:
    """One picture: figures of the network and of bicubic enlargement, seconds that the network took."""

    name: str
    network: Values
    bicubic: Values
    seconds: float


@dataclass(frozen=True)
class SetScores:
    """One test set; ``paper`` has the figures that are known for this variant and set."""

    name: str
    images: list[ImageScores]
    paper: Values

    @property
    def network(self) -> Values:
        """Means over the pictures."""
        return _mean([image.network for image in self.images])

    @property
    def bicubic(self) -> Values:
        """Means over the pictures."""
        return _mean([image.bicubic for image in self.images])

    @property
    def seconds(self) -> float:
        """Mean over the pictures."""
        return statistics.fmean(image.seconds for image in self.images)


def from_options(
    options: Options, results: Path, device: str, backend: str = "auto", save_images: bool = False
) -> Plan:
    """The evaluation that an option file describes: all its ``val`` and ``test`` sets.

    Without ``val: metrics`` PSNR and SSIM are taken on luma, with a border of ``scale`` pixels.  Pictures are
    kept in ``results/<name>/visualization`` if ``val: save_img`` or ``save_images`` says so.

    Raises SeemoreError for what is missing in the options, CheckpointError for weights that do not load or
    are another network's, BackendError for ``backend``, ImageError for pictures that do not pair.
    """
    sets = test_sets(options)
    if not sets:
        raise SeemoreError("datasets: there is no val or test set to evaluate")
    model = SeemoRe(**options.network_g.arguments(), backend=backend)
    if misshapen := pretrained.load(model, options.path).misshapen:
        source = options.path.pretrain_network_g
        raise CheckpointError(f"{source}: size mismatch for {first_five(misshapen)}")
    return Plan(
        options.name,
        model.to(device).eval(),
        sets,
        metrics_of(options),
        results / options.name / "visualization" if save_images or options.val.save_img else None,
        options.val.suffix or options.name,
    )


def test_sets(options: Options) -> dict[str, list[Pair]]:
    """All ``val`` and ``test`` sets by name, each picture's partner and size checked.

    Raises ImageError for pictures that do not pair, SeemoreError for what cannot be evaluated.
    """
    sets: dict[str, list[Pair]] = {}
    for test in options.datasets.tests:
        if test.dataroot_gt is None:
            pairs = find_unpaired(test.dataroot_lq)
        else:
            pairs = find_pairs(test.dataroot_gt, test.dataroot_lq, test.filename_tmpl, test.meta_info_file)
        sets[_unused(test.name, sets)] = pairs
    if sets:
        _check(sets, options.scale, options.network_g.in_chans)
    return sets


def metrics_of(options: Options) -> Mapping[str, Metric]:
    """``val: metrics``, or where there are none PSNR and SSIM as the papers take them.

    Raises as `perceptual.prepare` where one of them is not to be had.
    """
    if options.val.metrics is None:
        return _default_metrics(options.scale)
    for metric in options.val.metrics.values():
        if metric.perceptual:
            perceptual.prepare(metric.type)
    return options.val.metrics


def from_folders(
    model: SeemoRe,
    name: str,
    folders: Sequence[tuple[Path, Path]],
    results: Path,
    filename_tmpl: str = "{}",
    save_images: bool = False,
) -> Plan:
    """The evaluation of ``model``, called ``name``, on (HR folder, LR folder) pairs, as the papers do it.

    PSNR and SSIM on luma with a border of ``scale`` pixels; a set is called after the benchmark that its path
    names, or else after the folder that holds both its folders.  Raises ImageError for pictures that do not
    pair, SeemoreError for a network that is not for RGB.
    """
    sets: dict[str, list[Pair]] = {}
    for gt, lq in folders:
        sets[_unused(_set_name(gt, lq), sets)] = find_pairs(gt, lq, filename_tmpl)
    _check(sets, model.scale, model.config["in_chans"])
    images = results / name / "visualization" if save_images else None
    return Plan(name, model, sets, _default_metrics(model.scale), images, name)


def run(
    plan: Plan,
    precision: AbstractContextManager[object],
    tell: Callable[[str, Pair], None] | None = None,
    bicubic: bool = True,
) -> list[SetScores]:
    """Measures all sets; ``tell(set, pair)`` is called before each picture.  ``bicubic``: that one too.

    ``precision`` surrounds every call of the network, see `precision.autocast`.  Seconds are those from the
    uint8 picture in to the uint8 picture out, after one call on a corner that does not count.

    Raises ImageError for a picture that is damaged, too small for a metric, or cannot be written.
    """
    variant = variant_of(plan.model.config)
    upscaler = Upscaler(plan.model, tile=0, ensemble=plan.ensemble)  # in the precision around it
    scores = []
    warm = False
    for name, pairs in plan.sets.items():
        images = []
        for pair in pairs:
            if tell is not None:
                tell(name, pair)
            truth, small = (None, read_rgb(pair.lq)) if pair.gt is None else read_pair(pair, plan.model.scale)
            try:
                with precision:
                    if not warm:
                        upscaler.up(small[:_WARM_UP, :_WARM_UP])
                        warm = True
                    start = time.perf_counter()
                    large = upscaler.up(small)
                    seconds = time.perf_counter() - start
                network, baseline = _measure(plan.metrics, large, truth), {}
                if bicubic and truth is not None:
                    baseline = _measure(plan.metrics, enlarge(small, plan.model.scale), truth)
            except SeemoreError as error:
                raise type(error)(f"{pair.lq}: {error}") from None
            if plan.images is not None:
                write(plan.images / name / f"{pair.name}_{plan.suffix}.png", Image(large))
            images.append(ImageScores(pair.name, network, baseline, seconds))
        scores.append(SetScores(name, images, _paper(variant, name, plan.metrics)))
    return scores


def variant_of(config: Mapping[str, Any]) -> str | None:
    """The published variant (``t-x4``) that has this configuration; None if there is none."""
    for name in variants.names():
        if variants.config(name).items() <= config.items():
            return name
    return None


def _default_metrics(scale: int) -> dict[str, Metric]:
    return {
        "psnr": Metric(type="calculate_psnr", crop_border=scale, test_y_channel=True),
        "ssim": Metric(type="calculate_ssim", crop_border=scale, test_y_channel=True),
    }


def _check(sets: Mapping[str, list[Pair]], scale: int, in_chans: int) -> None:
    if in_chans != 3:
        raise SeemoreError(f"evaluation is on RGB pictures, but the network takes {in_chans} channels")
    check_sizes([pair for pairs in sets.values() for pair in pairs], scale)


def _set_name(gt: Path, lq: Path) -> str:
    parts = [part for part in gt.resolve().parts if _canonical(part) in _SET_NAMES]
    if parts:
        return parts[-1]
    common = [a for a, b in zip(gt.resolve().parts, lq.resolve().parts, strict=False) if a == b]
    return common[-1] if len(common) > 1 else gt.name


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """``name``, or ``name-2`` and so on: pictures of two sets must not share a folder."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _canonical(name: str) -> str:
    return _ALIASES.get(name.lower(), name.lower())


def _paper(variant: str | None, set_name: str, metrics: Mapping[str, Metric]) -> Values:
    """The published figures under the names of the metrics that they compare to."""
    psnr, ssim = PAPER.get(variant or "", {}).get(_canonical(set_name), (None, None))
    known = {"calculate_psnr": psnr, "calculate_ssim": ssim}
    found = {name: known.get(metric.type) for name, metric in metrics.items() if metric.test_y_channel}
    return {name: value for name, value in found.items() if value is not None}


def _measure(
    metrics: Mapping[str, Metric], image: NDArray[np.uint8], truth: NDArray[np.uint8] | None
) -> Values:
    """The figures of ``image``; none where there is no truth."""
    if truth is None:
        return {}
    return {
        name: _FUNCTIONS[metric.type](image, truth, metric.crop_border, metric.test_y_channel)
        for name, metric in metrics.items()
    }


def _mean(rows: Sequence[Values]) -> Values:
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
