"""Report files of an output directory."""

from __future__ import annotations

from pathlib import Path

from deployq.report.html import render_html
from deployq.report.json import dump_json, to_document
from deployq.report.model import Report


def write_reports(report: Report, directory: Path) -> None:
    """Write report.json and report.html."""
    (directory / "report.json").write_text(dump_json(to_document(report)), encoding="utf-8")
    (directory / "report.html").write_text(render_html(report), encoding="utf-8")
