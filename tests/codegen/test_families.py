"""Drawn layers of every family of kernels against the reference, in QEMU."""

from __future__ import annotations

import pytest

from tests.codegen.batches import Family, check_family
from tests.codegen.families import FAMILIES


@pytest.mark.qemu
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_drawn_layers_are_exact(family: Family) -> None:
    check_family(family)
