"""Widths chosen by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployq.allocation.by_hand import chosen_by_hand, parse_layer_bits
from deployq.errors import UsageError
from deployq.passes import simplify
from tests.test_layerwise import residual_graph


def names(chosen: dict) -> dict[str, str]:  # type: ignore[type-arg]
    return {name: letters.name for name, letters in chosen.items()}


def test_entries_name_a_layer_and_a_width_or_an_alphabet() -> None:
    parsed = parse_layer_bits(("a=4", " b = ternary ", "x=y=1", "c=symmetric-3"))
    assert names(parsed) == {"a": "midrise-4", "b": "ternary", "x=y": "binary", "c": "symmetric-3"}


@pytest.mark.parametrize("entry", ("a", "=4", "a=", "a=9", "a=four", "a=midtread-9"))
def test_malformed_entries_are_refused(entry: str) -> None:
    with pytest.raises(UsageError):
        parse_layer_bits((entry,))


def test_two_widths_for_a_layer_are_refused() -> None:
    with pytest.raises(UsageError, match="two widths for layer 'a'"):
        parse_layer_bits(("a=4", "a=4"))


def test_first_and_last_are_the_outer_weighted_layers_and_names_win() -> None:
    graph = simplify(residual_graph(np.random.default_rng(0)))
    weighted = [node.name for node in graph.nodes if node.op.kind in ("conv2d", "linear")]
    chosen = chosen_by_hand(graph, "8", "4", ("fc=2",))
    assert names(chosen) == {weighted[0]: "symmetric-8", "fc": "midrise-2"}
    assert chosen_by_hand(graph) == {}


def test_an_unknown_layer_is_refused_with_near_names() -> None:
    graph = simplify(residual_graph(np.random.default_rng(0)))
    with pytest.raises(UsageError, match="no layer 'stm'") as error:
        chosen_by_hand(graph, layer_bits=("stm=4",))
    assert "stem" in error.value.hint
    with pytest.raises(UsageError, match="no layer 'pool'"):
        chosen_by_hand(graph, layer_bits=("pool=4",))


def test_a_layer_with_an_alphabet_of_its_own_is_neither_chosen_nor_first() -> None:
    graph = simplify(residual_graph(np.random.default_rng(0)))
    nodes = tuple(
        replace(node, op=replace(node.op, fixed_alphabet="symmetric-8")) if node.name == "stem" else node
        for node in graph.nodes
    )
    fixed = graph.with_nodes(nodes)
    assert "stem" not in chosen_by_hand(fixed, first="1")
    with pytest.raises(UsageError, match="alphabet of layer 'stem' is fixed"):
        chosen_by_hand(fixed, layer_bits=("stem=4",))
