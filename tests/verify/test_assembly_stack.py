"""The stack of functions written in assembly."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deployq.targets import load_target
from deployq.verify.assembly_stack import assembly_stack, taken
from deployq.verify.size import CALL_GRAPH_FLAG, library_stack
from deployq.verify.toolchain import compile_objects

_SOURCE = """
__attribute__((naked, noinline)) static int inner(int x __attribute__((unused)))
{
    __asm__ volatile("push {r4-r11, lr}\\n sub sp, #20\\n add sp, #20\\n pop {r4-r11, pc}");
}
int lib_run(int x);
int lib_run(int x)
{
    return inner(x) + 1;
}
"""


@pytest.mark.parametrize(
    ("mnemonic", "operands", "bytes_taken"),
    [
        ("push", "{r4, r5, r6, r7, lr}", 20),
        ("stmdb", "sp!, {r3, r4, r5, r6, r7, r8, r9, sl, fp, lr}", 40),
        ("push.w", "{r4-r11, lr}", 36),
        ("vpush", "{d8-d15}", 64),
        ("vpush", "{s16-s19}", 16),
        ("sub", "sp, #84", 84),
        ("sub.w", "sp, sp, #512", 512),
        ("subw", "sp, sp, #516", 516),
        ("str.w", "lr, [sp, #-4]!", 4),
        ("sub", "r0, r1, #4", 0),
        ("stmdb", "r0!, {r4, r5}", 0),
        ("add", "sp, #84", 0),
    ],
)
def test_bytes_of_an_instruction(mnemonic: str, operands: str, bytes_taken: int) -> None:
    assert taken(mnemonic, operands) == bytes_taken


@pytest.mark.qemu
def test_assembly_counts_in_the_worst_stack(tmp_path: Path) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    target = load_target("cortex-m4")
    (tmp_path / "lib.c").write_text(_SOURCE)
    flags = (*target.compiler_flags, "-O2", CALL_GRAPH_FLAG)
    objects = compile_objects("arm-none-eabi-gcc", flags, (tmp_path / "lib.c",), tmp_path)
    assert assembly_stack(objects, target)["inner"] == 56
    assert library_stack(objects, "lib", target) >= 56 + 8  # lib_run saves at least lr, aligned
