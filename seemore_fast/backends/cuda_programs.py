"""The CUDA kernels' images, compiled by nvcc ahead of time or by NVRTC for the GPU at hand, and loading them.

A program (csrc/seemore_cuda.h) is a source with options.  The library says which ones a network or operator
needs; they are loaded once for each device and process.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import threading
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from seemore_fast.backends import kernel_cache, nvrtc
from seemore_fast.errors import BackendError

log = logging.getLogger(__name__)

Program = tuple[str, str, str]
"""Source, options, options that fit it to one network."""

_OPTIONS = ("-std=c++20", "-ftz=true", "-prec-div=false", "-default-device", "--ptxas-options=-v")

_PACKAGE = Path(__file__).resolve().parents[1]

_LOADING = threading.Lock()


@dataclass(frozen=True)
class Image:
    """A program for GPUs of one capability.  ``log``: ptxas' words, if it was compiled just now."""

    program: Program
    content: bytes
    log: str = ""
    seconds: float = 0


def load(lib: ModuleType, device: int, programs: Sequence[Program]) -> None:
    """Makes the programs' kernels known on the device, if they are not.

    Raises BackendError where there is no image for this GPU and nothing to compile one.
    """
    if all(lib.cuda_is_loaded(device, program) for program in programs):
        return
    with _LOADING:  # others wait for the compiler's results rather than compile the same
        needed = [program for program in programs if not lib.cuda_is_loaded(device, program)]
        for image in images(needed, lib.cuda_capability(device)):
            lib.cuda_load(device, image.program, image.content)


def images(programs: Sequence[Program], capability: int, fresh: bool = False) -> list[Image]:
    """One of each program for GPUs of that compute capability (10 major + minor).

    ``fresh``: compiled by NVRTC now, whatever there is; else from the library's archive, the cache, or NVRTC.

    Raises BackendError where there is none and nothing to compile one.
    """
    compiler = _compiler(capability)
    if not fresh and (archive := _archive_for(capability, compiler)) is not None:
        return [Image(program, archive.read(" ".join(program[:2]))) for program in programs]
    if isinstance(compiler, BackendError):
        raise compiler
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        made = list(threads.map(lambda program: _image(compiler, program, capability, fresh), programs))
    if compiled := sum(image.seconds > 0 for image in made):
        log.info(
            "compiled %d kernel sources for sm_%d: %.1f s", compiled, capability, time.perf_counter() - start
        )
    return made


@functools.cache
def obstacle(capability: int) -> str | None:
    """Why there can be no kernels for such a GPU; None if there can."""
    compiler = _compiler(capability)
    there = _archive_for(capability, compiler) is not None or isinstance(compiler, nvrtc.Nvrtc)
    return None if there else str(compiler)


def compiled_ahead() -> list[str]:
    """The GPUs that the build compiled for, as sm_90."""
    archive = _archive()
    return [] if archive is None else [f"sm_{capability}" for capability in archive.cubins]


def _compiler(capability: int) -> nvrtc.Nvrtc | BackendError:
    """NVRTC, if it can compile for such a GPU, else why not."""
    try:
        if isinstance(found := nvrtc.find(), BackendError):
            raise found
        found.target(capability)
    except BackendError as reason:
        return BackendError(f"there are no kernels for compute capability {capability / 10}, and {reason}")
    return found


def _image(compiler: nvrtc.Nvrtc, program: Program, capability: int, fresh: bool) -> Image:
    options = _options(program, compiler.target(capability))
    key = kernel_cache.key_of(_fingerprint(), program[0], str(compiler), *options)
    kept = None if fresh else kernel_cache.read(key)
    if kept is not None:
        return Image(program, kept)
    start = time.perf_counter()
    compiled = _compile(compiler, program[0], options)
    kernel_cache.write(key, compiled.image)
    return Image(program, compiled.image, compiled.log, time.perf_counter() - start)


def ptx(program: Program, capability: int, compiler: nvrtc.Nvrtc) -> bytes:
    """As NVRTC compiles a program for that and all later GPUs."""
    return _compile(compiler, program[0], _options(program, f"compute_{capability}")).image


def _options(program: Program, target: str) -> list[str]:
    return [*_OPTIONS, f"-arch={target}", *" ".join(program[1:]).split()]


def _compile(compiler: nvrtc.Nvrtc, source: str, options: list[str]) -> nvrtc.Compiled:
    text = (_sources() / f"cuda/{source}.cu").read_text(encoding="utf-8")
    return compiler.compile(f"{source}.cu", text, [*options, f"-I{_sources()}"])


@functools.cache
def _sources() -> Path:
    """The folder that has cuda/: in the package, or in the repository."""
    inside = _PACKAGE / "csrc"
    return inside if inside.is_dir() else _PACKAGE.parent / "csrc"


@functools.cache
def _fingerprint() -> str:
    """Of all sources that a program may be made of."""
    digest = hashlib.sha256()
    for path in sorted((_sources() / "cuda").rglob("*")):
        if path.suffix in (".cu", ".cuh", ".h"):
            digest.update(path.relative_to(_sources()).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class _Archive:
    """What nvcc compiled when the library was built: a fatbin of each program, with cubins of some GPUs.

    Its comment names their capabilities, and with a + that of which it has PTX.
    """

    def __init__(self, path: Path):
        self._zip = zipfile.ZipFile(path)
        self._lock = threading.Lock()
        names = self._zip.comment.decode().split()
        self.cubins = [int(name) for name in names if not name.startswith("+")]
        self._ptx = [int(name) for name in names if name.startswith("+")]

    def has_cubins(self, capability: int) -> bool:
        """They run on GPUs of the same major capability and the same minor or a higher one."""
        return any(c // 10 == capability // 10 and c <= capability for c in self.cubins)

    def has_ptx(self, capability: int) -> bool:
        """It runs on all later GPUs, once the driver has compiled it."""
        return any(c <= capability for c in self._ptx)

    def read(self, name: str) -> bytes:
        with self._lock:
            return self._zip.read(name)


@functools.cache
def _archive() -> _Archive | None:
    path = _PACKAGE / "cuda_kernels.zip"
    return _Archive(path) if path.is_file() else None


def _archive_for(capability: int, compiler: nvrtc.Nvrtc | BackendError) -> _Archive | None:
    """PTX only where NVRTC cannot do better."""
    archive = _archive()
    if archive is None or archive.has_cubins(capability):
        return archive
    return archive if isinstance(compiler, BackendError) and archive.has_ptx(capability) else None
