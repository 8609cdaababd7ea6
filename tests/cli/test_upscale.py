"""``seemore-fast upscale`` as people use it: trees, streams, sizes, animations, other tools' flags."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from typer.testing import CliRunner, Result

from seemore_fast import SeemoRe, Upscaler
from seemore_fast.cli import app
from seemore_fast.errors import ImageError
from seemore_fast.image import Animation, Image, Writer, read, write
from seemore_fast.network import checkpoint
from seemore_fast.upscale.jobs import Job, plan_jobs
from tests.support.warm import python


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network for x2 that takes no time."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model = SeemoRe(2, 3, num_experts=3, num_layers=1, embedding_dim=8, lr_space="exp", topk=1)
    checkpoint.save(model, path)
    return path


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def run(network: Path, *args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["upscale", *map(str, args), "--model", str(network)])
    assert result.exit_code == code, result.output
    return result


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_keeps_its_tree(tmp_path: Path, network: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "in" / "large"
    for name in ("a.png", "sub/b.jpg", "sub/deep/ü.tif", ".hidden/c.png", "sub/.d.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write(source / name, Image(noise(9, 8, 3)))
    (source / "sub/notes.txt").touch()
    for _ in range(2):  # the second time outputs lie below the input folder
        run(network, "-i", source, "-o", out, "--suffix", "_x2", "--ext", "webp")
        assert tree(out) == ["a_x2.webp", "sub/b_x2.webp", "sub/deep/ü_x2.webp"]


def test_skip_existing_leaves_them_alone(tmp_path: Path, network: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.png", Image(noise(8, 8, 1)))
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.png").write_text("mine")
    (out / ".0123456789abcdef.part").touch()
    result = run(network, *tmp_path.glob("*.png"), "-o", out, "--skip-existing")
    assert "2 of 3 pictures written, 1 skipped" in result.stderr
    assert (out / "1.png").read_text() == "mine"
    assert tree(out) == ["0.png", "1.png", "2.png"]


def test_ext_auto_makes_png_of_alpha(tmp_path: Path, network: Path) -> None:
    """As Real-ESRGAN: the input's kind, but PNG for a picture with an alpha channel, opaque or not."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    opaque = noise(9, 8, 4)
    opaque[..., 3] = 255
    for name, pixels in [
        ("alpha.webp", noise(9, 8, 4)),
        ("opaque.tif", opaque),
        ("deep.tif", noise(9, 8, 4, dtype=np.uint16)),
        ("gray.tif", noise(9, 8, 2)),
        ("rgb.webp", noise(9, 8, 3)),
        ("light.tif", np.zeros((9, 8, 4), np.float32)),
    ]:
        write(source / name, Image(pixels))
    write(source / "moving.webp", Image(noise(18, 8, 4), animation=Animation(2, (50, 50), 0)))
    (source / "broken.webp").write_bytes(b"none")
    run(network, "-i", source, "-o", out, "--ext", "auto", code=1)
    assert tree(out) == [
        *("alpha.png", "deep.png", "gray.png", "light.tif", "moving.webp", "opaque.png", "rgb.webp")
    ]
    assert read(out / "opaque.png").pixels.shape == (18, 16, 4)
    assert read(out / "deep.png").pixels.dtype == np.uint16
    run(network, source / "alpha.webp", "-o", tmp_path / "file.webp", "--ext", "auto")
    write(source / "alpha.png", Image(noise(9, 8, 3)))
    with pytest.raises(ImageError, match=r"alpha\.png: both .* would be written there"):
        plan_jobs([str(source)], out, "auto")


@pytest.mark.parametrize(("channels", "magic"), [(4, b"\x89PNG"), (3, b"II*\0")])
def test_ext_auto_of_standard_output(tmp_path: Path, network: Path, channels: int, magic: bytes) -> None:
    write(tmp_path / "a.tif", Image(noise(9, 8, channels)))
    arguments = ["upscale", tmp_path / "a.tif", "-o", "-", "--ext", "auto", "--model", network]
    command = [*python(), "-m", "seemore_fast.cli", *arguments]
    assert subprocess.run(command, capture_output=True, check=True).stdout.startswith(magic)


