"""``seemore-fast compare``: a figure and a table of networks on one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from seemore_fast.cli.options import ThreadsOption, check_outputs, whole_number
from seemore_fast.errors import SeemoreError
from seemore_fast.system.terminal import Screen

if TYPE_CHECKING:
    from seemore_fast.compare import Box


def command(
    picture: Annotated[Path, typer.Argument(help="The high-resolution picture; it is reduced by bicubic.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The figure: PNG, JPEG or WebP.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="[NAME=]WEIGHTS: bundled, or a file of any network that spandrel knows; repeatable.",
            show_default="t-x4",
        ),
    ] = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            "--box", help="X,Y,WIDTH,HEIGHT in the picture; repeatable.", show_default="its busiest part"
        ),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Put networks beside each other: crops with boxes, PSNR and SSIM on Y, time and memory of one call.

    Exit status:
    0    the figure is written
    2    wrong arguments, picture or weights; nothing is written
    130  interrupted; nothing is written
    """
    import torch

    from seemore_fast import compare
    from seemore_fast.data.pairs import read_rgb
    from seemore_fast.image import Image, check_writable, write

    named = _named(model or ["t-x4"])
    wanted = [_box(text) for text in boxes or []]
    check_writable(output, 1, 1, False)
    check_outputs(output, inputs=[picture, *named.values()])
    truth = read_rgb(picture)
    if threads is not None:
        torch.set_num_threads(threads)
    networks = {name: compare.load_any(weights) for name, weights in named.items()}
    results = compare.run(truth, networks, wanted)
    import numpy as np

    drawn = compare.figure(results, wanted or [compare.busiest_box(results[0].pixels)])
    write(output, Image(np.asarray(drawn)))

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("", "PSNR", "SSIM", "ms", "MB"):
        table.add_column(column, justify="right" if column else "left")
    for result in results[1:]:
        seconds, peak = result.seconds, result.peak_bytes
        table.add_row(
            Text(result.name),
            f"{result.psnr:.2f}",
            f"{result.ssim:.4f}",
            "" if seconds is None else f"{1000 * seconds:.0f}",
            "" if peak is None else f"{peak / 1e6:.0f}",
        )
    Screen(highlight=False).print(table)


def _named(models: list[str]) -> dict[str, str]:
    """Weights by the names that their columns get."""
    from seemore_fast import compare

    named: dict[str, str] = {}
    for text in models:
        name, separator, weights = text.partition("=")
        if not separator:
            name, weights = Path(text).stem, text
        if not name or not weights:
            raise SeemoreError(f"--model must be WEIGHTS or NAME=WEIGHTS, got {text[:80]!r}")
        if name in compare.REFERENCES:
            raise SeemoreError(f"{name} is a column already: name the network, as --model NAME={weights}")
        if name in named:
            raise SeemoreError(f"two networks are called {name}: name one, as --model NAME={weights}")
        named[name] = weights
    return named


def _box(text: str) -> Box:
    from seemore_fast.compare import Box

    try:
        return Box(*(whole_number(part, "--box") for part in text.split(",")))
    except (TypeError, SeemoreError):
        raise SeemoreError(f"--box must be X,Y,WIDTH,HEIGHT in pixels, got {text[:40]!r}") from None
