"""What torch.compile is told about functions of ours."""

from __future__ import annotations

import torch

from seemore_fast.backends.tracing import constant


def test_a_constant_has_the_mark_of_torch() -> None:
    def marked(mark: object) -> dict[str, object]:
        def answer() -> int:
            return 1

        assert mark(answer) is answer  # type: ignore[operator]
        return vars(answer)

    assert marked(constant) == marked(torch.compiler.assume_constant_result) != {}
