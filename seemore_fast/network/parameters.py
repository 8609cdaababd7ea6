"""The weights of the network's parts as nested named tuples: the one place that has their order and shapes.

Fields are `Layer` (weight and bias), single tensors, or parts of their own.  Their notes are shapes: C
channels, k taps of a stripe, R the experts' ranks in all, E experts.  A part's tensors side by side are what
operators take (`flatten`, `unflatten`); their names come from the fields (`leaves`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from seemore_fast.network import reference

Part = TypeVar("Part", bound=tuple[Any, ...])


class Layer(NamedTuple):
    """A layer's weight, of the shape noted where it stands, and its bias, of that shape's first dimension."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, module: nn.Module) -> Layer:
        return cls(cast(Tensor, module.weight), cast(Tensor, module.bias))


class StripesWeights(NamedTuple):
    """Of a depthwise 1 x k and a depthwise k x 1 convolution."""

    weight_h: Annotated[Tensor, "C 1 1 k"]
    bias_h: Annotated[Tensor, "C"]
    weight_v: Annotated[Tensor, "C 1 k 1"]
    bias_v: Annotated[Tensor, "C"]

    @classmethod
    def of(cls, module: reference.StripedConv2d) -> StripesWeights:
        return cls(*Layer.of(module.conv[0]), *Layer.of(module.conv[1]))


class ExpertsWeights(NamedTuple):
    """Of low-rank experts side by side, ``A (B x * C k)``; a mixture has a row of ``a_bias`` for each."""

    b: Annotated[Layer, "R C"]
    c: Annotated[Layer, "R C"]
    a: Annotated[Layer, "C R"]

    @classmethod
    def of(cls, experts: Sequence[reference.LowRankExpert]) -> ExpertsWeights:
        b = [Layer.of(expert.conv_1) for expert in experts]
        c = [Layer.of(expert.conv_2) for expert in experts]
        a = [Layer.of(expert.conv_3) for expert in experts]
        return cls(
            Layer(torch.cat([w for w, _ in b]).flatten(1), torch.cat([bias for _, bias in b])),
            Layer(torch.cat([w for w, _ in c]).flatten(1), torch.cat([bias for _, bias in c])),
            Layer(torch.cat([w for w, _ in a], dim=1).flatten(1), torch.stack([bias for _, bias in a])),
        )


class MixtureWeights(NamedTuple):
    """Of the router and the experts that it mixes."""

    router_weight: Annotated[Tensor, "E C"]
    experts: Annotated[ExpertsWeights, {"a_bias": "E C"}]

    @classmethod
    def of(cls, module: reference.MoRE) -> MixtureWeights:
        experts = ExpertsWeights.of([cast(reference.LowRankExpert, expert) for expert in module.experts])
        return cls(cast(Tensor, module.gate.body["2"].weight), experts)


class CalibrateWeights(NamedTuple):
    agg: Annotated[Layer, "C 1 4 4"]
    conv_0: Annotated[Layer, "C 1 3 3"]
    conv_1: Annotated[Layer, "C C 1 1"]


class FFNWeights(NamedTuple):
    fn_1: Annotated[Layer, "2C C 1 1"]
    gate: Annotated[Layer, "C 1 3 3"]
    fn_2: Annotated[Layer, "C C 1 1"]

    @classmethod
    def of(cls, module: reference.GatedFFN) -> FFNWeights:
        return cls(Layer.of(module.fn_1[0]), Layer.of(module.gate), Layer.of(module.fn_2[0]))


class AttentionWeights(NamedTuple):
    qv: Annotated[Layer, "2C C 1 1"]
    stripes: StripesWeights
    proj: Annotated[Layer, "C C 1 1"]


