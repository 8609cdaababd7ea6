"""Writing a file so that it appears whole or not at all, also when the process is killed half-way."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from seemore_fast.errors import SeemoreError
from seemore_fast.system.locks import OPEN_FILES_STAY, lock, unlink_if_free

_PART = re.compile(r"\.[0-9a-f]{16}\.part")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives an empty temporary file beside ``path``; with what is written to it, it takes ``path``'s place.

    On any error, an interrupt included, the temporary file is removed and ``path`` is as it was.  What a
    killed process has left behind, `remove_stale` finds.  If ``path`` is a link, its target is replaced; a
    pipe or device stays what it is, and gets everything at the end.

    Raises OSError where the folder does not take the file.
    """
    # In the same folder, for a rename is atomic only within one file system.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        with tempfile.NamedTemporaryFile() as whole:
            yield Path(whole.name)
            with open(whole.name, "rb") as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        return
    while True:
        temporary = target.parent / f".{secrets.token_hex(8)}.part"
        try:  # from before there is a file: an interrupt may come at any time
            with ExitStack() as held:
                if not _create_locked(temporary, held):
                    continue
                yield temporary
                # Opened again: some libraries put a file of their own in the place of this one.
                with temporary.open("r+b") as written:
                    os.fsync(written.fileno())
                if OPEN_FILES_STAY:
                    held.close()
                os.replace(temporary, target)
                return
        finally:
            with suppress(OSError):  # it has taken its place, or what went wrong before is what matters
                temporary.unlink()


def remove_stale(folder: Path) -> int:
    """Removes the temporary files in ``folder`` whose writers are gone; how many there were.

    Those of living processes are recognised by their locks, which end with the process.
    """
    removed = 0
    for path in folder.iterdir():
        if not _PART.fullmatch(path.name):
            continue
        try:
            unlink_if_free(path)
            removed += 1
        except OSError:  # its writer lives, or has just finished
            continue
    return removed


def temporary_file() -> IO[bytes]:
    """A file without a name, gone when it is closed.  Raises OSError."""
    return tempfile.TemporaryFile()


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8.  Raises SeemoreError, naming the file, where it cannot be written."""
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SeemoreError(f"{path}: cannot be written ({error.strerror})") from None


def _create_locked(temporary: Path, held: ExitStack) -> bool:
    """Whether the new file is ours and locked, until ``held`` ends."""
    # Not tempfile, whose files are private to the user (mode 0600), as the result would then be.
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    held.callback(os.close, descriptor)
    try:
        lock(descriptor)
        return os.path.samestat(os.fstat(descriptor), os.stat(temporary))
    except (BlockingIOError, FileNotFoundError):
        return False  # another process has just cleaned up here: between the two calls it looked stale
    except OSError:
        return True  # a file system without locks: nobody can clean up there either
