"""The ONNX file: live routing, any batch and size, in the runtimes that people use, against float64."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seemore_fast.errors import SeemoreError
from seemore_fast.export import check, onnx_graph
from seemore_fast.model import SeemoRe
from seemore_fast.network import reference
from seemore_fast.network.accuracy import relative_l2
from tests.support import golden

if (why := onnx_graph.missing()) is not None:
    pytest.skip(why, allow_module_level=True)

import onnx

from tests.support.repository import ROOT

CONFIG = {
    "scale": 2,
    "num_experts": 3,
    "num_layers": 2,
    "embedding_dim": 8,
    "use_shuffle": True,
    "recursive": 2,
    "lr_space": "exp",
    "topk": 1,
}


@pytest.fixture(scope="module")
def network() -> SeemoRe:
    return golden.fill(SeemoRe(**CONFIG, mean=(0.3, 0.4, 0.5)), seed=3).eval()


@pytest.fixture(scope="module")
def file(network: SeemoRe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "network.onnx"
    onnx_graph.export_onnx(network, path)
    return path


def onnx_runtime(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more would spin, on machines that have other work
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"lr": x})[0]


def open_vino(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: compiled(x)[0]


RUNTIMES = pytest.mark.parametrize("runtime", [onnx_runtime, open_vino])


def pictures(count: int, height: int, width: int) -> Tensor:
    """From dark to bright, in different colours: [count, 3, height, width]."""
    x = torch.rand(count, 3, height, width)
    x *= torch.linspace(0.1, 1, count)[:, None, None, None]
    return x.roll(1, dims=1) if height % 2 else x


def exact(network: reference.SeemoRe, x: Tensor) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Output in float64, and the experts that each image takes in each layer."""
    double = check.plain(network, torch.float64)
    with torch.no_grad():
        return double(x.double()), check.routes(double, x.double())


@RUNTIMES
def test_every_image_takes_its_own_experts_at_any_size(
    runtime: Callable, network: SeemoRe, file: Path, assert_close: Callable[..., None]
) -> None:
    run = runtime(file)
    routes = set()
    for n, h, w in [(1, 16, 16), (3, 16, 16), (3, 17, 31), (1, 45, 33), (1, 33, 80), (3, 64, 19)]:
        x = pictures(n, h, w)
        want, experts = exact(network, x)
        assert_close(torch.from_numpy(run(x.numpy())), want, 1e-5)
        routes |= set(experts)
    example = exact(network, check.example_and_sizes(network)[0])[1]
    assert routes - set(example), "no picture took another way than those the graph was traced with"
    assert len(routes) >= 2


@pytest.fixture(scope="module")
def golden_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vectors = golden.load("t_x2_odd")
    path = tmp_path_factory.mktemp("golden") / "t.onnx"
    onnx_graph.export_onnx(vectors.fill(reference.SeemoRe(**vectors.config)), path)
    return path


@pytest.mark.full
@RUNTIMES
def test_the_golden_network(runtime: Callable, golden_file: Path, assert_close: Callable[..., None]) -> None:
    vectors = golden.load("t_x2_odd")
    got = runtime(golden_file)(vectors.x.float().numpy())
    assert_close(torch.from_numpy(got), vectors.expected["output"], 1e-5)


def test_standard_operators_and_free_sizes_only(file: Path) -> None:
    model = onnx.load(str(file))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 9, "the first that has opset 20; onnxruntime 1.17 knows no newer one"
    assert {node.domain for node in model.graph.node} == {""}
    assert len(model.functions) == 0
    (lr,), (sr,) = model.graph.input, model.graph.output
    assert (lr.name, sr.name) == ("lr", "sr")
    dims = lr.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["n", 3, "h", "w"]


def test_nothing_of_this_machine_is_in_the_file(file: Path) -> None:
    assert str(Path(onnx_graph.__file__).parent).encode() not in file.read_bytes()
    assert [path.name for path in file.parent.iterdir()] == ["network.onnx"], "no side files"


OLDER = 18
"""An opset in which GELU is no node."""


