"""Writing a file so that it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SeemoreError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path``; what is written there takes ``path``'s place on success.

    On any error, an interrupt included, the temporary file is removed and ``path`` is as it was.
    Raises OSError where the folder does not take the file.
    """
    # In the same folder, for a rename is atomic only within one file system.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8.  Raises SeemoreError, naming the file, where it cannot be written."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SeemoreError(f"{path}: cannot be written ({error.strerror})") from None
