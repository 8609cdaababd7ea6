"""ComfyUI's node, loaded and called as ComfyUI does; with stand-ins for ComfyUI's two modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from seemore_fast.model import load

FOLDER = Path(__file__).resolve().parents[2] / "integrations/comfyui"

pytestmark = pytest.mark.usefixtures("torchvision_or_stand_in")


def load_package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As ComfyUI imports a folder of custom_nodes."""
    spec = importlib.util.spec_from_file_location("seemore_fast_nodes", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "seemore_fast_nodes", module)
    spec.loader.exec_module(module)
    return module


def test_the_script(monkeypatch: pytest.MonkeyPatch, run_script) -> None:
    load_package(monkeypatch)
    image = torch.rand(2, 20, 24, 3)
    larger = run_script("NODE_CLASS_MAPPINGS", image=image)["larger"]
    assert larger.shape == (2, 80, 96, 3)
    assert larger.dtype == torch.float32
    with torch.inference_mode():
        want = load("t-x4")(image.permute(0, 3, 1, 2)).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(larger, want, atol=1e-5, rtol=0)


def test_the_node_describes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    package = load_package(monkeypatch)
    for name, node in package.NODE_CLASS_MAPPINGS.items():
        inputs = node.INPUT_TYPES()["required"]
        assert inputs["image"] == ("IMAGE",)
        assert "t-x4" in inputs["model"][0]
        assert callable(getattr(node, node.FUNCTION))
        assert name in package.NODE_DISPLAY_NAME_MAPPINGS


def test_inside_comfyui_its_files_and_progress_bar_are_used(
    monkeypatch: pytest.MonkeyPatch, run_script, tmp_path: Path
) -> None:
    told: list[int] = []

    class Bar:
        def __init__(self, total: int) -> None:
            assert total == 1

        def update(self, done: int) -> None:
            told.append(done)

    utils, comfy, paths = ModuleType("comfy.utils"), ModuleType("comfy"), ModuleType("folder_paths")
    utils.ProgressBar, comfy.utils = Bar, utils
    paths.get_filename_list = lambda kind: ["seemore_t_x4.pth"]
    paths.get_full_path_or_raise = lambda kind, name: str(tmp_path / name)
    for module in (utils, comfy, paths):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    package = load_package(monkeypatch)
    node = package.SeemoreFastUpscale
    assert node.INPUT_TYPES()["required"]["model"][0][-1] == "seemore_t_x4.pth"
    (larger,) = node().upscale(torch.rand(1, 8, 8, 3), "seemore_t_x4.pth", "fp32")
    assert larger.shape == (1, 32, 32, 3)
    assert told == [1]
