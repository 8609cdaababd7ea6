"""Cards, floors and modelled times, from counted work. Nothing here was measured."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EFFICIENCY = 0.65
"""Of the issue rate, the LSU's and the tensor cores' that a good kernel reaches."""

DRAM_EFFICIENCY = 0.85
"""Of its rate, and of the L2 cache's."""

GRANULE = 8  # registers of a thread are given out in
RESERVED = 1024  # bytes of shared memory that the system takes per block


@dataclass(frozen=True)
class Card:
    """By NVIDIA's data sheets and whitepapers; clock: boost, as far as it holds under load."""

    architecture: int
    multiprocessors: int
    ghz: float
    terabytes: float  # of DRAM per second
    l2_mb: int
    l2_bytes: int  # that the L2 cache carries per multiprocessor and cycle: assumed
    mma: float  # m16n8k16 with float32 sums that a multiprocessor multiplies per cycle, as mma.sync gets them
    half_sums: int  # how many times as many with sums of float16
    shared_kib: int  # of a multiprocessor; a block may ask for 1 less
    warps: int  # that a multiprocessor holds
    blocks: int


CARDS = {
    "H100": Card(90, 132, 1.90, 3.35, 50, 24, 0.62, 1, 228, 64, 32),
    "H200": Card(90, 132, 1.90, 4.80, 50, 24, 0.62, 1, 228, 64, 32),
    "RTX4090": Card(89, 128, 2.52, 1.01, 72, 16, 0.125, 2, 100, 48, 24),
    "RTX5090": Card(120, 170, 2.41, 1.79, 96, 16, 0.125, 2, 100, 48, 24),
    "A100": Card(80, 108, 1.41, 2.04, 40, 24, 0.5, 1, 164, 64, 32),
}


@dataclass(frozen=True)
class Work:
    """What one launch does in all, and how it is cut into blocks."""

    instructions: float  # of warps
    wavefronts: float  # of the LSU: shared memory's, and lines of global memory
    mma: float  # in units of m16n8k16 of 16-bit elements
    half_sums: float  # of these with sums of float16
    l2_bytes: float  # streams, as often as blocks ask for them
    dram_bytes: float  # of streams, what the L2 cache does not hold
    blocks: int
    threads: int  # of a block
    registers: int
    shared: int


def resident(work: Work, card: Card) -> int:
    """Blocks that a multiprocessor holds at once."""
    registers = math.ceil(work.registers / GRANULE) * GRANULE * work.threads
    shared = (card.shared_kib << 10) // (work.shared + RESERVED)
    return min(65536 // registers, shared, card.warps * 32 // work.threads, card.blocks)


@dataclass(frozen=True)
class Plane:
    """What a launch reads or writes from one end to the other."""

    name: str
    bytes: float
    written: bool = False


class Cache:
    """An L2 cache that holds the planes used last, of the one used longest ago what is left room for."""

    def __init__(self, size: float):
        self._free = size
        self._held: OrderedDict[str, tuple[float, bool]] = OrderedDict()  # bytes, whether DRAM lacks them

    def use(self, planes: Sequence[Plane]) -> float:
        """Bytes that DRAM carries for a launch: reads of what is not held, and writes of what has to go."""
        carried = 0.0
        for plane in planes:
            held, dirty = self._held.pop(plane.name, (0.0, False))
            self._free += held
            if not plane.written:
                carried += plane.bytes - held
            carried += self._make_room(plane.bytes)
            kept = min(plane.bytes, self._free)
            self._held[plane.name] = kept, plane.written or dirty
            self._free -= kept
            if plane.written:
                carried += plane.bytes - kept
        return carried

    def _make_room(self, size: float) -> float:
        written = 0.0
        while self._free < size and self._held:
            name, (held, dirty) = self._held.popitem(last=False)
            gone = min(held, size - self._free)
            self._free += gone
            written += gone if dirty else 0.0
            if gone < held:
                self._held[name] = held - gone, dirty
                self._held.move_to_end(name, last=False)
        return written


def dram_bytes(launches: Sequence[Sequence[Plane]], card: Card) -> list[float]:
    """Of each launch, one after another. What the cache holds of the last results is not counted."""
    cache = Cache(card.l2_mb * 1e6)
    return [cache.use(planes) for planes in launches]


@dataclass(frozen=True)
class Floors:
    """Milliseconds that the work takes at least, by what could limit it."""

    issue: float
    lsu: float
    tensor: float
    dram: float
    l2: float
    imbalance: float = 1.0  # the busiest multiprocessor's blocks to the average's

    @property
    def modelled(self) -> float:
        """At EFFICIENCY, limited by one of them."""
        chip = max(self.issue, self.lsu, self.tensor) / EFFICIENCY * self.imbalance
        return max(chip, max(self.dram, self.l2) / DRAM_EFFICIENCY)


def floors(work: Work, card: Card) -> Floors:
    cycles = card.multiprocessors * card.ghz * 1e6  # of all multiprocessors, in a millisecond
    each = work.blocks / card.multiprocessors
    return Floors(
        issue=work.instructions / (4 * cycles),
        lsu=work.wavefronts / cycles,
        tensor=(work.mma - work.half_sums * (1 - 1 / card.half_sums)) / (card.mma * cycles),
        dram=work.dram_bytes / (card.terabytes * 1e9),
        l2=work.l2_bytes / (card.l2_bytes * cycles),
        imbalance=math.ceil(each) / each,
    )


def total(parts: Iterable[tuple[int, Floors]]) -> tuple[Floors, float]:
    """Sums over launches, each so many times; and their modelled time."""
    parts = list(parts)

    def summed(name: str) -> float:
        return sum(times * float(getattr(f, name)) for times, f in parts)

    sums = Floors(*(summed(name) for name in ("issue", "lsu", "tensor", "dram", "l2")))
    return sums, sum(times * f.modelled for times, f in parts)


PLANES = {"eager": 153, "compile": 70}
"""Reads and writes of C channels per group: counted in PyTorch's kernels; fused as Inductor does."""

EAGER_LAUNCHES, LAUNCH_MS = 88, 0.004
"""Kernels per group, and the host time of each, which small pictures wait for."""


def pytorch(how: str, pixels: int, channels: int, groups: int, card: Card, element: int) -> float:
    """Modelled ms of PyTorch, ``how`` of PLANES: limited by memory, or by the launches."""
    plane = channels * element * pixels
    carried, cached = PLANES[how] * plane * groups, min(card.l2_mb * 1e6 / (3 * plane), 1)  # two in, one out
    cycles = card.multiprocessors * card.ghz * 1e6
    dram, l2 = carried * (1 - cached) / (card.terabytes * 1e9), carried / (card.l2_bytes * cycles)
    memory = max(dram, l2) / DRAM_EFFICIENCY
    return max(memory, EAGER_LAUNCHES * groups * LAUNCH_MS) if how == "eager" else memory
