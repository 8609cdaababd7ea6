"""The published SeemoRe variants by name: ``t-x4``, ``b-x2``, ``l-x3`` ... -> constructor arguments.

Source: arXiv 2402.03412, table 1 and section 4; the table with parameter counts is in docs/architecture.md.
"""

from __future__ import annotations

from typing import Any

from seemore_fast.errors import SeemoreError

SCALES = (2, 3, 4)

_COMMON: dict[str, Any] = {
    "in_chans": 3,
    "num_experts": 3,
    "img_range": 1.0,
    "global_kernel_size": 11,
    "lr_space": "exp",
    "topk": 1,
}
_SIZES: dict[str, dict[str, Any]] = {
    "t": {"num_layers": 6, "embedding_dim": 36, "use_shuffle": True, "recursive": 2},
    "b": {"num_layers": 8, "embedding_dim": 48, "use_shuffle": True, "recursive": 2},
    "l": {"num_layers": 16, "embedding_dim": 48, "use_shuffle": False, "recursive": 1},
}


def names() -> list[str]:
    """Every variant's name, smallest network first."""
    return [f"{size}-x{scale}" for size in _SIZES for scale in SCALES]


def config(name: str) -> dict[str, Any]:
    """Constructor arguments of the variant ``name``: ``t``, ``b`` or ``l``, then ``-x2``, ``-x3`` or ``-x4``.

    Without a scale it is x4.  Raises SeemoreError for any other name.
    """
    full = name.lower() if "-" in name else f"{name.lower()}-x4"
    if full not in names():
        raise SeemoreError(f"unknown variant {name!r}; there are {', '.join(names())}")
    size, scale = full.split("-x")
    return {"scale": int(scale), **_COMMON, **_SIZES[size]}
