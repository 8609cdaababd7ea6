"""Nothing of Linux's alone is needed: the whole works without the modules that Windows and macOS lack."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seemore_fast
from tests.support.small import SMALL

ELSEWHERE = """
import os, sys
import psutil, torch  # which know where they are
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None  # importing it fails, as where there is none
for name in ("sched_getaffinity", "posix_fallocate", "preadv", "pwritev", "fork", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
"""

OPTIONS = """
name: small
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 1
datasets:
  train:
    {{name: some, type: PairedImageDataset, dataroot_gt: photos, io_backend: {{type: disk}}, gt_size: 16,
     use_hflip: true, use_rot: true, num_worker_per_gpu: 1, batch_size_per_gpu: 2}}
network_g: {{type: SeemoRe, {network}}}
path: {{pretrain_network_g: ~, strict_load_g: true, resume_state: ~}}
train:
  optim_g: {{type: Adam, lr: 1e-3, weight_decay: 0, betas: [0.9, 0.99]}}
  scheduler: {{type: MultiStepLR, milestones: [2], gamma: 0.5}}
  total_iter: 2
  pixel_opt: {{type: L1Loss, loss_weight: 1.0, reduction: mean}}
logger: {{print_freq: 1, save_checkpoint_freq: 2, use_tb_logger: false}}
"""


def elsewhere(code: str, folder: Path) -> str:
    """Runs code in a process that finds none of Linux's own modules; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE + code],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for folder in ("photos", "halves"):
        (tmp_path / folder).mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"photos/{i}.png")
        Image.fromarray(picture[::2, ::2]).save(tmp_path / f"halves/{i}.png")
    return tmp_path


def test_texts_name_their_encoding_and_files_are_of_every_system() -> None:
    """Windows reads cp1252 where nothing is said, and has no /dev/null."""
    package = Path(seemore_fast.__file__).parent
    linux = {package / "system/machine.py", package / "measure/peers/memory.py"}  # read /proc and /sys there
    named = re.compile(r"""(read_text|\.open)\(\)|\.open\(["'][rwa]["']\)|["']/(dev|proc|sys|tmp|etc)/""")
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in set(package.rglob("*.py")) - linux
        for line in path.read_text(encoding="utf-8").splitlines()
        if named.search(line)
    ]
    assert not found


def test_every_module_imports(tmp_path: Path) -> None:
    """But those of tools that are not installed."""
    code = """
import importlib, pkgutil, seemore_fast
from seemore_fast.errors import SeemoreError
for module in pkgutil.walk_packages(seemore_fast.__path__, "seemore_fast."):
    if module.name.rpartition(".")[2].startswith("_") or ".kernels" in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except (ImportError, SeemoreError) as error:
        assert "fcntl" not in str(error) and "resource" not in str(error), (module.name, error)
        # Plug-ins want the tools that they are for, and Ray itself wants Linux or macOS.
        assert ".plugins." in module.name or module.name.endswith(".ray_jobs"), (module.name, error)
print("imported")
"""
    assert "imported" in elsewhere(code, tmp_path)


def test_upscale_train_and_eval_run(photos: Path) -> None:
    network = ", ".join(f"{key}: {value}" for key, value in SMALL.items())
    (photos / "small.yml").write_text(OPTIONS.format(network=network))
    code = """
from seemore_fast.cli import app
def run(*words):
    print(*words)
    app([str(word) for word in words], standalone_mode=False)
run("upscale", "-i", "photos", "-o", "large", "--tile", 32)
run("train", "-opt", "small.yml")
run("eval", "--model", "experiments/small/models/net_g_latest.pth", "--data", "photos", "halves",
    "--json", "psnr.json")
run("info")
"""
    elsewhere(code, photos)
    assert {path.name for path in (photos / "large").iterdir()} == {"0.png", "1.png"}
    assert (photos / "psnr.json").is_file()


def test_users_without_a_home_upscale_and_see_what_there_is(photos: Path) -> None:
    """As in a container that is run under a number that no user has."""
    code = """
import pwd
for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
from seemore_fast.backends import kernel_cache
from seemore_fast.cli import app
for words in ("info", "weights", "upscale -i photos -o large --model t-x2"):
    app(words.split(), standalone_mode=False)
kernel_cache.write("a", b"image")
assert kernel_cache.read("a") is None
try:
    app(["upscale", "photos/0.png", "-o", "a.png", "--model", "official/t-x4"])
except SystemExit as ended:
    assert ended.code == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", "import os\n" + code], cwd=photos, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (photos / "large").iterdir()} == {"0.png", "1.png"}
    assert "your own table: none, for there is no home folder" in done.stdout
    assert "there is no home folder to keep it in: set HOME" in done.stderr


def test_video_runs(tmp_path: Path) -> None:
    if importlib.util.find_spec("av") is None:
        pytest.skip("PyAV is not installed: pip install 'seemore-fast[video]'")
    code = """
import av, numpy as np
with av.open("in.mkv", "w") as file:
    stream = file.add_stream("ffv1", rate=5)
    stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
    for i in range(3):
        frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 50 * i, np.uint8), format="rgb24")
        file.mux(stream.encode(frame))
    file.mux(stream.encode())
from seemore_fast.cli import app
app(["video", "in.mkv", "-o", "out.mkv", "--model", "t-x2"], standalone_mode=False)
with av.open("out.mkv") as file:
    print([(frame.width, frame.height) for frame in file.decode(video=0)])
"""
    assert "[(64, 48), (64, 48), (64, 48)]" in elsewhere(code, tmp_path)
