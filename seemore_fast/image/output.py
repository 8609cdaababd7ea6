"""Where an encoded picture goes: a file that appears whole or not at all, or standard output."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from seemore_fast.system.atomic import atomic_path, temporary_file
from seemore_fast.system.terminal import standard_stream

STDOUT = Path("-")


@contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write and read; at the end it becomes ``path``, or goes out where that is `STDOUT`.

    On any error nothing is written.  Raises OSError.
    """
    if path == STDOUT:
        with temporary_file() as file:
            yield file
            file.seek(0)
            out = standard_stream("stdout")
            shutil.copyfileobj(file, out)
            out.flush()
    else:
        with atomic_path(path) as temporary, temporary.open("r+b") as file:
            yield file
