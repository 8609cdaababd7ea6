"""The comparison with other software: what is counted, refused and listed.  No test depends on speed."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from seemore_fast.backends import choice, native
from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError
from seemore_fast.export import onnx_graph
from seemore_fast.measure import bench, peak
from seemore_fast.measure.peers import comparison, contenders, memory
from seemore_fast.measure.peers.contenders import Contender
from seemore_fast.model import SeemoRe
from seemore_fast.network import checkpoint, flops, reference, variants
from tests.support.small import SMALL


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    checkpoint.save(SeemoRe(**SMALL), path)
    return str(path)


def contender(name: str, dtype: str = "fp32", missing: str | None = None, prepare=None) -> Contender:
    return Contender(
        name, dtype, lambda: missing, prepare or partial(contenders._eager, torch.contiguous_format)
    )


# ---- Arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "gmacs"),
    [
        ("t-x2", 45), ("t-x3", 20), ("t-x4", 12),
        ("b-x2", 101), ("b-x3", 46), ("b-x4", 26),
        ("l-x2", 197), ("l-x3", 88), ("l-x4", 50),
    ],
)  # fmt: skip
def test_the_published_number_of_multiply_adds(variant: str, gmacs: int) -> None:
    config = variants.config(variant)
    height, width = 720 // config["scale"], round(1280 / config["scale"])
    assert abs(flops.macs(config, height, width) / 1e9 - gmacs) < 1


@pytest.mark.parametrize(
    "config", [{**variants.config(name), "num_layers": 2} for name in ("t-x3", "l-x2")] + [SMALL]
)
def test_every_convolution_is_counted(config: dict[str, object]) -> None:
    """With all experts chosen, the count is PyTorch's own of the reference network, but for the router."""
    config = {**config, "topk": config["num_experts"]}
    network = reference.SeemoRe(**config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, 3, 34, 49))
    router = config["num_layers"] * config["num_experts"] * config["embedding_dim"]
    assert flops.macs(network.config, 34, 49) == counter.get_total_flops() // 2 - router


needs_native = pytest.mark.skipif(
    choice.missing("cpu") is not None, reason="the native library does not load"
)


