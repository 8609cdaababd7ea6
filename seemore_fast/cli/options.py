"""What several subcommands share: options, where messages go, checks of outputs, the progress bar."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich import progress
from rich.console import Console

from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.system.files import identity
from seemore_fast.system.terminal import NameColumn, Screen


class Dtype(str, Enum):
    """Values of ``--dtype``."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class BorderKind(str, Enum):
    """Values of ``--border``."""

    zero = "zero"
    reflect = "reflect"
    wrap = "wrap"


BorderOption = Annotated[
    BorderKind,
    typer.Option(
        help="Beyond the edge: zeros, the mirror image (flat colours), the other side (seamless textures)."
    ),
]
EnsembleOption = Annotated[
    bool,
    typer.Option(
        "--ensemble", help="Mean over the picture turned and mirrored 8 ways: better, 8 times the time."
    ),
]
DtypeOption = Annotated[Dtype, typer.Option(help="Arithmetic; fp16 on a GPU only.")]
DeviceOption = Annotated[
    str, typer.Option(metavar="auto|cpu|cuda|cuda:N|mps|xpu", help="auto: cuda if there is one, else cpu.")
]
BackendOption = Annotated[str, typer.Option(help="auto, or one that `seemore-fast info` lists.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads.", show_default="as PyTorch: all cores")
]


def whole_number(text: str, option: str, most: int = 10**6) -> int:
    """The number from 0 to ``most`` that ``text`` is, where an option also takes words.

    Raises SeemoreError for another, however many digits it has.
    """
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) > most:
        shown = text if len(text) <= 20 else f"{text[:20]}..."
        raise SeemoreError(f"{option} must be a whole number up to {most}, got {shown!r}")
    return int(text)


def messages() -> Console:
    """Where everything but results is told: stderr, a line as it is, whatever names of files look like."""
    return Screen(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def check_outputs(*files: Path | None, inputs: Iterable[str | Path | None] = ()) -> None:
    """Finds out now, not after a long computation, what keeps ``files`` from being written.

    Raises SeemoreError for one that is a folder, whose folder is not there or takes no files, or that would
    replace another or one of ``inputs``, which may be names of weights, too.  None stands for no file.
    """
    read = {identity(Path(name)) for name in inputs if name is not None} - {None}
    written: set[object] = set()
    for file in files:
        if file is None or (file.exists() and not file.is_file() and not file.is_dir()):  # a pipe, /dev/null
            continue
        target = file.resolve()  # what a link leads to is written
        if target.is_dir():
            raise SeemoreError(f"{file}: is a folder; name a file")
        if not file.parent.is_dir():
            raise SeemoreError(f"{file}: there is no folder {file.parent}")
        known = identity(target)
        if known in read:
            raise SeemoreError(f"{file}: would overwrite an input; choose another name")
        if written & {target, known}:
            raise SeemoreError(f"{file}: two files would be written there; choose another name for one")
        _check_takes_files(target.parent)
        written |= {target, known} - {None}


def prepare_folder(folder: Path) -> None:
    """Makes the output folder; raises ImageError where that cannot be or it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{folder}: cannot write here ({error.strerror})") from None
    _check_takes_files(folder)


def _check_takes_files(folder: Path) -> None:
    probe = folder / f".{secrets.token_hex(8)}.part"  # tempfile would try for ever on an older Windows Python
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ImageError(f"{folder}: cannot write here ({error.strerror})") from None


def progress_bar(console: Console, *more: progress.ProgressColumn) -> progress.Progress:
    """A bar that counts pictures, with the time left; invisible where ``console`` is no terminal."""
    columns = [
        NameColumn(),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        *more,
        progress.TimeElapsedColumn(),
        progress.TextColumn("ETA"),
        progress.TimeRemainingColumn(),
    ]
    return progress.Progress(*columns, console=console, disable=not console.is_terminal)
