"""Which file a path leads to, whatever links and spellings there are."""

from __future__ import annotations

import os
from pathlib import Path


def identity(path: Path) -> tuple[int, int] | None:
    """What links and the spelling of a path cannot change; None: there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # the second: a null byte
        return None
    return status.st_dev, status.st_ino
