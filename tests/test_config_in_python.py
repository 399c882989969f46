"""Configuration given in Python: the types a file could give, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployq.config import BuildConfig
from deployq.errors import UsageError


@pytest.mark.parametrize(
    ("values", "name", "read"),
    [
        ({"output": "dir"}, "output", Path("dir")),
        ({"model": "net.onnx"}, "model", Path("net.onnx")),
        ({"mean": 0.5}, "mean", (0.5,)),
        ({"std": np.array([0.5, 0.25])}, "std", (0.5, 0.25)),
        ({"flash": "64K"}, "flash", 65536),
        ({"scale": "1/255"}, "scale", 1 / 255),
        ({"bits": 4}, "bits", "4"),
        ({"first": 8}, "first", "8"),
        ({"seed": np.int64(3)}, "seed", 3),
        ({"layer_bits": ["a=4"]}, "layer_bits", ("a=4",)),
    ],
)
def test_python_may_give_what_a_file_may(values: dict[str, Any], name: str, read: object) -> None:
    config = BuildConfig(**values)
    assert getattr(config, name) == read and type(getattr(config, name)) is type(read)
    assert replace(config, task="regression") == replace(config, task="regression")


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1.5},
        {"target": None},
        {"output": None},
        {"strict": "yes"},
        {"mean": "a"},
        {"flash": 1.5},
        {"calibration": 3},
        {"layer_bits": 4},
        {"bits": 2.0},
        {"seed": True},
        {"model": Path("a\0b")},
        {"output": "a\0b"},
        {"calibration": "a\0.npy"},
        {"model": "m\udcff.onnx"},
        {"calibration": "c\udcff.npy"},
        {"evaluation": "c\udcff.npz:x,y"},
    ],
    ids=str,
)
def test_python_may_not_give_other_types_and_texts(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        BuildConfig(**values)
    assert caught.value.where == "--" + next(iter(values)).replace("_", "-")
