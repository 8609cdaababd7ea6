"""Training pictures, decoded once: image files -> one memory-mapped file of 8-bit pixels for each folder.

The cache file's name holds a digest of the sources' names, sizes and times: a change of any makes it anew.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seemore_fast.data import lmdb_pictures
from seemore_fast.data.pairs import first_five, read_rgb
from seemore_fast.data.resize import imresize
from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.system import machine
from seemore_fast.system.ahead import map_ahead
from seemore_fast.system.atomic import atomic_path, remove_stale

Tell = Callable[[str, int, int], None]
"""tell(what, done, total)"""

_FORMAT = 1  # part of the digest: a change of how pixels are made or stored asks for new files


class Pictures:
    """``pictures[i]`` is the i-th picture, (H, W, 3) uint8 RGB, read-only, mapped from ``file``.

    The file is the pictures' pixels one after another, then their heights and widths and their number as
    int64.
    """

    def __init__(self, file: Path):
        self._bytes = np.memmap(file, np.uint8, "r")
        (count,) = self._bytes[-8:].view(np.int64)
        self.sizes: NDArray[np.int64] = np.array(
            self._bytes[-8 - 16 * count : -8].view(np.int64).reshape(-1, 2)
        )
        """[count, 2]: height and width of each."""
        self._ends = np.cumsum(self.sizes.prod(axis=1) * 3)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        height, width = self.sizes[index]
        end = self._ends[index]
        return self._bytes[end - 3 * height * width : end].reshape(height, width, 3)


def decoded(files: Sequence[Path], cache: Path, tell: Tell) -> Pictures:
    """The pictures of image files; ``cache`` is the folder of the mapped file.

    Raises ImageError, naming up to five files, where some cannot be read, and SeemoreError where the cache
    cannot be written.
    """
    return _stored("decoded", files, lambda i: read_rgb(files[i]), cache, tell)


def reduced(large: Pictures, files: Sequence[Path], scale: int, cache: Path, tell: Tell) -> Pictures:
    """``large``, which came from ``files``, made smaller by MATLAB's bicubic as the published LR files are.

    Sides that are no multiple of ``scale`` are cropped at the right and bottom first.  Raises as `decoded`.
    """

    def make(i: int) -> NDArray[np.uint8]:
        height, width = large.sizes[i] // scale * scale
        if not (height and width):
            raise ImageError(f"{files[i]}: smaller than {scale}x{scale} pixels")
        return imresize(large[i][:height, :width], 1 / scale, edges="repeat")

    return _stored(f"bicubic-x{scale}", files, make, cache, tell)


def _stored(
    kind: str, files: Sequence[Path], make: Callable[[int], NDArray[np.uint8]], cache: Path, tell: Tell
) -> Pictures:
    folder = files[0].parent.resolve()
    place = f"{folder.name}-{kind}-{_digest([str(folder)])[:8]}-"
    path = cache / f"{place}{_digest([_FORMAT, *map(_stamp, files)])[:16]}.pixels"
    if not path.exists():
        _write(path, kind, files, make, tell)
        for old in cache.glob(f"{glob.escape(place)}*.pixels"):
            if old != path:
                old.unlink(missing_ok=True)
    return Pictures(path)


def _write(
    path: Path, kind: str, files: Sequence[Path], make: Callable[[int], NDArray[np.uint8]], tell: Tell
) -> None:
    faults: list[str] = []

    def attempt(i: int) -> NDArray[np.uint8] | None:
        try:
            return make(i)
        except ImageError as error:
            faults.append(str(error))
            return None

    threads = machine.cores()
    sizes = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        with atomic_path(path) as temporary, temporary.open("wb") as out:
            for pixels in map_ahead(attempt, range(len(files)), threads, 2 * threads):
                if pixels is not None:
                    out.write(pixels.data)
                    sizes.append(pixels.shape[:2])
                tell(f"{files[0].parent.name} {kind}", len(sizes) + len(faults), len(files))
            if faults:
                raise ImageError(first_five(sorted(faults)))
            out.write(bytes(-out.tell() % 8))
            out.write(np.array(sizes, np.int64).tobytes())
            out.write(np.int64(len(sizes)).tobytes())
    except OSError as error:
        raise SeemoreError(f"{path}: cannot be written ({error.strerror}); see cache_dir") from None


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        status = (lmdb_pictures.base(file) / "data.mdb" if lmdb_pictures.is_inside(file) else file).stat()
    except OSError as error:
        raise ImageError(f"{file}: {error.strerror}") from None
    return file.name, status.st_size, status.st_mtime_ns


def _digest(data: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()
