"""Where tiles lie: their borders, the crops that they are computed on, and the pieces that they are kept in.

Positions are low-resolution pixels.  Rows and columns follow the same rules, so all but `Grid` is about one
axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from seemore_fast.network import reference


@dataclass(frozen=True)
class Span:
    """A tile along one axis, and its crop: a halo more on either side, but nothing outside the picture."""

    start: int
    stop: int
    crop_start: int
    crop_stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def own(self) -> slice:
        """The tile, within the picture."""
        return slice(self.start, self.stop)

    @property
    def crop(self) -> slice:
        """The crop, within the picture."""
        return slice(self.crop_start, self.crop_stop)

    @property
    def inner(self) -> slice:
        """The tile, within its crop."""
        return slice(self.start - self.crop_start, self.stop - self.crop_start)

    def low(self, ratio: int) -> slice:
        """The tile, within a map ``ratio`` times smaller; a remainder at the picture's end is not in it."""
        return slice(self.start // ratio, self.stop // ratio)


def crop_size(span: Span) -> int:
    return span.crop_stop - span.crop_start


@dataclass(frozen=True)
class Piece:
    """Positions that are only ever read and written together."""

    start: int
    stop: int
    shared: bool  # neighbours read it, too: it lies within a halo of the tile's borders

    def __len__(self) -> int:
        return self.stop - self.start

    def within(self, origin: int) -> slice:
        return slice(self.start - origin, self.stop - origin)


class Axis:
    """``length`` pixels in nearly equal tiles of at most ``tile``, with borders at multiples of ``align``.

    ``tile`` is raised where it is so small that a crop would reach beyond the direct neighbours.
    """

    def __init__(self, length: int, tile: int, halo: int, align: int):
        units = -(-length // align)
        count = 1 if length <= tile else -(-units // max(tile // align, 2 * -(-halo // align)))
        borders = [units * i // count * align for i in range(count)] + [length]
        self.spans = [
            Span(start, stop, max(start - halo, 0), min(stop + halo, length))
            for start, stop in pairwise(borders)
        ]
        self.pieces = [piece for span in self.spans for piece in _pieces(span, halo)]

    def pieces_of(self, region: slice) -> list[tuple[int, Piece]]:
        """The pieces, with their indices, that make up a tile or a crop."""
        return [
            (i, piece)
            for i, piece in enumerate(self.pieces)
            if region.start <= piece.start and piece.stop <= region.stop
        ]


def _pieces(span: Span, halo: int) -> list[Piece]:
    first, last = span.start + halo, span.stop - halo
    cuts = sorted({span.start, span.stop, *(cut for cut in (first, last) if span.start < cut < span.stop)})
    return [Piece(a, b, not (first <= a and b <= last)) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class Tile:
    rows: Span
    columns: Span


class Grid:
    """The tiles of an image of ``height`` x ``width``, row by row.

    Crops start at multiples of ``step``, tiles also at multiples of ``ratio``, by which aggregation shrinks
    the image: both are powers of two.
    """

    def __init__(self, height: int, width: int, tile: int, halo: int, ratio: int, step: int = 4):
        self.height, self.width, self.ratio = height, width, ratio
        halo, align = -(-halo // step) * step, max(ratio, step)
        self.rows = Axis(height, tile, halo, align)
        self.columns = Axis(width, tile, halo, align)

    @property
    def count(self) -> int:
        return len(self.rows.spans) * len(self.columns.spans)

    @property
    def first(self) -> Tile:
        return Tile(self.rows.spans[0], self.columns.spans[0])

    @property
    def low_size(self) -> tuple[int, int]:
        """Height and width of the aggregated map."""
        return self.height // self.ratio, self.width // self.ratio


def grid_for(model: reference.SeemoRe, height: int, width: int, tile: int, step: int = 4) -> Grid:
    """The tiles of an image, for stages whose crops start at multiples of ``step``.

    Halo: a group reaches 2 (3x3 and 3-stripes) + 1 (gate) + k // 2 (stripes) + 1 (gate) pixels far; then the
    next one's first half or the tail 2; and the head 1.
    """
    halo = 4 + model.config["global_kernel_size"] // 2 + 2 + 1
    return Grid(height, width, tile, halo, 4 ** model.config["recursive"], step)
