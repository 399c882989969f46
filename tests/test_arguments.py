"""What callers from Python may give, and what is refused with a usage error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from deployq.config import BuildConfig
from deployq.data import as_array
from deployq.errors import UsageError
from deployq.evaluation import labelled_samples
from deployq.pipeline import build
from deployq.steps import prepare, quantize
from tests.frontends.models import build as make_model

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(16, 4)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network of four inputs and three outputs."""
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    path = tmp_path / "net.onnx"
    onnx.save(make_model([node], {"w": RNG.normal(size=(4, 3)).astype(np.float32)}, ["N", 4]), path)
    return path


@pytest.mark.parametrize("wrong", [None, 3, len, torch.nn.Linear, b"net.onnx"], ids=str)
def test_what_is_no_model(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the model is"):
        build(wrong, SAMPLES, BuildConfig(output=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [None, 3.0, np.float32(1), "missing.npy", [[1], [1, 2]], {"x": 1}, np.array(["a"])], ids=str
)
def test_what_is_no_calibration_data(wrong: Any, model: Path) -> None:
    with pytest.raises(UsageError):
        quantize(model, wrong)


def test_a_tensor_that_asks_for_gradients() -> None:
    tensor = torch.ones(2, 4, requires_grad=True)
    np.testing.assert_array_equal(as_array(tensor, "samples"), np.ones((2, 4)))


@pytest.mark.parametrize("wrong", [(SAMPLES,), (), SAMPLES, 3, (SAMPLES, None), (SAMPLES, 0)], ids=str)
def test_evaluation_data_that_are_no_pair(wrong: Any, model: Path) -> None:
    prepared = prepare(model, SAMPLES, BuildConfig())
    with pytest.raises(UsageError):
        labelled_samples(wrong, prepared, BuildConfig())


def test_settings_that_would_be_ignored(model: Path) -> None:
    with pytest.raises(UsageError, match="would be ignored"):
        quantize(model, SAMPLES, BuildConfig(method="msq", sparsity=0.5))
    with pytest.raises(UsageError, match="would be ignored"):
        build(model, SAMPLES, BuildConfig(method="msq", sparsity=0.5))


def test_an_infinite_alphabet_keeps_to_no_budget(model: Path) -> None:
    config = BuildConfig(method="spfq", spfq_alphabet="infinite", bits="auto", average_bits=2.0)
    with pytest.raises(UsageError, match="widths follow from the levels"):
        quantize(model, SAMPLES, config)
