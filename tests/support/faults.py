"""How tests ask for the one clear error that bad input gives."""

from __future__ import annotations

import pytest

from seemore_fast.errors import CheckpointError


def fault_of(action) -> str:
    """The message of the CheckpointError that ``action`` raises: one line."""
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message
