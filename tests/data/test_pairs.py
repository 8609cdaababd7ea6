"""Data sets as BasicSR's option files name them: lists with folders, LMDBs, 16 bits, tests without HR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.data import pairs
from seemore_fast.errors import ImageError
from seemore_fast.image import Image, read, write
from seemore_fast.model import SeemoRe
from seemore_fast.network import checkpoint
from tests.support.small import SMALL


def picture(
    path: Path, height: int = 16, width: int = 20, seed: int = 0, dtype: type = np.uint8
) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    top = np.iinfo(dtype).max + 1
    pixels = np.random.default_rng(seed).integers(0, top, (height, width, 3), dtype=dtype)
    write(path, Image(pixels))
    return pixels


@pytest.mark.parametrize("flat", [False, True], ids=["folders on both sides", "as BasicSR"])
def test_lists_with_folders(tmp_path: Path, flat: bool) -> None:
    for seed, name in enumerate(["a/0000", "a/0001", "b/0002", "b/left-out"]):
        picture(tmp_path / f"hr/{name}.png", seed=seed)
        small = Path(name).name if flat else name
        picture(tmp_path / f"lr/{small}x2.png", 8, 10, seed)
    (tmp_path / "list.txt").write_text("a/0000.png (16,20,3)\na/0001.png\nb/0002.png (16,20,3)\n")
    found = pairs.find_pairs(tmp_path / "hr", tmp_path / "lr", "{}x2", tmp_path / "list.txt")
    assert [pair.name for pair in found] == ["a/0000", "a/0001", "b/0002"]
    assert [pair.gt for pair in found] == [
        tmp_path / f"hr/{name}.png" for name in ("a/0000", "a/0001", "b/0002")
    ]
    assert found[2].lq == tmp_path / ("lr/0002x2.png" if flat else "lr/b/0002x2.png")
    assert pairs.find_pictures(tmp_path / "hr", tmp_path / "list.txt") == [pair.gt for pair in found]
    (tmp_path / "list.txt").write_text("a/9999.png\n")
    with pytest.raises(ImageError, match=r"not in .*hr: a/9999\.png"):
        pairs.find_pictures(tmp_path / "hr", tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("../a/0000.png\n")
    with pytest.raises(ImageError, match="leads out of this folder"):
        pairs.find_pictures(tmp_path / "hr", tmp_path / "list.txt")


def test_lmdbs_pair_by_equal_keys(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'seemore-fast[train]'")
    pixels = {}
    for side, size in [("hr", (16, 20)), ("lr", (8, 10))]:
        folder = tmp_path / f"{side}.lmdb"
        with lmdb.open(str(folder), map_size=1 << 22) as base, base.begin(write=True) as transaction:
            for key in ("baby", "a/0000"):
                pixels[side, key] = picture(tmp_path / "one.png", *size)
                transaction.put(key.encode(), (tmp_path / "one.png").read_bytes())
        (folder / "meta_info.txt").write_text("baby.png (9,9,3) 1\na/0000.png (9,9,3) 1\n")
    found = pairs.find_pairs(tmp_path / "hr.lmdb", tmp_path / "lr.lmdb", "{}x2")
    assert [pair.name for pair in found] == ["a/0000", "baby"]
    pairs.check_sizes(found, 2)
    for pair in found:
        hr, lr = pairs.read_pair(pair, 2)
        np.testing.assert_array_equal(hr, pixels["hr", pair.name])
        np.testing.assert_array_equal(lr, pixels["lr", pair.name])


def test_of_sixteen_bits_the_upper_eight_are_taken(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "a.png", dtype=np.uint16)
    np.testing.assert_array_equal(pairs.read_rgb(tmp_path / "a.png"), (pixels // 256).astype(np.uint8))


OPTIONS = """
name: Small
model_type: SRModel
scale: {scale}
num_gpu: 0
datasets:
  val: {data}
network_g: {{type: SeemoRe, scale: {scale}, num_experts: 3, num_layers: {layers}, embedding_dim: {width},
  use_shuffle: {shuffle}, lr_space: exp, topk: 1, recursive: {recursive}}}
path: {{pretrain_network_g: net.safetensors}}
val: {{save_img: true}}
"""


def write_options(folder: Path, data: str, scale: int) -> None:
    torch.manual_seed(0)
    network = SeemoRe(**{**SMALL, "scale": scale, "num_experts": 3, "lr_space": "exp", "topk": 1})
    checkpoint.save(network, folder / "net.safetensors")
    config = network.config
    text = OPTIONS.format(
        scale=scale,
        data=data,
        layers=config["num_layers"],
        width=config["embedding_dim"],
        shuffle=str(config["use_shuffle"]).lower(),
        recursive=config["recursive"],
    )
    (folder / "o.yml").write_text(text)


def test_a_set_without_hr_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "lr/a.png")
    write_options(tmp_path, "{name: real, type: SingleImageDataset, dataroot_lq: lr}", 2)
    outputs = [text for kind in ("csv", "json", "markdown") for text in (f"--{kind}", f"t.{kind}")]
    done = CliRunner().invoke(app, ["eval", "-opt", "o.yml", *outputs])
    assert done.exit_code == 0, done.output
    assert read("results/Small/visualization/real/a_Small.png").pixels.shape == (32, 40, 3)
    assert "psnr" not in Path("t.csv").read_text()
    write_options(tmp_path, "{name: real, type: PairedImageDataset, dataroot_lq: lr}", 2)
    done = CliRunner().invoke(app, ["eval", "-opt", "o.yml"])
    assert done.exit_code == 2
    assert "dataroot_gt is missing" in done.stderr


def test_scale_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restoration: both sides of one size."""
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "hr/a.png", seed=1)
    picture(tmp_path / "lr/a.png", seed=2)
    data = "{name: noisy, type: PairedImageDataset, dataroot_gt: hr, dataroot_lq: lr}"
    write_options(tmp_path, data, 1)
    done = CliRunner().invoke(app, ["eval", "-opt", "o.yml"])
    assert done.exit_code == 0, done.output
    assert "psnr" in done.stdout
    assert read("results/Small/visualization/noisy/a_Small.png").pixels.shape == (16, 20, 3)
