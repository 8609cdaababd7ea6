"""The weights that come with the package: their names, what their model cards say in short, their files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from seemore_fast.errors import CheckpointError

_FOLDER = Path(__file__).parent


class Card(NamedTuple):
    """What a model card says in short: PSNR on Set5 (Y, dB), and for whom the weights are."""

    set5: float
    licence: str


CARDS = {
    "t-x2": Card(37.71, "Apache-2.0"),
    "t-x3": Card(34.04, "Apache-2.0"),
    "t-x4": Card(31.82, "Apache-2.0"),
}
"""Of the bundled weights."""


def names() -> list[str]:
    """Names of the bundled weights, sorted, such as ``t-x4`` (SeemoRe-T for x4)."""
    return sorted(CARDS)


def path(name: str) -> Path:
    """The safetensors file of the bundled weights ``name``.

    Raises CheckpointError, listing the names there are, if it is none of them.
    """
    if name not in CARDS:
        raise CheckpointError(f"no bundled weights are called {name!r}; there are {', '.join(names())}")
    return _FOLDER / f"{name}.safetensors"