class RMEWeights(NamedTuple):
    """Of a layer's first block."""

    norm_1: Annotated[Layer, "C"]
    conv: Annotated[Layer, "C C 3 3"]
    split: Annotated[Layer, "2C C 1 1"]
    stripes: Annotated[StripesWeights, {"weight_h": "C 1 1 3", "weight_v": "C 1 3 1"}]
    calibrate: CalibrateWeights
    mixture: MixtureWeights
    proj: Annotated[Layer, "C C 1 1"]
    norm_2: Annotated[Layer, "C"]
    ffn: FFNWeights

    @classmethod
    def of(cls, module: reference.ResidualBlock) -> RMEWeights:
        block = cast(reference.RMEBlock, module.block)
        return cls(
            norm_1=Layer.of(module.norm_1),
            conv=Layer.of(block.conv_1[0]),
            split=Layer.of(block.conv_1[2]),
            stripes=StripesWeights.of(cast(reference.StripedConv2d, block.conv_2[0])),
            calibrate=CalibrateWeights(
                Layer.of(block.agg_conv[0]), Layer.of(block.conv[0]), Layer.of(block.conv[1])
            ),
            mixture=MixtureWeights.of(block.moe_layer),
            proj=Layer.of(block.proj),
            norm_2=Layer.of(module.norm_2),
            ffn=FFNWeights.of(module.ffn),
        )


class SMEWeights(NamedTuple):
    """Of a layer's second block."""

    norm_1: Annotated[Layer, "C"]
    attention: AttentionWeights
    norm_2: Annotated[Layer, "C"]
    ffn: FFNWeights

    @classmethod
    def of(cls, module: reference.ResidualBlock) -> SMEWeights:
        block = cast(reference.StripedAttention, module.block)
        return cls(
            norm_1=Layer.of(module.norm_1),
            attention=AttentionWeights(
                Layer.of(block.to_qv[0]), StripesWeights.of(block.attn), Layer.of(block.proj)
            ),
            norm_2=Layer.of(module.norm_2),
            ffn=FFNWeights.of(module.ffn),
        )


class Leaf(NamedTuple):
    """A tensor of a part: its name, and its dimensions as factor and symbol (none: the factor itself)."""

    name: str
    dims: tuple[tuple[int, str], ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple([factor * sizes[symbol] if symbol else factor for factor, symbol in self.dims])


def leaves(kind: Any, field: str = "", shapes: Mapping[str, str] | None = None) -> tuple[Leaf, ...]:
    """The tensors of a part (a class above, or a noted `Layer`) in their order.

    A `Layer`'s are called ``<field>_weight`` and ``<field>_bias``, single tensors as their fields.
    ``shapes``: other than noted, by name.
    """
    kind, note = get_args(kind) if get_origin(kind) is Annotated else (kind, {})
    shapes = shapes or {}
    if kind is Tensor:
        return (Leaf(field, _dims(shapes.get(field, note))),)
    if kind is Layer:
        weight, bias = (f"{field}_{what}" if field else what for what in Layer._fields)
        dims = _dims(note)
        return Leaf(weight, dims), Leaf(bias, _dims(shapes[bias]) if bias in shapes else dims[:1])
    fields = get_type_hints(kind, include_extras=True).items()
    return tuple(leaf for name, hint in fields for leaf in leaves(hint, name, {**note, **shapes}))


def _dims(note: str) -> tuple[tuple[int, str], ...]:
    found = re.findall(r"(\d*)([A-Za-z]?)(?: |$)", note)
    return tuple((int(factor or 1), symbol) for factor, symbol in found if factor or symbol)


_KINDS = {
    kind: tuple(get_type_hints(kind).values())
    for kind in (
        *(Layer, StripesWeights, ExpertsWeights, MixtureWeights, CalibrateWeights),
        *(FFNWeights, AttentionWeights, RMEWeights, SMEWeights),
    )
}
"""Of the fields; looked up once, for torch.compile reads what follows."""


def flatten(part: tuple[Any, ...]) -> list[Tensor]:
    """All tensors of a part, in the order of `leaves`."""
    found: list[Tensor] = []
    for value in part:
        found += flatten(value) if isinstance(value, tuple) else [value]
    return found


def unflatten(kind: type[Part], tensors: Sequence[Tensor]) -> Part:
    """The part that has these tensors."""
    return cast(Part, _filled(kind, iter(tensors)))


def _filled(kind: Any, rest: Iterator[Tensor]) -> Any:
    return kind(*[_filled(field, rest) if field in _KINDS else next(rest) for field in _KINDS[kind]])


def convert(part: Part, f: Callable[[Tensor], Tensor]) -> Part:
    """The part with ``f`` applied to each tensor."""
    return unflatten(type(part), [f(tensor) for tensor in flatten(part)])
