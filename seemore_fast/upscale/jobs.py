"""Which file is upscaled into which: files, folders and patterns -> (input, output) pairs."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from seemore_fast.errors import ImageError
from seemore_fast.image import FORMATS
from seemore_fast.image.formats import HEAD, NAMES, OTHER_PICTURES, sniff
from seemore_fast.image.reading import has_alpha
from seemore_fast.system.files import identity

PIPE = Path("-")
"""Standard input or output."""


NO_FOLDERS = OTHER_PICTURES | {".mp4", ".mkv", ".mov", ".avi", ".webm", ".pdf"}
"""Suffixes that somebody means as a file's, not as part of a folder's name."""

_SUFFIXES = ", ".join(FORMATS)


class Job(NamedTuple):
    """One picture to read and the file to write, both ``-`` for standard input and output."""

    input: Path
    output: Path


class _Source(NamedTuple):
    path: Path
    below: Path
    """The same, as seen from the input folder that it was found in."""
    output: Path | None = None
    """Where a manifest wants it, as seen from the output folder."""


def plan_jobs(
    inputs: Iterable[str],
    output: Path,
    ext: str | None = None,
    suffix: str = "",
    manifest: Path | None = None,
    tell: Callable[[str], None] = lambda note: None,
) -> list[Job]:
    """Pairs every input picture with its output file, in the order given; touches nothing.

    An input is a file, a folder (its pictures and those of its subfolders, but nothing hidden and not the
    output folder), a pattern such as ``photos/*.png``, or ``-`` for standard input.  ``output`` is ``-`` or a
    file, if it is named like a picture and there is one input file; otherwise it is a folder that gets the
    input folders' tree, and outputs are named after the inputs, with ``suffix`` before the dot and ``ext``
    (default: the input's) behind it.  ``ext`` auto is the input's, too, but png for pictures with an alpha
    channel, as Real-ESRGAN has it; their headers are read.

    ``manifest`` is a text file of further inputs, one a line: a picture's path, perhaps with a tab and the
    output's path below ``output``; without, the output folder repeats the input's path.  Its pictures need
    not be there: those that are missing fail when their turn comes.

    ``tell`` gets a line for each folder or pattern in which pictures of other formats or links to nothing are
    left out, and for each folder below that cannot be read.

    Raises ImageError if there is nothing to do, an output would replace an input, two would share a name,
    ``suffix`` leads to another folder, or the manifest cannot be read.
    """
    if os.sep in suffix:
        raise ImageError(f"suffix must be part of a file name, without {os.sep!r}, got {suffix!r}")
    inputs = list(inputs)
    if not inputs and manifest is None:
        raise ImageError("no input: name files, folders or patterns, with or without -i, or a --manifest")
    listed = _read_manifest(manifest) if manifest else []
    sources = _unique([*(source for text in inputs for source in _expand(text, output, tell)), *listed])
    if output.suffix.lower() in NO_FOLDERS and not output.is_dir():
        raise ImageError(f"{output}: {output.suffix} is not written; the name must end in one of {_SUFFIXES}")
    alone = len(inputs) == 1 and not listed
    one_file = alone and (inputs[0] == str(PIPE) or _is_something_to_read(Path(inputs[0])))
    if output == PIPE or _names_a_picture(output):
        if not one_file:
            raise ImageError(f"{output}: several inputs, or a folder, need a folder as output")
        if suffix or (ext not in (None, "auto") and output != PIPE):
            raise ImageError(f"{output}: --ext and --suffix name files in a folder, but this is a file")
        jobs = [Job(sources[0].path, output)]
    elif output.exists() and not output.is_dir():
        raise ImageError(f"{output}: is neither a folder nor named like a picture ({_SUFFIXES})")
    elif any(source.path == PIPE for source in sources):
        raise ImageError(f"{output}: standard input has no name; give a file, or - for standard output")
    else:
        jobs = [
            Job(source.path, output / (source.output or _output_name(source, ext, suffix)))
            for source in sources
        ]
    _check_clashes(jobs)
    return jobs


def _is_something_to_read(path: Path) -> bool:
    """A file, or a pipe like ``<(...)``."""
    return path.exists() and not path.is_dir()


def _expand(text: str, output: Path, tell: Callable[[str], None]) -> list[_Source]:
    if not text:
        raise ImageError("an input has an empty name")
    path = Path(text)
    if path == PIPE:
        return [_Source(path, path)]
    if path.is_dir():
        found = list(_walk(path, output, tell))
        pictures = [_Source(file, file.relative_to(path)) for file in found if _is_picture(file)]
        what = "no pictures in this folder"
    elif path.exists():
        return [_Source(path, Path(path.name))]
    elif glob.has_magic(text):
        found = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
        pictures = [_Source(file, Path(file.name)) for file in found if _is_picture(file)]
        what = "no picture matches"
    else:
        raise ImageError(f"{text}: no such file or folder")
    left = _left_out(found)
    if not pictures:
        raise ImageError(f"{text}: {what}{f'; {left}' if left else ''}")
    if left:
        tell(f"{text}: {left}")
    return pictures


def _left_out(found: Iterable[Path]) -> str:
    """Which of the files that are not taken are pictures all the same, in words; "": none."""
    others = [str(path) for path in found if not _is_picture(path) and _is_other_picture(path)]
    broken = [str(path) for path in found if _is_named_like_a_picture(path) and not os.path.exists(path)]
    notes = []
    if others:
        notes.append(f"left out, as they are not named like {NAMES} files: {_some(others)}")
    if broken:
        notes.append(f"left out, as they are links to what is not there: {_some(broken)}")
    return "; ".join(notes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_other_picture(path: Path) -> bool:
    if path.name.startswith(".") or not os.path.isfile(path):
        return False
    if path.suffix.lower() in OTHER_PICTURES:
        return True
    try:
        with path.open("rb") as file:
            return sniff(file.read(HEAD)) is not None
    except OSError:
        return False


def _read_manifest(manifest: Path) -> list[_Source]:
    try:
        lines = manifest.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise ImageError(f"{manifest}: cannot be read ({error.strerror})") from None
    sources = []
    for number, line in enumerate(lines, 1):
        name, _, output = line.rstrip("\r").partition("\t")
        path = Path(name)
        below = path.relative_to(path.anchor)
        if not name:
            continue
        if (".." in below.parts or not below.name) and not output:
            raise ImageError(f"{manifest}:{number}: such a path needs a tab and the output's path behind it")
        if output and (Path(output).is_absolute() or ".." in Path(output).parts):
            raise ImageError(f"{manifest}:{number}: {output} leads out of the output folder")
        if "\0" in line:
            raise ImageError(f"{manifest}:{number}: no file can be called so (it has a null byte)")
        sources.append(_Source(path, below, Path(output) if output else None))
    if not sources:
        raise ImageError(f"{manifest}: no pictures in this manifest")
    return sources


def _walk(folder: Path, output: Path, tell: Callable[[str], None]) -> Iterator[Path]:
    """The files in ``folder`` and below, sorted, except those in ``output``, if that lies below."""
    results = output.resolve()

    def unreadable(error: OSError) -> None:
        if error.filename == str(folder):
            raise ImageError(f"{folder}: cannot be read ({error.strerror})")
        tell(f"{error.filename}: left out, it cannot be read ({error.strerror})")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() != results
        )
        yield from (here / name for name in sorted(files))


def _is_picture(path: Path) -> bool:
    return _is_named_like_a_picture(path) and os.path.isfile(path)  # Path's own raises where it may not look


def _is_named_like_a_picture(path: Path) -> bool:
    return path.suffix.lower() in FORMATS and not path.name.startswith(".")


def _unique(sources: Iterable[_Source]) -> list[_Source]:
    """Each once, however its folder is spelled; a link is a picture of its own, with a name of its own."""
    places = {(source.path.parent.resolve() / source.path.name, source.output): source for source in sources}
    return list(places.values())


def _names_a_picture(path: Path) -> bool:
    return path.suffix.lower() in FORMATS and not path.is_dir()


def _output_name(source: _Source, ext: str | None, suffix: str) -> Path:
    if ext == "auto":
        ext = "png" if has_alpha(source.path) else None
    below = source.below
    return below.with_name(f"{below.stem}{suffix}{f'.{ext}' if ext else below.suffix}")


def _check_clashes(jobs: list[Job]) -> None:
    inputs = {identity(job.input) for job in jobs if job.input != PIPE} - {None}
    writer: dict[Path, Path] = {}
    for source, output in jobs:
        if output != PIPE and identity(output) in inputs:
            raise ImageError(f"{output}: would overwrite an input; choose another folder or a --suffix")
        if output in writer:
            raise ImageError(f"{output}: both {writer[output]} and {source} would be written there")
        writer[output] = source
