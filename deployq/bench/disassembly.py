"""What a linked program consists of: its instructions and symbols, as binutils list them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from deployq.errors import DeployqError
from deployq.targets import Target
from deployq.verify.toolchain import find_tool, run_tool

_INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t[0-9a-f ]+\t(\S+)(?:\t([^;@<]*))?")
_SYMBOL = re.compile(r"^(\S+) ([A-Za-z]) ([0-9a-fA-F]+)(?: ([0-9a-fA-F]+))? *$", re.M)
_CODE, _DATA = "TtWw", "BbDdRr"


@dataclass(frozen=True)
class Instruction:
    """An instruction as objdump writes it: address in bytes, mnemonic and operands."""

    address: int
    mnemonic: str
    operands: str


@dataclass(frozen=True)
class Symbol:
    """A function or an object: name, first address, and size in bytes, 0 where the assembler did not say."""

    name: str
    address: int
    bytes: int


@dataclass(frozen=True)
class Listing:
    """The instructions of a program by address, its functions by address, and its objects."""

    instructions: tuple[Instruction, ...]
    functions: tuple[Symbol, ...]
    objects: tuple[Symbol, ...]
    _places: dict[int, int] = field(init=False, repr=False, default_factory=dict)
    _starts: list[int] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        self._places.update({item.address: index for index, item in enumerate(self.instructions)})
        self._starts.extend(function.address for function in self.functions)

    def block(self, address: int, count: int) -> tuple[Instruction, ...]:
        """`count` consecutive instructions from `address` on.

        Raises:
            DeployqError: there is no instruction at that address.
        """
        if address not in self._places:
            raise DeployqError("the emulator executed what is not code", where=hex(address))
        first = self._places[address]
        return self.instructions[first : first + count]

    def function_at(self, address: int) -> Symbol:
        """The function an address belongs to.

        Raises:
            DeployqError: the address lies before the first function.
        """
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            raise DeployqError("the emulator executed what is not a function", where=hex(address))
        return self.functions[index]

    def symbol(self, name: str) -> Symbol:
        """The function or object of that name.

        Raises:
            DeployqError: there is none.
        """
        for symbol in (*self.functions, *self.objects):
            if symbol.name == name:
                return symbol
        raise DeployqError(f"{name} is missing in the program")


def read_listing(program: Path, target: Target) -> Listing:
    """Disassemble a linked program.

    Raises:
        ToolMissingError: binutils are not installed.
    """
    symbols = _binutils(target, "nm", "--portability", str(program))
    return Listing(
        instructions=parse_instructions(_binutils(target, "objdump", "-d", "-z", "-w", str(program))),
        functions=parse_symbols(symbols, _CODE),
        objects=parse_symbols(symbols, _DATA),
    )


def function_sizes(objects: Iterable[Path], target: Target) -> dict[str, int]:
    """Size in bytes of every function of some object files, by name.

    Raises:
        ToolMissingError: binutils are not installed.
    """
    symbols = _binutils(target, "nm", "--portability", *map(str, objects))
    return {function.name: function.bytes for function in parse_symbols(symbols, _CODE)}


def parse_instructions(disassembly: str) -> tuple[Instruction, ...]:
    """The instructions in the output of objdump -d; constants between them are left out."""
    found = []
    for line in disassembly.splitlines():
        match = _INSTRUCTION.match(line)
        if match and not match[2].startswith("."):
            found.append(Instruction(int(match[1], 16), match[2], (match[3] or "").strip()))
    return tuple(sorted(found, key=lambda instruction: instruction.address))


def parse_symbols(output: str, kinds: str) -> tuple[Symbol, ...]:
    """Symbols of some kinds in the output of nm --portability, by address.

    Bit 0 of the address of a function marks Thumb code and is cleared. Mapping symbols, which only tell code
    from data, are left out.
    """
    symbols = [
        Symbol(name, int(address, 16) & (~1 if kinds == _CODE else ~0), int(size or "0", 16))
        for name, kind, address, size in _SYMBOL.findall(output)
        if kind in kinds and not name.startswith("$")
    ]
    return tuple(sorted(symbols, key=lambda symbol: (symbol.address, symbol.bytes)))


def _binutils(target: Target, name: str, *arguments: str) -> str:
    tool = find_tool(f"{target.toolchain_prefix}{name}")
    return run_tool([str(tool), *arguments], f"{tool.name} failed")
