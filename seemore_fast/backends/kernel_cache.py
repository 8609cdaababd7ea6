"""Compiled kernels on disk: ``kernels`` in the user's cache folder of seemore-fast, as the platform has it.

Entries are never changed: they appear whole, under a key of all that they depend on.  Where the folder cannot
be written, nothing is kept; what was damaged does not count as there.  The least recently used go once there
are more than `MOST_BYTES`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from pathlib import Path

from seemore_fast.system import folders
from seemore_fast.system.atomic import atomic_path, remove_stale

log = logging.getLogger(__name__)

MOST_BYTES = 256 << 20

_DIGEST_BYTES = 32


def folder() -> Path:
    """Raises OSError for users without a home."""
    cache = folders.of_user("cache")
    if cache is None:
        raise FileNotFoundError("there is no home folder")
    return cache / "kernels"


def key_of(*parts: str) -> str:
    """A name for what depends on these and nothing else."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(key: str) -> bytes | None:
    try:
        path = _path(key)
        content = path.read_bytes()
    except OSError:
        return None
    digest, image = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(image).digest() != digest:
        log.debug("%s is damaged", path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # used just now
    return image


def write(key: str, image: bytes) -> None:
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            part.write_bytes(hashlib.sha256(image).digest() + image)
        remove_stale(path.parent)
        _make_room(path.parent)
    except OSError as reason:
        log.info("compiled kernels are not kept: %s", reason)


def _path(key: str) -> Path:
    return folder() / f"{key}.kernel"


def _make_room(place: Path) -> None:
    """Other processes may do the same at the same time."""
    found = []
    for path in place.glob("*.kernel"):
        with contextlib.suppress(OSError):
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MOST_BYTES:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
