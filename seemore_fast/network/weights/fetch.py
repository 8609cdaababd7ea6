"""Known weights from where they lie to the user's cache: once, whole, checked, converted to our format.

The SHA-256 of what came the first time is remembered; another file under the same name is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from filelock import FileLock

from seemore_fast.errors import CheckpointError, SeemoreError
from seemore_fast.network import checkpoint
from seemore_fast.network.weights.catalogue import Known, is_address
from seemore_fast.network.weights.download import download, reason
from seemore_fast.system import folders
from seemore_fast.system.atomic import write_text

log = logging.getLogger(__name__)


def cached(entry: Known) -> Path | None:
    """Where the converted weights lie once they have been fetched; None for users without a home."""
    folder = folders.of_user("cache")
    return folder and folder / "weights" / f"{entry.name}.safetensors"


def sha256(entry: Known) -> str | None:
    """Of the file that was fetched first under this name; None before.

    Raises CheckpointError where the record of these cannot be read.
    """
    return _remembered().get(entry.name)


def fetch(entry: Known) -> Path:
    """The cached file, fetched if it is not there.

    Raises CheckpointError where it cannot be fetched or stored, is not this network's, or is another file
    than the first time.
    """
    target = cached(entry)
    if target is None:
        raise CheckpointError(
            f"{entry.name}: there is no home folder to keep it in: set HOME; or download {_address(entry)} "
            "and give that file"
        )
    try:
        if _is_there(entry, target):  # without the lock, for a cache that others filled may be read-only
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # of two processes, one fetches
            if not _is_there(entry, target):
                _fetch(entry, target)
    except OSError as error:
        raise CheckpointError(
            f"{entry.name}: cannot be kept in {target.parent} ({error.strerror or error}); "
            f"download {_address(entry)} and give that file"
        ) from None
    return target


def _is_there(entry: Known, target: Path) -> bool:
    """Raises CheckpointError for a file that is there, but not what was stored or is asked for now."""
    if not target.is_file():
        return False
    remembered = sha256(entry)
    try:
        file = checkpoint.read(target)
        fetched = file.metadata.get("sha256") if file.metadata.get("tensors") == _digest(file.state) else None
    except CheckpointError:
        fetched = None
    if fetched is None or remembered not in (None, fetched):
        raise CheckpointError(
            f"{target}: not the file that was stored there; delete it to fetch {entry.name} anew"
        )
    if not _is_as_asked(entry, file):
        raise CheckpointError(
            f"{target}: of another configuration than the table of weights has now; "
            f"delete it to fetch {entry.name} anew"
        )
    if remembered is None:
        with suppress(OSError, NotImplementedError, SeemoreError):  # the second: no locks there
            _remember(entry.name, fetched)
    return True


def _is_as_asked(entry: Known, file: checkpoint.Checkpoint) -> bool:
    if entry.config.items() <= (file.config or {}).items():  # nearly always; what follows builds two networks
        return True
    try:
        return file.resolve_config(**entry.config) == file.resolve_config()
    except CheckpointError:
        return False


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    """Of the tensors that were stored: safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fetch(entry: Known, target: Path) -> None:
    import requests

    if not entry.places:
        raise CheckpointError(
            f"{entry.name}: must be downloaded by hand, from {entry.by_hand}; then give it by --model FILE"
        )
    before, part = sha256(entry), target.with_suffix(".part")
    faults = []
    for place in _places(entry):
        try:
            download(place, part, entry.name)
            file, config, fetched = _check(entry, part, before)
        except (requests.RequestException, ValueError, CheckpointError) as error:
            faults.append(f"{urlsplit(place).hostname}: {reason(error)}")
            continue
        _remember_or_warn(entry.name, fetched)
        source = _shown(urlsplit(place)._replace(query="", fragment="").geturl())
        kept = {"source": source, "sha256": fetched, "licence": entry.licence}
        checkpoint.save(file.state, target, config, {**kept, "tensors": _digest(file.state)})
        part.unlink()
        log.info("fetched %s from %s, SHA-256 %s", entry.name, source, fetched)
        return
    again = "run it again to go on, or " if part.is_file() and part.stat().st_size else ""
    raise CheckpointError(
        f"{entry.name}: cannot be fetched ({'; '.join(faults)}); {again}download {_address(entry)} by hand "
        "and give that file"
    )


def _places(entry: Known) -> list[str]:
    mirror = os.environ.get("SEEMORE_WEIGHTS_URL")
    if not mirror:
        return entry.places
    place = f"{mirror.rstrip('/')}/{PurePosixPath(urlsplit(entry.places[0]).path).name}"
    if not is_address(place) or "?" in mirror or "#" in mirror:
        shown = mirror.rpartition("@")[2]  # without what may be a password
        raise CheckpointError(
            f"SEEMORE_WEIGHTS_URL={shown}: must begin with http:// or https://, name a server, "
            "and have neither ? nor #"
        )
    return [place]


def _address(entry: Known) -> str:
    return _shown(entry.places[0]) if entry.places else entry.by_hand


def _shown(place: str) -> str:
    """The address without the user and password that it may have."""
    return re.sub(r"(?<=//)[^/?#]*@", "", place)


def _check(entry: Known, part: Path, before: str | None) -> tuple[checkpoint.Checkpoint, dict[str, Any], str]:
    """The network in a download, its configuration and the download's SHA-256.

    Raises CheckpointError, with the download removed, if that is not what ``entry`` says or was ``before``.
    """
    fetched = hashlib.sha256(part.read_bytes()).hexdigest()
    try:
        if before not in (None, fetched):
            raise CheckpointError(
                f"the file has changed: SHA-256 {fetched}, before it was {before}; "
                f"if you trust it, take {entry.name} out of {_records()}"
            )
        file = checkpoint.read(part)
        _check_sums(part)
        config = checkpoint.infer_config(file.state, **{**(file.config or {}), **entry.config})
    except CheckpointError as error:
        part.unlink()
        raise CheckpointError(str(error).removeprefix(f"{part}: ")) from None
    return file, config, fetched


def _check_sums(part: Path) -> None:
    """Of an archive's members, for PyTorch does not look at them.  Raises CheckpointError for a wrong one."""
    if not zipfile.is_zipfile(part):
        return
    try:
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()
    except Exception as error:  # of half a dozen kinds, by where it is damaged
        raise CheckpointError(f"damaged ({reason(error)})") from None
    if damaged:
        raise CheckpointError(f"damaged: {damaged} has another checksum")


# What is remembered


def _records() -> Path | None:
    """The file; None for users without a home."""
    folder = folders.of_user("data")
    return folder and folder / "weights.json"


def _remembered() -> dict[str, str]:
    """SHA-256 by name."""
    file = _records()
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        hashes = {name: value["fetched"] for name, value in found.items()}
        if not all(isinstance(value, str) for value in hashes.values()):
            raise TypeError
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{file}: cannot be read as the record of fetched weights; delete it, and what is fetched next "
            "is trusted anew"
        ) from None
    return hashes


def _remember(name: str, fetched: str) -> None:
    """Raises OSError or SeemoreError where it cannot be."""
    file = _records()
    if file is None:
        raise CheckpointError("there is no home folder to remember it in: set HOME")
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        record = {key: {"fetched": value} for key, value in {**_remembered(), name: fetched}.items()}
        write_text(file, json.dumps(record, indent=2))


def _remember_or_warn(name: str, fetched: str) -> None:
    try:
        _remember(name, fetched)
    except (OSError, NotImplementedError, SeemoreError) as error:
        log.warning("%s: another file under this name would not be noticed (%s)", name, error)
