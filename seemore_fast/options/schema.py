"""Option files in BasicSR's layout: YAML -> checked, typed groups; docs/evaluation.md describes the keys.

Nothing in a file is executed, and every fault is one SeemoreError with the file, the line and the key's path,
written as ``--force_yml`` takes it (``val:metrics:psnr:crop_border``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from seemore_fast.errors import SeemoreError
from seemore_fast.network.reference import LIMITS, expert_ranks
from seemore_fast.options import redux
from seemore_fast.options.datasets import Datasets
from seemore_fast.options.groups import Count, FolderName, Group, Integer, Text, Weight
from seemore_fast.options.yaml_lines import KeyPath, parse_file, parse_value


class Network(Group):
    """``network_g``: the constructor's arguments, with its defaults."""

    type: Literal["SeemoRe"]
    scale: Literal[1, 2, 3, 4] = 4
    in_chans: Annotated[Integer, Field(ge=1, le=1024)] = 3
    num_experts: Annotated[Integer, Field(ge=1, le=64)] = 6
    num_layers: Annotated[Integer, Field(ge=0, le=512)] = 6
    embedding_dim: Annotated[Integer, Field(ge=1, le=4096)] = 64
    img_range: Annotated[float, Field(gt=0)] = 1.0
    use_shuffle: bool = False
    global_kernel_size: Annotated[Integer, Field(ge=1, le=255)] = 11
    recursive: Annotated[Integer, Field(ge=0, le=6)] = 2
    lr_space: Literal["linear", "exp", "double"] = "linear"
    topk: Count = 2

    @field_validator("global_kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise PydanticCustomError("even", "must be odd")
        return value

    @model_validator(mode="after")
    def _enough_experts(self) -> Network:
        if self.topk > self.num_experts:
            limit = {"key": "topk", "experts": self.num_experts}
            raise PydanticCustomError("topk", "must be at most num_experts ({experts})", limit)
        if (rank := expert_ranks(self.num_experts, self.lr_space)[-1]) > LIMITS["rank"]:
            limit = {"key": "num_experts", "rank": rank, "most": LIMITS["rank"]}
            raise PydanticCustomError("rank", "gives experts of ranks up to {rank}, more than {most}", limit)
        return self

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of SeemoRe."""
        return self.model_dump(exclude={"type"})


class Paths(Group):
    """``path``: weights, and the state to resume from."""

    pretrain_network_g: Text | None = None
    param_key_g: Text = "params"
    strict_load_g: bool = True
    resume_state: Text | None = None


class Optimizer(Group):
    """``train: optim_g``."""

    type: Literal["Adam", "AdamW"]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Weight = 0.0
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.999]
    )


class MultiStepLR(Group):
    """The learning rate times ``gamma`` at each milestone (iterations)."""

    type: Literal["MultiStepLR"]
    milestones: list[Count]
    gamma: Annotated[float, Field(gt=0)] = 0.1


class CosineAnnealingRestartLR(Group):
    """Cosines of ``periods`` iterations down to ``eta_min``, each starting at its weight times the rate."""

    type: Literal["CosineAnnealingRestartLR"]
    periods: Annotated[list[Count], Field(min_length=1)]
    restart_weights: list[Weight] = Field(default=[1.0])
    eta_min: Weight = 0.0

    @model_validator(mode="after")
    def _one_weight_each(self) -> CosineAnnealingRestartLR:
        if len(self.restart_weights) != len(self.periods):
            ours = {"key": "restart_weights", "periods": len(self.periods)}
            raise PydanticCustomError("weights", "must be as many as periods ({periods})", ours)
        return self


class Loss(Group):
    """A term of the loss."""

    loss_weight: Weight = 1.0
    reduction: Literal["mean", "sum"] = "mean"


class PixelLoss(Loss):
    """``train: pixel_opt``."""

    type: Literal["L1Loss", "MSELoss", "CharbonnierLoss"]


class FFTLoss(Loss):
    """``train: fft_opt``: L1 between the spectra's real and imaginary parts."""

    type: Literal["FFTLoss"]


class Training(Group):
    """``train``; ``ema_decay`` 0 means no moving average, ``warmup_iter`` -1 no warm-up.

    With ``ema_power`` the average's decay at iteration i is 1 - (1 + i) ** -ema_power until it reaches
    ``ema_decay``, so that it follows from the start.

    ``precision`` is that of the network's arithmetic; ``grad_clip`` the largest norm of all gradients
    together (0: no limit).  ``cuda_graph``: on a GPU, forward and backward are replayed as one CUDA graph.
    """

    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema_power: Annotated[float, Field(ge=0, le=10)] = 0.0
    optim_g: Optimizer
    scheduler: Annotated[MultiStepLR | CosineAnnealingRestartLR, Field(discriminator="type")]
    total_iter: Count
    warmup_iter: Annotated[Integer, Field(ge=-1, le=10**12)] = -1
    pixel_opt: PixelLoss | None = None
    fft_opt: FFTLoss | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    grad_clip: Weight = 0.0
    cuda_graph: bool = False

    @model_validator(mode="after")
    def _some_loss(self) -> Training:
        if self.pixel_opt is None and self.fft_opt is None:
            raise PydanticCustomError("loss", "is missing; give it or fft_opt", {"key": "pixel_opt"})
        return self


_PERCEPTUAL = ("calculate_lpips", "calculate_dists")


class Metric(Group):
    """One of ``val: metrics``; the border is cut before the conversion to luma.

    LPIPS and DISTS are of colours, without a border and better lower unless told otherwise.
    """

    type: Literal["calculate_psnr", "calculate_ssim", "calculate_lpips", "calculate_dists"]
    crop_border: Annotated[Integer, Field(ge=0, le=10**6)]
    test_y_channel: bool = False
    better: Literal["higher", "lower"] = "higher"

    @model_validator(mode="before")
    @classmethod
    def _perceptual_defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") in _PERCEPTUAL:
            return {"crop_border": 0, "better": "lower", **data}
        return data

    @model_validator(mode="after")
    def _colours(self) -> Metric:
        if self.perceptual and self.test_y_channel:
            raise PydanticCustomError(
                "luma", "is not for {type}", {"key": "test_y_channel", "type": self.type}
            )
        return self

    @property
    def perceptual(self) -> bool:
        """Whether a network judges."""
        return self.type in _PERCEPTUAL


class Validation(Group):
    """``val``; ``use_chop`` and ``pbar`` are read and have no effect."""

    val_freq: Count | None = None
    save_img: bool = False
    suffix: FolderName | None = None
    use_chop: bool = False
    pbar: bool = False
    metrics: dict[str, Metric] | None = None


class WandB(Group):
    """``logger: wandb``."""

    project: str | None = None
    resume_id: str | None = None


class Logger(Group):
    """``logger``; frequencies in iterations."""

    print_freq: Count = 200
    save_checkpoint_freq: Count = 5000
    save_checkpoint_format: Literal["pth", "safetensors"] = "pth"
    use_tb_logger: bool = False
    wandb: WandB | None = None


class Distributed(Group):
    """``dist_params``."""

    backend: Literal["nccl", "gloo"] = "nccl"
    port: Annotated[Integer, Field(ge=1, le=65535)] = 29500


class Options(Group):
    """A whole file."""

    name: FolderName
    model_type: Literal["SRModel"] = "SRModel"
    scale: Literal[1, 2, 3, 4]
    num_gpu: Annotated[Integer, Field(ge=0, le=1024)] | Literal["auto"] = "auto"
    manual_seed: Annotated[Integer, Field(ge=0, lt=2**63)] | None = None
    datasets: Datasets
    network_g: Network
    path: Paths = Paths()
    train: Training | None = None
    val: Validation = Validation()
    logger: Logger = Logger()
    dist_params: Distributed = Distributed()

    @model_validator(mode="after")
    def _one_scale(self) -> Options:
        if self.network_g.scale != self.scale:
            ours = {"key": "scale", "network": self.network_g.scale}
            raise PydanticCustomError("scale", "must equal network_g:scale, which is {network}", ours)
        return self

    @model_validator(mode="after")
    def _whole_lr_patches(self) -> Options:
        train = self.datasets.train
        if train is not None and train.gt_size % self.scale:
            where = {"key": ("datasets", "train", "gt_size"), "scale": self.scale}
            raise PydanticCustomError("gt_size", "must be a multiple of scale ({scale})", where)
        return self


def load(path: str | Path, force_yml: Sequence[str] = ()) -> Options:
    """Reads an option file and applies ``force_yml``: texts such as ``val:save_img=true``, values in YAML.

    Paths in the file stay as they are: relative ones count from the working folder.
    Raises SeemoreError, naming file, line and key, for what cannot be read or means nothing.
    """
    data, lines = parse_file(Path(path))
    forced = [_force(data, entry) for entry in force_yml]
    try:
        return Options.model_validate(redux.translated(data))
    except redux.Untranslatable as error:
        line = next((lines[error.path[:n]] for n in (2, 1) if error.path[:n] in lines), 1)
        raise SeemoreError(f"{path}, line {line}: {':'.join(map(str, error.path))}: {error}") from None
    except ValidationError as error:
        raise SeemoreError(_describe(error, Path(path), data, lines, forced)) from None


def shortened(options: Options) -> Options:
    """For a name with "debug" in it, BasicSR's short intervals: print always, validate and save every 8th."""
    if "debug" not in options.name:
        return options
    logger = options.logger.model_copy(update={"print_freq": 1, "save_checkpoint_freq": 8})
    val = options.val.model_copy(update={"val_freq": 8})
    return options.model_copy(update={"logger": logger, "val": val})


def _force(data: Any, entry: str) -> KeyPath:
    """Sets one value in ``data``; the path it went to."""
    keys, equals, text = entry.partition("=")
    path = tuple(key.strip() for key in keys.split(":"))
    if not equals or not all(path):
        raise SeemoreError(f"--force_yml must be a:b:c=value, got {entry!r}")
    try:
        # BasicSR takes None for ~.
        value = None if text.strip().lower() == "none" else parse_value(text)
    except yaml.YAMLError:
        raise SeemoreError(f"--force_yml {entry}: the value is not YAML") from None
    group = data
    for depth, key in enumerate(path):
        if not isinstance(group, dict):
            raise SeemoreError(
                f"--force_yml {entry}: {':'.join(path[:depth]) or 'the file'} is no group of keys"
            )
        if depth < len(path) - 1:
            group = group.setdefault(key, {})
        else:
            group[key] = value
    return path


def _describe(
    error: ValidationError, file: Path, data: Any, lines: dict[KeyPath, int], forced: Sequence[KeyPath]
) -> str:
    """The first fault in one line: where it is, which key, and what would be right."""
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    key = context.get("key", ())
    location = [*first["loc"], *(key if isinstance(key, tuple) else (key,))]
    kind, message = first["type"], first["msg"]
    if kind.startswith("union_tag"):  # the group's type chooses its keys
        location.append("type")
        kind, message = ("missing", "") if kind.endswith("not_found") else (kind, _one_of(context))
    path: KeyPath = ()
    value = data
    for part in location:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            # A key that is missing, or else the class that pydantic chose for the group.
            if kind != "missing" or part != location[-1]:
                continue
        path = (*path, part)
    shown = ":".join(map(str, path))
    if kind == "missing":
        message = "is missing"
    elif kind in ("model_type", "dict_type"):
        message = f"must be a group of keys, got {_short(value)}"
    elif kind != "unknown_key":
        message = f"{message.replace('Input should', 'must')}, got {_short(value)}"
    if path in forced or (path not in lines and any(given[: len(path)] == path for given in forced)):
        return f"--force_yml {shown} {message}"
    place = path
    while place not in lines and place:
        place = place[:-1]
    return f"{file}, line {lines.get(place, 1)}: {shown or 'the file'} {message}"


def _one_of(context: dict[str, Any]) -> str:
    return f"must be {context['expected_tags'].replace(', ', ' or ')}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "a group of keys"
    if isinstance(value, list):
        return "a list"
    text = "~" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
