"""Layers of sparse ternary weights drawn by hypothesis."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from deployq.graph import Graph
from tests.codegen.sparse_networks import conv_graph, linear_graph, random_levels

_SEEDS = st.integers(0, 2**32 - 1)
_ZERO_POINTS = st.sampled_from((-128, 0, 3, 127))


@dataclass(frozen=True)
class SparseLinear:
    """A fully connected layer of which about `density` of the weights are not zero."""

    inputs: int
    outputs: int
    density: float
    zero_point: int
    seed: int

    def graph(self) -> Graph:
        """The layer as an integer graph."""
        levels = random_levels(self.outputs, self.inputs, self.density, self.seed)
        return linear_graph(levels, self.zero_point, self.seed)


@dataclass(frozen=True)
class SparseConvolution:
    """A convolution with "same" padding of which about `density` of the weights are not zero."""

    group_inputs: int
    group_outputs: int
    groups: int
    size: tuple[int, int]
    kernel: int
    stride: int
    density: float
    zero_point: int
    seed: int

    def graph(self) -> Graph:
        """The layer as an integer graph."""
        rows, taps = self.groups * self.group_outputs, self.group_inputs * self.kernel**2
        levels = random_levels(rows, taps, self.density, self.seed)
        return conv_graph(levels, self.size, self.kernel, self.groups, self.zero_point, self.stride)


def sparse_linear_layers() -> st.SearchStrategy[SparseLinear]:
    """Layers sparse and large enough for lists of four or eight bits."""
    densities = st.sampled_from((0.0, 0.02, 0.05, 0.1, 0.15, 0.2))
    return st.builds(SparseLinear, st.integers(150, 900), st.integers(5, 17), densities, _ZERO_POINTS, _SEEDS)


def sparse_convolutions() -> st.SearchStrategy[SparseConvolution]:
    """Convolutions sparse and large enough for lists of four or eight bits."""
    return st.builds(
        SparseConvolution,
        group_inputs=st.sampled_from((17, 40, 70, 101)),
        group_outputs=st.integers(5, 13),
        groups=st.sampled_from((1, 1, 1, 2, 3)),
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        kernel=st.sampled_from((1, 3, 3, 5)),
        stride=st.sampled_from((1, 1, 2, 3)),
        density=st.sampled_from((0.0, 0.02, 0.05, 0.1, 0.15, 0.2)),
        zero_point=_ZERO_POINTS,
        seed=_SEEDS,
    )
