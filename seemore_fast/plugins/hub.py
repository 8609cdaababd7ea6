"""SeemoRe networks on the Hugging Face hub: ``from_pretrained``, ``save_pretrained``, ``push_to_hub``.

A repository, or folder, holds config.json (the constructor's arguments), model.safetensors and a model card.
"""

from __future__ import annotations

from typing import Any

from seemore_fast.model import SeemoRe
from seemore_fast.network import checkpoint, reference
from seemore_fast.system.optional import need

with need("this plug-in", "hub"):
    from huggingface_hub import PyTorchModelHubMixin

_CARD = """---
{{ card_data }}
---

A [SeemoRe](https://arxiv.org/abs/2402.03412) super-resolution network. To use it:

    from seemore_fast.plugins.hub import HubSeemoRe
    model = HubSeemoRe.from_pretrained("<this repository>")
    large = model(small)    # (N, 3, H, W), RGB in [0, 1] -> (N, 3, H * scale, W * scale)

Say here what it was trained on, how well it does, and under which licence it may be used.
"""


class HubSeemoRe(  # type: ignore[call-arg]
    SeemoRe,
    PyTorchModelHubMixin,
    library_name="seemore-fast",
    tags=["super-resolution", "seemore"],
    pipeline_tag="image-to-image",
    model_card_template=_CARD,
):
    """`SeemoRe` that a hub keeps; constructor and use are the same.

    ``HubSeemoRe.from_pretrained(repository_or_folder)`` gives one in evaluation mode;
    ``save_pretrained(folder)`` and ``push_to_hub(repository)`` store it.
    """

    @classmethod
    def of(cls, network: reference.SeemoRe) -> HubSeemoRe:
        """A copy of ``network``, configuration, weights and all."""
        copy = cls(**network.config)
        copy.load_state_dict(network.state_dict())
        return copy.eval()

    @classmethod
    def _load_as_safetensor(cls, model: HubSeemoRe, model_file: str, map_location: str, strict: bool) -> Any:
        """By our own reader, as everything else reads weights.  Raises CheckpointError."""
        model.load_state_dict(checkpoint.read(model_file).state, strict=strict)
        return model.to(map_location).eval()

    _load_as_pickle = _load_as_safetensor
