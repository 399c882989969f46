"""PyTorch modules to float graphs, through ONNX. Beside `deployq.training` the only importer of torch."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO

import torch

from deployq.errors import ModelError, ToolMissingError, UsageError
from deployq.frontends.onnx import ImportedModel, load_onnx_bytes

#: The exporter's own opset; older ones are reached by a down-conversion that may silently fail.
_OPSET = 18
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def load_torch(module: torch.nn.Module, example_input: torch.Tensor) -> ImportedModel:
    """Import a module in inference form.

    Args:
        module: maps one tensor to one tensor; its training mode is restored afterwards.
        example_input: a batch (N, C, H, W) or (N, features) of any size, values do not matter.

    Raises:
        UsageError: not a module, or one that fails on a batch of that shape.
        ToolMissingError: onnxscript, which the exporter of torch needs, is not installed.
        ModelError: torch cannot export the module, it is not of one tensor to one, or as `load_onnx`.
    """
    check_module(module)
    where = f"torch module {type(module).__name__}"
    if find_spec("onnxscript") is None:
        raise ToolMissingError(
            "torch cannot export to ONNX without onnxscript", where=where, hint="pip install onnxscript"
        )
    # torch would make a batch of one a constant; two rows keep the batch free.
    batch = torch.cat([example_input[:1]] * 2) if len(example_input) == 1 else example_input
    with _inference(module):
        _try(module, batch, where)
        exported = _export(module, batch, where)
    return load_onnx_bytes(exported, where)


def check_module(module: object) -> None:
    """Refuse what is not a torch module.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(module, torch.nn.Module):
        is_class = isinstance(module, type) and issubclass(module, torch.nn.Module)
        raise UsageError(
            f"the model is a class, {module.__name__}"  # type: ignore[attr-defined]
            if is_class
            else f"the model is of type {type(module).__name__}",
            why="an ONNX file or a torch.nn.Module is expected",
            hint="give an instance of the class" if is_class else "",
        )


def load_torch_shape(module: torch.nn.Module, shape: tuple[int, ...]) -> ImportedModel:
    """Import a module that takes batches (N, *shape) of float32; raises as `load_torch`."""
    return load_torch(module, torch.zeros(2, *shape))


def _try(module: torch.nn.Module, batch: torch.Tensor, where: str) -> None:
    """Run the module once: what fails here has a plainer reason than the exporter would give."""
    try:
        output = module(batch)
    except TypeError as error:  # also that of a forward that takes more than one argument
        raise ModelError("the module cannot be called on a batch", where=where, why=_reason(error)) from error
    except Exception as error:  # modules raise whatever they want
        raise UsageError(
            f"the module fails on samples of shape {tuple(batch.shape[1:])}",
            where=where,
            why=_reason(error),
            hint="check the shape of the calibration samples, and --layout",
        ) from error
    if not isinstance(output, torch.Tensor):
        what = f"the module gives a {type(output).__name__}"
        raise ModelError(what, where=where, why="exactly one tensor is supported")


def _export(module: torch.nn.Module, batch: torch.Tensor, where: str) -> bytes:
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (batch,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.AUTO},),
                external_data=False,
                opset_version=_OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever the module or its own passes raise
        hint = "check that torch.onnx.export(module, (example,), dynamo=True) works by itself"
        raise ModelError(
            "torch cannot export the module to ONNX", where=where, why=_reason(error), hint=hint
        ) from error
    if program is None:
        raise ModelError("torch exported nothing", where=where)
    return bytes(program.model_proto.SerializeToString())


def _reason(error: BaseException) -> str:
    """The first line of what an error comes from; the exporter wraps it in advice on itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints, logs and warns of: the reason of a failure is in its exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _inference(module: torch.nn.Module) -> Iterator[None]:
    """Put a module into inference mode and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
