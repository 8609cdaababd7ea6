"""Checkpoints: read weights safely, infer the network's configuration from them, save both together.

A file is never allowed to run code, and every fault is one :class:`CheckpointError` of one line.
What tensor shapes fix is measured from them; what they cannot tell (``use_shuffle``, ``recursive``,
``topk``, ``img_range``, ``mean``) is guessed from the published variants unless given.  Files written
by :func:`save` carry the configuration, so that reading them needs no guess.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from seemore_fast.errors import CheckpointError
from seemore_fast.network import wrapped
from seemore_fast.network.reference import LIMITS, SeemoRe, expert_ranks
from seemore_fast.system.atomic import atomic_path

CONFIG_KEY = "seemore_fast.config"
"""Metadata entry of a safetensors file that holds the constructor's arguments as JSON."""

_SHARING = 16  # times that tensors may exceed the data that they share

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DEFAULTS = {name: p.default for name, p in inspect.signature(SeemoRe).parameters.items()}

# The published variants by (num_layers, embedding_dim): what their files do not tell.
_PUBLISHED = {"num_experts": 3, "lr_space": "exp", "topk": 1}
_VARIANTS = {
    (6, 36): {**_PUBLISHED, "use_shuffle": True, "recursive": 2},  # T
    (8, 48): {**_PUBLISHED, "use_shuffle": True, "recursive": 2},  # B
    (16, 48): {**_PUBLISHED, "use_shuffle": False, "recursive": 1},  # L
}


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    ``state`` has dense, finite CPU tensors by parameter name; ``config`` the constructor's arguments
    that the file states (None: it states none); ``metadata`` the file's other text entries.
    """

    path: Path
    state: dict[str, Tensor]
    config: dict[str, Any] | None
    metadata: dict[str, str]

    def resolve_config(self, **overrides: Any) -> dict[str, Any]:
        """All constructor arguments: the file's own, ``overrides`` above them, the rest as
        :func:`infer_config` finds it.  Raises CheckpointError as that does, naming the file.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return infer_config(self.state, **{**(self.config or {}), **given})
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None


def read(path: str | os.PathLike[str], key: str | None = None) -> Checkpoint:
    """Reads a PyTorch (``.pth``, ``.pt``, ``.ckpt``, ``.bin``) or safetensors file, told apart by content.

    The network is found in whatever wraps it, under ``key`` if given (`wrapped.find`).  The tensors do not
    depend on the file any more once this returns.

    Raises CheckpointError, naming the file, if it cannot be read, is damaged, holds objects that
    could run code (they are refused, not run), anything but tensors in the state dict, or NaN or
    infinity in a tensor.
    Whether the tensors are a SeemoRe network's is for :func:`infer_config` to say.
    """
    path = Path(path)
    data, metadata = _read(path)
    state = _unwrap(data, path, key)
    config = _parse_config(metadata.pop(CONFIG_KEY, None), path)
    return Checkpoint(path, _clean(state, f"{path}: "), config, metadata)


def tensors_of(path: str | os.PathLike[str]) -> Any:
    """What lies in the file, whatever network's it is, as safely as :func:`read` reads it."""
    return _read(Path(path))[0]


def infer_config(state: Mapping[str, Tensor], **overrides: Any) -> dict[str, Any]:
    """All constructor arguments of the SeemoRe network whose state dict this is.

    ``overrides`` are constructor arguments by name, None meaning not given.  Arguments that shapes
    cannot tell default to those of the published variant (T, B or L) with as many layers and
    channels, else to the constructor's.  With one or two experts several ``lr_space`` fit: ``exp``
    is taken unless one is given.  Only shapes and dtypes are looked at, so meta tensors will do.

    Raises CheckpointError for missing, extra or misshapen keys (naming the first three), tensors
    that are not floating point, and overrides that are unknown, invalid or contradict the shapes.
    """
    given = _check_overrides(overrides)
    measured = _measure(state, given.get("lr_space"))
    for name in given.keys() & measured.keys():
        if given[name] != measured[name]:
            raise CheckpointError(
                f"{name}={_short(repr(given[name]))} contradicts the weights: theirs is {measured[name]!r}"
            )

    variant = _VARIANTS.get((measured["num_layers"], measured["embedding_dim"]), {})
    config = {**_DEFAULTS, **variant, **given, **measured}
    if "topk" not in given:
        config["topk"] = min(config["topk"], config["num_experts"])
    try:
        with torch.device("meta"):
            network = SeemoRe(**config)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise CheckpointError(f"no SeemoRe network has this configuration: {_first_line(error)}") from None
    _compare(state, network.state_dict())
    return dict(network.config)


