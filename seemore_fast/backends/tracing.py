"""What torch.compile is told about functions of ours, without loading it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer", bound=Callable[..., object])


def constant(answer: Answer) -> Answer:
    """``torch.compiler.assume_constant_result``: tracing calls the function once and keeps what it says.

    That decorator first imports torch._dynamo, which takes longer than everything else that an upscaling
    needs; a test holds this mark to be the one that it sets.
    """
    answer._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return answer
