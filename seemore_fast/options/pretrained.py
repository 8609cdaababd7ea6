"""The weights that an option file's ``path`` group names, into a network."""

from __future__ import annotations

from typing import NamedTuple

from seemore_fast.errors import CheckpointError
from seemore_fast.network import checkpoint, weights
from seemore_fast.network.reference import SeemoRe
from seemore_fast.options.schema import Paths


class LeftOut(NamedTuple):
    """What ``strict_load_g: false`` let pass, by the parameters' names."""

    misshapen: list[str]
    missing: list[str]
    unexpected: list[str]


def load(model: SeemoRe, path: Paths) -> LeftOut:
    """Loads ``pretrain_network_g``, the name of bundled weights or a file, into ``model``, a SeemoRe.

    With ``strict_load_g`` everything must fit; otherwise whatever fits is loaded, and the rest is told.
    Raises CheckpointError for what cannot be read or, if strict, does not fit.
    """
    source = path.pretrain_network_g
    if source is None:
        raise CheckpointError("path:pretrain_network_g must name the weights to load, it is ~")
    state = checkpoint.read(weights.find(source), path.param_key_g).state
    if path.strict_load_g:
        try:
            checkpoint.infer_config(state, **model.config)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: not the weights of network_g: {error}") from None
    own = model.state_dict()
    misshapen = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
    fitting = {key: value for key, value in state.items() if key not in misshapen}
    result = model.load_state_dict(fitting, strict=False)
    missing = [key for key in result.missing_keys if key not in misshapen]
    return LeftOut(misshapen, missing, result.unexpected_keys)
