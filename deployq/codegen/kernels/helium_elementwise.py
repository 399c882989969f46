"""Kernels of cores with Helium (MVE) for operators without weights: addition and average pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deployq.arithmetic import INT8_MIN, INT16_MIN
from deployq.codegen.kernels.core import Core
from deployq.graph import Shape
from deployq.ops import IntegerOperator, KernelCall
from deployq.ops.add import IntegerAdd
from deployq.ops.averagepool2d import IntegerAveragePool2d

_ADD_MEMBERS = ("size", "multiplier_a", "multiplier_b", "rounding_bias", "shift", "zero_point", "low", "high")

#: Taps of a window whose sum fits 16 bits.
_LARGEST_WINDOW = INT16_MIN // INT8_MIN


def unweighted(op: IntegerOperator, shapes: Sequence[Shape], core: Core) -> KernelCall:
    """The kernel of an operator without weights: the one for Helium where there is one."""
    call = op.kernel(shapes)
    if "mve" not in core.features:
        return call
    if isinstance(op, IntegerAdd):
        parameters = {**call.parameters, "rounding_bias": op.rounding_bias}
        return _helium(call, {member: parameters[member] for member in _ADD_MEMBERS})
    if isinstance(op, IntegerAveragePool2d):
        height, width = op.window.kernel
        return _helium(call, call.parameters) if height * width <= _LARGEST_WINDOW else call
    return call


def _helium(call: KernelCall, parameters: Mapping[str, int]) -> KernelCall:
    """The same call of the Helium kernel."""
    template = call.template.removesuffix(".c.j2") + "_mve.c.j2"
    return replace(call, template=template, function=f"{call.function}_mve", parameters=parameters)
