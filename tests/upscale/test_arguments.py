"""Upscaler's arguments and callbacks: wrong kinds are our errors, errors of the caller's own are his."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.model import SeemoRe
from seemore_fast.upscale.upscaler import Upscaler
from tests.support.small import SMALL


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    torch.manual_seed(0)
    return Upscaler(SeemoRe(**SMALL), tile=32)


IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "name", ["model", "device", "dtype", "tile", "tile_mode", "overlap", "backend", "memory_share"]
)
@pytest.mark.parametrize("value", [object(), [1], {"a": 1}, 1.5j, b"x", float("nan"), np.zeros(3), True])
def test_wrong_kinds_of_arguments(name: str, value: Any) -> None:
    with pytest.raises(SeemoreError, match=name) as caught:
        Upscaler(**{"model": SeemoRe(**SMALL), name: value})
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["progress", "cancelled"])
def test_wrong_kinds_of_callbacks(upscaler: Upscaler, name: str) -> None:
    with pytest.raises(SeemoreError, match=f"{name} must be callable"):
        upscaler.up(IMAGE, **{name: 5})
    with pytest.raises(SeemoreError, match=f"{name} must be callable"):
        upscaler.stream(IMAGE, print, **{name: 5})


def test_wrong_kinds_in_stream(upscaler: Upscaler) -> None:
    with pytest.raises(SeemoreError, match="emit must be callable"):
        upscaler.stream(IMAGE, None)
    with pytest.raises(ImageError, match="pixels must be an array"):
        upscaler.stream("photo.png", print)
    for dtype in ("float64", "abc", 5, object()):
        with pytest.raises(SeemoreError, match="dtype must be uint8, uint16 or float32"):
            upscaler.stream(IMAGE, print, dtype)


@pytest.mark.parametrize(
    "error", [RuntimeError("cannot allocate memory"), MemoryError("mine"), ValueError("v")]
)
@pytest.mark.parametrize("where", ["progress", "cancelled", "emit"])
def test_errors_of_callbacks_pass_unchanged(upscaler: Upscaler, where: str, error: Exception) -> None:
    calls = 0

    def fail(*_: object) -> bool:
        nonlocal calls
        calls += 1
        raise error

    given: dict[str, Any] = {"emit": lambda *_: None, where: fail}
    with pytest.raises(type(error)) as caught:
        upscaler.stream(IMAGE, **given)
    assert caught.value is error
    assert calls == 1, "nothing was tried again"
    if where != "emit":
        with pytest.raises(type(error)) as caught:
            upscaler.up(IMAGE, **{where: fail})
        assert caught.value is error


@pytest.mark.parametrize(
    "image",
    [
        np.ma.masked_array(IMAGE, IMAGE > 100),
        np.ma.masked_array(IMAGE),
        IMAGE[..., 0].view(np.matrix),
        IMAGE.view(np.recarray),
    ],
)
def test_arrays_that_mean_more(upscaler: Upscaler, image: Any) -> None:
    with pytest.raises(ImageError, match=f"image is a {type(image).__name__}; give a plain array"):
        upscaler.up(image)
    with pytest.raises(ImageError, match="give a plain array"):
        upscaler.up([IMAGE, image])


def test_mapped_files_are_arrays(upscaler: Upscaler, tmp_path) -> None:
    np.save(tmp_path / "a.npy", IMAGE[:16, :16])
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(upscaler.up(mapped), upscaler.up(IMAGE[:16, :16]))
