"""What reaches a terminal: names of files may hold anything, escape sequences and newlines among it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import ProgressColumn, Task
from rich.segment import Segment
from rich.text import Text

# Control characters of ASCII and Latin-1, those that turn the direction of writing, and stray bytes.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` in one line, with every character that a terminal would obey spelled out."""
    return _UNSAFE.sub(lambda found: repr(found[0])[1:-1], text)


class Screen(Console):
    """rich's Console that shows each string, also in tables and bars, as `printable` has it.

    Messages that cannot be told (standard error on a full disk) are no reason to stop.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:
            if not self.stderr:
                raise

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """What comes as rich's own Text keeps its lines, and nothing else that is unsafe."""
        for segment in super().render(renderable, options):
            if segment.control or not _UNSAFE.search(segment.text):
                yield segment
            else:
                yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)


class NameColumn(ProgressColumn):
    """A progress bar's description, as `printable` has it."""

    def render(self, task: Task) -> Text:
        return Text(printable(task.description))


_closed: set[str] = set()


def reserve_streams() -> None:
    """Puts the null device where standard streams are closed.

    Files opened next would take their numbers, and libraries ask ``sys.stdout`` whether it is a terminal.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def standard_stream(name: str) -> Any:
    """``sys.stdin`` or ``sys.stdout`` for bytes.  Raises OSError where it is closed."""
    stream = getattr(sys, name)
    if stream is None or name in _closed:
        raise OSError(9, f"standard {'input' if name == 'stdin' else 'output'} is closed")
    return stream.buffer


def flush_output() -> None:
    """Sends out what was printed.  Raises OSError, once: Python would say it again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
