"""`deployq quantize`: one network quantized once, and the comparison of methods and widths."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from deployq import cli, comparison, experiment
from deployq.arithmetic import FloatArray
from deployq.comparison import ComparisonPlan, base_width
from deployq.config import BuildConfig
from deployq.config_file import example_config, load_config
from deployq.errors import ExitCode, UsageError
from deployq.quantizers import registry
from deployq.quantizers.registry import Problem, Solve
from deployq.steps import prepare

EXAMPLE = example_config().parent
FEW = ["--calibration-limit", "64"]
FILES = {"comparison.json", "comparison.txt", "comparison.png"}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    return tmp_path


class Run:
    """Exit code and streams of `deployq quantize`."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.code = cli.main(["quantize", *arguments])
        self.out, self.err = capsys.readouterr()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def digits(**changes: Any) -> BuildConfig:
    return replace(load_config({}, config_file=example_config()), **changes)


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if not key.endswith("seconds")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def exchange(monkeypatch: pytest.MonkeyPatch, name: str, prepare: Callable[[Problem], Solve]) -> None:
    """Let a method be another one."""
    assert name in registry._METHODS
    monkeypatch.setitem(registry._METHODS, name, (prepare, registry.traits_of(name)))


def refuses_binary(problem: Problem) -> Solve:
    """A quantizer that needs a zero among the levels."""
    if 0 not in problem.alphabet.values:
        raise UsageError(
            "it needs a zero among the levels", where="--method", why=f"{problem.alphabet.name} has none"
        )
    return registry.method("msq")(problem)


def overflows(problem: Problem) -> Solve:
    def solve(scales: FloatArray) -> FloatArray:
        raise FloatingPointError("overflow encountered in multiply")

    return solve


