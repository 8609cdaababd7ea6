"""Reading and saving checkpoints: every accepted container, whole files, one clear error for every fault."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile

import pytest
import safetensors.torch
import torch
from torch import nn

from seemore_fast.network import checkpoint
from seemore_fast.network.reference import SeemoRe
from tests.support.faults import fault_of

SMALL = {"num_experts": 3, "num_layers": 2, "embedding_dim": 8, "lr_space": "exp", "topk": 1}


@pytest.fixture(scope="module")
def network() -> SeemoRe:
    torch.manual_seed(3)
    return SeemoRe(scale=2, **SMALL)


@pytest.fixture
def state(network) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def fault_of_reading(path) -> str:
    message = fault_of(lambda: checkpoint.read(path))
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# Reading what is right


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt", "bin", "safetensors"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_torch_files_of_any_name(tmp_path, state, suffix, zipped):
    path = tmp_path / f"net.{suffix}"
    torch.save({"params": state}, path, _use_new_zipfile_serialization=zipped)
    found = checkpoint.read(str(path))
    assert same(found.state, state)
    assert (found.path, found.config, found.metadata) == (path, None, {})


def test_reads_safetensors_of_any_name(tmp_path, state):
    path = tmp_path / "net.pth"
    safetensors.torch.save_file(state, path, {"author": "someone"})
    found = checkpoint.read(path)
    assert same(found.state, state)
    assert (found.config, found.metadata) == (None, {"author": "someone"})


def test_safetensors_whose_first_byte_is_that_of_a_pickle(tmp_path, state):
    path = tmp_path / "net.safetensors"
    for padding in range(0, 512, 8):
        safetensors.torch.save_file(state, path, {"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no header length that ends in 0x80")
    assert same(checkpoint.read(path).state, state)


def test_prefers_params_ema_then_params_then_state_dict(tmp_path, state):
    path = tmp_path / "net.pth"
    other = {key: value + 1 for key, value in state.items()}
    wrapped = {"iter": 7, "state_dict": other, "params": other, "params_ema": state}
    for wrapper in ("params_ema", "params", "state_dict"):
        torch.save({**wrapped, wrapper: state}, path)
        assert same(checkpoint.read(path).state, state)
        del wrapped[wrapper]
    torch.save(state, path)
    assert same(checkpoint.read(path).state, state)
    torch.save({"params": state, "params_ema": None}, path)
    assert same(checkpoint.read(path).state, state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_strips_wrapper_prefixes(tmp_path, state, prefix):
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "net.pth")
    assert same(checkpoint.read(tmp_path / "net.pth").state, state)


def test_parameters_come_without_gradient(tmp_path, network, state):
    torch.save(dict(network.named_parameters()), tmp_path / "net.pth")
    found = checkpoint.read(tmp_path / "net.pth").state
    assert same(found, state)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("container", ["pth", "safetensors"])
def test_tensors_outlive_changes_of_the_file(tmp_path, state, container):
    path = tmp_path / f"net.{container}"
    if container == "pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    found = checkpoint.read(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert same(found.state, state)


# Reading what is wrong


class Attack:
    """Unpickles as a call that creates the file ``target``."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_pickled_code_is_never_run(tmp_path, state, form):
    target, path = tmp_path / "created", tmp_path / "net.pth"
    data = {"params": state, "extra": Attack(target)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Attack(target), protocol=2))
    else:
        torch.save(data, path, _use_new_zipfile_serialization=form == "zip")
    message = fault_of_reading(path)
    assert "open" in message
    assert "could run code" in message
    assert not target.exists()
    torch.load(path, weights_only=False) if form != "bare pickle" else pickle.loads(path.read_bytes())
    assert target.exists(), "the attack must work where code is run, else this test shows nothing"


def test_whole_pickled_module_is_refused_by_class(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pth")
    assert "torch.nn.modules.linear.Linear" in fault_of_reading(tmp_path / "net.pth")


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
def test_truncated_file(tmp_path, state, container, kept):
    path = tmp_path / "net.pth"
    if container == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    assert fault_of_reading(path).startswith("damaged or no")


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "net.pth"
    assert fault_of_reading(path) == "No such file or directory"
    path.touch()
    assert fault_of_reading(path) == "the file is empty"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "b'version https://git-lfs" in fault_of_reading(path)
    path.write_text("text {")
    assert fault_of_reading(path).startswith("neither a PyTorch nor a safetensors file")
    path.write_text('{"json":{"a": 1}}')
    assert fault_of_reading(path).startswith("damaged or no safetensors file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert fault_of_reading(path).startswith("damaged or no PyTorch checkpoint")
    path.write_bytes(pickle.dumps({"conv_1.weight": [1.0]}))
    assert fault_of_reading(path) == "damaged or no PyTorch checkpoint"
    assert fault_of_reading(tmp_path) == "Is a directory"


def test_torchscript_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:  # what torch.jit.save's files are known by
        archive.writestr("net/version", "3\n")
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"net/{name}", pickle.dumps({}, protocol=2))
    assert "TorchScript" in fault_of_reading(tmp_path / "net.pt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file(tmp_path, state):
    torch.save(state, tmp_path / "net.pth")
    (tmp_path / "net.pth").chmod(0)
    assert fault_of_reading(tmp_path / "net.pth") == "Permission denied"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
        ([1, 2], "holds a list, expected a state dict"),
        ({}, "holds no tensors, expected a SeemoRe state dict; found nothing"),
        ({"params": {}}, "holds no tensors, expected a SeemoRe state dict; found nothing"),
        (
            {"epoch": 1, "iter": 2, "optimizers": [], "schedulers": []},
            "holds no tensors, expected a SeemoRe state dict; "
            "found 'epoch', 'iter', 'optimizers', ... and 1 more",
        ),
        ({"a": torch.zeros(1), "iter": 5}, "'iter' is a int, expected tensors by name"),
        ({"a": torch.zeros(1), 3: torch.zeros(1)}, "3 is a Tensor, expected tensors by name"),
        (
            {"a": torch.eye(2).to_sparse()},
            "'a' is sparse, quantized or without data, expected a plain tensor",
        ),
        (
            {"a": torch.zeros(2, device="meta")},
            "'a' is sparse, quantized or without data, expected a plain tensor",
        ),
    ],
)
def test_contents_that_are_no_state_dict(tmp_path, data, message):
    torch.save(data, tmp_path / "net.pth")
    assert fault_of_reading(tmp_path / "net.pth") == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_non_finite_weights_name_the_first_key(tmp_path, state, value, dtype):
    state = {key: tensor.to(dtype) for key, tensor in state.items()}
    state["norm.weight"][3] = value
    state["conv_2.bias"][0] = value
    torch.save(state, tmp_path / "net.pth")
    assert fault_of_reading(tmp_path / "net.pth") == "'norm.weight' holds NaN or infinity"


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_malformed_stored_configuration(tmp_path, state, text):
    safetensors.torch.save_file(state, tmp_path / "net.safetensors", {checkpoint.CONFIG_KEY: text})
    assert "seemore_fast.config is not a JSON object" in fault_of_reading(tmp_path / "net.safetensors")


