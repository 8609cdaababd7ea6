"""Pictures in an LMDB as BasicSR makes them: a folder ``<name>.lmdb`` of encoded files, ``meta_info.txt``.

A picture is addressed as a file in that folder, ``<name>.lmdb/<key>``.  Needs the package ``lmdb``.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from seemore_fast.errors import ImageError
from seemore_fast.system.optional import need

SUFFIX = ".lmdb"

_OPENING = threading.Lock()  # a process must not open an environment twice


def is_inside(path: Path) -> bool:
    """Whether ``path`` is a picture of an LMDB rather than a file."""
    return any(parent.suffix == SUFFIX for parent in path.parents)


def base(path: Path) -> Path:
    """The LMDB that ``path`` is inside; the rest is its key, which may have folders in it."""
    return next(parent for parent in path.parents if parent.suffix == SUFFIX)


def keys(folder: Path) -> dict[str, Path]:
    """The pictures by key, as ``meta_info.txt`` has them: ``baboon.png (480,500,3) 1`` a line.

    Raises ImageError where the list is missing or empty.
    """
    listing = folder / "meta_info.txt"
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{listing}: {getattr(error, 'strerror', None) or 'is not a text file'}") from None
    names = [str(Path(line.split(" (")[0].strip()).with_suffix("")) for line in lines if line.strip()]
    if not names:
        raise ImageError(f"{listing}: lists no pictures")
    return {name: folder / name for name in names}


def encoded(path: Path) -> bytes:
    """The picture's file, as it was before it went into the LMDB.  Raises ImageError where it is missing."""
    with _OPENING:
        environment = _open(base(path))
    with environment.begin() as transaction:
        content = transaction.get(path.relative_to(base(path)).as_posix().encode())
    if content is None:
        raise ImageError(f"{path}: no such key")
    return content


@lru_cache(maxsize=16)
def _open(folder: Path) -> Any:
    with need(f"{folder}: LMDB", "train"):
        import lmdb
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise ImageError(f"{folder}: {error}") from None
