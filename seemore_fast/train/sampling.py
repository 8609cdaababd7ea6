"""Which patches make up which batch: a function of seed and iteration, so that any batch can be made anew.

A global batch is cut into one piece for each process: two processes of 8 patches see what one of 16 does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seemore_fast.options.datasets import Degradations
from seemore_fast.train.degrade import degraded
from seemore_fast.train.pictures import Pictures

_DEGRADING = 1


class Batch(NamedTuple):
    """Patches as they are stored: LR [N, 3, p, p] and HR [N, 3, p * scale, p * scale], uint8 RGB."""

    lq: Tensor
    gt: Tensor


class Sampler:
    """Patches of ``patch`` LR pixels a side out of ``gt`` and ``lq``, whose pictures belong together.

    An epoch has one patch for each patch's worth of pixels, so that large pictures come up more often, and
    those of larger ``weights`` (one each, whole numbers) as many times as often;
    ``shuffle`` draws a new order for each epoch.  Where in its picture a patch lies is drawn, and so is
    whether it is mirrored (``hflip``), mirrored vertically and transposed (each with ``rot``).  LR patches
    suffer ``degradations``.  ``world``
    processes of ``batch`` patches each share a global batch; this is number ``rank``.
    """

    def __init__(
        self,
        gt: Pictures,
        lq: Pictures,
        scale: int,
        patch: int,
        batch: int,
        seed: int,
        *,
        weights: Sequence[int] | None = None,
        shuffle: bool = True,
        hflip: bool = False,
        rot: bool = False,
        degradations: Degradations | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        self._gt, self._lq, self._scale, self._patch = gt, lq, scale, patch
        self._batch, self._rank, self._world = batch, rank, world
        self._seed = seed
        self._hflip, self._rot, self._degradations = hflip, rot, degradations
        pieces = np.maximum(1, lq.sizes.prod(axis=1) // patch**2)
        self._ends = np.cumsum(pieces * np.array(1 if weights is None else weights))
        self.epoch_length = int(self._ends[-1])
        # Kept by the instance, not by the class, which would keep the pictures.
        self._order = lru_cache(maxsize=2)(self._draw_order) if shuffle else lambda _: None

    def pictures(self, iteration: int) -> list[int]:
        """Numbers of the pictures that this process's batch of ``iteration`` (from 1) is cut from."""
        return [self._picture(n) for n in self._numbers(iteration)]

    def batch(self, iteration: int) -> Batch:
        """This process's batch of ``iteration``, which counts from 1."""
        p, s, size = self._patch, self._scale, self._batch
        lq = np.empty((size, 3, p, p), np.uint8)
        gt = np.empty((size, 3, p * s, p * s), np.uint8)
        for slot, n in enumerate(self._numbers(iteration)):
            picture = self._picture(n)
            random = self._random(2 * n)
            height, width = self._lq.sizes[picture]
            y, x = int(random.integers(height - p + 1)), int(random.integers(width - p + 1))
            mirror, flip, turn = random.random(3) < 0.5
            small = self._lq[picture][y : y + p, x : x + p]
            large = self._gt[picture][y * s : (y + p) * s, x * s : (x + p) * s]
            for out, patch in ((lq, small), (gt, large)):
                if self._hflip and mirror:
                    patch = patch[:, ::-1]
                if self._rot and flip:
                    patch = patch[::-1]
                if self._rot and turn:
                    patch = patch.swapaxes(0, 1)
                if out is lq and self._degradations is not None:
                    patch = degraded(patch, self._degradations, self._random(2 * n, _DEGRADING))
                out[slot] = patch.transpose(2, 0, 1)
        return Batch(torch.from_numpy(lq), torch.from_numpy(gt))

    def _numbers(self, iteration: int) -> range:
        """This process's places in the endless row of all patches."""
        first = ((iteration - 1) * self._world + self._rank) * self._batch
        return range(first, first + self._batch)

    def _picture(self, n: int) -> int:
        epoch, place = divmod(n, self.epoch_length)
        order = self._order(epoch)
        piece = place if order is None else order[place]
        return int(np.searchsorted(self._ends, piece, side="right"))

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        return self._random(2 * epoch + 1).permutation(self.epoch_length)

    def _random(self, stream: int, use: int = 0) -> np.random.Generator:
        """A generator of its own for each ``stream``: even numbers are patches, odd ones epochs; and for each
        ``use`` of one, so that degradations do not move the patches."""
        key = np.array([self._seed, stream], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, use]))
