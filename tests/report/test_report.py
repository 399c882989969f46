"""The report's data model and its three renderings."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from deployq.errors import UsageError
from deployq.report import (
    Accuracy,
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
    dump_json,
    from_document,
    render_html,
    render_inspection,
    render_text,
    render_verification,
    to_document,
)

HOSTILE = "<script>alert(1)</script>[red]\x1b[31m\r\n{{ 7 * 7 }}&\u202e"

REPORT = Report(
    tool_version="0.1.0",
    name="digits",
    target="cortex-m0plus",
    model_sha256="ab" * 32,
    input=TensorReport((8, 8, 1), "NHWC", 1 / 255, -128),
    output=TensorReport((10,), "NHWC", 0.1, 3),
    accuracy=Accuracy(99.4, 99.2, 500),
    memory=Memory(2064, 1488, 3258, 328),
    instructions=225782,
    layers=(
        LayerReport("conv", "conv2d", 9216, 2, "midrise-2", 192, 0.1909, 0.25, 14, 87196),
        LayerReport("pool", "maxpool2d", 0),
    ),
    verification=Verification(Checked(500, 0), Checked(500, 0), Checked(64, 0)),
    machine="mps2-an385 (armv6-m code)",
    warnings=("the code is new",),
    notes=("the scales were tuned",),
)
UNMEASURED = replace(
    REPORT,
    accuracy=Accuracy(),
    memory=Memory(2064, 1488),
    instructions=None,
    machine=None,
    warnings=(),
    notes=(),
    verification=Verification(Checked(500, 0), Skipped("no gcc"), Skipped("no qemu")),
)


@pytest.mark.parametrize("report", [REPORT, UNMEASURED])
def test_json_round_trip(report: Report) -> None:
    text = dump_json(to_document(report))
    assert from_document(Report, json.loads(text)) == report
    assert dump_json(to_document(from_document(Report, json.loads(text)))) == text


def test_json_has_the_promised_fields() -> None:
    document = to_document(REPORT)
    assert document["schema_version"] == 1
    assert next(iter(document)) == "schema_version"
    promised = {"name", "target", "input", "output", "accuracy", "memory", "instructions", "layers"}
    assert promised | {"verification", "tool_version", "model_sha256", "machine", "warnings", "notes"} <= set(
        document
    )
    assert document["input"] == {"shape": [8, 8, 1], "layout": "NHWC", "scale": 1 / 255, "zero_point": -128}
    assert document["accuracy"] == {"float": 99.4, "quantized": 99.2, "samples": 500}
    memory = {"weights_bytes": 2064, "arena_bytes": 1488, "code_bytes": 3258, "stack_bytes": 328}
    assert document["memory"] == memory
    assert document["layers"][0] == {
        "name": "conv",
        "op": "conv2d",
        "macs": 9216,
        "weight_bits": 2,
        "alphabet": "midrise-2",
        "weights_bytes": 192,
        "relative_error": 0.1909,
        "sparsity": 0.25,
        "accumulator_bits": 14,
        "instructions": 87196,
        "stripes": 1,
    }
    assert document["verification"]["qemu"] == {"samples": 64, "mismatches": 0}
    skipped = to_document(UNMEASURED)
    assert skipped["verification"]["qemu"] == {"skipped": "no qemu"}
    assert skipped["accuracy"] == {"float": None, "quantized": None, "samples": 0}


def changed(path: str, value: Any) -> Any:
    document = json.loads(dump_json(to_document(REPORT)))
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed("schema_version", 2), "schema_version is 2"),
        ([], "schema_version is None"),
        (changed("name", 3), "name: expected str"),
        (changed("layers", {}), "layers: expected a list"),
        (changed("layers.0.macs", "many"), "layers: macs: expected int"),
        (changed("layers.0.macs", True), "layers: macs: expected int"),
        (changed("memory", None), "memory: expected an object"),
        (changed("verification.host", {"samples": 1}), "mismatches is missing; skipped is missing"),
    ],
)
def test_documents_of_another_form_are_refused(document: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_document(Report, document, "some/report.json")
    assert message in caught.value.why
    assert caught.value.where == "some/report.json"


def test_not_a_number_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"value": float("nan")})


def test_text_begins_with_the_verdict() -> None:
    lines = render_text(REPORT).splitlines()
    verdict = "bit-exact: ONNX Runtime 500 samples, host C 500 samples, QEMU 64 samples"
    assert lines[0] == f"digits for cortex-m0plus: {verdict}"
    text = "\n".join(lines)
    for expected in (
        "99.40 % float, 99.20 % quantized (-0.20), 500 samples",
        "5,322 bytes = 2,064 weights + 3,258 code",
        "1,816 bytes = 1,488 arena + 328 stack",
        "225,782 per inference, QEMU mps2-an385 (armv6-m code)",
        "real = 0.00392157 * (q + 128)",
        "real = 0.1 * (q - 3)",
        "the code is new",
    ):
        assert expected in text
    assert max(map(len, lines)) <= 100


def test_text_says_what_was_not_measured() -> None:
    text = render_text(UNMEASURED)
    assert "bit-exact where it was checked" in text.splitlines()[0]
    assert "SKIPPED host C, QEMU" in text.splitlines()[0]
    assert "SKIPPED: no gcc" in text
    assert text.count("not measured") == 4


def test_a_mismatch_is_not_called_exact() -> None:
    wrong = Verification(Checked(500, 0), Checked(500, 7), Skipped("no qemu"))
    report = VerificationReport("digits", "host", wrong)
    first = render_verification(report).splitlines()[0]
    assert "NOT BIT-EXACT" in first
    assert "host C 7 bytes differ" in first
    assert 'class="verdict wrong"' in render_html(replace(REPORT, verification=wrong))


def test_nothing_ran_is_not_called_exact() -> None:
    none = Verification(*[Skipped("absent")] * 3)
    assert "NOT VERIFIED" in render_verification(VerificationReport("digits", "host", none)).splitlines()[0]


def test_inspection() -> None:
    layers = (
        InspectedLayer("conv", "conv2d", (16, 8, 8), 160, 9216),
        InspectedLayer("p", "clip", (2,), 0, 0),
    )
    report = InspectReport("net", "00" * 32, "", 20, (1, 8, 8), (10,), layers)
    text = render_inspection(report)
    assert text.splitlines()[0] == "net: supported, 160 parameters, 9,216 MACs"
    assert "16x8x8" in text
    assert from_document(InspectReport, json.loads(dump_json(to_document(report)))) == report


def test_hostile_names_do_nothing_to_a_terminal() -> None:
    hostile = replace(
        REPORT, layers=(replace(REPORT.layers[0], name=HOSTILE),), warnings=(HOSTILE,), notes=(HOSTILE,)
    )
    text = render_text(hostile)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "[red]" in text, "markup is shown, not obeyed"
    inspected = InspectReport(
        HOSTILE, "", HOSTILE, 20, (1,), (1,), (InspectedLayer(HOSTILE, "x", (1,), 0, 0),)
    )
    assert all(char.isprintable() or char == "\n" for char in render_inspection(inspected))


class Page(HTMLParser):
    """Collects the tags, their attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_self_contained_and_escapes() -> None:
    hostile = replace(
        REPORT, layers=(replace(REPORT.layers[0], name=HOSTILE),), warnings=(HOSTILE,), notes=(HOSTILE,)
    )
    page = Page(render_html(hostile))
    assert "script" not in page.tags
    assert page.links == []
    assert page.text.count("<script>alert(1)</script>") == 3
    assert "{{ 7 * 7 }}" in page.text, "text of a model is not a template"
    assert "url(" not in render_html(hostile)


@pytest.mark.parametrize("report", [REPORT, UNMEASURED])
def test_html_shows_what_the_report_holds(report: Report) -> None:
    page = Page(render_html(report))
    assert page.tags.count("tr") == 10 + 1 + len(report.layers), "summary, header and one row per layer"
    assert report.model_sha256 in page.text
    assert "None" not in page.text
    for layer in report.layers:
        assert layer.name in page.text
