"""Whole builds of the digits example: results, reproducibility, budgets, damage, missing tools."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from deployq.config import BuildConfig
from deployq.config_file import example_config, load_config
from deployq.errors import AccuracyError, BudgetError, ToolMissingError, UsageError, VerificationError
from deployq.inspection import inspect_model, verify_directory
from deployq.pipeline import BuildResult, build, build_from_config
from deployq.report.model import Checked, Skipped
from deployq.report.text import render_verification
from deployq.verify.toolchain import find_tool
from tests.tools import needs_tools

pytestmark = pytest.mark.slow

QEMU_TOOLS = ("gcc", "arm-none-eabi-gcc", "qemu-system-arm")


def digits(output: Path, **changes: object) -> BuildConfig:
    """The example's configuration with fewer samples to verify."""
    config = load_config({}, config_file=example_config())
    fast = {"output": output, "verify_samples": 4, "host_samples": 50, "calibration_limit": 256, "tune": 2}
    return dataclasses.replace(config, **{**fast, **changes})  # type: ignore[arg-type]


def files(directory: Path) -> dict[str, bytes]:
    """Every file of an output directory."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """One build for Cortex-M4 at 2 bits."""
    return build_from_config(digits(tmp_path_factory.mktemp("built") / "out"))


def test_the_files_are_those_documented(built: BuildResult) -> None:
    assert set(files(built.directory)) == {
        "model.onnx",
        "report.json",
        "report.html",
        "build.toml",
        "vectors.npz",
        *(f"firmware/{name}" for name in ("CMakeLists.txt", "main.c", "dq_kernels.c", "dq_kernels.h")),
        *(f"firmware/digits{name}" for name in (".c", ".h", "_weights.c", "_weights.h")),
    }


def test_the_report_holds_what_the_issue_promises(built: BuildResult) -> None:
    document = json.loads((built.directory / "report.json").read_text())
    assert document["schema_version"] == 1
    assert document["name"] == "digits" and document["target"] == "cortex-m4"
    assert set(document["input"]) == {"shape", "layout", "scale", "zero_point"}
    assert document["input"]["shape"] == [8, 8, 1] and document["input"]["zero_point"] == -128
    assert document["accuracy"]["samples"] == 500
    assert document["accuracy"]["float"] > 98 and document["accuracy"]["quantized"] > 97
    assert document["memory"]["arena_bytes"] > 0 and document["memory"]["weights_bytes"] > 0
    for layer in document["layers"]:
        assert {"name", "op", "macs", "weight_bits", "alphabet", "weights_bytes"} <= set(layer)
        assert {"relative_error", "accumulator_bits", "instructions"} <= set(layer)
    assert document["verification"]["onnxruntime"] == {"samples": 50, "mismatches": 0}


@needs_tools(*QEMU_TOOLS)
def test_instructions_and_sizes_are_measured(built: BuildResult) -> None:
    report = built.report
    assert report.memory.code_bytes and report.memory.stack_bytes and report.instructions
    layers = sum(layer.instructions or 0 for layer in report.layers)
    assert 0.98 * report.instructions < layers < report.instructions + 100
    assert report.verification.qemu == Checked(4, 0)
    assert report.verification.host == Checked(50, 0)


def test_a_second_build_is_byte_identical(built: BuildResult, tmp_path: Path) -> None:
    again = build_from_config(digits(tmp_path / "out"))
    first, second = files(built.directory), files(again.directory)
    # build.toml holds the path of the model relative to itself, and the directories differ.
    for name in first.keys() - {"build.toml"}:
        assert first[name] == second[name], name


def test_build_toml_reproduces_the_build(tmp_path: Path) -> None:
    output = tmp_path / "out"
    build_from_config(digits(output, target="host"))
    before = files(output)
    build_from_config(load_config({}, config_file=output / "build.toml"))
    assert files(output) == before


def test_onnx_model_has_the_reported_accuracy(built: BuildResult) -> None:
    config = digits(built.directory)
    assert config.evaluation is not None
    archive = np.load(config.evaluation.rpartition(":")[0])
    session = onnxruntime.InferenceSession(str(built.directory / "model.onnx"))
    images = (archive["x_test"].astype(np.int16) - 128).astype(np.int8).reshape(-1, 1, 8, 8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    accuracy = 100 * np.mean(logits.argmax(axis=1) == archive["y_test"])
    assert accuracy == pytest.approx(built.report.accuracy.quantized)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"flash": 1000}, BudgetError, "bytes of flash needed, 1000 allowed"),
        ({"ram": 512}, BudgetError, "bytes of RAM needed, 512 allowed"),
        ({"min_accuracy": 99.9}, AccuracyError, "at least 99.90 % demanded"),
        ({"min_accuracy": 50.0, "evaluation": None}, UsageError, "cannot be known"),
        ({"model": Path("missing.onnx")}, UsageError, "missing.onnx"),
        ({"calibration": "missing.npz"}, UsageError, "no such data file"),
    ],
)
@needs_tools("arm-none-eabi-gcc")
def test_demands_that_fail_leave_no_output(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    output = tmp_path / "out"
    with pytest.raises(error, match=message):
        build_from_config(digits(output, **changes))
    assert list(tmp_path.iterdir()) == []


def test_verify_accepts_the_directory(built: BuildResult) -> None:
    report = verify_directory(built.directory, qemu_samples=2)
    assert report.name == "digits"
    assert report.verification.onnxruntime == Checked(50, 0)


@needs_tools("gcc")
def test_verify_finds_the_first_wrong_layer(built: BuildResult, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.directory, copy)
    weights = copy / "firmware" / "digits_weights.c"
    text = weights.read_text()
    # One bit of one weight of the second convolution (layer 2).
    start = text.index("digits_layer2_weights")
    match = re.compile(r"0x([0-9a-f]{8})u").search(text, start)
    assert match is not None
    flipped = f"0x{int(match[1], 16) ^ 0x3:08x}u"
    weights.write_text(text[: match.start()] + flipped + text[match.end() :])
    with pytest.raises(VerificationError, match="disagree") as caught:
        verify_directory(copy, qemu_samples=2)
    second = [layer.name for layer in built.report.layers][2]
    assert f"layer '{second}'" in caught.value.why
    assert "host" in caught.value.why


def test_verify_refuses_other_directories(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a complete output directory"):
        verify_directory(tmp_path)


@needs_tools("gcc", "clang")
def test_the_host_runner_uses_both_compilers(built: BuildResult, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.directory, copy)
    source = copy / "firmware" / "digits.c"
    text = source.read_text()
    source.write_text(
        text.replace(
            "    return DIGITS_OK;", "#ifdef __clang__\n    output[0] ^= 1;\n#endif\n    return DIGITS_OK;"
        )
    )
    with pytest.raises(VerificationError, match="host: 50 bytes"):
        verify_directory(copy, qemu_samples=1)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without any compiler."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    getattr(find_tool, "cache_clear", lambda: None)()


@pytest.mark.usefixtures("no_tools")
def test_missing_tools_are_reported(tmp_path: Path) -> None:
    result = build_from_config(digits(tmp_path / "out"))
    assert isinstance(result.report.verification.host, Skipped)
    assert isinstance(result.report.verification.qemu, Skipped)
    assert result.report.instructions is None and result.report.memory.code_bytes is None
    assert any("skipped" in warning for warning in result.report.warnings)
    with pytest.raises(ToolMissingError):
        build_from_config(digits(tmp_path / "strict", strict=True))
    assert not (tmp_path / "strict").exists()


@needs_tools("gcc")
def test_a_missing_compiler_of_two_is_reported(
    built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("gcc", "as", "ld"):
        (tmp_path / tool).symlink_to(find_tool(tool))
    monkeypatch.setenv("PATH", str(tmp_path))
    report = verify_directory(built.directory, qemu_samples=1)
    assert report.verification.host == Checked(50, 0)
    clang = "host ran with one compiler less: clang is not installed"
    assert report.warnings[1:] == (clang,) and "qemu was skipped" in report.warnings[0]
    assert clang in render_verification(report)
    with pytest.raises(ToolMissingError, match="clang is not installed"):
        verify_directory(built.directory, strict=True, qemu_samples=1)


@needs_tools(*QEMU_TOOLS)
@pytest.mark.parametrize(
    "changes",
    [
        {"io_layout": "nchw", "bits": "ternary"},
        {"single_file": True, "float_io": True, "bits": "1"},
        {"method": "msq", "granularity": "layer", "bits": "4", "activation_range": "mse"},
        {"target": "cortex-m0plus", "bits": "3"},
        {"target": "cortex-m55", "alphabet": "midrise-8", "activation_range": "percentile"},
        {"scale": 1 / 255, "mean": (0.1307,), "std": (0.3081,)},
    ],
    ids=str,
)
def test_options_stay_exact(tmp_path: Path, changes: dict[str, object]) -> None:
    report = build_from_config(digits(tmp_path / "out", **changes)).report
    assert report.verification.host == Checked(50, 0)
    assert report.verification.qemu == Checked(4, 0)


def test_torch_module_and_arrays(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU6(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(40) % 3
    config = BuildConfig(
        output=tmp_path / "out", target="host", layout="nhwc", scale=1 / 255, mean=(0.5, 0.4, 0.3), bits="8"
    )
    result = build(module, pixels, config, evaluation=(pixels, labels))
    assert module.training
    assert result.report.verification.onnxruntime == Checked(40, 0)
    assert result.report.accuracy.samples == 40


def test_files_given_from_python_are_in_build_toml(tmp_path: Path) -> None:
    config = digits(tmp_path / "out", target="host")
    model, calibration = config.model, config.calibration
    assert model is not None and calibration is not None
    bare = dataclasses.replace(config, model=None, calibration=None, name=None)
    result = build(model, calibration, bare)
    assert result.report.name == "digits"
    assert result.report.accuracy.samples == 500, "the evaluation data of the configuration are used"
    before = files(result.directory)
    build_from_config(load_config({}, config_file=result.directory / "build.toml"))
    assert files(result.directory) == before


@pytest.mark.parametrize(
    "labels", [np.full(500, 10), np.full(500, -1), np.zeros(499, int), np.zeros(500)], ids=str
)
def test_labels_are_checked(tmp_path: Path, labels: np.ndarray) -> None:  # type: ignore[type-arg]
    config = digits(tmp_path / "out")
    assert config.model is not None and config.calibration is not None
    images = np.zeros((500, 1, 8, 8), np.uint8)
    with pytest.raises(UsageError, match="label"):
        build(config.model, config.calibration, config, evaluation=(images, labels))


@needs_tools("arm-none-eabi-gcc")
def test_a_single_file_has_the_same_size(built: BuildResult, tmp_path: Path) -> None:
    single = build_from_config(digits(tmp_path / "out", single_file=True)).report.memory
    several = built.report.memory
    assert single.weights_bytes == several.weights_bytes
    assert single.code_bytes and several.code_bytes
    assert abs(single.code_bytes - several.code_bytes) < 0.4 * several.code_bytes


def test_a_damaged_model_is_a_usage_error(built: BuildResult, tmp_path: Path) -> None:
    for name in ("report.json", "vectors.npz"):
        (tmp_path / name).write_bytes((built.directory / name).read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(UsageError, match="not a complete output directory"):
        verify_directory(tmp_path)


def test_foreign_output_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    steps: list[str] = []
    with pytest.raises(UsageError, match="not written by deployq"):
        build_from_config(digits(tmp_path), steps.append)
    assert steps == []


def test_inspect_lists_layers() -> None:
    config = load_config({}, config_file=example_config())
    assert config.model is not None
    report = inspect_model(config.model)
    assert report.input_shape == (1, 8, 8)
    assert sum(layer.macs for layer in report.layers) == 84224
