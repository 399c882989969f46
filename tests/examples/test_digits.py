"""The digits example: its data, its float network, its firmware, its accuracy at every width."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from deployq.config_file import example_config, load_config
from deployq.pipeline import build_from_config
from tests.tools import needs_tools

DIGITS = example_config().parent


def script(name: str) -> ModuleType:
    """One of the example's scripts as a module."""
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def float_accuracy(model: Path) -> float:
    """Test accuracy of a float ONNX file by ONNX Runtime, percent."""
    with np.load(DIGITS / "digits.npz") as data:
        pixels, labels = data["x_test"], data["y_test"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": (pixels / 255).astype(np.float32)})
    return float(100 * np.mean(logits.argmax(axis=1) == labels))


def test_the_data_file_is_what_the_script_writes() -> None:
    pytest.importorskip("sklearn")
    split = script("data").load_split()
    with np.load(DIGITS / "digits.npz") as data:
        assert set(data.files) == set(split)
        for name, expected in split.items():
            np.testing.assert_array_equal(data[name], expected)


def test_no_test_image_is_a_training_image() -> None:
    with np.load(DIGITS / "digits.npz") as data:
        train = {image.tobytes() for image in data["x_train"]}
        assert not any(image.tobytes() in train for image in data["x_test"])


def test_the_float_network_is_good_and_small() -> None:
    assert float_accuracy(DIGITS / "digits.onnx") >= 98.5
    assert (DIGITS / "digits.onnx").stat().st_size < 100_000


@pytest.mark.slow
def test_training_gives_a_network_as_good(tmp_path: Path) -> None:
    train = script("train")
    with np.load(DIGITS / "digits.npz") as data:
        arrays = {name: data[name] for name in data.files}
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    try:
        pixels, labels = (torch.from_numpy(arrays[name]) for name in ("x_train", "y_train"))
        train.export(train.train(pixels / 255, labels.long()), tmp_path / "again.onnx")
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    # Another processor rounds differently and so trains another network: within three images.
    assert float_accuracy(tmp_path / "again.onnx") >= float_accuracy(DIGITS / "digits.onnx") - 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "loss"), [("1", 4.0), ("ternary", 1.6), ("2", 1.0), ("4", 0.6), ("8", 0.3)], ids=str
)
def test_accuracy_at_each_width(bits: str, loss: float, tmp_path: Path) -> None:
    config = load_config({"bits": bits}, config_file=DIGITS / "deployq.toml")
    config = replace(config, output=tmp_path / "out", target="host", host_samples=10)
    accuracy = build_from_config(config).report.accuracy
    assert accuracy.float_ is not None and accuracy.quantized is not None
    assert accuracy.quantized >= accuracy.float_ - loss


@needs_tools("gcc")
def test_the_firmware_recognises_its_image(tmp_path: Path) -> None:
    config = load_config({"output": str(tmp_path / "deployq-out")}, config_file=DIGITS / "deployq.toml")
    build_from_config(replace(config, target="host", host_samples=10))
    firmware, program = tmp_path / "deployq-out" / "firmware", tmp_path / "digits"
    sources = [firmware / f"{name}.c" for name in ("digits", "digits_weights", "dq_kernels")]
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    command = ["gcc", *strict, f"-I{firmware}", DIGITS / "main.c", *sources, "-o", program]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    done = subprocess.run([program], check=True, capture_output=True, text=True, timeout=10)
    assert done.stdout == "digit 5\n"


def test_the_files_name_no_machine() -> None:
    for path in DIGITS.iterdir():
        if path.is_file():
            assert not re.search(rb"/(home|root|work|tmp|usr)/", path.read_bytes()), path.name
