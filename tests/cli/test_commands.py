"""The command line: what it writes, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from seemore_fast import image
from seemore_fast.backends import choice, native
from seemore_fast.cli import app
from seemore_fast.engines import self_check as of_engine
from seemore_fast.image import Image, read, write
from seemore_fast.measure import environment, self_checks
from seemore_fast.model import SeemoRe, load
from seemore_fast.network import checkpoint, weights
from seemore_fast.ops import _self_check as of_operators
from seemore_fast.system.folders import without_paths
from seemore_fast.upscale.upscaler import Upscaler
from tests.support.small import SMALL
from tests.support.warm import python


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network so small that the command's own work is what the tests wait for."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    checkpoint.save(SeemoRe(**SMALL), path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(["a.png", "b.jpg", "c.webp"]):
        write(folder / name, Image(noise(12, 17, 3, seed=seed)))
    (folder / "notes.txt").write_text("not a picture")
    (folder / "._a.png").write_text("left by a file manager")
    return folder


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    return result


def fails(*args: object, code: int, message: str) -> None:
    """The command ends with ``code`` and one line on stderr that has ``message`` in it."""
    result = run(*args, code=code)
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("seemore-fast: ")
    assert message in lines[0]
    assert result.stdout == ""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# upscale: what comes out


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_file_becomes_a_file(tmp_path: Path, network: Path, channels: int) -> None:
    pixels = noise(21, 34, channels)
    write(tmp_path / "in.png", Image(pixels))
    run("upscale", "-i", tmp_path / "in.png", "-o", tmp_path / "new" / "out.png", "--model", network)
    expected = Upscaler(network).up(pixels)
    np.testing.assert_array_equal(read(tmp_path / "new" / "out.png").pixels, expected)
    assert names(tmp_path / "new") == ["out.png"]


def test_the_bundled_weights_enlarge_by_four(tmp_path: Path) -> None:
    pixels = np.full((20, 24, 3), (180, 120, 60), np.uint8)
    write(tmp_path / "in.png", Image(pixels))
    run("upscale", "-i", tmp_path / "in.png", "-o", tmp_path / "out.png")
    out = read(tmp_path / "out.png").pixels
    assert out.shape == (80, 96, 3)
    assert np.abs(out[16:-16, 16:-16].astype(int) - pixels[0, 0]).max() <= 12


def test_a_folder_keeps_names_and_formats(tmp_path: Path, network: Path, photos: Path) -> None:
    out = tmp_path / "out"
    run("upscale", "-i", photos, "-o", out, "--model", network)
    assert names(out) == ["a.png", "b.jpg", "c.webp"]
    assert {read(path).pixels.shape for path in out.iterdir()} == {(24, 34, 3)}
    run("upscale", "-i", photos, "-o", photos, "--model", network, "--suffix", "_x2", "--ext", "png")
    pictures = ["a.png", "a_x2.png", "b.jpg", "b_x2.png", "c.webp", "c_x2.png"]
    assert names(photos) == ["._a.png", *pictures, "notes.txt"]


def test_patterns_and_arguments_name_each_input_once(tmp_path: Path, network: Path, photos: Path) -> None:
    out = tmp_path / "out"
    same = photos / "a.png", photos / ".." / "photos" / "a.png", photos / "?.jpg"
    run("upscale", "-i", photos / "*.png", *same, "-o", out, "--model", network)
    assert names(out) == ["a.png", "b.jpg"]


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path, network: Path) -> None:
    write(tmp_path / "[1].png", Image(noise(4, 4, 3)))
    run("upscale", "-i", tmp_path / "[1].png", "-o", tmp_path / "out.png", "--model", network)
    assert (tmp_path / "out.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (3, 20_000), (20_000, 3)])
def test_extreme_sizes(tmp_path: Path, network: Path, size: tuple[int, int]) -> None:
    write(tmp_path / "in.png", Image(noise(*size, 3)))
    run("upscale", "-i", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", network)
    assert read(tmp_path / "out.png").pixels.shape == (2 * size[0], 2 * size[1], 3)


def test_options_reach_the_network(tmp_path: Path, network: Path) -> None:
    pixels = noise(50, 70, 3)
    write(tmp_path / "in.png", Image(pixels))
    common = "upscale", "-i", tmp_path / "in.png", "--model", network, "--backend", "reference"
    threads = torch.get_num_threads()
    try:
        tiles = "--tile", 32, "--tile-mode", "local", "--tile-overlap", 4
        run(*common, "-o", tmp_path / "tiled.png", *tiles, "--threads", 1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    reference = {"model": network, "backend": "reference"}
    tiled = Upscaler(**reference, tile=32, tile_mode="local", overlap=4).up(pixels)
    np.testing.assert_array_equal(read(tmp_path / "tiled.png").pixels, tiled)
    run(*common, "-o", tmp_path / "bf16.png", "--dtype", "bf16")
    rounded = Upscaler(**reference, dtype="bf16").up(pixels)
    np.testing.assert_array_equal(read(tmp_path / "bf16.png").pixels, rounded)
    assert (rounded != Upscaler(**reference).up(pixels)).any()


def test_profile_and_orientation_reach_the_output(tmp_path: Path, network: Path) -> None:
    from PIL import Image as Pillow
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Pillow.Exif()
    exif[0x0112] = 6  # a quarter turn
    Pillow.fromarray(noise(10, 16, 3)).save(tmp_path / "in.jpg", exif=exif, icc_profile=profile)
    run("upscale", "-i", tmp_path / "in.jpg", "-o", tmp_path / "out.webp", "--model", network)
    out = read(tmp_path / "out.webp")
    assert out.pixels.shape == (32, 20, 3)
    assert out.icc_profile == profile


# upscale: pictures that fail (exit status 1)


def test_one_bad_picture_does_not_stop_the_others(tmp_path: Path, network: Path, photos: Path) -> None:
    (photos / "aa.png").write_text("text")
    (photos / "b.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    result = run("upscale", "-i", photos, "-o", tmp_path / "out", "--model", network, code=1)
    lines = result.stderr.splitlines()
    assert len(lines) == 6
    assert lines[0].endswith(
        "aa.png: not a PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, JPEG XL, HEIC or OpenEXR image"
    )
    assert "b.jpg: truncated or damaged" in lines[1]
    assert lines[2] == "seemore-fast: 2 of 4 pictures written, 2 failed"
    assert [line.rpartition("/")[2] for line in lines[3:5]] == ["aa.png", "b.jpg"]
    assert re.fullmatch(r"  0.00 MP to 0.0 MP in .* s: .* MP/s, \d+% of the time in the network", lines[5])
    assert names(tmp_path / "out") == ["a.png", "c.webp"]


def test_a_single_bad_picture_is_one_line(tmp_path: Path, network: Path) -> None:
    source, out = tmp_path / "in.png", tmp_path / "out"
    common = "upscale", "-i", source, "--model", network, "-o"
    source.write_text("text")
    fails(
        *common,
        out,
        code=1,
        message="in.png: not a PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, JPEG XL, HEIC or OpenEXR image",
    )
    write(source, Image(noise(30, 30, 4)))
    fails(*common, tmp_path / "out.jpg", code=1, message="JPEG has no transparency")
    write(source, Image(noise(40, 30, 3)))
    message = "30x40 is over the limit of 0.001 megapixels"
    fails(*common, out, "--max-megapixels", "0.001", code=1, message=message)
    source.write_bytes(source.read_bytes()[:-200])
    fails(*common, out, code=1, message="in.png: truncated or damaged")
    write(source, Image(noise(1, 9000, 1)))
    fails(*common, tmp_path / "out.webp", code=1, message="18000x2 is too large for WebP")
    assert names(out) == []
    assert names(tmp_path) == ["in.png", "out"]


def test_a_format_that_cannot_hold_the_result_costs_no_computation(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upscaler, "stream", lambda *_, **__: pytest.fail("computed in vain"))
    write(tmp_path / "in.png", Image(noise(8, 9, 4)))
    args = "upscale", "-i", tmp_path / "in.png", "-o", tmp_path / "out.jpg", "--model", network
    fails(*args, code=1, message="JPEG has no transparency")


def test_out_of_memory_is_one_line(tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise MemoryError("not even tiles of 40 pixels fit into memory")

    monkeypatch.setattr(Upscaler, "stream", give_up)
    write(tmp_path / "in.png", Image(noise(8, 9, 3)))
    common = "upscale", "-i", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", network
    fails(*common, code=1, message="in.png: not even tiles of 40 pixels fit")


# upscale: arguments that cannot work (exit status 2), before anything is written


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-i", "missing.png", "-o", "out"], "missing.png: no such file or folder"),
        (["-i", "photos", "-i", "missing.png", "-o", "out"], "missing.png: no such file or folder"),
        (["-i", "photos/*.ppm", "-o", "out"], "photos/*.ppm: no picture matches"),
        (["-i", "empty", "-o", "out"], "empty: no pictures in this folder"),
        (["-o", "out"], "no input"),
        (["-i", "photos", "-o", "photos"], "photos/a.png: would overwrite an input"),
        (["-i", "photos/a.png", "-o", "photos/../photos/a.png"], "would overwrite an input"),
        (["-i", "photos/a.png", "-o", "link.png"], "link.png: would overwrite an input"),
        (["-i", "photos", "-i", "other/a.png", "-o", "out"], "out/a.png: both photos/a.png and other/a.png"),
        (["-i", "photos", "-o", "out.png"], "out.png: several inputs, or a folder, need a folder"),
        (
            ["-i", "photos/a.png", "-o", "out.png", "--ext", "png"],
            "--ext and --suffix name files in a folder",
        ),
        (["-i", "photos/a.png", "-o", "notes.txt"], "notes.txt: is neither a folder nor named like"),
        (["-i", "photos/a.png", "-o", "out", "--suffix", "../x"], "suffix must be part of a file name"),
        (["-i", "photos/a.png", "-o", "notes.txt/out"], "notes.txt/out: cannot write here (Not a directory)"),
        (["-i", "photos/a.png", "-o", "out", "--tile", "7"], "tile must be auto, 0"),
        (["-i", "photos", "-o", "out", "--tile", "64", "--tile-overlap", "17"], "overlap must lie in 0..16"),
        (["-i", "photos/a.png", "-o", "out", "--device", "cuda"], "device cuda: PyTorch"),
        (["-i", "photos/a.png", "-o", "out", "--device", "cpu", "--dtype", "fp16"], "fp16 needs a GPU"),
        (["-i", "photos/a.png", "-o", "out", "--backend", "abacus"], "abacus"),
        (["-i", "photos/a.png", "-o", "out", "--model", "t-x5"], "t-x5"),
        (["-i", "photos/a.png", "-o", "out", "--model", "nan.pth"], "nan.pth"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path,
    network: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for folder in ("empty", "other"):
        Path(folder).mkdir()
    write("other/a.png", Image(noise(5, 5, 3)))
    Path("notes.txt").touch()
    Path("link.png").symlink_to("photos/a.png")
    state = load(network).state_dict()
    state["conv_1.bias"] = torch.full_like(state["conv_1.bias"], torch.nan)
    torch.save({"params": state}, "nan.pth")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    fails("upscale", *args, *([] if "--model" in args else ["--model", network]), code=2, message=message)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into any folder")
def test_a_folder_without_permission(tmp_path: Path, network: Path, photos: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    message = "out: cannot write here (Permission denied)"
    fails("upscale", "-i", photos, "-o", tmp_path / "out", "--model", network, code=2, message=message)


def test_an_option_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    assert "--frobnicate" in run("upscale", "--frobnicate", code=2).stderr


# upscale: interrupted (exit status 130)


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, network: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, written = os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        if len(written) == 1:
            assert Path(source).exists()
            raise KeyboardInterrupt
        written.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    out = tmp_path / "out"
    fails("upscale", "-i", photos, "-o", out, "--model", network, code=130, message="interrupted")
    assert len(names(out)) == 1


def command(*args: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    line = [*python(), "-m", "seemore_fast.cli", *map(str, args)]
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def test_ctrl_c_in_a_real_process(tmp_path: Path, network: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write(source / "0000.png", Image(noise(64, 64, 3)))
    for index in range(1, 3000):  # so many that it cannot be done before the signal comes
        os.link(source / "0000.png", source / f"{index:04}.png")
    process = command("upscale", "-i", source, "-o", out, "--model", network)
    deadline = time.monotonic() + 60
    while not (out.is_dir() and any(out.glob("*.png"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no picture was written"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "seemore-fast: interrupted\n")
    done = names(out)
    assert 0 < len(done) < 3000
    assert all(read(out / name).pixels.shape == (128, 128, 3) for name in done)


def test_errors_of_a_real_process_have_no_traceback(tmp_path: Path, network: Path) -> None:
    (tmp_path / "in.png").write_text("text")
    process = command("upscale", "-i", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model", network)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.startswith(f"seemore-fast: {tmp_path / 'in.png'}: not a PNG, JPEG, WebP, TIFF")
    assert stderr.count("\n") == 1


def test_help_does_not_load_torch() -> None:
    code = (
        "import sys; from seemore_fast.cli import app; app(['upscale', '--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--tile-overlap" in done.stdout


# info


def test_info_as_json_is_complete_and_names_no_path() -> None:
    text = run("info", "--json").stdout
    found = json.loads(text)
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert list(found["backends"]) == list(choice.NAMES)
    assert found["backends"]["reference"] is None
    assert found["weights"] == weights.names()
    if native.lib is not None:
        assert found["native"]["isa"] in found["native"]["isas"]
    for folder in (Path.home(), Path.cwd(), Path(image.__file__).parent):
        assert f"{folder}/" not in text


def test_info_as_table_says_why_a_backend_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"cuda": "no cuda in /home/ann/lib/cuda.so"}
    monkeypatch.setattr(choice, "missing", reasons.get)
    monkeypatch.setenv("SEEMORE_BACKEND", "reference")
    rows = [line.split() for line in run("info").stdout.splitlines()]
    assert ["backend", "cuda", "missing:", "no", "cuda", "in", "cuda.so"] in rows
    assert ["backend", "reference", "available"] in rows
    assert ["SEEMORE_BACKEND", "reference"] in rows


def test_info_shows_the_verdicts_on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = of_operators.Verdict
    failed = verdict("the kernels' self-check failed: no /home/ann/x.so", 9.6)
    monkeypatch.setattr(of_operators, "verdicts", {("sme", "cuda:0", "fp16", ("C", 36)): verdict(None, 41.2)})
    kinds = {("cuda:0", "fp32", 1): failed, ("cuda:0", "fp32", 2): verdict(None, 20)}
    monkeypatch.setattr(of_engine, "verdicts", kinds)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(environment, "_gpus", list)
    checked: list[torch.device] = []
    monkeypatch.setattr(self_checks, "run", checked.append)
    assert json.loads(run("info", "--check", "--json").stdout)["self_checks"] == {
        "operator sme, fp16 on cuda:0": {"why": None, "ms": 41.2},
        # Of two kinds of network the one that was refused.
        "CUDA engine, fp32 on cuda:0": {"why": "the kernels' self-check failed: no x.so", "ms": 9.6},
    }
    shown = [" ".join(line.split()) for line in run("info").stdout.splitlines()]
    assert "check of operator sme, fp16 on cuda:0 passed (41 ms)" in shown
    assert checked == [torch.device("cuda", 0), torch.device("cuda", 1)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_info_has_nothing_to_check_without_a_gpu() -> None:
    fails("info", "--check", code=2, message="there is nothing to check: PyTorch finds no GPU")


@pytest.mark.parametrize(
    ("system", "machine", "tier"),
    [
        ("Linux", "x86_64", "1"),
        ("Linux", "aarch64", "2"),
        ("Windows", "AMD64", "2"),
        ("Darwin", "arm64", "3"),
    ],
)
def test_info_names_the_platform_s_tier(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str, tier: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert environment._tier().startswith(f"{tier}: ")


def test_info_survives_an_instruction_set_that_is_not_there() -> None:
    if native.lib is None:
        pytest.skip(f"no native library: {native.error}")
    process = command("info", "--json", env={**os.environ, "SEEMORE_ISA": "v99"})
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    found = json.loads(stdout)
    assert found["native"]["isa"] is None
    assert "v99" in found["native"]["error"]
    assert found["variables"]["SEEMORE_ISA"] == "v99"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ann/venv/lib/_C.so: undefined symbol: f", "_C.so: undefined symbol: f"),
        (f"cannot open '{Path.home()}/lib.so'", "cannot open 'lib.so'"),
        ("km/h and 3 / 4 stay", "km/h and 3 / 4 stay"),
        (r"D:\venv\ann\_C.pyd: DLL load failed", "_C.pyd: DLL load failed"),
        (r"no \\server\ann\x.dll, nor C:/ann/y.dll", "no x.dll, nor y.dll"),
        (r"a name like \u732b stays", r"a name like \u732b stays"),
        (None, None),
    ],
)
def test_paths_are_cut_to_names(text: str | None, expected: str | None) -> None:
    assert without_paths(text) == expected
