"""The host runner on the tiny library: right results, and every kind of defect caught."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from deployq.errors import DeployqError, ExitCode, ToolMissingError, UsageError, VerificationError
from deployq.targets import load_target
from deployq.verify.host import HostResult, run_host
from deployq.verify.runner import read_layer_outputs, read_outputs
from deployq.verify.size import library_size, worst_stack
from tests.verify.tiny_library import (
    OUTPUT_SIZE,
    PREFIX,
    tiny_layers,
    tiny_samples,
    write_tiny_library,
)

pytestmark = pytest.mark.slow

Compiler = Literal["gcc", "clang"]

_needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
_needs_clang = pytest.mark.skipif(shutil.which("clang") is None, reason="clang is not installed")
_both_compilers = pytest.mark.parametrize(
    "compiler", [pytest.param("gcc", marks=_needs_gcc), pytest.param("clang", marks=_needs_clang)]
)


def _run(
    directory: Path,
    *,
    compiler: Compiler = "gcc",
    sanitize: bool = True,
    layers: bool = False,
    count: int = 3,
) -> HostResult:
    return run_host(
        directory,
        PREFIX,
        tiny_samples(count),
        OUTPUT_SIZE,
        compiler=compiler,
        sanitize=sanitize,
        layers=layers,
    )


@_both_compilers
@pytest.mark.parametrize("sanitize", [True, False])
def test_outputs_of_the_network_and_of_every_layer(
    tmp_path: Path, compiler: Compiler, sanitize: bool
) -> None:
    directory = write_tiny_library(tmp_path)
    before = sorted(path.name for path in directory.iterdir())
    result = _run(directory, compiler=compiler, sanitize=sanitize, layers=True, count=50)
    expected = tiny_layers(tiny_samples(50))
    np.testing.assert_array_equal(result.outputs, expected[-1])
    assert result.layer_outputs is not None
    assert len(result.layer_outputs) == 2
    for found, layer in zip(result.layer_outputs, expected, strict=True):
        np.testing.assert_array_equal(found, layer)
    assert sorted(path.name for path in directory.iterdir()) == before


@_needs_gcc
def test_without_layers_there_are_no_layer_outputs(tmp_path: Path) -> None:
    result = _run(write_tiny_library(tmp_path))
    assert result.layer_outputs is None
    np.testing.assert_array_equal(result.outputs, tiny_layers(tiny_samples(3))[-1])


@_both_compilers
@pytest.mark.parametrize("index", ["8", "-1"])
def test_a_byte_outside_the_arena_is_caught(tmp_path: Path, compiler: Compiler, index: str) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0=f"first[{index}] = 1;")
    with pytest.raises(VerificationError, match="AddressSanitizer") as caught:
        _run(directory, compiler=compiler)
    assert caught.value.exit_code == ExitCode.VERIFICATION
    with pytest.raises(VerificationError, match="outside its arena"):
        _run(directory, compiler=compiler, sanitize=False)


@_both_compilers
def test_undefined_behaviour_is_caught(tmp_path: Path, compiler: Compiler) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0="volatile int32_t big = INT32_MAX; big = big + 1;")
    with pytest.raises(VerificationError, match="signed integer overflow"):
        _run(directory, compiler=compiler)


@_both_compilers
def test_a_wide_access_to_the_unaligned_input_is_caught(tmp_path: Path, compiler: Compiler) -> None:
    wide = "first[0] = (int8_t)(first[0] + *(const int16_t *)(const void *)(input + 2));"
    with pytest.raises(VerificationError, match="misaligned address"):
        _run(write_tiny_library(tmp_path, in_layer_0=wide), compiler=compiler)


@_needs_gcc
def test_a_changed_input_is_caught(tmp_path: Path) -> None:
    change = "((int8_t *)(uintptr_t)input)[0] = (int8_t)(input[0] ^ 1);"
    with pytest.raises(VerificationError, match="changed its input"):
        _run(write_tiny_library(tmp_path, in_layer_0=change))


@_needs_gcc
def test_an_error_code_is_reported(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="returned an error code"):
        _run(write_tiny_library(tmp_path, status=-2))


@_both_compilers
def test_a_warning_is_an_error(tmp_path: Path, compiler: Compiler) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0="int32_t wide = input[0]; first[0] = wide;")
    with pytest.raises(DeployqError, match="conversion") as caught:
        _run(directory, compiler=compiler)
    assert "tiny.c does not compile" in caught.value.what


@_needs_gcc
def test_samples_of_another_size_are_refused_by_the_compiler(tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path)
    with pytest.raises(DeployqError, match="dq_input_size_is_that_of_the_samples"):
        run_host(directory, PREFIX, np.zeros((2, 7), np.int8), OUTPUT_SIZE)
    with pytest.raises(DeployqError, match="dq_output_size_is_the_expected_one"):
        run_host(directory, PREFIX, tiny_samples(2), OUTPUT_SIZE + 1)


@pytest.mark.parametrize(
    "samples", [np.zeros((2, 8), np.uint8), np.zeros(8, np.int8), np.zeros((0, 8), np.int8)]
)
def test_samples_must_be_an_int8_matrix(tmp_path: Path, samples: npt.NDArray[np.int8]) -> None:
    with pytest.raises(UsageError, match="int8"):
        run_host(write_tiny_library(tmp_path), PREFIX, samples, OUTPUT_SIZE)


def test_a_missing_library_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny\.h is missing"):
        _run(tmp_path)


def test_a_missing_compiler_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_tiny_library(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="apt-get install clang") as caught:
        _run(directory, compiler="clang")
    assert caught.value.exit_code == ExitCode.TOOL_MISSING


@_needs_gcc
def test_sizes_of_the_library_on_the_host(tmp_path: Path) -> None:
    size = library_size(write_tiny_library(tmp_path), PREFIX, load_target("host"))
    assert size.weights_bytes == 40
    assert size.static_ram_bytes == 0
    assert 50 < size.code_bytes < 2000


def test_outputs_that_are_too_short_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "outputs.bin").write_bytes(bytes(7))
    with pytest.raises(VerificationError, match="7 output bytes instead of 2 x 4"):
        read_outputs(tmp_path, 2, 4)


def _record(layer: int, payload: bytes) -> bytes:
    return np.array([layer, len(payload)], "<u4").tobytes() + payload


@pytest.mark.parametrize(
    "records",
    [
        [_record(0, b"ab"), _record(0, b"ab"), _record(1, b"c")],
        [_record(0, b"ab"), _record(0, b"abc")],
        [_record(1, b"ab"), _record(1, b"ab")],
        [*(_record(0, stripe) for stripe in (b"ab", b"c", b"ab", b"cd"))],
        [*(_record(0, stripe) for stripe in (b"ab", b"c", b"ab"))],
    ],
    ids=["missing in one sample", "size varies", "layer never reported", "stripe varies", "stripe missing"],
)
def test_incomplete_layer_records_are_an_error(tmp_path: Path, records: list[bytes]) -> None:
    (tmp_path / "layers.bin").write_bytes(b"".join(records))
    with pytest.raises(VerificationError, match="every layer alike in every sample"):
        read_layer_outputs(tmp_path, 2)


def test_the_stripes_of_a_layer_are_joined(tmp_path: Path) -> None:
    records = [_record(0, b"ab"), _record(1, b"x"), _record(0, b"c")] * 2
    (tmp_path / "layers.bin").write_bytes(b"".join(records))
    first, second = read_layer_outputs(tmp_path, 2)
    assert [bytes(row) for row in first] == [b"abc", b"abc"]
    assert [bytes(row) for row in second] == [b"x", b"x"]


_GRAPH = """graph: {{ title: "m.c"
node: {{ title: "m_run" label: "m_run\\nm.c:1:1\\n16 bytes (static)" }}
node: {{ title: "m.c:left" label: "left\\nm.c:2:1\\n40 bytes (static)" }}
node: {{ title: "right" label: "right\\nm.c:3:1\\n24 bytes ({kind})" }}
node: {{ title: "unused" label: "unused\\nm.c:4:1\\n4000 bytes (static)" }}
node: {{ title: "memcpy" label: "__builtin_memcpy\\n<built-in>" shape : ellipse }}
edge: {{ sourcename: "m_run" targetname: "m.c:left" label: "m.c:5:5" }}
edge: {{ sourcename: "m_run" targetname: "right" label: "m.c:5:6" }}
edge: {{ sourcename: "right" targetname: "{callee}" label: "m.c:3:9" }}
edge: {{ sourcename: "right" targetname: "memcpy" }}
}}
"""


def test_worst_stack_takes_the_deepest_path() -> None:
    assert worst_stack(_GRAPH.format(kind="static", callee="memcpy"), "m_run") == 16 + 40
    assert worst_stack(_GRAPH.format(kind="static", callee="m.c:left"), "m_run") == 16 + 24 + 40


@pytest.mark.parametrize(
    ("kind", "callee", "reason"),
    [
        ("static", "m_run", "m_run calls itself|right calls itself"),
        ("static", "right", "right calls itself"),
        ("static", "__indirect_call", "right calls through a pointer"),
        ("dynamic", "memcpy", "right has a frame of variable size"),
    ],
)
def test_a_stack_without_bound_is_an_error(kind: str, callee: str, reason: str) -> None:
    with pytest.raises(DeployqError, match=reason):
        worst_stack(_GRAPH.format(kind=kind, callee=callee), "m_run")


def test_an_unknown_entry_is_an_error() -> None:
    with pytest.raises(DeployqError, match="other_run is missing"):
        worst_stack(_GRAPH.format(kind="static", callee="memcpy"), "other_run")
