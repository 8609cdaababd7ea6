"""A network so small that tests of what is around it need not wait for it."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "scale": 2,
    "num_experts": 3,
    "num_layers": 1,
    "embedding_dim": 8,
    "recursive": 1,
    "lr_space": "exp",
    "topk": 1,
}
