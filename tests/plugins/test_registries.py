"""BasicSR's ARCH_REGISTRY, the real one where it is installed, and one made after it."""

from __future__ import annotations

import pytest

from seemore_fast.model import SeemoRe
from seemore_fast.plugins.registries import register


class Registry:
    """The interface that BasicSR's and traiNNer's registries share."""

    def __init__(self) -> None:
        self._obj_map: dict[str, type] = {}

    def get(self, name: str) -> type:
        return self._obj_map[name]


def test_ours_takes_the_name_also_where_it_is_taken() -> None:
    registry = Registry()
    registry._obj_map["SeemoRe"] = object
    register(registry)
    assert registry.get("SeemoRe") is SeemoRe
    register(registry, "seemore_fast")
    assert registry.get("seemore_fast") is SeemoRe


def test_what_is_no_registry() -> None:
    with pytest.raises(TypeError, match="like BasicSR's ARCH_REGISTRY, got dict"):
        register({})


@pytest.mark.usefixtures("torchvision_or_stand_in")
def test_the_script_with_basicsr(run_script) -> None:
    pytest.importorskip("basicsr", reason="basicsr is not installed")
    network = run_script("ARCH_REGISTRY")["network"]
    assert type(network) is SeemoRe
    assert network.scale == 2
