"""Pools and additions drawn by hypothesis against the reference on the host, and what additions prove."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st

from deployq.arithmetic import INT32_MAX, AddRescale
from deployq.ops.add import IntegerAdd
from tests.codegen.batches import check_on_host, drawn
from tests.codegen.harness import PORTABLE
from tests.codegen.unweighted_layers import additions, average_pools, max_pools

_LAYERS = st.one_of(average_pools(), max_pools(), additions())


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "compiler"), [(0, "gcc"), (1, "gcc"), (2, "clang")])
def test_layers_are_exact_on_the_host(batch: int, compiler: str) -> None:
    check_on_host(drawn(_LAYERS, batch), PORTABLE, compiler)


def _largest_sum(call_parameters: dict[str, int]) -> int:
    """What the C code can reach, by its own parameters."""
    multipliers = call_parameters["multiplier_a"] + call_parameters["multiplier_b"]
    return 128 * multipliers + abs(call_parameters["rounding_bias"])


def test_the_zero_point_joins_the_bias_only_while_the_sum_fits() -> None:
    op = IntegerAdd(AddRescale((1 << 20, 1 << 19), 20), (0, 0), -128, -128, 127)
    folded = dict(op.kernel([(8,)]).parameters)
    assert folded["direct"] == 1
    assert folded["rounding_bias"] == (1 << 19) - (128 << 20)
    # The largest multiplier that still fits, and the next one.
    spare = (INT32_MAX - abs(folded["rounding_bias"])) // 128 - (1 << 19)
    for multiplier, direct in ((spare, 1), (spare + 1, 0)):
        call = replace(op, rescale=AddRescale((multiplier, 1 << 19), 20)).kernel([(8,)])
        assert call.parameters["direct"] == direct
        assert _largest_sum(dict(call.parameters)) <= INT32_MAX
    assert replace(op, high=126).kernel([(8,)]).parameters["direct"] == 0
