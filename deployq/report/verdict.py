"""The one-sentence result of a verification, the same in every rendering."""

from __future__ import annotations

from deployq.report.model import Checked, Report, Skipped, Verification


def is_exact(verification: Verification) -> bool:
    """No executor that ran differed in any byte."""
    return not any(isinstance(check, Checked) and check.mismatches for check in verification.checks.values())


def verdict(verification: Verification) -> str:
    """E.g. "bit-exact: ONNX Runtime 500/500, host C 500/500, QEMU 64/64 samples"."""
    checks = verification.checks
    ran = {name: check for name, check in checks.items() if isinstance(check, Checked)}
    skipped = [name for name, check in checks.items() if isinstance(check, Skipped)]
    parts = [
        f"{name} {check.mismatches} bytes differ" if check.mismatches else f"{name} {check.samples} samples"
        for name, check in ran.items()
    ]
    if not ran:
        state = "NOT VERIFIED"
    elif not is_exact(verification):
        state = "NOT BIT-EXACT"
    else:
        state = "bit-exact" if not skipped else "bit-exact where it was checked"
    if skipped:
        parts.append(f"SKIPPED {', '.join(skipped)}")
    return f"{state}: {', '.join(parts)}"


def accuracy_sentence(report: Report) -> str:
    """Float and quantized accuracy, or that they are unknown."""
    accuracy = report.accuracy
    if accuracy.float_ is None or accuracy.quantized is None:
        return "not measured (no evaluation data)"
    change = accuracy.quantized - accuracy.float_
    return (
        f"{accuracy.float_:.2f} % float, {accuracy.quantized:.2f} % quantized "
        f"({change:+.2f}), {accuracy.samples:,} samples"
    )


def weights_label(report: Report) -> str:
    """The alphabets of the network, e.g. "midrise-2"."""
    names = sorted({layer.alphabet for layer in report.layers if layer.alphabet})
    return ", ".join(names) or "no weights"
