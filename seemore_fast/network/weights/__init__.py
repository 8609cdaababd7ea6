"""Weights by name: those that come with the package, each with a model card (``<name>.md``), and known ones.

``known.yml`` lists what lies elsewhere (`catalogue`) and is fetched when first asked for (`fetch`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from seemore_fast.errors import CheckpointError

_FOLDER = Path(__file__).parent


class Card(NamedTuple):
    """What a model card says in short: PSNR on Set5 (Y, dB), and for whom the weights are."""

    set5: float
    licence: str


CARDS = {
    "t-x2": Card(37.68, "Apache-2.0"),
    "t-x3": Card(33.92, "Apache-2.0"),
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


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of weights: bundled, known (``official/t-x4``: fetched once), or a path as it is.

    Raises CheckpointError for what is neither a name nor a file, or cannot be fetched.
    """
    if isinstance(name_or_path, str):
        if name_or_path in CARDS:
            return path(name_or_path)
        from seemore_fast.network.weights import catalogue, fetch  # with what downloads need

        entries = catalogue.known()
        if name_or_path in entries:
            return fetch.fetch(entries[name_or_path])
    given = Path(name_or_path)
    if not given.suffix and not given.exists():
        raise CheckpointError(
            f"{name_or_path}: neither a file nor bundled weights ({', '.join(names())}) nor known ones "
            "(seemore-fast weights lists them)"
        )
    return given
