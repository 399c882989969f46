"""PyTorch modules to float graphs, through ONNX. Beside `deployq.training` the only importer of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch

from deployq.errors import ModelError, ToolMissingError
from deployq.frontends.onnx import ImportedModel, load_onnx_bytes

#: The exporter's own opset; older ones are reached by a down-conversion that may silently fail.
_OPSET = 18


def load_torch(module: torch.nn.Module, example_input: torch.Tensor) -> ImportedModel:
    """Import a module in inference form.

    Args:
        module: maps one tensor to one tensor; its training mode is restored afterwards.
        example_input: a batch (N, C, H, W) or (N, features) of any size, values do not matter.

    Raises:
        ToolMissingError: onnxscript, which the exporter of torch needs, is not installed.
        ModelError: torch cannot export the module, or as `load_onnx`.
    """
    where = f"torch module {type(module).__name__}"
    if find_spec("onnxscript") is None:
        raise ToolMissingError(
            "torch cannot export to ONNX without onnxscript", where=where, hint="pip install onnxscript"
        )
    # torch would make a batch of one a constant; two rows keep the batch free.
    batch = torch.cat([example_input[:1]] * 2) if len(example_input) == 1 else example_input
    return load_onnx_bytes(_export(module, batch, where), where)


def load_torch_shape(module: torch.nn.Module, shape: tuple[int, ...]) -> ImportedModel:
    """Import a module that takes batches (N, *shape) of float32; raises as `load_torch`."""
    return load_torch(module, torch.zeros(2, *shape))


def _export(module: torch.nn.Module, batch: torch.Tensor, where: str) -> bytes:
    with _inference(module):
        try:
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
            why = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            )
            hint = "check that torch.onnx.export(module, (example,), dynamo=True) works by itself"
            raise ModelError(
                "torch cannot export the module to ONNX", where=where, why=why, hint=hint
            ) from error
    if program is None:
        raise ModelError("torch exported nothing", where=where)
    return bytes(program.model_proto.SerializeToString())


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