@pytest.fixture(scope="module")
def short() -> SeemoRe:
    """One layer, which the exporter takes half the time for, where the routes of two do not matter."""
    return golden.fill(SeemoRe(**{**CONFIG, "scale": 4, "num_layers": 1, "recursive": 1}), seed=3).eval()


@pytest.fixture(scope="module")
def older_file(short: SeemoRe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("older") / "t-x4.onnx"
    onnx_graph.export_onnx(short, path, opset=OLDER)
    return path


def test_an_older_opset(older_file: Path) -> None:
    model = onnx.load(str(older_file))
    assert model.opset_import[0].version == OLDER
    assert model.ir_version == 8, "what runtimes of opset 18 know"
    assert "Gelu" not in {node.op_type for node in model.graph.node}


def test_the_model_stays_as_it_was(network: SeemoRe, file: Path) -> None:
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.backend == "auto"


def test_a_graph_that_computes_something_else_is_not_delivered(
    network: SeemoRe, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    others = SeemoRe(**network.config)
    others.load_state_dict({name: weight * 1.001 for name, weight in network.state_dict().items()})
    monkeypatch.setattr(onnx_graph, "_write", lambda plain, path, opset: shutil.copyfile(file, path))
    with pytest.raises(SeemoreError, match="differs from float64 by"):
        onnx_graph.export_onnx(others, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


def test_the_check_looks_at_different_routes(network: SeemoRe) -> None:
    plain, double = check.plain(network), check.plain(network, torch.float64)
    x = check._differently_routed(plain, double)
    assert x.shape == (3, 3, 19, 17)
    assert len(set(check.routes(double, x.double()))) == 3


def test_the_check_sees_a_coarse_map_that_is_taken_for_one_pixel(
    network: SeemoRe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AOTInductor once compiled that, from an example whose coarsest map was one pixel high."""
    plain, resize = check.plain(network), torch.nn.functional.interpolate

    def run(x: Tensor) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.nn.functional,
                "interpolate",
                lambda coarse, *args, **named: resize(coarse[..., :1, :], *args, **named),
            )
            return plain(x)

    with pytest.raises(SeemoreError, match=r"differs .* for a batch of \(1, 3, 49, 67\)"):
        check.check(plain, run, "test")


@pytest.fixture(scope="module")
def half_file(network: SeemoRe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("half") / "network.onnx"
    onnx_graph.export_onnx(network, path, fp16=True)
    return path


@RUNTIMES
def test_float16(runtime: Callable, network: SeemoRe, half_file: Path, file: Path) -> None:
    half = check.plain(network, torch.float16)
    x = check._differently_routed(half, check.plain(network, torch.float64))
    want = exact(network, x)[0]
    got = torch.from_numpy(runtime(half_file)(x.numpy()))
    assert got.dtype == torch.float16
    assert golden.relative_l2(got, want) <= 2 * golden.relative_l2(half(x), want)
    assert half_file.stat().st_size < file.stat().st_size


@pytest.mark.parametrize("opset", [17, 99])
def test_opsets_that_are_refused(network: SeemoRe, tmp_path: Path, opset: int) -> None:
    with pytest.raises(SeemoreError, match=r"opset must lie in 18\.\."):
        onnx_graph.export_onnx(network, tmp_path / "x.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(network: SeemoRe, tmp_path: Path) -> None:
    with pytest.raises(SeemoreError, match=r"none/x\.onnx: cannot be written"):
        onnx_graph.export_onnx(network, tmp_path / "none" / "x.onnx")


def test_without_the_packages_it_says_what_to_install(
    network: SeemoRe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SeemoreError, match=r"ONNX export needs pip install 'seemore-fast\[export\]'"):
        onnx_graph.export_onnx(network, tmp_path / "x.onnx")


def test_the_recipe_for_other_runtimes_runs(
    short: SeemoRe, older_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/export.md's, with the providers that there are."""
    monkeypatch.chdir(older_file.parent)
    page = (ROOT / "docs/export.md").read_text()
    (script,) = (s for s in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "providers" in s)
    names: dict[str, Any] = {}
    exec(compile(script, "export.md", "exec"), names)
    with torch.inference_mode():
        expected = short(torch.from_numpy(names["small"]))
    assert relative_l2(torch.from_numpy(names["large"]), expected.double()) < 2e-5
