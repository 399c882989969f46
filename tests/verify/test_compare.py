"""Comparison of outputs and the search for the first difference."""

from __future__ import annotations

import numpy as np

from deployq.verify.compare import count_mismatches, first_difference


def test_counts_bytes_and_sizes() -> None:
    a = np.zeros((3, 4), np.int8)
    b = a.copy()
    assert count_mismatches(a, b) == 0
    b[1, 2], b[2, 0] = 5, -1
    assert count_mismatches(a, b) == 2
    assert count_mismatches(a, b[:2]) == 12


def test_first_difference_is_that_of_the_first_layer() -> None:
    first, second = np.zeros((2, 3), np.int8), np.zeros((2, 2), np.int8)
    wrong_first, wrong_second = first.copy(), second.copy()
    wrong_second[0, 0] = 1
    wrong_first[1, 2] = -7
    found = first_difference(["a", "b"], [first, second], [wrong_first, wrong_second])
    assert found is not None
    assert (found.layer, found.sample, found.element, found.expected, found.found) == ("a", 1, 2, 0, -7)
    assert "layer 'a'" in str(found)
    assert first_difference(["a"], [first], [first.copy()]) is None
