"""The drop-in SeemoRe: official constructor and state-dict keys, any input size, the fastest path there is.

`load` makes one from bundled weights or a file, `accelerate` from another implementation's instance.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seemore_fast.backends import choice
from seemore_fast.backends.precision import autocast_dtype
from seemore_fast.engines import cpu_training, cuda_engine, fused, one_op
from seemore_fast.engines.cpu_engine import Engine
from seemore_fast.errors import BackendError, CheckpointError, DeviceError
from seemore_fast.network import checkpoint, reference, weights

log = logging.getLogger(__name__)

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class SeemoRe(reference.SeemoRe):
    """SeemoRe super-resolution: (N, in_chans, H, W) in [0, 1] -> (N, in_chans, H * scale, W * scale).

    Takes the official constructor's arguments, in their order, and

    * ``mean``: colour subtracted from the input, one value per channel (default: DIV2K's for RGB);
    * ``backend``: ``auto``, ``reference``, ``cpu``, ``cuda`` or ``triton`` (see `seemore_fast.backends`).

    Images smaller than ``4 ** recursive`` are extended by repeating their last row and column, and the
    result cropped.  uint8 input in 0..255 gives uint8 output, clamped and rounded.  Each image of a batch
    is routed on its own.  Without gradients the backend's engine runs; with them, one differentiable
    operator (CPU) or one for each block (GPU); in export and under torch.func's transforms, plain PyTorch.
    ``torch.autocast`` to bfloat16, or bfloat16 parameters, select the engine's bf16 mode; on a GPU
    float16 likewise, and TF32 where ``torch.backends.cuda.matmul`` allows it.  float64 always takes the
    reference.  torch.compile takes a call without gradients as one operator, which runs the engine.

    ``workspace_limit`` (an attribute, bytes; 0: none) bounds an engine's working memory: below its
    least need the call raises MemoryError with the figure.

    Raises ValueError for arguments out of range, BackendError for a backend that is not available.
    """

    def __init__(
        self,
        scale: int = 4,
        in_chans: int = 3,
        num_experts: int = 6,
        num_layers: int = 6,
        embedding_dim: int = 64,
        img_range: float = 1.0,
        use_shuffle: bool = False,
        global_kernel_size: int = 11,
        recursive: int = 2,
        lr_space: reference.LRSpace = "linear",
        topk: int = 2,
        *,
        mean: tuple[float, ...] | None = None,
        backend: str = "auto",
    ):
        super().__init__(
            scale,
            in_chans,
            num_experts,
            num_layers,
            embedding_dim,
            img_range,
            use_shuffle,
            global_kernel_size,
            recursive,
            lr_space,
            topk,
            mean=mean,
        )
        self.workspace_limit = 0
        self._text = json.dumps(self.config)
        self._tree = one_op.tree_of(self._text)
        self._backend = choice.check(backend)
        self.engine = Engine()
        self.cuda_engine = cuda_engine.Engine()
        self._refused: set[tuple[str, torch.device]] = set()  # backends that this configuration is beyond

    @property
    def backend(self) -> str:
        """The backend asked for.  Setting it raises BackendError if it is not available."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        self._backend = choice.check(name)

    def invalidate(self) -> None:
        """Drops packed weights and working memory; needed only after writing weights through ``.data``."""
        self.engine.invalidate()
        self.cuda_engine.invalidate()

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        if torch.compiler.is_compiling() and self._is_one_op(x):
            weights = one_op.weights_of(self, self._tree)
            return infer(x, weights, self._text, self._backend, autocast_dtype(x), self.workspace_limit)
        h, w = x.shape[2:]
        least = self.min_size
        if h >= least and w >= least:
            return self._choose(x)(x)
        x = extend(x, max(h, least), max(w, least))
        return self._choose(x)(x)[..., : h * self.scale, : w * self.scale]

    def _is_one_op(self, x: Tensor) -> bool:
        """Whether compiled code calls an engine here, by the operator that torch.compile leaves whole."""
        way = self._way(x)
        named = choice.preferred(self._backend) != "auto"
        return way.kind == "engine" and (named or one_op.takes(way.backend, self._text))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.config["in_chans"]:
            raise ValueError(f"x must be (N, {self.config['in_chans']}, H, W), got {tuple(x.shape)}")
        if x.dtype != torch.uint8 and x.dtype not in _FLOATS:
            raise TypeError(f"x must be floating-point or uint8, got {x.dtype}")
        if 0 in x.shape[2:]:
            raise ValueError(f"x must have at least one pixel, got {tuple(x.shape)}")

    def _choose(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What is to run for input like ``x``."""
        if (found := self.packed_for(x)) is not None:
            engine, packed = found
            return lambda x: engine.forward(packed, self.scale, x, self.workspace_limit)
        if x.dtype == torch.uint8:
            return self._on_floats
        way = self._way(x)
        if way.kind == "operators" and way.backend == "cpu":
            return lambda x: cpu_training.forward(x, one_op.weights_of(self, self._tree), self._text)
        if way.kind == "operators":
            return lambda x: fused.forward(self, x, way.backend)
        return super().forward

    def _on_floats(self, x: Tensor) -> Tensor:
        pixels = x.to(self.conv_1.weight.dtype) / 255
        return (self._choose(pixels)(pixels).float() * 255).round().clamp(0, 255).to(torch.uint8)

    def _way(self, x: Tensor) -> choice.Way:
        """Without regard to this configuration's limits, but for those met already."""

        def needs_grad() -> bool:
            return torch.is_grad_enabled() and (
                x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
            )

        return choice.choose_way(self._backend, x, self.conv_1.weight, needs_grad, self._refused)

    def packed_for(self, x: Tensor) -> tuple[Engine | cuda_engine.Engine, Any] | None:
        """The engine that is to run for input like ``x``, and the network packed for it; None: another way.

        Raises BackendError where the engine was asked for by name and this network is beyond its limits.
        """
        way = self._way(x)
        if way.kind != "engine" or torch.compiler.is_compiling():
            return None
        engine = self.engine if way.backend == "cpu" else self.cuda_engine
        try:
            return engine, engine.native_for(self, x)
        except BackendError as reason:
            if choice.preferred(self._backend) != "auto":
                raise
            if isinstance(reason, DeviceError):
                log.warning("backend %s cannot run for now: %s", way.backend, reason)
            else:
                log.warning("backend %s cannot run this network: %s", way.backend, reason)
                self._refused.add((way.backend, x.device))
            return None

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles share nothing with the original's engines, which hold locks.
        return {**self.__dict__, "engine": None, "cuda_engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.engine = Engine()
        self.cuda_engine = cuda_engine.Engine()


infer = one_op.define(SeemoRe)
"""What torch.compile takes for a call without gradients."""


def extend(x: Tensor, h: int, w: int) -> Tensor:
    """``x`` (N, C, H, W) with its last row and column repeated up to (h, w)."""
    rows = torch.arange(h, device=x.device).clamp(max=x.shape[2] - 1)
    columns = torch.arange(w, device=x.device).clamp(max=x.shape[3] - 1)
    return x[:, :, rows][..., columns]


def load(
    name_or_path: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    **overrides: Any,
) -> SeemoRe:
    """A SeemoRe with weights, in evaluation mode: ``load("t-x4")`` (bundled), ``load("official/b-x2")`` (the
    authors', fetched once), ``load("net_g.pth")``.

    ``overrides`` are constructor arguments that a file cannot tell (``use_shuffle``, ``recursive``,
    ``topk``, ``img_range``, ``mean``); without them they are guessed by width and depth.

    Raises CheckpointError for a name or file that does not hold a SeemoRe, BackendError for ``backend`` or
    ``device``.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise CheckpointError(f"weights must be a name or a file, got {name_or_path!r:.80}")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise BackendError(f"device must be cpu, cuda or cuda:N, got {device!r:.80}") from None
    file = checkpoint.read(weights.find(name_or_path))
    model = SeemoRe(**file.resolve_config(**overrides), backend=backend)
    model.load_state_dict(file.state)
    return model.to(place).eval()


def accelerate(module: Any, *, backend: str = "auto", **overrides: Any) -> SeemoRe:
    """Our SeemoRe in place of a foreign instance (the official class, or spandrel's model or descriptor).

    It shares the instance's parameters: training or loading either changes both.  What the weights cannot
    tell is read from the instance where it is found, or taken from ``overrides``.

    Raises TypeError for what is no module, CheckpointError if its weights are not a SeemoRe's.
    """
    if not isinstance(module, nn.Module) and isinstance(getattr(module, "model", None), nn.Module):
        module = module.model
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    config = checkpoint.infer_config(module.state_dict(), **{**_found_on(module), **overrides})
    model = SeemoRe(**config, backend=backend)
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
    return model.to(next(module.parameters()).device).train(module.training)


def _found_on(module: nn.Module) -> dict[str, Any]:
    """Constructor arguments that implementations keep as attributes of the network and its blocks."""
    found: dict[str, Any] = {}
    for part in module.modules():
        for name in ("use_shuffle", "recursive", "topk", "img_range"):
            value = getattr(part, name, None)
            if name not in found and isinstance(value, (bool, int, float)):
                found[name] = value
        # The official layer of experts keeps topk under this name.
        if (
            "topk" not in found
            and hasattr(part, "experts")
            and isinstance(getattr(part, "num_expert", None), int)
        ):
            found["topk"] = part.num_expert
    mean = getattr(module, "mean", None)
    if isinstance(mean, Tensor):
        found["mean"] = tuple(mean.flatten().tolist())
    return found
