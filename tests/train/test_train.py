"""``seemore-fast train`` as a whole: what it leaves behind, resuming, and every way to end early."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from seemore_fast.backends import native
from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError
from seemore_fast.model import load
from seemore_fast.network import variants
from seemore_fast.options import schema
from seemore_fast.train import network
from seemore_fast.train.loop import train
from tests.support.repository import ROOT
from tests.support.warm import python

SECONDS = 120  # far more than any of these runs takes


def run(*force: str, auto_resume: bool = False) -> int:
    torch.set_num_threads(1)  # sums in one order
    return train(schema.load("o.yml", force), auto_resume=auto_resume)


def weights(path: str) -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(path, weights_only=True)


def assert_equal_files(a: str, b: str) -> None:
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys() == {"params", "params_ema"}
    for key in one:
        assert one[key].keys() == two[key].keys()
        for name in one[key]:
            assert torch.equal(one[key][name], two[key][name]), name


def losses(name: str) -> list[str]:
    """The losses of every iteration, from all logs of the experiment, in order."""
    logs = sorted(Path(f"experiments/{name}").glob("*.log"), key=lambda path: path.stat().st_mtime_ns)
    text = "".join(log.read_text() for log in logs)
    return re.findall(r"iter (\S+)/8  lr (\S+)  l_pix (\S+)  l_fft (\S+)", text)


def test_a_run_leaves_basicsrs_folders(job: Path) -> None:
    assert run() == 0
    folder = job / "experiments/tiny"
    assert {p.name for p in (folder / "models").iterdir()} == {
        *("net_g_4.pth", "net_g_8.pth", "net_g_best.pth", "net_g_latest.pth")
    }
    assert {p.name for p in (folder / "training_states").iterdir()} == {"4.state", "8.state"}
    assert (folder / "visualization").is_dir()
    (log,) = folder.glob("train_tiny_*.log")
    text = log.read_text()
    assert [int(i) for i, *_ in losses("tiny")] == list(range(1, 9))
    assert [rate for _, rate, *_ in losses("tiny")] == ["1.000e-03"] * 6 + ["5.000e-04"] * 2
    assert len(re.findall(r"held  psnr \S+ \(best \S+ at [48]\)", text)) == 2
    assert_equal_files("experiments/tiny/models/net_g_8.pth", "experiments/tiny/models/net_g_latest.pth")


def test_training_lowers_the_loss(job: Path) -> None:
    run("train:total_iter=60", "logger:print_freq=30", "val:val_freq=60", "train:optim_g:lr=3e-3")
    (log,) = Path("experiments/tiny").glob("*.log")
    first, second = map(float, re.findall(r"l_pix (\S+)", log.read_text()))
    assert second < 0.7 * first


def test_the_average_follows_the_weights(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = network.Trainee.step

    def noted(self: network.Trainee, *arguments):
        if not seen:
            seen.append([p.detach().clone() for p in self.model.parameters()])
        result = step(self, *arguments)
        seen.append([p.detach().clone() for p in self.model.parameters()])
        return result

    monkeypatch.setattr(network.Trainee, "step", noted)
    run("train:total_iter=3")
    average = seen[0]
    for now in seen[1:]:
        average = [0.9 * a + 0.1 * p for a, p in zip(average, now, strict=True)]
    saved = weights("experiments/tiny/models/net_g_3.pth")["params_ema"].values()
    for a, b in zip(average, saved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_without_average_only_params_are_saved(job: Path) -> None:
    run("train:ema_decay=0", "train:total_iter=1")
    assert weights("experiments/tiny/models/net_g_latest.pth").keys() == {"params"}


def test_resumed_runs_equal_uninterrupted_ones_bit_for_bit(job: Path) -> None:
    run("name=whole")
    run("name=halves", "train:total_iter=4")
    run("name=halves", auto_resume=True)
    run("name=other", "path:resume_state=experiments/whole/training_states/4.state")
    assert losses("halves") == [(i.replace("/4", "/8"), *rest) for i, *rest in losses("whole")][4:]
    for name in ("halves", "other"):
        assert_equal_files("experiments/whole/models/net_g_8.pth", f"experiments/{name}/models/net_g_8.pth")
    assert run("name=whole", auto_resume=True) == 0  # nothing is left to do


def test_an_earlier_experiment_is_archived_unless_resumed(job: Path) -> None:
    run("train:total_iter=1")
    (job / "experiments/tiny/mine.txt").write_text("keep")
    run("train:total_iter=1", auto_resume=True)
    assert (job / "experiments/tiny/mine.txt").exists()
    run("train:total_iter=1")
    run("train:total_iter=1")
    kept = [path for path in (job / "experiments").iterdir() if "_archived_" in path.name]
    assert len(kept) == 2
    assert sum((path / "mine.txt").exists() for path in kept) == 1


def start(*arguments: str) -> subprocess.Popen:
    command = [*python(), "-m", "seemore_fast.train", "-opt", "o.yml", "--threads", "1", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process: subprocess.Popen) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)


LONG = ("--force_yml", "train:total_iter=100000", "logger:save_checkpoint_freq=3", "val:val_freq=100000")


def test_killed_and_resumed_runs_end_as_if_nothing_had_happened(job: Path) -> None:
    states = job / "experiments/tiny/training_states"
    process = start(*LONG)
    wait_for(lambda: len(list(states.glob("*.state"))) > 1, process)
    time.sleep(random.SystemRandom().uniform(0, 0.1))  # in the midst of whatever
    process.kill()
    process.communicate()
    newest = max(int(path.stem) for path in states.glob("*.state"))
    end = f"train:total_iter={newest + 4}"
    force = ("logger:save_checkpoint_freq=3", "val:val_freq=100000", end)
    assert run(*force, auto_resume=True) == 0
    run(*force, "name=whole")
    name = f"net_g_{newest + 4}.pth"
    assert_equal_files(f"experiments/tiny/models/{name}", f"experiments/whole/models/{name}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_exit(job: Path, number: int, status: int) -> None:
    process = start("--force_yml", "train:total_iter=100000", "logger:save_checkpoint_freq=100000")
    logs = job / "experiments/tiny"
    wait_for(lambda: any("iter 3/" in log.read_text() for log in logs.glob("*.log")), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == status, output
    (state,) = (job / "experiments/tiny/training_states").iterdir()
    done = int(state.stem)
    assert f"stopped after iteration {done:,}" in output
    assert (job / f"experiments/tiny/models/net_g_{done}.pth").exists()
    assert "Traceback" not in output


def test_nan_stops_with_the_pictures_and_keeps_the_last_state(job: Path, monkeypatch) -> None:
    step = network.Trainee.step

    def poisoned(self: network.Trainee, iteration: int, batch):
        if iteration == 6:
            next(self.model.parameters()).data.fill_(float("nan"))
        return step(self, iteration, batch)

    monkeypatch.setattr(network.Trainee, "step", poisoned)
    with pytest.raises(SeemoreError) as caught:
        run()
    message = str(caught.value)
    assert "loss of iteration 6 is not finite" in message
    assert re.search(r"photos/[01]\.png", message)
    assert "training_states/4.state" in message
    assert not Path("experiments/tiny/training_states/8.state").exists()
    (log,) = Path("experiments/tiny").glob("*.log")
    assert "iteration 6 is not finite" in log.read_text()


def test_a_full_disk_leaves_earlier_states_whole(job: Path, monkeypatch) -> None:
    save, fsync = torch.save, os.fsync
    saving = []

    def noted(data, file) -> None:
        saving.append(data.get("iter"))
        save(data, file)

    def full(file: int) -> None:
        if saving[-1:] == [8]:
            raise OSError(28, "No space left on device")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", noted)
        patch.setattr(os, "fsync", full)
        with pytest.raises(SeemoreError, match=r"8\.state: cannot be written \(No space left on device\)"):
            run()
    assert {path.name for path in Path("experiments/tiny/training_states").iterdir()} == {"4.state"}
    assert run(auto_resume=True) == 0


@pytest.mark.parametrize(
    ("force", "message"),
    [
        (["train=~"], "train is missing"),
        (["datasets:train=~"], "datasets:train is missing"),
        (["datasets:train:gt_size=33"], "datasets:train:gt_size must be a multiple of scale (2), got 33"),
        (["datasets:train:gt_size=50"], "0.png"),
        (["datasets:train:dataroot_gt=nowhere"], "nowhere: No such file"),
        (["datasets:train:dataroot_lq=held/LR"], "held/LR: "),
        (["datasets:val:dataroot_lq=nowhere"], "nowhere: No such file"),
        (["path:pretrain_network_g=nothing.pth"], "nothing.pth: No such file"),
        (["path:resume_state=o.yml"], "o.yml: damaged or no training state"),
        (["train:precision=fp16"], "fp16 needs a GPU"),
        (["train:pixel_opt=~", "train:fft_opt=~"], "train:pixel_opt is missing"),
    ],
)
def test_bad_input_is_one_error_before_anything_is_written(job: Path, force, message: str) -> None:
    result = CliRunner().invoke(app, ["train", "-opt", "o.yml", "--force_yml", *force])
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert not (job / "experiments").exists()


def test_debug_shortens_the_intervals(job: Path) -> None:
    (job / "o.yml").write_text((job / "o.yml").read_text().replace("print_freq: 1", "print_freq: 100"))
    result = CliRunner().invoke(app, ["train", "-opt", "o.yml", "--debug"])
    assert result.exit_code == 0, result.output
    assert len(losses("debug_tiny")) == 8
    assert Path("experiments/debug_tiny/training_states/8.state").exists()


def test_fine_tuning_from_another_scale_keeps_the_body(job: Path) -> None:
    run("train:total_iter=1")
    source = "experiments/tiny/models/net_g_1.pth"
    for folder, size in [("held/HR", 72), ("held/LR", 24)]:
        Image.fromarray(np.full((size, size, 3), 99, np.uint8)).save(job / folder / "x.png")
    other = ["name=three", "scale=3", "network_g:scale=3", "datasets:train:gt_size=48"]
    given = [*other, f"path:pretrain_network_g={source}", "train:total_iter=1", "train:optim_g:lr=1e-12"]
    with pytest.raises(SeemoreError, match=r"net_g_1\.pth: not the weights of network_g"):
        run(*given)
    run(*given, "path:strict_load_g=false", "path:param_key_g=params_ema")
    (log,) = Path("experiments/three").glob("*.log")
    assert "another shape, not loaded: upsampler.0.weight; upsampler.0.bias" in log.read_text()
    before = weights(source)["params_ema"]
    after = weights("experiments/three/models/net_g_1.pth")["params"]
    for name, value in before.items():
        if not name.startswith("upsampler"):
            torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-9)


def test_tensorboard_gets_what_the_log_gets(job: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: pip install 'seemore-fast[train]'"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("logger:use_tb_logger=true")
    board = EventAccumulator("tb_logger/tiny")
    board.Reload()
    assert set(board.Tags()["scalars"]) == {"lr", "losses/l_pix", "losses/l_fft", "held/psnr", "held/ssim"}
    shown = [f"{event.value:.4e}" for event in board.Scalars("losses/l_pix")]
    assert shown == [l_pix for _, _, l_pix, _ in losses("tiny")]


def test_bfloat16_and_clipping_train(job: Path) -> None:
    run("name=full", "train:total_iter=2", "val:val_freq=2")
    run("name=low", "train:total_iter=2", "val:val_freq=2", "train:precision=bf16")
    full, low = (weights(f"experiments/{name}/models/net_g_2.pth")["params"] for name in ("full", "low"))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in low.values())
    # Without products of bfloat16 the CPU's operator computes in float32, whatever autocast says.
    same = [torch.equal(full[name], value) for name, value in low.items()]
    assert not all(same) if native.has_bf16() else all(same)
    run("name=clipped", "train:total_iter=1", "train:grad_clip=1e-9", "train:optim_g:lr=1e-3")
    run("name=still", "train:total_iter=1", "train:optim_g:lr=1e-12")
    clipped, still = (
        weights(f"experiments/{name}/models/net_g_1.pth")["params"] for name in ("clipped", "still")
    )
    # A gradient far below Adam's epsilon hardly moves anything.
    assert all((clipped[name] - value).abs().max() < 2e-4 for name, value in still.items())


@pytest.mark.parametrize("file", sorted((ROOT / "options/train").rglob("*.yml")), ids=lambda path: path.stem)
def test_the_repositorys_train_files_describe_their_variants(file: Path) -> None:
    read = schema.load(file)
    variant = re.sub("finetune|compressed", "t", file.stem).removesuffix("-from-x3")
    assert read.network_g.arguments() == variants.config(variant)
    assert read.datasets.train.gt_size in (32 * read.scale, 48 * read.scale, 64 * read.scale)
    assert all(metric.crop_border == read.scale for metric in (read.val.metrics or {}).values())


def test_an_official_train_file_runs(job: Path) -> None:
    """Only where data lies, how much of it, and how long is changed."""
    for kind, name, factor in [("HR", "{}", 2), ("LR_bicubic/X2", "{}x2", 1)]:
        for name_of_set, number in [("DF2K", 2), ("Set5", 1)]:
            folder = job / "datasets" / name_of_set / kind
            folder.mkdir(parents=True)
            for i in range(number):
                colour = Image.new("RGB", (80 * factor, 72 * factor), (50, 100, 100 * i))
                colour.save(folder / f"{name.format(i)}.png")
    file = ROOT / "tests/data/train_t_x2.yml"
    torch.set_num_threads(1)
    train(schema.load(file, ["datasets:train:batch_size_per_gpu=1", "train:total_iter=1", "num_gpu=0"]))
    assert (job / "experiments/SeemoRe_T_x2/models/net_g_latest.pth").exists()


def test_batches_add_up_to_a_larger_one(job: Path) -> None:
    run("name=whole", "train:grad_clip=0.5")
    for name, batch, parts in (("parts", 2, 2), ("single", 1, 4)):
        size = f"datasets:train:batch_size_per_gpu={batch}"
        run(f"name={name}", size, f"datasets:train:accum_iter={parts}", "train:grad_clip=0.5")
        whole, added = (weights(f"experiments/{n}/models/net_g_8.pth")["params"] for n in ("whole", name))
        for key in whole:
            torch.testing.assert_close(added[key], whole[key], rtol=1e-3, atol=2e-4)
        told = [[float(x) for x in line[2:]] for line in (*losses("whole"), *losses(name))]
        assert np.allclose(told[:8], told[8:], rtol=2e-3)


def test_degradations_resume_and_are_checked(job: Path) -> None:
    force = [
        "datasets:train:degradations={blur_prob: 0.5, noise_prob: 1.0, jpeg_prob: 0.7}",
        "val:val_freq=~",
    ]
    run(*force, "name=whole")
    run(*force, "train:total_iter=4")
    run(*force, auto_resume=True)
    assert_equal_files("experiments/whole/models/net_g_8.pth", "experiments/tiny/models/net_g_8.pth")
    for key, value in (("jpeg_range", "[0, 50]"), ("blur_sigma", "[2.0, 1.0]"), ("noise_prob", "1.5")):
        with pytest.raises(SeemoreError, match=rf"datasets:train:degradations:{key}"):
            run(f"datasets:train:degradations:{key}={value}")


def test_several_folders_train_together(job: Path) -> None:
    (job / "more").mkdir()
    (job / "photos/1.png").rename(job / "more/1.png")
    force = ["datasets:train:dataroot_gt=[photos, more]", "datasets:train:folder_weights=[1, 2]"]
    run(*force, "name=many")
    (log,) = Path("experiments/many").glob("*.log")
    assert "2 training pictures, 13 patches' worth of pixels" in log.read_text()  # 3 and twice 5
    for key, value in (("folder_weights", "[1]"), ("dataroot_lq", "photos"), ("meta_info_file", "a.txt")):
        with pytest.raises(SeemoreError, match=rf"datasets:train:{key}"):
            run(*force, f"datasets:train:{key}={value}")


def test_wandb_gets_what_the_log_gets(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    logged: dict[int, dict[str, float]] = {}
    begun: list[dict] = []
    ended: list[int] = []

    def init(**arguments):
        begun.append(arguments)
        return SimpleNamespace(
            id="abc",
            log=lambda values, step: logged.setdefault(step, {}).update(values),
            finish=lambda exit_code: ended.append(exit_code),
        )

    stand_in = SimpleNamespace(init=init, Settings=lambda **more: more)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    run("logger:wandb:project=cats", "logger:wandb:resume_id=abc")
    assert (begun[0]["project"], begun[0]["name"], begun[0]["id"]) == ("cats", "tiny", "abc")
    assert begun[0]["config"]["train"]["total_iter"] == 8
    assert [f"{logged[i]['losses/l_pix']:.4e}" for i in range(1, 9)] == [line[2] for line in losses("tiny")]
    assert logged.keys() == set(range(1, 9))
    assert "held/psnr" in logged[8]
    assert ended == [0]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SeemoreError, match=r"pip install 'seemore-fast\[wandb\]'"):
        run("logger:wandb:project=cats", "name=other", "datasets:train:cache_dir=elsewhere")
    assert not Path("elsewhere").exists()  # before the pictures are decoded
    assert not Path("experiments/other").exists()


def test_the_real_wandb_keeps_a_run_offline(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs pip install 'seemore-fast[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run("logger:wandb:project=cats")
    (file,) = Path("experiments/tiny").glob("wandb/offline-run-*/run-*.wandb")
    end = time.monotonic() + SECONDS  # its own process writes, a little later
    while b"held/psnr" not in (records := file.read_bytes()) and time.monotonic() < end:
        time.sleep(0.1)
    assert records.count(b"losses/l_pix") >= 8
    for text in (b"held/psnr", b"cats", b"total_iter"):
        assert text in records
    assert not Path("wandb").exists()


def test_weights_as_safetensors(job: Path) -> None:
    run()
    run("name=safe", "logger:save_checkpoint_format=safetensors", "train:ema_power=0.75")
    made = sorted(path.name for path in Path("experiments/safe/models").iterdir())
    assert made == [f"net_g_{label}.safetensors" for label in ("4", "8", "best", "latest")]
    safe = load("experiments/safe/models/net_g_latest.safetensors")
    assert safe.config.items() >= {"embedding_dim": 8, "recursive": 1, "topk": 1}.items()
    plain, params = weights("experiments/tiny/models/net_g_latest.pth"), safe.state_dict()
    assert params.keys() == plain["params_ema"].keys()
    # The average is younger with ema_power: nearer to the weights, which are the same.
    far = sum((plain["params_ema"][k] - plain["params"][k]).norm() for k in params)
    near = sum((params[k] - plain["params"][k]).norm() for k in params)
    assert 0 < near < far


def test_a_network_that_does_not_enlarge_trains(job: Path) -> None:
    """x1, for restoration: LR is HR, spoilt."""
    force = ["scale=1", "network_g:scale=1", "datasets:val:dataroot_lq=held/HR"]
    run("datasets:train:degradations={jpeg_prob: 1.0, jpeg_range: [20, 30]}", *force)
    network = load("experiments/tiny/models/net_g_latest.pth", scale=1, recursive=1, topk=1)
    assert network(torch.rand(1, 3, 20, 30)).shape == (1, 3, 20, 30)
