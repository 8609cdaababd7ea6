"""Our network in the registries of training frameworks: BasicSR, traiNNer and others made after BasicSR's.

from basicsr.utils.registry import ARCH_REGISTRY
seemore_fast.plugins.registries.register(ARCH_REGISTRY)  # in option files, network_g: {type: SeemoRe}
"""

from __future__ import annotations

from typing import Any

from seemore_fast.model import SeemoRe


def register(registry: Any, name: str = "SeemoRe") -> None:
    """Makes ``registry.get(name)`` our class, also in place of a network of that name.

    ``registry`` is an ``ARCH_REGISTRY``: it keeps what it holds in a dict, ``_obj_map``, as BasicSR's does.

    Raises TypeError for anything else.
    """
    entries = getattr(registry, "_obj_map", None)
    if not isinstance(entries, dict):
        raise TypeError(f"registry must be one like BasicSR's ARCH_REGISTRY, got {type(registry).__name__}")
    # Not registry.register(): it refuses a name that is taken, as SeemoRe's is in the official repository.
    entries[name] = SeemoRe
