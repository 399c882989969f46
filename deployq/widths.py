"""The alphabet of every layer: chosen by hand, or the best within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deployq.allocation.allocate import Allocation, Labelled, allocate
from deployq.allocation.by_hand import chosen_by_hand
from deployq.allocation.costs import CodeSizes, FlashCosts, flash_costs, uniform_assignments
from deployq.allocation.program import Budget
from deployq.allocation.search import Search
from deployq.allocation.trial import trial_graph
from deployq.allocation.workbench import workbench
from deployq.alphabet import Alphabet
from deployq.calibration import Calibration
from deployq.codegen.generated import EmitOptions
from deployq.config import BuildConfig
from deployq.data import Labels, Samples
from deployq.errors import UsageError
from deployq.graph import Graph
from deployq.layerwise import WeightSettings
from deployq.targets import Target, load_target
from deployq.verify.kernel_sizes import kernel_sizes

Progress = Callable[[str], None]

#: One of so many calibration samples is kept from the quantizer to compare assignments on.
_HELD_OUT = 4

#: Fewer than this many tell nothing; then the calibration samples themselves are compared on.
_FEWEST_HELD_OUT = 32

#: Bytes by which code may exceed what its functions add up to (69 measured on M0+).
_CODE_MARGIN = 128


def by_hand(graph: Graph, config: BuildConfig) -> Mapping[str, Alphabet]:
    """Alphabets of the layers the user chose one for, by node name.

    Raises:
        UsageError: there is no such layer, or a width is malformed.
    """
    return chosen_by_hand(graph, config.first, config.last, config.layer_bits)


@contextmanager
def open_search(
    calibration: Calibration,
    settings: WeightSettings,
    config: BuildConfig,
    progress: Progress = lambda message: None,
) -> Iterator[Search]:
    """A search over the widths of a network; its stored activations are removed at the end.

    Args:
        calibration: the network and its samples.
        settings: how weights are quantized.
        config: target, limits, widths chosen by hand.
        progress: called with a line per step.

    Raises:
        BudgetError: the arena exceeds the RAM at any widths.
        ToolMissingError: a flash budget without a compiler to measure code with.
    """
    costs = _costs(calibration, config, progress)
    held_out = _held_out(calibration)
    fitted, compared = calibration, calibration
    if held_out.size:
        others = np.setdiff1d(np.arange(len(calibration.samples)), held_out)
        fitted = replace(calibration, samples=calibration.samples.take(others))
        compared = replace(calibration, samples=calibration.samples.take(held_out))
    with workbench(
        calibration.graph,
        calibration.quantizations,
        settings,
        fitted.batches(1, config.seed),
        compared.batches(1, config.seed),
    ) as bench:
        yield Search(bench, costs, progress)


def within_budget(
    calibration: Calibration,
    settings: WeightSettings,
    config: BuildConfig,
    labelled: tuple[Samples, Labels] | None,
    progress: Progress,
) -> Allocation:
    """Widths of all layers within the budget of the configuration, see `allocate`.

    Args:
        calibration: the network and its samples.
        settings: how weights are quantized.
        config: budget, target, widths chosen by hand.
        labelled: samples that accuracies and drops are measured on; None where there are no labels.
        progress: called with a line per step.

    Raises:
        BudgetError: no choice of widths is within the budget.
        AccuracyError: none keeps to the drop.
        ToolMissingError: a flash budget without a compiler to measure code with.
        UsageError: the method chooses widths of its own.
    """
    if config.method == "spfq" and config.spfq_alphabet == "infinite":
        raise UsageError(
            "with an infinite alphabet the widths follow from the levels",
            where="--spfq-alphabet infinite",
            why="--bits auto chooses them within a budget",
            hint="--bits 1 to 8, or --spfq-alphabet finite",
        )
    with open_search(calibration, settings, config, progress) as search:
        allocation = allocate(
            search,
            Budget(config.flash, config.average_bits),
            labelled=None if labelled is None else _labelled(calibration, *labelled),
            max_drop=config.max_drop,
        )
    notes = list(allocation.notes)
    if not _held_out(calibration).size:
        count = len(calibration.samples)
        notes.append(f"{count} samples are few: widths were compared on those the weights were fitted to")
    if config.max_drop is not None and labelled is not None:
        notes.append(
            "widths were chosen on the evaluation samples (--max-drop): measure the accuracy on others"
        )
    return replace(allocation, notes=tuple(notes))


def _held_out(calibration: Calibration) -> npt.NDArray[np.intp]:
    """Indices of the samples that networks are compared on; none where there are too few."""
    indices = np.arange(0, len(calibration.samples), _HELD_OUT)
    return indices if len(indices) >= _FEWEST_HELD_OUT else indices[:0]


def _costs(calibration: Calibration, config: BuildConfig, progress: Progress) -> FlashCosts:
    """Flash of every option; of code, too, where flash is limited."""
    target = load_target(config.target)
    options = EmitOptions(io_layout=config.io_layout, optimize=config.optimize, input_rows=config.input_rows)
    fixed = by_hand(calibration.graph, config)
    code = None
    if config.flash is not None:
        progress("measure the code of each width")
        code = _code_sizes(calibration, target, options, fixed)
    return flash_costs(
        calibration.graph,
        calibration.quantizations,
        target,
        options,
        code=code,
        ram=config.ram,
        by_hand=fixed,
    )


def _labelled(calibration: Calibration, samples: Samples, labels: Labels) -> Labelled:
    batches = tuple(replace(calibration, samples=samples).batches(1, 0))
    return Labelled(batches, labels)


def _code_sizes(
    calibration: Calibration, target: Target, options: EmitOptions, fixed: Mapping[str, Alphabet]
) -> CodeSizes:
    """Machine code of the kernels that some width needs, with a margin for what the linker adds."""
    graphs = (
        trial_graph(calibration.graph, calibration.quantizations, assignment)
        for assignment in uniform_assignments(calibration.graph, by_hand=fixed)
    )
    sizes = kernel_sizes(graphs, target, options)
    return CodeSizes(sizes.base_bytes + _CODE_MARGIN, sizes.functions, sizes.needs)
