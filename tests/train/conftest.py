"""A tiny training that all tests here share: two pictures, a network of one layer, an option file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OPTIONS = """
name: tiny
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 3
datasets:
  train:
    name: noise
    type: PairedImageDataset
    dataroot_gt: photos
    cache_dir: cache
    gt_size: 32
    use_hflip: true
    use_rot: true
    batch_size_per_gpu: 4
  val:
    name: held
    type: PairedImageDataset
    dataroot_gt: held/HR
    dataroot_lq: held/LR
network_g: {type: SeemoRe, scale: 2, num_experts: 3, num_layers: 1, embedding_dim: 8, recursive: 1, topk: 1}
train:
  ema_decay: 0.9
  optim_g: {type: Adam, lr: 1e-3, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [6], gamma: 0.5}
  total_iter: 8
  pixel_opt: {type: L1Loss}
  fft_opt: {type: FFTLoss, loss_weight: 0.1}
val: {val_freq: 4}
logger: {print_freq: 1, save_checkpoint_freq: 4}
"""


def smooth(height: int, width: int, seed: int) -> np.ndarray:
    """A picture that bicubic does not reduce to grey."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the option file ``o.yml`` and its pictures."""
    for folder in ("photos", "held/HR", "held/LR"):
        (tmp_path / folder).mkdir(parents=True)
    for number, size in enumerate([(48, 64), (97, 55)]):
        Image.fromarray(smooth(*size, seed=number)).save(tmp_path / f"photos/{number}.png")
    held = Image.fromarray(smooth(48, 48, seed=9))
    held.save(tmp_path / "held/HR/x.png")
    held.resize((24, 24), Image.Resampling.BICUBIC).save(tmp_path / "held/LR/x.png")
    (tmp_path / "o.yml").write_text(OPTIONS)
    monkeypatch.chdir(tmp_path)
    return tmp_path
