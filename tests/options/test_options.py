"""Option files: what loads, and that every fault names file, line and key."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from seemore_fast.errors import SeemoreError
from seemore_fast.network import variants
from seemore_fast.options import schema
from tests.support.repository import ROOT

TRAIN_FILE = ROOT / "tests/data/train_t_x2.yml"
TRAIN = TRAIN_FILE.read_text()
TEST_FILES = ROOT / "options/test"


def load(tmp_path: Path, text: str, *force: str) -> schema.Options:
    path = tmp_path / "o.yml"
    path.write_text(text)
    return schema.load(path, force)


def changed(old: str, new: str) -> str:
    assert TRAIN.count(old) >= 1
    return TRAIN.replace(old, new, 1)


# What loads


def test_a_train_file_loads_whole() -> None:
    read = schema.load(TRAIN_FILE)
    assert (read.name, read.scale, read.num_gpu, read.manual_seed) == ("SeemoRe_T_x2", 2, "auto", 10)
    assert read.network_g.arguments() == variants.config("t-x2")
    train = read.datasets.train
    assert (train.gt_size, train.batch_size_per_gpu, train.prefetch_mode) == (128, 32, None)
    assert [(test.name, test.filename_tmpl) for test in read.datasets.tests] == [("Set5", "{}x2")]
    assert read.train.optim_g.lr == 1e-3
    assert read.train.optim_g.betas == [0.9, 0.99]
    assert read.train.scheduler.milestones == [250000, 400000, 450000, 475000]
    assert (read.train.pixel_opt.type, read.train.fft_opt.loss_weight) == ("L1Loss", 0.1)
    assert (read.val.val_freq, read.logger.save_checkpoint_freq) == (5000, 5000)
    assert read.val.metrics["ssim"] == schema.Metric(
        type="calculate_ssim", crop_border=2, test_y_channel=True
    )
    assert read.path.pretrain_network_g is None


def test_cosine_restarts_load(tmp_path: Path) -> None:
    cosine = (
        "type: CosineAnnealingRestartLR\n    periods: [1000]\n    restart_weights: [1]\n    eta_min: 1e-7"
    )
    text = TRAIN.replace("    milestones: [250000, 400000, 450000, 475000]\n    gamma: 0.5\n", "")
    scheduler = load(tmp_path, text.replace("type: MultiStepLR", cosine)).train.scheduler
    assert (scheduler.periods, scheduler.restart_weights, scheduler.eta_min) == ([1000], [1.0], 1e-7)


@pytest.mark.parametrize("name", variants.names())
def test_our_test_files_are_the_variants(name: str) -> None:
    read = schema.load(TEST_FILES / f"{name}.yml")
    assert {**variants.config(name), "scale": read.scale} == read.network_g.arguments()
    assert [test.name for test in read.datasets.tests] == ["Set5", "Set14", "B100", "Urban100", "Manga109"]
    assert {m.type for m in read.val.metrics.values()} == {"calculate_psnr", "calculate_ssim"}
    assert all(m.crop_border == read.scale and m.test_y_channel for m in read.val.metrics.values())


def test_there_is_a_test_file_for_every_variant_and_no_other() -> None:
    assert sorted(path.stem for path in TEST_FILES.iterdir()) == sorted(variants.names())


def test_tests_keep_the_order_of_the_file(tmp_path: Path) -> None:
    extra = "  test_9:\n    name: Z\n    type: PairedImageDataset\n    dataroot_gt: a\n    dataroot_lq: b\n"
    read = load(tmp_path, changed("  val_1:\n", f"{extra}{extra.replace('9', '2')}  val_1:\n"))
    assert [test.name for test in read.datasets.tests] == ["Z", "Z", "Set5"]


# --force_yml


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("manual_seed=~", None),
        ("manual_seed=None", None),
        ("manual_seed=!!float 5e3", 5000),
        ("manual_seed = 7", 7),
    ],
)
def test_force_yml_takes_yaml_values(entry: str, expected: Any) -> None:
    assert schema.load(TRAIN_FILE, [entry]).manual_seed == expected


def test_force_yml_reaches_into_groups() -> None:
    force = ["val:metrics:psnr:crop_border=7", "val:suffix=x=y", "train:scheduler:milestones=[1, 2]"]
    read = schema.load(TRAIN_FILE, [*force, "datasets:val_1:meta_info_file=list.txt"])
    assert read.val.metrics["psnr"].crop_border == 7
    assert read.val.suffix == "x=y"
    assert read.train.scheduler.milestones == [1, 2]
    assert read.datasets.tests[0].meta_info_file == "list.txt"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("val:save_img", "--force_yml must be a:b:c=value, got 'val:save_img'"),
        (":a=1", "--force_yml must be a:b:c=value"),
        ("scale:x=1", "--force_yml scale:x=1: scale is no group of keys"),
        ("val:metrics:psnr:crop_bordr=1", "--force_yml val:metrics:psnr:crop_bordr is unknown; did you mean"),
        ("vall:x:y=1", "--force_yml vall is unknown; did you mean val?"),
        ("manual_seed=18446744073709551616", "--force_yml manual_seed must be less than"),
        ("val:save_img=3", "--force_yml val:save_img must be a valid boolean, got 3"),
        ("val:save_img=[", "--force_yml val:save_img=[: the value is not YAML"),
        ("val:save_img=__import__('os')", "--force_yml val:save_img must be a valid boolean"),
        ("val:save_img=!!python/name:os.system", "the value is not YAML"),
    ],
)
def test_force_yml_refuses(entry: str, message: str) -> None:
    with pytest.raises(SeemoreError, match=re.escape(message)):
        schema.load(TRAIN_FILE, [entry])


# Faults: the line is the key's own


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "use_shuffle: True",
            "use_shufle: True",
            "network_g:use_shufle is unknown; did you mean use_shuffle?",
        ),
        ("  val_1:", "  vall:", "datasets:vall is unknown; did you mean val?"),
        ("topk: 1", "topk: 4", "network_g:topk must be at most num_experts (3), got 4"),
        (
            "global_kernel_size: 11",
            "global_kernel_size: 12",
            "network_g:global_kernel_size must be odd, got 12",
        ),
        ("gamma: 0.5", "gama: 0.5", "train:scheduler:gama is unknown; did you mean gamma?"),
        ("gamma: 0.5", "gamma: fast", "train:scheduler:gamma must be a valid number, got 'fast'"),
        ("type: MultiStepLR", "type: Foo", "train:scheduler:type must be 'MultiStepLR' or 'CosineAnneal"),
        (
            "milestones: [250000, 4",
            "milestones: [1, 4.5, 4",
            "train:scheduler:milestones:1 must be a valid int",
        ),
        ("gt_size: 128", "gt_size: ~", "datasets:train:gt_size must be a valid integer, got ~"),
        (
            "type: calculate_psnr",
            "type: psnr",
            "val:metrics:psnr:type must be 'calculate_psnr', 'calculate",
        ),
        (
            "crop_border: 2",
            "crop_border: -1",
            "val:metrics:psnr:crop_border must be greater than or equal to 0",
        ),
        ("scale: 2", "scale: 3", "scale must equal network_g:scale, which is 2, got 3"),
        ("scale: 2", "scale: '2'", "scale must be 1, 2, 3 or 4, got '2'"),
        ("name: SeemoRe_T_x2", "name: ../x", "name must do as the name of a folder, got '../x'"),
        ("name: SeemoRe_T_x2", "name: ..", "name must do as the name of a folder, got '..'"),
        ("prefetch_mode: ~", "prefetch_mode: gpu", "datasets:train:prefetch_mode must be 'cuda' or 'cpu'"),
        ("print_freq: 200", "print_freq: .nan", "logger:print_freq must be a valid integer, got nan"),
        ("gamma: 0.5", "gamma: .inf", "train:scheduler:gamma must be a finite number, got inf"),
        ("dist_params:", "dist_params: 3\ndist_parms:", "dist_parms is unknown; did you mean dist_params?"),
        ("manual_seed: 10", "scale: 2", "scale appears twice in one group"),
        ("manual_seed: 10", "manual_seed: !!int x", "not a value of type int"),
        (
            "manual_seed: 10",
            "manual_seed: !!python/object/apply:os.system [ls]",
            "could not determine a construct",
        ),
        ("manual_seed: 10", "manual_seed: &a [*a]", "manual_seed must be a valid integer, got a list"),
        ("manual_seed: 10", "? [1, 2]\n: 3", "found unhashable key"),
        ("manual_seed: 10", "manual_seed: \x01", "special characters are not allowed"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = changed(old, new)
    line = next(
        n for n, (a, b) in enumerate(zip(text.split("\n"), TRAIN.split("\n"), strict=False), 1) if a != b
    )
    line += new.startswith("dist_params: 3")  # where the faulty line is the second new one
    with pytest.raises(SeemoreError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'o.yml'}, line {line}: {message}")


def test_a_missing_key_is_named_with_its_group(tmp_path: Path) -> None:
    for key, name, group in [
        ("    gt_size: 128\n", "datasets:train:gt_size", "  train:\n"),
        ("    type: MultiStepLR\n", "train:scheduler:type", "  scheduler:\n"),
        ("      crop_border: 2\n", "val:metrics:psnr:crop_border", "    psnr:\n"),
    ]:
        text = changed(key, "")
        line = text[: text.index(group)].count("\n") + 1
        with pytest.raises(SeemoreError, match=rf"o.yml, line {line}: {name} is missing$"):
            load(tmp_path, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file must be a group of keys, got ~"),
        (b"[1]", "the file must be a group of keys, got a list"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: 1\n---\nb: 2\n", "line 2: but found another document"),
        (b"\xff\xfe\xfa", "not a text file"),
        (b"#" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "o.yml"
    path.write_bytes(content)
    with pytest.raises(SeemoreError, match=message):
        schema.load(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "none.yml", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(SeemoreError, match=reason):
            schema.load(path)


# Fuzz


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all keys of all groups."""
    if not isinstance(data, dict):
        return []
    return [place for key, value in data.items() for place in [(*path, key), *places(value, (*path, key))]]


