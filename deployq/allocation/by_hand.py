"""Widths chosen by hand: --bits for all layers, --first, --last, --layer-bits name=width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from deployq.allocation.trial import weighted_nodes
from deployq.alphabet import FAMILIES, Alphabet, alphabet, default_alphabet
from deployq.errors import UsageError
from deployq.graph import Graph

_NAMES_SHOWN = 5


def parse_layer_bits(entries: Sequence[str]) -> dict[str, Alphabet]:
    """Alphabets by layer name, from entries such as "conv1=4", "fc=ternary" or "fc=symmetric-3".

    Raises:
        UsageError: an entry is not of that form, or two concern one layer.
    """
    chosen: dict[str, Alphabet] = {}
    for entry in entries:
        name, separator, width = (part.strip() for part in entry.rpartition("="))
        if not (name and separator and width):
            raise UsageError(f"cannot read {entry!r}", where="--layer-bits", hint="NAME=WIDTH, e.g. conv1=4")
        if name in chosen:
            raise UsageError(f"two widths for layer {name!r}", where="--layer-bits")
        chosen[name] = parse_width(width, "--layer-bits")
    return chosen


def parse_width(width: str, option: str) -> Alphabet:
    """The alphabet of a width ("1".."8", "ternary") or of a name ("midtread-4").

    Args:
        width: what the user gave.
        option: for messages.

    Raises:
        UsageError: it is neither.
    """
    if width.startswith(FAMILIES):
        return alphabet(width)
    try:
        return default_alphabet(width)
    except UsageError as error:
        raise UsageError(error.what, where=option, hint=error.hint) from error


def chosen_by_hand(
    graph: Graph,
    first: str | None = None,
    last: str | None = None,
    layer_bits: Sequence[str] = (),
) -> dict[str, Alphabet]:
    """Alphabets of the layers a user chose by hand, by node name; the others have that of --bits.

    An entry of `layer_bits` wins over `first` and `last`. Layers that keep an alphabet of their own
    (what is left of a BatchNormalization) are neither first nor last.

    Args:
        graph: simplified float graph.
        first: width of the first layer with weights.
        last: width of the last one.
        layer_bits: see `parse_layer_bits`.

    Raises:
        UsageError: a width or entry is malformed, or there is no such layer.
    """
    by_name = parse_layer_bits(layer_bits)
    free = [node.name for node in weighted_nodes(graph) if not getattr(node.op, "fixed_alphabet", "")]
    _check_names(by_name, free, graph)
    chosen: dict[str, Alphabet] = {}
    if free and first is not None:
        chosen[free[0]] = parse_width(first, "--first")
    if free and last is not None:
        chosen[free[-1]] = parse_width(last, "--last")
    return chosen | by_name


def _check_names(chosen: Mapping[str, Alphabet], free: Sequence[str], graph: Graph) -> None:
    fixed = {node.name for node in weighted_nodes(graph)} - set(free)
    for name in chosen:
        if name in fixed:
            raise UsageError(
                f"the alphabet of layer {name!r} is fixed",
                where="--layer-bits",
                why="it stands for an affine operation, e.g. a BatchNormalization that could not be folded",
            )
        if name not in free:
            near = get_close_matches(name, free, n=_NAMES_SHOWN, cutoff=0.4) or free[:_NAMES_SHOWN]
            raise UsageError(
                f"there is no layer {name!r} with weights",
                where="--layer-bits",
                hint=f"{', '.join(near)}; `deployq inspect` lists all",
            )
