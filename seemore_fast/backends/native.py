"""The native library ``seemore_fast._C``, or the reason why it is not there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from seemore_fast.errors import BackendError

lib: ModuleType | None
"""The extension module; None where it was not built or does not load."""

error: ImportError | None
"""Why ``lib`` is None."""

_NOTE = Path(__file__).parents[1] / "native_missing.txt"
"""Left by setup.py where the library could not be built: why."""

try:
    from seemore_fast import _C as lib  # type: ignore[no-redef]
except ImportError as reason:
    lib, error = None, ImportError(_NOTE.read_text(encoding="utf-8").strip()) if _NOTE.is_file() else reason
else:
    error = None


NO_BF16 = "this CPU (or SEEMORE_ISA) has no BF16 (AVX512-BF16, or ARM's)"


def has_bf16() -> bool:
    """Whether the instruction set in use multiplies bfloat16; raises BackendError with none in use."""
    return str(require().isa()).endswith("bf16")


def require() -> ModuleType:
    """``lib``; raises BackendError with the load error where there is none."""
    if lib is None:
        raise BackendError(f"the native library seemore_fast._C does not load: {error}") from error
    return lib
