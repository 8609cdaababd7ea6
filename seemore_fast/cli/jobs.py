"""Which file is upscaled into which: files, folders and patterns -> (input, output) pairs."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import ImageError
from ..image import FORMATS


class Job(NamedTuple):
    """One picture to read and the file to write."""

    input: Path
    output: Path


def plan_jobs(inputs: Iterable[str], output: Path, ext: str | None = None, suffix: str = "") -> list[Job]:
    """Pairs every input picture with its output file, in the order given; touches nothing.

    An input is a file, a folder (its pictures, not its subfolders) or a pattern such as ``photos/*.png``.
    ``output`` is a file if it is named like a picture and there is one input file; otherwise it is a folder,
    and outputs are named after the inputs, with ``suffix`` before the dot and ``ext`` (default: the input's)
    behind it.

    Raises ImageError if there is nothing to do, an output would replace an input, two would share a name, or
    ``suffix`` leads to another folder.
    """
    if os.sep in suffix:
        raise ImageError(f"suffix must be part of a file name, without {os.sep!r}, got {suffix!r}")
    inputs = list(inputs)
    if not inputs:
        raise ImageError("no input: name files, folders or patterns, with or without -i")
    sources = _unique(source for text in inputs for source in _expand(text))
    one_file = len(inputs) == 1 and Path(inputs[0]).is_file()
    if _names_a_picture(output):
        if not one_file:
            raise ImageError(f"{output}: several inputs, or a folder, need a folder as output")
        if ext or suffix:
            raise ImageError(f"{output}: --ext and --suffix name files in a folder, but this is a file")
        jobs = [Job(sources[0], output)]
    elif output.exists() and not output.is_dir():
        raise ImageError(f"{output}: is neither a folder nor named like a picture ({', '.join(FORMATS)})")
    else:
        jobs = [Job(source, output / _output_name(source, ext, suffix)) for source in sources]
    _check_clashes(jobs)
    return jobs


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        found, what = sorted(path.iterdir()), "no PNG, JPEG or WebP files in this folder"
    elif path.exists():
        return [path]
    elif glob.has_magic(text):
        found = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        what = "no PNG, JPEG or WebP file matches"
    else:
        raise ImageError(f"{text}: no such file or folder")
    pictures = [
        p for p in found if p.suffix.lower() in FORMATS and p.is_file() and not p.name.startswith(".")
    ]
    if not pictures:
        raise ImageError(f"{text}: {what}")
    return pictures


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())


def _names_a_picture(path: Path) -> bool:
    return path.suffix.lower() in FORMATS and not path.is_dir()


def _output_name(source: Path, ext: str | None, suffix: str) -> str:
    return f"{source.stem}{suffix}{f'.{ext}' if ext else source.suffix}"


def _identity(path: Path) -> tuple[int, int]:
    """What links and the spelling of a path cannot change."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _check_clashes(jobs: list[Job]) -> None:
    inputs = {_identity(job.input) for job in jobs}
    writer: dict[Path, Path] = {}
    for source, output in jobs:
        if output.exists() and _identity(output) in inputs:
            raise ImageError(f"{output}: would overwrite an input; choose another folder or a --suffix")
        if output in writer:
            raise ImageError(f"{output}: both {writer[output]} and {source} would be written there")
        writer[output] = source