def save(
    model_or_state: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    config: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a network's weights and configuration to a safetensors file, whole or not at all.

    ``config`` holds constructor arguments (default: the model's ``config``); what it leaves out is
    completed by :func:`infer_config`.  ``metadata`` is further text to keep with the weights.  An
    existing file is replaced only once the new one is on the disk.

    Raises CheckpointError if ``path`` does not end in ``.safetensors`` or cannot be written, for
    weights that :func:`read` would refuse, and as :func:`infer_config` does.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: weights are saved as safetensors, the name must end in .safetensors")
    if isinstance(model_or_state, nn.Module):
        model = getattr(model_or_state, "module", model_or_state)  # inside (Distributed)DataParallel
        if config is None and isinstance(known := getattr(model, "config", None), Mapping):
            config = known
        model_or_state = model.state_dict()
    for name, text in (metadata or {}).items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise CheckpointError(f"metadata must map str to str, got {name!r}: {text!r}")

    state = _clean(wrapped.find(model_or_state), "")
    stored = json.dumps(infer_config(state, **(config or {})))
    # Clones, for safetensors refuses tensors that share memory or are not contiguous.
    tensors = {k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, {**(metadata or {}), CONFIG_KEY: stored}))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None


# Reading


def _read(path: Path) -> tuple[Any, dict[str, str]]:
    return _read_safetensors(path) if _is_safetensors(path) else (_read_torch(path), {})


def _is_safetensors(path: Path) -> bool:
    """Tells the two containers apart by their first bytes; refuses everything else."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: the file is empty")
    if head[8:9] == b"{":  # a 64-bit length, then JSON; asked first, for a length can begin with 0x80 too
        return True
    if head.startswith((b"PK\x03\x04", b"\x80")):  # zip; a pickle, as torch.save wrote before 1.6
        return False
    raise CheckpointError(f"{path}: neither a PyTorch nor a safetensors file, begins with {head!r}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            # Clones: get_tensor maps the file, whose later change would change the weights or kill us.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # SafetensorError, and torch's own for dtypes it lacks
        raise CheckpointError(f"{path}: damaged or no safetensors file ({_first_line(error)})") from None


def _read_torch(path: Path) -> Any:
    try:
        # An open file: a path's suffix would choose the format.  Not mapped, for the same reason as above.
        with path.open("rb") as file, warnings.catch_warnings():
            _refuse_bombs(file)
            warnings.simplefilter("ignore")  # about formats that are then refused in one clear line
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen types, by where the file is damaged
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            fault = f"holds {forbidden[1]}, which is not loaded because it could run code"
            raise CheckpointError(f"{path}: {fault}; a state dict of tensors is expected") from None
        # The unpickler's messages are paragraphs of advice on torch.load's arguments.
        reason = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
        raise CheckpointError(f"{path}: damaged or no PyTorch checkpoint{reason}") from None


def _refuse_bombs(file: IO[bytes]) -> None:
    """PyTorch stores its archives uncompressed; one that inflates far beyond its size is a trap."""
    size = file.seek(0, os.SEEK_END)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _SHARING * size:
                raise ValueError("its archive inflates to many times its size")
    file.seek(0)


def _unwrap(data: Any, path: Path, key: str | None) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, expected a state dict")
    return wrapped.find(data, key)


def _clean(state: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The state dict without gradients, every entry a dense, finite tensor."""
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{where}holds no tensors, expected a SeemoRe state dict; found {_some([*map(repr, state)])}"
        )
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise CheckpointError(
                f"{where}{_short(repr(key))} is a {type(value).__name__}, expected tensors by name"
            )
        plain = value.layout == torch.strided and not value.is_nested
        if not plain or value.is_quantized or value.is_meta:
            raise CheckpointError(
                f"{where}{_short(repr(key))} is sparse, quantized or without data, expected a plain tensor"
            )
    _check_bounds(state, where)
    for key, value in state.items():
        if value.dtype in _DTYPES and not value.isfinite().all():
            raise CheckpointError(f"{where}{_short(repr(key))} holds NaN or infinity")
    return {key: value.detach() for key, value in state.items()}


def _check_bounds(state: Mapping[str, Tensor], where: str) -> None:
    """Refuses tensors that would grow beyond their data: strides of 0 let a few bytes be terabytes."""
    for key, value in state.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{where}{_short(repr(key))} is {_shape(value)}, which repeats fewer values; "
                "expected a plain tensor"
            )
    needed = sum(value.numel() * value.element_size() for value in state.values())
    held = {s.data_ptr(): s.nbytes() for s in (value.untyped_storage() for value in state.values())}
    if needed > _SHARING * sum(held.values()):
        raise CheckpointError(f"{where}{len(state)} tensors share the same data, expected one each")


