"""NVRTC, NVIDIA's compiler as a library: found where PyTorch's CUDA builds or the system have it, if at all.

It needs neither a toolkit nor a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seemore_fast.errors import BackendError

_LEAST_VERSION = (12, 0)
"""The first that compiles C++20."""


@dataclass(frozen=True)
class Compiled:
    """What came of a source: an image that the driver loads, and ptxas' words on its kernels."""

    image: bytes
    log: str


class Nvrtc:
    """The library, loaded.  Raises BackendError where one at ``path`` does not serve."""

    def __init__(self, path: str):
        try:
            _load_builtins(Path(path))
            self._lib = ctypes.CDLL(path)
            major, minor = ctypes.c_int(), ctypes.c_int()
            self._check(self._lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
            self._lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            self.version = (major.value, minor.value)
            count = ctypes.c_int()
            self._check(self._lib.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
            known = (ctypes.c_int * count.value)()
            self._check(self._lib.nvrtcGetSupportedArchs(known))
        except (OSError, AttributeError) as reason:
            raise BackendError(f"{Path(path).name} does not serve: {reason}") from reason
        if self.version < _LEAST_VERSION:
            raise BackendError(f"{Path(path).name} is of CUDA {self}, the kernels need 12.0 or newer")
        self.capabilities = tuple(known)

    def __str__(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"

    def target(self, capability: int) -> str:
        """The architecture to compile for: the GPU's own, or PTX of the last known, for the driver to finish.

        Raises BackendError for a GPU older than all that this NVRTC knows.
        """
        if capability in self.capabilities:
            return f"sm_{capability}"
        older = [known for known in self.capabilities if known < capability]
        if not older:
            raise BackendError(f"NVRTC {self} does not know GPUs of compute capability {capability / 10}")
        return f"compute_{max(older)}"

    def compile(self, name: str, source: str, options: Sequence[str]) -> Compiled:
        """Raises BackendError with the compiler's words where it takes offence."""
        program = ctypes.c_void_p()
        encoded = [option.encode() for option in options]
        self._check(
            self._lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        )
        try:
            array = (ctypes.c_char_p * len(encoded))(*encoded)
            result = self._lib.nvrtcCompileProgram(program, len(encoded), array)
            log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if result:
                raise BackendError(
                    f"NVRTC {self} does not compile {name}: {log.strip() or self._text(result)}"
                )
            what = "PTX" if any("arch=compute" in option for option in options) else "CUBIN"
            return Compiled(self._read(program, what), log)
        finally:
            self._lib.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._lib, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, result: int) -> None:
        if result:
            raise BackendError(f"NVRTC: {self._text(result)}")

    def _text(self, result: int) -> str:
        return (self._lib.nvrtcGetErrorString(result) or b"").decode()


@functools.cache
def find() -> Nvrtc | BackendError:
    """The first that serves, or why none does."""
    reason = BackendError(
        "NVRTC is not there: PyTorch's builds for CUDA bring it, and so does pip install nvidia-cuda-nvrtc"
    )
    for path in _candidates():
        try:
            return Nvrtc(path)
        except BackendError as refused:
            if Path(path).is_file():  # else it was but a name to try
                reason = refused
    return reason


def _load_builtins(library: Path) -> None:
    """What NVRTC opens by name when it compiles, and finds if loaded: 13.0's does not look beside itself."""
    if library.is_file():
        for pattern in ("libnvrtc-builtins*.so*", "nvrtc-builtins*.dll"):
            for path in sorted(library.parent.glob(pattern)):
                if "alt" not in path.name:
                    ctypes.CDLL(str(path))


def _candidates() -> Iterator[str]:
    windows = sys.platform == "win32"
    pattern = "nvrtc64_*.dll" if windows else "libnvrtc.so*"
    for folder in _folders():
        with contextlib.suppress(OSError):
            found = [path for path in folder.glob(pattern) if "alt" not in path.name]
            yield from map(str, sorted(found, key=_numbers, reverse=True))
    if not windows:
        yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _folders() -> Iterator[Path]:
    """PyTorch's come first: what works with its CUDA works with the driver."""
    for package in ("nvidia", "torch"):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if package == "torch":
                yield Path(place) / "lib"
            else:
                for inner in ("*/lib", "*/bin", "*/bin/x86_64"):
                    yield from sorted(Path(place).glob(inner), reverse=True)
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home:
            yield from (Path(home) / "lib64", Path(home) / "bin", Path(home) / "bin/x64")
