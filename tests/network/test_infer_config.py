"""The configuration read off a state dict's shapes, overrides of it, and the refusal of other state dicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seemore_fast.network import checkpoint
from seemore_fast.network.reference import SeemoRe
from tests.support.faults import fault_of


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    network = SeemoRe(scale=2, num_experts=3, num_layers=2, embedding_dim=8, lr_space="exp", topk=1)
    return network.state_dict()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("layers", "channels", "use_shuffle", "recursive"),
    [(6, 36, True, 2), (8, 48, True, 2), (16, 48, False, 1)],
)
def test_published_variants_need_no_help(scale, layers, channels, use_shuffle, recursive):
    with torch.device("meta"):
        network = SeemoRe(
            scale,
            3,
            3,
            layers,
            channels,
            1.0,
            use_shuffle=use_shuffle,
            recursive=recursive,
            lr_space="exp",
            topk=1,
        )
    assert checkpoint.infer_config(network.state_dict()) == network.config


@pytest.mark.parametrize(
    "config",
    [
        {"lr_space": "linear", "num_experts": 4},
        {"lr_space": "double", "num_experts": 3},
        {"lr_space": "exp", "num_experts": 5},
        {"lr_space": "linear", "num_experts": 2},
        {"in_chans": 1, "scale": 3},
        {"in_chans": 4, "scale": 1},
        {"global_kernel_size": 7, "num_layers": 3},
        {"embedding_dim": 9},
        {},
    ],
)
def test_shapes_tell_and_the_rest_is_the_constructors_default(config):
    network = SeemoRe(**{"num_layers": 1, "embedding_dim": 8, **config})
    assert checkpoint.infer_config(network.state_dict()) == network.config


def test_overrides_set_what_shapes_cannot_tell(state):
    free = {"use_shuffle": True, "recursive": 1, "topk": 3, "img_range": 255.0, "mean": (0.5, 0.5, 0.25)}
    found = checkpoint.infer_config(state, **free, scale=2, lr_space="exp")
    assert found == {**checkpoint.infer_config(state), **free}
    assert checkpoint.infer_config(state, mean=[0.5, 0.5, 0.25])["mean"] == (0.5, 0.5, 0.25)
    assert checkpoint.infer_config(state, topk=None, mean=None) == checkpoint.infer_config(state)


@pytest.mark.parametrize(("experts", "fitting"), [(1, {"exp", "linear", "double"}), (2, {"exp", "double"})])
def test_few_experts_fit_several_rank_series(experts, fitting):
    state = SeemoRe(num_layers=1, embedding_dim=8, num_experts=experts, lr_space="exp", topk=1).state_dict()
    assert checkpoint.infer_config(state)["lr_space"] == "exp"
    for series in fitting:
        assert checkpoint.infer_config(state, lr_space=series)["lr_space"] == series


def test_network_without_layers():
    network = SeemoRe(num_layers=0, embedding_dim=8)
    assert checkpoint.infer_config(network.state_dict()) == network.config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scale": 4}, "scale=4 contradicts the weights: theirs is 2"),
        ({"in_chans": 1}, "in_chans=1 contradicts the weights: theirs is 3"),
        ({"num_experts": 6}, "num_experts=6 contradicts the weights: theirs is 3"),
        ({"num_layers": 6}, "num_layers=6 contradicts the weights: theirs is 2"),
        ({"embedding_dim": 64}, "embedding_dim=64 contradicts the weights: theirs is 8"),
        ({"global_kernel_size": 7}, "global_kernel_size=7 contradicts the weights: theirs is 11"),
        ({"lr_space": "linear"}, "lr_space='linear' contradicts the weights: theirs is 'exp'"),
        ({"lr_space": "log"}, "lr_space='log' contradicts the weights: theirs is 'exp'"),
        ({"upscale": 4}, "'upscale' is no argument of SeemoRe; there are scale, in_chans, "),
        ({"use_shuffle": 1}, "use_shuffle must be of type bool, got 1"),
        ({"recursive": "2"}, "recursive must be of type int, got '2'"),
        ({"recursive": -1}, "recursive must be an integer of at least 0, got -1"),
        ({"topk": 4}, "topk must lie in 1..num_experts (3), got 4"),
        ({"img_range": 0}, "img_range must be positive, got 0"),
        (
            {"img_range": "wide"},
            "img_range must be a number and mean one per channel, got {'img_range': 'wide'}",
        ),
        ({"img_range": float("inf")}, "img_range and mean must be finite, got inf"),
        ({"mean": 0.5}, "img_range must be a number and mean one per channel, got {'mean': 0.5}"),
        ({"mean": (0.5,)}, "mean must have in_chans (3) values, got 1"),
    ],
)
def test_refused_overrides(state, overrides, message):
    assert message in fault_of(lambda: checkpoint.infer_config(state, **overrides))


def test_other_architecture():
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 3, 3)).state_dict()
    message = fault_of(lambda: checkpoint.infer_config(other))
    assert message == (
        "not a SeemoRe state dict: lacks conv_1.weight; "
        "found '0.weight', '0.bias', '1.weight', ... and 3 more"
    )


def test_missing_keys(state):
    del state["body.1.global_block.block.proj.bias"]
    message = fault_of(lambda: checkpoint.infer_config(state))
    assert message == "not a SeemoRe state dict: lacks body.1.global_block.block.proj.bias (8,)"


def test_missing_layer_counts_the_rest(state):
    missing = [key for key in state if key.startswith("body.0.global_block.")]
    for key in missing:
        del state[key]
    message = fault_of(lambda: checkpoint.infer_config(state))
    assert f"lacks {missing[0]} (8,); lacks {missing[1]} (8,); " in message
    assert message.endswith(f"; ... and {len(missing) - 3} more")


def test_extra_and_misshapen_keys(state):
    state["mean"] = torch.zeros(3)
    state["norm.bias"] = torch.zeros(9)
    assert fault_of(lambda: checkpoint.infer_config(state)) == (
        "not a SeemoRe state dict: norm.bias is (9,), expected (8,); has an unexpected 'mean' (3,)"
    )


def test_an_absurd_layer_index_asks_for_no_giant_network(state):
    state["body.999999999.local_block.norm_1.weight"] = torch.zeros(8)
    assert "lacks body.2.local_block.norm_1.weight" in fault_of(lambda: checkpoint.infer_config(state))


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("conv_1.weight", (8,)),
        ("conv_1.weight", (0, 3, 3, 3)),
        ("conv_1.weight", (8, 0, 3, 3)),
        ("conv_1.weight", (8, 3, 1, 1)),
        ("upsampler.0.weight", (13, 8, 3, 3)),
        ("upsampler.0.weight", (0, 8, 3, 3)),
        ("body.0.global_block.block.attn.conv.0.weight", (8, 1, 1, 4)),
        ("body.0.global_block.block.attn.conv.0.weight", ()),
        ("body.0.local_block.block.moe_layer.experts.1.conv_1.weight", (5, 8, 1, 1)),
        ("body.0.local_block.block.moe_layer.experts.1.conv_1.weight", (5,)),
    ],
)
def test_every_misshapen_key_shape_is_refused(state, key, shape):
    state[key] = torch.zeros(shape)
    message = fault_of(lambda: checkpoint.infer_config(state))
    assert message.startswith(("not a SeemoRe state dict: ", "no SeemoRe network has this configuration: "))


def test_integer_weights(state):
    state["norm.bias"] = state["norm.bias"].long()
    message = fault_of(lambda: checkpoint.infer_config(state))
    assert message == "not a SeemoRe state dict: norm.bias is torch.int64, expected floating point"


def test_inference_leaves_the_random_state_alone(state):
    before = torch.get_rng_state()
    checkpoint.infer_config(state)
    assert torch.equal(torch.get_rng_state(), before)
