"""The C of every kernel function that drawn layers of a core call, each once, and what it declares."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from deployq.codegen.generated import EmitOptions
from deployq.codegen.kernel_source import KernelSource, kernel_source, template_environment
from deployq.codegen.optimize import build_schedule
from deployq.ops import KernelCall
from deployq.targets import load_target
from tests.codegen.families import FAMILIES

#: Layers drawn of every family.
_LAYERS = 20


@cache
def drawn_kernels(target: str) -> KernelSource:
    """Kernels for a core, by layers of all families that run on it in QEMU."""
    core = load_target(target)
    calls: dict[str, KernelCall] = {}
    for family in FAMILIES:
        if target in {run.target for run in family.runs}:
            with family.preferred():
                for layer in family.drawn(core, 0, _LAYERS):
                    plan = build_schedule(layer.graph(), core.features, family.io_layout, family.optimize)
                    calls |= {step.call.function: step.call for step in plan.steps}
    return kernel_source(template_environment(), calls.values())


def write_kernels(target: str, directory: Path) -> Path:
    """Write them into a directory; the path of the C file."""
    source = drawn_kernels(target)
    for name in ("kernels.h", "kernels.c"):
        template = template_environment().get_template(f"{name}.j2")
        (directory / f"dq_{name}").write_text(template.render(source=source, options=EmitOptions()))
    return directory / "dq_kernels.c"


def preprocessed(source: Path, flags: Sequence[str]) -> str:
    """A C file as the compiler for Arm sees it under some flags; of all attributes only `naked` is left."""
    command = ["arm-none-eabi-gcc", *flags, "-E", "-P", str(source)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    attribute = r"__attribute__\(\((?:[^()]|\([^()]*\))*\)\)"
    return re.sub(attribute, lambda found: "naked" if "naked" in found[0] else "", text)


def naked_functions(text: str) -> dict[str, str]:
    """Functions that are written in assembly altogether, with their parameters, of a preprocessed file."""
    heads = re.findall(r"(naked\s+static\s+)?void\s+(naked\s+)?(\w+)\(([^)]*)\)\s*\{", text)
    return {name: parameters for before, after, name, parameters in heads if before or after}
