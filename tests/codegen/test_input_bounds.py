"""No kernel reads beside its input: before and after it lies memory that the core may not touch.

On the host AddressSanitizer sees the C forms; this sees the assembly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployq.targets import load_target
from tests.codegen import emulated
from tests.codegen.batches import Family, networks
from tests.codegen.emulated import require_emulator, run_emulated
from tests.codegen.families import FAMILIES

pytestmark = pytest.mark.qemu

_TARGET = "cortex-m4"

#: Layers of a family.
_COUNT = 20

_DSP = [family for family in FAMILIES if family.name.startswith("DSP") and family.optimize == "balanced"]

#: Where the input lies, in the middle of three pages.
_PLACES = {"begin": "pages + PAGE", "end": "pages + 2 * PAGE - inputs"}

#: The memory protection unit forbids the first page and the last one: region number and address with 16,
#: then size and enable.
_INPUT = """
    enum { PAGE_BITS = 15, PAGE = 1 << PAGE_BITS };
    static int8_t pages[3 * PAGE] __attribute__((aligned(PAGE)));
    volatile uint32_t *const unit = (volatile uint32_t *)0xE000ED94u; /* control, number, address, size */
    for (uint32_t i = 0; i < 2; ++i) {
        unit[2] = (uint32_t)(uintptr_t)&pages[2 * PAGE * i] | 16u | i;
        unit[3] = (PAGE_BITS - 1) << 1 | 1u;
    }
    unit[0] = 5u;
    (void)input_memory;
    if (inputs > PAGE) {
        dq_fail("an input is larger than a page");
    }
    int8_t *const input = @PLACE@;
"""


def _run(
    family: Family, place: str, directory: Path, monkeypatch: pytest.MonkeyPatch, shift: int = 0
) -> None:
    """Run layers of a family on inputs at a place; their outputs must be right.

    With `shift` the kernels are told that the input begins so many bytes later.
    """
    require_emulator()
    replaced = {
        "int8_t *const input = input_memory + 1;": _INPUT.replace("@PLACE@", _PLACES[place]),
        "function, arena, input,": f"function, arena, input + ({shift}),",
    }
    text = emulated._MAIN
    for usual, here in replaced.items():
        assert usual in text
        text = text.replace(usual, here)
    monkeypatch.setattr(emulated, "_MAIN", text)
    core = load_target(_TARGET)
    batch = networks(family.drawn(core, 7, _COUNT), core)
    for network, result in zip(batch, run_emulated(batch, core, directory), strict=True):
        assert np.array_equal(network.expected(), result.outputs)


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("family", _DSP, ids=lambda family: family.name)
def test_nothing_beside_the_input_is_read(
    family: Family, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(family, place, tmp_path, monkeypatch)


@pytest.mark.parametrize(("place", "shift"), [("begin", -1), ("end", 1)])
def test_a_byte_outside_is_a_fault(
    place: str, shift: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match="fault"):
        _run(_DSP[-1], place, tmp_path, monkeypatch, shift)
