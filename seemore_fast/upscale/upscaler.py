"""`Upscaler`: pictures as arrays through the network, by tiles where memory is short, from any thread."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor, nn

from seemore_fast.backends.devices import free_memory, pick_device
from seemore_fast.backends.precision import autocast
from seemore_fast.errors import BackendError, Cancelled, ImageError, SeemoreError
from seemore_fast.image import resampled
from seemore_fast.model import accelerate
from seemore_fast.network.reference import SeemoRe
from seemore_fast.upscale.arguments import (
    FromCallback,
    check_callable,
    check_kinds,
    check_plain,
    check_tile,
    from_pil,
    pixel_dtype,
    theirs,
)
from seemore_fast.upscale.border import BORDERS, Border
from seemore_fast.upscale.ensemble import upscale_ensemble
from seemore_fast.upscale.exact import MIN_TILE, choose_tile, memory_needed, upscale_exact
from seemore_fast.upscale.foreign import TILE, Foreign, load_any
from seemore_fast.upscale.local import check_overlap, upscale_local
from seemore_fast.upscale.planes import Layers, check_pixels
from seemore_fast.upscale.size import Progress, Size, part_of

log = logging.getLogger(__name__)

TILE_MODES = ("exact", "local")

_SHARE = 0.8  # of the free memory that automatic tiles may fill
_LOCAL_TILES = (0, 2048, 1024, 512, 256, 128, 64)

_CHUNK = 1 << 21  # output pixels that are turned into an array at a time, in floating point


class Upscaler:
    """Enlarges pictures by a network's scale.

    * ``model``: the name of bundled weights, a ``.safetensors`` or ``.pth`` file, or a network (a SeemoRe of
      this package, or what `accelerate` takes).  A file of another network is run by spandrel, on PyTorch and
      in local tiles; ``foreign`` (an attribute) then says so, and is "" otherwise.
    * ``device``: ``auto`` (the GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.  A network that is
      given as such stays where it is with ``auto``, and is moved otherwise.
    * ``dtype``: ``fp32``, ``bf16``, or on a GPU ``fp16``.
    * ``tile``: largest side of a tile in input pixels, 0 for the whole picture at once, ``auto`` for as
      much as free memory allows.  Where memory runs out all the same, tiles are halved, and the log
      (``logging``, logger ``seemore_fast``) says so.
    * ``tile_mode``: ``exact`` (the result is that of the whole picture) or ``local`` (each tile is a
      picture of its own, neighbours are cross-faded over ``overlap`` pixels (default: 32, at most a quarter
      of the tile); faster, and close to the whole picture's result, not equal).
    * ``backend``: as `load` has it.
    * ``border``: what the network sees beyond the picture's edge: ``zero`` (as it was trained), ``reflect``
      (its mirror image: no frame around flat saturated pictures), ``wrap`` (its other side: textures without
      a seam).  The last two compute 16 pixels more on each side.
    * ``ensemble``: the mean of the network's results on the picture turned and mirrored 8 ways: a little
      better, in 8 times the time.
    * ``memory_share``: the part of the free memory that automatic tiles may count on, above 0 and at most 1,
      for several processes on one machine.

    ``scale`` is the network's.  One Upscaler may serve any number of threads; results are those of one
    thread.

    Raises CheckpointError for ``model``, BackendError for ``device``, ``dtype`` or ``backend``,
    SeemoreError for tile arguments or ``memory_share`` out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module = "t-x4",
        device: str | torch.device = "auto",
        dtype: str = "fp32",
        tile: int | str = "auto",
        tile_mode: str = "exact",
        *,
        overlap: int | None = None,
        backend: str = "auto",
        memory_share: float = 1.0,
        border: str = "zero",
        ensemble: bool = False,
    ):
        check_kinds(model, device, dtype, overlap, backend, memory_share)
        if not isinstance(tile_mode, str) or tile_mode not in TILE_MODES:
            raise SeemoreError(f"tile_mode must be one of {', '.join(TILE_MODES)}, got {tile_mode!r}")
        if not isinstance(border, str) or border not in BORDERS:
            raise SeemoreError(f"border must be one of {', '.join(BORDERS)}, got {border!r:.80}")
        self._tile, self._tile_mode = check_tile(tile), tile_mode
        if not 0 < memory_share <= 1:
            raise SeemoreError(f"memory_share must be above 0 and at most 1, got {memory_share}")
        self._overlap, self._share = overlap, _SHARE * memory_share
        check_overlap(self._tile if isinstance(self._tile, int) else 0, overlap)
        network: Any  # a SeemoRe, or what has its scale and config
        self.foreign = ""
        if isinstance(model, nn.Module):
            # A network of this package, or one that a user has built around its interface.
            ours = hasattr(model, "scale") and isinstance(getattr(model, "config", None), dict)
            network = model if ours else accelerate(model, backend=backend)
            if device != "auto":
                network = network.to(pick_device(device))
        else:
            network = load_any(model, pick_device(device), backend)
            _check_finite(network, os.fspath(model))
            if isinstance(network, Foreign):
                kind = network.architecture
                self.foreign = f"a {kind} network, not SeemoRe: by spandrel, on PyTorch, in local tiles"
                self._tile_mode = tile_mode = "local"
        self._tiled = tile_mode == "local" or isinstance(network, SeemoRe)
        if not self._tiled and tile not in (0, "auto"):
            raise SeemoreError(f"{type(network).__name__} has no exact tiles; use tile_mode local")
        self.model = network
        self.scale: int = network.scale
        self._border = Border(border, self.scale)
        self.device: torch.device = next(network.parameters()).device
        self._dtype, self._ensemble = dtype, bool(ensemble)
        autocast(self.device.type, dtype)

    def identity(self) -> dict[str, str | int]:
        """What results depend on: weights (a hash), scale, precision, tiles where they matter."""
        digest = hashlib.sha256(repr(sorted(self.model.config.items())).encode())
        for name, weights in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weights.detach().cpu().float().numpy().tobytes())
        tiles = "exact" if self._tile_mode == "exact" else f"local {self._tile} {self._overlap}"
        return {
            "weights": digest.hexdigest(),
            "scale": self.scale,
            "dtype": self._dtype,
            "tiles": tiles,
            "border": self._border.kind,
            "ensemble": self._ensemble,
        }

    def up(
        self,
        image: Any,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        *,
        size: Size | None = None,
    ) -> Any:
        """The picture or pictures, ``scale`` times larger, each of the kind that it came as.

        ``image`` is a numpy array (H, W) or (H, W, C) of uint8, uint16, or float32 in [0, 1], with C = 1
        gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (straight); or a PIL image (palettes, CMYK and other
        modes come back as L, LA, RGB or RGBA); or a list of such.  Alpha goes through the network too, as a
        gray picture.

        ``size``: the size to reach.  The network runs as often as that takes, and what it makes too large is
        resampled (Lanczos); a picture that is large enough is only resampled.

        ``progress(done, total)`` is told of tiles, with a list of pictures.  ``cancelled()`` is asked before
        and after each tile.

        Raises ImageError for another kind of picture, Cancelled once ``cancelled()`` is true, MemoryError
        where even the smallest tiles need too much, BackendError where the result is not finite.
        """
        check_callable(progress=progress, cancelled=cancelled)
        if isinstance(image, (list, tuple)):
            return self._each(image, progress, cancelled, size)
        pil = sys.modules.get("PIL.Image")  # who has a PIL image has imported it
        if pil is not None and isinstance(image, pil.Image):
            larger = pil.fromarray(self.up(from_pil(image), progress, cancelled, size=size))
            larger.info = {key: image.info[key] for key in ("icc_profile", "dpi") if key in image.info}
            return larger
        if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
            found = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ImageError(f"image must be a PIL image or an array (H, W) or (H, W, C), not {found}")
        check_plain(image)
        pixels = image.reshape(*image.shape, 1) if image.ndim == 2 else image
        if size is None:
            larger = self._whole(pixels, progress, cancelled)
        else:
            larger = self.before_last(pixels, size, progress, cancelled)
            h, w = pixels.shape[:2]
            passes = size.passes(h, w, self.scale)
            if passes:
                larger = self._whole(larger, part_of(progress, passes - 1, passes, self.scale), cancelled)
            larger = resampled(larger, *size.of(h, w))
        return larger[..., 0] if image.ndim == 2 else larger

    def before_last(
        self,
        pixels: NDArray[Any],
        size: Size,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[Any]:
        """``pixels`` (H, W, C) after all passes to ``size`` but the last, which `stream` may do."""
        check_pixels(pixels, self.model.config["in_chans"])
        h, w = pixels.shape[:2]
        passes = size.passes(h, w, self.scale)
        for turn in range(passes - 1):
            pixels = self._whole(pixels, part_of(progress, turn, passes, self.scale), cancelled)
        return pixels

    def _whole(
        self, pixels: NDArray[Any], progress: Progress | None, cancelled: Callable[[], bool] | None
    ) -> NDArray[Any]:
        """`stream` into an array."""
        h, w, channels = pixels.shape
        larger = np.empty((h * self.scale, w * self.scale, channels), pixels.dtype)

        def emit(first_row: int, rows: NDArray[Any]) -> None:
            larger[first_row : first_row + len(rows)] = rows

        self._stream(pixels, emit, pixels.dtype, progress, cancelled, reserved=larger.nbytes)
        return larger

    def stream(
        self,
        pixels: NDArray[Any],
        emit: Callable[[int, NDArray[Any]], None],
        dtype: DTypeLike | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """As `up` for one array (H, W, C), but hands the result over in pieces, so that it need not be in
        memory.

        ``emit(first_row, rows)`` gets each output row once, top to bottom: ``rows`` is (n, W * scale, C) of
        ``dtype`` (uint8, uint16 or float32; default: that of ``pixels``).
        """
        check_callable(progress=progress, cancelled=cancelled)
        if not callable(emit):
            raise SeemoreError(f"emit must be callable, got {type(emit).__name__}")
        if not isinstance(pixels, np.ndarray):
            raise ImageError(f"pixels must be an array (H, W, C), not {type(pixels).__name__}")
        check_plain(pixels)
        self._stream(pixels, emit, pixel_dtype(pixels.dtype if dtype is None else dtype), progress, cancelled)

    def _stream(
        self,
        pixels: NDArray[Any],
        emit: Callable[[int, NDArray[Any]], None],
        dtype: DTypeLike,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
        reserved: int = 0,
    ) -> None:
        """``reserved``: bytes of free memory that the caller is about to fill."""
        emit, progress, cancelled = theirs(emit), theirs(progress), theirs(cancelled)
        layers = Layers(pixels, self.model.config["in_chans"], self.device)
        batch, written = self._border.extended(layers.batch), 0
        if self._ensemble and batch.dtype == torch.uint8:
            batch = batch.float() / 255  # results are added before they are rounded
        height, width = pixels.shape[:2]

        def pass_on(first_row: int, rows: Tensor) -> None:
            nonlocal written
            first_row, rows = self._border.cropped(first_row, rows, height * self.scale)
            fresh = rows[:, :, max(written - first_row, 0) :]  # after a second start some are known
            if fresh.shape[2] == 0:
                return
            for piece in fresh.split(max(_CHUNK // rows.shape[3], 1), dim=2):
                emit(written, layers.pixels(written, piece, dtype))
                written += piece.shape[2]

        free = max(int(self._share * free_memory(self.device)) - reserved, 0)
        with autocast(self.device.type, self._dtype):
            tile = self._tile if isinstance(self._tile, int) else self._choose(batch, free)
        while True:
            try:
                with torch.inference_mode(), autocast(self.device.type, self._dtype):
                    self._run(batch, tile, free, pass_on, progress, cancelled)
                return
            except FromCallback as passed:
                raise passed.error from passed.error.__cause__
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                smaller = _halved(tile, max(batch.shape[2:])) if self._tiled else None
                if smaller is None:
                    what = f"not even tiles of {tile} pixels" if tile else f"{width}x{height} pixels do not"
                    raise MemoryError(f"{what} fit into memory") from None
            # Outside the handler, whose traceback would keep the failed attempt's memory.
            if self.device.type != "cpu":
                torch.get_device_module(self.device).empty_cache()
            log.warning("out of memory at %dx%d; going on with tiles of %d pixels", width, height, smaller)
            tile = smaller

    def _choose(self, x: Tensor, free: int) -> int:
        """The tile that ``free`` bytes allow for x [N, C, H, W]; 0: the whole picture."""
        n, channels, height, width = x.shape
        if not isinstance(self.model, SeemoRe):
            return TILE if self.foreign else 0
        if self._tile_mode == "exact":
            return choose_tile(self.model, n, height, width, free, itemsize=x.element_size())
        for tile in _LOCAL_TILES:
            h, w = min(tile or height, height), min(tile or width, width)
            strip = 4 * n * channels * h * width * self.scale**2 if tile else 0  # a row of tiles, float32
            if strip + memory_needed(self.model, n, h, w, 0, itemsize=4) <= free:
                return tile
        return MIN_TILE

    def _run(
        self,
        x: Tensor,
        tile: int,
        free: int,
        emit: Callable[[int, Tensor], None],
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        """One attempt: emit(first_row, rows) gets [N, C, h, W * scale]."""
        if self._ensemble:

            def one(x: Tensor, emit: Callable[[int, Tensor], None], told: Progress) -> None:
                self._once(x, tile, free // 2, emit, told, cancelled)

            upscale_ensemble(one, x, self.scale, free, emit, progress or (lambda done, total: None))
        else:
            self._once(x, tile, free, emit, progress, cancelled)

    def _once(
        self,
        x: Tensor,
        tile: int,
        free: int,
        emit: Callable[[int, Tensor], None],
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        """`_run` of one of the ensemble's ways, or of the only one."""

        def step(done: int, total: int) -> None:
            if cancelled is not None and cancelled():
                raise Cancelled("cancelled")
            if progress is not None:
                progress(done, total)

        if tile == 0 or tile >= max(x.shape[2:]):
            step(0, 1)
            emit(0, self._network(x))
            step(1, 1)
        elif self._tile_mode == "exact":
            upscale_exact(self.model, x, tile, emit, progress, cancelled, memory=free)
        else:
            overlap = check_overlap(tile, None if self._overlap is None else min(self._overlap, tile // 4))
            upscale_local(self._network, x, self.scale, tile, overlap, emit, step)

    def _network(self, x: Tensor) -> Tensor:
        """[N, C, h, w] uint8 or float32 -> [N, C, h * scale, w * scale] floating point."""
        return self.model(x.float() / 255 if x.dtype == torch.uint8 else x)

    def _each(
        self,
        images: Any,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
        size: Size | None,
    ) -> list[Any]:
        results = []
        for image in images:
            results.append(self.up(image, cancelled=cancelled, size=size))
            if progress is not None:
                progress(len(results), len(images))
        return results


def _check_finite(network: SeemoRe | Foreign, name: str) -> None:
    """Finds weights out of which nothing but NaN can come, before they blacken pictures."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        out = network(torch.full((1, network.config["in_chans"], 16, 16), 0.5, device=device))
    if not out.isfinite().all():
        raise BackendError(f"{name}: the network's output is not finite; the weights are damaged")


def _halved(tile: int, longest: int) -> int | None:
    """The next smaller tile to try for a picture whose longer side is ``longest``; None: there is none."""
    smaller = (min(tile, longest) if tile else longest) // 2
    return smaller if smaller >= MIN_TILE else None


def _out_of_memory(error: Exception) -> bool:
    # PyTorch has a class of its own for this on CUDA only; these are the words for the CPU and Apple's GPUs.
    own = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return own or any(words in str(error) for words in ("allocate memory", "out of memory"))
