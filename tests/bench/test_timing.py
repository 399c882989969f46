"""The cycle model, instruction by instruction, and what it reads of binutils."""

from __future__ import annotations

import pytest

from deployq.bench.disassembly import Instruction, Listing, Symbol, parse_instructions, parse_symbols
from deployq.bench.timing import can_jump, cycles, instruction_cycles
from deployq.errors import DeployqError


def instruction(text: str) -> Instruction:
    """An instruction from `mnemonic operands`."""
    mnemonic, _, operands = text.partition(" ")
    return Instruction(0, mnemonic, operands)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adds r0, r1, #1", 1),
        ("smlad r0, r1, r2, r3", 1),
        ("smlal r0, r1, r2, r3", 1),
        ("mul.w r0, r1, r2", 1),
        ("ite ne", 1),
        ("nop", 1),
        ("ldr r0, [r1, #4]", 2),
        ("ldrsb.w r0, [r1], #1", 2),
        ("ldrne r0, [r1]", 2),
        ("ldrht r0, [r1]", 2),
        ("str.w r0, [r1], #4", 1),
        ("strbeq r0, [r1]", 1),
        ("ldrd r0, r1, [sp, #8]", 3),
        ("strd r0, r1, [r2], #8", 3),
        ("ldmia.w r0!, {r1, r2, r3}", 4),
        ("ldm r0, {r1, r2}", 3),
        ("stmia r0!, {r4}", 2),
        ("push {r4, r5, lr}", 4),
        ("stmdb sp!, {r4, r5, r6, r7, r8, r9, sl, fp, lr}", 10),
        ("pop {r4, pc}", 3),
        ("vpush {d8-d9}", 5),
        ("vldmia r0!, {s0-s3}", 5),
        ("sdiv r0, r1, r2", 7),
        ("udiveq r0, r1, r2", 7),
        ("tbb [pc, r0]", 2),
        ("b.n 1c4", 1),
        ("vldr s0, [r0]", 2),
        ("vldr d0, [r0]", 3),
        ("vmov s0, r0", 1),
        ("vmov.f32 s0, s1", 1),
        ("vmov r0, r1, d0", 2),
        ("vmov s0, s1, r2, r3", 2),
        ("vadd.f32 s0, s1, s2", 1),
        ("vfma.f32 s0, s1, s2", 3),
        ("vmla.f32 s0, s1, s2", 3),
        ("vdiv.f32 s0, s1, s2", 14),
        ("vsqrt.f32 s0, s1", 14),
    ],
)
def test_cycles_of_one_instruction(text: str, expected: int) -> None:
    assert instruction_cycles(instruction(text)) == expected


@pytest.mark.parametrize(
    ("before", "load", "expected"),
    [
        ("ldr r0, [r1]", "ldr r2, [r3]", 1),
        ("ldr r0, [r1]", "ldr r2, [r0]", 2),  # the address is what was loaded
        ("ldr r0, [r1]", "ldrb r2, [r3, r0, lsl #2]", 2),
        ("ldr r1, [r0]", "ldr r2, [r11]", 1),
        ("str r0, [r1]", "ldr r2, [r0]", 1),
        ("ldrd r0, r1, [r2]", "ldr r3, [r4]", 2),
        ("adds r0, #1", "ldr r3, [r4]", 2),
    ],
)
def test_a_load_overlaps_with_the_access_before(before: str, load: str, expected: int) -> None:
    assert instruction_cycles(instruction(load), instruction(before)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bne.n 12", True),
        ("b.w 12", True),
        ("bl 12", True),
        ("bx lr", True),
        ("bxeq lr", True),
        ("cbz r0, 12", True),
        ("tbh [pc, r0, lsl #1]", True),
        ("pop {r4, pc}", True),
        ("ldmia.w sp!, {r4, pc}", True),
        ("ldr.w pc, [sp], #4", True),
        ("pop {r4, r5}", False),
        ("bic r0, r1, r2", False),
        ("bfi r0, r1, #2, #3", False),
        ("bkpt 0x00ab", False),
        ("stmdb sp!, {r4, lr}", False),
        ("ldr r0, [pc, #12]", False),
    ],
)
def test_what_can_jump(text: str, expected: bool) -> None:
    assert can_jump(instruction(text)) == expected


def test_cycles_of_a_block() -> None:
    loop = [instruction(text) for text in ("ldr r0, [r1]", "ldr r2, [r3]", "adds r4, r0", "bne.n 0")]
    # 2 + 1 + 1 + 1 each time; 2 more for each of the 9 jumps back.
    assert cycles(loop, executions=10, jumps=9) == 10 * 5 + 9 * 2
    # An interrupt may come where the block cannot jump: no refill of its own.
    assert cycles(loop[:3], executions=10, jumps=1) == 40


_OBJDUMP = """
program.elf:     file format elf32-littlearm

00000100 <first>:
     100:\tb580      \tpush\t{r7, lr}
     102:\tf8d0 3004 \tldr.w\tr3, [r0, #4]
     106:\t4b01      \tldr\tr3, [pc, #4]\t@ (10c <first+0xc>)
     108:\tf000 f802 \tbl\t110 <second>
     10c:\t20000000 \t.word\t0x20000000

00000110 <second>:
     110:\t4770      \tbx\tlr
     112:\tbf00      \tnop
"""

_NM = """$t t 100
$d t 10c
first T 101 10
second t 111 2
assembled T 120
marks b 20000000 3
"""


def test_the_listing_of_a_program() -> None:
    listing = Listing(parse_instructions(_OBJDUMP), parse_symbols(_NM, "TtWw"), parse_symbols(_NM, "BbDdRr"))
    assert [item.address for item in listing.instructions] == [0x100, 0x102, 0x106, 0x108, 0x110, 0x112]
    assert listing.block(0x102, 2) == (
        Instruction(0x102, "ldr.w", "r3, [r0, #4]"),
        Instruction(0x106, "ldr", "r3, [pc, #4]"),
    )
    assert listing.functions == (
        Symbol("first", 0x100, 16),
        Symbol("second", 0x110, 2),
        Symbol("assembled", 0x120, 0),
    )
    assert listing.function_at(0x108).name == "first"
    assert listing.function_at(0x110).name == "second"
    assert listing.symbol("marks") == Symbol("marks", 0x20000000, 3)
    with pytest.raises(DeployqError, match="not code"):
        listing.block(0x10C, 1)
    with pytest.raises(DeployqError, match="not a function"):
        listing.function_at(0xFF)
    with pytest.raises(DeployqError, match="absent is missing"):
        listing.symbol("absent")
