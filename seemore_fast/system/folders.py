"""The user's own folders, as the platform has them, and how a text hides that they are somebody's."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Literal

import platformdirs

# Of Windows too: ~\, a drive, \\ of a server.
_PATH = re.compile(r"(?<![\w.])(?:(?:~|\b[A-Za-z]:|\\)[\\/]|/)(?:[^\\/\s:'\"]+[\\/])*([^\\/\s:'\"]+)")


def of_user(kind: Literal["cache", "config", "data"]) -> Path | None:
    """This package's folder, whether it is there or not.

    None where the user has no home: a container's user number without a name, and HOME not set.
    """
    try:
        folder = Path(getattr(platformdirs, f"user_{kind}_dir")("seemore-fast", appauthor=False))
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # older versions leave ~ as it is


def without_paths(text: str | None) -> str | None:
    """``text`` with each absolute path cut to its last part, for folders carry names of people."""
    if text is None:
        return None
    with suppress(RuntimeError):  # the home folder first, for it is the one that may have a space in its name
        text = text.replace(str(Path.home()), "~")
    return _PATH.sub(r"\1", text)
