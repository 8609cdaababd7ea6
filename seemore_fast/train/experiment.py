"""``experiments/<name>``: where a run's weights, states and pictures go, as BasicSR lays them out.

Every file appears whole or not at all, and is on the disk once its function returns.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seemore_fast.errors import CheckpointError, SeemoreError
from seemore_fast.network import checkpoint
from seemore_fast.system.atomic import atomic_path, remove_stale

Weights = Mapping[str, Mapping[str, Tensor]]
"""``params``, and ``params_ema`` where there is a moving average."""


class Experiment:
    """The folder of one run; weights become ``.pth`` or ``.safetensors``, with the network's ``config``."""

    def __init__(self, root: Path, name: str, format_: str = "pth", config: Mapping[str, Any] | None = None):
        self.format, self.config = format_, config
        self.folder = root / "experiments" / name
        self.tensorboard = root / "tb_logger" / name
        self.models = self.folder / "models"
        self.states = self.folder / "training_states"
        self.visualization = self.folder / "visualization"

    def prepare(self, resuming: bool) -> None:
        """Makes the folders; unless ``resuming``, an earlier run's become ``<name>_archived_<time>`` first.

        Raises SeemoreError, naming the folder, where that cannot be done.
        """
        stamp = time.strftime("%Y%m%d_%H%M%S")
        try:
            for folder in (self.folder, self.tensorboard):
                if not resuming and folder.exists():
                    folder.rename(_unused(folder.with_name(f"{folder.name}_archived_{stamp}")))
            for folder in (self.models, self.states, self.visualization):
                folder.mkdir(parents=True, exist_ok=True)
                remove_stale(folder)  # what a killed run was writing
        except OSError as error:
            raise SeemoreError(f"{error.filename}: {error.strerror}") from None

    def newest_state(self) -> Path | None:
        """The state of the highest iteration; None where there is none."""
        found = [path for path in self.states.glob("*.state") if re.fullmatch(r"\d+", path.stem)]
        return max(found, key=lambda path: int(path.stem), default=None)

    def save_weights(self, label: str, weights: Weights) -> Path:
        """Writes ``models/net_g_<label>.pth``, or as ``.safetensors``, which has the network that counts (the
        moving average, where there is one) and its configuration.  Raises SeemoreError where that fails."""
        path = self.models / f"net_g_{label}.{self.format}"
        if self.format == "pth":
            _save({key: dict(state) for key, state in weights.items()}, path)
        else:
            checkpoint.save([*weights.values()][-1], path, self.config)
        return path

    def save_state(self, iteration: int, state: Mapping[str, Any]) -> Path:
        """Writes ``training_states/<iteration>.state``.  Raises SeemoreError where that fails."""
        path = self.states / f"{iteration}.state"
        _save(dict(state), path)
        return path


def load_state(path: Path) -> dict[str, Any]:
    """A state that `Experiment.save_state` wrote.  Raises CheckpointError, naming the file, for any other."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except Exception:  # a dozen types, by where the file is damaged
        raise CheckpointError(f"{path}: damaged or no training state") from None
    needed = {"iter", "params", "optimizer", "scaler", "best"}
    if not isinstance(state, dict) or not needed <= state.keys():
        raise CheckpointError(f"{path}: no training state of seemore-fast; start from its weights instead")
    return state


def _save(data: Any, path: Path) -> None:
    # In memory first: what a full disk does to torch.save does not say so.
    buffer = io.BytesIO()
    torch.save(data, buffer)
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise SeemoreError(f"{path}: cannot be written ({error.strerror}); earlier ones are whole") from None


def _unused(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}_{number}")
    return free
