"""Stack of functions written in assembly, of which the compiler's call graph says 0 bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from deployq.targets import Target
from deployq.verify.toolchain import find_tool, run_tool

_FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
_INSTRUCTION = re.compile(r"^ *[0-9a-f]+:\t[0-9a-f ]+\t(\S+)\t([^;@<]*)")

#: Numbers of the registers whose names have none.
_NAMED = {"sb": 9, "sl": 10, "fp": 11, "ip": 12, "lr": 14, "pc": 15}


def assembly_stack(objects: Iterable[Path], target: Target) -> dict[str, int]:
    """Bytes that the instructions of every function take from the stack, by name of the function.

    All that is pushed and subtracted is added up: an upper bound for code that gives back in a loop
    what it takes there, as the kernels do.

    Raises:
        ToolMissingError: binutils are not installed.
    """
    tool = find_tool(f"{target.toolchain_prefix}objdump")
    output = run_tool([str(tool), "--disassemble", *map(str, objects)], "cannot disassemble")
    frames: dict[str, int] = {}
    name = ""
    for line in output.splitlines():
        if head := _FUNCTION.match(line):
            name = head[1]
            frames.setdefault(name, 0)
        elif name and (found := _INSTRUCTION.match(line)):
            frames[name] += taken(found[1], found[2].strip())
    return frames


def taken(mnemonic: str, operands: str) -> int:
    """Bytes one instruction takes from the stack, 0 for those that take none.

    Args:
        mnemonic: as objdump writes it, e.g. "push" or "stmdb".
        operands: the same, e.g. "{r4, r5, lr}" or "sp!, {r4-r11, lr}".
    """
    base = mnemonic.split(".")[0]
    if base == "push" or (base == "stmdb" and operands.startswith("sp!")):
        return 4 * _count(operands)
    if base == "vpush" or (base == "vstmdb" and operands.startswith("sp!")):
        return _count(operands) * (8 if "d" in operands[operands.index("{") :] else 4)
    if base in ("sub", "subw") and (subtracted := re.fullmatch(r"sp, (?:sp, )?#(\d+)", operands)):
        return int(subtracted[1])
    if base in ("str", "strd") and (decrement := re.search(r"\[sp, #-(\d+)\]!$", operands)):
        return int(decrement[1])
    return 0


def _count(operands: str) -> int:
    """Registers in a list such as {r3, r4-r7, lr}."""
    total = 0
    for item in operands[operands.index("{") + 1 : operands.index("}")].split(","):
        bounds = [_number(end) for end in item.strip().split("-")]
        total += bounds[-1] - bounds[0] + 1
    return total


def _number(register: str) -> int:
    return _NAMED[register] if register in _NAMED else int(register[1:])
