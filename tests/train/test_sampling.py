"""Pictures in the cache, and the patches that are cut from them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seemore_fast.data import pairs
from seemore_fast.data.resize import imresize
from seemore_fast.errors import ImageError, SeemoreError
from seemore_fast.options.datasets import Degradations
from seemore_fast.system.ahead import map_ahead
from seemore_fast.train import pictures
from seemore_fast.train.sampling import Sampler


def silent(what: str, done: int, total: int) -> None:
    pass


def both(job: Path) -> tuple[pictures.Pictures, pictures.Pictures]:
    files = pairs.find_pictures(job / "photos")
    large = pictures.decoded(files, job / "cache", silent)
    return large, pictures.reduced(large, files, 2, job / "cache", silent)


def test_cache_holds_the_pictures_and_their_bicubic_reductions(job: Path) -> None:
    large, small = both(job)
    for number in range(2):
        truth = pairs.read_rgb(job / f"photos/{number}.png")
        h, w = (side // 2 * 2 for side in truth.shape[:2])
        assert np.array_equal(large[number], truth)
        assert np.array_equal(small[number], imresize(truth[:h, :w], 0.5, edges="repeat"))


def test_gray_and_transparent_pictures_are_cached_as_rgb(job: Path) -> None:
    rgb = Image.open(job / "photos/0.png")
    rgb.convert("L").save(job / "photos/0.png")
    rgb.convert("RGBA").save(job / "photos/1.png")
    large, _ = both(job)
    assert np.array_equal(large[0], np.asarray(rgb.convert("L").convert("RGB")))
    assert np.array_equal(large[1], np.asarray(rgb))


def test_cache_is_made_anew_only_when_a_source_changes(job: Path) -> None:
    both(job)
    before = {path: path.stat().st_mtime_ns for path in (job / "cache").iterdir()}
    both(job)
    assert {path: path.stat().st_mtime_ns for path in (job / "cache").iterdir()} == before
    Image.new("RGB", (64, 64), (9, 8, 7)).save(job / "photos/0.png")
    os.utime(job / "photos/0.png", ns=(1, 1))
    large, _ = both(job)
    assert (large[0] == (9, 8, 7)).all()
    after = set((job / "cache").iterdir())
    assert len(after) == 2
    assert not after & before.keys()


def test_unreadable_pictures_are_all_named_and_leave_no_cache(job: Path) -> None:
    for name in ("a.png", "b.png"):
        (job / "photos" / name).write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"a\.png: not a PNG.*; .*b\.png: not a PNG"):
        both(job)
    assert not list((job / "cache").iterdir())


def test_a_cache_that_cannot_be_written_is_one_error(job: Path) -> None:
    (job / "cache").write_text("a file")
    with pytest.raises(SeemoreError, match="cannot be written"):
        both(job)


def sampler(job: Path, **arguments) -> Sampler:
    chosen = {"scale": 2, "patch": 16, "batch": 4, "seed": 5, "hflip": True, "rot": True, **arguments}
    return Sampler(*both(job), **chosen)


def test_batches_depend_on_seed_and_iteration_only(job: Path) -> None:
    first, second = sampler(job), sampler(job)
    forward = [first.batch(i) for i in range(1, 8)]
    backward = [second.batch(i) for i in range(7, 0, -1)][::-1]
    threads = list(map_ahead(second.batch, range(1, 8), threads=3, depth=4))
    for a, b, c in zip(forward, backward, threads, strict=True):
        for one, two, three in zip(a, b, c, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
    assert not torch.equal(forward[0].gt, forward[1].gt)
    assert not torch.equal(forward[0].gt, sampler(job, seed=6).batch(1).gt)


def test_processes_share_the_batch_of_one(job: Path) -> None:
    whole = sampler(job, batch=6).batch(3)
    parts = [sampler(job, batch=2, rank=rank, world=3).batch(3) for rank in range(3)]
    assert torch.equal(whole.lq, torch.cat([part.lq for part in parts]))
    assert torch.equal(whole.gt, torch.cat([part.gt for part in parts]))


def test_an_epoch_visits_each_picture_by_its_area(job: Path) -> None:
    one = sampler(job, batch=1)
    # LR pictures of 24x32 and 48x27 have room for 3 and 5 patches of 16x16.
    assert one.epoch_length == 8
    for epoch in range(3):
        seen = [one.pictures(8 * epoch + i)[0] for i in range(1, 9)]
        assert sorted(seen) == [0] * 3 + [1] * 5
    assert [sampler(job, batch=1, shuffle=False).pictures(i)[0] for i in range(1, 9)] == [0] * 3 + [1] * 5


def test_patches_of_a_pair_are_the_same_place(job: Path) -> None:
    """Where HR is LR with its pixels repeated, every HR patch must be its LR patch's repetition."""
    rng = np.random.default_rng(0)
    (job / "hr").mkdir()
    (job / "lr").mkdir()
    small = rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    Image.fromarray(small).save(job / "lr/p.png")
    Image.fromarray(small.repeat(3, 0).repeat(3, 1)).save(job / "hr/p.png")
    gt, lq = (pictures.decoded([job / f"{kind}/p.png"], job / "cache", silent) for kind in ("hr", "lr"))
    orders = set()
    for hflip, rot, kinds in [(False, False, 1), (True, False, 2), (True, True, 8)]:
        one = Sampler(gt, lq, 3, 16, 8, 1, hflip=hflip, rot=rot)
        batches = [one.batch(i) for i in range(1, 31)]
        for batch in batches:
            assert torch.equal(batch.gt, batch.lq.repeat_interleave(3, 2).repeat_interleave(3, 3))
        seen = {turned(patch, small) for batch in batches for patch in batch.lq}
        assert len(seen) == kinds
        orders |= seen
    assert None not in orders


