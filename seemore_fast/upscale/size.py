"""The size that is wanted, in the user's words, and how often the network must run to reach it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction

from seemore_fast.errors import SeemoreError

Progress = Callable[[int, int], None]
"""progress(done, total) in tiles, pictures of a list, or parts of several passes."""

_MOST = 10**6  # pixels a side
_STEPS = 1000


@dataclass(frozen=True)
class Size:
    """How large pictures become, in pixels; one wish, the others None.  Proportions stay.

    * ``width``, ``height``: that side; both: exactly so, whatever the proportions.
    * ``longest``, ``shortest``: of the two sides.
    * ``at_least`` (width, height): the least size that covers it; what does already stays as it is.
    * ``fit`` (width, height): the largest size within it.
    * ``scale``: an enlargement; the network runs once, as if it were not given.

    Raises SeemoreError for none or several of them, and for numbers out of range.
    """

    width: int | None = None
    height: int | None = None
    longest: int | None = None
    shortest: int | None = None
    at_least: tuple[int, int] | None = None
    fit: tuple[int, int] | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if len(given) != 1 and set(given) != {"width", "height"}:
            got = " and ".join(given) or "none"
            raise SeemoreError(
                "the size must be one of width, height (or both), longest, shortest, at_least, fit and "
                f"scale, got {got}"
            )
        for name, value in given.items():
            if name == "scale":
                fine = isinstance(value, (int, float)) and 0 < value <= 1000
            else:
                sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
                fine = all(isinstance(side, int) and 1 <= side <= _MOST for side in sides)
            if not fine:
                raise SeemoreError(f"the size's {name} must be 1 to {_MOST} pixels, got {value!r:.80}")

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result of a picture of ``height`` x ``width`` pixels."""
        if self.width is not None and self.height is not None:
            return self.height, self.width
        factor = self._factor(height, width)
        # Proportions are rounded, and the side that was asked for comes out exactly.
        return max(round(height * factor), 1), max(round(width * factor), 1)

    def _factor(self, height: int, width: int) -> Fraction:
        if self.width is not None:
            return Fraction(self.width, width)
        if self.height is not None:
            return Fraction(self.height, height)
        if self.longest is not None:
            return Fraction(self.longest, max(height, width))
        if self.shortest is not None:
            return Fraction(self.shortest, min(height, width))
        if self.at_least is not None:
            wanted = max(Fraction(self.at_least[0], width), Fraction(self.at_least[1], height))
            return max(wanted, Fraction(1))
        if self.fit is not None:
            return min(Fraction(self.fit[0], width), Fraction(self.fit[1], height))
        return Fraction(self.scale or 1)

    def passes(self, height: int, width: int, network: int) -> int:
        """How often a network of scale ``network`` runs before its result is resampled down; 0: not at all,
        for the picture is large enough."""
        if self.scale is not None:
            return 1
        wanted, count = self.of(height, width), 0
        while (height < wanted[0] or width < wanted[1]) and count < (1 if network == 1 else 20):
            height, width, count = height * network, width * network, count + 1
        return count


def parse_sides(text: str | None, name: str) -> tuple[int, int] | None:
    """``1920x1080`` as numbers; None stays None.  Raises SeemoreError, which names ``name``."""
    if text is None:
        return None
    found = re.fullmatch("([0-9]{1,7})[xX]([0-9]{1,7})", text)
    if found is None:
        raise SeemoreError(f"{name} takes WIDTHxHEIGHT, such as 1920x1080, got {text!r:.80}")
    return int(found[1]), int(found[2])


def part_of(progress: Progress | None, turn: int, passes: int, network: int) -> Progress | None:
    """What tells ``progress`` of pass ``turn`` as a part of all: each has network ** 2 times the pixels of
    the one before."""
    if progress is None or passes < 2:
        return progress
    work = [network ** (2 * index) for index in range(passes)]
    before, this, total = sum(work[:turn]), work[turn], sum(work)

    def tell(done: int, of: int) -> None:
        progress(round(_STEPS * (before + this * done / of) / total), _STEPS)

    return tell
