"""The whole SeemoRe network in plain PyTorch: the oracle every faster path is held to.

Written to be read in one sitting, top to bottom: layers, the two blocks (RME, SME), the network.
It runs in any floating dtype on any device, routes every image of a batch on its own, and never
waits for the device.  Module names give exactly the official state-dict keys.

Source: "See More Details: Efficient Image Super-Resolution by Experts Mining" (arXiv 2402.03412),
section 3; shapes and constants in docs/architecture.md.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LRSpace = Literal["linear", "exp", "double"]

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean colour of DIV2K, subtracted from RGB input in [0, 1]; not stored in checkpoints."""

LN_EPS = 1e-6


LIMITS = {
    "scale": 64,
    "in_chans": 1024,
    "num_experts": 256,
    "num_layers": 512,
    "embedding_dim": 4096,
    "global_kernel_size": 1023,
    "recursive": 6,
    "rank": 4096,
}
"""The largest values of integer arguments, and of an expert's rank: beyond any use, short of all memory."""


def expert_ranks(num_experts: int, lr_space: LRSpace) -> list[int]:
    """Ranks r_e of the low-rank experts e = 0, 1, ... (paper section 3.2).

    Raises ValueError for an unknown ``lr_space``.
    """
    rank = {"linear": lambda e: e + 2, "exp": lambda e: 2 ** (e + 1), "double": lambda e: 2 * e + 2}
    if lr_space not in rank:
        raise ValueError(f"lr_space must be 'linear', 'exp' or 'double', got {lr_space!r}")
    return [rank[lr_space](e) for e in range(num_experts)]


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of each pixel, (N, C, H, W) -> (N, C, H, W).

    Statistics are taken in at least float32: squares of half-precision values overflow at 256.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(_at_least_float32(x.dtype))
        centred = wide - wide.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        normal = centred * torch.rsqrt(variance + LN_EPS)
        out = normal * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)


class StripedConv2d(nn.Module):
    """Depthwise 1xk, then depthwise kx1 convolution, zero padded: (N, C, H, W) -> same."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        k, pad = kernel_size, kernel_size // 2
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, (1, k), padding=(0, pad), groups=channels),
            nn.Conv2d(channels, channels, (k, 1), padding=(pad, 0), groups=channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class GatedFFN(nn.Module):
    """Feed-forward with a depthwise 3x3 gate (paper figure 3): (N, C, H, W) -> same."""

    def __init__(self, channels: int):
        super().__init__()
        self.fn_1 = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.GELU())
        self.fn_2 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU())
        self.gate = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        a, g = self.fn_1(x).chunk(2, dim=1)
        return self.fn_2(a * self.gate(g))


class StripedAttention(nn.Module):
    """SME's modulation, ``proj(stripes(q) * v)`` (paper section 3.3): (N, C, H, W) -> same."""

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, channels, 1)
        self.to_qv = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.GELU())
        self.attn = StripedConv2d(channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        q, v = self.to_qv(x).chunk(2, dim=1)
        return self.proj(self.attn(q) * v)


class LowRankExpert(nn.Module):
    """One MoRE expert of rank r, ``conv_3(conv_1(x) * conv_2(k))``: x, k (N, C, H, W) -> same."""

    def __init__(self, channels: int, rank: int):
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, rank, 1)
        self.conv_2 = nn.Conv2d(channels, rank, 1)
        self.conv_3 = nn.Conv2d(rank, channels, 1)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return self.conv_3(self.conv_1(x) * self.conv_2(k))


class Router(nn.Module):
    """Expert probabilities of each image from its mean feature: (N, C, H, W) -> (N, E).

    Float32 at least: a top-1 probability is about 0.4, so a low-precision near tie would flip.
    """

    def __init__(self, channels: int, num_experts: int):
        super().__init__()
        # Index 2 is where the official checkpoints keep the layer (pooling and flattening precede it).
        self.body = nn.ModuleDict({"2": nn.Linear(channels, num_experts, bias=False)})

    def logits(self, x: Tensor) -> Tensor:
        wide = _at_least_float32(x.dtype)
        known = torch.amp.is_autocast_available(x.device.type)  # not on the meta device
        with torch.autocast(x.device.type, enabled=False) if known else nullcontext():
            return F.linear(x.mean((2, 3), dtype=wide), self.body["2"].weight.to(wide))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).softmax(dim=1)


