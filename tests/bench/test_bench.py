"""`deployq bench`: its report, its texts, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployq import cli
from deployq.bench import bench_directory
from deployq.bench.directory import core_to_measure, layer_functions
from deployq.config_file import example_config, load_config
from deployq.errors import ExitCode, UsageError, VerificationError
from deployq.pipeline import build_from_config
from deployq.report import from_document, to_document
from deployq.report.bench import MODEL_NOTE, BenchReport, FunctionCost, LayerCost, render_bench
from tests.tools import needs_tools

_TOOLS = ("gcc", "arm-none-eabi-gcc", "qemu-system-arm")

REPORT = BenchReport(
    name="net",
    target="cortex-m4",
    machine="mps2-an386",
    compiler="arm-none-eabi-gcc 12.2.1",
    flags=("-mcpu=cortex-m4", "-O2"),
    samples=4,
    instructions=2_000,
    macs=1_000,
    instructions_per_mac=2.0,
    modelled_cycles=2_500,
    modelled_cycles_per_mac=2.5,
    cycle_model=MODEL_NOTE,
    weights_bytes=300,
    code_bytes=700,
    arena_bytes=64,
    stack_bytes=100,
    used_stack_bytes=90,
    layers=(
        LayerCost("conv[red]\x1b[31m", "conv2d", "dq_conv", 1_000, 1_900, 1.9, 2_400, 2.4),
        LayerCost("pool", "maxpool2d", "dq_pool", 0, 80, None, 100, None),
    ),
    functions=(FunctionCost("dq_conv", 400, 1_900, 2_400), FunctionCost("memset", None, 80, 100)),
)


def build_digits(output: Path, **changes: object) -> Path:
    """A quick build of the digits example."""
    config = load_config({}, config_file=example_config())
    fast = {
        "output": output, "method": "msq", "tune": 0, "evaluation": None,
        "verify_samples": 2, "host_samples": 6, "calibration_limit": 64,
    }  # fmt: skip
    return build_from_config(replace(config, **{**fast, **changes})).directory  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build for Cortex-M4."""
    return build_digits(tmp_path_factory.mktemp("built") / "out")


@pytest.fixture
def edited(digits: Path, tmp_path: Path) -> Callable[[str, str, str], Path]:
    """A copy of the build in which a pattern in a C file was replaced."""

    def edit(file: str, pattern: str, replacement: str) -> Path:
        directory = tmp_path / "edited"
        shutil.copytree(digits, directory)
        path = directory / "firmware" / file
        text, count = re.subn(pattern, replacement, path.read_text(), count=1)
        assert count == 1
        path.write_text(text)
        return directory

    return edit


def test_the_text() -> None:
    text = render_bench(REPORT)
    assert text.splitlines()[0] == "net on cortex-m4: 2,000 instructions per inference, 2.00 per MAC"
    assert max(map(len, text.splitlines())) <= 100
    assert "1,000 bytes = 300 weights + 700 code" in text
    assert "164 bytes = 64 arena + 100 stack, 90 of it used" in text
    assert re.search(r"dq_conv +1,000 +1,900 +1\.90 +2,400 +2\.40$", text, re.M)
    assert re.search(r"^memset +80 +100$", text, re.M)
    assert MODEL_NOTE in " ".join(text.split())
    assert "\x1b" not in text, "names from a model do not steer the terminal"


def test_the_text_without_cycles() -> None:
    layers = tuple(replace(layer, modelled_cycles=None) for layer in REPORT.layers)
    text = render_bench(replace(REPORT, modelled_cycles=None, layers=layers))
    assert "cycles" not in text and "model" not in text
    assert re.search(r"dq_conv +1,000 +1,900 +1\.90$", text, re.M)


def test_the_document_can_be_read_again() -> None:
    document = json.loads(json.dumps(to_document(REPORT)))
    assert from_document(BenchReport, document) == REPORT


def test_layer_functions(tmp_path: Path) -> None:
    source = tmp_path / "net.c"
    source.write_text(
        "#define DQ_LAYER_BEGIN(i) ((void)0)\n"
        "    DQ_LAYER_BEGIN(0);\n    dq_conv(&net_layer0, input, memory);\n    DQ_LAYER_END(0);\n"
        "    DQ_LAYER_BEGIN(1);\n    dq_pool(&net_layer1, memory, output);\n    DQ_LAYER_END(1);\n"
    )
    assert layer_functions(source, 2) == ("dq_conv", "dq_pool")
    with pytest.raises(UsageError, match="layers 0, 1 where the report has 0 to 2"):
        layer_functions(source, 3)


def test_the_core() -> None:
    assert core_to_measure("cortex-m4", None).name == "cortex-m4"
    assert core_to_measure("cortex-m4", "cortex-m7").name == "cortex-m7"
    assert core_to_measure("host", "cortex-m0plus").name == "cortex-m0plus"
    with pytest.raises(UsageError, match="cortex-m3 lacks dsp"):
        core_to_measure("cortex-m4", "cortex-m3")
    with pytest.raises(UsageError, match="lacks mve"):
        core_to_measure("cortex-m55", "cortex-m4")
    with pytest.raises(UsageError, match="host is not emulated"):
        core_to_measure("host", None)
    with pytest.raises(UsageError, match="unknown target"):
        core_to_measure("cortex-m4", "cortex-m9")


