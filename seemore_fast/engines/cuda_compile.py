"""Compiling the CUDA kernels of the bundled networks and of the operators into the cache; needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from seemore_fast.backends import cuda_programs, native
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.engines.cuda_engine import PRECISIONS
from seemore_fast.network import checkpoint, fold, reference, weights

_USED = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of one; ``seconds``: of the source that it came from."""

    name: str
    source: str
    options: str
    registers: int
    spilled_bytes: int
    seconds: float


def bundled() -> list[reference.SeemoRe]:
    """Networks like those whose weights come with the package."""
    files = (checkpoint.read(weights.path(name)) for name in weights.names())
    return [reference.SeemoRe(**file.resolve_config()) for file in files]


def programs(capability: int, networks: Iterable[reference.SeemoRe]) -> list[cuda_programs.Program]:
    """Of the networks in every precision, and of the operators in every dtype."""
    lib = native.require()
    found: dict[cuda_programs.Program, None] = {}
    for network in networks:
        arrays = float32_arrays(fold.fold_network(network))
        for precision in range(len(PRECISIONS)):
            found |= dict.fromkeys(map(tuple, lib.cuda_network_programs(arrays, precision, -1, capability)))
    for pixels in range(3):
        found |= dict.fromkeys(map(tuple, lib.cuda_op_programs(pixels)))
    return list(found)


def compile_all(capability: int, networks: Iterable[reference.SeemoRe]) -> Iterator[Kernel]:
    """Compiles `programs` by NVRTC, whatever the cache has, for GPUs of a capability (10 major + minor).

    Raises BackendError where there is no NVRTC, or it does not know such GPUs.
    """
    for image in cuda_programs.images(programs(capability, networks), capability, fresh=True):
        source, options, special = image.program
        for name, stores, loads, registers in _USED.findall(image.log):
            spilled = int(stores) + int(loads)
            yield Kernel(name, source, f"{options} {special}".strip(), int(registers), spilled, image.seconds)
