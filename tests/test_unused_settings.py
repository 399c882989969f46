"""Settings that the method would ignore are refused."""

from __future__ import annotations

from typing import Any

import pytest

from deployq.config import BuildConfig
from deployq.errors import UsageError
from deployq.unused_settings import check_used


@pytest.mark.parametrize(
    "values",
    [
        {"sparsity": 0.5},
        {"directions": 3, "method": "gpfq"},
        {"spfq_alphabet": "infinite", "method": "gpfq"},
        {"threshold": "hard", "method": "msq"},
        {"percentile": 99.0},
        {"percentile": 99.0, "activation_range": "mse"},
    ],
    ids=str,
)
def test_settings_that_would_be_ignored(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="would be ignored"):
        check_used(BuildConfig(**values))


def test_settings_that_are_used() -> None:
    check_used(BuildConfig(method="sparse-gpfq", sparsity=0.5, threshold="hard"))
    check_used(BuildConfig(method="maly-saab", directions=3))
    check_used(BuildConfig(method="spfq", spfq_alphabet="infinite"))
    check_used(BuildConfig(activation_range="percentile", percentile=99.0))
    check_used(BuildConfig())
