"""torch modules: what comes out of the graph is what comes out of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deployq.errors import ModelError, ToolMissingError, UsageError
from deployq.frontends import torch as frontend
from deployq.graph import run_graph
from deployq.passes import simplify

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def compare(module, shape: tuple[int, ...]) -> list[str]:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (part.running_mean, part.weight.data, part.bias.data):
                values.normal_()
    graph = simplify(frontend.load_torch(module, torch.zeros(1, *shape)).graph)
    batch = torch.randn(5, *shape)
    with torch.no_grad():
        expected = module.eval()(batch).numpy()
    np.testing.assert_allclose(run_graph(graph, batch.numpy()), expected, rtol=1e-4, atol=1e-5)
    return [node.op.kind for node in graph.nodes]


def test_convolutional_network(capsys):
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.Softmax(dim=1),
    )
    layers = compare(module, (3, 16, 16))
    assert layers == ["conv2d", "maxpool2d", "conv2d", "averagepool2d", "reshape", "linear", "softmax"]
    assert capsys.readouterr().out == ""


def test_mlp_with_dropout_keeps_its_training_mode():
    frozen = nn.BatchNorm1d(12).eval()
    module = nn.Sequential(nn.Flatten(), nn.Linear(20, 12), nn.ReLU(), frozen, nn.Dropout(), nn.Linear(12, 4))
    module.train()
    frozen.eval()
    frontend.load_torch(module, torch.zeros(2, 20))
    assert module.training and module[4].training and not frozen.training
    assert compare(module, (20,)) == ["linear", "linear"]


def test_module_that_cannot_be_exported(capfd):
    class Branching(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    module = Branching().train()
    with pytest.raises(ModelError, match="cannot export") as caught:
        frontend.load_torch(module, torch.zeros(2, 4))
    assert module.training
    assert caught.value.why.startswith("GuardOnDataDependentSymNode: ") and "\x1b" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("module", "shape", "why"),
    [
        (nn.Linear(5, 3), (2, 4), "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
        (nn.Conv2d(3, 4, 3), (2, 3, 2, 2), "RuntimeError: Calculated padded input size"),
        (nn.Conv2d(3, 4, 3), (1, 1, 8, 8), "to have 3 channels, but got 1"),
    ],
)
def test_samples_of_a_shape_the_module_does_not_take(module, shape, why, capfd):
    with pytest.raises(UsageError, match="fails on samples of shape") as caught:
        frontend.load_torch(module, torch.zeros(*shape))
    assert why in caught.value.why and capfd.readouterr() == ("", "")


def test_modules_of_another_form():
    with pytest.raises(ModelError, match="gives a tuple"):
        frontend.load_torch(nn.LSTM(4, 4), torch.zeros(2, 4))
    with pytest.raises(ModelError, match="cannot be called"):
        frontend.load_torch(nn.Bilinear(4, 4, 4), torch.zeros(2, 4))


@pytest.mark.parametrize("model", [None, 3, len, nn.Linear])
def test_what_is_no_module(model):
    with pytest.raises(UsageError, match="the model is"):
        frontend.load_torch_shape(model, (4,))


def test_missing_onnxscript(monkeypatch):
    monkeypatch.setattr(frontend, "find_spec", lambda name: None)
    with pytest.raises(ToolMissingError, match="onnxscript"):
        frontend.load_torch(nn.Linear(2, 2), torch.zeros(1, 2))