# Saving


def test_saved_model_comes_back_whole(tmp_path, network):
    odd = SeemoRe(
        2, use_shuffle=True, recursive=1, img_range=255.0, mean=(0.1, 0.2, 0.3), **{**SMALL, "topk": 2}
    )
    path = tmp_path / "net.safetensors"
    checkpoint.save(odd, path, metadata={"psnr": "31.01"})
    found = checkpoint.read(path)
    assert same(found.state, odd.state_dict())
    assert found.metadata == {"psnr": "31.01"}
    assert found.resolve_config() == odd.config
    assert found.resolve_config(topk=1, img_range=None) == {**odd.config, "topk": 1}
    assert (
        fault_of(lambda: found.resolve_config(scale=3))
        == f"{path}: scale=3 contradicts the weights: theirs is 2"
    )

    checkpoint.save(network, path)  # over the other
    assert checkpoint.read(path).resolve_config() == network.config
    assert os.listdir(tmp_path) == [path.name]


def test_saves_a_wrapped_model(tmp_path):
    model = SeemoRe(2, use_shuffle=True, **SMALL)
    checkpoint.save(nn.DataParallel(model), tmp_path / "net.safetensors")
    found = checkpoint.read(tmp_path / "net.safetensors")
    assert found.config["use_shuffle"] is True
    assert same(found.state, model.state_dict())


def test_saves_a_state_dict(tmp_path, state):
    path = tmp_path / "net.safetensors"
    state = {f"module.{key}": value.bfloat16() for key, value in state.items()}
    checkpoint.save(state, path, {"recursive": 1})
    found = checkpoint.read(path)
    assert found.config["recursive"] == 1
    assert found.config["scale"] == 2
    assert same({f"module.{key}": value for key, value in found.state.items()}, state)
    assert {value.dtype for value in found.state.values()} == {torch.bfloat16}


def test_saves_shared_and_strided_tensors(tmp_path, state):
    state["conv_2.bias"] = state["norm.bias"]
    state["norm.weight"] = torch.arange(16.0)[::2]
    state["conv_1.weight"] = state["conv_1.weight"].to(memory_format=torch.channels_last)
    checkpoint.save(state, tmp_path / "net.safetensors")
    assert same(checkpoint.read(tmp_path / "net.safetensors").state, state)


def test_saved_file_has_ordinary_permissions(tmp_path, state):
    (tmp_path / "plain").touch()
    checkpoint.save(state, tmp_path / "net.safetensors")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "net.safetensors")}
    assert len(modes) == 1


def test_saving_through_a_link_keeps_the_link(tmp_path, state):
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real.safetensors")
    checkpoint.save(state, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert same(checkpoint.read(tmp_path / "real.safetensors").state, state)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, state, monkeypatch, step):
    path = tmp_path / "net.safetensors"
    checkpoint.save(state, path)
    before = path.read_bytes()

    def disk_full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, disk_full)
    message = fault_of(lambda: checkpoint.save({key: value + 1 for key, value in state.items()}, path))
    assert message == f"{path}: cannot be written (No space left on device)"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_refused_saves_write_nothing(tmp_path, state):
    path = tmp_path / "net.safetensors"
    broken = {**state, "norm.bias": torch.full((8,), float("nan"))}
    for action, message in [
        (lambda: checkpoint.save(state, tmp_path / "net.pth"), "must end in .safetensors"),
        (lambda: checkpoint.save(broken, path), "'norm.bias' holds NaN or infinity"),
        (lambda: checkpoint.save({"a": torch.zeros(1)}, path), "lacks conv_1.weight"),
        (lambda: checkpoint.save(state, path, {"scale": 3}), "scale=3 contradicts"),
        (lambda: checkpoint.save(state, path, metadata={"iteration": 3}), "metadata must map str to str"),
        (lambda: checkpoint.save(state, tmp_path / "absent" / path.name), "cannot be written (No such file"),
    ]:
        assert message in fault_of(action)
    assert os.listdir(tmp_path) == []
