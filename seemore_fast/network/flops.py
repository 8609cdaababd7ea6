"""How much a network computes: its multiply-adds."""

from __future__ import annotations

from typing import Any

from seemore_fast.network.reference import expert_ranks


def macs(config: dict[str, Any], height: int, width: int) -> int:
    """Multiply-adds of one (in_chans, height, width) image: those of the convolutions, as papers count them.

    ``config``: constructor arguments, all of them (`variants.config`, `reference.SeemoRe.config`).  Which
    experts the router takes is not known beforehand: the ``topk`` of the largest ranks are counted, an
    upper bound that is at most 2% of the network above the lower one.
    """
    c, k, recursive = config["embedding_dim"], config["global_kernel_size"], config["recursive"]
    pixels = height * width
    ranks = sorted(expert_ranks(config["num_experts"], config["lr_space"]))[-config["topk"] :]

    ffn = 3 * c * c + 9 * c
    rme = 9 * c * c + 2 * c * c + 2 * 3 * c + 3 * c * sum(ranks) + c * c
    sme = 2 * c * c + 2 * k * c + c * c
    group = pixels * (rme + sme + 2 * ffn)
    for level in range(1, recursive + 1):
        group += (height // 4**level) * (width // 4**level) * 16 * c
    group += (height // 4**recursive) * (width // 4**recursive) * (9 * c + c * c)

    colours = config["in_chans"]
    ends = pixels * 9 * (colours * c + c * c + c * colours * config["scale"] ** 2)
    return config["num_layers"] * group + ends