def test_a_manifest_names_inputs_and_outputs(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "b/1.png", "c.png"):
        Path(name).parent.mkdir(exist_ok=True)
        write(name, Image(noise(9, 8, 3)))
    lines = ["a/1.png", "", "./b/1.png\r", f"{tmp_path}/c.png\tx/y.webp", "a/1.png\tagain.png", "gone.png"]
    Path("list.txt").write_text("\n".join(lines))
    result = run(network, "--manifest", "list.txt", "-o", "out", "--suffix", "_x2", code=1)
    assert tree(tmp_path / "out") == ["a/1_x2.png", "again.png", "b/1_x2.png", "x/y.webp"]
    assert result.stderr.startswith("seemore-fast: gone.png: No such file or directory\n")
    assert "4 of 5 pictures written, 1 failed" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "list.txt: cannot be read (No such file or directory)"),
        ("\n", "list.txt: no pictures in this manifest"),
        ("a.png\n../a.png\n", "list.txt:2: such a path needs a tab and the output's path behind it"),
        ("/\n", "list.txt:1: such a path needs"),
        ("a.png\tx.png\nb.png\tx.png\n", "x.png: both a.png and b.png would be written there"),
    ],
)
def test_manifests_that_cannot_be(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ImageError, match=re.escape(message)):
        plan_jobs([], tmp_path / "out", manifest=tmp_path / "list.txt")


def test_standard_input_and_output(tmp_path: Path, network: Path) -> None:
    write(tmp_path / "in.jpg", Image(noise(20, 30, 3)))
    command = [*python(), "-m", "seemore_fast.cli", "upscale", "-i", "-", "-o", "-", "--model", network]
    for ext, magic in [(None, b"\x89PNG"), ("webp", b"RIFF"), ("tif", b"II*\0")]:
        done = subprocess.run(
            [*command, *(["--ext", ext] if ext else [])],
            input=(tmp_path / "in.jpg").read_bytes(),
            capture_output=True,
            check=True,
        )
        assert done.stdout.startswith(magic)
        assert done.stderr == b""
    (tmp_path / "out.tif").write_bytes(done.stdout)
    expected = Upscaler(network).up(read(tmp_path / "in.jpg").pixels)
    np.testing.assert_array_equal(read(tmp_path / "out.tif").pixels, expected)
    result = run(network, "-i", "-", "-o", "-", "--ray", code=2)
    assert "--ray takes and writes files, not standard input" in result.stderr
    done = subprocess.run(command, input=b"text", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"seemore-fast: -: not a PNG")


@pytest.mark.parametrize("scale", [0.5, 1.5, 2, 3])
def test_outscale_is_the_final_size(tmp_path: Path, network: Path, scale: float) -> None:
    write(tmp_path / "in.png", Image(noise(20, 31, 4)))
    run(network, "-i", tmp_path / "in.png", "-o", tmp_path / "out.png", "-s", scale)
    assert read(tmp_path / "out.png").pixels.shape == (round(20 * scale), round(31 * scale), 4)


@pytest.mark.parametrize("option", ["--outscale", "--max-megapixels"])
def test_endless_sizes_are_usage_errors(tmp_path: Path, network: Path, option: str) -> None:
    done = run(network, "in.png", "-o", tmp_path / "out.png", option, "inf", code=2)
    assert option in done.stderr


