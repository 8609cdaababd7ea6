"""The options that name a size to reach, for pictures and videos: `size.WISHES` as typer has them."""

from __future__ import annotations

from typing import Annotated

import typer

from seemore_fast.upscale.size import LARGEST_SCALE, MOST, WISHES, Size, wished

_HELP = {wish.name: wish.help for wish in WISHES}

WidthOption = Annotated[int | None, typer.Option(min=1, max=MOST, help=_HELP["width"])]
HeightOption = Annotated[int | None, typer.Option(min=1, max=MOST, help=_HELP["height"])]
LongestOption = Annotated[int | None, typer.Option(min=1, max=MOST, help=_HELP["longest"])]
ShortestOption = Annotated[int | None, typer.Option(min=1, max=MOST, help=_HELP["shortest"])]
AtLeastOption = Annotated[str | None, typer.Option(metavar="WxH", help=_HELP["at_least"])]
FitOption = Annotated[str | None, typer.Option(metavar="WxH", help=_HELP["fit"])]
OutscaleOption = Annotated[
    float | None,
    typer.Option(
        "--outscale",
        "-s",
        min=0.01,
        max=LARGEST_SCALE,
        help=_HELP["scale"],
        show_default="the model's",
    ),
]


def wished_size(**options: float | str | None) -> Size | None:
    """The size that the options name, by the names of `WISHES`; None: none does.

    Raises SeemoreError for several that do.
    """
    return wished(options, lambda name: "--outscale" if name == "scale" else "--" + name.replace("_", "-"))