def test_200_mutations_of_values_and_keys(tmp_path: Path) -> None:
    rng = random.Random(6)
    # The names of metrics and test sets are the user's to choose.
    chosen = [("val", "metrics", "psnr"), ("val", "metrics", "ssim"), ("datasets", "val_1")]
    spots = [path for path in places(yaml.safe_load(TRAIN)) if path not in chosen]
    for _ in range(200):
        path = rng.choice(spots)
        data = yaml.safe_load(TRAIN)
        group = data
        for key in path[:-1]:
            group = group[key]
        if rng.random() < 0.5:
            at = rng.randrange(len(path[-1]))
            renamed = path[-1][:at] + rng.choice("QXZ") + path[-1][at + rng.randrange(2) :]
            group[renamed] = group.pop(path[-1])
            # The type of a group decides what else belongs there: its absence is told first.
            expected = path if path == ("train", "scheduler", "type") else (*path[:-1], renamed)
        else:
            # None of these is a value of any key.
            group[path[-1]] = rng.choice([["x", {}], [[]], -3.7, {"a": 1}, float("nan")])
            expected = path
        text = yaml.safe_dump(data, sort_keys=False)
        with pytest.raises(SeemoreError) as caught:
            load(tmp_path, text)
        message = str(caught.value)
        assert ":".join(map(str, expected)) in message, (expected, message)
        assert "\n" not in message
        assert re.match(r".*o\.yml, line \d+: ", message), message


def test_200_mutations_of_the_text(tmp_path: Path) -> None:
    rng = random.Random(7)
    refused = 0
    for _ in range(200):
        text = TRAIN
        for _ in range(rng.randint(1, 3)):
            at, to = sorted(rng.sample(range(len(text)), 2))
            to = min(to, at + 40)
            junk = rng.choice(
                ["", ":", "\n", "\t", "- ", "{", "]", "'", "&a", "*a", "!!int ", "%", "|", "\0", "💡"]
            )
            text = text[:at] + rng.choice([junk, text[at:to] * 2, text[at:to][::-1]]) + text[to:]
        with suppress(SeemoreError):
            load(tmp_path, text)
            continue
        refused += 1
        with pytest.raises(SeemoreError, match=r"^[^\n]*o\.yml(, line \d+)?: [^\n]+$"):
            load(tmp_path, text)
    assert refused > 150
