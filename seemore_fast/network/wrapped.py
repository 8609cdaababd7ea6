"""Finds a SeemoRe's weights in what trainers wrap around them: one reader for every door.

Frameworks keep state dicts under names of their own (``params_ema``, ``model``, ``generator``), beside
optimisers and other networks, and wrappers put prefixes before the parameters' names (``module.``,
``_orig_mod.``, ``netG.``), in any combination and order.  All of them are
told by what they hold: a SeemoRe has `MARKS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

MARKS = ("conv_1.weight", "upsampler.0.weight")
"""Parameters by which a SeemoRe is known."""

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_ORDER = ("params_ema", "params", "state_dict")
_DEPTH = 6


def find(data: Mapping[Any, Any], key: str | None = None) -> Mapping[Any, Any]:
    """The state dict of the SeemoRe in ``data``, by the parameters' own names.

    ``key`` names the entry to look in, where there is one.  Of several networks a moving average comes first,
    then ``params`` and ``state_dict``, then the rest in their order.  Where there is no SeemoRe, the entry
    that would be looked at first comes back as it is, for whoever says what is wrong with it.
    """
    if key is not None and isinstance(data.get(key), Mapping):
        data = data[key]
    found = min(_networks(data, ()), key=lambda found: _rank(found[0]), default=None)
    if found is not None:
        return found[1]
    for name in _ORDER:
        if isinstance(data.get(name), Mapping):
            return data[name]
    return data


def _networks(
    data: Mapping[Any, Any], trail: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every SeemoRe in ``data`` and below, with the names on the way to it."""
    names = _without_wrappers(data)
    prefixes = [
        name.removesuffix(MARKS[0])
        for name, key in names.items()
        if (name == MARKS[0] or name.endswith("." + MARKS[0])) and isinstance(data[key], Tensor)
    ]
    for prefix in prefixes:
        if prefix + MARKS[1] in names:
            # Where there is a prefix, what lies outside belongs to someone else: a discriminator, a counter.
            inside = {
                name.removeprefix(prefix): data[key] for name, key in names.items() if name.startswith(prefix)
            }
            if not prefix:
                inside |= {key: value for key, value in data.items() if not isinstance(key, str)}
            if "n_averaged" in inside and not prefix:
                del inside["n_averaged"]  # torch.optim.swa_utils.AveragedModel's counter
            yield (*trail, *prefix.split(".")), inside
    if len(trail) < _DEPTH:
        for key, value in data.items():
            if isinstance(value, Mapping):
                yield from _networks(value, (*trail, str(key)))


def _without_wrappers(data: Mapping[Any, Any]) -> dict[str, str]:
    """Names without the wrappers' parts -> keys of ``data``; as they are, where two would become one."""
    keys = [key for key in data if isinstance(key, str)]
    names = {".".join(part for part in key.split(".") if part not in _WRAPPERS): key for key in keys}
    return names if len(names) == len(keys) else {key: key for key in keys}


def _rank(trail: tuple[str, ...]) -> tuple[bool, int]:
    """Smaller is better."""
    averaged = any("ema" in part.lower().replace("-", "_").split("_") or "averag" in part for part in trail)
    known = [_ORDER.index(part) for part in trail if part in _ORDER]
    return not averaged, min(known, default=len(_ORDER))
