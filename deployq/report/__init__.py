"""Build reports: one data model (`model`), three renderings (`text`, `json`, `html`)."""

from deployq.report.html import render_html
from deployq.report.json import dump_json, from_document, to_document
from deployq.report.model import (
    SCHEMA_VERSION,
    Accuracy,
    Check,
    Checked,
    InspectedLayer,
    InspectReport,
    LayerReport,
    Memory,
    Report,
    Skipped,
    TensorReport,
    Verification,
    VerificationReport,
)
from deployq.report.text import (
    printable,
    render_inspection,
    render_listing,
    render_text,
    render_verification,
)

__all__ = [
    "SCHEMA_VERSION",
    "Accuracy",
    "Check",
    "Checked",
    "InspectReport",
    "InspectedLayer",
    "LayerReport",
    "Memory",
    "Report",
    "Skipped",
    "TensorReport",
    "Verification",
    "VerificationReport",
    "dump_json",
    "from_document",
    "printable",
    "render_html",
    "render_inspection",
    "render_listing",
    "render_text",
    "render_verification",
    "to_document",
]
