"""The command line: streams, JSON documents, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from deployq import cli
from deployq.config import BuildConfig
from deployq.config_file import example_config
from deployq.errors import (
    AccuracyError,
    BudgetError,
    DeployqError,
    ExitCode,
    ModelError,
    ToolMissingError,
    UsageError,
    VerificationError,
)
from deployq.ops import importers
from deployq.targets import target_names
from tests.tools import needs_tools

#: A build of the digits example that takes a second: no emulator, few samples.
FAST = ["--target", "host", "--calibration-limit", "128", "--host-samples", "20", "--tune", "2"]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    return tmp_path


class Run:
    """Exit code and streams of one command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.code = cli.main(arguments)
        self.out, self.err = capsys.readouterr()

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, "--version")
    assert run.code == ExitCode.OK
    names = [line.split()[0] for line in run.out.splitlines()]
    assert names == ["deployq", "onnx", "onnxruntime", "numpy", "torch"]
    assert f"onnx {onnx.__version__}\n" in run.out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["build", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, *arguments)
    assert run.code == ExitCode.OK
    assert run.out.startswith("Usage: ")


def test_every_setting_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    settings = set(BuildConfig.__dataclass_fields__)
    parameters = set(cli.build.__annotations__)
    assert settings <= parameters, "a setting without an option"
    assert parameters - settings == {"context", "config", "as_json", "quiet", "verbose", "return"}


def test_targets(capsys: pytest.CaptureFixture[str]) -> None:
    text = Run(capsys, "targets")
    assert all(name in text.out for name in target_names())
    document = Run(capsys, "targets", "--json").document
    assert document["schema_version"] == 1
    assert [target["name"] for target in document["targets"]] == list(target_names())
    m4 = next(target for target in document["targets"] if target["name"] == "cortex-m4")
    assert "dsp" in m4["features"]
    assert m4["machines"] == ["mps2-an386"]


def test_ops(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Conv " in Run(capsys, "ops").out
    document = Run(capsys, "ops", "--json").document
    assert [entry["operator"] for entry in document["operators"]] == list(importers())
    assert all(set(entry) == {"operator", "note"} for entry in document["operators"])


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(example_config().parent / "digits.onnx")
    assert "84,224 MACs" in Run(capsys, "inspect", model).out.splitlines()[0]
    document = Run(capsys, "inspect", model, "--json").document
    assert document["input_shape"] == [1, 8, 8]
    assert sum(layer["macs"] for layer in document["layers"]) == 84224


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--bitz", "3"], "--bitz"),
        (["build", "--bits", "9"], "unknown weight width '9'"),
        (["build", "--seed", "x"], "Invalid value for '--seed'"),
        (["build", "--flash", "many"], "flash is 'many'"),
        (["build", "absent.onnx", "--calib", "absent.npy"], "no such model file"),
        (["build", "absent.onnx"], "no calibration data given"),
        (["build", "--config", "absent.toml"], "cannot read the configuration"),
        (["bild"], "bild"),
        (["inspect"], "Missing argument"),
        (["inspect", "absent.onnx"], "absent.onnx"),
        (["verify", "absent"], "not a complete output directory"),
        (["verify", ".", "--verify-samples", "0"], "Invalid value for '--verify-samples'"),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, *arguments)
    assert run.code == ExitCode.USAGE
    assert run.out == ""
    assert message in run.err
    assert "Traceback" not in run.err
    as_json = Run(capsys, *arguments, "--json")
    assert as_json.code == ExitCode.USAGE
    assert as_json.document["schema_version"] == 1
    assert as_json.document["error"]["exit_code"] == 2
    assert message in as_json.document["error"]["what"] + as_json.document["error"]["where"]


def test_unsupported_models_list_every_node(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Sin", ["x"], ["a"], name="wave"),
        helper.make_node("Erf", ["a"], ["y"], name="evil\x1b[31m\nname"),
    ]
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", io[:1], io[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(elsewhere / "m.onnx"))
    run = Run(capsys, "inspect", "m.onnx")
    assert run.code == ExitCode.MODEL
    assert "wave" in run.err
    assert "evil" in run.err
    assert "\x1b" not in run.err, "names from a model do not steer the terminal"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (ModelError, 3),
        (BudgetError, 4),
        (VerificationError, 5),
        (ToolMissingError, 6),
        (AccuracyError, 7),
    ],
)
def test_exit_codes(
    error: type[DeployqError],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    raised = error("it failed", where="a layer", why="so it is", hint="something else")
    monkeypatch.setattr(cli, "build_from_config", _raises(raised))
    run = Run(capsys, "build")
    assert (run.code, run.out) == (code, "")
    expected = ["deployq: it failed", "  where: a layer", "  why: so it is", "  try: something else"]
    assert run.err.splitlines() == expected
    as_json = Run(capsys, "build", "--json")
    assert as_json.document["error"] == {
        "what": "it failed",
        "where": "a layer",
        "why": "so it is",
        "hint": "something else",
        "exit_code": code,
    }


def _raises(error: BaseException) -> Callable[..., None]:
    def build(*arguments: object) -> None:
        raise error

    return build


def test_unexpected_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "build_from_config", _raises(RuntimeError("broken\nin two lines")))
    run = Run(capsys, "build")
    assert run.code == ExitCode.INTERNAL
    assert "RuntimeError: broken" in run.err
    assert "Traceback" not in run.err
    assert Run(capsys, "build", "--json").document["error"]["exit_code"] == 1
    assert "Traceback" in Run(capsys, "build", "--verbose").err
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    assert "Traceback" in Run(capsys, "build").err


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "build_from_config", _raises(KeyboardInterrupt()))
    run = Run(capsys, "build")
    assert run.code == 130
    assert "Traceback" not in run.err


