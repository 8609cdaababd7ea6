"""traiNNer-redux's option files: what their keys become, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from seemore_fast.errors import SeemoreError
from seemore_fast.network import variants
from seemore_fast.options.schema import Options, load

# The keys of its template for SeemoRe-T, in our own order and words.
THEIRS = """
name: 4x_mine
scale: 4
use_amp: true
amp_bf16: true
use_channels_last: false
fast_matmul: false
use_compile: false
compile_mode: default
num_gpu: auto
datasets:
  train:
    name: many
    type: pairedimagedataset
    dataroot_gt: [a/hr, b/hr]
    dataroot_lq: [a/lr, b/lr]
    lq_size: 64
    use_hflip: true
    use_rot: true
    num_worker_per_gpu: 8
    batch_size_per_gpu: 8
    accum_iter: 2
    dataset_enlarge_ratio: auto
    persistent_workers: true
  val:
    name: held
    type: pairedimagedataset
    dataroot_gt: [c/hr, d/hr]
    dataroot_lq: [c/lr, d/lr]
network_g: {type: seemore_t}
path: {param_key_g: ~, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.999
  ema_power: 0.75
  grad_clip: true
  optim_g: {type: adamw, lr: !!float 2e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [250000, 400000], gamma: 0.5}
  total_iter: 500000
  warmup_iter: -1
  losses:
    - {type: charbonnierloss, loss_weight: 1.0}
    - {type: DISTSLoss, loss_weight: 0}
  use_moa: false
  moa_probs: [0.4, 0.6]
val:
  val_enabled: true
  val_freq: 1000
  save_img: true
  tile_size: 0
  tile_overlap: 8
  metrics_enabled: true
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4, test_y_channel: false}
    lpips: {type: calculate_lpips, better: lower}
    dists: {type: calculate_dists}
logger: {print_freq: 100, save_checkpoint_freq: 1000, save_checkpoint_format: safetensors}
"""


def read(folder: Path, old: str = "", new: str = "", *force: str) -> Options:
    assert old in THEIRS
    (folder / "o.yml").write_text(THEIRS.replace(old, new) if old else THEIRS)
    return load(folder / "o.yml", force)


def test_their_template_means_the_same_here(tmp_path: Path) -> None:
    options = read(tmp_path)
    assert options.train is not None
    assert options.datasets.train is not None
    assert options.network_g.arguments() == variants.config("t-x4")
    train = options.train
    assert (train.precision, train.grad_clip, train.ema_power) == ("bf16", 1.0, 0.75)
    assert (train.optim_g.type, train.optim_g.lr) == ("AdamW", 2e-4)
    assert train.pixel_opt is not None
    assert (train.pixel_opt.type, train.fft_opt) == ("CharbonnierLoss", None)
    dataset = options.datasets.train
    assert (dataset.gt_size, dataset.accum_iter) == (256, 2)
    assert dataset.folders == [("a/hr", "a/lr", 1), ("b/hr", "b/lr", 1)]
    assert [test.dataroot_gt for test in options.datasets.tests] == ["c/hr", "d/hr"]
    assert options.val.metrics is not None
    better = {name: (metric.better, metric.crop_border) for name, metric in options.val.metrics.items()}
    assert better == {"psnr": ("higher", 4), "lpips": ("lower", 0), "dists": ("lower", 0)}
    assert options.logger.save_checkpoint_format == "safetensors"


@pytest.mark.parametrize(
    ("old", "new", "precision"),
    [("use_amp: true", "use_amp: false", "fp32"), ("amp_bf16: true", "amp_bf16: false", "fp16")],
)
def test_amp_is_a_precision(tmp_path: Path, old: str, new: str, precision: str) -> None:
    options = read(tmp_path, old, new)
    assert options.train is not None
    assert options.train.precision == precision
    forced = read(tmp_path, old, new, "train:precision=bf16")
    assert forced.train is not None
    assert forced.train.precision == "bf16"


def test_validation_can_be_switched_off(tmp_path: Path) -> None:
    options = read(tmp_path, "val_enabled: true", "val_enabled: false")
    assert options.datasets.tests == []
    assert options.val.val_freq is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{type: DISTSLoss, loss_weight: 0}",
            "{type: GANLoss, loss_weight: 0.1}",
            r"losses: GANLoss is not ours",
        ),
        ("{type: DISTSLoss, loss_weight: 0}", "{type: L1Loss}", r"losses: may have one loss of pixels"),
        ("use_moa: false", "use_moa: true", r"train:use_moa is unknown"),
        ("type: seemore_t}", "type: esrgan}", r"network_g:type must be 'SeemoRe'"),
        ("{type: calculate_dists}", "{type: calculate_topiq}", r"metrics:dists:type must be"),
        (
            "{type: calculate_dists}",
            "{type: calculate_dists, test_y_channel: true}",
            r"test_y_channel is not for",
        ),
    ],
)
def test_what_means_something_else_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(SeemoreError, match=rf"o\.yml, line \d+: .*{message}"):
        read(tmp_path, old, new)