def test_an_encoder_without_memory_fails_one_picture(
    tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (":cat:.png", "b.png"):
        write(tmp_path / name, Image(noise(9, 8, 3)))
    encode = Writer._encode

    def starved(writer: Writer, target: int) -> None:
        if writer.path.name == ":cat:.png":
            raise MemoryError
        encode(writer, target)

    monkeypatch.setattr(Writer, "_encode", starved)
    done = run(network, tmp_path, "-o", tmp_path / "out", code=1)
    assert done.stderr.startswith(f"seemore-fast: {tmp_path}/out/:cat:.png: not enough memory to encode it\n")
    assert tree(tmp_path / "out") == ["b.png"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_go_through(tmp_path: Path, network: Path, channels: int) -> None:
    pixels = noise(12, 14, channels, dtype=np.uint16)
    write(tmp_path / "in.png", Image(pixels))
    run(network, "-i", tmp_path / "in.png", "-o", tmp_path / "out.tif")
    np.testing.assert_array_equal(read(tmp_path / "out.tif").pixels, Upscaler(network).up(pixels))


def test_animations_go_frame_by_frame(tmp_path: Path, network: Path) -> None:
    frames = noise(3, 16, 20, 3)
    write(tmp_path / "in.webp", Image(frames.reshape(48, 20, 3), animation=Animation(3, (50, 60, 70), 0)))
    run(network, "-i", tmp_path / "in.webp", "-o", tmp_path / "out.webp")
    out = read(tmp_path / "out.webp")
    assert out.animation == Animation(3, (50, 60, 70), 0)
    expected = np.concatenate(Upscaler(network).up(list(frames)))
    np.testing.assert_array_equal(out.pixels[..., :3], expected)
    run(network, "-i", tmp_path / "in.webp", "-o", tmp_path / "out.png")
    np.testing.assert_array_equal(read(tmp_path / "out.png").pixels[..., :3], expected)
    result = run(network, "-i", tmp_path / "in.webp", "-o", tmp_path / "out.jpg", code=1)
    assert "JPEG holds no animation" in result.stderr
    run(network, "-i", tmp_path / "in.webp", "-o", tmp_path / "b.gif", "-s", "3")
    assert read(tmp_path / "b.gif").pixels.shape[:2] == (3 * 48, 60)


def test_what_was_converted_is_told(tmp_path: Path, network: Path) -> None:
    Pillow.fromarray(noise(9, 9, 3)).convert("CMYK").save(tmp_path / "in.jpg")
    result = run(network, "-i", tmp_path / "in.jpg", "-o", tmp_path / "out.jpg")
    assert result.stderr == f"seemore-fast: {tmp_path / 'in.jpg'}: converted from CMYK to sRGB\n"


def test_log_of_the_network_is_told(tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Upscaler.stream

    def stream(self: Upscaler, *args: object, **kwargs: object) -> None:
        logging.getLogger("seemore_fast.upscale").warning("out of memory")
        real(self, *args, **kwargs)

    monkeypatch.setattr(Upscaler, "stream", stream)
    write(tmp_path / "in.png", Image(noise(9, 9, 3)))
    result = run(network, "-i", tmp_path / "in.png", "-o", tmp_path / "out.png")
    assert result.stderr == f"seemore-fast: {tmp_path / 'in.png'}: out of memory\n"


@pytest.mark.parametrize(
    "flags",
    [
        ["-n", "WEIGHTS", "-s", "2", "-t", "64", "--tile_pad", "8", "--fp32", "-g", "-1", "--suffix", "out"],
        ["-n", "WEIGHTS", "-s", "2", "-t", "0", "-f", "png", "-g", "-1", "--suffix", "out"],
    ],
)
def test_flags_of_other_tools(tmp_path: Path, network: Path, flags: list[str]) -> None:
    """Real-ESRGAN's, and those of its ncnn-vulkan form."""
    write(tmp_path / "in.png", Image(noise(30, 20, 3)))
    flags = [str(network) if flag == "WEIGHTS" else flag for flag in flags]
    result = CliRunner().invoke(
        app, ["upscale", "-i", str(tmp_path / "in.png"), "-o", str(tmp_path / "o"), *flags]
    )
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "o" / "inout.png").pixels.shape == (60, 40, 3)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--fp32", "--dtype", "bf16"], "--fp32 contradicts --dtype bf16"),
        (["-g", "0", "--device", "cpu"], "--gpu-id contradicts --device cpu"),
        (["--ext", "ppm"], "--ext must be one of auto, png, jpg"),
        (["--tile", "7"], "tile must be auto, 0"),
        (["--tile-mode", "both"], "tile_mode must be one of exact, local"),
        (["--device", "cuda:99"], "device cuda:99"),
        (["--ray", "-g", "1"], "--device cuda:1: with --ray auto, cpu or cuda"),
        (["-i", "-"], "needs? a folder as output|standard input has no name"),
    ],
)
def test_contradictions(tmp_path: Path, network: Path, args: list[str], message: str) -> None:
    write(tmp_path / "in.png", Image(noise(9, 9, 3)))
    result = run(network, "-i", tmp_path / "in.png", "-o", tmp_path / "out", *args, code=2)
    assert np.any([part in result.stderr for part in message.replace("needs? ", "").split("|")])
    assert not (tmp_path / "out").exists()


def test_jobs_of_streams(tmp_path: Path) -> None:
    assert plan_jobs(["-"], Path("-")) == [Job(Path("-"), Path("-"))]
    assert plan_jobs(["-"], tmp_path / "a.png") == [Job(Path("-"), tmp_path / "a.png")]
    (tmp_path / "a.png").touch()
    assert plan_jobs([str(tmp_path / "a.png")], Path("-"))[0].output == Path("-")
    assert os.listdir(tmp_path) == ["a.png"]