def turned(patch: torch.Tensor, picture: np.ndarray) -> tuple[bool, bool, bool] | None:
    """Which of the eight symmetries makes ``patch`` a part of ``picture``; None: it is no part of it."""
    pixels = patch.numpy().transpose(1, 2, 0)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (16, 16), axis=(0, 1)).transpose(
        0, 1, 3, 4, 2
    )
    for turn in (False, True):
        for flip in (False, True):
            for mirror in (False, True):
                back = pixels.swapaxes(0, 1) if turn else pixels
                back = back[::-1] if flip else back
                back = back[:, ::-1] if mirror else back
                if (windows == back).all(axis=(2, 3, 4)).any():
                    return turn, flip, mirror
    return None


def test_lmdb_of_basicsr(job: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'seemore-fast[train]'")
    folder = job / "photos.lmdb"
    names = [path.stem for path in pairs.find_pictures(job / "photos")]
    with lmdb.open(str(folder), map_size=1 << 24) as base, base.begin(write=True) as transaction:
        for name in names:
            transaction.put(name.encode(), (job / f"photos/{name}.png").read_bytes())
    (folder / "meta_info.txt").write_text("".join(f"{name}.png (9,9,3) 1\n" for name in names))
    stored = pictures.decoded(pairs.find_pictures(folder), job / "cache", silent)
    for number, name in enumerate(names):
        assert np.array_equal(stored[number], pairs.read_rgb(job / f"photos/{name}.png"))
    paired = pairs.find_pairs(folder, folder)
    pairs.check_sizes(paired, 1)
    assert [pair.name for pair in paired] == names
    with pytest.raises(ImageError, match=r"photos\.lmdb/gone: no such key"):
        pairs.read_rgb(folder / "gone")


def test_weights_say_how_often_a_picture_comes_up(job: Path) -> None:
    large, small = both(job)
    even, tripled = (Sampler(large, small, 2, 16, 1, 0, weights=w) for w in (None, [1, 3]))
    seen = [
        Counter(sampler.pictures(i + 1)[0] for i in range(sampler.epoch_length))
        for sampler in (even, tripled)
    ]
    assert seen[1] == {0: seen[0][0], 1: 3 * seen[0][1]}


def test_degradations_spoil_lr_patches_only_and_the_same_each_time(job: Path) -> None:
    plain = sampler(job, batch=6).batch(3)
    for more in (
        {"blur_prob": 1.0, "blur_sigma": [0.8, 2.0]},
        {"noise_prob": 1.0},
        {"jpeg_prob": 1.0, "jpeg_range": [10.0, 20.0]},
    ):
        wish = Degradations(**more)
        one, again = (sampler(job, batch=6, degradations=wish).batch(3) for _ in range(2))
        assert torch.equal(one.lq, again.lq)
        assert torch.equal(one.gt, plain.gt), "the patches stay where they were"
        differences = (one.lq.float() - plain.lq.float()).abs().mean((1, 2, 3))
        assert (differences > 0.2).all()
        assert len(set(differences.tolist())) == 6, "each has a strength of its own"
        parts = [sampler(job, batch=2, rank=r, world=3, degradations=wish).batch(3) for r in range(3)]
        assert torch.equal(one.lq, torch.cat([part.lq for part in parts]))
    never = sampler(job, batch=6, degradations=Degradations()).batch(3)
    assert torch.equal(never.lq, plain.lq)
    half = sampler(job, batch=200, degradations=Degradations(noise_prob=0.5)).batch(1)
    clean = sampler(job, batch=200).batch(1)
    spoilt = (half.lq != clean.lq).flatten(1).any(1).sum()
    assert 70 < spoilt < 130
