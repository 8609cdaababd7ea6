"""Importing this makes spandrel's ``ModelLoader`` return our network for SeemoRe files.

import seemore_fast.plugins.spandrel
model = spandrel.ModelLoader().load_from_file("seemore_t_x4.pth")

What goes through spandrel, chaiNNer and ComfyUI among them, then runs on our backends unchanged.
"""

from __future__ import annotations

from seemore_fast.model import SeemoRe
from seemore_fast.network import wrapped
from seemore_fast.network.checkpoint import infer_config
from seemore_fast.system.optional import need

with need("this plug-in", "spandrel"):
    import spandrel

_THEIRS = "SeemoRe"


class FastSeemoRe(spandrel.Architecture[SeemoRe]):
    """spandrel's description of our network: what its own SeemoRe recognises, at any picture size."""

    def __init__(self) -> None:
        theirs = spandrel.MAIN_REGISTRY[_THEIRS].architecture
        super().__init__(
            id="seemore-fast",
            name="SeemoRe (seemore-fast)",
            detect=lambda state: theirs.detect(wrapped.find(state)),
        )

    def load(self, state_dict: spandrel.StateDict) -> spandrel.ImageModelDescriptor[SeemoRe]:
        """Raises CheckpointError where the tensors are not a SeemoRe network's."""
        state_dict = dict(wrapped.find(state_dict))
        config = infer_config(state_dict)
        size = {6: "Tiny", 8: "Big", 16: "Large"}.get(config["num_layers"])
        return spandrel.ImageModelDescriptor(
            SeemoRe(**config),
            state_dict,
            architecture=self,
            purpose="Restoration" if config["scale"] == 1 else "SR",
            tags=[*([size] if size else []), f"{config['embedding_dim']}dim", f"{config['num_layers']}nl"],
            supports_half=True,
            supports_bfloat16=True,
            scale=config["scale"],
            input_channels=config["in_chans"],
            output_channels=config["in_chans"],
        )


spandrel.MAIN_REGISTRY.add(spandrel.ArchSupport.from_architecture(FastSeemoRe(), before=(_THEIRS,)))
