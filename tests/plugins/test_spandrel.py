"""spandrel gives our network for SeemoRe files; half precisions do what the descriptor promises."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from seemore_fast.export import check
from seemore_fast.model import SeemoRe, load
from seemore_fast.network.accuracy import relative_l2

if importlib.util.find_spec("spandrel") is None:
    pytest.skip(
        "spandrel is not installed ([test] leaves it out, for its torchvision wants a CUDA torch)",
        allow_module_level=True,
    )
pytestmark = pytest.mark.usefixtures("torchvision_or_stand_in")


def test_the_script(run_script) -> None:
    small = torch.rand(1, 3, 20, 24)
    names = run_script("ModelLoader", small=small)
    model = names["model"]
    assert type(model.model) is SeemoRe
    assert (model.scale, model.supports_half, model.supports_bfloat16) == (4, True, True)
    assert "Tiny" in model.tags
    with torch.inference_mode():
        torch.testing.assert_close(names["large"], load("t-x4")(small).clamp(0, 1))


def test_any_picture_size(run_script) -> None:
    model = run_script("ModelLoader", small=torch.rand(1, 3, 16, 16))["model"]
    assert model(torch.rand(1, 3, 1, 5)).shape == (1, 3, 4, 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions(dtype: torch.dtype, run_script) -> None:
    x = torch.rand(1, 3, 24, 20) * torch.linspace(0, 1, 20)
    model = run_script("ModelLoader", small=x)["model"]
    want = check.plain(load("t-x4"), torch.float64)(x.double())
    plain = relative_l2(check.plain(load("t-x4"), dtype)(x.to(dtype)), want)
    got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    # The descriptor clamps to [0, 1], which can only come nearer to a picture; a limit of its own for `want`.
    assert relative_l2(got, want.clamp(0, 1)) <= 2 * plain


def test_other_networks_are_left_alone(run_script) -> None:
    import spandrel

    run_script("ModelLoader", small=torch.rand(1, 3, 16, 16))
    assert spandrel.MAIN_REGISTRY["SeemoRe"].architecture.id == "SeemoRe"
    assert spandrel.MAIN_REGISTRY["seemore-fast"].architecture.name == "SeemoRe (seemore-fast)"
