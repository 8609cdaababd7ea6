"""Arguments of wrong kinds, from Python: one error of the package's own that names what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.image import Image, read, write
from seemore_fast.model import load

PIXELS = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize("path", [None, 5, b"a.png", ["a.png"]], ids=repr)
def test_paths(path: Any) -> None:
    for call in (read, lambda path: write(path, Image(PIXELS))):
        with pytest.raises(ImageError, match="path must be text or a Path"):
            call(path)


@pytest.mark.parametrize("more", [{"max_pixels": "x"}, {"data": "x"}], ids=repr)
def test_reading(more: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="a: max_pixels must be a whole number, data bytes"):
        read("a", **more)


@pytest.mark.parametrize(
    ("image", "more", "reason"),
    [
        (None, {}, "an Image is needed, got NoneType"),
        (PIXELS, {}, "an Image is needed, got ndarray"),
        (Image(PIXELS[..., 0]), {}, "pixels must be .* not uint8 of shape"),
        (Image(np.zeros((4, 4, 5), np.uint8)), {}, "pixels must be"),
        (Image(np.zeros((0, 4, 3), np.uint8)), {}, "pixels must be"),
        (Image(PIXELS.astype(np.int64)), {}, "pixels must be .* not int64"),
        (Image(PIXELS), {"quality": 0}, "quality must be a whole number from 1 to 100, got 0"),
        (Image(PIXELS), {"quality": 1000}, "quality must be"),
        (Image(PIXELS), {"quality": "x"}, "quality must be"),
        (Image(PIXELS), {"size": (0, 4)}, "size must be two whole numbers above 0"),
        (Image(PIXELS), {"size": 3}, "size must be"),
    ],
)
def test_writing(tmp_path: Path, image: Any, more: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        write(tmp_path / "a.jpg", image, **more)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [None, 3, b"t-x4"], ids=repr)
def test_weights(name: Any) -> None:
    with pytest.raises(SeemoreError, match="weights must be a name or a file"):
        load(name)


@pytest.mark.parametrize("device", ["xyz", 3.5, None], ids=repr)
def test_devices(device: Any) -> None:
    with pytest.raises(SeemoreError, match="device must be cpu, cuda or cuda:N"):
        load("t-x4", device=device)


def test_nested_tensors_in_a_checkpoint(tmp_path: Path) -> None:
    state = load("t-x4", backend="reference").state_dict()
    state["norm.weight"] = torch.nested.nested_tensor([torch.rand(3)])
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(SeemoreError, match=r"expected a plain tensor"):
        load(tmp_path / "a.pth")
