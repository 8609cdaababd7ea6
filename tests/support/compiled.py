"""What torch.compile makes of a network, for tests of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seemore_fast import SeemoRe
from tests.support import golden

SMALL = {"scale": 2, "num_experts": 2, "num_layers": 1, "embedding_dim": 8, "recursive": 1, "topk": 1}

OP = torch.ops.seemore_fast.infer.default


def small(**config) -> SeemoRe:
    return golden.fill(SeemoRe(**{**SMALL, **config}), seed=5).eval()


class Compiled:
    """A compiled module and the graphs that were made of it."""

    def __init__(self, module: nn.Module | Callable[..., Any], dynamic: bool | None = None):
        self.graphs: list[torch.fx.GraphModule] = []
        self.run = torch.compile(module, fullgraph=True, dynamic=dynamic, backend=self._keep)

    def _keep(self, graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward

    def __call__(self, *args: Any) -> Any:
        return self.run(*args)

    def called(self) -> list[Any]:
        """What the last graph calls, but for questions about PyTorch's state."""
        calls = [node.target for node in self.graphs[-1].graph.nodes if node.op.startswith("call")]
        return [call for call in calls if not getattr(call, "__name__", "").startswith("_")]


def pixels(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype)
    return torch.rand(shape).to(dtype)
