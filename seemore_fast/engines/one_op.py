"""Inference as one torch op, which torch.compile keeps whole where it would trace the network's layers.

    seemore_fast::infer(Tensor x, Tensor[] weights, str config, str backend, ScalarType? autocast,
        int workspace_limit) -> Tensor

is a SeemoRe of this configuration (JSON) with these weights, in the order of `weights_of`, called without
gradients: the same in every respect as a call that nobody compiles.  ``autocast`` is the dtype that x is
under, for what is compiled runs without.

Compiled code hands over the weights and not their model, so that it may move, share and replace them; a twin
of the model runs instead, kept for as long as the first of the weights lives.
"""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from seemore_fast.backends import native
from seemore_fast.backends.tracing import constant
from seemore_fast.engines.cpu_engine import float32_arrays
from seemore_fast.errors import BackendError
from seemore_fast.network import fold, reference

Infer = Callable[[Tensor, list[Tensor], str, str, torch.dtype | None, int], Tensor]

_library = torch.library.Library("seemore_fast", "FRAGMENT")

_TAGS = tuple(
    getattr(torch.Tag, name)
    # Somebody else's graph would go on with the weights that there were; the engine has graphs of its own.
    for name in ("pt2_compliant_tag", "cudagraph_unsafe")
    if hasattr(torch.Tag, name)
)

_ANY_GPU = 90  # a compute capability, of which limits do not depend

Tree = tuple[tuple[str, ...], tuple[tuple[str, "Tree"], ...]]
"""The names of a module's parameters and buffers, and the same of its children by their names."""


@functools.cache
def tree_of(config: str) -> Tree:
    """Of a network of this configuration."""
    return _names(_on_meta(reference.SeemoRe, config))


def _names(module: nn.Module) -> Tree:
    own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    children = ((name, _names(child)) for name, child in module.named_children())
    return tuple(name for name, _ in own), tuple(children)


def weights_of(module: nn.Module, tree: Tree) -> list[Tensor]:
    """A module's parameters and buffers that have these names."""
    leaves, children = tree
    own: Any = module._parameters  # faster than attributes; buffers and what is parametrized are not there
    found = [own[name] if name in own else getattr(module, name) for name in leaves]
    for name, child in children:
        found += weights_of(getattr(module, name), child)
    return found


@constant
def takes(backend: str, config: str) -> bool:
    """Whether a network of this configuration is within the limits of the backend's engine."""
    return _takes(backend, config)


@functools.cache
def _takes(backend: str, config: str) -> bool:
    lib = native.require()
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        arrays = float32_arrays(fold.fold_network(reference.SeemoRe(**json.loads(config))))
    try:
        if backend == "cpu":
            lib.Engine(arrays, False)
        else:
            lib.cuda_network_programs(arrays, 0, -1, _ANY_GPU)
    except BackendError:
        return False
    return True


def define(kind: Callable[..., reference.SeemoRe]) -> Infer:
    """The op, for networks of this class, which has an argument ``backend`` and a `workspace_limit`."""
    twins = _Twins(kind)

    def infer(
        x: Tensor,
        weights: list[Tensor],
        config: str,
        backend: str,
        autocast: torch.dtype | None,
        workspace_limit: int,
    ) -> Tensor:
        network = twins.get(weights, (config, backend, workspace_limit))
        with torch.no_grad(), torch.autocast(x.device.type, autocast, enabled=autocast is not None):
            return network(x).contiguous()

    def fake(x: Tensor, weights: list[Tensor], config: str, *_: Any) -> Tensor:
        n, channels, h, w = x.shape
        scale = json.loads(config)["scale"]
        return x.new_empty((n, channels, h * scale, w * scale))

    _library.define(
        "infer(Tensor x, Tensor[] weights, str config, str backend, ScalarType? autocast, "
        "int workspace_limit) -> Tensor",
        tags=_TAGS,
    )
    _library.impl("infer", infer, "CompositeExplicitAutograd")
    torch.library.register_fake("seemore_fast::infer", fake, lib=_library)
    return torch.ops.seemore_fast.infer.default


@dataclass
class _Twin:
    network: Any  # of the class that `define` was given
    addresses: list[int]
    writes: list[int]


class _Twins:
    """Networks that have the weights of others, by these weights."""

    def __init__(self, kind: Callable[..., reference.SeemoRe]):
        self._kind = kind
        self._lock = threading.Lock()
        self._known = WeakTensorKeyDictionary()
        self._bare = functools.cache(self._make)

    def get(self, weights: Sequence[Tensor], key: tuple[str, str, int]) -> Any:
        """The network under ``key`` (configuration, backend, limit of the workspace) with these weights.

        It has views of them, whose memory therefore cannot become another tensor's: weights at the same
        addresses are the same, and written to since where they count more writes.
        """
        addresses, writes = _states(weights)
        with self._lock:
            known = self._known.setdefault(weights[0], {})
            if key not in known or known[key].addresses != addresses:
                views = (weight.detach() for weight in weights)
                network = _with_weights(self._bare(*key), tree_of(key[0]), views)
                known[key] = _Twin(network, addresses, writes)
            found = known[key]
            if found.writes != writes:
                found.network.invalidate()
                found.writes = writes
            return found.network

    def _make(self, config: str, backend: str, workspace_limit: int) -> reference.SeemoRe:
        network = _on_meta(functools.partial(self._kind, backend=backend), config)
        network.workspace_limit = workspace_limit  # type: ignore[assignment]
        return network.eval()


def _with_weights(module: nn.Module, tree: Tree, weights: Iterator[Tensor]) -> nn.Module:
    """A copy that shares no dict with the module, and has these weights, in the order of `weights_of`."""
    leaves, children = tree
    twin, own = copy.copy(module), dict(zip(leaves, weights, strict=False))
    twin._parameters = {name: own.get(name) for name in module._parameters}  # type: ignore[misc]
    twin._buffers = {name: own.get(name) for name in module._buffers}
    twin._modules = {name: _with_weights(getattr(module, name), child, weights) for name, child in children}
    return twin


def plain(weights: Sequence[Tensor], config: str) -> nn.Module:
    """The reference with these weights, in the order of `weights_of`."""
    return _with_weights(_on_meta(reference.SeemoRe, config), tree_of(config), iter(weights))


def _on_meta(kind: Callable[..., reference.SeemoRe], config: str) -> reference.SeemoRe:
    with torch.device("meta"):
        return kind(**json.loads(config))


def _states(weights: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Addresses and counts of writes; tensors of inference mode have none: engines compare their values."""
    try:
        versions = [*map(attrgetter("_version"), weights)]
    except RuntimeError:
        versions = []
    return [*map(Tensor.data_ptr, weights)], versions
