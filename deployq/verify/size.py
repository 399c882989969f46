"""Exact sizes of the compiled library, and the deepest stack its call graph allows."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deployq.errors import DeployqError
from deployq.targets import Target
from deployq.verify.assembly_stack import assembly_stack
from deployq.verify.runner import library_flags, library_sources
from deployq.verify.toolchain import DEFAULT_OPTIMISATION, compile_objects, find_tool, run_tool

#: Makes gcc write the frame size of every function and who calls whom (<object>.ci).
CALL_GRAPH_FLAG = "-fcallgraph-info=su"

#: Stack assumed for compiler support routines and memcpy, of which the call graph says nothing;
#: those of newlib-nano and libgcc push at most nine registers.
EXTERNAL_STACK_BYTES = 64


@dataclass(frozen=True)
class LibrarySize:
    """Sizes in bytes.

    Attributes:
        code_bytes: instructions and constants of <prefix>.c and dq_kernels.c.
        weights_bytes: constants of <prefix>_weights.c.
        static_ram_bytes: initialised and zeroed variables; a correct library has none.
        stack_bytes: worst call path from <prefix>_run.
    """

    code_bytes: int
    weights_bytes: int
    static_ram_bytes: int
    stack_bytes: int


def library_size(
    firmware_dir: Path, prefix: str, target: Target, optimisation: str = DEFAULT_OPTIMISATION
) -> LibrarySize:
    """Compile the library for the target, with its gcc, and measure it.

    Raises:
        ToolMissingError: the compiler or binutils are not installed.
        DeployqError: the library does not compile, or its stack has no bound (see `worst_stack`).
    """
    flags = (
        *target.compiler_flags,
        optimisation,
        CALL_GRAPH_FLAG,
        *library_flags(firmware_dir, layers=False),
    )
    with tempfile.TemporaryDirectory(prefix="deployq-size-") as temporary:
        sources = library_sources(firmware_dir, prefix)
        objects = compile_objects(f"{target.toolchain_prefix}gcc", flags, sources, Path(temporary))
        sections = {file.stem: _section_sizes(file, target) for file in objects}
        stack = library_stack(objects, prefix, target)
    constants = {stem: _total(sizes, (".text", ".rodata")) for stem, sizes in sections.items()}
    weights = constants.get(f"{prefix}_weights", 0)
    return LibrarySize(
        code_bytes=sum(constants.values()) - weights,
        weights_bytes=weights,
        static_ram_bytes=sum(_total(sizes, (".data", ".bss")) for sizes in sections.values()),
        stack_bytes=stack,
    )


def library_stack(objects: Iterable[Path], prefix: str, target: Target) -> int:
    """Worst stack of <prefix>_run in bytes, from objects compiled with CALL_GRAPH_FLAG."""
    objects = tuple(objects)
    graph = "".join(file.with_suffix(".ci").read_text(encoding="utf-8") for file in objects)
    external = EXTERNAL_STACK_BYTES if _needs_external(objects, target) else 0
    # The one pointer is to a function that gives a row of the input: here the library's own, which copies it.
    entry, reader = f"{prefix}_run", f"{prefix}_copy_row"
    return worst_stack(graph, entry, assembly_stack(objects, target), reader) + external


def _section_sizes(object_file: Path, target: Target) -> dict[str, int]:
    tool = find_tool(f"{target.toolchain_prefix}size")
    output = run_tool([str(tool), "-A", "-d", str(object_file)], "cannot measure an object file")
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)\s+\d+\s*$", output, re.M)}


def _total(sizes: dict[str, int], kinds: tuple[str, ...]) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(kinds))


def _needs_external(objects: tuple[Path, ...], target: Target) -> bool:
    """Whether the objects call anything they do not define themselves."""
    tool = find_tool(f"{target.toolchain_prefix}nm")
    output = run_tool([str(tool), "--portability", *map(str, objects)], "cannot list symbols")
    symbols = re.findall(r"^(\S+) ([A-Za-z])\b", output, re.M)
    defined = {name for name, kind in symbols if kind != "U"}
    return any(kind == "U" and name not in defined for name, kind in symbols)


@dataclass
class Function:
    """Stack frame and callees of a C function."""

    frame_bytes: int = 0
    callees: set[str] = field(default_factory=set)


def worst_stack(graph: str, entry: str, assembly: Mapping[str, int] | None = None, pointee: str = "") -> int:
    """Deepest sum of frames on any call path from `entry`.

    Args:
        graph: text of gcc's -fcallgraph-info=su files. Functions without a frame size are not part
            of the library and count as 0.
        entry: function the paths begin at.
        assembly: stack of functions by name, for those that the graph gives no frame.
        pointee: the function that is called through pointers, if there is one of that name.

    Raises:
        DeployqError: no such function, or the stack has no static bound: recursion, a call through a
            pointer, or a frame of variable size.
    """
    functions = parse_call_graph(graph)
    called = next((name for name in functions if pointee and name.rpartition(":")[2] == pointee), None)
    depth: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> int:
        if name in depth:
            return depth[name]
        if name == "__indirect_call" and called is not None:
            return visit(called)
        if name in path or name == "__indirect_call":
            reason = "calls itself" if name in path else "calls through a pointer"
            raise _unbounded(f"{(*path, name)[-2]} {reason}")
        path.append(name)
        function = functions.get(name, Function())
        # The graph puts the file before the name of a static function.
        frame_bytes = function.frame_bytes or (assembly or {}).get(name.rpartition(":")[2], 0)
        depth[name] = frame_bytes + max(map(visit, sorted(function.callees)), default=0)
        path.pop()
        return depth[name]

    if entry not in functions:
        raise DeployqError(f"{entry} is missing in the compiler's call graph")
    return visit(entry)


def parse_call_graph(graph: str) -> dict[str, Function]:
    """Functions by title, from the text of gcc's -fcallgraph-info=su files."""
    functions: dict[str, Function] = {}
    for title, label in re.findall(r'node: \{ title: "([^"]+)" label: "([^"]*)"', graph):
        frame = re.search(r"(\d+) bytes \(([a-z,]+)\)", label)
        if frame is None:
            continue
        if frame[2] == "dynamic":
            raise _unbounded(f"{title} has a frame of variable size")
        functions[title] = Function(int(frame[1]))
    for caller, callee in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        functions.setdefault(caller, Function()).callees.add(callee)
    return functions


def _unbounded(why: str) -> DeployqError:
    return DeployqError("the stack of the generated C has no static bound", why=why)
