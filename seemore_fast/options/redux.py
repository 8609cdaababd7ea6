"""Option files of traiNNer-redux in our terms: keys that mean the same get our names, those that say nothing
about the result are dropped.  What means something else stays as it is, and is refused as unknown.

Source of the keys: traiNNer-redux's configuration reference and its templates for SeemoRe.
"""

from __future__ import annotations

from typing import Any

from seemore_fast.network import variants
from seemore_fast.options.yaml_lines import KeyPath

_HINTS = ("use_channels_last", "fast_matmul", "use_compile", "compile_mode")
_LOADING = ("persistent_workers", "num_prefetch_queue", "prefetch_factor")
_SETS = ("PairedImageDataset", "SingleImageDataset")
_PIXEL = ("L1Loss", "MSELoss", "CharbonnierLoss")


class Untranslatable(Exception):
    """A key of theirs that asks for what we do not have; ``path`` is the key's."""

    def __init__(self, path: KeyPath, message: str):
        super().__init__(message)
        self.path = path


def translated(data: Any) -> Any:
    """``data``, a file's content, in our terms; what is in them already, or no group, stays.

    Raises Untranslatable for losses that are not ours.
    """
    if not isinstance(data, dict):
        return data
    data = {key: value for key, value in data.items() if key not in _HINTS}
    scale, train = data.get("scale"), _group(data, "train")
    if "use_amp" in data or "amp_bf16" in data:
        amp, bf16 = data.pop("use_amp", False), data.pop("amp_bf16", False)
        if train is not None:
            train.setdefault("precision", "fp32" if not amp else "bf16" if bf16 else "fp16")
    if train is not None:
        _training(train)
    if (sets := _group(data, "datasets")) is not None:
        data["datasets"] = _sets(sets, scale)
    if (network := _group(data, "network_g")) is not None and str(network.get("type")).lower() in _named():
        published = variants.config(_named()[network.pop("type").lower()])
        data["network_g"] = {**published, "type": "SeemoRe", "scale": scale, **network}
    if (path := _group(data, "path")) is not None and path.get("param_key_g", "") is None:
        del path["param_key_g"]
    if (val := _group(data, "val")) is not None:
        _validation(data, val)
    return data


def _group(data: dict[str, Any], key: str) -> dict[str, Any] | None:
    """A copy of the group ``key`` in its place, to be changed; None where there is none."""
    if not isinstance(data.get(key), dict):
        return None
    data[key] = dict(data[key])
    return data[key]


def _named() -> dict[str, str]:
    """Their names of the published networks."""
    return {f"seemore_{size}": size for size in "tbl"}


def _spelt(value: Any, names: tuple[str, ...]) -> Any:
    """The one of ``names`` that ``value`` is, whatever its case."""
    return next((name for name in names if isinstance(value, str) and value.lower() == name.lower()), value)


def _training(train: dict[str, Any]) -> None:
    if isinstance(train.get("grad_clip"), bool):
        train["grad_clip"] = float(train["grad_clip"])  # theirs clips to a norm of 1
    if train.get("use_moa") is False:
        for key in [key for key in train if key == "use_moa" or key.startswith("moa_")]:
            del train[key]
    if (optimizer := _group(train, "optim_g")) is not None:
        optimizer["type"] = _spelt(optimizer.get("type"), ("Adam", "AdamW"))
    losses = train.get("losses")
    if not isinstance(losses, list) or not all(isinstance(loss, dict) for loss in losses):
        return
    for loss in train.pop("losses"):
        if loss.get("loss_weight") == 0:
            continue
        kind = _spelt(loss.get("type"), (*_PIXEL, "FFTLoss"))
        ours = "pixel_opt" if kind in _PIXEL else "fft_opt"
        if kind not in (*_PIXEL, "FFTLoss"):
            known = ", ".join((*_PIXEL, "FFTLoss"))
            raise Untranslatable(
                ("train", "losses"), f"{kind} is not ours (there are {known}); loss_weight: 0 leaves it out"
            )
        if ours in train:
            raise Untranslatable(("train", "losses"), "may have one loss of pixels and one FFTLoss")
        train[ours] = {**loss, "type": kind}


def _sets(sets: dict[str, Any], scale: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, given in sets.items():
        if not isinstance(given, dict):
            found[name] = given
            continue
        group = {key: value for key, value in given.items() if key not in _LOADING}
        group["type"] = _spelt(group.get("type"), _SETS)
        if "meta_info" in group:
            group["meta_info_file"] = group.pop("meta_info")
        if group.get("dataset_enlarge_ratio") == "auto":
            del group["dataset_enlarge_ratio"]
        size = group.get("lq_size")
        if isinstance(size, int) and isinstance(scale, int) and "gt_size" not in group:
            group["gt_size"] = group.pop("lq_size") * scale
        if name == "train":
            found[name] = group
            continue
        for index, part in enumerate(_one_folder_each(group), 1):
            found[name if index == 1 else f"{name}_{index}"] = part
    return found


def _one_folder_each(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A test set of several folders as several."""
    roots = {key: group[key] for key in ("dataroot_gt", "dataroot_lq") if isinstance(group.get(key), list)}
    counts = {len(value) for value in roots.values()}
    if len(counts) != 1 or counts == {0}:
        return [group]
    return [{**group, **{key: value[i] for key, value in roots.items()}} for i in range(counts.pop())]


def _validation(data: dict[str, Any], val: dict[str, Any]) -> None:
    for key in ("tile_size", "tile_overlap"):  # pictures are measured whole
        val.pop(key, None)
    if val.pop("metrics_enabled", True) is False:
        val["metrics"] = {}
    if val.pop("val_enabled", True) is False:
        val.pop("val_freq", None)
        if isinstance(data.get("datasets"), dict):
            data["datasets"] = {k: v for k, v in data["datasets"].items() if not k.startswith("val")}