class MoRE(nn.Module):
    """Mixture of low-rank experts: adds each image's top-k experts, weighted (paper section 3.2).

    The weights are the router's probabilities, not renormalised.  All experts are evaluated and the
    unselected ones weighted by zero: no synchronisation, any batch, zero (not missing) gradients.
    """

    def __init__(self, channels: int, ranks: list[int], topk: int):
        super().__init__()
        self.topk = topk
        self.experts = nn.ModuleList(LowRankExpert(channels, rank) for rank in ranks)
        self.gate = Router(channels, len(ranks))

    def mix(self, x: Tensor, k: Tensor, weights: Tensor) -> Tensor:
        """Adds the experts by the weights (N, E) of each image."""
        out = x
        for weight, expert in zip(weights.to(x.dtype).unbind(1), self.experts, strict=True):
            out = out + weight[:, None, None, None] * expert(x, k)
        return out

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        probabilities = self.gate(x)
        top, chosen = probabilities.topk(self.topk, dim=1)
        return self.mix(x, k, torch.zeros_like(probabilities).scatter(1, chosen, top))


class RMEBlock(nn.Module):
    """Rank-modulating expert mining: (N, C, H, W) -> same, H and W at least ``4 ** recursive``."""

    def __init__(self, channels: int, ranks: list[int], topk: int, use_shuffle: bool, recursive: int):
        super().__init__()
        self.use_shuffle = use_shuffle
        self.recursive = recursive
        self.conv_1 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GELU(), nn.Conv2d(channels, 2 * channels, 1)
        )
        self.agg_conv = nn.Sequential(nn.Conv2d(channels, channels, 4, stride=4, groups=channels), nn.GELU())
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, channels, 1)
        )
        self.conv_2 = nn.Sequential(StripedConv2d(channels, 3), nn.GELU())
        self.moe_layer = MoRE(channels, ranks, topk)
        self.proj = nn.Conv2d(channels, channels, 1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two branches: local features, and k before its calibration."""
        u = self.conv_1(x)
        if self.use_shuffle:
            n, c, h, w = u.shape
            u = u.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x, k = u.chunk(2, dim=1)
        return self.conv_2(x), k

    def aggregate(self, k: Tensor) -> Tensor:
        """k made 4x smaller, ``recursive`` times."""
        for _ in range(self.recursive):
            k = self.agg_conv(k)
        return k

    def calibrate(self, k: Tensor) -> Tensor:
        """Adds the coarse context: k aggregated, mixed, resized back."""
        low = self.conv(self.aggregate(k))
        return k + F.interpolate(low, size=k.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        x, k = self.split(x)
        return self.proj(self.moe_layer(x, self.calibrate(k)))


class ResidualBlock(nn.Module):
    """``x + block(norm_1 x)``, then ``x + ffn(norm_2 x)``: the frame that RME and SME share."""

    def __init__(self, channels: int, block: nn.Module):
        super().__init__()
        self.norm_1 = LayerNorm2d(channels)
        self.block = block
        self.norm_2 = LayerNorm2d(channels)
        self.ffn = GatedFFN(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.block(self.norm_1(x))
        return x + self.ffn(self.norm_2(x))


class ResidualGroup(nn.Module):
    """One of the network's layers: RME (``local_block``), then SME (``global_block``)."""

    def __init__(self, rme: ResidualBlock, sme: ResidualBlock):
        super().__init__()
        self.local_block = rme
        self.global_block = sme

    def forward(self, x: Tensor) -> Tensor:
        return self.global_block(self.local_block(x))


class SeemoRe(nn.Module):
    """SeemoRe: (N, in_chans, H, W) in [0, 1] -> (N, in_chans, H * scale, W * scale).

    Arguments are the official ones, in their order; ``mean`` is the colour subtracted from the input
    (default: DIV2K's for three channels, its average for others).  H and W must be at least
    ``4 ** recursive`` here; :class:`seemore_fast.SeemoRe` takes any size.

    Raises ValueError, naming the argument, where one is out of range.
    """

    def __init__(
        self,
        scale: int = 4,
        in_chans: int = 3,
        num_experts: int = 6,
        num_layers: int = 6,
        embedding_dim: int = 64,
        img_range: float = 1.0,
        use_shuffle: bool = False,
        global_kernel_size: int = 11,
        recursive: int = 2,
        lr_space: LRSpace = "linear",
        topk: int = 2,
        *,
        mean: tuple[float, ...] | None = None,
    ):
        super().__init__()
        for name, value, least in [
            ("scale", scale, 1),
            ("in_chans", in_chans, 1),
            ("num_experts", num_experts, 1),
            ("num_layers", num_layers, 0),
            ("embedding_dim", embedding_dim, 1),
            ("global_kernel_size", global_kernel_size, 1),
            ("recursive", recursive, 0),
        ]:
            if int(value) != value or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
            if value > LIMITS[name]:
                raise ValueError(f"{name} must be at most {LIMITS[name]}, got {value!r}")
        if global_kernel_size % 2 == 0:
            raise ValueError(f"global_kernel_size must be odd and positive, got {global_kernel_size!r}")
        if (rank := expert_ranks(num_experts, lr_space)[-1]) > LIMITS["rank"]:
            raise ValueError(
                f"{num_experts} experts of lr_space {lr_space!r} have ranks up to {rank}; "
                f"they may have up to {LIMITS['rank']}"
            )
        if not 1 <= topk <= num_experts:
            raise ValueError(f"topk must lie in 1..num_experts ({num_experts}), got {topk!r}")
        if not img_range > 0:
            raise ValueError(f"img_range must be positive, got {img_range!r}")
        if mean is None:
            mean = RGB_MEAN if in_chans == 3 else (sum(RGB_MEAN) / 3,) * in_chans
        if len(mean) != in_chans:
            raise ValueError(f"mean must have in_chans ({in_chans}) values, got {len(mean)}")

        self.config: dict[str, Any] = {
            "scale": scale,
            "in_chans": in_chans,
            "num_experts": num_experts,
            "num_layers": num_layers,
            "embedding_dim": embedding_dim,
            "img_range": img_range,
            "use_shuffle": use_shuffle,
            "global_kernel_size": global_kernel_size,
            "recursive": recursive,
            "lr_space": lr_space,
            "topk": topk,
            "mean": tuple(mean),
        }
        self.scale = scale
        self.img_range = img_range
        # A buffer follows .to(); not persistent, for official checkpoints have no such key.
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.min_size = 4**recursive

        ranks = expert_ranks(num_experts, lr_space)
        dim = embedding_dim
        self.conv_1 = nn.Conv2d(in_chans, dim, 3, padding=1)
        self.body = nn.ModuleList(
            ResidualGroup(
                ResidualBlock(dim, RMEBlock(dim, ranks, topk, use_shuffle, recursive)),
                ResidualBlock(dim, StripedAttention(dim, global_kernel_size)),
            )
            for _ in range(num_layers)
        )
        self.norm = LayerNorm2d(dim)
        self.conv_2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(dim, in_chans * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def head(self, x: Tensor) -> Tensor:
        """Pixels to features, (N, in_chans, H, W) -> (N, C, H, W)."""
        return self.conv_1((x - self.mean.to(x.dtype)) * self.img_range)

    def tail(self, x: Tensor, skip: Tensor) -> Tensor:
        """The last group's features and the head's to larger pixels, still less the mean."""
        x = self.upsampler(self.conv_2(self.norm(x)) + skip)
        return x / self.img_range

    def forward(self, x: Tensor) -> Tensor:
        features = skip = self.head(x)
        for group in self.body:
            features = group(features)
        return self.tail(features, skip) + self.mean.to(x.dtype)
