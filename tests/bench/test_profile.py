"""The profiler in the emulator on the tiny library, whose loop is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployq.bench.profile import Profile, profile
from deployq.errors import ToolMissingError
from deployq.targets import load_target
from deployq.verify.qemu import EmulationRequest, run_qemu
from tests.tools import needs_tools
from tests.verify.tiny_library import LOOP_TURNS, OUTPUT_SIZE, PREFIX, tiny_samples, write_tiny_library

pytestmark = [pytest.mark.qemu, needs_tools("gcc", "arm-none-eabi-gcc", "qemu-system-arm")]


def _profile(directory: Path, target: str) -> Profile:
    request = EmulationRequest(directory, PREFIX, load_target(target), OUTPUT_SIZE, "-O2", 60.0, ())
    return profile(request, tiny_samples(3))


@pytest.mark.parametrize("target", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_counts_are_exact_and_agree_with_the_timer(target: str, tmp_path: Path) -> None:
    directory = write_tiny_library(tmp_path)
    found = _profile(directory, target)
    timed = run_qemu(
        directory, PREFIX, load_target(target), tiny_samples(3), OUTPUT_SIZE, layers=True, timeout_seconds=60
    )
    assert timed.layer_instructions is not None
    for index, count in enumerate(timed.layer_instructions):
        assert abs(found.layer(index).instructions - count) <= 12
    # The loop has two instructions; one more returns.
    assert found.function("dq_wait").instructions == 2 * LOOP_TURNS + 1
    assert {"dq_increment", "dq_pairs", "dq_wait"} <= found.functions
    assert not any(name.startswith(("dq_stamp", "dq_harness", "dq_counter")) for name in found.functions)


def test_modelled_cycles_of_a_known_loop(tmp_path: Path) -> None:
    found = _profile(write_tiny_library(tmp_path), "cortex-m4")
    # SUBS 1, BNE 1 and 2 more when it jumps back, which it does not the last time; BX 1 + 2.
    assert found.function("dq_wait").modelled_cycles == 4 * LOOP_TURNS - 2 + 3


def test_functions_add_up_to_the_layers(tmp_path: Path) -> None:
    found = _profile(write_tiny_library(tmp_path), "cortex-m4")
    layers = sum(found.layer(index).modelled_cycles for index in range(2))
    assert sum(found.function(name).modelled_cycles for name in found.functions) == pytest.approx(
        layers, abs=8
    )


def test_an_emulator_without_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A QEMU that was configured without plugins refuses the option."""
    programs = tmp_path / "programs"
    programs.mkdir()
    emulator = programs / "qemu-system-arm"
    emulator.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "QEMU emulator version 7.2.22" && exit 0\n'
        'echo "qemu-system-arm: -plugin: invalid option"; exit 1\n'
    )
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    library = tmp_path / "library"
    library.mkdir()
    with pytest.raises(ToolMissingError, match="does not take the profiler"):
        _profile(write_tiny_library(library), "cortex-m4")