def test_quantize_once(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    run = Run(capsys, "--bits", "ternary")
    assert run.code == ExitCode.OK, run.err
    directory = elsewhere / "deployq-quantized"
    assert {path.name for path in directory.iterdir()} == {
        "model.onnx",
        "quantization.json",
        "quantization.txt",
    }
    text = (directory / "quantization.txt").read_text()
    assert run.out.startswith(text)
    assert run.out.endswith("written to deployq-quantized: model.onnx, quantization.json, quantization.txt\n")
    report = json.loads((directory / "quantization.json").read_text())
    assert (report["schema_version"], report["model"], report["bits"]) == (1, "digits", "ternary")
    assert report["measure"] == {"kind": "accuracy", "samples": 500, "float_accuracy": 99.4}
    assert report["bits_per_weight"] == pytest.approx(np.log2(3))
    assert [layer["weights"] for layer in report["layers"]] == [144, 4608, 1280]
    assert [layer["weights_bytes"] for layer in report["layers"]] == [48, 1152, 320]
    assert all(0 < layer["sparsity"] < 1 and 0 < layer["relative_error"] < 1 for layer in report["layers"])
    errors = [layer["relative_error"] for layer in report["layers"]]
    assert report["relative_error"] == pytest.approx(np.mean(errors))
    assert 0 < report["quantize_seconds"] < report["seconds"]
    assert report["configuration"]["calibration"] == "digits.npz:x_train", "no paths of the machine"
    archive = np.load(EXAMPLE / "digits.npz")
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"))
    images = (archive["x_test"].astype(np.int16) - 128).astype(np.int8).reshape(-1, 1, 8, 8)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    assert report["score"] == pytest.approx(100 * np.mean(logits.argmax(axis=1) == archive["y_test"]))


def test_quantize_once_as_json_and_again(capsys: pytest.CaptureFixture[str], elsewhere: Path) -> None:
    arguments = [*FEW, "--bits", "4", "--method", "msq", "-o", "there", "--json", "--quiet"]
    first, second = Run(capsys, *arguments), Run(capsys, *arguments)
    assert (first.code, first.err, second.code) == (ExitCode.OK, "", ExitCode.OK)
    assert first.document["directory"] == "there" and first.document["method"] == "msq"
    assert first.document["calibration_samples"] == 64
    assert without_seconds(first.document) == without_seconds(second.document)
    stored = json.loads((elsewhere / "there" / "quantization.json").read_text())
    assert {**stored, "directory": "there"} == second.document


@pytest.mark.slow
def test_compare(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    calls = []
    monkeypatch.setattr(experiment, "prepare", lambda *given: calls.append(given) or prepare(*given))
    arguments = [*FEW, "--compare", "gpfq, msq", "--bits", "binary,2", "--seeds", "2"]
    run = Run(capsys, *arguments)
    assert run.code == ExitCode.OK, run.err
    assert len(calls) == 1, "the model and the data are loaded once"
    directory = elsewhere / "deployq-comparison"
    assert {path.name for path in directory.iterdir()} == FILES
    assert run.out.startswith((directory / "comparison.txt").read_text())
    assert run.out.splitlines()[0] == "digits: 2 methods at 2 widths, float 99.40 %"
    lines = run.err.splitlines()
    assert lines[:2] == ["import the model", "evaluate the float network on 500 samples"]
    assert lines[2] == "1 of 4, gpfq at 1: seed 0" and lines[-2] == "4 of 4, msq at 2: seed 1"
    png = (directory / "comparison.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">II", png[16:24]) == (1800, 860)
    document = json.loads((directory / "comparison.json").read_text())
    assert (document["methods"], document["widths"]) == (["gpfq", "msq"], ["1", "2"])
    assert (document["seeds"], document["calibration_samples"]) == ([0, 1], 64)
    assert {"granularity", "scale", "calibration_limit"} <= set(document["configuration"])
    assert not {"method", "bits", "seed", "output"} & set(document["configuration"])
    places = [(cell["method"], cell["bits"]) for cell in document["cells"]]
    assert places == [("gpfq", "1"), ("gpfq", "2"), ("msq", "1"), ("msq", "2")]
    for cell in document["cells"]:
        scores = [trial["score"] for trial in cell["trials"]]
        errors = [trial["relative_error"] for trial in cell["trials"]]
        assert [trial["seed"] for trial in cell["trials"]] == [0, 1]
        assert cell["score"] == pytest.approx(np.mean(scores))
        assert cell["score_spread"] == pytest.approx(max(scores) - min(scores))
        assert cell["relative_error"] == pytest.approx(np.mean(errors))
        assert cell["relative_error_spread"] == pytest.approx(max(errors) - min(errors))
        assert cell["relative_error_spread"] > 0, "the seeds see other samples"
        layer_errors = [layer["relative_error"] for layer in cell["layers"]]
        assert len(layer_errors) == 3 and np.mean(layer_errors) == pytest.approx(cell["relative_error"])
        assert 0 < cell["quantize_seconds"] < cell["seconds"]
    assert document["cells"][0]["score"] > document["cells"][2]["score"] + 5, "gpfq beats msq at one bit"
    picture = (directory / "comparison.png").read_bytes()
    again = Run(capsys, *arguments, "--json")
    assert again.code == ExitCode.OK, "its own directory is replaced"
    assert without_seconds(again.document) == {**without_seconds(document), "directory": "deployq-comparison"}
    assert (directory / "comparison.png").read_bytes() == picture


def test_a_cell_equals_quantizing_once(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    compared = Run(capsys, *FEW, "--compare", "gpfq", "--bits", "2", "--seed", "3", "--json").document
    once = Run(capsys, *FEW, "--method", "gpfq", "--bits", "2", "--seed", "3", "--json").document
    (cell,) = compared["cells"]
    assert compared["seeds"] == [3]
    assert without_seconds(cell["layers"]) == once["layers"]
    assert (cell["score"], cell["relative_error"]) == (once["score"], once["relative_error"])


def test_failing_cells_do_not_lose_the_others(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    exchange(monkeypatch, "spfq", refuses_binary)
    exchange(monkeypatch, "gptq", overflows)
    run = Run(capsys, *FEW, "--compare", "spfq,gptq", "--bits", "1,ternary", "--json")
    assert run.code == ExitCode.OK, run.err
    refused, measured, *broken = run.document["cells"]
    assert refused == {
        "method": "spfq",
        "bits": "1",
        "failure": "it needs a zero among the levels, binary has none",
    }
    assert measured["score"] > 50 and "failure" not in measured
    assert {cell["failure"] for cell in broken} == {"FloatingPointError: overflow encountered in multiply"}
    text = (elsewhere / "deployq-comparison" / "comparison.txt").read_text()
    assert "failed: spfq at 1: it needs a zero among the levels, binary has none\n" in text


def test_all_cells_failing_is_an_error(
    capsys: pytest.CaptureFixture[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    exchange(monkeypatch, "spfq", refuses_binary)
    run = Run(capsys, *FEW, "--compare", "spfq", "--bits", "1,2")
    assert (run.code, run.out) == (ExitCode.MODEL, "")
    assert "every method failed at every width" in run.err
    assert "spfq at 1: it needs a zero" in run.err
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "gpfq,nonsense"], "unknown method 'nonsense'"),
        (["--compare", "gpfq", "--bits", "2,9"], "unknown weight width '9'"),
        (["--compare", "gpfq", "--bits", "9,2"], "unknown weight width '9'"),
        (["--compare", "gpfq,"], "a name is missing in 'gpfq,'"),
        (["--compare", "gpfq", "--bits", "1,,2"], "a name is missing in '1,,2'"),
        (["--compare", "gpfq", "--seeds", "0"], "seeds is 0"),
        (["--compare", "gpfq", "--seeds", "101"], "seeds is 101"),
        (["--compare", "gpfq", "--method", "msq"], "a comparison takes no method"),
        (["--compare", "gpfq", "--alphabet", "binary"], "a comparison takes no alphabet"),
        (["--seeds", "2"], "several seeds are for a comparison"),
        (["--bits", "1,2"], "several widths, '1,2', for one network"),
        (["absent.onnx"], "no calibration data given"),
        (["absent.onnx", "--compare", "gpfq"], "no calibration data given"),
    ],
)
def test_usage_errors_come_before_any_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    run = Run(capsys, *arguments)
    assert (run.code, run.out) == (ExitCode.USAGE, "")
    assert run.err.startswith(f"deployq: {message}"), "the first line is the error"
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("first", [[], ["--compare", "msq", "--bits", "2"]])
def test_only_directories_of_the_same_command_are_replaced(
    first: list[str], capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    pytest.importorskip("matplotlib")
    other = ["--compare", "msq", "--bits", "2"] if not first else []
    assert Run(capsys, *FEW, *first, "-o", "out").code == ExitCode.OK
    before = {path.name: path.read_bytes() for path in (elsewhere / "out").iterdir()}
    refused = Run(capsys, *FEW, *other, "-o", "out")
    assert refused.code == ExitCode.USAGE
    assert refused.err.startswith("deployq: the output directory is not empty")
    assert {path.name: path.read_bytes() for path in (elsewhere / "out").iterdir()} == before
    assert Run(capsys, *FEW, *first, "-o", "out").code == ExitCode.OK
    assert Run(capsys, *FEW, *other, "-o", "out", "--force").code == ExitCode.OK


def test_the_output_of_a_configuration_file_is_for_builds(
    capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    (elsewhere / "deployq.toml").write_text(
        f'model = "{EXAMPLE}/digits.onnx"\ncalibration = "{EXAMPLE}/digits.npz:x_train"\n'
        'scale = "1/255"\nalphabet = "midtread-4"\noutput = "firmware"\n'
    )
    assert Run(capsys, *FEW).code == ExitCode.OK
    report = json.loads((elsewhere / "deployq-quantized" / "quantization.json").read_text())
    assert {layer["alphabet"] for layer in report["layers"]} == {"midtread-4"}
    assert report["measure"]["kind"] == "explained variance"
    assert not (elsewhere / "firmware").exists()


BLOCKED = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from deployq.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_without_matplotlib(elsewhere: Path) -> None:
    root = Path(cli.__file__).parents[1]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BLOCKED, "quantize", *FEW, *arguments]
        environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    refused = run("--compare", "gpfq", "--bits", "2")
    assert (refused.returncode, refused.stdout) == (ExitCode.USAGE, "")
    assert refused.stderr.splitlines() == [
        "deployq: the plot of a comparison needs matplotlib",
        "  why: No module named 'matplotlib'",
        "  try: pip install deployq[plots]",
    ]
    assert list(elsewhere.iterdir()) == [], "nothing was begun"
    once = run()
    assert once.returncode == ExitCode.OK, once.stderr


def test_every_setting_is_an_option() -> None:
    settings = {item.name for item in fields(BuildConfig)}
    about_c = {"name", "io_layout", "float_io", "single_file", "input_rows", "min_accuracy"}
    about_c |= {"verify_samples", "host_samples", "strict"}
    of_build = set(signature(cli.build).parameters)
    parameters = set(signature(cli.quantize).parameters)
    assert (settings & of_build) - about_c <= parameters
    assert not about_c & parameters
    assert {"compare", "seeds", "as_json", "quiet", "verbose"} <= parameters


def test_several_widths_without_a_comparison_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, "--bits", "1,2")
    assert run.code == ExitCode.USAGE
    assert run.err.startswith("deployq: several widths, '1,2', for one network")
    assert "--compare auto --bits 1,2" in run.err


def test_an_unknown_method_of_a_comparison_names_its_option() -> None:
    with pytest.raises(UsageError, match="unknown method 'bogus'") as caught:
        ComparisonPlan.parse(digits(), "gpfq,bogus")
    assert caught.value.where == "--compare"
    assert "qronos" in caught.value.hint


def test_sparse_weights_are_ternary_unless_a_width_is_given(
    capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    (elsewhere / "deployq.toml").write_text(
        f'model = "{EXAMPLE}/digits.onnx"\ncalibration = "{EXAMPLE}/digits.npz:x_train"\nscale = "1/255"\n'
    )
    run = Run(capsys, *FEW, "--method", "sparse-gpfq", "--json", "--quiet")
    assert run.code == ExitCode.OK, run.err
    assert {layer["alphabet"] for layer in run.document["layers"]} == {"ternary"}
    refused = Run(capsys, *FEW, "--method", "sparse-gpfq", "--bits", "2")
    assert refused.code == ExitCode.USAGE
    assert "needs the level zero" in refused.err and "--bits ternary" in refused.err


def test_copies_of_what_is_not_augmented_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, *FEW, "--copies", "4")
    assert run.code == ExitCode.USAGE
    assert "--copies" in run.err and "--augmentation shift" in run.err
    for arguments in (["--copies", "4", "--augmentation", "shift"], ["--copies", "1"]):
        assert Run(capsys, *FEW, *arguments, "--force").code == ExitCode.OK


def test_plans() -> None:
    config = digits()
    plan = ComparisonPlan.parse(config, "msq,gpfq,msq", "binary, 1,ternary", 2)
    assert plan == ComparisonPlan(("msq", "gpfq"), ("1", "ternary"), 2)
    assert ComparisonPlan.parse(config, "gpfq").widths == ("1", "ternary", "2", "3", "4")
    assert base_width("1,2") == "1" and base_width("1,auto") == "auto"


def test_a_budget_is_for_the_automatic_width_alone() -> None:
    config = digits(bits="auto", average_bits=2.1)
    assert ComparisonPlan.parse(config, "gpfq", "2,auto").widths == ("2", "auto")
    at_two, chosen = (comparison.cell_config(config, "msq", bits) for bits in ("2", "auto"))
    assert (at_two.bits, at_two.average_bits, at_two.method) == ("2", None, "msq")
    assert (chosen.bits, chosen.average_bits) == ("auto", 2.1)
