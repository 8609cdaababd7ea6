"""Keeps the residual stream of whole images between sweeps, in memory or in a temporary file.

A tile's middle is read by that tile alone, so a sweep overwrites it in place.  Its rim, a halo wide, is read
by its neighbours as well, in whatever order tiles come: the rim is kept twice, and sweeps take turns.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import accumulate
from types import TracebackType

import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError
from seemore_fast.system import positional
from seemore_fast.upscale.exact.grid import Grid, Tile

_LARGEST = 32767  # whole number of 16 bits


class Layout:
    """Where the pieces of one image lie, in elements from its start: piece rows after piece rows."""

    def __init__(self, grid: Grid, channels: int):
        self.grid = grid
        self._copies = {
            # In a row of pieces that is shared as a whole, all are; else those in shared columns.
            shared: [2 if shared or piece.shared else 1 for piece in grid.columns.pieces]
            for shared in (False, True)
        }
        self._columns = {
            shared: _starts([n * len(p) for n, p in zip(copies, grid.columns.pieces, strict=True)])
            for shared, copies in self._copies.items()
        }
        self._channels = channels
        self._rows = _starts([len(p) * channels * self._columns[p.shared][-1] for p in grid.rows.pieces])
        self.size = self._rows[-1]

    def offset(self, i: int, j: int, sweep: int) -> int:
        """Of piece (i, j) as written by ``sweep``."""
        row, column = self.grid.rows.pieces[i], self.grid.columns.pieces[j]
        before = self._columns[row.shared][j]
        if self._copies[row.shared][j] == 2:
            before += sweep % 2 * len(column)
        return self._rows[i] + len(row) * self._channels * before


def _starts(lengths: list[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


class Store:
    """The streams of ``images`` images, [rows, ``channels``, columns] each: crops are read, tiles written.

    ``folder`` None keeps them in memory of ``device``; else in an unlinked file there, by plain reads and
    writes, so that resident memory stays small.  ``dtype`` int16 (for a file): whole numbers, with a scale in
    memory for each row and channel of a piece.  Raises SeemoreError where the folder has no room.
    """

    def __init__(
        self,
        grid: Grid,
        images: int,
        channels: int,
        dtype: torch.dtype,
        device: torch.device,
        folder: str | os.PathLike[str] | None,
    ):
        self._layout = Layout(grid, channels)
        count = images * self._layout.size
        self._place = _Memory(count, dtype, device) if folder is None else _File(count, dtype, folder)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._place.close()

    def read(self, sweep: int, image: int, tile: Tile, crop: Tensor) -> None:
        """Fills ``crop`` [rows, C, columns] with what ``sweep`` has written there."""
        for at, piece in self._pieces(sweep, image, tile.rows.crop, tile.columns.crop, crop):
            self._place.read(at, piece)

    def write(self, sweep: int, image: int, tile: Tile, crop: Tensor) -> None:
        """Keeps the tile's own part of ``crop`` [rows, C, columns]."""
        inner = crop[tile.rows.inner, :, tile.columns.inner]
        for at, piece in self._pieces(sweep, image, tile.rows.own, tile.columns.own, inner):
            self._place.write(at, piece)

    def _pieces(
        self, sweep: int, image: int, rows: slice, columns: slice, values: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """Offset and view of each piece of a region that ``values`` [rows, C, columns] holds."""
        grid = self._layout.grid
        pieces = grid.columns.pieces_of(columns)
        for i, row in grid.rows.pieces_of(rows):
            for j, column in pieces:
                at = image * self._layout.size + self._layout.offset(i, j, sweep)
                yield at, values[row.within(rows.start), :, column.within(columns.start)]


class _Memory:
    def __init__(self, count: int, dtype: torch.dtype, device: torch.device):
        self._values = torch.empty(count, dtype=dtype, device=device)

    def read(self, at: int, values: Tensor) -> None:
        values.copy_(self._values[at : at + values.numel()].view(values.shape))

    def write(self, at: int, values: Tensor) -> None:
        self._values[at : at + values.numel()].view(values.shape).copy_(values)

    def close(self) -> None:
        del self._values


class _File:
    def __init__(self, count: int, dtype: torch.dtype, folder: str | os.PathLike[str]):
        self._dtype, self._folder = dtype, folder
        self._scales: dict[int, Tensor] = {}  # [rows, C, 1] of the piece at such an offset, if int16
        size = count * dtype.itemsize
        try:
            free = shutil.disk_usage(folder).free
            if free < size:
                raise SeemoreError(
                    f"{folder}: {free / 1e9:.1f} GB free, but the tiles of this image need "
                    f"{size / 1e9:.1f} GB: choose another folder, or allow more memory"
                )
            with ExitStack() as undo:
                file = undo.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
                positional.reserve(file.fileno(), size)  # so that the disk cannot fill up on the way
                self._open = undo.pop_all()
            self._file = positional.File(file.fileno())
        except OSError as error:
            raise SeemoreError(
                f"{folder}: no temporary file of {size / 1e9:.1f} GB for tiles: {error.strerror}"
            ) from error

    def read(self, at: int, values: Tensor) -> None:
        buffer = torch.empty(values.shape, dtype=self._dtype)
        self._transfer(self._file.read, at, buffer)
        values.copy_(buffer)
        if self._dtype == torch.int16:
            values.mul_(self._scales[at])

    def write(self, at: int, values: Tensor) -> None:
        if self._dtype == torch.int16:
            scale = values.abs().amax(2, keepdim=True) / _LARGEST
            self._scales[at] = scale.clamp_(min=torch.finfo(scale.dtype).tiny)
            values = values.div(scale).round_()
        self._transfer(self._file.write, at, values.to("cpu", self._dtype).contiguous())

    def _transfer(self, call: Callable[..., int], at: int, values: Tensor) -> None:
        rest = memoryview(values.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
        at *= self._dtype.itemsize
        try:
            while rest:
                done = call(rest, at)
                if done == 0:
                    raise OSError(0, "the file ended early")
                rest, at = rest[done:], at + done
        except OSError as error:
            raise SeemoreError(f"{self._folder}: temporary file of tiles: {error.strerror}") from error

    def close(self) -> None:
        self._open.close()
