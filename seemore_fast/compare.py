"""Networks beside each other on one picture: crops with boxes as in papers, PSNR and SSIM, time, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from torch import nn

from seemore_fast.data.metrics import SSIM_WINDOW, psnr, ssim
from seemore_fast.data.resize import enlarge, imresize
from seemore_fast.errors import SeemoreError
from seemore_fast.measure.peers.memory import peak_of
from seemore_fast.upscale import foreign

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231")
_CROP, _GAP, _LINE = 220, 12, 18  # pixels of the figure
_TALLEST = 8  # widths

REFERENCES = ("HR", "bicubic")
"""What the first two columns are called."""


class Box(NamedTuple):
    """A part of the large picture, in its pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Result:
    """One column: ``pixels`` (H, W, 3) uint8; PSNR in dB and SSIM on Y; None: not measured."""

    name: str
    pixels: NDArray[np.uint8]
    psnr: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None


def load_any(name_or_path: str, backend: str = "auto") -> tuple[nn.Module, int]:
    """A network for RGB and its scale, as `foreign.load_any` finds it; SeemoreError for other channels."""
    network = foreign.load_any(name_or_path, backend=backend)
    if (channels := network.config["in_chans"]) != 3:
        raise SeemoreError(f"{name_or_path}: takes {channels} channels; networks for RGB are compared")
    return network, network.scale


def run(
    truth: NDArray[np.uint8],
    networks: dict[str, tuple[nn.Module, int]],
    boxes: Sequence[Box] = (),
    runs: int = 3,
) -> list[Result]:
    """HR, bicubic and every network's picture, from ``truth`` (H, W, 3) reduced by MATLAB's bicubic.

    ``truth`` is cropped to a multiple of the scale.  Seconds are the median of ``runs`` calls after a first
    one, whose memory beyond what was there before is ``peak_bytes`` (where the system tells it).

    Raises SeemoreError where the networks' scales differ, for a picture that is too small to be measured, and
    for ``boxes`` that `figure` would refuse.
    """
    scales = {scale for _, scale in networks.values()}
    if len(scales) != 1:
        listed = ", ".join(f"{name} x{scale}" for name, (_, scale) in networks.items())
        raise SeemoreError(f"networks must have one scale, got {listed or 'none'}")
    (scale,) = scales
    truth = truth[: truth.shape[0] // scale * scale, : truth.shape[1] // scale * scale]
    if min(truth.shape[:2]) < (least := SSIM_WINDOW + 2 * scale):
        raise SeemoreError(
            f"the picture is {truth.shape[1]}x{truth.shape[0]} pixels, cropped to a multiple of {scale}; "
            f"it must have {least} a side for PSNR and SSIM within a border of {scale}"
        )
    _check_boxes(boxes, truth)
    small = imresize(truth, 1 / scale)
    x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255  # [1, 3, h, w]
    bicubic = enlarge(small, scale)
    results = [Result(REFERENCES[0], truth), _measured(REFERENCES[1], bicubic, truth, scale)]
    for name, (network, _) in networks.items():
        with torch.inference_mode():
            large, peak = peak_of(partial(network, x))
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                network(x)
                times.append(time.perf_counter() - start)
        pixels = (large[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        results.append(_measured(name, pixels, truth, scale, statistics.median(times), peak))
    return results


def _measured(
    name: str,
    pixels: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    scale: int,
    seconds: float | None = None,
    peak: int | None = None,
) -> Result:
    return Result(name, pixels, psnr(pixels, truth, scale), ssim(pixels, truth, scale), seconds, peak)


def busiest_box(truth: NDArray[np.uint8], side: int = 64) -> Box:
    """The square of ``side`` pixels, on a grid of half of it, with the most contrast between neighbours."""
    side = min(side, *truth.shape[:2])
    gray = truth.astype(np.float32).mean(2)
    edges = np.abs(np.diff(gray, axis=0))[:, :-1] + np.abs(np.diff(gray, axis=1))[:-1]
    step = max(1, side // 2)
    corners = [
        (y, x)
        for y in range(0, truth.shape[0] - side + 1, step)
        for x in range(0, truth.shape[1] - side + 1, step)
    ]
    y, x = max(corners, key=lambda corner: edges[corner[0] :, corner[1] :][:side, :side].sum())
    return Box(x, y, side, side)


def figure(results: list[Result], boxes: list[Box]) -> Pillow.Image:
    """The first result whole, with the boxes drawn, and beside it every result's crops, a row for each box.

    Raises SeemoreError for a box that is not inside the picture, and for one more than 8 times as tall as
    wide, whose crops, which are all of one width, would be taller than a screen.
    """
    _check_boxes(boxes, results[0].pixels)
    height, width = results[0].pixels.shape[:2]
    font = ImageFont.load_default(13)
    cell_h = [max(1, round(_CROP * box.height / box.width)) for box in boxes]
    body = sum(cell_h) + _GAP * (len(boxes) - 1)
    whole_w = max(1, round(width * body / height))
    label_h = 4 * _LINE
    canvas = Pillow.new("RGB", (whole_w + len(results) * (_CROP + _GAP) + 2 * _GAP, body + label_h), "white")
    draw = ImageDraw.Draw(canvas)

    whole = Pillow.fromarray(results[0].pixels).resize((whole_w, body), Pillow.Resampling.LANCZOS)
    canvas.paste(whole, (_GAP, _GAP // 2))
    factor = body / height
    for box, colour in zip(boxes, _colours(boxes), strict=True):
        left, top = _GAP + box.x * factor, _GAP // 2 + box.y * factor
        corner = (left + box.width * factor, top + box.height * factor)
        draw.rectangle(((left, top), corner), outline=colour, width=2)

    for column, result in enumerate(results):
        left = whole_w + 2 * _GAP + column * (_CROP + _GAP)
        top = _GAP // 2
        for box, row_h, colour in zip(boxes, cell_h, _colours(boxes), strict=True):
            part = result.pixels[box.y : box.y + box.height, box.x : box.x + box.width]
            # Pixels stay visible: the crops are there to be judged.
            crop = Pillow.fromarray(part).resize((_CROP, row_h), Pillow.Resampling.NEAREST)
            canvas.paste(crop, (left, top))
            draw.rectangle((left, top, left + _CROP - 1, top + row_h - 1), outline=colour, width=2)
            top += row_h + _GAP
        for i, line in enumerate(labels(result)):
            draw.text((left, body + _GAP // 2 + i * _LINE), line, "black", font)
    return canvas


def _check_boxes(boxes: Sequence[Box], pixels: NDArray[np.uint8]) -> None:
    height, width = pixels.shape[:2]
    for box in boxes:
        shown = ",".join(map(str, box))
        if min(box) < 0 or 0 in box[2:] or box.x + box.width > width or box.y + box.height > height:
            raise SeemoreError(
                f"box {shown} is not inside the picture, {width}x{height} (a multiple of the scale)"
            )
        if box.height > _TALLEST * box.width:
            raise SeemoreError(f"box {shown} is more than {_TALLEST} times as tall as wide")


def labels(result: Result) -> list[str]:
    """What stands below a column."""
    lines = [result.name]
    if result.psnr is not None and result.ssim is not None:
        lines.append(f"{result.psnr:.2f} dB / {result.ssim:.4f}")
    if result.seconds is not None:
        memory = "" if result.peak_bytes is None else f", {result.peak_bytes / 1e6:.0f} MB"
        lines.append(f"{1000 * result.seconds:.0f} ms{memory}")
    return lines


def _colours(boxes: list[Box]) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(len(boxes))]
