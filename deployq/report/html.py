"""Reports as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from deployq.pareto import pareto_cells
from deployq.report.model import Report
from deployq.report.verdict import accuracy_sentence, is_exact, verdict, weights_label
from deployq.resources import resource_directory


def render_html(report: Report) -> str:
    """The page; all text from the model is escaped."""
    environment = Environment(
        loader=FileSystemLoader(resource_directory("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = lambda value: "" if value is None else f"{value:,}"
    return environment.get_template("report.html.j2").render(
        report=report,
        verdict=verdict(report.verification),
        exact=is_exact(report.verification),
        accuracy=accuracy_sentence(report),
        weights=weights_label(report),
        bars=_bars(report),
        pareto=pareto_cells(report.pareto) if report.pareto else None,
    )


def _bars(report: Report) -> list[tuple[str, list[tuple[str, int, float]]]]:
    """Memories with their parts: (memory, [(part, bytes, percent of that memory)])."""
    memory = report.memory
    parts = {
        "Flash": [("weights", memory.weights_bytes), ("code", memory.code_bytes or 0)],
        "RAM": [("arena", memory.arena_bytes), ("stack", memory.stack_bytes or 0)],
    }
    bars = []
    for name, sizes in parts.items():
        total = sum(size for _, size in sizes) or 1
        bars.append((name, [(part, size, 100 * size / total) for part, size in sizes if size]))
    return bars