@needs_tools("gcc")
def test_build_and_verify_the_example(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = Run(capsys, "build", *FAST)
    assert build.code == ExitCode.OK, build.err
    assert build.out.startswith("digits for host: ")
    assert "written to deployq-out" in build.out
    assert "calibrate on 128 samples" in build.err.splitlines()
    assert (elsewhere / "deployq-out" / "firmware" / "digits.c").is_file()
    verify = Run(capsys, "verify", "deployq-out", "--json", "--quiet")
    assert (verify.code, verify.err) == (ExitCode.OK, "")
    assert verify.document["verification"]["host"] == {"samples": 20, "mismatches": 0}


@needs_tools("gcc")
def test_json_is_the_report(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(capsys, "build", *FAST, "--json", "-o", "there", "--name", "numbers")
    assert run.code == ExitCode.OK, run.err
    assert run.document["schema_version"] == 1
    assert run.document["directory"] == "there"
    report = json.loads((elsewhere / "there" / "report.json").read_text())
    assert run.document == {**report, "directory": "there"}
    assert report["name"] == "numbers"


@pytest.mark.slow
@needs_tools("gcc")
def test_a_configuration_in_the_current_directory(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = example_config().parent
    (elsewhere / "deployq.toml").write_text(
        f'model = "{example}/digits.onnx"\ncalibration = "{example}/digits.npz:x_train"\n'
        'scale = "1/255"\nbits = 4\ntarget = "host"\noutput = "own"\n'
    )
    run = Run(capsys, "build", "--quiet", "--json", "--bits", "1", "--host-samples", "5")
    assert run.code == ExitCode.OK, run.err
    assert {layer["alphabet"] for layer in run.document["layers"]} - {None} == {"binary"}
    assert run.document["accuracy"] == {"float": None, "quantized": None, "samples": 0}
    assert (elsewhere / "own" / "build.toml").is_file()


def test_python_dash_m() -> None:
    command = [sys.executable, "-m", "deployq", "targets", "--json"]
    root = Path(cli.__file__).parents[1]  # works without an installation too
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout)["schema_version"] == 1
    assert done.stderr == ""


def _shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `deployq` is the command; its exit code is that of deployq."""
    script = f'set -o pipefail; deployq() {{ "{sys.executable}" -m deployq "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("deployq targets | true", ExitCode.OK, ""),
        ("deployq targets >&-", ExitCode.OK, ""),
        ("deployq --version > /dev/full", ExitCode.USAGE, "the result cannot be written"),
        ("deployq targets --json > /dev/full", ExitCode.USAGE, "No space left"),
        ("deployq inspect missing.onnx 2>&-", ExitCode.USAGE, ""),
        ("deployq inspect missing.onnx 2> /dev/full", ExitCode.USAGE, ""),
    ],
)
def test_streams_that_cannot_be_written(line: str, code: int, message: str) -> None:
    run = _shell(line)
    assert run.returncode == code, run.stderr
    assert message in run.stderr and "Traceback" not in run.stderr and "Exception" not in run.stderr
    assert run.stdout == "" and (message != "" or run.stderr == "")


def test_an_interrupt_while_loading_prints_nothing() -> None:
    code = "import sys, os, signal; sys.argv = ['/bin/deployq']\n"
    # Whoever runs the tests in the background may have them ignore it.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "sys.meta_path.insert(0, Loading()); import deployq"
    finder = "\n".join(
        [
            "class Loading:",
            "    def find_spec(self, name, path=None, target=None):",
            "        if name == 'deployq.config':",
            "            os.kill(os.getpid(), signal.SIGINT)",
            "",
        ]
    )
    run = subprocess.run(
        [sys.executable, "-c", f"{finder}{code}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == -signal.SIGINT and run.stdout == run.stderr == ""


def test_an_interrupt_outside_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str], *, standalone_mode: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    run = Run(capsys, "targets")
    assert run.code == cli.INTERRUPTED == 130 and run.err == ""


def test_the_public_interface() -> None:
    import deployq

    assert len(deployq.__all__) <= 8
    for name in ("build", "quantize", "export_onnx", "generate_c", "verify"):
        assert callable(getattr(deployq, name))
