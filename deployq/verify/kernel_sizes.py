"""Machine code of every kernel that some width needs, compiled for the target: what mixed widths cost."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deployq.codegen.emit import generate, schedule_of
from deployq.codegen.generated import EmitOptions, write_library
from deployq.codegen.kernel_source import kernel_source, template_environment
from deployq.graph import Graph
from deployq.targets import Target
from deployq.verify.runner import library_flags
from deployq.verify.size import CALL_GRAPH_FLAG, library_size, parse_call_graph
from deployq.verify.toolchain import DEFAULT_OPTIMISATION, compile_objects, find_tool, run_tool


@dataclass(frozen=True)
class KernelSizes:
    """Bytes of code.

    Attributes:
        base_bytes: of every library of the network, without `functions`.
        functions: size of each function some kernel needs.
        needs: the functions each kernel links, itself included.
    """

    base_bytes: int
    functions: Mapping[str, int]
    needs: Mapping[str, frozenset[str]]


def kernel_sizes(graphs: Iterable[Graph], target: Target, options: EmitOptions) -> KernelSizes:
    """Compile the kernels of several integer graphs into one object, and two of the libraries.

    Args:
        graphs: of one network at each width.
        target: whose gcc compiles.
        options: of the library.

    Raises:
        ToolMissingError: the compiler or binutils are not installed.
    """
    graphs = tuple(graphs)
    schedules = [schedule_of(graph, target, options) for graph in graphs]
    weighted = [
        {step.call.function for step in schedule.steps if step.node and hasattr(step.node.op, "accumulation")}
        for schedule in schedules
    ]
    calls = [call for schedule in schedules for call in schedule.calls]
    environment = template_environment()
    context = {"options": options, "source": kernel_source(environment, calls)}
    texts = {
        name: environment.get_template(f"{name}.j2").render(context) for name in ("kernels.h", "kernels.c")
    }
    with tempfile.TemporaryDirectory(prefix="deployq-size-") as temporary:
        sizes, callees = _compiled(
            {f"dq_{name}": text for name, text in texts.items()}, target, Path(temporary)
        )
    needs = {
        kernel: frozenset(_reachable(kernel, callees) & sizes.keys()) for kernel in set().union(*weighted)
    }
    base_bytes = 0
    for graph, kernels in ((graphs[0], weighted[0]), (graphs[-1], weighted[-1])):
        with tempfile.TemporaryDirectory(prefix="deployq-size-") as temporary:
            write_library(generate(graph, target, options), Path(temporary))
            code = library_size(Path(temporary), options.prefix, target).code_bytes
        linked = set().union(*(needs[kernel] for kernel in kernels))
        base_bytes = max(base_bytes, code - sum(sizes[name] for name in linked))
    counted = set().union(*needs.values())
    return KernelSizes(base_bytes, {name: sizes[name] for name in sorted(counted)}, needs)


def _compiled(
    texts: Mapping[str, str], target: Target, directory: Path
) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Bytes of each function of some C files, and what it calls."""
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="ascii")
    # Functions of two widths that are alike would be one, and the call graph gives only that one its calls.
    flags = (*target.compiler_flags, DEFAULT_OPTIMISATION, CALL_GRAPH_FLAG, "-fno-ipa-icf")
    flags += library_flags(directory, layers=False)
    sources = [directory / name for name in texts if name.endswith(".c")]
    (directory / "objects").mkdir()
    objects = compile_objects(f"{target.toolchain_prefix}gcc", flags, sources, directory / "objects")
    graph = parse_call_graph("".join(file.with_suffix(".ci").read_text(encoding="utf-8") for file in objects))
    command = [
        str(find_tool(f"{target.toolchain_prefix}nm")),
        "--portability",
        "--print-size",
        *map(str, objects),
    ]
    symbols = re.findall(
        r"^(\S+) [Tt] [0-9a-f]+ ([0-9a-f]+)$", run_tool(command, "cannot list symbols"), re.M
    )
    sizes = {name: int(size, 16) for name, size in symbols}
    return sizes, {_bare(name): {_bare(callee) for callee in item.callees} for name, item in graph.items()}


def _bare(title: str) -> str:
    """A function's name; the call graph puts the file before the name of a static one."""
    return title.rpartition(":")[2]


def _reachable(entry: str, callees: Mapping[str, set[str]]) -> set[str]:
    """The function and all it calls, directly or not."""
    seen: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += callees.get(name, ())
    return seen
