"""Paired folders and ``seemore-fast eval``: figures, files, and faults named before any work."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from seemore_fast import evaluate
from seemore_fast.backends import native
from seemore_fast.cli import app
from seemore_fast.data.metrics import psnr, ssim
from seemore_fast.data.pairs import Pair, check_sizes, find_pairs, read_pair
from seemore_fast.data.resize import enlarge, imresize
from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.image import Image, read, write
from seemore_fast.model import SeemoRe, load
from seemore_fast.network import checkpoint, variants
from seemore_fast.options import schema
from seemore_fast.upscale.upscaler import Upscaler
from tests.support.small import SMALL

NAMES = ["bird", "cat", "dog"]


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Soft random shapes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    return imresize(coarse, 4)[:height, :width]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set5/{HR,LR} with three pairs for x2, the second's HR a column wider, and small.safetensors."""
    for index, name in enumerate(NAMES):
        truth = picture(40 + 4 * index, 48, index)
        (tmp_path / "Set5" / "HR").mkdir(parents=True, exist_ok=True)
        (tmp_path / "Set5" / "LR").mkdir(exist_ok=True)
        write(tmp_path / "Set5" / "LR" / f"{name}.png", Image(imresize(truth, 1 / 2)))
        wider = np.pad(truth, [(0, 0), (0, index % 2), (0, 0)])
        write(tmp_path / "Set5" / "HR" / f"{name}.png", Image(wider))
    torch.manual_seed(0)
    checkpoint.save(SeemoRe(**SMALL), tmp_path / "small.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = """
name: Small
model_type: SRModel
scale: 2
num_gpu: 0
datasets:
  val:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: Set5/HR
    dataroot_lq: Set5/LR
network_g:
  type: SeemoRe
  scale: 2
  num_experts: 3
  num_layers: 1
  embedding_dim: 8
  recursive: 1
  lr_space: exp
  topk: 1
path:
  pretrain_network_g: small.safetensors
"""


def run(*args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["eval", *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def fails(message: str, *args: object) -> None:
    """The command ends with status 2 and one line on stderr that has ``message`` in it."""
    result = run(*args, code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("seemore-fast: ")
    assert message in result.stderr


def test_the_network_goes_to_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to another GPU than the first."""

    def load(name: str, device: object, backend: str) -> None:
        raise SeemoreError(f"on {device}")

    monkeypatch.setattr("seemore_fast.backends.devices.pick_device", torch.device)
    monkeypatch.setattr("seemore_fast.model.load", load)
    fails("on cuda:1", "--model", "t-x4", "--data", "gt", "lq", "--device", "cuda:1")


# Pairs


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_pairs_by_template_whatever_the_format(tmp_path: Path) -> None:
    gt = touch(tmp_path / "gt", "b.png", "a.jpg", "notes.txt", ".hidden.png")
    lq = touch(tmp_path / "lq", "a_LRBI_x4.png", "b_LRBI_x4.webp")
    expected = [
        Pair("a", gt / "a.jpg", lq / "a_LRBI_x4.png"),
        Pair("b", gt / "b.png", lq / "b_LRBI_x4.webp"),
    ]
    assert find_pairs(gt, lq, "{}_LRBI_x4") == expected


def test_a_list_chooses_the_pairs(tmp_path: Path) -> None:
    gt, lq = (touch(tmp_path / side, "a b.png", "c.png", "d.e.png") for side in ("gt", "lq"))
    listed = tmp_path / "list.txt"
    listed.write_text("d.e.png (480,480,3)\n\na b.png\na b.png\n")
    assert [pair.name for pair in find_pairs(gt, lq, meta_info_file=listed)] == ["a b", "d.e"]
    listed.write_text("c.png\nx.png\n")
    with pytest.raises(ImageError, match=r"list.txt: not in .*gt: x.png$"):
        find_pairs(gt, lq, meta_info_file=listed)
    listed.write_text("\n")
    with pytest.raises(ImageError, match=r"list.txt: lists no pictures"):
        find_pairs(gt, lq, meta_info_file=listed)


@pytest.mark.parametrize(
    ("gt", "lq", "message"),
    [
        (["a.png", "b.png"], ["a.png"], r"lq: .*b.png has no b\.\*$"),
        (["a.png"], ["a.png", "b.png"], r"gt: no HR picture for .*lq.b.png$"),
        ([f"{i}.png" for i in range(9)], ["x.png"], r"0.png has no 0.* and 4 more$"),
        (["a.png", "a.jpg"], ["a.png"], r"gt: a.jpg and a.png have one name"),
        ([], ["a.png"], r"gt: no pictures"),
    ],
)
def test_unpaired_files_are_named(tmp_path: Path, gt: list[str], lq: list[str], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        find_pairs(touch(tmp_path / "gt", *gt), touch(tmp_path / "lq", *lq))


@pytest.mark.parametrize("template", ["x4", "{}{}", "{0}", "{}{x}", "{", "{}}"])
def test_templates_with_anything_but_one_place_are_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(ImageError, match="filename_tmpl must hold"):
        find_pairs(touch(tmp_path / "gt", "a.png"), tmp_path / "gt", template)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none: No such file"):
        find_pairs(tmp_path / "none", tmp_path)


@pytest.mark.parametrize(
    ("size", "fits"),
    [((20, 24), True), ((31, 35), True), ((19, 24), False), ((20, 36), False), ((40, 48), False)],
)
def test_sizes_must_fit_the_scale(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    pair = Pair("a", tmp_path / "a.png", tmp_path / "b.png")
    write(pair.gt, Image(np.zeros((*size, 3), np.uint8)))
    write(pair.lq, Image(np.zeros((10, 12, 3), np.uint8)))
    if fits:
        check_sizes([pair], 2)
        assert read_pair(pair, 2)[0].shape == (20, 24, 3)
    else:
        with pytest.raises(ImageError, match=rf"a.png is {size[1]}x{size[0]}, but .*b.png times 2 is 24x20$"):
            check_sizes([pair], 2)


def test_gray_and_alpha_are_read_as_rgb(tmp_path: Path) -> None:
    for channels in (1, 2, 3, 4):
        pixels = np.random.default_rng(channels).integers(0, 256, (6, 4, channels), np.uint8)
        write(tmp_path / "a.png", Image(pixels))
        truth, small = read_pair(Pair("a", tmp_path / "a.png", tmp_path / "a.png"), 1)
        expected = pixels[..., :3] if channels > 2 else pixels[..., :1].repeat(3, axis=2)
        np.testing.assert_array_equal(truth, expected)
        np.testing.assert_array_equal(small, expected)


# What is measured


def expected_scores(folder: Path, metric: Callable[..., float], *args: object) -> dict[str, list[float]]:
    model = load(folder / "small.safetensors")
    scores: dict[str, list[float]] = {"network": [], "bicubic": []}
    for name in NAMES:
        small = read(folder / "Set5" / "LR" / f"{name}.png").pixels
        truth = read(folder / "Set5" / "HR" / f"{name}.png").pixels[:, :48]
        scores["network"].append(metric(Upscaler(model).up(small), truth, *args))
        scores["bicubic"].append(metric(enlarge(small, 2), truth, *args))
    return scores


def test_folders_give_every_file(folder: Path) -> None:
    files = ["--csv", "t.csv", "--json", "t.json", "--markdown", "t.md"]
    result = run("--model", "small.safetensors", "--data", "Set5/HR", "Set5/LR", *files)
    wanted = {"psnr": expected_scores(folder, psnr, 2), "ssim": expected_scores(folder, ssim, 2)}

    rows = list(csv.DictReader((folder / "t.csv").open()))
    assert [(row["set"], row["picture"]) for row in rows] == [("Set5", name) for name in [*NAMES, "mean"]]
    report = json.loads((folder / "t.json").read_text())
    (scored,) = report["sets"]
    assert scored["name"] == "Set5"
    assert scored["paper"] == {}
    for metric, by_kind in wanted.items():
        for kind, values in by_kind.items():
            column = metric if kind == "network" else f"bicubic_{metric}"
            mean = sum(values) / 3
            assert [float(row[column]) for row in rows] == pytest.approx([*values, mean], abs=1e-9)
            assert [image[kind][metric] for image in scored["images"]] == pytest.approx(values, abs=1e-9)
            assert scored[kind][metric] == pytest.approx(mean, abs=1e-9)
            assert f"{mean:.4f}" in result.stdout
            assert f"{mean:.4f}" in (folder / "t.md").read_text()
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert report["settings"]["metrics"]["psnr"]["crop_border"] == 2
    assert not (folder / "results").exists()


def test_an_option_file_gives_the_same(folder: Path) -> None:
    (folder / "o.yml").write_text(OPTIONS)
    run("-opt", "o.yml", "--csv", "a.csv")
    run("--model", "small.safetensors", "--data", "Set5/HR", "Set5/LR", "--csv", "b.csv")
    a, b = ([row[:-1] for row in csv.reader((folder / name).open())] for name in ("a.csv", "b.csv"))
    assert a == b


def test_an_option_file_chooses_metrics_and_pictures(folder: Path) -> None:
    metrics = "{colour: {type: calculate_psnr, crop_border: 5}, y: {type: calculate_ssim, crop_border: 1, "
    (folder / "o.yml").write_text(f"{OPTIONS}val:\n  metrics: {metrics}test_y_channel: true}}}}\n")
    run("-opt", "o.yml", "--force_yml", "val:save_img=true", "val:suffix=new", "--json", "t.json")
    (scored,) = json.loads((folder / "t.json").read_text())["sets"]
    wanted = {"colour": expected_scores(folder, psnr, 5, False), "y": expected_scores(folder, ssim, 1, True)}
    for metric, values in wanted.items():
        assert [im["network"][metric] for im in scored["images"]] == pytest.approx(
            values["network"], abs=1e-9
        )

    saved = folder / "results" / "Small" / "visualization" / "Set5"
    assert sorted(path.name for path in saved.iterdir()) == [f"{name}_new.png" for name in NAMES]
    small = read(folder / "Set5" / "LR" / "cat.png").pixels
    larger = Upscaler(folder / "small.safetensors").up(small)
    np.testing.assert_array_equal(read(saved / "cat_new.png").pixels, larger)


def test_any_number_of_sets_with_names_of_their_own(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "Set5" / "LR").rename(folder / "mine" / "LR")
    (folder / "mine" / "HR").symlink_to(folder / "Set5" / "HR")
    hr = folder / "mine" / "copy"
    hr.mkdir()
    for path in (folder / "Set5" / "HR").iterdir():
        (hr / path.name).write_bytes(path.read_bytes())
    twice = [
        "--data",
        "mine/copy",
        "mine/LR",
        "--data",
        "mine/copy",
        "mine/LR",
        "--data",
        "Set5/HR",
        "mine/LR",
    ]
    run("--model", "small.safetensors", *twice, "--save-images", "-o", "out")
    found = sorted(path.name for path in (folder / "out" / "small" / "visualization").iterdir())
    assert found == ["Set5", "mine", "mine-2"]


def test_bf16_is_another_arithmetic(folder: Path) -> None:
    for dtype in ("fp32", "bf16"):
        command = ["--model", "small.safetensors", "--data", "Set5/HR", "Set5/LR", "--json", f"{dtype}.json"]
        run(*command, "--dtype", dtype, "--save-images", "-o", dtype)
    fp32, bf16 = (json.loads((folder / f"{d}.json").read_text())["sets"][0] for d in ("fp32", "bf16"))
    # A CPU without BF16 computes in float32, and warns.
    has_bf16 = native.lib is None or native.has_bf16()
    assert (bf16["network"]["psnr"] != fp32["network"]["psnr"]) == has_bf16
    assert bf16["network"]["psnr"] == pytest.approx(fp32["network"]["psnr"], abs=0.2)
    assert bf16["bicubic"] == fp32["bicubic"]


def test_equal_pictures_are_null_in_json(folder: Path) -> None:
    for name in NAMES:
        small = read(folder / "Set5" / "LR" / f"{name}.png").pixels
        larger = Upscaler(folder / "small.safetensors").up(small)
        write(folder / "Set5" / "HR" / f"{name}.png", Image(larger))
    files = ["--json", "t.json", "--csv", "t.csv"]
    run("--model", "small.safetensors", "--data", "Set5/HR", "Set5/LR", *files)
    (scored,) = json.loads((folder / "t.json").read_text())["sets"]
    assert scored["network"] == {"psnr": None, "ssim": pytest.approx(1)}
    assert next(csv.DictReader((folder / "t.csv").open()))["psnr"] == "inf"


@pytest.mark.parametrize("name", variants.names())
def test_variants_are_recognised(name: str) -> None:
    assert evaluate.variant_of({**variants.config(name), "mean": (0.0, 0.0, 0.0)}) == name
    assert evaluate.variant_of({**variants.config(name), "topk": 2}) is None


def test_the_papers_row_is_for_its_metrics_only() -> None:
    y = schema.Metric(type="calculate_psnr", crop_border=4, test_y_channel=True)
    rgb = schema.Metric(type="calculate_psnr", crop_border=4)
    s = schema.Metric(type="calculate_ssim", crop_border=4, test_y_channel=True)
    asked = {"y": y, "rgb": rgb, "s": s}
    assert evaluate._paper("t-x4", "BSD100", asked) == {"y": 27.65, "s": 0.7384}
    assert evaluate._paper("b-x4", "Manga109", asked) == {"y": 31.12}
    assert evaluate._paper("b-x3", "Set5", asked) == evaluate._paper(None, "Set5", asked) == {}


# Weights


def test_param_key_g_chooses_among_weights(folder: Path) -> None:
    torch.manual_seed(1)
    states = {"params": SeemoRe(**SMALL).state_dict(), "params_ema": SeemoRe(**SMALL).state_dict()}
    torch.save(states, folder / "both.pth")
    (folder / "o.yml").write_text(OPTIONS.replace("small.safetensors", "both.pth"))
    for key, chosen in [("params", "params"), ("params_ema", "params_ema"), ("other", "params_ema")]:
        read_options = schema.load(folder / "o.yml", [f"path:param_key_g={key}"])
        plan = evaluate.from_options(read_options, folder, "cpu")
        assert torch.equal(plan.model.conv_1.weight, states[chosen]["conv_1.weight"])


def test_strict_load_g_off_takes_what_is_there(folder: Path) -> None:
    state = SeemoRe(**SMALL).state_dict()
    del state["norm.weight"]
    torch.save({"params": state}, folder / "part.pth")
    (folder / "o.yml").write_text(OPTIONS.replace("small.safetensors", "part.pth"))
    fails("part.pth: not the weights of network_g: ", "-opt", "o.yml")
    run("-opt", "o.yml", "--force_yml", "path:strict_load_g=false")
    state["conv_2.bias"] = torch.zeros(9)
    torch.save({"params": state}, folder / "part.pth")
    fails(
        "part.pth: size mismatch for conv_2.bias", "-opt", "o.yml", "--force_yml", "path:strict_load_g=false"
    )


# Faults


def test_wrong_arguments(folder: Path) -> None:
    (folder / "o.yml").write_text(OPTIONS)
    both = ["--model", "small.safetensors", "--data", "Set5/HR", "Set5/LR"]
    fails("give -opt FILE, or --model WEIGHTS and --data")
    fails("give -opt FILE, or --model WEIGHTS and --data", "--model", "t-x4")
    fails("give either -opt or --model and --data", "-opt", "o.yml", *both)
    fails("unexpected argument 'x'", "-opt", "o.yml", "x")
    fails("each --data takes two folders", *both[:-1])
    fails("each --data takes two folders", *both, "x")
    fails("--force_yml changes an option file", *both, "--force_yml", "a=1")
    fails("there is no folder none", *both, "--csv", "none/t.csv")
    (folder / "list.txt").write_text("bird.png\n")
    fails("would overwrite an input", "-opt", "o.yml", "--csv", "o.yml")
    by_list = ["-opt", "o.yml", "--force_yml", "datasets:val:meta_info_file=list.txt"]
    fails("would overwrite an input", *by_list, "--csv", "list.txt")
    fails("dtype fp16 needs a GPU", *both, "--dtype", "fp16")
    fails("unknown backend 'x'", *both, "--backend", "x")


@pytest.mark.parametrize(
    ("force", "message"),
    [
        ("path:pretrain_network_g=~", "path:pretrain_network_g must name the weights"),
        ("path:pretrain_network_g=none.pth", "none.pth: No such file"),
        (
            "network_g:num_layers=2",
            "small.safetensors: not the weights of network_g: num_layers=2 contradicts",
        ),
        ("network_g:in_chans=1", "evaluation is on RGB pictures"),
        ("datasets:val:dataroot_lq=gone", "gone: No such file"),
        ("datasets:val:dataroot_lq=gone.lmdb", "gone.lmdb/meta_info.txt: No such file"),
        ("datasets={}", "there is no val or test set"),
        ("network_g:topk=9", "--force_yml network_g:topk must be at most num_experts (3), got 9"),
    ],
)
def test_faults_of_options(folder: Path, force: str, message: str) -> None:
    (folder / "o.yml").write_text(OPTIONS)
    fails(message, "-opt", "o.yml", "--force_yml", force)
    assert not (folder / "results").exists()


def test_a_wrong_scale_is_told_before_work(folder: Path) -> None:
    command = ["--model", "t-x4", "--data", "Set5/HR", "Set5/LR", "--save-images"]
    fails("bird.png is 48x40, but Set5/LR/bird.png times 4 is 96x80; ", *command)
    assert not (folder / "results").exists()


def test_files_that_are_no_pictures(folder: Path) -> None:
    both = ["--model", "small.safetensors", "--data", "Set5/HR", "Set5/LR", "--csv", "t.csv"]
    whole = (folder / "Set5" / "LR" / "cat.png").read_bytes()
    (folder / "Set5" / "LR" / "cat.png").write_bytes(whole[:-40])
    fails("cat.png: truncated or damaged", *both)
    (folder / "Set5" / "LR" / "cat.png").write_text("text")
    fails("cat.png: not a PNG, JPEG, WebP, TIFF, AVIF, GIF, BMP, JPEG XL, HEIC or OpenEXR image", *both)
    assert not (folder / "t.csv").exists()


def test_a_picture_too_small_for_a_metric(folder: Path) -> None:
    (folder / "o.yml").write_text(OPTIONS)
    for size, side in [(16, "HR"), (8, "LR")]:
        write(folder / "Set5" / side / "bird.png", Image(np.zeros((size, size, 3), np.uint8)))
    force = "val:metrics:s={type: calculate_ssim, crop_border: 4}"
    fails(
        "LR/bird.png: crop_border must be 0 or more and leave at least 11x11",
        "-opt",
        "o.yml",
        "--force_yml",
        force,
    )
