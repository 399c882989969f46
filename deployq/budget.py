"""What the user demands of the result: flash, RAM, accuracy."""

from __future__ import annotations

from deployq.codegen.generated import GeneratedLibrary
from deployq.config import BuildConfig
from deployq.errors import AccuracyError, BudgetError
from deployq.report.model import Accuracy
from deployq.verify.size import LibrarySize


def check_ram(config: BuildConfig, library: GeneratedLibrary, stack_bytes: int = 0) -> None:
    """Arena (and stack, once it is known) within `config.ram`.

    Raises:
        BudgetError: they are not.
    """
    needed = library.arena_bytes + stack_bytes
    if config.ram is not None and needed > config.ram:
        largest = max(library.layers, key=lambda layer: layer.output_bytes + layer.scratch_bytes)
        raise BudgetError(
            f"{needed} bytes of RAM needed, {config.ram} allowed",
            where="--ram",
            why=f"arena {library.arena_bytes}, stack {stack_bytes}; the largest layer is {largest.name!r}",
            hint="a smaller input or fewer channels in that layer"
            + (", or --optimize ram" if config.optimize != "ram" else ""),
        )


def check_memory(config: BuildConfig, library: GeneratedLibrary, size: LibrarySize | None) -> None:
    """Weights and code within `config.flash`, arena and stack within `config.ram`.

    Raises:
        BudgetError: they are not.
    """
    if size is None:
        return
    check_ram(config, library, size.stack_bytes)
    needed = size.code_bytes + size.weights_bytes
    if config.flash is not None and needed > config.flash:
        raise BudgetError(
            f"{needed} bytes of flash needed, {config.flash} allowed",
            where="--flash",
            why=f"weights {size.weights_bytes}, code {size.code_bytes}",
            hint="fewer --bits, or a smaller network",
        )


def check_accuracy(config: BuildConfig, accuracy: Accuracy) -> None:
    """Quantized accuracy at least `config.min_accuracy`.

    Raises:
        AccuracyError: it is below.
    """
    if config.min_accuracy is None or accuracy.quantized is None:
        return
    if accuracy.quantized < config.min_accuracy:
        raise AccuracyError(
            f"accuracy {accuracy.quantized:.2f} %, at least {config.min_accuracy:.2f} % demanded",
            where="--min-accuracy",
            why=f"the float network has {accuracy.float_:.2f} %",
            hint="more --bits, or more calibration samples",
        )
