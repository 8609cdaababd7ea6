"""Locks on open files, which end with the process that holds them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


OPEN_FILES_STAY = os.name == "nt"
"""Whether an open file can be neither removed nor replaced, as on Windows."""


def lock(descriptor: int) -> None:
    """Locks an open file for this process.  Raises BlockingIOError where another one holds it.

    Where `OPEN_FILES_STAY` nothing is done, and nothing needed.
    """
    if sys.platform != "win32" and fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def unlink_if_free(path: Path) -> None:
    """Removes a file that no living process has locked.  Raises OSError where one has."""
    if OPEN_FILES_STAY:
        return path.unlink()  # refused while it is open
    descriptor = os.open(path, os.O_RDWR)
    try:
        lock(descriptor)
        path.unlink()
    finally:
        os.close(descriptor)
