"""The emulator runner on the tiny library: results, exact counts, stack, and every kind of failure."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from deployq.errors import DeployqError, ToolMissingError, UsageError, VerificationError
from deployq.targets import load_target, target_names
from deployq.verify.counting import Interval, calibrate
from deployq.verify.qemu import QemuResult, run_qemu
from deployq.verify.size import library_size
from tests.verify.tiny_library import (
    LOOP_TURNS,
    OUTPUT_SIZE,
    PREFIX,
    tiny_layers,
    tiny_samples,
    write_tiny_library,
)

pytestmark = pytest.mark.qemu

_TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")
_missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
_needs_emulator = pytest.mark.skipif(bool(_missing), reason=f"not installed: {', '.join(_missing)}")

_EMULATED = tuple(name for name in target_names() if not load_target(name).is_host)

#: What one reading of the counter can be off by, and so the mean of equal readings.
_RESOLUTION = 8


def _run(
    directory: Path,
    target: str,
    *,
    layers: bool = False,
    count: int = 2,
    extra_defines: tuple[str, ...] = (),
) -> QemuResult:
    samples = tiny_samples(count)
    return run_qemu(
        directory,
        PREFIX,
        load_target(target),
        samples,
        OUTPUT_SIZE,
        layers=layers,
        extra_defines=extra_defines,
        timeout_seconds=60,
    )


@_needs_emulator
@pytest.mark.parametrize("target", _EMULATED)
def test_outputs_counts_and_stack(tmp_path: Path, target: str) -> None:
    directory = write_tiny_library(tmp_path)
    before = sorted(path.name for path in directory.iterdir())
    result = _run(directory, target, layers=True, count=20)
    expected = tiny_layers(tiny_samples(20))
    np.testing.assert_array_equal(result.outputs, expected[-1])
    assert result.layer_outputs is not None and result.layer_instructions is not None
    for found, layer in zip(result.layer_outputs, expected, strict=True):
        np.testing.assert_array_equal(found, layer)
    # The loop is known; around it, both layers handle a dozen bytes.
    assert 20 < result.layer_instructions[0] < 200
    assert 2 * LOOP_TURNS + 20 < result.layer_instructions[1] < 2 * LOOP_TURNS + 200
    outside_layers = result.instructions_per_inference - sum(result.layer_instructions)
    assert 0 < outside_layers < 40
    assert result.machine == load_target(target).machines[0].name

    size = library_size(directory, PREFIX, load_target(target))
    # sums[16] in dq_pairs; the static bound covers what was used, and is not far off.
    assert 64 < result.stack_bytes <= size.stack_bytes < result.stack_bytes + 64
    assert size.weights_bytes == 40
    assert sorted(path.name for path in directory.iterdir()) == before


@_needs_emulator
@pytest.mark.parametrize("target", _EMULATED)
def test_a_longer_loop_counts_exactly_as_much_more(tmp_path: Path, target: str) -> None:
    added = 12_347
    short = _run(write_tiny_library(tmp_path), target, layers=True, count=1)
    longer = _run(write_tiny_library(tmp_path, turns=LOOP_TURNS + added), target, layers=True, count=1)
    assert short.layer_instructions is not None and longer.layer_instructions is not None
    expected = np.array([0, 2 * added, 2 * added])
    found = np.array([*longer.layer_instructions, longer.instructions_per_inference]) - np.array(
        [*short.layer_instructions, short.instructions_per_inference]
    )
    np.testing.assert_allclose(found, expected, atol=_RESOLUTION)
    assert short.instructions_per_tick > 3 * _RESOLUTION


@_needs_emulator
def test_two_runs_are_identical(tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path)
    first, second = (_run(directory, "cortex-m4", layers=True) for _ in range(2))
    assert first.instructions_per_inference == second.instructions_per_inference
    assert first.layer_instructions == second.layer_instructions
    assert first.stack_bytes == second.stack_bytes
    np.testing.assert_array_equal(first.outputs, second.outputs)


@_needs_emulator
def test_a_wrapping_counter_counts_the_same(tmp_path: Path) -> None:
    """A 12-bit counter wraps every 163840 instructions; its handler costs about five each time."""
    turns = 1_000_000
    directory = write_tiny_library(tmp_path, turns=turns)
    wide = _run(directory, "cortex-m4", layers=True)
    narrow = _run(directory, "cortex-m4", layers=True, extra_defines=("-DDQ_COUNTER_BITS=12",))
    assert wide.layer_instructions is not None and narrow.layer_instructions is not None
    handler = 10 * (2 * turns // (40 << 12) + 1)
    assert abs(narrow.instructions_per_inference - wide.instructions_per_inference) < handler + _RESOLUTION
    np.testing.assert_allclose(narrow.layer_instructions, wide.layer_instructions, atol=handler + _RESOLUTION)


@_needs_emulator
def test_layers_may_be_followed_on_fewer_samples(tmp_path: Path) -> None:
    samples = tiny_samples(5)
    directory = write_tiny_library(tmp_path)
    result = run_qemu(
        directory,
        PREFIX,
        load_target("cortex-m3"),
        samples,
        OUTPUT_SIZE,
        layers=True,
        layer_samples=2,
    )
    assert result.layer_outputs is not None
    assert result.outputs.shape == (5, OUTPUT_SIZE)
    np.testing.assert_array_equal(result.layer_outputs[1], result.outputs[:2])


@_needs_emulator
def test_a_deeper_stack_is_measured(tmp_path: Path) -> None:
    shallow = _run(write_tiny_library(tmp_path), "cortex-m0plus")
    frame = "volatile int8_t frame[1024]; frame[0] = 1; (void)frame[0];"
    directory = write_tiny_library(tmp_path, in_layer_0=frame)
    deep = _run(directory, "cortex-m0plus")
    assert 1024 <= deep.stack_bytes - shallow.stack_bytes < 1024 + 16
    assert deep.stack_bytes <= library_size(directory, PREFIX, load_target("cortex-m0plus")).stack_bytes


@_needs_emulator
@pytest.mark.parametrize("target", _EMULATED)
def test_a_fault_is_reported_with_its_place(tmp_path: Path, target: str) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0='__asm__ volatile("udf #1");')
    with pytest.raises(VerificationError, match=r"exception 3, .*tiny_run .*tiny\.c"):
        _run(directory, target)


_UNALIGNED = "first[0] = (int8_t)(first[0] + *(volatile const int16_t *)(const void *)(first + 1));"


@_needs_emulator
def test_input_and_output_come_unaligned(tmp_path: Path) -> None:
    check = "if (((uintptr_t)input & 1u) == 0u || ((uintptr_t)output & 1u) == 0u) { return -9; }"
    _run(write_tiny_library(tmp_path, in_layer_0=check), "cortex-m4")


@_needs_emulator
@pytest.mark.parametrize("arena_bytes", ["8", "64000"], ids=["microbit", "mps2-an385"])
def test_an_unaligned_access_faults_on_the_m0plus_and_its_stand_in(tmp_path: Path, arena_bytes: str) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0=_UNALIGNED, arena_bytes=arena_bytes)
    with pytest.raises(VerificationError, match="exception 3"):
        _run(directory, "cortex-m0plus")


@_needs_emulator
def test_a_program_too_large_for_the_microbit_runs_on_the_larger_board(tmp_path: Path) -> None:
    expected = tiny_layers(tiny_samples(2))[-1]
    large_arena = _run(write_tiny_library(tmp_path, arena_bytes="64000"), "cortex-m0plus")
    constants = "extern const int tiny_weights[80000];\nconst int tiny_weights[80000] = {1};\n"
    used = (
        "extern const int tiny_weights[]; first[0] = (int8_t)(first[0] + tiny_weights[(input[0] & 1) + 1]);"
    )
    directory = write_tiny_library(tmp_path, in_layer_0=used, weights=constants)
    large_flash = _run(directory, "cortex-m0plus")
    large_stack = _run(
        write_tiny_library(
            tmp_path, in_layer_0="volatile int8_t frame[16000]; frame[0] = 1; (void)frame[0];"
        ),
        "cortex-m0plus",
    )
    for result in (large_arena, large_flash, large_stack):
        assert result.machine == "mps2-an385"
        np.testing.assert_array_equal(result.outputs, expected)


@_needs_emulator
def test_a_program_too_large_for_every_machine_says_so(tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path, arena_bytes="8000000")
    with pytest.raises(DeployqError, match="does not fit any machine of cortex-m4") as caught:
        _run(directory, "cortex-m4")
    assert "mps2-an386" in caught.value.why


@_needs_emulator
@pytest.mark.parametrize("index", ["8", "-1"])
def test_a_byte_outside_the_arena_is_caught(tmp_path: Path, index: str) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0=f"first[{index}] = 1;")
    with pytest.raises(VerificationError, match="outside its arena"):
        _run(directory, "cortex-m4")


@_needs_emulator
def test_a_stack_that_reaches_the_data_is_caught(tmp_path: Path) -> None:
    touch = "extern uint32_t dq_stack_limit[]; *(volatile uint32_t *)dq_stack_limit = 0;"
    with pytest.raises(VerificationError, match="the stack overflowed"):
        _run(write_tiny_library(tmp_path, in_layer_0=touch), "cortex-m0plus")


@_needs_emulator
def test_an_error_code_is_reported(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="returned an error code"):
        _run(write_tiny_library(tmp_path, status=-1), "cortex-m33")


@_needs_emulator
def test_an_endless_loop_ends_with_the_timeout(tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0="for (volatile int32_t i = 0; i >= 0;) { }")
    with pytest.raises(DeployqError, match="did not end within 1 seconds"):
        run_qemu(
            directory,
            PREFIX,
            load_target("cortex-m4"),
            tiny_samples(1),
            OUTPUT_SIZE,
            timeout_seconds=1,
        )


@_needs_emulator
def test_undefined_symbols_are_not_taken_for_a_full_machine(tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path, in_layer_0="extern void nowhere(void); nowhere();")
    with pytest.raises(DeployqError, match="undefined reference to `nowhere'"):
        _run(directory, "cortex-m4")


def test_the_host_is_not_emulated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="host is not an emulated target"):
        _run(write_tiny_library(tmp_path), "host")


def test_a_missing_compiler_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_tiny_library(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissingError, match="apt-get install gcc-arm-none-eabi"):
        _run(directory, "cortex-m4")


def _known(rate: Fraction, overhead: int, lengths: tuple[int, ...]) -> list[tuple[int, Interval]]:
    """Intervals an ideal counter gives: the second stamp spins until the next tick."""
    intervals = []
    for length in lengths:
        total = length + overhead
        ticks = -(-total // rate)
        intervals.append((length, Interval(int(ticks), round((ticks * rate - total) / 4))))
    return intervals


@pytest.mark.parametrize("rate", [Fraction(40), Fraction(125, 4), Fraction(125, 3), Fraction(1000, 168)])
def test_calibration_finds_the_exact_rate(rate: Fraction) -> None:
    known = _known(rate, 37, (3, 200_001, 2_000_001, 666_667))
    calibration = calibrate(known)
    assert calibration.instructions_per_tick == rate
    measured = _known(rate, 37, (1_234_567,))[0][1]
    assert abs(calibration.instructions(measured, 1) - 1_234_567) <= 4


def test_a_counter_that_is_not_linear_is_refused() -> None:
    known = _known(Fraction(40), 37, (3, 200_001, 2_000_001, 666_667))
    length, interval = known[3]
    known[3] = (length, Interval(interval.ticks + 2, interval.spins))
    with pytest.raises(VerificationError, match="not linear"):
        calibrate(known)


def test_a_counter_that_stands_still_is_refused() -> None:
    with pytest.raises(VerificationError, match="does not count"):
        calibrate([(length, Interval(0, 1)) for length in (3, 200_001, 2_000_001, 666_667)])
    with pytest.raises(VerificationError, match="did not calibrate"):
        calibrate([])