@pytest.mark.parametrize("arguments", [["absent"], [".", "--samples", "0"], [".", "--target", "x"]])
def test_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments, "--json"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


@pytest.mark.qemu
@needs_tools(*_TOOLS)
def test_a_build_is_measured(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", str(digits), "--cycles", "--json", "--quiet", "--samples", "3"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    report = from_document(BenchReport, document)
    built = json.loads((digits / "report.json").read_text())
    assert (report.samples, report.machine) == (3, "mps2-an386")
    assert [layer.name for layer in report.layers] == [layer["name"] for layer in built["layers"]]
    assert report.macs == sum(layer["macs"] for layer in built["layers"])
    assert report.code_bytes == built["memory"]["code_bytes"]
    padding = report.weights_bytes - built["memory"]["weights_bytes"]
    assert 0 <= padding < 4 * len(report.layers), "tables are aligned"
    assert 0 < report.used_stack_bytes <= report.stack_bytes == built["memory"]["stack_bytes"]
    assert report.instructions == pytest.approx(built["instructions"], rel=0.01)
    assert sum(layer.instructions for layer in report.layers) == pytest.approx(report.instructions, abs=100)
    sizes = [function.bytes for function in report.functions if function.bytes is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert 0.8 * report.code_bytes < sum(sizes) <= report.code_bytes
    assert {layer.function for layer in report.layers} <= {function.name for function in report.functions}
    # Every instruction takes a cycle at least; no kernel is made of loads and jumps alone.
    for layer in report.layers:
        assert layer.modelled_cycles is not None
        assert layer.instructions - 10 < layer.modelled_cycles < 2 * layer.instructions


@pytest.mark.qemu
@needs_tools(*_TOOLS)
def test_a_single_file_and_another_core(tmp_path: Path) -> None:
    directory = build_digits(tmp_path / "out", target="cortex-m3", single_file=True)
    report = bench_directory(directory, target="cortex-m7", samples=1)
    built = json.loads((directory / "report.json").read_text())
    assert (report.target, report.machine) == ("cortex-m7", "mps2-an500")
    padding = report.weights_bytes - built["memory"]["weights_bytes"]
    assert 0 <= padding < 4 * len(report.layers), "tables are aligned"
    assert report.modelled_cycles is None
    with pytest.raises(UsageError, match="no model of the cycles of cortex-m3"):
        bench_directory(directory, cycles=True)


@pytest.mark.qemu
@needs_tools(*_TOOLS)
def test_layers_that_are_executed_in_stripes(tmp_path: Path) -> None:
    """A call for every row: the counts of all calls belong to their layer, those of the hooks to none."""
    directory = build_digits(tmp_path / "out", input_rows=True)
    assert "static void digits_cascade0(" in (directory / "firmware" / "digits.c").read_text()
    report = bench_directory(directory, samples=2)
    built = json.loads((directory / "report.json").read_text())["layers"]
    for layer, known in zip(report.layers, built, strict=True):
        assert layer.instructions == pytest.approx(known["instructions"], rel=0.01, abs=20)
    layers = sum(layer.instructions for layer in report.layers)
    assert 0.98 * report.instructions < layers <= report.instructions


@pytest.mark.qemu
@needs_tools(*_TOOLS)
def test_an_edited_kernel_is_measured_if_it_is_right(edited: Callable[[str, str, str], Path]) -> None:
    idle = "for (volatile int32_t idle = 0; idle < 100; ++idle) {} DQ_LAYER_END(0);"
    directory = edited("digits.c", r"DQ_LAYER_END\(0\);", idle)
    first, second, *_ = bench_directory(directory, samples=1).layers
    built, next_built, *_ = json.loads((directory / "report.json").read_text())["layers"]
    assert 300 < first.instructions - built["instructions"] < 1000
    assert abs(second.instructions - next_built["instructions"]) <= 8


@pytest.mark.qemu
@needs_tools(*_TOOLS)
def test_an_edited_kernel_that_is_wrong(edited: Callable[[str, str, str], Path]) -> None:
    directory = edited("digits.c", r"    return DIGITS_OK;", "    output[0] ^= 1;\n    return DIGITS_OK;")
    with pytest.raises(VerificationError, match="does not compute what the build verified"):
        bench_directory(directory, samples=2)


@pytest.mark.slow
@needs_tools("gcc")
@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("report.json", "not a complete output directory"),
        ("vectors.npz", "test vectors of the build cannot be used"),
        ("firmware/digits.c", "digits.c is missing"),
    ],
)
def test_a_missing_file(digits: Path, tmp_path: Path, file: str, message: str) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(digits, directory)
    (directory / file).unlink()
    with pytest.raises(UsageError, match=message):
        bench_directory(directory)


@pytest.mark.slow
@needs_tools("gcc")
def test_a_missing_layer(edited: Callable[[str, str, str], Path]) -> None:
    directory = edited("digits.c", r"    DQ_LAYER_BEGIN\(1\);\n.*\n.*\n.*\n", "")
    with pytest.raises(UsageError, match="does not have the layers of its build"):
        bench_directory(directory)