def _parse_config(text: str | None, path: Path) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: metadata {CONFIG_KEY} is not a JSON object")
    return config


# Inference


def _check_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that are given, free arguments in their proper type."""
    unknown = [name for name in overrides if name not in _DEFAULTS]
    if unknown:
        raise CheckpointError(
            f"{_short(repr(unknown[0]))} is no argument of SeemoRe; there are {', '.join(_DEFAULTS)}"
        )
    given = {name: value for name, value in overrides.items() if value is not None}
    for name, kind in [("use_shuffle", bool), ("recursive", int), ("topk", int)]:
        if name in given and type(given[name]) is not kind:
            raise CheckpointError(f"{name} must be of type {kind.__name__}, got {_short(repr(given[name]))}")
    try:
        if "img_range" in given:
            given["img_range"] = float(given["img_range"])
        if "mean" in given:
            given["mean"] = tuple(float(value) for value in given["mean"])
    except (TypeError, ValueError, OverflowError):
        shown = {name: given[name] for name in ("img_range", "mean") if name in given}
        raise CheckpointError(
            f"img_range must be a number and mean one per channel, got {_short(str(shown))}"
        ) from None
    for value in (given.get("img_range", 1.0), *given.get("mean", ())):
        if not math.isfinite(value):
            raise CheckpointError(f"img_range and mean must be finite, got {value}")
    return given


def _measure(state: Mapping[str, Tensor], lr_space: Any) -> dict[str, Any]:
    """The arguments that shapes fix.  A damaged body fixes fewer; _compare then names its keys."""
    for key in ("conv_1.weight", "upsampler.0.weight"):
        if key not in state:
            raise CheckpointError(
                f"not a SeemoRe state dict: lacks {key}; found {_some([*map(repr, state)])}"
            )
        if state[key].ndim != 4:
            raise CheckpointError(
                f"not a SeemoRe state dict: {key} is {_shape(state[key])}, expected 4 dimensions"
            )
    embedding_dim, in_chans = state["conv_1.weight"].shape[:2]
    layers: set[str] = set()
    ranks: dict[int, int] = {}  # of each expert
    kernels: list[int] = []
    for key, tensor in state.items():
        if match := re.match(r"body\.(\d+)\.(?:local|global)_block\.", key):
            layers.add(match[1])
            name = key[match.end() :]
            if tensor.ndim == 4 and name == "block.attn.conv.0.weight":
                kernels.append(tensor.shape[3])
            elif tensor.ndim == 4 and (
                expert := re.fullmatch(r"block\.moe_layer\.experts\.(\d+)\.conv_1\.weight", name)
            ):
                ranks.setdefault(int(expert[1]), tensor.shape[0])
    measured: dict[str, Any] = {
        "scale": max(1, math.isqrt(state["upsampler.0.weight"].shape[0] // max(1, in_chans))),
        "in_chans": in_chans,
        "num_layers": len(layers),  # a count, so that one odd index cannot ask for a giant network
        "embedding_dim": embedding_dim,
    }
    if kernels:
        measured["global_kernel_size"] = kernels[0]
    if len(ranks) > LIMITS["num_experts"]:
        raise CheckpointError(f"{len(ranks)} experts; there may be up to {LIMITS['num_experts']}")
    if ranks:
        measured["num_experts"] = len(ranks)
        in_order = [ranks[expert] for expert in sorted(ranks)]
        fitting = [s for s in ("exp", "linear", "double") if expert_ranks(len(ranks), s) == in_order]
        if fitting:
            measured["lr_space"] = lr_space if lr_space in fitting else fitting[0]
    return measured


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    faults = [f"lacks {key} {_shape(expected[key])}" for key in expected if key not in state]
    for key, tensor in state.items():
        if key not in expected:
            faults.append(f"has an unexpected {key!r} {_shape(tensor)}")
        elif tensor.shape != expected[key].shape:
            faults.append(f"{key} is {_shape(tensor)}, expected {_shape(expected[key])}")
    faults = faults or [
        f"{k} is {v.dtype}, expected floating point" for k, v in state.items() if v.dtype not in _DTYPES
    ]
    if faults:
        raise CheckpointError(f"not a SeemoRe state dict: {_some(faults, '; ')}")


# Wording


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _some(items: list[Any], separator: str = ", ") -> str:
    """The first three items, and how many follow."""
    text = separator.join(_short(str(item)) for item in items[:3]) or "nothing"
    return text if len(items) <= 3 else f"{text}{separator}... and {len(items) - 3} more"


def _short(text: str) -> str:
    """At most a line of it: what a file names, it may name at any length."""
    return text if len(text) <= 120 else f"{text[:100]}..."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _short(lines[0]).partition(". ")[0].rstrip(".")
