"""The reference network: held to the golden vectors, to the published sizes and to its own batch of one."""

from __future__ import annotations

import math

import pytest
import torch

from seemore_fast.network.reference import SeemoRe, expert_ranks
from tests.support import golden

T = {"num_experts": 3, "num_layers": 6, "embedding_dim": 36, "use_shuffle": True, "recursive": 2}
B = {**T, "num_layers": 8, "embedding_dim": 48}
L = {**B, "num_layers": 16, "use_shuffle": False, "recursive": 1}
SMALL = {"num_layers": 2, "embedding_dim": 8}

PARTS = ("weight", "bias")

PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=["float64", "float32"]
)


def watch(network: SeemoRe) -> dict[str, list[torch.Tensor]]:
    """Collects, group by group, router logits (N, E), chosen experts (N, topk), RME and SME outputs."""
    seen: dict[str, list[torch.Tensor]] = {"router_logits": [], "experts": [], "rme": [], "sme": []}

    def keep(name):
        return lambda module, inputs, output: seen[name].append(output)

    def keep_routing(gate, inputs, probabilities):
        seen["router_logits"].append(gate.logits(*inputs))
        seen["experts"].append(probabilities.topk(network.config["topk"], dim=1).indices)

    for group in network.body:
        group.local_block.register_forward_hook(keep("rme"))
        group.global_block.register_forward_hook(keep("sme"))
        group.local_block.block.moe_layer.gate.register_forward_hook(keep_routing)
    return seen


@PRECISIONS
@pytest.mark.parametrize("name", golden.EVALUATION)
def test_evaluation_equals_golden(name, dtype, tolerance):
    case = golden.load(name)
    network = case.fill(SeemoRe(**case.config)).to(dtype)
    seen = watch(network)
    with torch.no_grad():
        output = network(case.x.to(dtype))

    assert output.dtype == dtype
    assert golden.relative_l2(output, case.expected["output"]) <= tolerance
    assert golden.relative_l2(seen["rme"][0], case.expected["rme0"]) <= tolerance
    assert golden.relative_l2(seen["sme"][0], case.expected["sme0"]) <= tolerance
    logits = torch.cat(seen["router_logits"])  # [layers, E]: one image
    assert golden.relative_l2(logits, case.expected["router_logits"]) <= tolerance
    assert torch.equal(torch.cat(seen["experts"]), case.expected["experts"])


def round_routing(network: SeemoRe) -> None:
    """Takes the router's softmax in float32 whatever the network's dtype, as the golden files did.

    The reference keeps it in float64, which moves the routers' own gradients (sums that cancel) by
    up to 1.7e-5; rounded alike, all gradients agree to 5e-8.
    """

    def softmax_in_float32(gate, inputs, probabilities):
        return gate.logits(*inputs).softmax(dim=1, dtype=torch.float32).to(probabilities.dtype)

    for group in network.body:
        group.local_block.block.moe_layer.gate.register_forward_hook(softmax_in_float32)


# Gradients of float32 lose more than outputs: sums over all pixels of terms that cancel.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-4)], ids=["float64", "float32"]
)
def test_training_gradients_equal_golden(dtype, tolerance):
    case = golden.load(golden.TRAINING)
    network = case.fill(SeemoRe(**case.config)).to(dtype).train()
    round_routing(network)
    x = case.x.to(dtype).requires_grad_()
    output = network(x)
    (output * case.expected["cotangent"].to(dtype)).sum().backward()

    assert golden.relative_l2(output, case.expected["output"]) <= min(tolerance, 1e-5)
    assert golden.relative_l2(x.grad, case.expected["grad_input"]) <= tolerance
    grads = {f"grad:{name}": p.grad for name, p in network.named_parameters()}
    assert grads.keys() == {key for key in case.expected if key.startswith("grad:")}
    errors = {key: gradient_error(grad, case.expected[key].double()) for key, grad in grads.items()}
    assert {key: error for key, error in errors.items() if not error <= tolerance} == {}


