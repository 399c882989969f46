"""A model of the cycles of a Cortex-M4, per executed instruction.

The numbers are those of the tables in the Cortex-M4 Technical Reference Manual (ARM DDI 0439,
"Cortex-M4 instructions", "Load/store timings", "FPU instruction set"):

    any data processing, MUL, MLA, SMLAD, SMULL, SMMUL, saturation, IT, NOP         1
    LDR, LDRB, LDRH ...        2; 1 right after another single load or store, unless its address is what
                               the one before loads
    STR, STRB, STRH ...        1 (the store itself overlaps with what follows)
    LDRD, STRD, LDM, STM, PUSH, POP of N words                                      1 + N
    SDIV, UDIV                 2 to 12, counted as 7
    VMLA, VFMA ... 3, VDIV, VSQRT 14, VLDR and VSTR of N words 1 + N, VMOV of two
    core registers 2, other VFP instructions 1
    whatever jumps             2 more, for filling the pipeline: the manual says 1 to 3
    TBB, TBH                   2 before that; a load of the program counter is a load that jumps

It leaves out: wait states and the prefetch of the flash, unaligned accesses (one more cycle each), the stall
of an address computed by the instruction before, contention for the bus, instructions that IT skips (one
cycle, but counted as if executed). It has not been compared with silicon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deployq.bench.disassembly import Instruction

#: Cycles the manual calls P, 1 to 3: filling the pipeline after a jump.
PIPELINE_REFILL_CYCLES = 2

#: The target the model describes.
TARGET = "cortex-m4"

_DIVISION_CYCLES = 7

_CONDITION = r"(?:eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al)?(?:\.[nw])?"
_SINGLE_LOAD = re.compile(rf"(?:ldr(?:b|h|sb|sh)?t?|ldrex[bh]?){_CONDITION}")
_SINGLE_STORE = re.compile(rf"(?:str[bh]?t?|strex[bh]?){_CONDITION}")
_DOUBLE = re.compile(rf"(?:ldrd|strd){_CONDITION}")
_MULTIPLE = re.compile(rf"(?:push|pop|v?(?:ldm|stm)(?:ia|db|ea|fd)?|vpush|vpop){_CONDITION}")
_DIVISION = re.compile(rf"[su]div{_CONDITION}")
_TABLE_BRANCH = re.compile(r"tb[bh]")
_FLOAT_ACCESS = re.compile(rf"(?:vldr|vstr){_CONDITION}")
_FLOAT_MULTIPLY_ADD = re.compile(r"vf?n?ml[as]|vfn?m[as]")
_FLOAT_MOVE = re.compile(rf"vmov{_CONDITION}")
_FLOAT_DIVISION = re.compile(r"vdiv|vsqrt")
_BRANCH = re.compile(rf"(?:b|bl|bx|blx|cbz|cbnz|tbb|tbh){_CONDITION}")
_REGISTER_RANGE = re.compile(r"([rsd])(\d+)-\1(\d+)")


def cycles(block: Sequence[Instruction], executions: int, jumps: int) -> int:
    """Modelled cycles of a basic block.

    Args:
        block: consecutive instructions, of which only the last may jump.
        executions: how often the block ran.
        jumps: how often something else than the code behind it came next.
    """
    before = (None, *block[:-1])
    straight = sum(instruction_cycles(*pair) for pair in zip(block, before, strict=True))
    refills = jumps if can_jump(block[-1]) else 0  # else an interrupt came between
    return executions * straight + refills * PIPELINE_REFILL_CYCLES


def instruction_cycles(instruction: Instruction, before: Instruction | None = None) -> int:
    """Modelled cycles of an instruction, without those for filling the pipeline if it jumps.

    Args:
        instruction: as objdump writes it.
        before: the one executed just before, None where that is not known.
    """
    name = instruction.mnemonic
    if _SINGLE_LOAD.fullmatch(name):
        return 1 if before is not None and _is_pipelined(instruction, before) else 2
    if _DOUBLE.fullmatch(name):
        return 3
    if _MULTIPLE.fullmatch(name):
        return 1 + _words(instruction.operands)
    if _DIVISION.fullmatch(name):
        return _DIVISION_CYCLES
    if _TABLE_BRANCH.match(name):
        return 2
    return _float_cycles(instruction) if name.startswith("v") else 1


def can_jump(instruction: Instruction) -> bool:
    """Whether the next instruction executed may be another than the next in memory."""
    if _BRANCH.fullmatch(instruction.mnemonic):
        return True
    operands = instruction.operands
    if _MULTIPLE.fullmatch(instruction.mnemonic):
        return instruction.mnemonic.startswith(("pop", "ldm")) and "pc" in operands
    return operands.split(",")[0] == "pc"


def _is_pipelined(load: Instruction, before: Instruction) -> bool:
    """Whether a load overlaps with the instruction before it."""
    if _SINGLE_STORE.fullmatch(before.mnemonic):
        return True
    if not _SINGLE_LOAD.fullmatch(before.mnemonic):
        return False
    loaded = before.operands.split(",")[0]
    address = load.operands.partition("[")[2]
    return loaded not in re.findall(r"\w+", address)


def _words(registers: str) -> int:
    """Number of words in a list of registers such as "{r4, r5, lr}" or "sp!, {d8-d9}"."""
    listed = registers[registers.index("{") + 1 : registers.index("}")]
    words = 0
    for item in map(str.strip, listed.split(",")):
        span = _REGISTER_RANGE.fullmatch(item)
        count = int(span[3]) - int(span[2]) + 1 if span else 1
        words += 2 * count if item.startswith("d") else count
    return words


def _float_cycles(instruction: Instruction) -> int:
    name = instruction.mnemonic
    if _FLOAT_ACCESS.fullmatch(name):
        return 3 if instruction.operands.startswith("d") else 2
    if _FLOAT_DIVISION.match(name):
        return 14
    if _FLOAT_MOVE.fullmatch(name):
        return 2 if instruction.operands.count(",") > 1 else 1
    return 3 if _FLOAT_MULTIPLY_ADD.match(name) else 1
