"""The weights that come with the package, by name; each has a model card (``<name>.md``) beside it."""

from __future__ import annotations

from pathlib import Path

from seemore_fast.errors import CheckpointError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the bundled weights, sorted, such as ``t-x4`` (SeemoRe-T for x4)."""
    return sorted(file.stem for file in _FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The safetensors file of the bundled weights ``name``.

    Raises CheckpointError, listing the names there are, if it is none of them.
    """
    if name not in names():
        raise CheckpointError(f"no bundled weights are called {name!r}; there are {', '.join(names())}")
    return _FOLDER / f"{name}.safetensors"
