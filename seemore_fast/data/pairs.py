"""Paired folders: which HR picture belongs to which LR picture, and reading both.

The pairing follows BasicSR's ``PairedImageDataset``; faults are found before any work starts, all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seemore_fast.data import lmdb_pictures
from seemore_fast.errors import ImageError
from seemore_fast.image import FORMATS, read, size

_CROPPED = 12
"""Published HR pictures may be larger than LR x scale by what was cut to make sides a multiple of 12."""

_META_INFO = re.compile(r"(.+?)\s*(\([\d, ]*\))?\s*")


class Pair(NamedTuple):
    """One picture of a set: its name (the HR file's, without suffix), the HR file (None: there is none, the
    picture is enlarged, not measured) and the LR file."""

    name: str
    gt: Path | None
    lq: Path


def find_pairs(
    gt_folder: str | Path,
    lq_folder: str | Path,
    filename_tmpl: str = "{}",
    meta_info_file: str | Path | None = None,
) -> list[Pair]:
    """Pairs the pictures of two folders by name, sorted.

    ``filename_tmpl`` makes the LR file's name from the HR file's, both without suffix: ``{}x4`` finds
    ``babyx4.png`` for ``baby.png``.  ``meta_info_file`` restricts the set to the HR files that it lists, one
    a line (BasicSR's ``name (h,w,c)`` too), perhaps in folders below; their LR files are in folders of the
    same names, or, as BasicSR has it, in ``lq_folder`` itself.

    A folder called ``*.lmdb`` is read as BasicSR's LMDB; two of them pair by equal keys, whatever
    ``filename_tmpl`` says.

    Raises ImageError, naming up to five files, if a folder or listed file is missing, a folder has no
    pictures, or a picture lacks its partner; LR pictures may be left over only where a list chooses.
    """
    if filename_tmpl.count("{}") != 1 or re.search(r"[{}/\\\0]", filename_tmpl.replace("{}", "")):
        raise ImageError(
            f"filename_tmpl must hold {{}} once and no folder, such as {{}}x4, got {filename_tmpl!r}"
        )
    if all(Path(folder).suffix == lmdb_pictures.SUFFIX for folder in (gt_folder, lq_folder)):
        filename_tmpl = "{}"
    listed = None if meta_info_file is None else _names_in(Path(meta_info_file))
    gts, lqs = _pictures(Path(gt_folder), listed), _pictures(Path(lq_folder), listed)
    names = sorted(gts) if listed is None else _found(Path(str(meta_info_file)), listed, gts, Path(gt_folder))
    partner = {
        name: str(Path(name).with_name(filename_tmpl.replace("{}", Path(name).name))) for name in names
    }
    # BasicSR leaves the list's folders out on the LR side.
    partner = {name: other if other in lqs else Path(other).name for name, other in partner.items()}
    lacking = [f"{gts[name]} has no {partner[name]}.*" for name in names if partner[name] not in lqs]
    if lacking:
        raise ImageError(f"{lq_folder}: {first_five(lacking)}")
    if meta_info_file is None and (extra := sorted(lqs.keys() - partner.values())):
        raise ImageError(f"{gt_folder}: no HR picture for {first_five([str(lqs[name]) for name in extra])}")
    return [Pair(name, gts[name], lqs[partner[name]]) for name in names]


def find_pictures(folder: str | Path, meta_info_file: str | Path | None = None) -> list[Path]:
    """The pictures of one folder, sorted by name, as `find_pairs` takes HR pictures; raises as that."""
    listed = None if meta_info_file is None else _names_in(Path(meta_info_file))
    found = _pictures(Path(folder), listed)
    names = sorted(found) if listed is None else _found(meta_info_file, listed, found, folder)
    return [found[name] for name in names]


def find_unpaired(folder: str | Path) -> list[Pair]:
    """The pictures of a folder that has no HR ones, sorted; raises as `find_pairs`."""
    return [Pair(name, None, path) for name, path in sorted(_pictures(Path(folder)).items())]


def check_sizes(pairs: Sequence[Pair], scale: int) -> None:
    """Reads the headers of all files, and raises ImageError, naming up to five pairs, unless every HR picture
    is of its LR picture's size times ``scale``, or up to 11 pixels larger: those are cropped.
    """
    faults = []
    for pair in pairs:
        if pair.gt is None:
            continue
        (gt_w, gt_h), (lq_w, lq_h) = _size(pair.gt), _size(pair.lq)
        if not (0 <= gt_w - lq_w * scale < _CROPPED and 0 <= gt_h - lq_h * scale < _CROPPED):
            faults.append(
                f"{pair.gt} is {gt_w}x{gt_h}, but {pair.lq} times {scale} is {lq_w * scale}x{lq_h * scale}"
            )
    if faults:
        raise ImageError(first_five(faults))


def read_pair(pair: Pair, scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The HR and the LR picture, (h * scale, w * scale, 3) and (h, w, 3) uint8 RGB.

    The HR picture is cropped at the right and bottom.  Raises ImageError as `image.read` does.
    """
    assert pair.gt is not None, "there is no HR picture to read"
    lq = read_rgb(pair.lq)
    height, width = lq.shape[0] * scale, lq.shape[1] * scale
    return read_rgb(pair.gt)[:height, :width], lq


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as contiguous (H, W, 3) uint8 RGB: gray is repeated, alpha left out.

    Of 16 bits a channel the upper 8 are taken, as BasicSR does.  Raises ImageError as `image.read` does, and
    for animations and pages.
    """
    picture = read(path, data=lmdb_pictures.encoded(path) if lmdb_pictures.is_inside(path) else None)
    pixels: NDArray[Any] = picture.pixels
    if picture.animation is not None:
        kind = "animated" if picture.animation.delays else "several pages"
        raise ImageError(f"{path}: {kind}; only still pictures are measured and trained on")
    if pixels.dtype == np.float32:
        raise ImageError(f"{path}: floating point; figures and training take 8 and 16 bits a channel")
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.shape[2] < 3:
        return pixels[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def _pictures(folder: Path, listed: Sequence[str] | None = None) -> dict[str, Path]:
    """The folder's pictures by name without suffix; also of the folders below that ``listed`` names."""
    if folder.suffix == lmdb_pictures.SUFFIX:
        return lmdb_pictures.keys(folder)
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: {error.strerror}") from None
    found: dict[str, Path] = {}
    below = sorted({Path(name).parent for name in listed or ()} - {Path(".")})
    for inner in below:
        if ".." in inner.parts or inner.is_absolute():
            raise ImageError(f"{folder}: the list's {inner} leads out of this folder")
        place = folder / inner
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.suffix.lower() in FORMATS and not file.name.startswith("."):
                found[str(inner / file.stem)] = file
    for file in files:
        if file.suffix.lower() in FORMATS and not file.name.startswith("."):
            if file.stem in found:
                raise ImageError(f"{folder}: {found[file.stem].name} and {file.name} have one name; keep one")
            found[file.stem] = file
    if not found:
        raise ImageError(f"{folder}: no pictures in this folder")
    return found


def _names_in(file: Path) -> list[str]:
    """What a list names, one a line, with suffixes and folders as it has them."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{file}: {getattr(error, 'strerror', None) or 'is not a text file'}") from None
    names = [match[1] for line in lines if line.strip() and (match := _META_INFO.fullmatch(line))]
    if not names:
        raise ImageError(f"{file}: lists no pictures")
    return names


def _found(
    file: str | Path | None, names: list[str], gts: dict[str, Path], gt_folder: str | Path
) -> list[str]:
    """The listed ``names`` as keys of ``gts``."""
    stems = [name if name in gts else str(Path(name).with_suffix("")) for name in names]
    missing = [name for name, stem in zip(names, stems, strict=True) if stem not in gts]
    if missing:
        raise ImageError(f"{file}: not in {gt_folder}: {first_five(missing)}")
    return sorted(set(stems))


def _size(path: Path) -> tuple[int, int]:
    """Width and height, upright, from the header."""
    return read_rgb(path).shape[1::-1] if lmdb_pictures.is_inside(path) else size(path)


def first_five(items: Sequence[str]) -> str:
    """Up to five of the items, and how many follow: for messages."""
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return "; ".join(items[:5]) + more
