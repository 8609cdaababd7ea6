"""CUDA graphs of the CUDA engine's forwards, and forwards inside somebody's capture."""

from __future__ import annotations

import logging
import weakref
from unittest.mock import Mock

import pytest
import torch

from seemore_fast.backends import native
from seemore_fast.engines import cuda_graphs
from seemore_fast.errors import DeviceError, SeemoreError
from tests.support.on_cuda import network_of, run, small

pytestmark = pytest.mark.usefixtures("compiler")


def test_the_second_call_captures_and_the_rest_replay(device, launches):
    model = small(device)
    images = [torch.rand(1, 3, 17, 19, device=device) for _ in range(4)]
    outs = [run(model, x) for x in images]
    assert len(launches) == 2
    assert len(network_of(model, images[0]).graphs) == 1
    model.invalidate()
    for x, out in zip(images, outs, strict=True):
        model.invalidate()
        assert torch.equal(run(model, x), out), "as without graphs; and outputs stay as they were returned"


def test_graphs_keep_within_the_workspace_limit(device):
    model = small(device)
    x, other = (torch.rand(1, 3, h, 19, device=device) for h in (17, 18))
    network = network_of(model, other)
    model.workspace_limit = network.workspace(other)
    outs = [run(model, other) for _ in range(3)]
    assert len(network.graphs) == 0, "a graph holds pixels, too"
    model.workspace_limit = network.workspace(other) + 2 * (x.nbytes + 4 * other.nbytes)
    for image in (x, x, other, other):
        run(model, image)
    assert len(network.graphs) == 1, "there is room for one, not for two"
    assert torch.equal(run(model, other), outs[0])


def test_graphs_know_modes_and_dtypes_apart(device):
    model = small(device)
    x = torch.rand(1, 3, 17, 19, device=device)
    with torch.inference_mode():
        outs = [model(x) for _ in range(3)]
    outs += [run(model, x) for _ in range(2)]
    assert all(torch.equal(out, outs[0]) for out in outs)
    half = [run(model, x.half()) for _ in range(3)]
    assert all(out.dtype == torch.float16 for out in half)
    assert torch.equal(half[0], half[2])
    assert len(network_of(model, x).graphs) == 2


def test_few_graphs_are_kept(device, launches, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    model = small(device)
    a, b, c = (torch.rand(1, 3, 16, 16 + i, device=device) for i in range(3))
    for x in (a, a, b, b, a, c, c):  # b is the one least recently used
        run(model, x)
    assert len(network_of(model, a).graphs) == 2
    before = len(launches)
    run(model, a)
    run(model, c)
    assert len(launches) == before
    run(model, b)
    assert len(launches) == before + 1


def test_large_images_have_no_graph(device, launches, monkeypatch):
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    needed = network_of(model, x).workspace(x) + x.nbytes + run(model, x).nbytes
    monkeypatch.setattr(cuda_graphs, "MOST_BYTES", needed - 1)
    model.invalidate()
    for _ in range(3):
        run(model, x)
    assert len(launches) == 1 + 3
    assert len(network_of(model, x).graphs) == 0


def test_what_cannot_be_captured_runs_all_the_same(device, launches, monkeypatch, caplog):
    refuse = Mock(side_effect=DeviceError("another capture is underway"))
    monkeypatch.setattr(native.lib, "CudaGraph", refuse)
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    outs = [run(model, x) for _ in range(6)]
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert len(launches) == 6
    assert caplog.text.count("going on without CUDA graphs: another capture is underway") == 1


def test_a_capture_that_failed_in_passing_is_tried_again(device, launches, monkeypatch, caplog):
    graph, tries = native.lib.CudaGraph, []

    def refuse_twice(*arguments):
        tries.append(arguments)
        if len(tries) <= 2:
            raise DeviceError("another capture is underway")
        return graph(*arguments)

    monkeypatch.setattr(native.lib, "CudaGraph", refuse_twice)
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    outs = [run(model, x) for _ in range(6)]
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert len(network_of(model, x).graphs) == 1
    assert len(launches) == 3 + 1
    assert "CUDA graphs" not in caplog.text


def test_without_memory_for_a_graph_the_next_call_tries_again(device, monkeypatch):
    model, x = small(device), torch.rand(1, 3, 16, 16, device=device)
    with monkeypatch.context() as patch:
        patch.setattr(native.lib, "CudaGraph", Mock(side_effect=torch.OutOfMemoryError))
        outs = [run(model, x) for _ in range(2)]
    outs.append(run(model, x))
    assert len(network_of(model, x).graphs) == 1
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_forgotten_weights_and_graphs_are_freed_at_once(device):
    model, x = small(device), torch.rand(1, 3, 16, 16, device=device)
    for _ in range(3):
        run(model, x)
    network = weakref.ref(network_of(model, x))
    assert len(network().graphs) == 1
    model.invalidate()
    assert network() is None


def test_inside_a_users_capture_nothing_is_packed(device, launches, monkeypatch):
    model = small(device)
    x = torch.rand(1, 3, 16, 16, device=device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(SeemoreError, match="call the model once, with the same dtype, before capturing"):
        run(model, x)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run(model, x)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(3):
        run(model, x)
    network = network_of(model, x)
    assert len(launches) == 4, "launched each time, with no graph of our own"
    assert model.cuda_engine._captured == [network]
    torch.nn.init.constant_(model.norm.bias, 0.5)
    with pytest.raises(SeemoreError, match="or have changed since"):
        run(model, x)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    run(model, x)
    assert model.cuda_engine._captured == [network], "the user's graph still points to the old weights"


def test_first_calls_are_logged_with_their_cost(device, caplog):
    model = small(device)
    with caplog.at_level(logging.INFO, "seemore_fast"):
        for _ in range(3):
            run(model, torch.rand(1, 3, 16, 16, device=device))
    assert caplog.text.count("packed weights for") == 1
    assert caplog.text.count("captured a graph for (1, 3, 16, 16)") == 1