@needs_native
def test_kernels_say_how_much_they_did(isa: str) -> None:
    lib = native.require()
    run = partial(lib.run_kernel, channels=12, width=32)
    row = 12 * 32
    expected = {
        "product": 2 * 12 * row,
        "conv": 4 * 2 * 9 * 12 * row,  # rows come in groups of four, in bf16 of two
        "product_bf16": 2 * 12 * row,
        "conv_bf16": 2 * 2 * 9 * 12 * row,
        "gate": 2 * 9 * row,
        "stripe_across": 2 * 11 * row,
        "stripe_down": 2 * 2 * 11 * row,
        "layer_norm": row,
        "gelu": row,
    }
    names = lib.kernel_names()
    assert ("conv_bf16" in names) == isa.endswith("bf16")
    assert set(names) - set(expected) == {"fma"}
    for name in names:
        once = run(name, repeats=1, threads=1)
        assert once == expected.get(name, once) > 0
        assert run(name, repeats=3, threads=1) == 3 * once


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": "abacus"}, "no kernel 'abacus'"),
        ({"channels": 6}, "channels must be a multiple of 4"),
        ({"width": 24}, "width must be a multiple of 16"),
        ({"width": 0}, "width must be a multiple of 16"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_kernels_that_cannot_run(change: dict[str, object], message: str) -> None:
    arguments = {"kernel": "gelu", "channels": 8, "width": 16, "repeats": 1, "threads": 1, **change}
    with pytest.raises(ValueError, match=message):
        native.require().run_kernel(**arguments)


@needs_native
def test_the_peak_is_a_rate() -> None:
    assert 0.1 < peak.fma_peak(1, seconds=0.02) < 10_000


# ---- The comparison --------------------------------------------------------------------------------------


PLAIN = [c for c in contenders.ALL if not c.name.startswith(("torch.compile", "ONNX", "OpenVINO"))]


@pytest.mark.parametrize("chosen", PLAIN, ids=lambda c: c.name)
def test_ours_and_pytorch_agree_with_float64(chosen: Contender, weights: str) -> None:
    if (why := chosen.missing()) is not None:
        pytest.skip(why)
    network = bench.network_for(weights, "reference")
    x = bench.picture(3, (24, 20))
    exact, gates = comparison._oracle(network, x)
    assert gates["fp32"] == bench.GATE_FP32 < gates["bf16"] < 0.1
    call = chosen.prepare(contenders.Case(network, x, None))
    assert 0 < bench.error_of(call(), exact)[0] <= gates[chosen.dtype]
    assert network.backend == "reference"


@pytest.mark.skipif(onnx_graph.missing() is not None, reason=f"ONNX export: {onnx_graph.missing()}")
@pytest.mark.parametrize("name", ["ONNX Runtime", "OpenVINO f32", "OpenVINO bf16"])
def test_runtimes_agree_with_float64(name: str, weights: str, onnx_file: Path) -> None:
    (chosen,) = [c for c in contenders.ALL if c.name == name]
    if (why := chosen.missing()) is not None:
        pytest.skip(why)
    network = bench.network_for(weights, "reference")
    x = bench.picture(3, (24, 20))
    exact, gates = comparison._oracle(network, x)
    call = chosen.prepare(contenders.Case(network, x, onnx_file))
    assert 0 < bench.error_of(call(), exact)[0] <= max(gates[chosen.dtype], bench.GATE_FP32)


@pytest.fixture(scope="module")
def onnx_file(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    onnx_graph.export_onnx(bench.network_for(weights, "reference"), path)
    return path


def test_ratios_are_ours_against_each_of_the_same_dtype() -> None:
    ours = contenders.OURS
    everyone = [
        contender(f"{ours} fp32"), contender(f"{ours} bf16", "bf16"), contender("slow"),
        contender("wrong"), contender("rough", "bf16"), contender("absent"),
    ]  # fmt: skip
    times = {
        f"{ours} fp32": [2.0, 1.0, 9.0],
        f"{ours} bf16": [1.0],
        "slow": [8.0],
        "wrong": [4.0],
        "rough": [5.0],
    }
    errors = dict.fromkeys(times, (1e-6, 1e-6)) | {"wrong": (2e-5, 1.0), "rough": (math.nan, math.nan)}
    results = comparison._results(
        everyone,
        times,
        errors,
        {"fp32": 1e-5, "bf16": 1e-3},
        dict.fromkeys(times, 7.0),
        {"absent": "why"},
        1.0,
    )
    found = {r.name: r for r in results}
    assert (found[f"{ours} fp32"].median_ms, found[f"{ours} fp32"].min_ms, found[f"{ours} fp32"].max_ms) == (
        2,
        1,
        9,
    )
    assert found["slow"].ratio == 4
    assert found["slow"].floor_share == 1 / 8
    assert found[f"{ours} bf16"].floor_share is None, "the peak measured is that of fp32"
    for name in ("wrong", "rough"):
        assert not found[name].passed
        assert found[name].ratio is None
    assert (found["absent"].error, found["absent"].median_ms) == ("why", None)


def test_no_ratio_where_ours_is_wrong() -> None:
    ours = f"{contenders.OURS} fp32"
    everyone = [contender(ours), contender("other")]
    times = {ours: [1.0], "other": [2.0]}
    errors = {ours: (1e-4, 1e-4), "other": (0.0, 0.0)}
    results = comparison._results(
        everyone, times, errors, {"fp32": 1e-5}, {ours: 1.0, "other": "no room"}, {}, None
    )
    assert [r.ratio for r in results] == [None, None]
    assert (results[1].bytes_per_pixel, results[1].memory_error) == (None, "no room")
    assert not comparison.Comparison("m", (1, 1), 1.0, None, results).passed


def test_short_calls_are_repeated_within_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_TURN_SECONDS", 0.02)
    log: list[str] = []
    times = comparison._turns({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, runs=2)
    assert [len(values) for values in times.values()] == [2, 2]
    changes = sum(here != there for here, there in pairwise(log))
    assert changes == 3, "a, b, a, b"
    assert log.count("a") > 2


@pytest.fixture
def two_contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_case: contenders.Case) -> contenders.Call:
        raise RuntimeError("no such device\nat /home/somebody/lib.py")

    everyone = (
        contender("PyTorch"),
        contender("broken", prepare=breaks),
        contender("absent", missing="not here"),
    )
    monkeypatch.setattr(contenders, "ALL", everyone)
    monkeypatch.setattr(onnx_graph, "export_onnx", lambda *_: None)
    monkeypatch.setattr(memory, "peak_bytes", lambda *_: 384_000)


@pytest.mark.usefixtures("two_contenders")
def test_the_command_lists_what_is_missing_and_goes_on(weights: str, tmp_path: Path) -> None:
    options = ["--peers", "--model", weights, "--size", "24x20", "--size", "16x16", "--runs", "2"]
    result = CliRunner().invoke(app, ["bench", *options, "--json", str(tmp_path / "p.json")])
    assert result.exit_code == 0, result.output
    assert "broken: no such device" in result.stdout
    assert "absent: not here" in result.stdout
    data = json.loads((tmp_path / "p.json").read_text())
    assert data["settings"]["peers"] == comparison.versions()
    assert [case["size"] for case in data["cases"]] == [[24, 20], [16, 16]]
    for case in data["cases"]:
        first, broken, absent = case["results"]
        assert first["passed"]
        assert first["bytes_per_pixel"] == 384_000 / (case["size"][0] * case["size"][1])
        assert (broken["error"], absent["error"]) == ("no such device", "not here")


@pytest.mark.usefixtures("two_contenders")
@pytest.mark.parametrize(
    ("model", "size", "message"),
    [("t-x2", (15, 20), "size must be at least 16x16"), ("x", (16, 16), "neither a")],
)
def test_what_cannot_be_compared(model: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(SeemoreError, match=message):
        comparison.run(model, size)


# ---- Memory ----------------------------------------------------------------------------------------------


def test_memory_of_one_call_is_measured_in_another_process(weights: str) -> None:
    size = (320, 240)
    used = memory.peak_bytes(contenders.__name__, ["PyTorch", weights, size, None]) / (320 * 240)
    # The largest tensor alone has 2 C = 16 channels; all that the network ever makes, some 200.
    assert 4 * 16 < used < 4 * 400


def test_a_measuring_process_that_fails_says_why(weights: str) -> None:
    with pytest.raises(RuntimeError, match="there is no ONNX file"):
        memory.peak_bytes(contenders.__name__, ["ONNX Runtime", weights, (16, 16), None])
