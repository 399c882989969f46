"""The comparison as a picture: accuracy and relative error against the width, a line per method.

The only module that imports matplotlib, which is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deployq.errors import UsageError
from deployq.report.comparison import Cell, Comparison, Trial
from deployq.report.quantization import EXPLAINED, Measure
from deployq.report.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Of Okabe and Ito: told apart with any colour vision; with a marker each, also in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "p", "<", ">")
_INK, _GREY, _PALE = "#1f2328", "#57606a", "#d8dee4"

#: Inches and dots per inch: 1800 x 860 pixels, twice the 900 a web page shows.
_SIZE, _DPI = (9.0, 4.3), 200
#: The methods of one width lie apart by this part of the distance of two widths, so that their error
#: bars do not cover each other.
_DODGE = 0.05
#: Methods in one row of the legend at most.
_LEGEND_COLUMNS = 7
#: The axis of the errors is logarithmic where they differ by more than this factor.
_WORTH_A_LOGARITHM = 3.0


def require_plotting() -> None:
    """Refuse early where the picture could not be drawn later.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "the plot of a comparison needs matplotlib", why=str(error), hint="pip install deployq[plots]"
        ) from error


def save_plot(comparison: Comparison, path: Path) -> None:
    """Draw a comparison as PNG of 1800 x 860 pixels; equal comparisons give equal files."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9.5,
        "text.color": _INK,
        "text.parse_math": False,  # a dollar in the name of a model is a dollar
        "axes.edgecolor": _GREY,
        "axes.labelcolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with mpl.rc_context():
        mpl.rcdefaults()  # not what a user's matplotlibrc says
        mpl.rcParams.update(style)
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained", facecolor="white")
        scores, errors = figure.subplots(1, 2, width_ratios=(1.25, 1))
        _draw_scores(scores, comparison)
        _draw_errors(errors, comparison)
        handles, labels = scores.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            title=_explanation(comparison),
            title_fontsize=8.5,
            loc="outside lower center",
            ncols=-(-len(labels) // -(-len(labels) // _LEGEND_COLUMNS)),  # rows of about equal length
            frameon=False,
        )
        figure.savefig(path, format="png", metadata={"Software": "deployq"})


def _explanation(comparison: Comparison) -> str:
    samples = f"int8 activations, {comparison.calibration_samples:,} calibration samples"
    if len(comparison.seeds) == 1:
        return samples
    return f"{samples}; mean of {len(comparison.seeds)} draws, bars from the lowest to the highest"


def _measured(measure: Measure) -> str:
    return measure.kind if measure.kind == EXPLAINED else f"top-1 {measure.kind}"


def _draw_scores(axes: Axes, comparison: Comparison) -> None:
    """Left: what the comparison measures, with the float network as a dashed line."""
    measure = comparison.measure
    _prepare(axes, comparison, f"{printable(comparison.model)}: {_measured(measure)}, percent")
    _draw_lines(axes, comparison, lambda trial: trial.score)
    if measure.float_accuracy is not None:
        label = f"float {measure.float_accuracy:.2f}"
        axes.axhline(measure.float_accuracy, color=_GREY, dashes=(5, 3), linewidth=1.2, label=label, zorder=1)


def _draw_errors(axes: Axes, comparison: Comparison) -> None:
    """Right: mean relative error of the layers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    _prepare(axes, comparison, "relative error of the layers' outputs, mean")
    _draw_lines(axes, comparison, lambda trial: trial.relative_error or np.nan)
    cells = [cell for cell in comparison.cells if isinstance(cell, Cell)]
    errors = [trial.relative_error for cell in cells for trial in cell.trials if trial.relative_error]
    if errors and max(errors) > _WORTH_A_LOGARITHM * min(errors):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def _prepare(axes: Axes, comparison: Comparison, title: str) -> None:
    """Title, frame and the axis of the widths, which lie at equal distances."""
    axes.set_title(title, loc="left", fontsize=10, pad=8)
    axes.set_xlabel("bits per weight")
    axes.set_xticks(range(len(comparison.widths)), [_tick(comparison, width) for width in comparison.widths])
    axes.set_xlim(-0.4, len(comparison.widths) - 0.6)
    axes.grid(axis="y", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _tick(comparison: Comparison, width: str) -> str:
    """The width, and the mean bits of a weight where the width does not say them."""
    cells = [comparison.cell(method, width) for method in comparison.methods]
    found = [cell.bits_per_weight for cell in cells if isinstance(cell, Cell)]
    if not found or (width.isdigit() and abs(found[0] - int(width)) < 0.05):
        return width
    return f"{width}\n{found[0]:.2f}"


def _draw_lines(axes: Axes, comparison: Comparison, value: Callable[[Trial], float]) -> None:
    """A line per method through the means of its cells, with bars from the smallest to the largest seed."""
    methods = comparison.methods
    for index, method in enumerate(methods):
        places = np.arange(len(comparison.widths)) + _DODGE * (index - (len(methods) - 1) / 2)
        cells = [comparison.cell(method, width) for width in comparison.widths]
        trials = [[value(trial) for trial in cell.trials] if isinstance(cell, Cell) else [] for cell in cells]
        means = np.array([np.mean(values) if values else np.nan for values in trials])
        lows = np.array([min(values, default=np.nan) for values in trials])
        highs = np.array([max(values, default=np.nan) for values in trials])
        several = len(comparison.seeds) > 1
        axes.errorbar(
            places,
            means,
            yerr=[means - lows, highs - means] if several else None,
            label=method,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.5,
            elinewidth=1.2,
            capsize=2.5,
        )
