"""Weights by name: those that come with the package, each with a model card (``<name>.md``), and known ones.

`bundled` has the former; ``known.yml`` lists what lies elsewhere (`catalogue`), fetched when first asked for
(`fetch`, by `download`).
"""

from __future__ import annotations

import os
from pathlib import Path

from seemore_fast.errors import CheckpointError
from seemore_fast.network.weights.bundled import CARDS, Card, names, path

__all__ = ["CARDS", "Card", "find", "names", "path"]


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
