"""Weights as trainers store them: every door finds the network, whatever is around it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from seemore_fast.model import SeemoRe, load
from seemore_fast.network import checkpoint, wrapped
from seemore_fast.network.reference import SeemoRe as Reference

CONFIG = {"scale": 2, "num_experts": 3, "num_layers": 1, "embedding_dim": 8, "lr_space": "exp", "topk": 1}


@pytest.fixture(scope="module")
def network() -> Reference:
    torch.manual_seed(3)
    return Reference(**CONFIG)


@pytest.fixture
def state(network) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def prefixed(prefix: str, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "name",
    [
        *("model", "net", "netG", "net_g", "model_state_dict", "generator"),
        *("g_ema", "ema", "params-ema", "state_dict", "weights"),
    ],
)
def test_any_name_of_an_entry(tmp_path, state, name):
    torch.save(
        {"epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, name: state}, tmp_path / "a"
    )
    assert same(checkpoint.read(tmp_path / "a").state, state)


@pytest.mark.parametrize(
    "prefix", ["".join(order) for order in itertools.permutations(["netG.", "_orig_mod.", "module."])]
)
def test_prefixes_in_any_order(tmp_path, state, prefix):
    torch.save({"model": {"state_dict": prefixed(prefix, state)}}, tmp_path / "a.pth")
    assert same(checkpoint.read(tmp_path / "a.pth").state, state)


def test_compiled_parts(tmp_path, state):
    odd = {key.replace("body.0.", "body._orig_mod.0.module."): value for key, value in state.items()}
    assert odd.keys() != state.keys()
    torch.save(odd, tmp_path / "a.pth")
    assert same(checkpoint.read(tmp_path / "a.pth").state, state)


def test_lightning_with_a_loss_network(tmp_path, state):
    """Its state dict has every part of the LightningModule, a discriminator among them."""
    whole = {**prefixed("model.", state), **prefixed("vgg.", {"conv_1.weight": torch.ones(1)})}
    torch.save({"pytorch-lightning_version": "2.0", "state_dict": whole}, tmp_path / "a.ckpt")
    assert same(checkpoint.read(tmp_path / "a.ckpt").state, state)


def test_an_averaged_model_and_its_counter(tmp_path, network, state):
    averaged = torch.optim.swa_utils.AveragedModel(network)
    torch.save(averaged.state_dict(), tmp_path / "a.pth")
    assert "n_averaged" in averaged.state_dict()
    assert same(checkpoint.read(tmp_path / "a.pth").state, state)
    checkpoint.save(averaged.state_dict(), tmp_path / "a.safetensors")
    assert same(checkpoint.read(tmp_path / "a.safetensors").state, state)


@pytest.mark.parametrize("name", ["g_ema", "ema", "params-ema", "model_ema", "average_model"])
def test_a_moving_average_comes_first(state, name):
    other = {key: value + 1 for key, value in state.items()}
    assert same(wrapped.find({"g": other, "params": other, name: state}), state)
    flat = {**prefixed("model.", other), **prefixed(f"{name}.module.", state)}
    assert same(wrapped.find({"state_dict": flat}), state)
    assert same(wrapped.find({"params": other, name: state}, "params"), other)


def test_every_door(tmp_path, network, state):
    torch.save({"generator": prefixed("module._orig_mod.", state)}, tmp_path / "a.pth")
    model = load(tmp_path / "a.pth", topk=1)
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x), network(x), rtol=1e-4, atol=1e-4)
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    assert hub
    from seemore_fast.plugins.hub import HubSeemoRe

    HubSeemoRe.of(model).save_pretrained(tmp_path / "folder")
    (tmp_path / "folder/model.safetensors").write_bytes((tmp_path / "a.pth").read_bytes())
    assert same(dict(HubSeemoRe.from_pretrained(tmp_path / "folder").state_dict()), state)


def test_wrong_weights_are_named_by_their_own_names(tmp_path, state):
    del state["conv_2.bias"]
    torch.save({"model": prefixed("module.", state)}, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError, match=r"lacks conv_2.bias \(8,\)"):
        load(tmp_path / "a.pth")


# Bounds


@pytest.mark.parametrize("shape", [(10**5, 5 * 10**4), (8, 3, 3, 3)])
def test_values_that_repeat_are_refused_before_they_are_looked_at(tmp_path, state, shape):
    state["conv_1.weight"] = torch.zeros(1).expand(shape)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError, match=r"'conv_1.weight' is .* repeats fewer values"):
        checkpoint.read(tmp_path / "a.pth")


def test_many_tensors_of_one_storage(tmp_path, state):
    shared = torch.zeros(10**6)
    torch.save({**state, **{f"a{i}": shared[:] for i in range(100)}}, tmp_path / "a.pth")
    with pytest.raises(checkpoint.CheckpointError, match="share the same data"):
        checkpoint.read(tmp_path / "a.pth")


def test_an_archive_that_inflates(tmp_path, state):
    import zipfile

    torch.save({"a": torch.zeros(10**7)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as sound,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in sound.namelist():
            bomb.writestr(entry, sound.read(entry))
    with pytest.raises(checkpoint.CheckpointError, match="inflates to many times its size"):
        checkpoint.read(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[" * 100_000, "not a JSON object"),
        ('{"a":' * 100_000, "not a JSON object"),
        ('{"recursive": 100000000}', "recursive must be at most 6, got 100000000"),
        ('{"num_experts": 20}', "num_experts=20 contradicts the weights"),
        ('{"img_range": 1' + "0" * 400 + "}", "img_range must be a number"),
        ('{"mean": [1' + "0" * 400 + "]}", "img_range must be a number"),
        ('{"scale": "' + "x" * 10**6 + '"}', "contradicts the weights"),
        ('{"topk": 1000000000000}', "topk must lie in"),
    ],
)
def test_stored_configurations_beyond_bounds(tmp_path, state, config, message):
    import safetensors.torch

    safetensors.torch.save_file(state, tmp_path / "a.safetensors", {checkpoint.CONFIG_KEY: config})
    with pytest.raises(checkpoint.CheckpointError, match=message) as caught:
        load(tmp_path / "a.safetensors")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_experts": 20, "lr_space": "exp"}, "20 experts of lr_space 'exp' have ranks up to 1048576"),
        ({"num_experts": 10**9}, "num_experts must be at most 256"),
        ({"recursive": 10**8}, "recursive must be at most 6"),
        ({"num_layers": 10**9}, "num_layers must be at most"),
        ({"embedding_dim": 10**9}, "embedding_dim must be at most"),
        ({"scale": 10**9}, "scale must be at most"),
        ({"global_kernel_size": 10**9 + 1}, "global_kernel_size must be at most"),
    ],
)
def test_networks_beyond_bounds_cost_nothing(wrong, message):
    for kind in (Reference, SeemoRe):
        with pytest.raises(ValueError, match=message):
            kind(**wrong)


def test_many_experts_in_a_file(state):
    for expert in range(3, 1000):
        state[f"body.0.local_block.block.moe_layer.experts.{expert}.conv_1.weight"] = torch.zeros(1, 8, 1, 1)
    with pytest.raises(checkpoint.CheckpointError, match="1000 experts; there may be up to 256"):
        checkpoint.infer_config(state)


def test_other_networks_stay_as_they_are():
    data = {"state_dict": nn.Linear(2, 2).state_dict(), "epoch": 1}
    assert wrapped.find(data) is data["state_dict"]
    assert wrapped.find({"a": 1}) == {"a": 1}
