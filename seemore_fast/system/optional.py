"""Packages that only some jobs need: each belongs to an extra of pyproject.toml, which its absence names."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from seemore_fast.errors import PackageError


@contextmanager
def need(job: str, extra: str) -> Iterator[None]:
    """``with need("video", "video"): import av``: a failing import is one line that says what to install.

    Raises PackageError; ``job`` is what cannot be done, ``extra`` what brings the package along.
    """
    try:
        yield
    except ImportError as error:
        raise PackageError(f"{job} needs pip install 'seemore-fast[{extra}]' ({error})") from None


def absent(extra: str, *packages: str) -> str | None:
    """Which of ``packages`` are not installed, and how to get them; None if all are.  Imports none."""
    names = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(names)} (pip install 'seemore-fast[{extra}]')" if names else None
