"""The options that name a size to reach, for pictures and videos."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from seemore_fast.upscale.size import Size

_MOST = 10**6

WidthOption = Annotated[
    int | None, typer.Option(min=1, max=_MOST, help="Final width; with --height: exactly both.")
]
HeightOption = Annotated[int | None, typer.Option(min=1, max=_MOST, help="Final height.")]
LongestOption = Annotated[int | None, typer.Option(min=1, max=_MOST, help="Final length of the longer side.")]
ShortestOption = Annotated[
    int | None, typer.Option(min=1, max=_MOST, help="Final length of the shorter side.")
]
AtLeastOption = Annotated[
    str | None, typer.Option(metavar="WxH", help="Cover at least this; larger ones stay as they are.")
]
FitOption = Annotated[str | None, typer.Option(metavar="WxH", help="As large as fits in there.")]


def wished_size(
    width: int | None,
    height: int | None,
    longest: int | None,
    shortest: int | None,
    at_least: str | None,
    fit: str | None,
    scale: float | None = None,
) -> Size | None:
    """The size that the options name; None: none does.  Raises SeemoreError for several that do."""
    from seemore_fast.upscale.size import Size, parse_sides

    given = (width, height, longest, shortest, at_least, fit, scale)
    if not any(value is not None for value in given):
        return None
    covered, box = parse_sides(at_least, "--at-least"), parse_sides(fit, "--fit")
    return Size(width, height, longest, shortest, covered, box, scale)
