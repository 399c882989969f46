"""Operators, one file each; importing this package registers every file it contains."""

from importlib import import_module
from pkgutil import iter_modules

from deployq.ops.base import (
    Case,
    FloatOperator,
    IntegerOperator,
    KernelCall,
    OnnxBuilder,
    QuantizedWeights,
    SourceNode,
    UnsupportedNodeError,
    WeightedOperator,
    import_notes,
    importers,
)

OPERATOR_MODULES = tuple(import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))

__all__ = [
    "OPERATOR_MODULES",
    "Case",
    "FloatOperator",
    "IntegerOperator",
    "KernelCall",
    "OnnxBuilder",
    "QuantizedWeights",
    "SourceNode",
    "UnsupportedNodeError",
    "WeightedOperator",
    "import_notes",
    "importers",
]
