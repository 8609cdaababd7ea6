"""The bundled weights: named, described by a card, complete, and better than interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seemore_fast import checkpoint, weights
from seemore_fast.reference import SeemoRe

from .faults import fault_of


@pytest.mark.parametrize("name", weights.names())
def test_bundled_weights(name):
    found = checkpoint.read(weights.path(name))
    assert found.resolve_config() == {**found.config, "mean": tuple(found.config["mean"])}
    assert weights.path(name).with_suffix(".md").read_text().startswith(f"# {name}: ")


def test_bundled_t_x4_beats_bicubic():
    """Curved edges at a quarter of their size must come back better than by interpolation."""
    found = checkpoint.read(weights.path("t-x4"))
    network = SeemoRe(**found.resolve_config()).eval()
    network.load_state_dict(found.state)
    y, x = np.mgrid[:128, :128] / 16.0
    picture = 0.5 + 0.4 * np.sign(np.sin(x + 0.3 * y) + np.sin(0.5 * y - x / 3))
    high = torch.from_numpy(picture).float().expand(1, 3, 128, 128)
    low = torch.nn.functional.interpolate(high, scale_factor=0.25, mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        error = (network(low) - high).square().mean()
    plain = torch.nn.functional.interpolate(low, scale_factor=4, mode="bicubic")
    assert error < 0.7 * (plain - high).square().mean()


def test_names_and_paths_of_bundled_weights():
    assert "t-x4" in weights.names()
    assert fault_of(lambda: weights.path("t-x9")) == (
        f"no bundled weights are called 't-x9'; there are {', '.join(weights.names())}"
    )
