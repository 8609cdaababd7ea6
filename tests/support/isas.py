"""The instruction sets that the native library can use on this machine."""

from __future__ import annotations

from seemore_fast.backends import native

ISAS: list[str] = native.lib.isas() if native.lib else []
HAS_BF16 = any(isa.endswith("bf16") for isa in ISAS)
