"""Sequences of pictures, ``in/%05d.png``, in the place of a video: read by FFmpeg, written by `image`."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from seemore_fast import image
from seemore_fast.errors import VideoError
from seemore_fast.video.source import url

_NUMBER = re.compile("%(0?[0-9]*)d")


def is_sequence(path: Path) -> bool:
    """Whether the name stands for numbered pictures; a file that is really called so is none."""
    return len(_NUMBER.findall(path.name)) == 1 and not path.exists()


def numbers(path: Path) -> list[int]:
    """The pictures that there are.  Raises VideoError for none, and where one is missing between others."""
    before, digits, after = _NUMBER.split(path.name)
    name = re.compile(re.escape(before) + f"([0-9]{{{max(int(digits or 0), 1)},}})" + re.escape(after))
    try:
        found = sorted(int(m[1]) for m in map(name.fullmatch, (f.name for f in path.parent.iterdir())) if m)
    except OSError as error:
        raise VideoError(f"{path.parent}: {error.strerror}") from None
    if not found:
        raise VideoError(f"{path}: there is no such picture")
    if missing := sorted(set(range(found[0], found[-1])) - set(found)):
        raise VideoError(f"{path}: number {missing[0]} is missing, between {found[0]} and {found[-1]}")
    return found


def open_sequence(path: Path, rate: Fraction) -> Any:
    """A PyAV container of the pictures, ``rate`` a second.  Raises VideoError, as `numbers` does."""
    options = {"framerate": str(rate), "start_number": str(numbers(path)[0])}
    try:
        return av.open(url(path), format="image2", options=options)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read ({error.strerror})") from None


class Stills:
    """Writes frames as numbered pictures, from ``first`` on."""

    def __init__(self, path: Path, height: int, width: int, first: int):
        """Raises VideoError where the folder cannot be made, ImageError for a name or size that is wrong."""
        image.check_writable(path, height, width, False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VideoError(f"{path.parent}: cannot write here ({error.strerror})") from None
        self._path, self._next = path, first

    def write(self, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
        """``pixels`` is (H, W, 3) RGB."""
        image.write(self._path.with_name(self._path.name % self._next), image.Image(pixels))
        self._next += 1