def gradient_error(grad: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error against a stored gradient, whole or summarised as [norm, sum, first 64]."""
    if grad.numel() <= 2000:
        return golden.relative_l2(grad, expected)
    norm, total, head = expected[0], expected[1], expected[2:]
    flat = grad.double().flatten()
    return max(
        float(abs(flat.norm() - norm) / norm),
        float(abs(flat.sum() - total) / (norm * math.sqrt(flat.numel()))),  # |sum| <= norm * sqrt(n)
        golden.relative_l2(flat[:64], head),
    )


def test_unselected_experts_get_zero_gradients():
    torch.manual_seed(0)
    network = SeemoRe(scale=2, num_experts=3, topk=1, **SMALL)
    network(torch.rand(1, 3, 16, 16)).sum().backward()
    for group in network.body:
        norms = [expert.conv_3.weight.grad.norm() for expert in group.local_block.block.moe_layer.experts]
        assert sum(norm > 0 for norm in norms) == 1


def test_batch_equals_its_images_alone():
    network = golden.fill(SeemoRe(scale=4, lr_space="exp", topk=1, **T), seed=5).double().eval()
    seen = watch(network)
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(1, 3, 20, 33, dtype=torch.float64, generator=generator)
    ramp = (
        torch.linspace(0, 1, 33, dtype=torch.float64).expand(1, 3, 20, 33)
        * torch.tensor([1.0, 0.2, 0.0])[:, None, None]
    )
    with torch.no_grad():
        together = network(torch.cat([noise, ramp]))
        chosen = torch.stack(seen["experts"])  # [layers, 2, 1]
        alone = torch.cat([network(noise), network(ramp)])
    assert (chosen[:, 0] != chosen[:, 1]).any(), (
        "the images must be routed differently for this to show anything"
    )
    assert golden.relative_l2(together, alone) <= 1e-12


@pytest.mark.parametrize(
    ("variant", "scale", "parameters"),
    [
        (T, 2, 220_104),
        (T, 3, 224_979),
        (T, 4, 231_804),
        (B, 2, 490_364),
        (B, 3, 496_859),
        (B, 4, 505_952),
        (L, 2, 953_308),
        (L, 3, 959_803),
        (L, 4, 968_896),
    ],
)
def test_parameter_counts_are_the_published(variant, scale, parameters):
    with torch.device("meta"):
        network = SeemoRe(scale=scale, lr_space="exp", topk=1, **variant)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_state_dict_keys():
    with torch.device("meta"):
        keys = set(SeemoRe(scale=4, lr_space="exp", topk=1, **T).state_dict())
    layer = {
        f"{name}.{part}"
        for name in ("norm_1", "norm_2", "ffn.fn_1.0", "ffn.fn_2.0", "ffn.gate")
        for part in PARTS
    }
    rme = [
        "conv_1.0",
        "conv_1.2",
        "agg_conv.0",
        "conv.0",
        "conv.1",
        "conv_2.0.conv.0",
        "conv_2.0.conv.1",
        "proj",
    ]
    rme += [f"moe_layer.experts.{e}.conv_{i}" for e in range(3) for i in (1, 2, 3)]
    sme = ["proj", "to_qv.0", "attn.conv.0", "attn.conv.1"]
    local = (
        layer
        | {f"block.{name}.{part}" for name in rme for part in PARTS}
        | {"block.moe_layer.gate.body.2.weight"}
    )
    far = layer | {f"block.{name}.{part}" for name in sme for part in PARTS}
    expected = {f"{name}.{part}" for name in ("conv_1", "norm", "conv_2", "upsampler.0") for part in PARTS}
    for i in range(6):
        expected |= {f"body.{i}.local_block.{key}" for key in local}
        expected |= {f"body.{i}.global_block.{key}" for key in far}
    assert keys == expected
    assert len(keys) == 386


def test_expert_ranks():
    assert expert_ranks(4, "exp") == [2, 4, 8, 16]
    assert expert_ranks(4, "linear") == [2, 3, 4, 5]
    assert expert_ranks(4, "double") == [2, 4, 6, 8]
    with pytest.raises(ValueError, match="lr_space"):
        expert_ranks(3, "log")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scale", 0),
        ("scale", 1.5),
        ("in_chans", 0),
        ("num_experts", 0),
        ("num_layers", -1),
        ("embedding_dim", 0),
        ("img_range", 0.0),
        ("img_range", float("nan")),
        ("global_kernel_size", 4),
        ("global_kernel_size", -1),
        ("recursive", -1),
        ("lr_space", "log"),
        ("topk", 0),
        ("topk", 7),
        ("mean", (0.5,)),
    ],
)
def test_bad_argument_is_named(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        SeemoRe(**{**SMALL, argument: value})


def test_positional_arguments_keep_the_official_order():
    network = SeemoRe(2, 1, 3, 1, 8, 255.0, True, 5, 1, "double", 1)
    assert network.config == {
        "scale": 2,
        "in_chans": 1,
        "num_experts": 3,
        "num_layers": 1,
        "embedding_dim": 8,
        "img_range": 255.0,
        "use_shuffle": True,
        "global_kernel_size": 5,
        "recursive": 1,
        "lr_space": "double",
        "topk": 1,
        "mean": network.config["mean"],
    }
    assert network(torch.rand(1, 1, 4, 5)).shape == (1, 1, 8, 10)


def test_mean_is_a_setting_not_a_weight():
    network = SeemoRe(mean=(0.1, 0.2, 0.3), **SMALL)
    assert network.config["mean"] == (0.1, 0.2, 0.3)
    assert "mean" not in network.state_dict()
    assert torch.equal(network.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
