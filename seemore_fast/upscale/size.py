"""The size that is wanted, in the user's words, and how often the network must run to reach it.

`WISHES` describes the ways to ask for one; command, page, service and ComfyUI's node are made from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from seemore_fast.errors import SeemoreError

Progress = Callable[[int, int], None]
"""progress(done, total) in tiles, pictures of a list, or parts of several passes."""

MOST = 10**6
"""Pixels a side."""
LARGEST_SCALE = 1000.0

_STEPS = 1000


class Wish(NamedTuple):
    """A way to ask for a size: a field of `Size`, the kind of its value, and what it means."""

    name: str
    kind: Literal["pixels", "sides", "factor"]
    help: str


WISHES = (
    Wish("width", "pixels", "Final width; with height: exactly both."),
    Wish("height", "pixels", "Final height."),
    Wish("longest", "pixels", "Final length of the longer side."),
    Wish("shortest", "pixels", "Final length of the shorter side."),
    Wish("at_least", "sides", "Cover at least this; larger ones stay as they are."),
    Wish("fit", "sides", "As large as fits in there."),
    Wish("scale", "factor", "Final enlargement."),
)
EXACTLY = "exactly"
"""Where one word is chosen from a list: width and height, both."""
CHOICES = (*(wish.name for wish in WISHES), EXACTLY)
"""What `chosen` takes."""


@dataclass(frozen=True)
class Size:
    """How large pictures become, in pixels; one wish, the others None.  Proportions stay.

    * ``width``, ``height``: that side; both: exactly so, whatever the proportions.
    * ``longest``, ``shortest``: of the two sides.
    * ``at_least`` (width, height): the least size that covers it; what does already stays as it is.
    * ``fit`` (width, height): the largest size within it.
    * ``scale``: an enlargement; the network runs at least once.

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
        _check_one(given, str)
        for name, value in given.items():
            if name == "scale":
                fine = isinstance(value, (int, float)) and 0 < value <= LARGEST_SCALE
            else:
                sides = value if isinstance(value, tuple) and len(value) == 2 else (value,)
                fine = all(isinstance(side, int) and 1 <= side <= MOST for side in sides)
            if not fine:
                raise SeemoreError(f"the size's {name} must be 1 to {MOST} pixels, got {value!r:.80}")

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

    def enough(self, height: int, width: int) -> bool:
        """Whether a picture of ``height`` x ``width`` pixels has the size already."""
        wanted = self.of(height, width)
        return self.scale is None and height >= wanted[0] and width >= wanted[1]

    def passes(self, height: int, width: int, network: int) -> int:
        """How often a network of scale ``network`` runs before its result is resampled down; 0: not at all,
        for the picture is large enough.  One of scale 1, which mends pictures, always runs once."""
        if network == 1:
            return 1
        wanted, count = self.of(height, width), 0
        while (height < wanted[0] or width < wanted[1]) and count < 20:
            height, width, count = height * network, width * network, count + 1
        return max(count, 1) if self.scale is not None else count


def _check_one(given: Collection[str], named: Callable[[str], str]) -> None:
    if len(given) != 1 and set(given) != {"width", "height"}:
        raise SeemoreError(
            "the size must be one of width, height (or both), longest, shortest, at_least, fit and scale, "
            f"got {' and '.join(map(named, given)) or 'none'}"
        )


def network_for(scale: float) -> str:
    """Which of the bundled networks loses least at an enlargement by ``scale``: measured on Set5
    (docs/guide.md), t-x2 up to 2, t-x3 up to 3, and t-x4, as often as it takes, beyond it."""
    return "t-x2" if scale <= 2 else "t-x3" if scale <= 3 else "t-x4"


def wished(
    values: Mapping[str, float | str | None], named: Callable[[str], str] = lambda name: name
) -> Size | None:
    """The size that ``values`` name, by `WISHES`; those that are None are not wished.  None: none is.

    Numbers may be given as text.  Raises SeemoreError, which calls a value as ``named`` does.
    """
    kinds = {wish.name: wish.kind for wish in WISHES}
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return None
    _check_one(given, named)
    read = {
        name: _parsed(value, kinds[name], named(name)) if isinstance(value, str) else value
        for name, value in given.items()
    }
    return Size(**read)  # type: ignore[arg-type]  # Size looks at the kinds itself


def chosen(choice: str, text: str) -> Size:
    """The size of a word out of `CHOICES` and what is wished of it: ``longest``, ``1920``.

    Raises SeemoreError.
    """
    if choice not in CHOICES:
        raise SeemoreError(f"the size must be one of {', '.join(CHOICES)}, got {choice!r:.80}")
    if choice == EXACTLY:
        width, height = _sides(text, EXACTLY)
        return Size(width, height)
    size = wished({choice: text})
    assert size is not None
    return size


def _parsed(text: str, kind: str, name: str) -> int | float | tuple[int, int]:
    if kind == "sides":
        return _sides(text, name)
    if kind == "pixels" and re.fullmatch("[0-9]{1,7}", text.strip()):
        return int(text)
    if kind == "factor" and re.fullmatch(r"[0-9]{1,4}([.][0-9]{1,9})?", text.strip()):
        return float(text)
    wanted = "a number of pixels, such as 1920" if kind == "pixels" else "a number, such as 2.5"
    raise SeemoreError(f"{name} takes {wanted}, got {text!r:.80}")


def _sides(text: str, name: str) -> tuple[int, int]:
    """``1920x1080`` as numbers."""
    found = re.fullmatch("([0-9]{1,7})[xX×]([0-9]{1,7})", text.strip())
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
